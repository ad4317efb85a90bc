"""A small source-filter synthesizer of emotional speech: a glottal source, formants, and a style for each emotion.

The source is the LF model of the glottal flow's derivative (Fant, Liljencrants & Lin 1985, "A four-parameter model of
glottal flow", STL-QPSR 26(4)) with the one-parameter shapes of Fant (1995), "The LF-model revisited", STL-QPSR
36(2-3); the tract is a cascade of formant resonators (Klatt 1980, JASA 67(3), 971-995); vowels have the men's mean
formants of Peterson & Barney (1952), JASA 24(2), 175-184. Consonants are approximate. A clip takes a few milliseconds.
The voices are made for tests and analysis, not for listening.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from scipy.fft import irfft, rfft
from scipy.optimize import brentq

from ...audio import SAMPLE_RATE
from ...utils.errors import InputError
from .styles import MIN_VALUES, SPEAKER_SPREAD, SPEAKING_STYLES, STYLE_SPREAD, SpeakingStyle


@dataclass(frozen=True, slots=True)
class Voice:
    """A speaker's voice."""

    f0: float  # neutral fundamental frequency, Hz
    tract: float  # formant frequencies relative to a man's (women about 1.16)
    melody: float = 3.0  # height of accents, semitones
    tempo: float = 0.0  # octaves
    rd: float = 1.0  # shape of the glottal pulse
    breath: float = -26.0  # aspiration, dB below the voice
    jitter: float = 0.8  # variation of the period between cycles, %
    shimmer: float = 3.5  # variation of the amplitude between cycles, %
    expressive: float = 1.0  # factor on every style
    seed: int = 0  # random seed of the speaker's own styles


class _Segment(NamedTuple):
    f1: float
    f2: float
    f3: float
    ms: float
    voice: float
    noise: float = 0.0
    center: float = 4000.0
    width: float = 2000.0


def _stop(f2: float, f3: float, center: float, voiced: bool) -> tuple[_Segment, ...]:
    closure = _Segment(230, f2, f3, 48, 0.12 if voiced else 0.0)
    burst = _Segment(320, f2, f3, 14 if voiced else 34, 0.1 if voiced else 0.0, 0.35 if voiced else 0.45, center, 1500)
    return closure, burst


_VOWELS = {
    "iy": (270, 2290, 3010), "ih": (390, 1990, 2550), "eh": (530, 1840, 2480), "ae": (660, 1720, 2410),
    "aa": (730, 1090, 2440), "ao": (570, 840, 2410), "uh": (440, 1020, 2240), "uw": (300, 870, 2240),
    "ah": (640, 1190, 2390), "er": (490, 1350, 1690), "ax": (500, 1450, 2450),
}  # fmt: skip
_GLIDES = {"ey": ("eh", "iy"), "ay": ("aa", "ih"), "ow": ("ao", "uh"), "aw": ("aa", "uh")}
# ARPABET -> its segments.
PHONES: dict[str, tuple[_Segment, ...]] = {
    **{name: (_Segment(*formants, 60 if name == "ax" else 100, 1.0),) for name, formants in _VOWELS.items()},
    **{name: tuple(_Segment(*_VOWELS[part], 70, 1.0) for part in parts) for name, parts in _GLIDES.items()},
    "m": (_Segment(250, 1050, 2200, 65, 0.45),), "n": (_Segment(250, 1550, 2450, 60, 0.45),),
    "ng": (_Segment(260, 2000, 2500, 65, 0.42),), "l": (_Segment(350, 1050, 2750, 60, 0.6),),
    "r": (_Segment(330, 1150, 1550, 60, 0.6),), "w": (_Segment(300, 650, 2200, 60, 0.55),),
    "y": (_Segment(280, 2200, 2950, 50, 0.6),), "hh": (_Segment(500, 1500, 2500, 55, 0.0, 0.18, 1600, 1500),),
    "s": (_Segment(300, 1700, 2550, 95, 0.0, 0.55, 6200, 1300),),
    "z": (_Segment(260, 1650, 2500, 70, 0.3, 0.3, 6000, 1300),),
    "sh": (_Segment(300, 1850, 2500, 95, 0.0, 0.6, 3300, 1100),),
    "f": (_Segment(300, 1100, 2200, 85, 0.0, 0.16, 5000, 3500),),
    "v": (_Segment(250, 1100, 2200, 55, 0.4, 0.08, 5000, 3500),),
    "th": (_Segment(300, 1400, 2500, 80, 0.0, 0.14, 5500, 3000),),
    "dh": (_Segment(270, 1350, 2500, 45, 0.4, 0.06, 5500, 3000),),
    "p": _stop(1000, 2200, 900, False), "b": _stop(950, 2200, 800, True), "t": _stop(1750, 2600, 4500, False),
    "d": _stop(1700, 2600, 4200, True), "k": _stop(1900, 2300, 2200, False), "g": _stop(1850, 2300, 2000, True),
    "jh": (_Segment(230, 1800, 2500, 35, 0.1), _Segment(280, 1850, 2500, 60, 0.2, 0.4, 3300, 1200)),
    "|": (_Segment(500, 1450, 2450, 20, 0.0),),
}  # fmt: skip

