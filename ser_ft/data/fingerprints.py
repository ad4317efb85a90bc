"""Audio fingerprints: which of many clips may share a recording, and how similar two clips are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy import fft
from scipy.ndimage import maximum_filter
from scipy.signal import butter, sosfilt

from ..audio import SAMPLE_RATE, resample

# Fingerprints use the band of a telephone, 300 to 3400 Hz.
RATE = 8000
_BAND = (300.0, 3400.0)
_WINDOW, _HOP = 512, 128  # samples
_LOW, _HIGH = round(_BAND[0] / RATE * _WINDOW) + 1, round(_BAND[1] / RATE * _WINDOW) + 1
_HANN = np.hanning(_WINDOW).astype(np.float32)

# A peak is the maximum of 7 frames x 15 bins, half a neper above the median of its frequency (so hum has no peaks).
# The 30 highest peaks per second are used; each is paired with those of the next 11 within 1 s and 1 kHz.
_PEAK_SIZE, _PEAK_HEIGHT, _PEAKS_PER_SECOND, _MAX_PARTNERS = (7, 15), 0.5, 30, 11
_MAX_FRAMES, _MAX_BINS = 64, 64
# Landmarks that two clips must share at one offset to be compared. Measured: at least 98.7 % of the copies of 300 clips
# do, for each kind of copy below, and 2000 of 50 million pairs of different recordings (RAVDESS, TESS, CREMA-D).
_MIN_SHARED, _MAX_MATCHES = 7, 20
# Similarity from which two clips are the same recording. Measured on these: copies (MP3 at 16 kbit/s, Opus at 9,
# Vorbis, telephone, clipped, noise at 20 dB, trimmed, a second late, 1.2 s of the middle) reach 0.61 or more, 99 % of
# each kind 0.66 or more; 99 % of those through a telephone and then Opus at 9 kbit/s 0.60; a take that was rebuilt
# twice by Griffin-Lim 0.66 or more. Different takes (one voice, one carrier phrase, one emotion) reach at most 0.54.
SAME_RECORDING = 0.6
_FLOOR_DB = 35.0  # below a clip's loud parts; softer is noise and coding artifacts
_OFFSET_ERROR = 200  # samples by which an offset from landmarks may be wrong
_MIN_OVERLAP = RATE // 2  # samples
_COHERENCE_WINDOW = 256  # samples


@dataclass(frozen=True, slots=True)
class Landmarks:
    """Pairs of spectral peaks."""

    hashes: np.ndarray  # frequencies and distance of the peaks, int32, shape (landmarks,)
    times: np.ndarray  # time of the first peak in frames of 16 ms, int64, shape (landmarks,)


def to_narrowband(samples: np.ndarray) -> np.ndarray:
    """Resample float samples at 16 kHz, shape (samples,), to the 8 kHz that this module uses."""
    return resample(samples, SAMPLE_RATE, RATE)


def find_landmarks(samples: np.ndarray) -> Landmarks:
    """Find a clip's landmarks (Wang, An industrial-strength audio search algorithm, ISMIR 2003); samples at 8 kHz."""
    levels = np.log(_magnitudes(samples) + 1e-6)
    if not len(levels):
        return Landmarks(np.zeros(0, np.int32), np.zeros(0, np.int64))
    peaks = (maximum_filter(levels, _PEAK_SIZE) == levels) & (levels > np.median(levels, axis=0) + _PEAK_HEIGHT)
    times, bins = np.nonzero(peaks & (levels > np.median(levels)))
    max_peaks = 1 + _PEAKS_PER_SECOND * len(samples) // RATE
    if len(times) > max_peaks:
        highest = np.sort(np.argpartition(-levels[times, bins], max_peaks)[:max_peaks])
        times, bins = times[highest], bins[highest]
    hashes, starts = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]
    for step in range(1, _MAX_PARTNERS + 1):
        frames_later, bins_higher = times[step:] - times[:-step], bins[step:] - bins[:-step]
        near = (frames_later >= 2) & (frames_later < _MAX_FRAMES) & (np.abs(bins_higher) < _MAX_BINS)
        first = bins[:-step][near]
        bin_code = (first * 2 * _MAX_BINS) + bins_higher[near] + _MAX_BINS
        hashes.append((bin_code * _MAX_FRAMES + frames_later[near]).astype(np.int32))
        starts.append(times[:-step][near])
    return Landmarks(np.concatenate(hashes), np.concatenate(starts))


