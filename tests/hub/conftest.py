"""A Hub of our own, and small finished runs to publish on it."""

from __future__ import annotations

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

MODELS = {
    "speech": (),
    "spectrogram": ("--model.name=timm/test_resnet", "--model.pretrained=false"),
    "mfcc-cnn": ("--model.config_overrides={channels: [8, 8]}",),
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty Hub, which this process's client speaks to as someone who may write, and never waits for."""
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    with Hub().serving() as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", served.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(_http, "time", SimpleNamespace(**vars(time) | {"sleep": lambda _: None}))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        _http.close_session()
        yield served
        _http.close_session()


def recipe(kind: str, table: Path, backbone: Path, out: Path) -> list[str]:
    chosen = MODELS[kind] or (f"--model.name={backbone}",)
    small = ["--split.kind=kfold", "--split.folds=2", "--train.epochs=2", "--train.batch_size=4"]
    return [f"--data.prepared={table}", f"--out={out}", *small, "--baselines=[majority]", *chosen]


@pytest.fixture(scope="session")
def make_run(miniature_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], RunFolder]:
    """Return a finished run on synthetic voices: speech, spectrogram or mfcc-cnn. To be read, never changed."""
    home = tmp_path_factory.mktemp("hub-runs")
    made: dict[str, RunFolder] = {}

    def make(kind: str) -> RunFolder:
        if kind not in made:
            backbone = home / "backbone" / "tiny"
            if kind == "speech":
                write_tiny_backbone("wav2vec2", backbone)
            made[kind] = run(parse(recipe(kind, miniature_folder, backbone, home / kind), "test"), verbose=False)
        return made[kind]

    return _sooner(make)


def _sooner(make: Callable[[str], RunFolder]) -> Callable[[str], RunFolder]:
    """Make runs that are over sooner, with pictures of one pixel, each of its own colour."""
    from PIL import Image

    def blank(_: object, file: Path, colours: int | None = None) -> Path:
        Image.new("RGB", (1, 1), tuple(sum(file.stem.encode()).to_bytes(3, "big"))).save(file)
        return file

    def patched(kind: str) -> RunFolder:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ser_ft.report.run.figures.save_figure", blank)
            patch.setattr("ser_ft.evaluation.latency.NUM_CLIPS", 2)
            return make(kind)

    return patched
