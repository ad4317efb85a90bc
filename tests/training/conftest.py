from pathlib import Path

import pytest

from ser_ft.data.miniature import write_miniature
from ser_ft.data.prepare import prepare


@pytest.fixture(scope="session")
def small_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared table of synthetic voices: four corpora, eight speakers."""
    folder = tmp_path_factory.mktemp("small")
    roots = write_miniature(folder / "voices", speakers=2, progress=False)
    prepare(roots, folder / "table", verbose=False)
    return folder / "table"
