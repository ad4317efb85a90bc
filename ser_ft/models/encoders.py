"""Pretrained speech encoders behind `AutoModelForAudioClassification`: settings, heads and the parts of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import nn
from transformers import (
    AutoModelForAudioClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES

from ..utils.errors import InputError
from .encoder_spec import FIXED_LENGTH, EncoderSpec, encoder_config
from .speech_classifier import SpeechClassifier, SpeechClassifierConfig, backbone_of
from .whisper import ClipLengthEncoder, use_clip_length

# The layers of these families process pairs of frames, the last of which may be half padding.
_PAIRED_FRAMES = ("sew", "sew-d")
# Fewest samples with a finite output: one frame of the convolutions, two of SEW, or one of the spectrum.
_MIN_SAMPLES = dict.fromkeys(MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES, 400)
_MIN_SAMPLES |= {"sew": 720, "sew-d": 720, "wav2vec2-bert": 560}
_FINAL_NORMS = {
    "whisper": "layer_norm",
    "audio-spectrogram-transformer": "layernorm",
    "wav2vec2-conformer": "encoder.layer_norm",
}


@dataclass(frozen=True)
class InputSpec:
    """Input requirements of a speech classifier.

    Attributes:
        kind: "waveform" (samples and a mask over them), "frames" (of a spectrum, and a mask over them) or
            "log_mel" (Whisper's spectrum of the clip's own length, and a mask over its frames) or "fixed_length" (a
            spectrum of one length, whatever the clip's).
        kernel_sizes: kernel sizes of the convolutions over samples.
        strides: strides of the convolutions over samples.
        requires_unpadded_convolution: whether padding changes the output of the convolutions, because the first one is
            normalized over time (`feat_extract_norm: group`: wav2vec2-base, HuBERT-base, WavLM-base, SEW). Each clip
            must then pass the convolutions alone.
        requires_equal_lengths: whether padding changes the predictions in spite of the mask, so that they are exact
            only for batches of clips of one length.
        min_samples: fewest samples of a clip; shorter clips are padded with silence.
        min_frames: fewest frames of a training batch, which the spans of SpecAugment must fit into.
    """

    kind: Literal["waveform", "frames", "log_mel", "fixed_length"]
    kernel_sizes: tuple[int, ...]
    strides: tuple[int, ...]
    requires_unpadded_convolution: bool
    requires_equal_lengths: bool
    min_samples: int
    min_frames: int

    def num_frames(self, samples: Any) -> Any:
        """Return the frames that the convolutions make of a number, an array or a tensor of sample counts."""
        for kernel, stride in zip(self.kernel_sizes, self.strides, strict=True):
            samples = (samples - kernel) // stride + 1
        return samples

    def num_samples(self, frames: int) -> int:
        """Return the fewest samples of which the convolutions make a number of frames."""
        for kernel, stride in reversed(list(zip(self.kernel_sizes, self.strides, strict=True))):
            frames = (frames - 1) * stride + kernel
        return frames


@dataclass(frozen=True)
class EncoderParts:
    """The parts of a speech classifier, under one name for all families.

    All parameters outside `backbone` are the head's. `layers` are the transformer layers, from the input upwards.
    `feature_encoder` has the convolutions from the waveform to frames; None in families that take spectra (Whisper, AST
    and wav2vec2-BERT).
    """

    model: PreTrainedModel
    backbone: nn.Module
    layers: nn.ModuleList
    feature_encoder: nn.Module | None

    @classmethod
    def of(cls, model: PreTrainedModel) -> EncoderParts:
        """Find the parts: the backbone is the largest child, its layers are the largest list with as many entries."""
        backbone = backbone_of(model)
        feature_encoder = getattr(backbone, "feature_extractor", None)
        excluded = set() if feature_encoder is None else set(feature_encoder.modules())
        lists = [module for module in backbone.modules() if isinstance(module, nn.ModuleList)]
        count = encoder_config(model.config).num_hidden_layers
        lists = [item for item in lists if item not in excluded and len(item) == count]
        return cls(model, backbone, max(lists, key=_num_parameters), feature_encoder)

    @property
    def config(self) -> Any:
        """The configuration of the encoder."""
        return encoder_config(self.model.config)

    @property
    def head(self) -> list[nn.Parameter]:
        """The parameters outside the backbone."""
        inside = {id(parameter) for parameter in self.backbone.parameters()}
        return [parameter for parameter in self.model.parameters() if id(parameter) not in inside]

    @property
    def final_norms(self) -> list[nn.Module]:
        """The normalization between the last layer and the head, in families that have one."""
        config = self.config
        is_stable = getattr(config, "do_stable_layer_norm", False)
        name = "encoder.layer_norm" if is_stable else _FINAL_NORMS.get(config.model_type)
        return [] if name is None else [self.backbone.get_submodule(name)]

    @property
    def input_spec(self) -> InputSpec:
        """The input requirements of the model."""
        config = self.config
        masked = hasattr(self.backbone, "_mask_hidden_states") and getattr(config, "apply_spec_augment", True)
        is_waveform = self.feature_encoder is not None
        kind: Any = "waveform" if is_waveform else "fixed_length" if config.model_type in FIXED_LENGTH else "frames"
        return InputSpec(
            kind="log_mel" if isinstance(self.backbone, ClipLengthEncoder) else kind,
            kernel_sizes=tuple(config.conv_kernel) if is_waveform else (),
            strides=tuple(config.conv_stride) if is_waveform else (),
            requires_unpadded_convolution=is_waveform and getattr(config, "feat_extract_norm", "layer") != "layer",
            requires_equal_lengths=config.model_type in _PAIRED_FRAMES,
            min_samples=_MIN_SAMPLES.get(config.model_type, 1),
            min_frames=int(config.mask_time_length) + 1 if masked and config.mask_time_prob > 0 else 1,
        )

    @property
    def lowest_pooled_state(self) -> int:
        """The number of the lowest state that the head uses; the number of layers for the last state."""
        if isinstance(self.model, SpeechClassifier):
            return min(self.model.layers)
        return 0 if getattr(self.model.config, "use_weighted_layer_sum", False) else len(self.layers)


def _num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def load_encoder(spec: EncoderSpec) -> PreTrainedModel:
    """Load the weights of an encoder, with a new head if the checkpoint has none for these classes.

    Raises `InputError` if weights are missing, or do not fit the configuration.
    """
    config, was_stock = spec.config, not isinstance(spec.saved.config, SpeechClassifierConfig)
    if was_stock and isinstance(config, SpeechClassifierConfig):
        config = config.encoder
    elif not was_stock and not isinstance(config, SpeechClassifierConfig):
        config = SpeechClassifierConfig(encoder=config)
    loaded, report = spec.saved.load_weights(AutoModelForAudioClassification, config, spec.allow_pickle)
    model = cast(Any, loaded)
    _check_weights(spec, EncoderParts.of(model), report)
    if config is not spec.config:
        # The checkpoint has another kind of head: only its encoder is used.
        model = _build_around(spec.config, backbone_of(model)).eval()
    elif not spec.keeps_head:
        _reset_head(model)
    if hasattr(model, "layer_weights") and "layer_weights" in report["missing_keys"]:
        # transformers 5.23 does not initialize them.
        torch.nn.init.constant_(model.layer_weights, 1 / len(model.layer_weights))
    set_input_length(model)
    return cast(PreTrainedModel, model)


def set_input_length(model: PreTrainedModel) -> None:
    """Let a stock Whisper classifier that ser_ft trained compute clips of their own length."""
    if model.config.model_type == "whisper" and getattr(model.config, "clip_length", False):
        use_clip_length(backbone_of(model), pools=True)


def _build_around(config: PreTrainedConfig, encoder: PreTrainedModel) -> PreTrainedModel:
    """Return a classifier with a new head on an encoder."""
    if isinstance(config, SpeechClassifierConfig):
        return SpeechClassifier(config, encoder)
    model = AutoModelForAudioClassification.from_config(config)
    backbone_of(model).load_state_dict(encoder.state_dict())
    return cast(PreTrainedModel, model)


def _reset_head(model: PreTrainedModel) -> None:
    if isinstance(model, SpeechClassifier):
        model.reset_head()
        return
    for child in model.children():
        if child is not backbone_of(model):
            child.apply(model._init_weights)


def _check_weights(spec: EncoderSpec, parts: EncoderParts, report: Mapping[str, Any]) -> None:
    prefix = next(name for name, module in parts.model.named_modules() if module is parts.backbone) + "."
    # SpecAugment's mask embedding is in few checkpoints; Whisper's positions are sines, computed for any length.
    missing = {name for name in report["missing_keys"] if not name.endswith("masked_spec_embed")}
    mismatched = {name for name, *_ in report["mismatched_keys"] if not name.endswith("embed_positions.weight")}
    missing, mismatched = ({name for name in names if name.startswith(prefix)} for names in (missing, mismatched))
    if missing or mismatched:
        example = min(missing or mismatched)
        raise InputError(
            f"{spec.name}: {len(missing | mismatched)} weights of the encoder are missing or have another shape "
            f"({example}, ...): this is not a {parts.config.model_type} checkpoint, or model.config_overrides do not "
            "fit it"
        )
