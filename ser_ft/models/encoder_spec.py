"""The settings of a pretrained speech encoder and of its head, before weights are loaded."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from transformers import PreTrainedConfig, SequenceFeatureExtractor, WhisperFeatureExtractor

from ..utils.errors import InputError
from . import is_own_network
from .loading import SavedModel, open_model, readable_errors
from .speech_classifier import SpeechClassifierConfig
from .whisper import POSITIONS_PER_SECOND, ClipLengthFeatureExtractor

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


FIXED_LENGTH = ("whisper", "audio-spectrogram-transformer")
"""Families whose input has one length, whatever the clip's."""


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
        head: "stock", a pooling of `SpeechClassifier`, or "linear" (statistics with a linear head); None: that of the
            checkpoint if ser_ft trained it, else "statistics" for Whisper and "stock" for other families.
        layers: the states that the head pools: "last", "learned" (a weighted sum of all), or numbers from 0, the input
            of the first layer, to the number of layers; layers above the highest are left out. None: those of the
            checkpoint if its head is kept, else "last".
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
    if isinstance(saved, SpeechClassifierConfig) and head in (None, saved.head):
        head = saved.head
        layers = (saved.layers or "learned") if layers is None else layers
    head = head or ("statistics" if encoder.model_type == "whisper" else "stock")
    if head == "stock":
        if layers not in (None, "last", "learned"):
            raise InputError("model.layers: the stock head uses last or learned; numbers need model.head statistics")
        if layers is not None and hasattr(encoder, "use_weighted_layer_sum"):
            encoder.use_weighted_layer_sum = layers == "learned"
        return cast(PreTrainedConfig, encoder)
    count, layers = encoder.num_hidden_layers, "last" if layers is None else layers
    chosen = {"last": [count], "learned": None}[layers] if isinstance(layers, str) else sorted(set(layers))
    if chosen is not None and not (chosen and all(0 <= number <= count for number in chosen)):
        raise InputError(f"model.layers must be numbers from 0 to {count}, the layers of {name}, not {list(layers)}")
    if chosen:
        encoder.num_hidden_layers = max(1, *chosen)  # no layer is computed for nothing
    if head == "linear":
        return SpeechClassifierConfig(encoder=encoder, layers=chosen, projection_size=0, head_dropout=0.0)
    return SpeechClassifierConfig(encoder=encoder, pooling=head, layers=chosen)


def _positions(name: str, config: PreTrainedConfig, max_seconds: float | None) -> int:
    """Return the positions of Whisper for `max_seconds`, rounded up to a second."""
    if config.model_type != "whisper":
        raise InputError(f"model.config_overrides.max_source_positions applies to Whisper, not to {name}")
    largest: int = config.max_source_positions
    return largest if max_seconds is None else min(largest, POSITIONS_PER_SECOND * max(1, math.ceil(max_seconds)))


def _head_of(config: PreTrainedConfig) -> tuple[Any, ...]:
    """Return what decides whether the weights of a head fit another configuration."""
    if isinstance(config, SpeechClassifierConfig):
        return config.head, config.layers, config.encoder.num_hidden_layers
    return ("stock",)


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
        if key.startswith("mask_") and config.model_type in FIXED_LENGTH:
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
    if not 0 < positions <= largest or positions % POSITIONS_PER_SECOND:
        raise InputError(f"{name}: max_source_positions must be a multiple of 50 up to {largest}, not {positions}")
    extractor.chunk_length = positions // POSITIONS_PER_SECOND
    extractor.n_samples = extractor.chunk_length * extractor.sampling_rate
    extractor.nb_max_frames = extractor.n_samples // extractor.hop_length
