"""Hooks that let a stock model start from hidden states, and that keep padding from changing its output.

While the hooks are active, some modules' `forward` methods are replaced and states are inserted. Names, parameters and
saved files of the model do not change.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput

from ..models.encoders import EncoderParts
from ..models.speech_classifier import SpeechClassifier
from ..models.whisper import ClipLengthEncoder
from .fast_layers import as_fft_convolution, fused_attention

# Names of convolutions over time inside the transformer, which ignore the mask.
_UNMASKED_CONVOLUTIONS = {
    "data2vec-audio": r"encoder\.pos_conv_embed\.layers\.\d+\.conv",
    "wav2vec2-conformer": r"encoder\.layers\.\d+\.conv_module\.depthwise_conv",
}


class EncoderHooks:
    """Hooks on a stock model: padding does not reach its convolutions, and it may start from hidden states.

    By default the model takes its usual inputs. Otherwise it takes `states`: the input of a layer if its number is
    given, shape (clips, frames, size), or the output of the convolutions with `skip_feature_encoder`, shape (clips,
    frames, channels).
    """

    def __init__(self, parts: EncoderParts, layer: int | None = None, skip_feature_encoder: bool = False) -> None:
        self.parts, self.layer, self.skip_feature_encoder = parts, layer, skip_feature_encoder
        self.lengths: list[int] | None = None
        self.num_frames: torch.Tensor | None = None
        self.states: torch.Tensor | None = None
        self._replaced: list[nn.Module] = []
        self._convolves_separately = (
            parts.input_spec.requires_unpadded_convolution and layer is None and not skip_feature_encoder
        )
        self._handles = [parts.model.register_forward_pre_hook(self._receive, with_kwargs=True)]
        if parts.config.model_type == "wavlm":
            for module in parts.layers[layer or 0 :]:
                attention = module.get_submodule("attention")
                self._replace(attention, fused_attention(attention))
        positions = getattr(parts.backbone, "encoder", None)
        positions = getattr(getattr(positions, "pos_conv_embed", None), "conv", None)
        if layer is None and isinstance(positions, nn.Conv1d) and (faster := as_fft_convolution(positions)) is not None:
            self._replace(positions, faster)
        unmasked = _UNMASKED_CONVOLUTIONS.get(parts.config.model_type)
        for name, module in parts.backbone.named_modules():
            if unmasked is not None and re.fullmatch(unmasked, name):
                self._handles.append(module.register_forward_pre_hook(self._zero_padding))
        if layer is not None and isinstance(parts.backbone, ClipLengthEncoder):
            parts.backbone.first_layer = layer
        elif layer is not None:
            self._start_at(layer)
        elif skip_feature_encoder:
            assert parts.feature_encoder is not None
            self._replace(parts.feature_encoder, lambda states: states.transpose(1, 2))
        elif self._convolves_separately:
            assert parts.feature_encoder is not None
            self._replace(parts.feature_encoder, self._convolve_separately(parts.feature_encoder.forward))

    def remove(self) -> None:
        """Restore the model."""
        for handle in self._handles:
            handle.remove()
        if isinstance(self.parts.backbone, ClipLengthEncoder):
            self.parts.backbone.first_layer = None
        for module in self._replaced:
            del module.__dict__["forward"]
        self._handles, self._replaced = [], []

    def set_mask(self, mask: torch.Tensor | None) -> None:
        """Set the mask of the next forward pass, shape (clips, samples or frames); None: no clip is padded."""
        samples = None if mask is None else mask.sum(dim=1)
        if self._convolves_separately:
            self.lengths = None if samples is None else samples.tolist()
        if self.parts.config.model_type in _UNMASKED_CONVOLUTIONS:
            self.num_frames = None if samples is None else self.parts.input_spec.num_frames(samples)

    def _zero_padding(self, _: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
        """Set the padding of (clips, channels, frames) to zero, as after the end of an unpadded clip."""
        if self.num_frames is None:
            return None
        mask = torch.arange(args[0].shape[2], device=args[0].device) < self.num_frames[:, None]
        return (args[0] * mask[:, None].to(args[0].dtype), *args[1:])

    def _replace(self, module: nn.Module, forward: Callable[..., Any]) -> None:
        module.__dict__["forward"] = forward
        self._replaced.append(module)

    def _receive(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        self.set_mask(kwargs.get("attention_mask"))
        states = kwargs.pop("states", None)
        if states is not None:
            self.states = states
            takes_states = self.skip_feature_encoder or isinstance(self.parts.backbone, ClipLengthEncoder)
            inputs = states if takes_states else self._blank_input(states)
            kwargs[self.parts.model.main_input_name] = inputs
        return args, kwargs

    def _blank_input(self, states: torch.Tensor) -> torch.Tensor:
        """Return zeros in place of the model's input, in the shape that its family checks."""
        clips = states.shape[0]
        blank = states.new_zeros(1, 1, 1)
        if self.parts.feature_encoder is not None:
            return blank[0].expand(clips, 1)
        config = self.parts.config
        if config.model_type == "audio-spectrogram-transformer":
            return blank.expand(clips, config.max_length, config.num_mel_bins)
        return blank.expand(clips, states.shape[1], config.feature_projection_input_dim)

    def _start_at(self, layer: int) -> None:
        """Skip everything before a layer and insert the states as its input."""
        parts = self.parts
        config = parts.config

        def insert_states(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            assert self.states is not None
            if args:
                return (self.states.to(args[0].dtype), *args[1:]), kwargs
            return args, kwargs | {"hidden_states": self.states}

        def blank_frames(_: torch.Tensor) -> torch.Tensor:
            assert self.states is not None
            clips, frames = self.states.shape[:2]
            return self.states.new_zeros(1, 1, 1).expand(clips, config.conv_dim[-1], frames)

        self._handles.append(parts.layers[layer].register_forward_pre_hook(insert_states, with_kwargs=True))
        if parts.feature_encoder is not None:
            self._replace(parts.feature_encoder, blank_frames)
        for name, module in parts.backbone.named_modules():
            if name == "encoder.pos_conv_embed":
                self._replace(module, torch.zeros_like)
        for number, module in enumerate(parts.layers[:layer]):
            self._replace(module, _skip(module, number))

    def _convolve_separately(
        self, forward: Callable[[torch.Tensor], torch.Tensor]
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        """Pass only clips of one length through the convolutions together, without padding."""

        def convolve(waves: torch.Tensor) -> torch.Tensor:
            lengths = self.lengths
            if lengths is None or min(lengths) == waves.shape[1]:
                return forward(waves)
            output: torch.Tensor | None = None
            for length in sorted(set(lengths), reverse=True):
                rows = [row for row, clip_length in enumerate(lengths) if clip_length == length]
                part = forward(waves[rows, :length])
                if output is None:
                    frames = int(self.parts.input_spec.num_frames(waves.shape[1]))
                    output = part.new_zeros(len(lengths), part.shape[1], frames)
                output[rows, :, : part.shape[2]] = part
            assert output is not None
            return output

        return convolve


def _skip(module: nn.Module, number: int) -> Callable[..., Any]:
    """Return a `forward` that skips a layer, but still computes WavLM's position bias."""
    attention: Any = getattr(module, "attention", None)
    if not hasattr(attention, "gru_rel_pos_linear"):
        return lambda hidden_states, *_, **__: hidden_states

    def bias(hidden_states: torch.Tensor, *_: Any, position_bias: Any = None, **__: Any) -> tuple[torch.Tensor, Any]:
        if number == 0:
            position_bias = attention.compute_bias(hidden_states.shape[1], hidden_states.shape[1])
        return hidden_states, position_bias

    return bias


class PooledHead(nn.Module):
    """A model's own head on states that are pooled over time, with the same logits.

    The stock head sums the layers with weights, projects each frame and takes the mean. All of this is linear, so that
    the mean may come first. `SpeechClassifier` pools each layer itself.
    """

    def __init__(self, parts: EncoderParts) -> None:
        super().__init__()
        model = parts.model
        self.classifier: Any = model.classifier
        self.projector: Any = getattr(model, "projector", None)
        self.speech_classifier = model if isinstance(model, SpeechClassifier) else None
        self.layer_weights: Any = getattr(model, "layer_weights", None)

    def forward(self, states: torch.Tensor) -> SequenceClassifierOutput:
        """Classify pooled states of all layers, shape (clips, layers + 2, size): see `compute_hidden_states`."""
        if self.speech_classifier is not None:
            return SequenceClassifierOutput(logits=self.speech_classifier.classify_pooled(self.features(states)))
        if self.layer_weights is None:
            hidden = states[:, -1]
        else:
            hidden = (states[:, :-1] * self.layer_weights.softmax(dim=-1)[None, :, None]).sum(dim=1)
        if self.projector is not None:
            hidden = self.projector(hidden)
        return SequenceClassifierOutput(logits=self.classifier(hidden))

    def features(self, states: torch.Tensor) -> torch.Tensor:
        """Return what the head of a `SpeechClassifier` normalizes, shape (clips, features)."""
        assert self.speech_classifier is not None
        states = torch.cat((states[:, :-2], states[:, -1:]), dim=1)[:, self.speech_classifier.layers]
        return self.speech_classifier.mix_pooled(states)
