"""Engines: a clip's answer is its own, whatever computes it and whatever is beside it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import pipeline

from ser_ft.inference.backends import Backend, open_backend
from ser_ft.inference.backends.onnx import OnnxBackend
from ser_ft.models import MODELS, SHIPPED
from ser_ft.models.encoders import find_encoder, load_encoder
from ser_ft.models.registry import build_model
from tests.helpers.tiny_encoders import FAMILIES, write_tiny_backbone

CLASSES = ("neutral", "happy", "sad")
RATE = 16_000


def noise(clips: int, samples: int) -> np.ndarray:
    levels = np.geomspace(0.002, 0.2, clips)[:, None]
    return (np.random.default_rng(samples).normal(size=(clips, samples)) * levels).astype(np.float32)


@pytest.fixture(scope="module", params=FAMILIES)
def classifier(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny classifier of a family, fine-tuned as far as its random head goes."""
    family = str(request.param)
    folder = tmp_path_factory.mktemp("families")
    backbone = write_tiny_backbone(family, folder / "backbone")
    torch.manual_seed(0)
    found = find_encoder(str(backbone), CLASSES)
    model = load_encoder(found)
    model.save_pretrained(folder / "classifier")
    found.extractor.save_pretrained(folder / "classifier")
    return folder / "classifier"


def check(engine: Backend, samples: int) -> np.ndarray:
    """Check that clips are answered alone as together; return the answers."""
    clips = noise(5, samples)
    together = engine.probabilities(clips)
    alone = np.concatenate([engine.probabilities(clip[None]) for clip in clips])
    assert together.dtype == np.float64
    assert together.shape == (5, len(CLASSES))
    assert np.abs(together.sum(axis=1) - 1).max() < 1e-6
    assert np.abs(together - alone).max() < 1e-5
    return together


def family_of(folder: Path) -> str:
    return str(json.loads((folder / "config.json").read_text())["model_type"])


def test_speech_encoders_answer_alone_as_together(classifier: Path) -> None:
    engine = open_backend(classifier)
    answers = check(engine, 20_000)
    assert np.ptp(answers, axis=0).max() > 1e-3
    stock = pipeline("audio-classification", model=str(classifier), top_k=None)
    for clip, answer in zip(noise(5, 20_000), answers, strict=True):
        wanted = {each["label"]: each["score"] for each in stock({"raw": clip, "sampling_rate": RATE})}
        assert dict(zip(CLASSES, answer.tolist(), strict=True)) == pytest.approx(wanted, abs=1e-5)


def test_speech_encoders_answer_the_shortest_clips(classifier: Path) -> None:
    engine = open_backend(classifier)
    # Tiny Whisper and AST hear the first 4 s of any clip, which is then cut for them.
    assert engine.info.max_seconds == (
        4.0 if family_of(classifier) in ("whisper", "audio-spectrogram-transformer") else None
    )
    for samples in (100, engine.info.min_samples, 1_600):
        assert np.isfinite(check(engine, samples)).all()


@pytest.mark.parametrize("normalize", ["speaker", "clip"])
@pytest.mark.parametrize("name", MODELS)
def test_own_networks_answer_alone_as_together(name: str, normalize: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    features = {} if name == "compact-cnn" else {"normalize": normalize}
    extractor, model = build_model(name, CLASSES, features, {})
    for each in (extractor, model):
        each.save_pretrained(tmp_path)
    engine = open_backend(tmp_path)
    for samples in (50, 1_600, 12_345):
        assert np.isfinite(check(engine, samples)).all()


def test_what_a_model_says_of_itself(tiny_run: Path) -> None:
    facts = open_backend(tiny_run).info
    assert facts.name == "tiny"
    assert facts.classes == ("neutral", "happy", "sad", "angry")
    assert facts.threshold == 0.3


def test_the_model_that_ships_has_one_name() -> None:
    named = open_backend(SHIPPED, threads=1)
    assert isinstance(named, OnnxBackend)
    assert named.info == open_backend(threads=1).info


def test_threads_are_as_asked(tiny_run: Path) -> None:
    before = torch.get_num_threads()
    try:
        open_backend(tiny_run, threads=2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
