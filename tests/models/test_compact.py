"""compact-cnn normalizes a clip by its own speech: level, microphone and silence have little effect."""

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


def synthetic_clip(number: int) -> np.ndarray:
    return audio.resample(*synthesize_clip(miniature_clips(1)[number]))


@pytest.fixture(scope="module")
def voice() -> np.ndarray:
    return synthetic_clip(0)


@pytest.fixture(scope="module")
def compact() -> tuple[SpectralFeatureExtractor, PreTrainedModel]:
    torch.manual_seed(0)
    extractor, model = build_model("compact-cnn", CLASSES, {}, {"channels": 32, "num_blocks": 3})
    return extractor, model.eval()


def encode(compact: tuple[SpectralFeatureExtractor, Any], sound: np.ndarray) -> torch.Tensor:
    """The vector of a clip before the last layer."""
    extractor, model = compact
    with torch.inference_mode():
        return model.encode(extractor(sound.astype(np.float32), return_tensors="pt")["input_features"], None)[0]


def relative_difference(
    compact: tuple[SpectralFeatureExtractor, Any], first_clip: np.ndarray, second_clip: np.ndarray
) -> float:
    first_vector, second_vector = encode(compact, first_clip), encode(compact, second_clip)
    return float((first_vector - second_vector).norm() / first_vector.norm())


def test_a_gain_changes_nothing(compact: Any, voice: np.ndarray) -> None:
    for gain in (0.03, 0.3, 3.0):
        assert relative_difference(compact, voice, gain * voice) < 1e-3


def test_silence_around_the_speech_changes_little(compact: Any, voice: np.ndarray) -> None:
    # As long as a few steps of the last, slowest layer.
    silence = np.random.default_rng(0).normal(scale=1e-4, size=round(1.28 * RATE))
    padded = np.concatenate([silence, voice, silence])
    second_clip = np.roll(voice, len(voice) // 2) * np.linspace(0.2, 1, len(voice))
    assert relative_difference(compact, voice, padded) < 0.05 < relative_difference(compact, voice, second_clip)


def test_a_filter_changes_levels_less_than_speech_does(compact: Any, voice: np.ndarray) -> None:
    extractor, model = compact

    def levels(sound: np.ndarray) -> torch.Tensor:
        return model.normalize_levels(extractor(sound.astype(np.float32), return_tensors="pt")["input_features"], None)[
            0
        ]

    original, filtered = levels(voice), levels(np.convolve(voice, [0.85, 0.15])[: len(voice)])
    assert float((original - filtered).abs().mean()) < 0.15 * float(original.std())


def test_digital_silence_has_a_finite_output(compact: Any) -> None:
    assert torch.isfinite(encode(compact, np.zeros(RATE))).all()


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("dynamic_range_db", 0.0, "above 0 dB"),
        ("squeeze_reduction", 400, "at most channels"),
        ("kernel_size", 4, "odd"),
    ],
)
def test_wrong_settings_are_refused(setting: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_model("compact-cnn", CLASSES, {}, {setting: value})