_STEP = 80  # samples between two points of a control track: 5 ms
_HOP = 2 * _STEP
_FFT = 4 * _HOP
_LEVEL_DB = -27.0  # dBFS, of neutral speech
_MIN_SECONDS, _MAX_SECONDS = 0.9, 2.0  # s
_PERIOD_SAMPLES = 2048  # samples of a period
_RD_VALUES = np.linspace(0.3, 2.7, 25)
_MIN_F0, _NUM_BANDS = 55.0, 15  # Hz; quarter octaves above it
_FREQUENCIES = np.fft.rfftfreq(_FFT, 1 / SAMPLE_RATE).astype(np.float32)
_DELAY = np.exp(-2j * np.pi * _FREQUENCIES / SAMPLE_RATE).astype(np.complex64)
_WINDOW = np.hanning(2 * _HOP + 1)[:-1].astype(np.float32)


def synthesize(
    emotion: str, voice: Voice, phones: str, rng: Generator, strength: float = 1.0, spread: float = 1.0
) -> np.ndarray:
    """Synthesize an utterance: float32 samples at 16 kHz, shape (samples,), 0.9 to 2.0 s, below full scale.

    `phones` are names in `PHONES` separated by spaces; a 1 after a vowel accents it, | is a pause. `strength` is a
    factor on the emotion's style, `spread` one on the random deviations from it (0: none).
    """
    if emotion not in SPEAKING_STYLES:
        raise InputError(f"unknown emotion {emotion!r}: use one of {', '.join(SPEAKING_STYLES)}")
    style = _sample_style(emotion, voice, rng, strength, spread)
    tracks = _tracks(list(_segments(phones)), voice, style, rng)
    noise = rng.standard_normal(_STEP * len(tracks.f0), dtype=np.float32)
    sound = _tract(_glottis(tracks, voice, style, noise, rng), noise * _smooth(tracks.noise), tracks, voice, style)
    voiced = sound[_smooth(tracks.voice) > 0.3]
    gain = 10 ** ((_LEVEL_DB + style.level) / 20) / float(np.sqrt(np.mean(voiced**2)))
    return sound * np.float32(min(gain, 0.95 / float(np.abs(sound).max())))


def _sample_style(emotion: str, voice: Voice, rng: Generator, strength: float, spread: float) -> SpeakingStyle:
    """Sample a clip's style around the emotion's style and the speaker's deviation from it."""
    means, deviations = np.array(astuple(SPEAKING_STYLES[emotion])), np.array(astuple(STYLE_SPREAD))
    speaker_rng = np.random.default_rng([voice.seed, list(SPEAKING_STYLES).index(emotion)])
    factor = strength * voice.expressive * float(np.exp(0.3 * spread * rng.standard_normal()))
    noise = rng.standard_normal(len(means)) + SPEAKER_SPREAD * speaker_rng.standard_normal(len(means))
    values = factor * means + spread * deviations * noise
    styles = {field.name: float(value) for field, value in zip(fields(SpeakingStyle), values, strict=True)}
    return SpeakingStyle(**{name: max(value, MIN_VALUES.get(name, -np.inf)) for name, value in styles.items()})


