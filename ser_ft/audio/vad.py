"""Where somebody speaks: a gate that works at any level, in steady noise, and on a stream.

A frame is speech where sound rises above the noise floor, is voiced, wide and moving, or lies close to such sound.
Steady noise and hum make the floor; clicks and bursts of noise are not voiced; a telephone's tones are narrow; held
notes do not move. Singing, full or fast music, and talk in the background pass for speech; whispering does not.
"""

from __future__ import annotations

import numpy as np

FRAME = 160
"""Samples of a frame: 10 ms at 16 kHz."""

# A frame is judged by the 40 ms around it: three periods of a voice at 75 Hz (Boersma 1993).
_SPAN = 640
_OVERHANG = (_SPAN - FRAME) // 2
_FFT = 960
_BIN = 16_000 / _FFT
_SHAPE = np.hanning(_SPAN + 1)[:-1].astype(np.float32)
_SCALE = np.float32(2 / (_FFT * float(np.sum(_SHAPE**2))))
# Ten bands, 200 to 3400 Hz: above the mains' first harmonics, inside of what a telephone carries.
_EDGES = np.round(np.array([200, 350, 500, 675, 875, 1125, 1425, 1800, 2250, 2750, 3400]) / _BIN).astype(int)
_INSIDE = slice(int(_EDGES[0]), int(_EDGES[-1]))
_BANDS = len(_EDGES) - 1
# Periods of 80 to 400 Hz, in samples at 8 kHz: what lies above is left out. The autocorrelation of the window itself is
# divided out (Boersma 1993).
_LAGS = slice(20, 101)
_HALF = _FFT // 4 + 1
_OWN = np.fft.irfft(np.abs(np.fft.rfft(_SHAPE, _FFT)[:_HALF]) ** 2)
_UNWINDOW = (_OWN[0] / _OWN[_LAGS]).astype(np.float32)

# The floor of a band is its least mean power in blocks of 0.1 s, from 3 s before to 0.3 s after: minimum statistics
# (Martin 2001), the bias of the minimum made good by a factor. Blocks of digital silence say nothing of the noise.
_BLOCK = 10
_BEFORE, _AFTER = 30, 3
_BIAS = np.float32(1.6)
_NOTHING = np.float32(1e-13)
_PIECE = 100

# Tuned on clips of RAVDESS, TESS and CREMA-D, clean and in noise, and on noise, hum, tones and melodies.
_TOP_BANDS = 5
_RISE = 3.5  # dB above the floor, mean of the best five bands
_VOICED = 0.65  # of the power repeats itself after one period
_WIDTH = 225  # Hz of the spectrum are within 25 dB of its peak; a steady tone has 80
_DEPTH = 25.0  # dB below the loudest voiced frame of the last second
_STEP, _SAME = 4, 0.95  # a spectrum moves where its cosine with the one 40 ms before is lower
_MOVES, _MOVING = 6, 0.35  # so many frames, and so large a share of the voiced ones, move
# Frames: how far a decision looks back and ahead.
_LOUD = (100, 5)
_AROUND = (30, 10)
_BESIDE = 15
_GAP = 7  # twice this, between two stretches of speech, is filled
_PAST = _LOUD[0] + _AROUND[0] + _BESIDE + 2 * _GAP + 2
_AHEAD = _LOUD[1] + _AROUND[1] + _BESIDE + 2 * _GAP + 2

LATENCY = ((_AFTER + 1) * _BLOCK + _AHEAD) * 0.01 + _OVERHANG / 16_000
"""Seconds after which a frame is decided at the latest."""


def speech_frames(samples: np.ndarray) -> np.ndarray:
    """Say which frames of a recording are speech.

    Args:
        samples: at 16 kHz, full scale at 1.0, shape (samples,).

    Returns:
        bool, one per whole frame of 10 ms, shape (samples // 160,).
    """
    gate = VoiceActivityDetector()
    return np.concatenate([gate.feed(samples), gate.finish()])


