"""Faster layers for stock models, with the same output.

The positional convolution of the wav2vec2 family by Fourier transform is twice as fast in training on CPUs; WavLM's
attention is computed by its linear layers and torch's fused attention.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class FourierConvolution(torch.autograd.Function):
    """`torch.nn.functional.conv1d` with padding of half an even kernel, in float32, by the correlation theorem.

    The products of spectra are matrix products, one per frequency and group; see Mathieu, Henaff and LeCun 2014,
    "Fast training of convolutional networks through FFTs".
    """

    @staticmethod
    def forward(ctx: Any, frames: torch.Tensor, weight: torch.Tensor, groups: int) -> torch.Tensor:
        """Convolve (clips, channels, frames) with a weight (channels, channels / groups, kernel) to frames + 1."""
        clips, channels, length = frames.shape
        kernel = weight.shape[2]
        size = -(-max(length + kernel // 2, kernel) // 32) * 32
        spectra = _by_frequency(torch.fft.rfft(frames, n=size).view(clips, groups, channels // groups, -1))
        filters = torch.fft.rfft(weight, n=size).view(groups, channels // groups, channels // groups, -1)
        filters = filters.permute(3, 0, 1, 2).contiguous()
        ctx.save_for_backward(spectra, filters)
        ctx.sizes = (length, kernel, size)
        centered = _in_time(torch.matmul(spectra, filters.mH), size).roll(kernel // 2, dims=-1)
        return centered[..., : length + 1]

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        """Return the gradients of the frames and of the weight."""
        spectra, filters = ctx.saved_tensors
        length, kernel, size = ctx.sizes
        groups, width = filters.shape[1], filters.shape[2]
        gradient = nn.functional.pad(gradients[0].float(), (0, size - length - 1)).roll(-(kernel // 2), dims=-1)
        spectrum = _by_frequency(torch.fft.rfft(gradient).view(len(gradient), groups, width, -1))
        frames_gradient = _in_time(torch.matmul(spectrum, filters), size)[..., :length]
        products = torch.matmul(spectrum.mH, spectra).permute(1, 2, 3, 0)
        weight_gradient = torch.fft.irfft(products, n=size)[..., :kernel].reshape(groups * width, width, kernel)
        return frames_gradient, weight_gradient, None


def _by_frequency(spectra: torch.Tensor) -> torch.Tensor:
    """Permute (clips, groups, channels, frequencies) to (frequencies, groups, clips, channels)."""
    return spectra.permute(3, 1, 0, 2).contiguous()


def _in_time(spectra: torch.Tensor, size: int) -> torch.Tensor:
    """Transform (frequencies, groups, clips, channels) to (clips, all channels, size) in time."""
    signals: torch.Tensor = torch.fft.irfft(spectra.permute(2, 1, 3, 0), n=size)
    return signals.flatten(1, 2)


def as_fft_convolution(convolution: nn.Conv1d) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """Return a `forward` for a convolution that is faster in training on a CPU; None if there is none."""
    kernel = convolution.kernel_size[0]
    centered = kernel % 2 == 0 and convolution.padding == (kernel // 2,) and convolution.stride == (1,)
    # With kernels below 64 the direct convolution is as fast.
    if kernel < 64 or not centered or convolution.in_channels != convolution.out_channels:
        return None
    direct = convolution.forward

    def forward(frames: torch.Tensor) -> torch.Tensor:
        if frames.device.type != "cpu" or not torch.is_grad_enabled():
            return direct(frames)
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else frames.dtype
        with torch.autocast("cpu", enabled=False):
            weight = convolution.weight.float()
            output: torch.Tensor = FourierConvolution.apply(frames.float(), weight, convolution.groups)
            if convolution.bias is not None:
                output = output + convolution.bias[:, None]
        return output.to(dtype)

    return forward


def fused_attention(attention: Any) -> Callable[..., tuple[torch.Tensor, None, torch.Tensor]]:
    """Return a `forward` for a `WavLMAttention` with the same output.

    The stock method reads the weights of its linear layers, so that adapters in these have no effect, and computes
    attention weights that are not used. In training on CPUs, plain matrix products replace the fused attention, whose
    backward pass is slow there.

    The arguments are the hidden states, shape (clips, frames, size), the mask, shape (clips, frames), and the position
    bias of the first layer, shape (heads, frames, frames). The results are the new states, None and the position bias.
    """

    def forward(
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_bias: torch.Tensor | None = None,
        **_: Any,
    ) -> tuple[torch.Tensor, None, torch.Tensor]:
        clips, frames, size = hidden_states.shape
        if position_bias is None:
            position_bias = attention.compute_bias(frames, frames)
        heads = (clips, frames, attention.num_heads, attention.head_dim)
        gates = attention.gru_rel_pos_linear(hidden_states.view(heads).transpose(1, 2))
        gate, reset = gates.view(clips, attention.num_heads, frames, 2, 4).sum(dim=-1).sigmoid().chunk(2, dim=-1)
        bias = (gate * (reset * attention.gru_rel_pos_const - 1.0) + 2.0) * position_bias
        query, key, value = (
            layer(hidden_states).view(heads).transpose(1, 2)
            for layer in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        bias = bias.to(query.dtype)
        if attention_mask is not None:
            bias = bias.masked_fill(~attention_mask.bool()[:, None, None, :], -torch.inf)
        dropout = attention.dropout if attention.training else 0.0
        if query.device.type == "cpu" and torch.is_grad_enabled():
            scores = torch.matmul(query * attention.scaling, key.transpose(2, 3)) + bias
            states = torch.matmul(nn.functional.dropout(scores.softmax(dim=-1), dropout), value)
        else:
            states = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout)
        return attention.out_proj(states.transpose(1, 2).reshape(clips, frames, size)), None, position_bias

    return forward
