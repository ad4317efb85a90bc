"""Backends: the prediction for a clip does not depend on the backend or on other clips."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import pipeline

from ser_ft.inference.backends import Backend, open_backend
from ser_ft.inference.backends.onnx import OnnxBackend
from ser_ft.models import MODELS, SHIPPED_MODELS
from ser_ft.models.encoder_spec import find_encoder
from ser_ft.models.encoders import load_encoder
from ser_ft.models.registry import build_model
from tests.helpers.tiny_encoders import FAMILIES, write_tiny_backbone

CLASSES = ("neutral", "happy", "sad")
RATE = 16_000


def noise(clips: int, samples: int) -> np.ndarray:
    levels = np.geomspace(0.002, 0.2, clips)[:, None]
    return (np.random.default_rng(samples).normal(size=(clips, samples)) * levels).astype(np.float32)


@pytest.fixture(scope="module", params=FAMILIES)
def classifier(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny classifier of each family, with a random head."""
    family = str(request.param)
    folder = tmp_path_factory.mktemp("families")
    backbone = write_tiny_backbone(family, folder / "backbone")
    torch.manual_seed(0)
    encoder = find_encoder(str(backbone), CLASSES)
    model = load_encoder(encoder)
    model.save_pretrained(folder / "classifier")
    encoder.extractor.save_pretrained(folder / "classifier")
    return folder / "classifier"


def check(backend: Backend, samples: int) -> np.ndarray:
    """Check that clips get the same probabilities alone and in a batch; return them."""
    clips = noise(5, samples)
    batch = backend.probabilities(clips)
    single = np.concatenate([backend.probabilities(clip[None]) for clip in clips])
    assert batch.dtype == np.float64
    assert batch.shape == (5, len(CLASSES))
    assert np.abs(batch.sum(axis=1) - 1).max() < 1e-6
    assert np.abs(batch - single).max() < 1e-5
    return batch


def test_speech_encoders_predict_a_clip_of_any_length_the_same_alone_and_in_a_batch(classifier: Path) -> None:
    backend = open_backend(classifier)
    batch = check(backend, 20_000)
    assert np.ptp(batch, axis=0).max() > 1e-3
    stock = pipeline("audio-classification", model=str(classifier), top_k=None)
    for clip, probabilities in zip(noise(5, 20_000), batch, strict=True):
        expected = {part["label"]: part["score"] for part in stock({"raw": clip, "sampling_rate": RATE})}
        assert dict(zip(CLASSES, probabilities.tolist(), strict=True)) == pytest.approx(expected, abs=1e-5)
    # Whisper uses the first 30 s of a clip, and tiny AST the first 4 s.
    config = json.loads((classifier / "config.json").read_text())
    family = config.get("encoder", config)["model_type"]
    assert backend.info.max_seconds == {"whisper": 30.0, "audio-spectrogram-transformer": 4.0}.get(family)
    for samples in (100, backend.info.min_samples, 1_600):
        assert np.isfinite(check(backend, samples)).all()


@pytest.mark.parametrize("normalize", ["speaker", "clip"])
@pytest.mark.parametrize("name", MODELS)
def test_own_networks_predict_a_clip_the_same_alone_and_in_a_batch(name: str, normalize: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    features = {} if name == "compact-cnn" else {"normalize": normalize}
    extractor, model = build_model(name, CLASSES, features, {})
    for part in (extractor, model):
        part.save_pretrained(tmp_path)
    backend = open_backend(tmp_path)
    for samples in (50, 1_600, 12_345):
        assert np.isfinite(check(backend, samples)).all()


def test_shipped_is_the_default_model() -> None:
    named, small = (open_backend(name, threads=1) for name in SHIPPED_MODELS)
    assert isinstance(named, OnnxBackend)
    assert named.info == open_backend(threads=1).info
    assert isinstance(small, OnnxBackend)
    assert small.info.name == "small"


def test_the_number_of_threads_is_set(tiny_run: Path) -> None:
    before = torch.get_num_threads()
    try:
        open_backend(tiny_run, threads=2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