def _segments(phones: str) -> Iterator[tuple[_Segment, bool, bool]]:
    """Yield each segment, whether it is accented, and whether it is a pause."""
    names = phones.split()
    unknown = [name for name in names if name.rstrip("1") not in PHONES]
    if unknown or not any(name.rstrip("1") in {*_VOWELS, *_GLIDES} for name in names):
        reason = f"{unknown[0]} is not a phone" if unknown else "it has no vowel"
        raise InputError(f"{phones!r} cannot be synthesized: {reason}")
    for name in names:
        for segment in PHONES[name.rstrip("1")]:
            yield segment, name.endswith("1"), name == "|"


class _Tracks(NamedTuple):
    """Control tracks with a point every 5 ms, shape (points,); formants have the shape (3, points)."""

    f0: np.ndarray
    voice: np.ndarray
    noise: np.ndarray
    formants: np.ndarray
    center: np.ndarray
    width: np.ndarray
    creak: np.ndarray


def _tracks(parts: list[tuple[_Segment, bool, bool]], voice: Voice, style: SpeakingStyle, rng: Generator) -> _Tracks:
    targets, accents, pauses = (np.array(column) for column in zip(*parts, strict=True))
    lengths = 0.85 * targets[:, 3] / 1000 * 2.0 ** -(voice.tempo + style.tempo)
    lengths *= (1 + 0.25 * accents) * np.exp(0.12 * rng.standard_normal(len(parts)))
    lengths = np.maximum(lengths + style.pause * pauses, 0.004)
    lead, tail = rng.uniform(0.05, 0.12, 2)
    lengths *= min(1.0, (_MAX_SECONDS - lead - tail) / lengths.sum())
    tail = max(tail, _MIN_SECONDS - lead - lengths.sum())
    ends = lead + np.cumsum(lengths)
    starts = ends - lengths
    points = round((ends[-1] + tail) * SAMPLE_RATE / _STEP)
    time = np.arange(points) * _STEP / SAMPLE_RATE

    def interpolate(values: np.ndarray, edge: np.ndarray) -> np.ndarray:
        knots = np.stack([starts + edge, ends - edge], axis=1).ravel()
        return np.asarray(np.interp(time, knots, np.repeat(values, 2)))

    slow, quick = 0.32 * lengths, np.minimum(0.3 * lengths, 0.007)
    loudness = 10 ** ((style.swing + 2) * (accents - 0.3) / 20) * 10 ** (-2 * np.linspace(-0.5, 1, len(parts)) / 20)
    spoken = (time > starts[0]) & (time < ends[-1])
    progress = np.clip((time - starts[0]) / (ends[-1] - starts[0]), 0, 1)
    creak = style.creak * np.clip((progress - 0.6) / 0.3, 0, 1)
    centers = (starts + ends)[accents] / 2
    f0 = _melody(time, progress, centers, voice, style, rng) * 2.0 ** (-6 * creak / 12)
    space = np.array([[500.0], [1450.0], [2450.0]])
    formants = np.stack([interpolate(targets[:, column], slow) for column in range(3)])
    formants = (space + (formants - space) * 2.0**style.precision) * voice.tract * 2.0**style.lips
    formants[0] *= 2.0**style.jaw
    return _Tracks(
        f0=np.clip(f0, _MIN_F0, 600),
        voice=_lowpass(interpolate(targets[:, 4] * loudness, quick) * spoken, 5),
        noise=_lowpass(interpolate(targets[:, 5] * loudness, quick) * spoken, 5),
        formants=formants,
        center=interpolate(targets[:, 6] * voice.tract, quick),
        width=interpolate(targets[:, 7] * voice.tract, quick),
        creak=creak,
    )


