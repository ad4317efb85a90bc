"""Voice activity detection that works at any level, in steady noise, and on a stream.

A frame is speech if it rises above the noise floor, is voiced, and has a wide and changing spectrum, or if it is close
to such frames. Steady noise and hum become part of the floor; clicks and bursts of noise are not voiced; the tones of a
telephone are narrow; held notes do not change. Background speech counts as speech, and so does a part of singing and of
dense or fast music; whispering does not. `benchmarks/voice_activity.py` measures this.
"""

from __future__ import annotations

import numpy as np

FRAME = 160
"""Samples of a frame: 10 ms at 16 kHz."""

# A frame is analyzed in a window of 40 ms: three periods of a voice at 75 Hz (Boersma 1993).
_WIN_LENGTH = 640
_OVERHANG = (_WIN_LENGTH - FRAME) // 2
_N_FFT = 960
_BIN_HZ = 16_000 / _N_FFT
_WINDOW = np.hanning(_WIN_LENGTH + 1)[:-1].astype(np.float32)
_POWER_SCALE = np.float32(2 / (_N_FFT * float(np.sum(_WINDOW**2))))
# Ten bands from 200 to 3400 Hz: above the first harmonics of mains hum, and within the bandwidth of a telephone.
_EDGES = np.round(np.array([200, 350, 500, 675, 875, 1125, 1425, 1800, 2250, 2750, 3400]) / _BIN_HZ).astype(int)
_BAND_BINS = slice(int(_EDGES[0]), int(_EDGES[-1]))
_BANDS = len(_EDGES) - 1
# Periods of 80 to 400 Hz in samples at 8 kHz; higher frequencies are dropped. The autocorrelation is divided by that of
# the window (Boersma 1993).
_LAGS = slice(20, 101)
_HALF_BINS = _N_FFT // 4 + 1
_WINDOW_AUTOCORRELATION = np.fft.irfft(np.abs(np.fft.rfft(_WINDOW, _N_FFT)[:_HALF_BINS]) ** 2)
_LAG_WEIGHTS = (_WINDOW_AUTOCORRELATION[0] / _WINDOW_AUTOCORRELATION[_LAGS]).astype(np.float32)

# The noise floor of a band is its lowest mean power in blocks of 0.1 s, from 3 s before to 0.3 s after: minimum
# statistics (Martin 2001), with a factor for the bias of the minimum. Blocks of digital silence are ignored.
_BLOCK = 10
_BLOCKS_BEFORE, _BLOCKS_AFTER = 30, 3
_MINIMUM_BIAS = np.float32(1.6)
_MIN_POWER = np.float32(1e-13)
_BLOCKS_AT_ONCE = 100

# Tuned on clips of RAVDESS, TESS and CREMA-D, clean and in noise, and on noise, hum, tones and melodies.
_TOP_BANDS = 5
_MIN_RISE = 2.75  # dB above the floor, mean of the five highest bands
_MIN_PERIODICITY = 0.65  # of the power repeats after one period
_MIN_WIDTH = 225  # Hz of the spectrum within `_MAX_DEPTH` of its peak; a steady tone has 80
_MAX_DEPTH = 25.0  # dB below the loudest voiced frame of the last second
_CHANGE_LAG, _MAX_SIMILARITY = 6, 0.95  # a spectrum changes if its cosine with the one 60 ms before is lower
_MIN_CHANGING, _MIN_CHANGING_SHARE = 6, 0.7  # frames, and share of the voiced ones, that change
# A drawn-out vowel changes less than a melody; but in speech, frames with a larger share of changes are close to it.
_LARGE_SHARE, _MIN_LARGE = 0.9, 3
# How many frames before and after a frame its decision depends on.
_LOUDNESS_CONTEXT = (100, 5)
_CHANGE_CONTEXT = (32, 8)
_LARGE_CONTEXT = (100, 0)
_SPEECH_CONTEXT = (20, 17)
_MAX_GAP = 7  # gaps between speech of up to twice this are filled
_PAST, _FUTURE = (
    sum(frames) + 2 * _MAX_GAP + 2
    for frames in zip(_LOUDNESS_CONTEXT, _CHANGE_CONTEXT, _LARGE_CONTEXT, _SPEECH_CONTEXT, strict=True)
)

LATENCY = ((_BLOCKS_AFTER + 1) * _BLOCK + _FUTURE) * 0.01 + _OVERHANG / 16_000
"""Seconds after which a frame is decided at the latest."""


