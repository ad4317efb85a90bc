"""Pretrained speech encoders behind `AutoModelForAudioClassification`: settings, heads and the parts of a model."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import nn
from transformers import (
    AutoModelForAudioClassification,
    PreTrainedConfig,
    PreTrainedModel,
    SequenceFeatureExtractor,
    WhisperFeatureExtractor,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES

from ..utils.errors import InputError
from . import is_own_network
from .loading import SavedModel, open_model, readable_errors
from .speech_classifier import SpeechClassifier, SpeechClassifierConfig, backbone_of
from .whisper import ClipLengthEncoder, ClipLengthFeatureExtractor, use_clip_length

_ACCEPTED_TYPES: dict[Any, tuple[type, ...]] = {float: (int, float), tuple: (list, tuple), list: (list, tuple)}
# Settings that follow from the classes, or that the checkpoint's weights do not fit if they change.
_FIXED = (
    *("num_labels", "id2label", "label2id", "model_type", "architectures", "dtype", "return_dict", "problem_type"),
    *("hidden_size", "d_model", "num_attention_heads", "encoder_attention_heads", "conv_dim", "conv_kernel"),
    *("conv_stride", "feat_extract_norm", "do_stable_layer_norm", "add_adapter", "num_mel_bins"),
)
# Fewest samples at 16 kHz per frame of an encoder; wav2vec 2.0 has 320.
_MIN_STRIDE = 40
_LAYER_COUNTS = ("num_hidden_layers", "encoder_layers")

_FIXED_LENGTH = ("whisper", "audio-spectrogram-transformer")
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
        kind: Any = "waveform" if is_waveform else "fixed_length" if config.model_type in _FIXED_LENGTH else "frames"
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


def encoder_config(config: PreTrainedConfig) -> Any:
    """Return the configuration of the encoder inside a classifier's configuration."""
    return config.encoder if isinstance(config, SpeechClassifierConfig) else config


@dataclass(frozen=True)
class EncoderSpec:
    """A speech encoder before its weights are loaded, see `find_encoder`.

    `saved` is the model as it was saved; `config` is that of the model to build, with the classes and settings of the
    run. `keeps_head` is true if the checkpoint was fine-tuned for the same classes with the same kind of head, which is
    kept then. `allow_pickle`: pickled weights may be loaded.
    """

    name: str
    saved: SavedModel
    config: PreTrainedConfig
    extractor: SequenceFeatureExtractor
    keeps_head: bool
    allow_pickle: bool


def find_encoder(
    name: str,
    classes: Sequence[str],
    config_overrides: Mapping[str, Any] | None = None,
    *,
    head: str | None = None,
    layers: str | Sequence[int] | None = None,
    num_layers: int | None = None,
    dropout: float | None = None,
    max_seconds: float | None = None,
    revision: str | None = None,
    allow_pickle: bool = False,
) -> EncoderSpec:
    """Read the configuration and the feature extractor of a pretrained speech encoder, but not its weights.

    Args:
        name: name on the Hub, such as facebook/wav2vec2-base, or a folder.
        classes: class names, in the order of their numbers.
        config_overrides: changed settings of the configuration, such as mask_time_prob. Whisper's max_source_positions
            may be "auto": enough for `max_seconds`.
        head: "stock", or a pooling of `SpeechClassifier`; None: that of the checkpoint if ser_ft trained it, else
            "statistics" for Whisper and "stock" for other families.
        layers: the states that the head pools: "last", "learned" (a weighted sum of all), or numbers from 0, the input
            of the first layer, to the number of layers; None: those of the checkpoint if its head is kept, else "last".
        num_layers: number of layers that are kept, from the lowest; None: all.
        dropout: rate of all dropouts of the family; None: those of the checkpoint.
        max_seconds: duration of the longest training clip.
        revision: commit, branch or tag on the Hub; None: the default branch.
        allow_pickle: whether pickled weights may be loaded.

    Raises:
        InputError: there is no such encoder, it is not safe to load, the Hub cannot be reached, transformers has no
            audio classifier of this family, or a setting is unknown or has a wrong value.
    """
    saved = open_model(name, revision)
    saved_config, extractor = copy.deepcopy(saved.config), cast(Any, saved.extractor)
    if is_own_network(saved_config.model_type):
        raise InputError(f"{name}: a {saved_config.model_type} network is no speech encoder")
    config = encoder_config(saved_config)
    check_convolutions(name, config)
    overrides = dict(config_overrides or {})
    if overrides.get("max_source_positions") == "auto":
        overrides["max_source_positions"] = _positions(name, config, max_seconds)
    _check_overrides(name, config, overrides)
    changes: dict[str, Any] = {key: 0.0 for key in ("layerdrop", "encoder_layerdrop") if hasattr(config, key)}
    if dropout is not None:
        settings = config.to_dict().items()
        changes |= {key: dropout for key, value in settings if "dropout" in key and isinstance(value, int | float)}
    if hasattr(config, "mask_feature_prob") and not hasattr(config, "mask_feature_min_masks"):
        changes["mask_feature_min_masks"] = 0  # read by WavLM's masking, but missing in its configuration
    if num_layers is not None:
        if not 1 <= num_layers <= config.num_hidden_layers:
            raise InputError(
                f"model.num_layers must be from 1 to {config.num_hidden_layers}, the layers of {name}, not {num_layers}"
            )
        changes["num_hidden_layers"] = num_layers
    changes |= overrides
    if config.model_type == "whisper" and "max_source_positions" in overrides:
        _shorten_whisper(name, config, extractor, overrides["max_source_positions"])
    with readable_errors(name):
        for key, value in changes.items():
            setattr(config, key, value)
    new_config = _with_head(name, saved_config, config, head, layers)
    same_classes = list((saved_config.id2label or {}).values()) == list(classes)
    keeps_head = same_classes and _head_of(new_config) == _head_of(saved.config)
    new_config.id2label = dict(enumerate(classes))
    new_config.label2id = {label: number for number, label in enumerate(classes)}
    new_config.problem_type = None
    if config.model_type == "whisper":
        is_stock = new_config is config
        extractor = (WhisperFeatureExtractor if is_stock else ClipLengthFeatureExtractor).from_dict(extractor.to_dict())
        config.clip_length = is_stock or None
    return EncoderSpec(name, saved, new_config, extractor, keeps_head, allow_pickle)


