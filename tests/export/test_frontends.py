"""The features inside an ONNX file equal those of the extractor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import SpeechT5FeatureExtractor

from ser_ft.export.encoder_frontends import make_frontend
from ser_ft.export.spectral_frontend import SpectralFrontend
from ser_ft.models.collation import collate_waveforms
from ser_ft.models.descriptors import DESCRIPTORS
from ser_ft.models.encoder_spec import find_encoder
from ser_ft.models.encoders import EncoderParts, load_encoder
from ser_ft.models.features import SpectralFeatureExtractor
from ser_ft.utils.errors import InputError
from tests.helpers.tiny_encoders import write_tiny_backbone

SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"hop_length": 256, "n_mfcc": 13},
    {"win_length": 400, "hop_length": 160, "n_fft": 512},
    {"win_length": 301, "hop_length": 100, "n_fft": 400},
    {"win_length": 256, "hop_length": 300},
    {"mel_scale": "htk", "power": 1.0, "log_offset": 1e-6, "n_mels": 64, "f_min": 50.0, "f_max": 7000.0},
)
SMALL = {"descriptors": ("mfcc", "mfcc-delta", "rms"), "hop_length": 200}


def computed(graph: torch.nn.Module, *clips: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return graph(torch.from_numpy(np.stack(clips))).numpy()


def assert_close(actual: np.ndarray, expected: np.ndarray) -> None:
    """Within 1e-4 of the standard deviation of each feature."""
    assert actual.shape == expected.shape
    spread = expected.std(axis=(0, 1)) + 1e-3
    assert (np.abs(actual - expected) / spread).max() < 1e-4


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: " ".join(settings) or "defaults")
def test_every_descriptor_equals_that_of_the_extractor(settings: dict[str, Any], voices: list[np.ndarray]) -> None:
    names = tuple(name for name in DESCRIPTORS if name != "rolloff")
    extractor, rolloff = (SpectralFeatureExtractor(descriptors, **settings) for descriptors in (names, ["rolloff"]))
    graph, bins = SpectralFrontend(extractor), SpectralFrontend(rolloff)
    for voice in voices[:4]:
        assert_close(computed(graph, voice), extractor(voice)["input_features"])
        # The roll-off is a bin number, which rarely differs by one.
        difference = np.abs(computed(bins, voice) - rolloff(voice)["input_features"])
        assert difference.max() < 1.01 * 16_000 / rolloff.frontend.n_fft
        assert (difference > 1).mean() < 0.02


@pytest.mark.parametrize("samples", [512, 1599, 1600, 1601, 4000, 20_001])
def test_frames_are_equal_at_any_length(samples: int, voices: list[np.ndarray]) -> None:
    extractor = SpectralFeatureExtractor(("zcr", "energy", "energy-entropy", "flux", "log-mel"), hop_length=160)
    clip = voices[0][5000 : 5000 + samples] if samples < 5000 else np.resize(voices[0], samples)
    assert np.abs(computed(SpectralFrontend(extractor), clip) - extractor(clip)["input_features"]).max() < 2e-4


def test_silence_and_full_scale_give_the_same_features() -> None:
    """No division by zero, and no logarithm of zero."""
    extractor = SpectralFeatureExtractor(tuple(DESCRIPTORS))
    square = np.sign(np.sin(2 * np.pi * 200 * np.arange(8000) / 16_000)).astype(np.float32)
    for clip in (np.zeros(8000, np.float32), square):
        actual, expected = computed(SpectralFrontend(extractor), clip), extractor(clip)["input_features"]
        np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("frames", [None, 60, 61, 1000])
@pytest.mark.parametrize("kind", ["none", "clip-mean", "clip", "speaker", "training"])
def test_normalization_and_cropping_equal_those_of_a_single_clip(
    kind: str, frames: int | None, voices: list[np.ndarray]
) -> None:
    """Also in a batch: a clip's features must not depend on other clips."""
    extractor = SpectralFeatureExtractor(normalize=kind, max_frames=frames, **SMALL)
    if kind == "training":
        width = extractor.feature_size
        extractor.mean, extractor.scale = np.linspace(-9, 9, width).tolist(), np.linspace(1, 5, width).tolist()
    graph = SpectralFrontend(extractor)
    length = min(map(len, voices))
    clips = [voice[:length] for voice in voices]
    batch = computed(graph, *clips)
    for clip, actual in zip(clips, batch, strict=True):
        np.testing.assert_allclose(actual[None], extractor(clip)["input_features"], atol=1e-3, rtol=1e-4)
        np.testing.assert_allclose(actual, computed(graph, clip)[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("family", "tolerance"),
    [
        ("wav2vec2", 1e-5),
        ("wavlm", 0),
        ("sew", 1e-5),
        ("whisper", 1e-4),
        ("fixed whisper", 1e-4),
        ("ast", 2e-4),
        ("wav2vec2-bert", 2e-3),
    ],
)
def test_inputs_of_speech_encoders_are_equal(
    family: str, tolerance: float, voices: list[np.ndarray], tmp_path: Path
) -> None:
    """For odd and even numbers of frames, and for clips below and above a fixed length."""
    fixed, _, family = family.rpartition(" ")
    encoder = find_encoder(str(write_tiny_backbone(family, tmp_path)), ("happy", "sad"))
    extractor, input_spec = encoder.extractor, EncoderParts.of(load_encoder(encoder)).input_spec
    if fixed:  # a classifier that others fine-tuned
        extractor, input_spec = encoder.saved.extractor, replace(input_spec, kind="fixed_length")
    graph = make_frontend(extractor, input_spec.kind == "log_mel")
    for length in (1600, 8000, 8160, 24_321, 90_000, *((479_900, 500_000) if input_spec.kind == "log_mel" else ())):
        clip = np.resize(voices[0], length)
        inputs = collate_waveforms([clip], extractor, input_spec, pad_batch=False)
        expected = next(iter(inputs.values()))
        if input_spec.kind == "frames":
            expected = expected[:, : int(inputs["attention_mask"].sum())]
        actual = computed(graph, clip)
        assert actual.shape == tuple(expected.shape)
        assert np.abs(actual - expected.numpy()).max() <= tolerance


def test_unfitted_and_unsupported_extractors_are_refused() -> None:
    with pytest.raises(ValueError, match="needs mean and scale"):
        SpectralFrontend(SpectralFeatureExtractor(normalize="training"))
    with pytest.raises(InputError, match="a SpeechT5FeatureExtractor cannot be exported: only Spectral"):
        make_frontend(SpeechT5FeatureExtractor())