class VoiceActivityDetector:
    """`speech_frames` for chunks of any size: the same decisions, at most `LATENCY` seconds later."""

    def __init__(self) -> None:
        self._samples = np.zeros(_OVERHANG, np.float32)
        self._power = np.zeros((0, _INSIDE.stop), np.float32)
        self._means = np.zeros((0, _BANDS), np.float32)
        self._old = 0
        # Before the first frame there is nothing from which it could have moved: no number is smaller than NaN.
        self._outlines = np.full((_STEP, _INSIDE.stop - _INSIDE.start), np.nan, np.float32)
        self._cues = np.zeros((4, 0), np.float32)
        self._decided = 0

    def feed(self, samples: np.ndarray) -> np.ndarray:
        """Take samples, shape (samples,), and return the decisions that are ready, shape (frames,)."""
        ready = []
        for start in range(0, len(samples), _PIECE * _BLOCK * FRAME):
            piece = samples[start : start + _PIECE * _BLOCK * FRAME].astype(np.float32, copy=False)
            self._samples = np.concatenate([self._samples, piece])
            blocks = max(0, len(self._samples) - 2 * _OVERHANG) // (_BLOCK * FRAME)
            if blocks:
                self._analyse(blocks * _BLOCK)
                self._judge((len(self._means) - self._old - _AFTER) * _BLOCK)
                ready.append(self._decide(_AHEAD))
        return np.concatenate(ready) if ready else np.zeros(0, bool)

    def finish(self) -> np.ndarray:
        """Return the decisions that were still open; nothing can be fed after it."""
        frames = (len(self._samples) - _OVERHANG) // FRAME
        self._samples = np.concatenate([self._samples, np.zeros(_OVERHANG, np.float32)])
        self._analyse(frames)
        self._judge(len(self._power))
        return self._decide(0)

    def _analyse(self, frames: int) -> None:
        """Turn samples into power spectra, and whole blocks of these into means per band."""
        if not frames:
            return
        used = self._samples[: frames * FRAME + 2 * _OVERHANG]
        waves = np.lib.stride_tricks.sliding_window_view(used, _SPAN)[::FRAME] * _SHAPE
        # numpy transforms float64 in half the time that float32 takes.
        spectra = np.fft.rfft(waves.astype(np.float64), _FFT)[:, : _INSIDE.stop].astype(np.complex64)
        power = (spectra.real**2 + spectra.imag**2) * _SCALE
        self._samples = self._samples[frames * FRAME :]
        self._power = np.concatenate([self._power, power])
        whole = frames // _BLOCK * _BLOCK
        means = _in_bands(power[:whole]).reshape(-1, _BLOCK, _BANDS).mean(axis=1)
        if not whole and not len(self._means):
            means = _in_bands(power).mean(axis=0, keepdims=True)
        means[means.max(axis=1) < _NOTHING] = np.inf
        self._means = np.concatenate([self._means, means])

    def _judge(self, frames: int) -> None:
        """Measure the cues of the first pending frames against the floor of their blocks."""
        if frames <= 0:
            return
        floors = np.stack([self._floor(self._old + block) for block in range(-(-frames // _BLOCK))])
        cues, outlines = _measure(self._power[:frames], np.repeat(floors, _BLOCK, axis=0)[:frames], self._outlines)
        self._cues = np.concatenate([self._cues, cues], axis=1)
        self._outlines = outlines
        self._power = self._power[frames:]
        drop = max(0, self._old + len(floors) - _BEFORE)
        self._means = self._means[drop:]
        self._old += len(floors) - drop

    def _floor(self, block: int) -> np.ndarray:
        least: np.ndarray = self._means[max(0, block - _BEFORE) : block + _AFTER + 1].min(axis=0)
        return np.maximum(np.where(np.isfinite(least), least * _BIAS, 0), _NOTHING)

    def _decide(self, ahead: int) -> np.ndarray:
        """Decide the frames that have so many after them."""
        until = self._cues.shape[1] - ahead
        if until <= self._decided:
            return np.zeros(0, bool)
        decisions = _speech(*self._cues)[self._decided : until]
        drop = max(0, until - _PAST)
        self._cues = self._cues[:, drop:]
        self._decided = until - drop
        return decisions


def _in_bands(power: np.ndarray) -> np.ndarray:
    """Sum power spectra, shape (frames, bins), in the bands: shape (frames, bands)."""
    if not len(power):
        return np.zeros((0, _BANDS), np.float32)
    summed: np.ndarray = np.add.reduceat(power, _EDGES[:-1], axis=1)
    return summed + np.float32(1e-30)


def _measure(power: np.ndarray, floor: np.ndarray, before: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Measure what tells speech.

    Args:
        power: spectra up to the last band, shape (frames, bins). floor: power of the noise, shape (frames, bands).
        before: the outlines of the spectra before them.

    Returns:
        The cues, shape (4, frames): the rise above the floor (dB), whether a frame is voiced and wide, whether it
        moves, and the level of what is above the floor (dB); and the last outlines.
    """
    bands = _in_bands(power)
    rises = np.clip(10 * np.log10(bands / floor), 0, 20)
    rise = np.sort(rises, axis=1)[:, -_TOP_BANDS:].mean(axis=1)
    gain = np.clip(1 - np.float32(1.5) * floor / bands, 0, 1)
    above = power[:, _INSIDE] * np.repeat(gain, np.diff(_EDGES), axis=1)
    spectra = np.zeros((len(power), _HALF), np.complex128)
    spectra[:, _INSIDE] = above
    similar = np.fft.irfft(spectra)
    voiced = (similar[:, _LAGS] * _UNWINDOW).max(axis=1) > _VOICED * similar[:, 0]
    wide = (above > above.max(axis=1, keepdims=True) * np.float32(10 ** (-_DEPTH / 10))).sum(axis=1) >= _WIDTH / _BIN
    outlines = np.sqrt(above)
    outlines /= np.sqrt((outlines**2).sum(axis=1, keepdims=True)) + np.float32(1e-20)
    outlines = np.concatenate([before, outlines])
    moves = (outlines[_STEP:] * outlines[:-_STEP]).sum(axis=1) < _SAME
    level = 10 * np.log10((bands * gain).sum(axis=1) + np.float32(1e-14))
    return np.stack([rise, voiced & wide, moves, level]).astype(np.float32), outlines[-_STEP:]


def _speech(rise: np.ndarray, voiced: np.ndarray, moves: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Decide from the cues, each of shape (frames,): bool, shape (frames,)."""
    heard = _sums(np.pad(rise, 2, mode="edge").astype(np.float64), 5) / 5 > _RISE
    loud = np.pad(np.where(heard & (voiced > 0), level, -np.inf), _LOUD, constant_values=-np.inf)
    heard &= level > np.lib.stride_tricks.sliding_window_view(loud, sum(_LOUD) + 1).max(axis=1) - _DEPTH
    voices = heard & (voiced > 0)
    moving, all_voices = (_count(what, *_AROUND) for what in (voices & (moves > 0), voices))
    cores = voices & (moving >= _MOVES) & (moving >= _MOVING * all_voices)
    speech = heard & (_count(cores, _BESIDE, _BESIDE) > 0)
    closed = _count(_count(speech, _GAP, _GAP) > 0, _GAP, _GAP) == 2 * _GAP + 1
    decisions: np.ndarray = speech | closed
    return decisions


def _count(what: np.ndarray, before: int, after: int) -> np.ndarray:
    """Count, for each frame, in how many from `before` to `after` it is true: shape (frames,)."""
    return _sums(np.pad(what.astype(np.int64), (before, after)), before + after + 1)


def _sums(values: np.ndarray, width: int) -> np.ndarray:
    """Sum every run of so many values."""
    sums: np.ndarray = np.lib.stride_tricks.sliding_window_view(values, width).sum(axis=1)
    return sums
