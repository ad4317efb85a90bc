"""Conversion of audio in blocks of any size to one channel at 16 kHz, without offset and rumble."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from ..utils.errors import AUDIO_LOGGER
from .errors import AudioError
from .filters import HighPass, Resampler
from .samples import SILENCE_PEAK, as_float, check_sampling_rate

logger = logging.getLogger(AUDIO_LOGGER)

_GRID_SECONDS = 0.25
"""Channels are compared in pieces of this length, and the mean of the first one is the offset at the start."""
# Channels are compared for a minute of sound, in the band with most of its energy, from one of 4000 samples per
# second. Their sum has the sum of their energies if they are unrelated; if it has less than this share, they cancel.
_COMPARED_RATE = 4000
_BAND = (150.0, 1000.0)  # Hz
_MAX_COMPARED_PIECES = 240
_CANCELLED_SHARE = 0.25
# Of the channels within 10 dB of the strongest, the one with the least noise is used: the lowest of its frames of 20 ms
# in relation to its energy.
_FRAMES_PER_SECOND = 50
_NEAR_STRONGEST = 0.1
# Lossy coding and masters exceed full scale by less than 6 dB.
_NOTABLE_PEAK = 2.0


_LEAST_LEVEL = np.float32(2**-16)
_SEARCHED_AT_ONCE = 512


class MonoConverter:
    """Converts audio at `rate` Hz, in blocks of any size, to one channel at 16 kHz.

    Offset and rumble are removed by `HighPass`, and values beyond full scale are clipped to it. The result is bit for
    bit the same for blocks of any size. `channel` is the channel that is used, from 0. None: the mean of all channels,
    or one of them if they cancel each other, because one is inverted; a warning is logged then. Samples are delayed by
    the resampler, in the first quarter of a second until its end, and in the first minute of several channels by up to
    a quarter of a second.

    Raises:
        AudioError: The rate is not valid.
    """

    def __init__(self, rate: int, channel: int | None = None, name: str = "the stream") -> None:
        check_sampling_rate(rate, name)
        self._mixer = _Mixer(rate, channel, name)
        self._name = name
        self._offset_samples = round(_GRID_SECONDS * rate)
        self._start: list[np.ndarray] = []  # blocks that wait until the offset is known
        self._offset: np.float32 | None = None
        self._resampler = Resampler(rate)
        self._high_pass = HighPass()
        self._is_clipped = False
        self._position = 0
        self.sound = slice(0, 0)
        """The samples without digital silence at both ends, which the filter blurs."""

    def feed(self, block: Any, last: bool = False) -> np.ndarray:
        """Take a block, and return the samples that are ready: float32 at 16 kHz, shape (samples,).

        All of them are returned after the `last` block. A block is what `as_float` takes. AudioError is raised if it is
        not, lacks the channel, or does not have the number of channels of the blocks before.
        """
        return self.convert(as_float(block, self._name), last)

    def convert(self, samples: np.ndarray, last: bool = False) -> np.ndarray:
        """Convert samples as `feed` does, in place: they are what `as_float` or `AudioReader.blocks` returns."""
        mono = self._mixer.feed(samples, last)
        if self._offset is None:
            self._start.append(mono)
            if sum(map(len, self._start)) < self._offset_samples and not last:
                return np.zeros(0, np.float32)
            mono = np.concatenate(self._start) if len(self._start) > 1 else mono
            first = mono[: self._offset_samples]
            self._offset = np.float32(first.mean(dtype=np.float64)) if len(first) else np.float32(0)
            self._start.clear()
        mono -= self._offset
        resampled = self._resampler.feed(mono, last)
        self._find_sound(resampled)
        filtered = self._high_pass.feed(resampled)
        peak = max(filtered.max(initial=0.0), -filtered.min(initial=0.0))
        if peak > _NOTABLE_PEAK and not self._is_clipped:
            self._is_clipped = True
            logger.warning("%s: samples far beyond full scale are clipped: lower the level of the file", self._name)
        return np.clip(filtered, -1, 1, out=filtered) if peak > 1 else filtered

    def finish(self) -> np.ndarray:
        """Return the remaining samples, shape (samples,). Nothing can be fed afterwards."""
        return self.feed(np.zeros(0, np.float32), last=True)

    def _find_sound(self, samples: np.ndarray) -> None:
        position, self._position = self._position, self._position + len(samples)
        assert self._offset is not None
        if (start := _silent_start(samples, self._offset)) < len(samples):
            first = self.sound.start if self.sound.stop else position + start
            self.sound = slice(first, self._position - _silent_start(samples[::-1], self._offset))


def _silent_start(samples: np.ndarray, offset: np.float32) -> int:
    """Return the number of samples at the start that are zero in 16 bits, without an offset that was removed."""
    for start in range(0, len(samples), _SEARCHED_AT_ONCE):
        is_sound = np.abs(samples[start : start + _SEARCHED_AT_ONCE] + offset) >= _LEAST_LEVEL
        if (index := int(is_sound.argmax())) or is_sound[0]:
            return start + index
    return len(samples)


class _Mixer:
    """Mixes the channels of audio, or selects one of them."""

    def __init__(self, rate: int, channel: int | None, name: str) -> None:
        self._rate, self._name = rate, name
        self._selected = channel
        self._channels: int | None = None
        self._piece = round(_GRID_SECONDS * rate)
        self._pending = np.zeros((0, 1), np.float32)  # an incomplete piece
        self._compared = 0
        self._sum_energy = self._channel_energy = 0.0

    def feed(self, samples: np.ndarray, last: bool) -> np.ndarray:
        """Take samples, shape (samples, channels), and return those that are ready, shape (samples,)."""
        if len(samples):
            self._check_channels(samples.shape[1])
            samples = np.concatenate([self._pending, samples]) if len(self._pending) else samples
        else:
            samples = self._pending
        mixed = []
        while self._is_comparing and (len(samples) >= self._piece or (last and len(samples))):
            piece, samples = samples[: self._piece], samples[self._piece :]
            self._compare(piece)
            mixed.append(self._mix(piece))
        if self._is_comparing:
            self._pending = samples.copy()
        else:
            mixed.append(self._mix(samples))
            self._pending = samples[:0]
        return mixed[0] if len(mixed) == 1 else np.concatenate([np.zeros(0, np.float32), *mixed])

    @property
    def _is_comparing(self) -> bool:
        return self._selected is None and (self._channels or 1) > 1 and self._compared < _MAX_COMPARED_PIECES

    def _check_channels(self, channels: int) -> None:
        if self._channels is None:
            if self._selected is not None and self._selected not in range(channels):
                available = f"the audio has {channels} channels, from 0"
                raise AudioError("unreadable", f"{self._name}: there is no channel {self._selected}: {available}")
            self._channels = channels
        elif channels != self._channels:
            change = f"there were {self._channels}, and now there are {channels}"
            raise AudioError("unreadable", f"{self._name}: the number of channels must not change: {change}")

    def _mix(self, samples: np.ndarray) -> np.ndarray:
        channels = samples.shape[1]
        if channels == 1 or self._selected is not None:
            return samples[:, min(self._selected or 0, channels - 1)]
        mixed = samples[:, 0].copy()
        for channel in range(1, channels):
            mixed += samples[:, channel]
        mixed *= np.float32(1 / channels)
        return mixed

    def _compare(self, piece: np.ndarray) -> None:
        """Select the best channel if all sound so far cancels in the sum of the channels."""
        step = max(1, self._rate // _COMPARED_RATE)
        thinned = piece[::step]
        spectra = np.fft.rfft(thinned - thinned.mean(axis=0), axis=0)
        first, last = (round(frequency * step * len(thinned) / self._rate) for frequency in _BAND)
        spectra = spectra[first:last] * np.sqrt(2) / len(thinned)
        products = (spectra.conj().T @ spectra).real
        energies = np.diagonal(products)
        if energies.max() < SILENCE_PEAK**2 / 2:
            return
        self._compared += 1
        self._sum_energy += float(products.sum())
        self._channel_energy += float(energies.sum())
        if self._sum_energy < _CANCELLED_SHARE * self._channel_energy:
            self._selected = _least_noisy(piece, energies, max(1, self._rate // _FRAMES_PER_SECOND))
            used = f"only channel {self._selected + 1} of {self._channels} is used"
            logger.warning("%s: the channels cancel each other, as if one were inverted: %s", self._name, used)


def _least_noisy(piece: np.ndarray, energies: np.ndarray, frame: int) -> int:
    frames = piece[: max(1, len(piece) // frame) * frame]
    frames = (frames - frames.mean(axis=0)).reshape(-1, min(frame, len(frames)), piece.shape[1])
    noise = (frames.astype(np.float64) ** 2).mean(axis=1).min(axis=0)
    candidates = np.flatnonzero(energies >= _NEAR_STRONGEST * energies.max())
    return int(candidates[np.argmin(noise[candidates] / energies[candidates])])