def _with_head(
    name: str, saved: PreTrainedConfig, encoder: Any, head: str | None, layers: str | Sequence[int] | None
) -> PreTrainedConfig:
    """Return the configuration of a classifier with the head that a recipe asks for."""
    if head is None and isinstance(saved, SpeechClassifierConfig):
        head = saved.pooling
        layers = layers or saved.layers or "learned"
    head = head or ("statistics" if encoder.model_type == "whisper" else "stock")
    layers = layers or "last"
    if head == "stock":
        if layers not in ("last", "learned"):
            raise InputError("model.layers: the stock head uses last or learned; numbers need model.head statistics")
        if layers == "learned" and hasattr(encoder, "use_weighted_layer_sum"):
            encoder.use_weighted_layer_sum = True
        return cast(PreTrainedConfig, encoder)
    count = encoder.num_hidden_layers
    chosen = {"last": [count], "learned": None}[layers] if isinstance(layers, str) else sorted(set(layers))
    if chosen and not all(0 <= number <= count for number in chosen):
        raise InputError(f"model.layers must be numbers from 0 to {count}, the layers of {name}, not {list(layers)}")
    return SpeechClassifierConfig(encoder=encoder, pooling=head, layers=chosen)


def _positions(name: str, config: PreTrainedConfig, max_seconds: float | None) -> int:
    """Return the positions of Whisper for `max_seconds`, rounded up to a second."""
    if config.model_type != "whisper":
        raise InputError(f"model.config_overrides.max_source_positions applies to Whisper, not to {name}")
    largest: int = config.max_source_positions
    return largest if max_seconds is None else min(largest, 50 * max(1, math.ceil(max_seconds)))


def _head_of(config: PreTrainedConfig) -> tuple[Any, ...]:
    """Return what decides whether the weights of a head fit another configuration."""
    if isinstance(config, SpeechClassifierConfig):
        return config.pooling, config.layers, config.encoder.num_hidden_layers
    return ("stock",)


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
        model = _build_around(spec.config, backbone_of(model))
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


def check_convolutions(name: str, config: PreTrainedConfig) -> None:
    """Refuse convolutions over samples that make so many frames that attention between them would not fit in memory."""
    sizes = [*getattr(config, "conv_kernel", ()), *getattr(config, "conv_stride", ())]
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        raise InputError(f"{name}: conv_kernel and conv_stride in config.json must be whole numbers above 0")
    if sizes and math.prod(config.conv_stride) < _MIN_STRIDE:
        raise InputError(f"{name}: conv_stride in config.json makes a frame of less than {_MIN_STRIDE} samples")


def _check_overrides(name: str, config: PreTrainedConfig, overrides: Mapping[str, Any]) -> None:
    known = {**config.to_dict(), **config.attribute_map}
    for key, value in overrides.items():
        setting = f"model.config_overrides.{key}"
        if key in _LAYER_COUNTS:
            raise InputError(f"{setting}: use model.num_layers")
        if key not in known or key in _FIXED or key.startswith("_"):
            raise InputError(f"model.config_overrides has no setting {key!r} for {name}: see its config.json")
        if key.startswith("mask_") and config.model_type in _FIXED_LENGTH:
            raise InputError(f"{setting} has no effect: {config.model_type} does not mask its input")
        default = getattr(config, key)
        fits = default is None or isinstance(value, _ACCEPTED_TYPES.get(type(default), (type(default),)))
        if not fits or (default is not None and isinstance(value, bool) != isinstance(default, bool)):
            raise InputError(f"{setting} must be a value like {default!r}, not {value!r}")
        if key.startswith("mask_") and key.endswith("_length") and value < 1:
            raise InputError(f"{setting} must be 1 or more, not {value}")
        if ("prob" in key or "drop" in key) and isinstance(value, int | float) and not 0 <= value <= 1:
            raise InputError(f"{setting} must be between 0 and 1, not {value}")


def _shorten_whisper(name: str, config: PreTrainedConfig, extractor: Any, positions: int) -> None:
    """Let Whisper process fewer than 30 s: 50 positions per second, and an extractor that cuts at that length."""
    largest = config.max_source_positions
    if not 0 < positions <= largest or positions % 50:
        raise InputError(f"{name}: max_source_positions must be a multiple of 50 up to {largest}, not {positions}")
    extractor.chunk_length = positions // 50
    extractor.n_samples = extractor.chunk_length * extractor.sampling_rate
    extractor.nb_max_frames = extractor.n_samples // extractor.hop_length
