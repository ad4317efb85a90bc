"""The positional convolution of wav2vec2's kin by Fourier transform: on CPUs its training takes half the time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

# Below this kernel the direct way is as fast.
_LEAST_KERNEL = 64


class FourierConvolution(torch.autograd.Function):
    """`torch.nn.functional.conv1d` with padding of half an even kernel, in float32, by the correlation theorem.

    The products of spectra are matrix products, one per frequency and group; see Mathieu, Henaff and LeCun 2014,
    "Fast training of convolutional networks through FFTs".
    """

    @staticmethod
    def forward(ctx: Any, frames: torch.Tensor, weight: torch.Tensor, groups: int) -> torch.Tensor:
        """Convolve (clips, channels, frames) with a weight (channels, channels / groups, kernel): one frame longer."""
        clips, channels, length = frames.shape
        kernel = weight.shape[2]
        size = -(-max(length + kernel // 2, kernel) // 32) * 32
        spectra = _by_frequency(torch.fft.rfft(frames, n=size).view(clips, groups, channels // groups, -1))
        filters = torch.fft.rfft(weight, n=size).view(groups, channels // groups, channels // groups, -1)
        filters = filters.permute(3, 0, 1, 2).contiguous()
        ctx.save_for_backward(spectra, filters)
        ctx.sizes = (length, kernel, size)
        centred = _in_time(torch.matmul(spectra, filters.mH), size).roll(kernel // 2, dims=-1)
        return centred[..., : length + 1]

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        """Return the gradients of the frames and of the weight."""
        spectra, filters = ctx.saved_tensors
        length, kernel, size = ctx.sizes
        groups, width = filters.shape[1], filters.shape[2]
        given = nn.functional.pad(gradients[0].float(), (0, size - length - 1)).roll(-(kernel // 2), dims=-1)
        spectrum = _by_frequency(torch.fft.rfft(given).view(len(given), groups, width, -1))
        of_frames = _in_time(torch.matmul(spectrum, filters), size)[..., :length]
        products = torch.matmul(spectrum.mH, spectra).permute(1, 2, 3, 0)
        of_weight = torch.fft.irfft(products, n=size)[..., :kernel].reshape(groups * width, width, kernel)
        return of_frames, of_weight, None


def _by_frequency(spectra: torch.Tensor) -> torch.Tensor:
    """Turn (clips, groups, channels, frequencies) into (frequencies, groups, clips, channels)."""
    return spectra.permute(3, 1, 0, 2).contiguous()


def _in_time(spectra: torch.Tensor, size: int) -> torch.Tensor:
    """Turn (frequencies, groups, clips, channels) into (clips, all channels, size) of time."""
    found: torch.Tensor = torch.fft.irfft(spectra.permute(2, 1, 3, 0), n=size)
    return found.flatten(1, 2)


def as_fft_convolution(convolution: nn.Conv1d) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """Return what stands in for a convolution's `forward` where a CPU trains it; None where nothing is gained."""
    kernel = convolution.kernel_size[0]
    centred = kernel % 2 == 0 and convolution.padding == (kernel // 2,) and convolution.stride == (1,)
    if kernel < _LEAST_KERNEL or not centred or convolution.in_channels != convolution.out_channels:
        return None
    direct = convolution.forward

    def forward(frames: torch.Tensor) -> torch.Tensor:
        if frames.device.type != "cpu" or not torch.is_grad_enabled():
            return direct(frames)
        kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else frames.dtype
        with torch.autocast("cpu", enabled=False):
            made: torch.Tensor = FourierConvolution.apply(
                frames.float(), convolution.weight.float(), convolution.groups
            )
            if convolution.bias is not None:
                made = made + convolution.bias[:, None]
        return made.to(kind)

    return forward
