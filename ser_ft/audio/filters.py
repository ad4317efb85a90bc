"""Filters for audio that arrives in blocks of any size: resampling, and removal of offset and rumble."""

from __future__ import annotations

import cmath
import math

import numpy as np
import soxr

SAMPLE_RATE = 16_000
CUTOFF = 40.0
"""Cutoff of `HighPass` in Hz (-3 dB)."""
# Samples are filtered in grid blocks of 32 rows of 32 samples, by matrix products of one shape: the result for a sample
# does not depend on how many samples arrive together.
_ROW = _ROWS = 32
_GRID = _ROWS * _ROW
_CHUNK = 2**14  # source samples that are resampled at once: soxr copies them
_MAX_BLOCKS = 16  # at once, so that they stay in the cache of the processor
_NEGLIGIBLE = 1e-20


def resample(samples: np.ndarray, from_rate: int, to_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Resample samples, shape (samples,), from one rate in Hz to another with the high-quality filter of soxr."""
    return Resampler(from_rate, to_rate).feed(samples.astype(np.float32, copy=False), last=True)


class Resampler:
    """`resample` for blocks of any size, bit for bit, with a delay of at most 0.12 s (from 8 kHz on)."""

    def __init__(self, from_rate: int, to_rate: int = SAMPLE_RATE) -> None:
        self._stream = None if from_rate == to_rate else soxr.ResampleStream(from_rate, to_rate, 1, "float32", "HQ")

    def feed(self, samples: np.ndarray, last: bool = False) -> np.ndarray:
        """Take float32 samples, shape (samples,), and return those that are ready: all of them after the last block."""
        samples = np.ascontiguousarray(samples)
        if self._stream is None:
            return samples
        starts = range(0, max(1, len(samples)), _CHUNK)
        chunks = [
            self._stream.resample_chunk(samples[start : start + _CHUNK], last and start == starts[-1])
            for start in starts
        ]
        return chunks[0] if len(chunks) == 1 else np.concatenate(chunks)


class HighPass:
    """A Butterworth high-pass of second order for samples at 16 kHz, without delay.

    The result is bit for bit the same for blocks of any size. With p a pole of the filter, c its residue and h its
    impulse response, y[n] = h[0] x[n] + 2 Re(c z[n]), where z[n + 1] = p z[n] + x[n].
    """

    def __init__(self) -> None:
        self._state = 0j  # z at the start of `_block`
        self._block = np.zeros(0, np.float32)  # the samples of an incomplete grid block

    def feed(self, samples: np.ndarray) -> np.ndarray:
        """Filter the next float32 samples, shape (samples,), and return them; they may be filtered in place."""
        first = len(self._block)
        joined = np.concatenate([self._block, samples]) if first else samples
        self._block = joined[len(joined) // _GRID * _GRID :].copy()
        for start in range(0, len(joined), _MAX_BLOCKS * _GRID):
            part = joined[start : start + _MAX_BLOCKS * _GRID]
            part[:] = self._filter(part)[: len(part)]
        return joined[first:]

    def _filter(self, samples: np.ndarray) -> np.ndarray:
        """Filter samples from the start of a grid block, and move on to the start of the last incomplete one."""
        complete = len(samples) // _GRID
        if complete * _GRID < len(samples):
            samples = np.concatenate([samples, np.zeros(-len(samples) % _GRID, np.float32)])
        blocks = samples.reshape(-1, _ROWS, _ROW)
        # The states at the ends of the rows are sums of what each row adds, which is scaled to the start of the block.
        sums = np.cumsum((blocks @ _ROW_END).view(np.complex64)[..., 0] * _INVERSE_POWERS, axis=1)
        starts = np.empty(len(blocks), np.complex128)
        for index, block_sum in enumerate(sums[:, -1].tolist()):
            starts[index] = self._state
            if index < complete:
                state = _BLOCK_POWER * (self._state + block_sum)
                self._state = state if abs(state) > _NEGLIGIBLE else 0j
        states = np.empty(sums.shape, np.complex128)
        states[:, 0] = starts
        np.add(sums[:, :-1], starts[:, None], out=states[:, 1:])
        states *= _ROW_POWERS
        filtered: np.ndarray = blocks @ _ROW_RESPONSE
        filtered += states.astype(np.complex64)[..., None].view(np.float32) @ _STATE_RESPONSE
        return np.reshape(filtered, -1)


def _design() -> tuple[np.ndarray, np.ndarray, np.ndarray, complex]:
    """Return the matrices of `HighPass`.

    They give the response within a row and the state after it, shapes (row, row) and (row, 2); the response to the
    state before a row, shape (2, row); and the power of the pole by which a row changes the state.
    """
    # The bilinear transform of s^2 / (s^2 + sqrt(2) s + 1), whose poles are exp(+-3 pi i / 4).
    warped = math.tan(math.pi * CUTOFF / SAMPLE_RATE)
    analog_pole = warped * cmath.exp(0.75j * math.pi)
    pole = (1 + analog_pole) / (1 - analog_pole)
    gain = 1 / abs(1 - analog_pole) ** 2
    # h[n] = gain (g[n] - 2 g[n - 1] + g[n - 2]), where g[n] = Im(p^(n + 1)) / Im(p); so c = gain (p - 1)^2 / (p - p*).
    residue = gain * (pole - 1) ** 2 / (pole - pole.conjugate())
    powers = pole ** np.arange(_ROW)
    response = np.concatenate([[gain], 2 * (residue * powers).real])
    lags = np.arange(_ROW)[None, :] - np.arange(_ROW)[:, None]
    row_response = np.where(lags >= 0, response[np.abs(lags)], 0.0)
    row_end = np.stack([powers[::-1].real, powers[::-1].imag], axis=1)
    state_response = 2 * np.stack([(residue * powers).real, -(residue * powers).imag])
    matrices = [np.ascontiguousarray(matrix, np.float32) for matrix in (row_response, row_end, state_response)]
    return matrices[0], matrices[1], matrices[2], pole**_ROW


_ROW_RESPONSE, _ROW_END, _STATE_RESPONSE, _ROW_POWER = _design()
_ROW_POWERS = _ROW_POWER ** np.arange(_ROWS)
_INVERSE_POWERS = _ROW_POWER ** -np.arange(1.0, _ROWS + 1)
_BLOCK_POWER = _ROW_POWER**_ROWS
