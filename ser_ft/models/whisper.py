"""Whisper's encoder at the clip's own length.

The stock encoder takes 30 s of sound and has no mask, so that a clip of 3 s is computed with 27 s of silence, which
costs ten times as much and changes the states of the clip. Here only the positions of the clip are computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from transformers import BatchFeature, WhisperFeatureExtractor
from transformers.modeling_outputs import BaseModelOutput

# Positions that Whisper was pretrained with: 30 s.
MAX_POSITIONS = 1500
POSITIONS_PER_SECOND = 50
# Added to the attention scores of padding; every floating point type holds it.
_MASKED = -3e4
# Samples at 16 kHz per frame of the spectrogram; two frames are a position.
HOP = 160


def num_positions(frames: Any) -> Any:
    """Return the positions that the convolutions make of a number or a tensor of frames."""
    return (frames + 1) // 2


class ClipLengthEncoder(nn.Module):
    """Whisper's encoder for spectrograms of any length, with a mask over padding; `use_clip_length` makes it.

    It has no base in transformers: our models are registered while transformers' own may be half imported.

    Attributes:
        first_layer: if a number, the input is that of this layer, and `attention_mask` is over positions.
        pools: whether states are replaced by their mean over the clip, shape (clips, 1, size), as the stock classifier
            has no mask for its mean over positions.
    """

    first_layer: int | None = None
    pools = False
    layers: Any
    layer_norm: Any
    conv1: Any
    conv2: Any
    embed_positions: Any
    dropout: float

    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Any,  # noqa: ARG002
    ) -> BaseModelOutput:
        """Return the normalized output of the last layer; hidden states are the inputs of all layers and this output.

        Args:
            input_features: log-mel spectrogram, shape (clips, mels, frames), or with `first_layer` the input of that
                layer, shape (clips, positions, size).
            attention_mask: 1 for frames of the clip, 0 for padding, shape (clips, frames); None: no clip is padded.
            **kwargs: ignored; the stock classifier passes what it returns.
        """
        outputs, mask = self.encode(input_features, attention_mask)
        if not self.pools:
            return outputs
        hidden_states: Any = outputs.hidden_states
        return BaseModelOutput(
            last_hidden_state=_mean(outputs.last_hidden_state, mask),
            hidden_states=cast(Any, tuple(None if states is None else _mean(states, mask) for states in hidden_states)),
        )

    def encode(self, inputs: torch.Tensor, mask: torch.Tensor | None) -> tuple[BaseModelOutput, torch.Tensor | None]:
        """Return the output of `forward` before pooling, and the mask over positions."""
        first = self.first_layer or 0
        if self.first_layer is None:
            hidden, mask = self.embed(inputs, mask), position_mask(mask)
        else:
            hidden = inputs
        bias = None
        if mask is not None:
            bias = _MASKED * (1 - mask[:, None, None].to(hidden.dtype))
        states: list[torch.Tensor | None] = [None] * first
        for layer in self.layers[first:]:
            states.append(hidden)
            hidden = layer(hidden, bias)
        last = self.layer_norm(hidden)
        return BaseModelOutput(last_hidden_state=last, hidden_states=cast(Any, (*states, last))), mask

    def embed(self, features: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Return the input of the first layer, shape (clips, positions, size)."""
        inside = None if mask is None else mask[:, None].to(features.dtype)
        hidden = nn.functional.gelu(self.conv1(features if inside is None else features * inside))
        # After the end of a clip alone, both convolutions see zeros.
        hidden = hidden if inside is None else hidden * inside.to(hidden.dtype)
        hidden = nn.functional.gelu(self.conv2(hidden)).transpose(1, 2)
        hidden = hidden + self._positions(hidden.shape[1])
        dropped: torch.Tensor = nn.functional.dropout(hidden, self.dropout, self.training)
        return dropped

    def _positions(self, count: int) -> torch.Tensor:
        """Return the embeddings of the first positions; those that a shortened encoder lacks are sinusoids."""
        table: torch.Tensor = self.embed_positions.weight
        rows = table.shape[0]
        # A traced graph serves clips of any length.
        if rows < MAX_POSITIONS and (torch.onnx.is_in_onnx_export() or count > rows):
            from transformers.models.whisper.modeling_whisper import sinusoids

            rest = sinusoids(MAX_POSITIONS, table.shape[1])[rows:]
            table = torch.cat((table, rest.to(table.device, table.dtype)))
        return table[:count]