def _melody(
    time: np.ndarray, progress: np.ndarray, centers: np.ndarray, voice: Voice, style: SpeakingStyle, rng: Generator
) -> np.ndarray:
    """Return the fundamental frequency (Hz): a falling line, a peak on each accent, the end, tremor and drift."""
    heights = voice.melody * 2.0**style.range * np.exp(0.25 * rng.standard_normal(len(centers)))
    hills = np.exp(-0.5 * ((time - centers[:, None]) / 0.07) ** 2) * heights[:, None]
    semitones = style.pitch + (style.slope - 2.5) * (progress - 0.5) + hills.sum(axis=0)
    semitones += (style.final - 1.5) * np.clip((progress - 0.75) / 0.25, 0, 1) ** 2
    semitones += style.tremor * np.sin(2 * np.pi * (rng.uniform(5, 8) * time + rng.uniform()))
    semitones += _lowpass(rng.standard_normal(len(time)), 20) * 0.8
    return np.asarray(voice.f0 * 2.0 ** (semitones / 12))


def _glottis(tracks: _Tracks, voice: Voice, style: SpeakingStyle, noise: np.ndarray, rng: Generator) -> np.ndarray:
    """Return the derivative of the glottal flow with aspiration, shape (samples,)."""
    f0, loud, creak = (_smooth(track) for track in (tracks.f0, tracks.voice, tracks.creak))
    steps = f0 / SAMPLE_RATE
    cycles = np.cumsum(steps, dtype=np.float64).astype(np.int32)
    jitter = (voice.jitter + style.jitter) / 100 * rng.standard_normal(cycles[-1] + 1, dtype=np.float32)
    steps *= 1 + (jitter[cycles] * (1 + 4 * creak))
    phase = np.cumsum(steps, dtype=np.float64)
    cycles = phase.astype(np.int32)
    shimmer = 1 + (voice.shimmer + style.shimmer) / 100 * rng.standard_normal(cycles[-1] + 1, dtype=np.float32)
    position = phase - cycles
    rd = voice.rd + style.rd + 0.5 * (1 - np.minimum(tracks.voice, 1)) - 0.3 * tracks.creak
    shape = np.clip(np.rint((rd - _RD_VALUES[0]) / (_RD_VALUES[1] - _RD_VALUES[0])), 0, len(_RD_VALUES) - 1)
    band = np.clip(np.ceil(4 * np.log2(tracks.f0 * 1.06 / _MIN_F0)), 0, _NUM_BANDS - 1)
    row = np.repeat((shape * _NUM_BANDS + band).astype(np.int32) * _PERIOD_SAMPLES, _STEP)
    pulses = _pulses()[row + (position * _PERIOD_SAMPLES).astype(np.int32)]
    pulses *= shimmer[cycles] * (1 - 0.5 * creak * (cycles & 1))
    breath = 10 ** ((voice.breath + style.breath) / 20)
    opening = np.where(position < 0.6, np.float32(1), np.float32(0.4))
    return np.asarray(loud * (pulses + np.float32(breath) * noise * opening))


def _tract(source: np.ndarray, friction: np.ndarray, tracks: _Tracks, voice: Voice, style: SpeakingStyle) -> np.ndarray:
    """Filter the source by the formants and the friction by its band, in overlapping frames."""
    size = len(source) // _HOP * _HOP
    frames = [
        np.lib.stride_tricks.sliding_window_view(np.pad(part[:size], _HOP), 2 * _HOP)[::_HOP]
        for part in (source, friction)
    ]
    spectra = [rfft(frame * _WINDOW, _FFT) for frame in frames]
    points = np.minimum(np.arange(len(frames[0])) * 2, len(tracks.f0) - 1)
    moving = _resonances(tracks.formants[:, points].astype(np.float32), np.array([70, 95, 140], dtype=np.float32))
    upper = np.array([3500, 4500, 5500, 6500, 7500], dtype=np.float32) * np.float32(voice.tract)
    upper = upper[upper < SAMPLE_RATE / 2]
    fixed = _resonances(upper[:, None], upper * 0.06)
    effort = (1 + (_FREQUENCIES / 1000) ** 2) ** np.float32(style.tilt / 12.04)
    center, width = (track[points, None].astype(np.float32) for track in (tracks.center, tracks.width))
    friction_band = np.exp(-0.5 * ((_FREQUENCIES - np.minimum(center, 7200)) / width) ** 2)
    filtered = irfft(spectra[0] * moving * (fixed * effort) + spectra[1] * friction_band, _FFT)
    out = np.zeros((len(filtered) + 3, _HOP), dtype=np.float32)
    for part in range(4):
        out[part : part + len(filtered)] += filtered[:, part * _HOP : (part + 1) * _HOP]
    whole = np.zeros(len(source), dtype=np.float32)
    whole[:size] = out.ravel()[_HOP : _HOP + size]
    return whole


