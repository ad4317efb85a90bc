"""A local Hub, and small finished runs to publish on it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from ser_ft.config.parser import parse
from ser_ft.evaluation.run_folder import RunFolder
from ser_ft.pipeline import run
from tests.helpers.hub_server import TOKEN, Hub
from tests.helpers.tiny_encoders import write_tiny_backbone

ENCODERS = {"speech": "wav2vec2", "whisper": "whisper"}
MODELS = {
    "spectrogram": ("--model.name=timm/test_resnet", "--model.pretrained=false"),
    "mfcc-cnn": ("--model.config_overrides={channels: [8, 8]}",),
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty Hub, to which this process's client may write without waiting between retries."""
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    with Hub().serving() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(_http, "time", SimpleNamespace(**vars(time) | {"sleep": lambda _: None}))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        _http.close_session()
        yield server
        _http.close_session()


@pytest.fixture(scope="session")
def make_run(miniature_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], RunFolder]:
    """Return a finished run on synthetic voices, of one of `ENCODERS` or `MODELS`. Tests must not change it."""
    folder = tmp_path_factory.mktemp("hub-runs")
    runs: dict[str, RunFolder] = {}

    def make(kind: str) -> RunFolder:
        if kind not in runs:
            if kind in ENCODERS:
                backbone = write_tiny_backbone(ENCODERS[kind], folder / f"{kind}-backbone" / "tiny")
                model: tuple[str, ...] = (f"--model.name={backbone}",)
            else:
                model = MODELS[kind]
            settings = ["--split.kind=kfold", "--split.folds=2", "--train.max_steps=1", "--baselines=[]", *model]
            recipe = parse([f"--data.prepared={miniature_folder}", f"--out={folder / kind}", *settings], "test")
            runs[kind] = run(recipe, verbose=False)
        return runs[kind]

    return make


@pytest.fixture
def finished_run(make_run: Callable[[str], RunFolder]) -> RunFolder:
    """A finished run of mfcc-cnn. Tests must not change it."""
    return make_run("mfcc-cnn")


@pytest.fixture
def run_copy(finished_run: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy of a finished run that a test may change."""
    return RunFolder(
        shutil.copytree(finished_run.path, tmp_path / "copy", ignore=shutil.ignore_patterns("checkpoints"))
    )
