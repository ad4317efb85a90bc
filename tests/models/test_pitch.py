"""Pitch by YIN, on sounds whose pitch is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.signal import lfilter

from ser_ft.models.pitch import Pitch, yin

RATE = 16_000
VOWELS = {"a": (730, 1090, 2440), "i": (270, 2290, 3010), "u": (300, 870, 2240)}  # formants, in Hz


def pitch(samples: np.ndarray, **settings: float) -> np.ndarray:
    """The pitch of each frame of a clip, in Hz."""
    waveform = torch.from_numpy(np.asarray(samples, dtype=np.float32))[None]
    return yin(waveform, torch.tensor([len(samples)]), **settings).frequency[0].numpy()  # type: ignore[arg-type]


def pulses(frequencies: np.ndarray) -> np.ndarray:
    """A train of pulses with a pitch in Hz at each sample, 6 dB down per octave, nothing above half the rate."""
    phase = 2 * np.pi * np.cumsum(frequencies) / RATE
    harmonics = int(RATE / 2 / frequencies.max())
    return sum(np.cos(k * phase) / k for k in range(1, harmonics))


def vowel(frequencies: np.ndarray, formants: tuple[int, ...]) -> np.ndarray:
    """A voice: pulses with the slope of a glottis, through resonators, at a peak of 0.5."""
    sound = pulses(frequencies)
    for formant in formants:
        radius = np.exp(-np.pi * 90 / RATE)
        sound = lfilter([1], [1, -2 * radius * np.cos(2 * np.pi * formant / RATE), radius**2], sound)
    return 0.5 * sound / np.abs(sound).max()


def at_frames(values: np.ndarray, hop: int = 160) -> np.ndarray:
    return values[np.minimum(np.arange(1 + len(values) // hop) * hop, len(values) - 1)]


@pytest.mark.parametrize("hertz", [65.0, 82.4, 110.0, 147.3, 220.0, 311.1, 440.0, 580.0])
@pytest.mark.parametrize("kind", ["tone", "pulses"])
def test_pitch_of_steady_sounds(hertz: float, kind: str) -> None:
    steady = np.full(RATE // 2, hertz)
    frequencies = pitch(0.1 * (pulses(steady) if kind == "pulses" else np.sin(2 * np.pi * np.cumsum(steady) / RATE)))
    inner = frequencies[4:-4]
    assert not np.isnan(inner).any(), "voiced throughout"
    assert np.abs(inner / hertz - 1).max() < 0.005


@pytest.mark.parametrize("name", VOWELS)
def test_pitch_of_gliding_vowels(name: str) -> None:
    """Formants and a moving pitch must not lead to octave errors."""
    random = np.random.default_rng(3)
    times = np.arange(RATE) / RATE
    glide = 110 * 2 ** (1.2 * times) * (1 + 0.02 * np.sin(2 * np.pi * 5 * times))
    sound = vowel(glide, VOWELS[name]) + random.normal(0, 0.002, RATE)
    frequencies, true = pitch(sound)[4:-4], at_frames(glide)[4:-4]
    assert np.isnan(frequencies).mean() < 0.05
    errors = np.abs(frequencies / true - 1)[~np.isnan(frequencies)]
    assert (errors < 0.03).mean() > 0.97
    assert np.median(errors) < 0.005


def test_a_missing_fundamental_is_found() -> None:
    """As over a telephone, where only the harmonics are transmitted."""
    times = np.arange(RATE // 2) / RATE
    sound = sum(0.1 * np.sin(2 * np.pi * 120 * k * times) for k in range(3, 20))
    assert np.abs(pitch(sound)[4:-4] - 120).max() < 1


def test_noise_and_silence_have_no_pitch() -> None:
    random = np.random.default_rng(0)
    assert np.mean(~np.isnan(pitch(random.normal(0, 0.1, RATE)))) < 0.02
    silent = yin(torch.zeros(1, RATE), torch.tensor([RATE]))
    assert silent.frequency.isnan().all()
    assert (silent.aperiodicity == 1).all()


def test_only_voiced_parts_have_a_pitch() -> None:
    """A vowel, noise, and a pause with a faint hum."""
    random = np.random.default_rng(1)
    third = RATE // 2
    times = np.arange(third) / RATE
    parts = [
        vowel(np.full(third, 180.0), VOWELS["a"]),
        random.normal(0, 0.1, third),
        1e-3 * np.sin(100 * np.pi * times),
    ]
    voiced = ~np.isnan(pitch(np.concatenate(parts)))
    assert voiced[3:47].all()
    assert voiced[53:97].mean() < 0.05
    assert not voiced[103:].any()


def test_a_clip_has_the_same_pitch_alone_and_in_a_batch() -> None:
    random = np.random.default_rng(2)
    clips = [
        torch.from_numpy(vowel(np.full(size, hertz), VOWELS["i"]) + random.normal(0, 0.01, size)).float()
        for size, hertz in ((5000, 120.0), (16000, 210.0), (399, 300.0), (1, 100.0))
    ]
    lengths = torch.tensor([len(clip) for clip in clips])
    batch = yin(torch.nn.utils.rnn.pad_sequence(clips, batch_first=True), lengths)
    for row, clip in enumerate(clips):
        single = yin(clip[None], lengths[row : row + 1])
        count = 1 + len(clip) // 160
        assert single.frequency.shape == single.mask.shape == (1, count)
        assert batch.mask[row].sum() == count
        for single_values, batch_values in zip(
            single[:2], Pitch(*(part[row : row + 1, :count] for part in batch))[:2], strict=True
        ):
            assert torch.allclose(single_values, batch_values, atol=1e-3, equal_nan=True)
        assert batch.frequency[row, count:].isnan().all()


def test_rate_range_and_hop_follow_the_settings() -> None:
    steady = np.full(RATE // 2, 250.0)
    frequencies = pitch(pulses(steady), f_min=60, f_max=200)
    assert not (np.abs(frequencies - 250) < 20).any()
    half = yin(torch.from_numpy(pulses(steady)[::2]).float()[None], torch.tensor([RATE // 4]), 8000, hop_length=128)
    assert half.frequency.shape == (1, 1 + RATE // 4 // 128)
    assert abs(float(half.frequency.nanmedian()) - 250) < 1


@pytest.mark.parametrize("settings", [{"f_min": 0.0}, {"f_min": 300.0, "f_max": 200.0}, {"f_max": 9000.0}])
def test_a_wrong_frequency_range_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="0 < f_min < f_max <= 8000 Hz must hold"):
        pitch(np.zeros(1000), **settings)


def test_pitch_is_close_to_librosa() -> None:
    librosa = pytest.importorskip("librosa")
    times = np.arange(RATE) / RATE
    sound = vowel(120 * 2 ** (0.8 * times), VOWELS["a"]) + np.random.default_rng(0).normal(0, 0.001, RATE)
    frequencies = pitch(sound)
    reference = librosa.yin(sound.astype(np.float32), fmin=60, fmax=600, sr=RATE, frame_length=1024, hop_length=160)
    inner = slice(8, -8)
    errors = np.abs(frequencies[inner] / reference[inner] - 1)
    assert np.isnan(errors).mean() < 0.05
    assert np.nanmedian(errors) < 0.005
    assert np.nanquantile(errors, 0.95) < 0.02
