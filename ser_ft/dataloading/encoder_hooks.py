"""A stock model that takes states for sound, and never hears padding.

Stock modules stay as they are: while a `EncoderHooks` is on, some `forward` methods are stood in for, and hooks put states in;
names, parameters and what is saved do not change.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput

from ..models.encoders import EncoderParts
from .fft_convolution import as_fft_convolution
from .wavlm_attention import fused_attention

# Convolutions over time inside the transformer, which have no mask: their names.
_LEAKS = {
    "data2vec-audio": r"encoder\.pos_conv_embed\.layers\.\d+\.conv",
    "wav2vec2-conformer": r"encoder\.layers\.\d+\.conv_module\.depthwise_conv",
}


class EncoderHooks:
    """A stock model that takes states for sound, or at least never lets padding reach its convolutions.

    Args:
        parts: of the model.
        layer: None: the model is given sound, or the states that its convolutions gave (`states`, shape
            (clips, frames, channels)); else `states` are what enters this layer, shape (clips, frames, size).
        convolved: whether `states` of the convolutions are given instead of sound.
    """

    def __init__(self, parts: EncoderParts, layer: int | None = None, convolved: bool = False) -> None:
        self.parts, self.layer, self.convolved = parts, layer, convolved
        self.lengths: list[int] | None = None
        self.ends: torch.Tensor | None = None
        self.states: torch.Tensor | None = None
        self._stood_in: list[nn.Module] = []
        self._alone = parts.input_spec.requires_unpadded_convolution and layer is None and not convolved
        self._handles = [parts.model.register_forward_pre_hook(self._receive, with_kwargs=True)]
        if parts.model.config.model_type == "wavlm":
            for module in parts.layers[layer or 0 :]:
                attention = module.get_submodule("attention")
                self._stand_in(attention, fused_attention(attention))
        positions = getattr(parts.backbone, "encoder", None)
        positions = getattr(getattr(positions, "pos_conv_embed", None), "conv", None)
        if layer is None and isinstance(positions, nn.Conv1d) and (faster := as_fft_convolution(positions)) is not None:
            self._stand_in(positions, faster)
        leaks = _LEAKS.get(parts.model.config.model_type)
        for name, module in parts.backbone.named_modules():
            if leaks is not None and re.fullmatch(leaks, name):
                self._handles.append(module.register_forward_pre_hook(self._silence))
        if layer is not None:
            self._enter_at(layer)
        elif convolved:
            assert parts.feature_encoder is not None
            self._stand_in(parts.feature_encoder, lambda states: states.transpose(1, 2))
        elif self._alone:
            assert parts.feature_encoder is not None
            self._stand_in(parts.feature_encoder, self._each_alone(parts.feature_encoder.forward))

    def remove(self) -> None:
        """Give the model its own ways back."""
        for handle in self._handles:
            handle.remove()
        for module in self._stood_in:
            del module.__dict__["forward"]
        self._handles, self._stood_in = [], []

    def set_mask(self, mask: torch.Tensor | None) -> None:
        """Take note of where the clips end, for what must not hear their padding."""
        samples = None if mask is None else mask.sum(dim=1)
        if self._alone:
            self.lengths = None if samples is None else samples.tolist()
        if self.parts.model.config.model_type in _LEAKS:
            self.ends = None if samples is None else self.parts.input_spec.num_frames(samples)

    def _silence(self, _: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
        """Put zeros, as beyond the end of a clip alone, into the padding of (clips, channels, frames)."""
        if self.ends is None:
            return None
        real = torch.arange(args[0].shape[2], device=args[0].device) < self.ends[:, None]
        return (args[0] * real[:, None].to(args[0].dtype), *args[1:])

    def _stand_in(self, module: nn.Module, forward: Callable[..., Any]) -> None:
        module.__dict__["forward"] = forward
        self._stood_in.append(module)

    def _receive(self, _: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Take the states, and the clips' lengths, from what the model is called with."""
        self.set_mask(given.get("attention_mask"))
        states = given.pop("states", None)
        if states is not None:
            self.states = states
            given[self.parts.model.main_input_name] = states if self.convolved else self._blank_input(states)
        return args, given

    def _blank_input(self, states: torch.Tensor) -> torch.Tensor:
        """Return a blank in place of the sound, of the shape that the family checks."""
        model, clips = self.parts.model, states.shape[0]
        blank = states.new_zeros(1, 1, 1)
        if self.parts.feature_encoder is not None:
            return blank[0].expand(clips, 1)
        if model.config.model_type == "whisper":
            return blank.expand(clips, model.config.num_mel_bins, 2 * model.config.max_source_positions)
        if model.config.model_type == "audio-spectrogram-transformer":
            return blank.expand(clips, model.config.max_length, model.config.num_mel_bins)
        return blank.expand(clips, states.shape[1], model.config.feature_projection_input_dim)

    def _enter_at(self, layer: int) -> None:
        """Leave out what comes before a layer, and put the states in there."""
        parts = self.parts
        config = parts.model.config

        def put_in(_: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            assert self.states is not None
            if args:
                return (self.states.to(args[0].dtype), *args[1:]), given
            return args, given | {"hidden_states": self.states}

        def blank_frames(_: torch.Tensor) -> torch.Tensor:
            assert self.states is not None
            clips, frames = self.states.shape[:2]
            return self.states.new_zeros(1, 1, 1).expand(clips, config.conv_dim[-1], frames)

        self._handles.append(parts.layers[layer].register_forward_pre_hook(put_in, with_kwargs=True))
        if parts.feature_encoder is not None:
            self._stand_in(parts.feature_encoder, blank_frames)
        for name, module in parts.backbone.named_modules():
            if name == "encoder.pos_conv_embed":
                self._stand_in(module, torch.zeros_like)
            elif config.model_type == "whisper" and name in ("conv1", "conv2"):
                wide = (2 if name == "conv1" else 1) * config.max_source_positions
                self._stand_in(
                    module, lambda x, wide=wide: x.new_zeros(1, 1, 1).expand(x.shape[0], config.d_model, wide)
                )
        for number, module in enumerate(parts.layers[:layer]):
            self._stand_in(module, _skipped(module, number))

    def _each_alone(self, forward: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
        """Let clips of one length through the convolutions together, and no clip with its padding."""

        def convolve(waves: torch.Tensor) -> torch.Tensor:
            lengths = self.lengths
            if lengths is None or min(lengths) == waves.shape[1]:
                return forward(waves)
            found: torch.Tensor | None = None
            for length in sorted(set(lengths), reverse=True):
                rows = [row for row, own in enumerate(lengths) if own == length]
                made = forward(waves[rows, :length])
                if found is None:
                    found = made.new_zeros(
                        len(lengths), made.shape[1], int(self.parts.input_spec.num_frames(waves.shape[1]))
                    )
                found[rows, :, : made.shape[2]] = made
            assert found is not None
            return found

        return convolve


def _skipped(module: nn.Module, number: int) -> Callable[..., Any]:
    """Return what stands in for a layer below the one that is entered: nothing, but WavLM's position bias."""
    attention: Any = getattr(module, "attention", None)
    if not hasattr(attention, "gru_rel_pos_linear"):
        return lambda hidden_states, *_, **__: hidden_states

    def bias(hidden_states: torch.Tensor, *_: Any, position_bias: Any = None, **__: Any) -> tuple[torch.Tensor, Any]:
        if number == 0:
            position_bias = attention.compute_bias(hidden_states.shape[1], hidden_states.shape[1])
        return hidden_states, position_bias

    return bias


class PooledHead(nn.Module):
    """A stock model's own head, on states that were pooled over time: the same logits, at no cost.

    The stock head weighs the layers, projects each frame and takes the mean: all linear, so the mean may come first.

    Args:
        parts: of the model, whose head is trained here.
    """

    def __init__(self, parts: EncoderParts) -> None:
        super().__init__()
        model = parts.model
        self.classifier: Any = model.classifier
        self.projector: Any = getattr(model, "projector", None)
        self.layer_weights: Any = model.layer_weights if parts.uses_weighted_layer_sum else None

    def forward(self, states: torch.Tensor) -> SequenceClassifierOutput:
        """Classify pooled states, shape (clips, layers + 2, size): all layers' entrances and exits, and the last."""
        if self.layer_weights is None:
            hidden = states[:, -1]
        else:
            hidden = (states[:, :-1] * self.layer_weights.softmax(dim=-1)[None, :, None]).sum(dim=1)
        if self.projector is not None:
            hidden = self.projector(hidden)
        return SequenceClassifierOutput(logits=self.classifier(hidden))
