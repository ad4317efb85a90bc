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
        cell.source = cell.source.replace("epochs=25", "epochs=2")
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "synthetic voices" in said
    assert (tmp_path / "runs" / "notebook" / "report.html").is_file()
