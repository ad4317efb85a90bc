"""Pitch by YIN (de Cheveigne & Kawahara 2002, JASA 111, 1917-1930) for batches of clips, with voicing decisions.

Implements steps 1 to 5 of the paper, without step 6, the search for a better estimate in neighboring frames.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

_CHUNK_FRAMES = 1024
_MIN_CURVATURE = 1e-20


class Pitch(NamedTuple):
    """The pitch of each frame; each tensor has shape (clips, frames)."""

    frequency: torch.Tensor
    """Fundamental frequency in Hz; nan in unvoiced frames and in padding."""
    aperiodicity: torch.Tensor
    """0 for a perfectly periodic frame, about 1 for noise; 1 in frames that are too quiet to be analyzed."""
    mask: torch.Tensor
    """False in padding."""


def yin(
    waveforms: torch.Tensor,
    lengths: torch.Tensor,
    sampling_rate: int = 16_000,
    f_min: float = 60.0,
    f_max: float = 600.0,
    window_seconds: float = 0.025,
    hop_length: int = 160,
    dip_threshold: float = 0.1,
    voicing_threshold: float = 0.25,
    dynamic_range_db: float = 30.0,
) -> Pitch:
    """Estimate the fundamental frequency of voiced speech.

    The pitch of a clip is the same alone and in a batch. Frame k is centered on sample k * hop_length; clips are padded
    with zeros at both ends.

    Args:
        waveforms: zero-padded waveforms, shape (clips, samples), float with full scale at 1.0.
        lengths: samples of each clip without padding, shape (clips,).
        sampling_rate: sampling rate in Hz.
        f_min: lowest frequency in Hz, above 0.
        f_max: highest frequency in Hz, at most half the sampling rate.
        window_seconds: length of the window that is compared with its lagged copies; 25 ms in the paper.
        hop_length: samples between frames.
        dip_threshold: the first dip of the difference function below this is chosen (step 4), or else the deepest
            dip; 0.1 in the paper.
        voicing_threshold: highest aperiodicity of a voiced frame.
        dynamic_range_db: a voiced frame is at most this many dB below the clip's loudest frame.
    """
    if not 0 < f_min < f_max <= sampling_rate / 2:
        raise ValueError(f"0 < f_min < f_max <= {sampling_rate / 2:g} Hz must hold, not {f_min:g} and {f_max:g}")
    shortest, longest = int(sampling_rate / f_max), -int(-sampling_rate // f_min)
    width = round(window_seconds * sampling_rate)
    span = width + longest + 1
    count = 1 + waveforms.shape[1] // hop_length
    missing = (count - 1) * hop_length + span - span // 2 - waveforms.shape[1]
    padded = torch.nn.functional.pad(waveforms, (span // 2, max(0, missing)))
    frames = padded.unfold(1, span, hop_length)
    mask = torch.arange(count, device=waveforms.device)[None] <= lengths[:, None] // hop_length
    power = torch.nn.functional.avg_pool1d(padded.square()[:, None], span, hop_length)[:, 0, :count] * mask
    loud = power > power.amax(dim=1, keepdim=True) * 10 ** (-dynamic_range_db / 10)
    frequency = torch.full(mask.shape, torch.nan, device=waveforms.device)
    aperiodicity = torch.ones(mask.shape, device=waveforms.device)
    for chunk in loud.nonzero().split(_CHUNK_FRAMES):
        if len(chunk):
            index = chunk[:, 0], chunk[:, 1]
            lags, aperiodicity[index] = _estimate_lags(frames[index], width, shortest, longest, dip_threshold)
            frequency[index] = sampling_rate / lags
    frequency[aperiodicity >= voicing_threshold] = torch.nan
    return Pitch(frequency, aperiodicity, mask)


def _estimate_lags(
    frames: torch.Tensor, width: int, shortest: int, longest: int, threshold: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the period in samples and the aperiodicity of each frame, both of shape (frames,)."""
    difference = _difference(frames, width, longest + 1)
    # Step 3: cumulative mean normalized difference; 1 in digital silence.
    steps = torch.arange(1, longest + 2, device=frames.device)
    sums = difference[:, 1:].cumsum(dim=1)
    dips = torch.where(sums > 0, difference[:, 1:] * steps / sums, 1.0)
    # Column j of `dips` is lag j + 1. A dip lies inside the range, so that it has two neighbors.
    before, inner, after = (dips[:, shortest - 1 + side : longest + side] for side in (-1, 0, 1))
    is_minimum = (inner < before) & (inner <= after)
    # Step 5: depth and position of a dip by a parabola through it and its neighbors.
    curvature = (before - 2 * inner + after).clamp(min=_MIN_CURVATURE)
    depths = torch.where(is_minimum, inner - (before - after).square() / (8 * curvature), torch.inf)
    is_deep = depths < threshold
    first = is_deep.to(torch.uint8).argmax(dim=1)
    lag = torch.where(is_deep.any(dim=1), first, depths.argmin(dim=1))[:, None]
    # The position is read from the difference function, whose dips are not shifted by the normalization.
    left, middle, right = (difference.gather(1, lag + shortest + side)[:, 0] for side in (-1, 0, 1))
    shift = (left - right) / (2 * (left - 2 * middle + right).clamp(min=_MIN_CURVATURE))
    return lag[:, 0] + shortest + shift.clamp(-1, 1), depths.gather(1, lag)[:, 0].clamp(0, 1)


def _difference(frames: torch.Tensor, width: int, longest: int) -> torch.Tensor:
    """Return the difference function for lags 0 to `longest` (step 2), shape (frames, longest + 1)."""
    size = _fast_length(frames.shape[1])
    spectrum = torch.fft.rfft(frames, size)
    products = torch.fft.irfft(spectrum * torch.fft.rfft(frames[:, :width], size).conj(), size)[:, : longest + 1]
    sums = torch.nn.functional.pad(frames.square().cumsum(dim=1), (1, 0))
    powers = sums[:, width : width + longest + 1] - sums[:, : longest + 1]
    difference: torch.Tensor = powers[:, :1] + powers - 2 * products
    return difference.clamp(min=0)


def _fast_length(size: int) -> int:
    """Return the next even size whose prime factors are 2, 3 and 5, for a fast Fourier transform."""
    size += size % 2
    rest = size
    for factor in (2, 3, 5):
        while rest % factor == 0:
            rest //= factor
    return size if rest == 1 else _fast_length(size + 2)
