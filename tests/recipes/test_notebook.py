"""The notebook runs from top to bottom, offline."""

from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "recipes" / "quickstart.ipynb"


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient: pip install -e .[test]")
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.replace("epochs=10", "max_steps=1")
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    output = "".join(entry.get("text", "") for cell in notebook.cells for entry in cell.get("outputs", []))
    assert "synthetic voices" in output
    assert (tmp_path / "runs" / "notebook" / "report.html").is_file()