def use_clip_length(encoder: Any, pools: bool = False) -> None:
    """Turn a stock encoder into a `ClipLengthEncoder`, in place: weights, names and saved files stay the same."""
    stock: type = type(encoder)
    if not issubclass(stock, ClipLengthEncoder):
        encoder.__class__ = type(ClipLengthEncoder.__name__, (ClipLengthEncoder, stock), {})
    encoder.pools = pools


def position_mask(mask: torch.Tensor | None) -> torch.Tensor | None:
    """Return the mask over positions of a mask over frames."""
    if mask is None:
        return None
    positions = torch.arange(num_positions(mask.shape[1]), device=mask.device)
    inside: torch.Tensor = positions < num_positions(mask.sum(dim=1))[:, None]
    return inside.to(mask.dtype)


def _mean(states: Any, mask: torch.Tensor | None) -> torch.Tensor:
    if mask is None:
        return cast(torch.Tensor, states.mean(dim=1, keepdim=True))
    inside = mask[..., None].to(states.dtype)
    return cast(torch.Tensor, (states * inside).sum(dim=1, keepdim=True) / inside.sum(dim=1, keepdim=True))


def log_mel(extractor: WhisperFeatureExtractor, clips: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
    """Compute Whisper's log-mel spectrogram of clips, padded to the longest one.

    The frames of a clip are those that `WhisperFeatureExtractor` computes for it with silence up to 30 s.

    Args:
        clips: waveforms at 16 kHz, each float32 of shape (samples,); longer ones than 30 s are cut.

    Returns:
        `input_features`, shape (clips, mels, frames), and `attention_mask` over the frames if clips are padded.
    """
    most = 2 * MAX_POSITIONS
    frames = torch.tensor([min(2 * num_positions((len(clip) + HOP - 1) // HOP), most) for clip in clips])
    longest = int(frames.max())
    # The window of the last frame reaches into the silence after the clip, or is mirrored at the end of the 30 s.
    padded = min(longest + 2, most) * HOP
    inputs = WhisperFeatureExtractor.__call__(
        extractor,
        [clip[:padded] for clip in clips],
        sampling_rate=extractor.sampling_rate,
        return_tensors="pt",
        padding="max_length",
        max_length=padded,
        return_attention_mask=False,
    )
    features = inputs["input_features"][:, :, :longest]
    if int(frames.min()) == longest:
        return {"input_features": features}
    return {"input_features": features, "attention_mask": (torch.arange(longest) < frames[:, None]).long()}


class ClipLengthFeatureExtractor(WhisperFeatureExtractor):
    """Whisper's feature extractor without padding to 30 s: see `log_mel`."""

    model_input_names = ["input_features", "attention_mask"]  # noqa: RUF012  (as transformers declares it)

    def __call__(  # type: ignore[override]
        self,
        raw_speech: np.ndarray | Sequence[np.ndarray],
        sampling_rate: int | None = None,
        return_tensors: str | None = None,
        **kwargs: Any,  # noqa: ARG002
    ) -> BatchFeature:
        """Compute the features of one clip, or of several.

        Args:
            raw_speech: waveforms of shape (samples,).
            sampling_rate: their rate in Hz, which must be that of the extractor.
            return_tensors: "pt" or "np".
            **kwargs: ignored; transformers' pipelines pass them.
        """
        if sampling_rate not in (None, self.sampling_rate):
            raise ValueError(f"the sampling rate must be {self.sampling_rate} Hz, not {sampling_rate}")
        is_single = isinstance(raw_speech, np.ndarray) and raw_speech.ndim == 1
        clips = [raw_speech] if is_single else list(raw_speech)
        features = log_mel(self, [np.asarray(clip, dtype=np.float32) for clip in clips])
        arrays = {name: values.numpy() for name, values in features.items()}
        return BatchFeature(arrays, tensor_type=return_tensors)


ClipLengthFeatureExtractor.register_for_auto_class("AutoFeatureExtractor")
