"""Fixtures and settings of all tests: caches of their own, no network, synthetic voices, recordings if available."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

# The workers of pytest-xdist inherit this variable, so that all of them use the caches of one test run.
if "SER_FT_TEST_CACHES" not in os.environ:
    os.environ["SER_FT_TEST_CACHES"] = tempfile.mkdtemp(prefix="ser_ft-tests-")
    atexit.register(shutil.rmtree, os.environ["SER_FT_TEST_CACHES"], ignore_errors=True)
CACHES = Path(os.environ["SER_FT_TEST_CACHES"])
# Tiny models run many times faster on one thread than on two that wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# `datasets` reads these variables when it is imported.
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_HOME": f"{CACHES}/huggingface",
    "HF_DATASETS_CACHE": f"{CACHES}/datasets",
    "SER_FT_CACHE": f"{CACHES}/ser_ft",
}

import datasets  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import soundfile  # noqa: E402
from filelock import FileLock  # noqa: E402

from ser_ft import audio  # noqa: E402
from ser_ft.data.prepare import open_prepared, prepare  # noqa: E402
from ser_ft.data.synthetic.corpora import write_miniature  # noqa: E402


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real recordings: SER_FT_SHARED_DATA, or shared/data next to the checkout."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SER_FT_SHARED_DATA", default))
    if not (folder / "manifests").is_dir():
        pytest.skip(f"no recordings at {folder} (SER_FT_SHARED_DATA names another folder)")
    return folder


@pytest.fixture(scope="session", autouse=True)
def fast_writes() -> Iterator[None]:
    """Write files without waiting for the disk, which takes 5 ms for each of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ser_ft.utils.atomic._sync", lambda _: None)
        yield


@pytest.fixture(scope="session")
def miniature_tree() -> Path:
    """Synthetic voices of the first two speakers of each corpus, made once per test run. Read-only."""
    with FileLock(CACHES / "miniature.lock"):
        return write_miniature(CACHES / "miniature", progress=False, speakers=2)


@pytest.fixture(scope="session")
def miniature_folder(miniature_tree: Path) -> Path:
    """The prepared table of `miniature_tree`, made once per test run. Read-only."""
    folder = CACHES / "prepared"
    with FileLock(CACHES / "prepared.lock"):
        if not folder.exists():
            prepare(miniature_tree, folder, verbose=False)
    return folder


@pytest.fixture(scope="session")
def miniature_table(miniature_folder: Path) -> datasets.Dataset:
    return open_prepared(miniature_folder)


@pytest.fixture(scope="module", autouse=True)
def fast_reports(request: pytest.FixtureRequest) -> Iterator[None]:
    """Write pixels of different colors as figures, which tests/report checks, and measure the speed of two clips."""
    if not {"training", "recipes", "dataloading", "evaluation", "config", "hub", "models"} & set(request.path.parts):
        yield
        return
    from PIL import Image

    def save_pixel(_: object, file: Path, *__: object) -> Path:
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (1, 1), tuple(sum(file.stem.encode()).to_bytes(3, "big"))).save(file)
        return file

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ser_ft.report.run.figures.save_figure", save_pixel)
        patch.setattr("ser_ft.evaluation.latency.NUM_CLIPS", 2)
        yield


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Returns the folder of a tiny encoder by its family. Read-only."""
    from tests.helpers.tiny_encoders import write_tiny_backbone

    folder = tmp_path_factory.mktemp("backbones")

    def get(family: str) -> Path:
        return folder / family if (folder / family).exists() else write_tiny_backbone(family, folder / family)

    return get


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a model only: a small plain-cnn whose predictions differ from clip to clip."""
    import torch

    from ser_ft.models.registry import build_model

    folder = tmp_path_factory.mktemp("runs") / "tiny"
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(3)
        extractor, model = build_model("plain-cnn", ("neutral", "happy", "sad", "angry"), {}, {"channels": [16, 16]})
        model.classifier.weight.mul_(8)
        clips = torch.randn(8, 16_000) * torch.linspace(0.002, 0.1, 8)[:, None]
        frames, _ = extractor.extract(clips, torch.tensor([16_000] * 8))
        extractor.mean = frames.mean(dim=(0, 1)).tolist()
        extractor.scale = (frames.std(dim=(0, 1)) + 1e-3).tolist()
    model.config.uncertain_below = 0.3
    model.save_pretrained(folder / "model")
    extractor.save_pretrained(folder / "model")
    return folder


@pytest.fixture(scope="session")
def tiny_onnx(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as an .onnx file."""
    from ser_ft.export.onnx import write_onnx
    from ser_ft.inference.backends import ModelInfo
    from ser_ft.models.pretrained import PretrainedClassifier

    file = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    saved = PretrainedClassifier.load(str(tiny_run / "model"))
    write_onnx(saved, file, ModelInfo(saved.display_name, saved.classes, saved.threshold, saved.min_samples))
    return file


@pytest.fixture(scope="session")
def voices(miniature_tree: Path) -> list[np.ndarray]:
    """A dozen synthetic voices at 16 kHz, no two of one length. To be read, never changed."""
    files = sorted(miniature_tree.rglob("*.wav"))
    whole = [audio.decode(file) for file in files[:: len(files) // 12][:12]]
    return [voice[: len(voice) - 160 * place] for place, voice in enumerate(whole)]


@pytest.fixture
def tree(voices: list[np.ndarray], tmp_path: Path) -> Path:
    """A folder of WAV files and of folders of them."""
    top = tmp_path / "recordings"
    for place, voice in enumerate(voices[:6]):
        folder = top if place < 2 else top / f"actor {place // 3}"
        folder.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / f"clip {place}.wav", voice, audio.SAMPLE_RATE)
    return top
