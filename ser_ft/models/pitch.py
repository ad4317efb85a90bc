"""Pitch by YIN (de Cheveigne & Kawahara 2002, JASA 111, 1917-1930): many clips at once, with a decision on voicing.

Steps 1 to 5 of the paper; its sixth, which looks for a better estimate in the frames near by, is left out.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

_FRAMES_AT_ONCE = 1024
_FLAT = 1e-20  # of a curvature that would be divided by


class Pitch(NamedTuple):
    """The pitch of each frame.

    Attributes:
        frequency: in Hz, shape (clips, frames); nan where the frame is not voiced, and where it is not real.
        aperiodicity: the depth of the dip that the frequency was read from, shape (clips, frames): 0 for a perfectly
            periodic frame, about 1 for noise; 1 where nothing was looked for.
        mask: whether the frame is real, shape (clips, frames).
    """

    frequency: torch.Tensor
    aperiodicity: torch.Tensor
    mask: torch.Tensor


def yin(
    waveforms: torch.Tensor,
    lengths: torch.Tensor,
    sampling_rate: int = 16_000,
    f_min: float = 60.0,
    f_max: float = 600.0,
    window: float = 0.025,
    hop_length: int = 160,
    threshold: float = 0.1,
    voicing: float = 0.25,
    quiet: float = 30.0,
) -> Pitch:
    """Estimate the fundamental frequency of voiced speech.

    A clip's pitch is the same alone and in a batch. Frame k is centred on sample k * hop_length; the sound is padded
    with zeros at both ends.

    Args:
        waveforms: zero-padded, shape (clips, samples), float, full scale at 1.0.
        lengths: real samples of each clip, shape (clips,).
        sampling_rate: in Hz.
        f_min: the lowest frequency looked for, in Hz. f_max: the highest.
        window: over which a frame is compared with itself some samples later, in seconds; 25 ms in the paper.
        hop_length: samples from frame to frame.
        threshold: the first dip deeper than this is taken (step 4), and the deepest where none is; 0.1 in the paper.
        voicing: a frame is voiced where its dip is deeper than this ...
        quiet: ... and its power is less than so many dB under that of the clip's loudest frame.

    Raises:
        ValueError: the frequencies are not 0 < f_min < f_max <= half the sampling rate.
    """
    if not 0 < f_min < f_max <= sampling_rate / 2:
        raise ValueError(
            f"0 < f_min < f_max <= {sampling_rate / 2:g} Hz must hold; f_min is {f_min:g}, f_max {f_max:g}"
        )
    shortest, longest = int(sampling_rate / f_max), -int(-sampling_rate // f_min)
    width = round(window * sampling_rate)
    span = width + longest + 1
    count = 1 + waveforms.shape[1] // hop_length
    missing = (count - 1) * hop_length + span - span // 2 - waveforms.shape[1]
    padded = torch.nn.functional.pad(waveforms, (span // 2, max(0, missing)))
    frames = padded.unfold(1, span, hop_length)
    mask = torch.arange(count, device=waveforms.device)[None] <= lengths[:, None] // hop_length
    power = torch.nn.functional.avg_pool1d(padded.square()[:, None], span, hop_length)[:, 0, :count] * mask
    heard = power > power.amax(dim=1, keepdim=True) * 10 ** (-quiet / 10)
    frequency = torch.full(mask.shape, torch.nan, device=waveforms.device)
    aperiodicity = torch.ones(mask.shape, device=waveforms.device)
    for some in heard.nonzero().split(_FRAMES_AT_ONCE):
        if len(some):
            place = some[:, 0], some[:, 1]
            lags, aperiodicity[place] = _lags(frames[place], width, shortest, longest, threshold)
            frequency[place] = sampling_rate / lags
    frequency[aperiodicity >= voicing] = torch.nan
    return Pitch(frequency, aperiodicity, mask)


def _lags(
    frames: torch.Tensor, width: int, shortest: int, longest: int, threshold: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the period in samples of each frame, shape (frames,), and the depth of its dip, shape (frames,)."""
    difference = _difference(frames, width, longest + 1)
    # Step 3: each value over the mean of all up to it; 1 where the sound is digital silence.
    steps = torch.arange(1, longest + 2, device=frames.device)
    sums = difference[:, 1:].cumsum(dim=1)
    dips = torch.where(sums > 0, difference[:, 1:] * steps / sums, 1.0)
    # Column j of `dips` is lag j + 1; a dip lies inside the range, so that both its neighbours are there.
    before, inner, after = (dips[:, shortest - 1 + side : longest + side] for side in (-1, 0, 1))
    lowest = (inner < before) & (inner <= after)
    # Step 5: a dip is as deep, and lies, where the parabola through it and its neighbours has its lowest point.
    bend = (before - 2 * inner + after).clamp(min=_FLAT)
    depths = torch.where(lowest, inner - (before - after).square() / (8 * bend), torch.inf)
    deep = depths < threshold
    first = deep.to(torch.uint8).argmax(dim=1)
    place = torch.where(deep.any(dim=1), first, depths.argmin(dim=1))[:, None]
    # The plain difference tells the place, for its dips are not shifted by the division.
    left, middle, right = (difference.gather(1, place + shortest + side)[:, 0] for side in (-1, 0, 1))
    shift = (left - right) / (2 * (left - 2 * middle + right).clamp(min=_FLAT))
    return place[:, 0] + shortest + shift.clamp(-1, 1), depths.gather(1, place)[:, 0].clamp(0, 1)


def _difference(frames: torch.Tensor, width: int, longest: int) -> torch.Tensor:
    """Return the squared difference between a window and itself later, for lags 0 to `longest` (step 2)."""
    size = _fast_length(frames.shape[1])
    spectrum = torch.fft.rfft(frames, size)
    products = torch.fft.irfft(spectrum * torch.fft.rfft(frames[:, :width], size).conj(), size)[:, : longest + 1]
    sums = torch.nn.functional.pad(frames.square().cumsum(dim=1), (1, 0))
    powers = sums[:, width : width + longest + 1] - sums[:, : longest + 1]
    difference: torch.Tensor = powers[:, :1] + powers - 2 * products
    return difference.clamp(min=0)


def _fast_length(size: int) -> int:
    """Return the next even size whose prime factors are 2, 3 and 5, which Fourier transforms are quick for."""
    size += size % 2
    rest = size
    for factor in (2, 3, 5):
        while rest % factor == 0:
            rest //= factor
    return size if rest == 1 else _fast_length(size + 2)
