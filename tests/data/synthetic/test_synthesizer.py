"""The synthesiser: the source's shape, and the manners' directions without the chance."""

from __future__ import annotations

import numpy as np
import pytest

from ser_ft.data.synthetic import synthesizer
from ser_ft.data.synthetic.synthesizer import PHONES, SPEAKING_STYLES, Voice, synthesize
from ser_ft.labels import EMOTION_NAMES
from ser_ft.utils.errors import InputError

SENTENCE = "k ih1 d z | aa r t ao1 k ih ng b ay dh ax d ao1 r"


def test_every_emotion_has_a_manner() -> None:
    assert tuple(SPEAKING_STYLES) == EMOTION_NAMES


@pytest.mark.parametrize("emotion", EMOTION_NAMES)
@pytest.mark.parametrize("voice", [Voice(70, 1.05), Voice(300, 1.3, rd=1.6, melody=5)])
def test_sound_is_sound(emotion: str, voice: Voice) -> None:
    for strength in (0.5, 2.0):
        sound = synthesize(emotion, voice, SENTENCE, np.random.default_rng(0), strength)
        assert sound.dtype == np.float32
        assert sound.ndim == 1
        assert np.isfinite(sound).all()
        assert 0.89 < len(sound) / 16_000 < 2.01
        assert 0.01 < np.abs(sound).max() <= 0.951


def test_short_and_long_statements_keep_to_the_limits() -> None:
    for phones in ("aa1", "ax s", " ".join(PHONES), "aa1 s " * 60):
        assert 0.89 < len(synthesize("sad", Voice(110, 1.0), phones, np.random.default_rng(0))) / 16_000 < 2.01


@pytest.mark.parametrize("rd", [0.3, 1.0, 2.7])
def test_glottal_pulse_closes(rd: float) -> None:
    pulse = synthesizer._lf_pulse(rd)
    # The flow comes back to where it began, and its steepest fall is the closure.
    assert abs(pulse.sum()) < 1e-6 * len(pulse)
    assert -1.01 < pulse.min() < -0.98


def test_lax_pulses_have_less_treble() -> None:
    spectra = [np.abs(np.fft.rfft(synthesizer._lf_pulse(rd))) for rd in (0.5, 1.0, 2.0)]
    treble = [spectrum[20:40].sum() / spectrum[1:3].sum() for spectrum in spectra]
    assert treble[0] > treble[1] > treble[2]


def test_a_vowel_has_its_formants() -> None:
    sound = synthesize("neutral", Voice(100, 1.0, jitter=0, shimmer=0), "aa1 aa aa", np.random.default_rng(0), spread=0)
    middle = sound[len(sound) // 4 : len(sound) // 4 + 2048] * np.hanning(2048)
    power = np.abs(np.fft.rfft(middle)) ** 2
    frequencies = np.fft.rfftfreq(2048, 1 / 16_000)

    def band(low: float, high: float) -> float:
        return float(power[(frequencies > low) & (frequencies < high)].max())

    # [aa]: 730, 1090, 2440 Hz; between the second and the third there is a valley.
    assert band(600, 1250) > 10 * band(1600, 2100)
    assert band(2250, 2650) > 2 * band(1700, 2000)


def test_strength_grows_the_difference() -> None:
    voice = Voice(110, 1.0)
    level = [
        float(synthesize("angry", voice, SENTENCE, np.random.default_rng(0), strength, spread=0).std())
        for strength in (0.0, 0.5, 1.0)
    ]
    assert level[0] < level[1] < level[2]


def test_slow_and_quick_manners() -> None:
    length = {
        emotion: len(synthesize(emotion, Voice(110, 1.0), SENTENCE, np.random.default_rng(0), spread=0))
        for emotion in EMOTION_NAMES
    }
    assert length["sad"] > length["calm"] > length["neutral"] > length["happy"] > length["fear"]


@pytest.mark.parametrize(("emotion", "phones"), [("glee", "aa1"), ("sad", "s t"), ("sad", "aa q"), ("sad", "")])
def test_what_cannot_be_spoken(emotion: str, phones: str) -> None:
    with pytest.raises(InputError):
        synthesize(emotion, Voice(110, 1.0), phones, np.random.default_rng(0))