class LandmarkIndex:
    """The landmarks of many clips, sorted, to find clips that share some without comparing all pairs."""

    def __init__(self, clips: Sequence[Landmarks]) -> None:
        self._clips = clips
        hashes = np.concatenate([clip.hashes for clip in clips])
        order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[order]
        self._times = np.concatenate([clip.times for clip in clips])[order]
        self._owners = np.repeat(np.arange(len(clips)), [len(clip.hashes) for clip in clips])[order]
        self._span = 2 * (int(self._times.max(initial=0)) + 2)

    def find_later_matches(self, index: int) -> list[tuple[int, int]]:
        """Find the clips after a clip that share landmarks with it, all at the same distance in time.

        Returns the index of each, and where the clip's sound begins in it: samples at 8 kHz, within 25 ms.
        """
        clip = self._clips[index]
        low, high = (np.searchsorted(self._hashes, clip.hashes, side) for side in ("left", "right"))
        counts = high - low
        hits = np.repeat(low - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
        times = np.repeat(clip.times, counts)
        later = self._owners[hits] > index
        hits, times = hits[later], times[later]
        keys = self._owners[hits] * self._span + self._times[hits] - times + self._span // 2
        keys, shared = np.unique(keys, return_counts=True)
        # A shift that is not a whole number of frames is spread over two.
        has_next = np.append(np.diff(keys) == 1, False)[: len(keys)]
        shared_with_next = shared + np.where(has_next, np.roll(shared, -1), 0)
        best: dict[int, tuple[int, int]] = {}
        for row in np.flatnonzero(shared_with_next >= _MIN_SHARED):
            other, frame = divmod(int(keys[row]), self._span)
            half_frame = _HOP // 2 if shared_with_next[row] > shared[row] else 0
            offset = (frame - self._span // 2) * _HOP + half_frame
            best[other] = max(best.get(other, (0, 0)), (int(shared_with_next[row]), offset))
        others = sorted(best, key=lambda other: -best[other][0])[:_MAX_MATCHES]
        return [(other, best[other][1]) for other in others]


def similarity(first: np.ndarray, second: np.ndarray, offset: int) -> float:
    """Return how similar two clips are where they overlap: 1.0 for the same samples, 0.0 if by under half a second.

    It is the mean of two numbers: the correlation of their spectrograms (dB, without each frequency's mean), which does
    not depend on phase, and the mean coherence of their waveforms (Welch 1967), which other takes of the same words do
    not have and filters do not remove. The clips are float samples at 8 kHz; `offset` is the start of the first clip's
    sound in the second, in samples, within 25 ms.
    """
    lags = range(offset - _HOP, offset + _HOP + 1, _HOP // 2)
    spectral = max(_spectral_correlation(*_overlap(first, second, lag)) for lag in lags)
    filtered = _emphasize_speech(first), _emphasize_speech(second)
    size = fft.next_fast_len(len(first) + len(second), real=True)
    product = np.conj(fft.rfft(filtered[0], size)) * fft.rfft(filtered[1], size)
    correlation = np.abs(fft.irfft(product, size))
    near = np.arange(offset - _OFFSET_ERROR, offset + _OFFSET_ERROR + 1)
    lag = int(near[correlation[near % size].argmax()])
    return max(0.0, (spectral + _coherence(*_overlap(*filtered, lag))) / 2)


def _overlap(first: np.ndarray, second: np.ndarray, lag: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut two clips to their overlap if the first begins `lag` samples into the second."""
    first, second = first[max(-lag, 0) :], second[max(lag, 0) :]
    length = min(len(first), len(second))
    return first[:length], second[:length]


def _spectral_correlation(first: np.ndarray, second: np.ndarray) -> float:
    if len(first) < _MIN_OVERLAP:
        return 0.0
    x, y = _centered_levels(first), _centered_levels(second)
    return float((x * y).sum() / max(np.sqrt((x**2).sum() * (y**2).sum()), 1e-9))


def _centered_levels(samples: np.ndarray) -> np.ndarray:
    levels = 20 * np.log10(_magnitudes(samples) + 1e-9)
    levels = np.maximum(levels, np.percentile(levels, 99) - _FLOOR_DB)
    centered: np.ndarray = levels - levels.mean(axis=0)
    return centered


def _coherence(first: np.ndarray, second: np.ndarray) -> float:
    """Return the mean over frequencies of |Sxy| / sqrt(Sxx Syy), weighted by the root of the amplitudes."""
    if len(first) < _MIN_OVERLAP:
        return 0.0
    low, high = _LOW * _COHERENCE_WINDOW // _WINDOW, _HIGH * _COHERENCE_WINDOW // _WINDOW
    window = np.hanning(_COHERENCE_WINDOW).astype(np.float32)
    frames = [sliding_window_view(clip, _COHERENCE_WINDOW)[:: _COHERENCE_WINDOW // 2] for clip in (first, second)]
    x, y = (fft.rfft(clip_frames * window, axis=1)[:, low:high] for clip_frames in frames)
    power = np.sqrt((np.abs(x) ** 2).sum(axis=0) * (np.abs(y) ** 2).sum(axis=0))
    coherence = np.abs((x * np.conj(y)).sum(axis=0)) / np.maximum(power, 1e-20)
    weights = power**0.25
    return float((coherence * weights).sum() / max(float(weights.sum()), 1e-20))


def _magnitudes(samples: np.ndarray) -> np.ndarray:
    """Return the amplitudes of 300 to 3400 Hz, shape (frames, frequencies); no frames for clips under 64 ms."""
    if len(samples) < _WINDOW:
        return np.zeros((0, _HIGH - _LOW), np.float32)
    amplitudes: np.ndarray = np.abs(fft.rfft(sliding_window_view(samples, _WINDOW)[::_HOP] * _HANN, axis=1))
    return amplitudes[:, _LOW:_HIGH]


def _emphasize_speech(samples: np.ndarray) -> np.ndarray:
    """Remove frequencies below 300 Hz, and emphasize high ones, where speech is softer."""
    high_pass = butter(4, _BAND[0], "highpass", fs=RATE, output="sos")
    filtered = sosfilt(high_pass, samples).astype(np.float32)
    emphasized: np.ndarray = np.append(filtered[:1], filtered[1:] - np.float32(0.9) * filtered[:-1])
    return emphasized