def _resonances(centers: np.ndarray, bandwidths: np.ndarray) -> np.ndarray:
    """Return the response of resonators (Hz; shapes (resonators, frames), (resonators,)) in cascade, (frames, bins)."""
    radii = np.exp(-np.pi * bandwidths / SAMPLE_RATE)[:, None]
    first = (2 * radii * np.cos(2 * np.pi * centers / SAMPLE_RATE)).astype(np.float32)
    second = (radii**2).astype(np.float32)
    gain = np.prod(1 - first + second, axis=0)
    poles = np.ones((centers.shape[1], len(_DELAY)), dtype=np.complex64)
    for a1, a2 in zip(first, second, strict=True):
        denominator = a1[:, None] * -_DELAY
        denominator += 1 + a2 * _DELAY**2
        poles *= denominator
    return np.asarray(gain[:, None] / poles)


def _smooth(track: np.ndarray) -> np.ndarray:
    """Interpolate a control track (points,) linearly to float32 samples (points * 80,)."""
    points = np.append(track, track[-1]).astype(np.float32)
    ramp = np.arange(_STEP, dtype=np.float32) / np.float32(_STEP)
    return (points[:-1, None] + np.diff(points)[:, None] * ramp).ravel()


def _lowpass(track: np.ndarray, points: int) -> np.ndarray:
    window = np.hanning(points + 2)[1:-1]
    return np.asarray(np.convolve(track, window / window.sum(), mode="same"))


@lru_cache(maxsize=1)
def _pulses() -> np.ndarray:
    """Return band-limited LF pulses by shape and fundamental, float32, shape (shapes * bands * samples,)."""
    tables = []
    for rd in _RD_VALUES:
        spectrum = rfft(_lf_pulse(float(rd)))
        for band in range(_NUM_BANDS):
            harmonics = int(0.97 * SAMPLE_RATE / 2 / (_MIN_F0 * 2 ** (band / 4)))
            tables.append(irfft(np.where(np.arange(len(spectrum)) <= harmonics, spectrum, 0), _PERIOD_SAMPLES))
    return np.concatenate(tables).astype(np.float32)


def _lf_pulse(rd: float) -> np.ndarray:
    """Return a period of the LF model, peak -1, shape (2048,): Fant (1995), equations for Ra, Rk, Rg from Rd."""
    ra, rk = (-1 + 4.8 * rd) / 100, (22.4 + 11.8 * rd) / 100
    rg = rk / (4 * (0.11 * rd / (0.5 + 1.2 * rk) - ra))
    peak, end = 1 / (2 * rg), (1 + rk) / (2 * rg)
    rest = 1 - end
    decay = brentq(lambda e: e * ra - 1 + np.exp(-e * rest), 1e-3 / ra, 2 / ra)
    time = np.arange(_PERIOD_SAMPLES) / _PERIOD_SAMPLES
    back = -(np.exp(-decay * (time - end)) - np.exp(-decay * rest)) / (decay * ra)

    def pulse(growth: float) -> np.ndarray:
        open_phase = -np.exp(growth * (time - end)) * np.sin(np.pi * time / peak) / np.sin(np.pi * end / peak)
        return np.asarray(np.where(time < end, open_phase, back))

    return pulse(float(brentq(lambda value: float(pulse(value).sum()), -50, 200)))
