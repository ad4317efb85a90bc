"""Waveforms and spectrograms: their values, and their pictures with matplotlib."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ...audio import SAMPLE_RATE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

HOP_LENGTH = 160
"""Samples between two frames of a spectrogram: 10 ms."""
_WIN_LENGTH = 512
_SMALLEST_POWER = 1e-12


def waveform_envelope(samples: np.ndarray, num_points: int = 500) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the start (s) and the lowest and highest sample of each of `num_points` stretches of a waveform.

    There are fewer stretches if there are fewer samples.
    """
    starts = np.linspace(0, len(samples), min(num_points, len(samples)), endpoint=False).astype(int)
    return starts / SAMPLE_RATE, np.minimum.reduceat(samples, starts), np.maximum.reduceat(samples, starts)


def spectrogram_db(
    samples: np.ndarray, n_mels: int | None = None, reference_power: float | None = None, hop_length: int = HOP_LENGTH
) -> np.ndarray:
    """Compute a spectrogram, or a log-mel spectrogram, over windows of 32 ms.

    Args:
        samples: float, 16 kHz, shape (samples,).
        n_mels: number of mel bands; None: the frequencies of the Fourier transform, 31.25 Hz apart.
        reference_power: the power at 0 dB, for example `peak_power` of another clip. None: the highest of this clip.
        hop_length: samples from frame to frame.

    Returns:
        Decibels, shape (n_mels or 257, frames), the lowest frequency first.
    """
    power = _power(samples, hop_length)
    if n_mels is not None:
        power = _mel_filters(n_mels) @ power
    reference = max(float(power.max()) if reference_power is None else reference_power, _SMALLEST_POWER)
    decibels: np.ndarray = 10 * np.log10(np.maximum(power / reference, _SMALLEST_POWER))
    return decibels


def peak_power(samples: np.ndarray, hop_length: int = HOP_LENGTH) -> float:
    """Return the highest power in a clip's spectrogram (without mel bands)."""
    return float(_power(samples, hop_length).max())


def draw_waveform(axes: Axes, samples: np.ndarray, color: str, num_points: int = 900) -> None:
    """Draw a waveform over seconds, as the band between its lowest and highest samples."""
    times, lows, highs = waveform_envelope(samples, num_points)
    axes.fill_between(times, lows, highs, color=color, lw=0.4)


def draw_spectrogram(
    axes: Axes, decibels: np.ndarray, range_db: float, hop_length: int = HOP_LENGTH, max_hz: float = SAMPLE_RATE / 2
) -> AxesImage:
    """Draw the result of `spectrogram_db` (without mel bands) over seconds and kHz.

    The color is brightest at 0 dB and black at `-range_db`; frequencies over `max_hz` are not shown.
    """
    frame, half_bin = hop_length / SAMPLE_RATE, SAMPLE_RATE / _WIN_LENGTH / 2000
    extent = (-frame / 2, (decibels.shape[1] - 0.5) * frame, -half_bin, SAMPLE_RATE / 2000 + half_bin)
    style: dict[str, Any] = {"cmap": "magma", "aspect": "auto", "origin": "lower", "interpolation": "bilinear"}
    image = axes.imshow(decibels, extent=extent, vmin=-range_db, vmax=0, **style)
    axes.set_ylim(0, max_hz / 1000)
    axes.set_facecolor("black")
    return image


def _power(samples: np.ndarray, hop_length: int) -> np.ndarray:
    from scipy.signal import ShortTimeFFT
    from scipy.signal.windows import hann

    transform = ShortTimeFFT(hann(_WIN_LENGTH, sym=False), hop=hop_length, fs=SAMPLE_RATE)
    power: np.ndarray = transform.spectrogram(np.pad(samples, (0, max(0, _WIN_LENGTH - len(samples)))), p0=0)
    return power


@cache
def _mel_filters(n_mels: int) -> np.ndarray:
    """Return triangles evenly spaced over mel = 2595 log10(1 + f / 700), as in HTK, shape (n_mels, 257)."""
    highest = 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, highest, n_mels + 2) / 2595) - 1)
    frequencies = np.linspace(0, SAMPLE_RATE / 2, _WIN_LENGTH // 2 + 1)
    rising = (frequencies - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - frequencies) / (edges[2:] - edges[1:-1])[:, None]
    filters: np.ndarray = np.maximum(0, np.minimum(rising, falling))
    # The lowest bands are narrower than the distance of two frequencies: each takes the closest frequency.
    empty = ~filters.any(axis=1)
    filters[empty, np.abs(frequencies - edges[1:-1][empty, None]).argmin(axis=1)] = 1.0
    return filters
