"""The synthesizer: the glottal pulse, the formants, and the differences between styles without random deviations."""

from __future__ import annotations

import numpy as np
import pytest

from ser_ft.data.synthetic import synthesizer
from ser_ft.data.synthetic.synthesizer import PHONES, Voice, synthesize
from ser_ft.labels import EMOTION_NAMES
from ser_ft.utils.errors import InputError

SENTENCE = "k ih1 d z | aa r t ao1 k ih ng b ay dh ax d ao1 r"


def speak(
    emotion: str, voice: Voice | None = None, phones: str = SENTENCE, strength: float = 1, spread: float = 1
) -> np.ndarray:
    return synthesize(emotion, voice or Voice(110, 1.0), phones, np.random.default_rng(0), strength, spread)


@pytest.mark.parametrize("emotion", EMOTION_NAMES)
@pytest.mark.parametrize("voice", [Voice(70, 1.05), Voice(300, 1.3, rd=1.6, melody=5)])
def test_the_output_is_valid_sound(emotion: str, voice: Voice) -> None:
    for strength in (0.5, 2.0):
        samples = speak(emotion, voice, strength=strength)
        assert (samples.dtype, samples.ndim) == (np.float32, 1)
        assert np.isfinite(samples).all()
        assert 0.89 < len(samples) / 16_000 < 2.01
        assert 0.01 < np.abs(samples).max() <= 0.951


@pytest.mark.parametrize("phones", ["aa1", "ax s", " ".join(PHONES), "aa1 s " * 60])
def test_the_duration_is_limited(phones: str) -> None:
    assert 0.89 < len(speak("sad", phones=phones)) / 16_000 < 2.01


@pytest.mark.parametrize("rd", [0.3, 1.0, 2.7])
def test_the_glottal_pulse_closes(rd: float) -> None:
    pulse = synthesizer._lf_pulse(rd)
    # The flow returns to its start, and its steepest fall is the closure.
    assert abs(pulse.sum()) < 1e-6 * len(pulse)
    assert -1.01 < pulse.min() < -0.98


def test_lax_pulses_have_less_treble() -> None:
    spectra = [np.abs(np.fft.rfft(synthesizer._lf_pulse(rd))) for rd in (0.5, 1.0, 2.0)]
    treble = [spectrum[20:40].sum() / spectrum[1:3].sum() for spectrum in spectra]
    assert treble[0] > treble[1] > treble[2]


def test_a_vowel_has_its_formants() -> None:
    samples = speak("neutral", Voice(100, 1.0, jitter=0, shimmer=0), "aa1 aa aa", spread=0)
    middle = samples[len(samples) // 4 : len(samples) // 4 + 2048] * np.hanning(2048)
    power = np.abs(np.fft.rfft(middle)) ** 2
    frequencies = np.fft.rfftfreq(2048, 1 / 16_000)

    def band(low: float, high: float) -> float:
        return float(power[(frequencies > low) & (frequencies < high)].max())

    # [aa]: 730, 1090, 2440 Hz, with a valley between the second and the third.
    assert band(600, 1250) > 10 * band(1600, 2100)
    assert band(2250, 2650) > 2 * band(1700, 2000)


def test_more_strength_is_a_larger_difference() -> None:
    levels = [float(speak("angry", strength=strength, spread=0).std()) for strength in (0.0, 0.5, 1.0)]
    assert levels[0] < levels[1] < levels[2]


def test_styles_differ_in_tempo() -> None:
    length = {emotion: len(speak(emotion, spread=0)) for emotion in EMOTION_NAMES}
    assert length["sad"] > length["calm"] > length["neutral"] > length["happy"] > length["fear"]


@pytest.mark.parametrize(("emotion", "phones"), [("glee", "aa1"), ("sad", "s t"), ("sad", "aa q"), ("sad", "")])
def test_unknown_emotions_and_phones_are_refused(emotion: str, phones: str) -> None:
    with pytest.raises(InputError):
        speak(emotion, phones=phones)
