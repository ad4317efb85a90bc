from pathlib import Path

import pytest

from ser_ft.data.prepare import prepare


@pytest.fixture(scope="session")
def ravdess_table(miniature_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prepared table of RAVDESS's two synthetic speakers: 60 clips, half of them for training. Read-only."""
    folder = tmp_path_factory.mktemp("ravdess") / "table"
    prepare(miniature_tree / "RAVDESS", folder, verbose=False)
    return folder
