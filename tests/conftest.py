"""What all tests share: caches of their own, no network, a small miniature, and real recordings where they are."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Before `datasets` is imported, which reads these once.
_CACHES = tempfile.mkdtemp(prefix="ser_ft-tests-")
atexit.register(shutil.rmtree, _CACHES, ignore_errors=True)
# Tiny models run many times faster on one thread than on two that wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_HOME": f"{_CACHES}/huggingface",
    "HF_DATASETS_CACHE": f"{_CACHES}/datasets",
    "SER_FT_CACHE": f"{_CACHES}/ser_ft",
}

import datasets  # noqa: E402
import pytest  # noqa: E402

from ser_ft.data.prepare import open_prepared, prepare  # noqa: E402
from ser_ft.data.synthetic.corpora import write_miniature  # noqa: E402


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real recordings: SER_FT_SHARED_DATA, or shared/data beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SER_FT_SHARED_DATA", beside))
    if not (folder / "manifests").is_dir():
        pytest.skip(f"no recordings at {folder} (SER_FT_SHARED_DATA names another folder)")
    return folder


@pytest.fixture(scope="session")
def miniature_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic voices: the first two speakers of each of the four corpora. To be read, never changed."""
    return write_miniature(tmp_path_factory.mktemp("miniature") / "voices", progress=False, speakers=2)


@pytest.fixture(scope="session")
def miniature_folder(miniature_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the miniature's prepared table. To be read, never changed."""
    folder = tmp_path_factory.mktemp("prepared") / "miniature"
    prepare(miniature_tree, folder, verbose=False)
    return folder


@pytest.fixture(scope="session")
def miniature_table(miniature_folder: Path) -> datasets.Dataset:
    return open_prepared(miniature_folder)


@pytest.fixture(scope="module")
def undrawn_reports() -> Iterator[None]:
    """Runs that are over sooner: empty pictures, which tests/report looks at, and the speed of two clips measured."""
    from PIL import Image

    def blank(_: object, file: Path, colours: int | None = None) -> Path:
        Image.new("RGB", (1, 1)).save(file)
        return file

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ser_ft.report.run.figures.save", blank)
        patch.setattr("ser_ft.training.run.SPEED_CLIPS", 2)
        yield