def speech_frames(samples: np.ndarray) -> np.ndarray:
    """Return which complete frames of 10 ms in samples at 16 kHz are speech: booleans, shape (samples // 160,)."""
    detector = VoiceActivityDetector()
    return np.concatenate([detector.feed(samples), detector.finish()])


class VoiceActivityDetector:
    """`speech_frames` for chunks of any size: the same decisions, at most `LATENCY` seconds later."""

    def __init__(self) -> None:
        self._samples = np.zeros(_OVERHANG, np.float32)
        self._power = np.zeros((0, _BAND_BINS.stop), np.float32)
        self._block_means = np.zeros((0, _BANDS), np.float32)
        self._measured_blocks = 0  # at the start of `_block_means`
        # Comparisons with NaN are false, so that the first frames, which have no predecessor, do not change.
        self._last_spectra = np.full((_CHANGE_LAG, _BAND_BINS.stop - _BAND_BINS.start), np.nan, np.float32)
        self._cues = np.zeros((4, 0), np.float32)
        self._decided = 0

    def feed(self, samples: np.ndarray) -> np.ndarray:
        """Take samples, shape (samples,), and return the decisions that are ready, shape (frames,)."""
        decisions = []
        size = _BLOCKS_AT_ONCE * _BLOCK * FRAME
        for start in range(0, len(samples), size):
            piece = samples[start : start + size].astype(np.float32, copy=False)
            self._samples = np.concatenate([self._samples, piece])
            blocks = max(0, len(self._samples) - 2 * _OVERHANG) // (_BLOCK * FRAME)
            if blocks:
                self._analyze(blocks * _BLOCK)
                self._measure_cues((len(self._block_means) - self._measured_blocks - _BLOCKS_AFTER) * _BLOCK)
                decisions.append(self._decide(_FUTURE))
        return np.concatenate(decisions) if decisions else np.zeros(0, bool)

    def finish(self) -> np.ndarray:
        """Return the remaining decisions. Nothing can be fed afterwards."""
        frames = (len(self._samples) - _OVERHANG) // FRAME
        self._samples = np.concatenate([self._samples, np.zeros(_OVERHANG, np.float32)])
        self._analyze(frames)
        self._measure_cues(len(self._power))
        return self._decide(0)

    def _analyze(self, frames: int) -> None:
        if not frames:
            return
        samples = self._samples[: frames * FRAME + 2 * _OVERHANG]
        windows = np.lib.stride_tricks.sliding_window_view(samples, _WIN_LENGTH)[::FRAME] * _WINDOW
        # numpy transforms float64 in half the time of float32.
        spectra = np.fft.rfft(windows.astype(np.float64), _N_FFT)[:, : _BAND_BINS.stop].astype(np.complex64)
        power = (spectra.real**2 + spectra.imag**2) * _POWER_SCALE
        self._samples = self._samples[frames * FRAME :]
        self._power = np.concatenate([self._power, power])
        complete = frames // _BLOCK * _BLOCK
        means = _band_power(power[:complete]).reshape(-1, _BLOCK, _BANDS).mean(axis=1)
        if not complete and not len(self._block_means):
            means = _band_power(power).mean(axis=0, keepdims=True)
        means[means.max(axis=1) < _MIN_POWER] = np.inf
        self._block_means = np.concatenate([self._block_means, means])

    def _measure_cues(self, frames: int) -> None:
        if frames <= 0:
            return
        blocks = range(self._measured_blocks, self._measured_blocks + -(-frames // _BLOCK))
        floors = np.stack([self._noise_floor(block) for block in blocks])
        frame_floors = np.repeat(floors, _BLOCK, axis=0)[:frames]
        cues, self._last_spectra = _cues(self._power[:frames], frame_floors, self._last_spectra)
        self._cues = np.concatenate([self._cues, cues], axis=1)
        self._power = self._power[frames:]
        unused = max(0, self._measured_blocks + len(floors) - _BLOCKS_BEFORE)
        self._block_means = self._block_means[unused:]
        self._measured_blocks += len(floors) - unused

    def _noise_floor(self, block: int) -> np.ndarray:
        context = self._block_means[max(0, block - _BLOCKS_BEFORE) : block + _BLOCKS_AFTER + 1]
        least: np.ndarray = context.min(axis=0)
        return np.maximum(np.where(np.isfinite(least), least * _MINIMUM_BIAS, 0), _MIN_POWER)

    def _decide(self, future: int) -> np.ndarray:
        end = self._cues.shape[1] - future
        if end <= self._decided:
            return np.zeros(0, bool)
        decisions = _speech(*self._cues)[self._decided : end]
        unused = max(0, end - _PAST)
        self._cues = self._cues[:, unused:]
        self._decided = end - unused
        return decisions


def _band_power(power: np.ndarray) -> np.ndarray:
    if not len(power):
        return np.zeros((0, _BANDS), np.float32)
    sums: np.ndarray = np.add.reduceat(power, _EDGES[:-1], axis=1)
    return sums + np.float32(1e-30)


def _cues(power: np.ndarray, floor: np.ndarray, last_spectra: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the cues to speech, shape (4, frames), and the last normalized spectra.

    The cues are the rise above the floor (dB), whether a frame is voiced and wide, whether it changes, and the level of
    what is above the floor (dB). `power` has shape (frames, bins), `floor` has shape (frames, bands).
    """
    bands = _band_power(power)
    rises = np.clip(10 * np.log10(bands / floor), 0, 20)
    rise = np.sort(rises, axis=1)[:, -_TOP_BANDS:].mean(axis=1)
    gain = np.clip(1 - np.float32(1.5) * floor / bands, 0, 1)
    above = power[:, _BAND_BINS] * np.repeat(gain, np.diff(_EDGES), axis=1)
    half_spectra = np.zeros((len(power), _HALF_BINS), np.complex128)
    half_spectra[:, _BAND_BINS] = above
    autocorrelation = np.fft.irfft(half_spectra)
    periodicity = (autocorrelation[:, _LAGS] * _LAG_WEIGHTS).max(axis=1)
    voiced = periodicity > _MIN_PERIODICITY * autocorrelation[:, 0]
    near_peak = above > above.max(axis=1, keepdims=True) * np.float32(10 ** (-_MAX_DEPTH / 10))
    wide = near_peak.sum(axis=1) >= _MIN_WIDTH / _BIN_HZ
    spectra = np.sqrt(above)
    spectra /= np.sqrt((spectra**2).sum(axis=1, keepdims=True)) + np.float32(1e-20)
    spectra = np.concatenate([last_spectra, spectra])
    changes = (spectra[_CHANGE_LAG:] * spectra[:-_CHANGE_LAG]).sum(axis=1) < _MAX_SIMILARITY
    level = 10 * np.log10((bands * gain).sum(axis=1) + np.float32(1e-14))
    return np.stack([rise, voiced & wide, changes, level]).astype(np.float32), spectra[-_CHANGE_LAG:]


def _speech(rise: np.ndarray, voiced: np.ndarray, changes: np.ndarray, level: np.ndarray) -> np.ndarray:
    active = _moving_sum(np.pad(rise, 2, mode="edge").astype(np.float64), 5) / 5 > _MIN_RISE
    voiced_level = np.where(active & (voiced > 0), level, -np.inf)
    padded = np.pad(voiced_level, _LOUDNESS_CONTEXT, constant_values=-np.inf)
    loudest = np.lib.stride_tricks.sliding_window_view(padded, sum(_LOUDNESS_CONTEXT) + 1).max(axis=1)
    active &= level > loudest - _MAX_DEPTH
    voices = active & (voiced > 0)
    changing, all_voices = (_count(frames, *_CHANGE_CONTEXT) for frames in (voices & (changes > 0), voices))
    voices &= changing >= _MIN_CHANGING
    large = voices & (changing >= _LARGE_SHARE * all_voices)
    cores = voices & (changing >= _MIN_CHANGING_SHARE * all_voices) & (_count(large, *_LARGE_CONTEXT) >= _MIN_LARGE)
    speech = active & (_count(cores, *_SPEECH_CONTEXT) > 0)
    closed = _count(_count(speech, _MAX_GAP, _MAX_GAP) > 0, _MAX_GAP, _MAX_GAP) == 2 * _MAX_GAP + 1
    decisions: np.ndarray = speech | closed
    return decisions


def _count(frames: np.ndarray, before: int, after: int) -> np.ndarray:
    # The true frames from `before` frames before to `after` frames after each frame.
    return _moving_sum(np.pad(frames.astype(np.int64), (before, after)), before + after + 1)


def _moving_sum(values: np.ndarray, width: int) -> np.ndarray:
    sums: np.ndarray = np.lib.stride_tricks.sliding_window_view(values, width).sum(axis=1)
    return sums
