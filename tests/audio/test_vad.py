"""Voice activity detection: what counts as speech, at any level and in noise, and what does not."""

from __future__ import annotations

import numpy as np
import pytest

from ser_ft.audio.vad import LATENCY, VoiceActivityDetector, speech_frames

SECONDS = np.arange(6 * 16_000) / 16_000


def noise(seconds: float = 6.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=round(16_000 * seconds)).astype(np.float32)


def hum() -> np.ndarray:
    """Mains hum with its harmonics."""
    return 0.05 * sum(np.sin(2 * np.pi * 50 * k * SECONDS) / k for k in range(1, 20))


def tones(*hertz: float) -> np.ndarray:
    return 0.1 * sum(np.sin(2 * np.pi * item * SECONDS) for item in hertz)


def melody(step: float, decay: float) -> np.ndarray:
    """Notes with six harmonics."""
    notes = 220 * 2 ** (np.random.default_rng(1).integers(0, 13, 99) / 12)
    pitch, since = notes[(SECONDS // step).astype(int)], SECONDS % step
    return 0.1 * np.exp(-decay * since) * sum(np.sin(2 * np.pi * pitch * k * since) / k for k in range(1, 7))


def clicks() -> np.ndarray:
    random, sound = np.random.default_rng(2), 1e-4 * noise()
    for start in random.integers(0, len(sound) - 400, 30):
        sound[start : start + 400] += 0.3 * random.normal(size=400) * np.exp(-np.arange(400) / 60)
    return sound


@pytest.fixture(scope="module")
def talk(voices: list[np.ndarray]) -> np.ndarray:
    """A second of quiet before and after each of six voices, as a microphone has it."""
    quiet = np.zeros(16_000, np.float32)
    joined = np.concatenate([quiet, *(part for voice in voices[:6] for part in (voice, quiet))])
    return joined + 1e-4 * noise(len(joined) / 16_000)


@pytest.fixture(scope="module")
def spoken(talk: np.ndarray) -> np.ndarray:
    """Frames within 30 dB of the loudest."""
    power = (talk[: len(talk) // 160 * 160].reshape(-1, 160) ** 2).mean(axis=1)
    return power > power.max() / 1000


def test_speech_is_detected_and_pauses_are_not(talk: np.ndarray, spoken: np.ndarray) -> None:
    detected = speech_frames(talk)
    assert detected.dtype == bool
    assert detected.shape == (len(talk) // 160,)
    assert detected[spoken].mean() > 0.9
    pauses = np.lib.stride_tricks.sliding_window_view(np.pad(spoken, 30), 61).max(axis=1) == 0
    assert pauses.mean() > 0.1
    assert detected[pauses].mean() < 0.02


@pytest.mark.parametrize("gain", [-40, -20, 10])
def test_neither_level_nor_offset_of_a_recording_matter(talk: np.ndarray, gain: int) -> None:
    expected = speech_frames(talk)
    assert np.mean(speech_frames(talk * 10 ** (gain / 20)) == expected) > 0.99
    assert np.mean(speech_frames(talk + 0.2) == expected) > 0.98


@pytest.mark.parametrize(("ratio", "least"), [(20, 0.85), (10, 0.75)])
def test_speech_is_detected_in_noise_and_over_hum(
    talk: np.ndarray, spoken: np.ndarray, ratio: int, least: float
) -> None:
    power = np.mean(talk[: len(spoken) * 160].reshape(-1, 160)[spoken] ** 2)
    noisy = talk + noise(len(talk) / 16_000, 5) * np.sqrt(power) * 10 ** (-ratio / 20)
    clean, detected = speech_frames(talk), speech_frames(noisy)
    assert detected[clean].mean() > least
    assert detected[~clean].mean() < 0.05
    assert np.mean(clean == speech_frames(talk + 0.4 * np.resize(hum(), len(talk)))) > 0.9


@pytest.mark.parametrize(
    "sound",
    [
        pytest.param(np.zeros(96_000), id="digital silence"),
        pytest.param(1e-5 * noise(), id="a converter's noise"),
        pytest.param(0.05 * noise(), id="noise"),
        pytest.param(np.where(SECONDS < 2, 0, 0.05 * noise()), id="noise after silence"),
        pytest.param(np.where(SECONDS % 0.6 < 0.25, 0.05, 1e-4) * noise(), id="bursts of noise"),
        pytest.param(hum() + 1e-3 * noise(), id="hum"),
        pytest.param(np.where(SECONDS < 2, 0, hum()) + 1e-4 * noise(), id="hum from two seconds on"),
        pytest.param(np.where(SECONDS < 2, 0, tones(440)) + 1e-4 * noise(), id="a tone"),
        pytest.param(np.where(SECONDS < 1, 0, tones(350, 440)) + 1e-4 * noise(), id="a dial tone"),
        pytest.param(np.where(SECONDS % 1 < 0.5, tones(480, 620), 0) + 1e-4 * noise(), id="a busy tone"),
        pytest.param(clicks(), id="clicks"),
        pytest.param(np.full(96_000, 0.5), id="an offset"),
    ],
)
def test_noise_hum_and_tones_are_not_speech(sound: np.ndarray) -> None:
    assert not speech_frames(sound.astype(np.float32)).any()


@pytest.mark.parametrize(("step", "decay"), [(0.5, 0.0), (0.5, 3.0), (0.25, 0.0), (0.15, 3.0), (0.12, 0.0)])
def test_a_melody_is_not_speech(step: float, decay: float) -> None:
    assert speech_frames(melody(step, decay).astype(np.float32) + 1e-4 * noise()).mean() < 0.1


@pytest.mark.parametrize("largest", [300, 5_000, 400_000])
def test_the_decisions_do_not_depend_on_the_chunks(talk: np.ndarray, largest: int) -> None:
    sound = talk[: 16_000 * 4] if largest < 1000 else talk
    random, detector, position, detected = np.random.default_rng(largest), VoiceActivityDetector(), 0, []
    while position < len(sound):
        size = int(random.integers(0, largest))
        detected.append(detector.feed(sound[position : position + size]))
        position = min(len(sound), position + size)
        assert position / 16_000 - sum(map(len, detected)) * 0.01 <= LATENCY
    assert np.array_equal(np.concatenate([*detected, detector.finish()]), speech_frames(sound))


@pytest.mark.parametrize("samples", [0, 1, 159, 160, 1599, 1600, 1601, 20_000])
def test_every_complete_frame_has_a_decision(talk: np.ndarray, samples: int) -> None:
    assert speech_frames(talk[16_000 : 16_000 + samples]).shape == (samples // 160,)


def test_memory_does_not_grow_with_the_length_of_the_audio(talk: np.ndarray) -> None:
    detector, sizes = VoiceActivityDetector(), []
    for _ in range(6):
        detector.feed(talk)
        sizes.append(sum(part.nbytes for part in vars(detector).values() if isinstance(part, np.ndarray)))
    assert max(sizes) < 1_000_000
    assert sizes[-1] <= max(sizes[:3]) * 1.1
