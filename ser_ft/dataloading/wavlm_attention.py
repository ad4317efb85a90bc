"""WavLM's attention, computed by its linear layers and torch's fused attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Attention = Callable[..., tuple[torch.Tensor, None, torch.Tensor]]


def fused_attention(attention: Any) -> Attention:
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
