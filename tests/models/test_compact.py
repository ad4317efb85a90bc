"""compact-cnn measures a clip by its own speech: level, microphone and silence around it change little."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from ser_ft import audio
from ser_ft.data.synthetic.corpora import miniature_clips, synthesize_clip
from ser_ft.models.features import SpectralFeatureExtractor
from ser_ft.models.registry import build_model

CLASSES = ("neutral", "happy", "sad", "angry")
RATE = 16_000


def said(place: int) -> np.ndarray:
    return audio.resample(*synthesize_clip(miniature_clips(1)[place]))


@pytest.fixture(scope="module")
def voice() -> np.ndarray:
    return said(0)


@pytest.fixture(scope="module")
def made() -> tuple[SpectralFeatureExtractor, PreTrainedModel]:
    torch.manual_seed(0)
    extractor, model = build_model("compact-cnn", CLASSES, {}, {"channels": 32, "num_blocks": 3})
    return extractor, model.eval()


def heard(made: tuple[SpectralFeatureExtractor, Any], sound: np.ndarray) -> torch.Tensor:
    """What the last layer is given of a sound."""
    extractor, model = made
    with torch.inference_mode():
        return model.encode(extractor(sound.astype(np.float32), return_tensors="pt")["input_features"], None)[0]


def apart(made: tuple[SpectralFeatureExtractor, Any], one: np.ndarray, other: np.ndarray) -> float:
    first, second = heard(made, one), heard(made, other)
    return float((first - second).norm() / first.norm())


def test_a_gain_changes_nothing(made: Any, voice: np.ndarray) -> None:
    for gain in (0.03, 0.3, 3.0):
        assert apart(made, voice, gain * voice) < 1e-3


def test_silence_around_the_speech_changes_little(made: Any, voice: np.ndarray) -> None:
    # As long as a few steps of the last, slowest layer.
    hush = np.random.default_rng(0).normal(scale=1e-4, size=round(1.28 * RATE))
    framed = np.concatenate([hush, voice, hush])
    other = np.roll(voice, len(voice) // 2) * np.linspace(0.2, 1, len(voice))
    assert apart(made, voice, framed) < 0.05 < apart(made, voice, other)


def test_a_filter_in_the_path_changes_levels_less_than_speech_does(made: Any, voice: np.ndarray) -> None:
    extractor, model = made

    def levels(sound: np.ndarray) -> torch.Tensor:
        return model.normalize_levels(extractor(sound.astype(np.float32), return_tensors="pt")["input_features"], None)[
            0
        ]

    plain, dull = levels(voice), levels(np.convolve(voice, [0.85, 0.15])[: len(voice)])
    assert float((plain - dull).abs().mean()) < 0.15 * float(plain.std())


def test_digital_silence_is_answered_with_numbers(made: Any) -> None:
    assert torch.isfinite(heard(made, np.zeros(RATE))).all()


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("dynamic_range_db", 0.0, "above 0 dB"),
        ("squeeze_reduction", 400, "at most channels"),
        ("kernel_size", 4, "odd"),
    ],
)
def test_wrong_settings_are_named(setting: str, value: float, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        build_model("compact-cnn", CLASSES, {}, {setting: value})
