"""Pretrained speech encoders behind `AutoModelForAudioClassification`: loaded, checked, and taken apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import torch
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    PreTrainedConfig,
    PreTrainedModel,
    SequenceFeatureExtractor,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES
from transformers.utils import logging

from ..utils.errors import InputError
from ..utils.hub_offline import offline_if_unreachable

_FITTING = {bool: (bool,), int: (int,), float: (int, float), str: (str,), tuple: (list, tuple), list: (list, tuple)}
# What follows from the classes, or would make another network of the checkpoint's weights.
_FIXED = (
    *("num_labels", "id2label", "label2id", "model_type", "architectures", "dtype", "return_dict", "problem_type"),
    *("hidden_size", "d_model", "num_attention_heads", "encoder_attention_heads", "conv_dim", "conv_kernel"),
    *("conv_stride", "feat_extract_norm", "do_stable_layer_norm", "add_adapter", "num_mel_bins"),
)
_COUNTS = ("num_hidden_layers", "encoder_layers")

_FIXED_LENGTH = ("whisper", "audio-spectrogram-transformer")
# Their layers see pairs of frames, the last of which may be half a clip's and half silence.
_HALVING = ("sew", "sew-d")
# The fewest samples that give a finite answer: one frame of the convolutions, two of SEW, or one of the spectrum.
_LEAST_SAMPLES = dict.fromkeys(MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES, 400) | {
    "sew": 720,
    "sew-d": 720,
    "wav2vec2-bert": 560,
}

_LAST_NORM = {
    "whisper": "layer_norm",
    "audio-spectrogram-transformer": "layernorm",
    "wav2vec2-conformer": "encoder.layer_norm",
}


@dataclass(frozen=True)
class EncoderParts:
    """Where the parts of a speech classifier are, whatever its family calls them.

    Attributes:
        model: the whole. backbone: what is pretrained; all else is the head.
        layers: of the transformer, from the input upwards.
        convolutions: from the wave to frames, where the family has them (Whisper, AST and wav2vec2-BERT start from
            spectra instead).
    """

    model: PreTrainedModel
    backbone: nn.Module
    layers: nn.ModuleList
    feature_encoder: nn.Module | None

    @classmethod
    def of(cls, model: PreTrainedModel) -> EncoderParts:
        """Find the parts: the backbone is the largest child, its layers the largest list of so many."""
        backbone = max(model.children(), key=_size)
        convolutions = getattr(backbone, "feature_extractor", None)
        inside = set() if convolutions is None else set(convolutions.modules())
        count = model.config.num_hidden_layers
        lists = [one for one in backbone.modules() if isinstance(one, nn.ModuleList) and one not in inside]
        lists = [one for one in lists if len(one) == count]
        return cls(model, backbone, max(lists, key=_size), convolutions)

    @property
    def head(self) -> list[nn.Parameter]:
        """The parameters outside the backbone."""
        inside = {id(parameter) for parameter in self.backbone.parameters()}
        return [parameter for parameter in self.model.parameters() if id(parameter) not in inside]

    @property
    def final_norms(self) -> list[nn.Module]:
        """What lies between the last layer and the head: a last normalisation, where the family has one."""
        config = self.model.config
        name = _LAST_NORM.get(config.model_type)
        if getattr(config, "do_stable_layer_norm", False):
            name = "encoder.layer_norm"
        return [] if name is None else [self.backbone.get_submodule(name)]

    @property
    def input_spec(self) -> InputSpec:
        """What the model is given, and how clips may be put together."""
        config = self.model.config
        masked = hasattr(self.backbone, "_mask_hidden_states") and getattr(config, "apply_spec_augment", True)
        spans = int(config.mask_time_length) + 1 if masked and config.mask_time_prob > 0 else 1
        kind = (
            "waveform"
            if self.feature_encoder is not None
            else "fixed_length"
            if config.model_type in _FIXED_LENGTH
            else "frames"
        )
        return InputSpec(
            kind=kind,
            kernel_sizes=tuple(config.conv_kernel) if kind == "waveform" else (),
            strides=tuple(config.conv_stride) if kind == "waveform" else (),
            requires_unpadded_convolution=kind == "waveform"
            and getattr(config, "feat_extract_norm", "layer") != "layer",
            requires_equal_lengths=config.model_type in _HALVING,
            min_samples=_LEAST_SAMPLES.get(config.model_type, 1),
            min_frames=spans,
        )

    @property
    def uses_weighted_layer_sum(self) -> bool:
        """Whether the head takes a learned weighting of the layers."""
        return bool(getattr(self.model.config, "use_weighted_layer_sum", False))


@dataclass(frozen=True)
class InputSpec:
    """What a model is given, and how clips may be put together.

    Attributes:
        kind: "waves" (samples, and a mask over them), "frames" (of a spectrum, and a mask over them) or "fixed" (a
            spectrum of one length, whatever the clip's).
        kernels, strides: of the convolutions over samples.
        alone: padding would change what the convolutions make of a clip, for their first layer normalises over time
            (`feat_extract_norm: group`: wav2vec2-base, HuBERT-base, WavLM-base, SEW): each must go through them alone.
        alike: padding changes the answer further up, whatever the mask: exact only in batches of one length.
        min_samples: of a clip: a shorter one is padded with silence.
        min_frames: that a batch may have in training: SpecAugment's spans must fit in.
    """

    kind: str
    kernel_sizes: tuple[int, ...]
    strides: tuple[int, ...]
    requires_unpadded_convolution: bool
    requires_equal_lengths: bool
    min_samples: int
    min_frames: int

    def num_frames(self, samples: Any) -> Any:
        """Return how many frames the convolutions make of so many samples: of a number, an array or a tensor."""
        for kernel, stride in zip(self.kernel_sizes, self.strides, strict=True):
            samples = (samples - kernel) // stride + 1
        return samples

    def num_samples(self, frames: int) -> int:
        """Return the fewest samples of which the convolutions make so many frames."""
        for kernel, stride in reversed(list(zip(self.kernel_sizes, self.strides, strict=True))):
            frames = (frames - 1) * stride + kernel
        return frames


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@dataclass(frozen=True)
class EncoderSpec:
    """What a name stands for, before its weights are read: a configuration, and a feature extractor.

    `keeps_head`: it was fine-tuned for the same classes, and its head is kept.
    """

    name: str
    revision: str | None
    config: PreTrainedConfig
    extractor: SequenceFeatureExtractor
    keeps_head: bool


def find_encoder(
    name: str,
    classes: Sequence[str],
    network: Mapping[str, Any] | None = None,
    dropout: float | None = None,
    weighted: bool = False,
    revision: str | None = None,
) -> EncoderSpec:
    """Find a pretrained speech encoder by its name on the Hub, or its folder; its weights are not read yet.

    Args:
        name: such as facebook/wav2vec2-base, or a folder. classes: in the order of their numbers.
        network: settings of its configuration to be changed, such as mask_time_prob or num_hidden_layers.
        dropout: of every kind the family has; by default as the checkpoint says.
        weighted: let the head learn a weighting of the layers, where the family can.
        revision: a commit, branch or tag of the Hub.

    Raises:
        InputError: there is no such encoder, the Hub cannot be reached, the family is no speech encoder that
            transformers can classify with, or a setting is unknown or does not fit.
    """
    with quiet_loading(), readable_errors(name):
        config = AutoConfig.from_pretrained(name, revision=revision)
        if config.model_type not in MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES:
            families = ", ".join(sorted(MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES))
            raise InputError(f"{name}: is a {config.model_type}, which is no speech classifier; they are: {families}")
        extractor = AutoFeatureExtractor.from_pretrained(name, revision=revision)
    network = dict(network or {})
    _check(name, config, network)
    changed: dict[str, Any] = {}
    if hasattr(config, "layerdrop"):
        changed["layerdrop"] = 0.0
    if hasattr(config, "encoder_layerdrop"):
        changed["encoder_layerdrop"] = 0.0
    if weighted and hasattr(config, "use_weighted_layer_sum"):
        changed["use_weighted_layer_sum"] = True
    if dropout is not None:
        changed |= dict.fromkeys(_dropouts(config), dropout)
    if hasattr(config, "mask_feature_prob") and not hasattr(config, "mask_feature_min_masks"):
        changed["mask_feature_min_masks"] = 0  # which WavLM's configuration lacks, and its masks ask for
    changed |= network
    if config.model_type == "whisper" and "max_source_positions" in network:
        _shorten(name, config, extractor, network["max_source_positions"])
    keeps_head = list(config.id2label.values()) == list(classes)
    with readable_errors(name):
        for key, value in changed.items():
            setattr(config, key, value)
    config.id2label = dict(enumerate(classes))
    config.label2id = {label: number for number, label in enumerate(classes)}
    config.problem_type = None
    return EncoderSpec(name, revision, config, extractor, keeps_head)


def load_encoder(found: EncoderSpec) -> PreTrainedModel:
    """Load an encoder's weights, with a new head where its own does not fit.

    Raises:
        InputError: the weights are not there, or are not this encoder's.
    """
    with quiet_loading(), readable_errors(found.name):
        model, report = AutoModelForAudioClassification.from_pretrained(
            found.name,
            revision=found.revision,
            config=found.config,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    if "layer_weights" in report["missing_keys"]:
        # transformers 5.23 leaves them as the memory was.
        torch.nn.init.constant_(model.layer_weights, 1 / len(model.layer_weights))
    parts = EncoderParts.of(model)
    if not found.keeps_head:
        for child in model.children():
            if child is not parts.backbone:
                child.apply(model._init_weights)
    inside = {name for name, one in model.named_modules() if one is parts.backbone}
    prefix = f"{inside.pop()}."
    missing = {name for name in report["missing_keys"] if name.startswith(prefix)}
    other = {name for name, *_ in report["mismatched_keys"] if name.startswith(prefix)}
    # Masks learned in pretraining are in few checkpoints; Whisper's positions are sines, made anew at any length.
    missing = {name for name in missing if not name.endswith("masked_spec_embed")}
    other = {name for name in other if not name.endswith("embed_positions.weight")}
    if missing or other:
        worst = sorted(missing or other)[0]
        raise InputError(
            f"{found.name}: {len(missing | other)} weights of the encoder are missing or of another shape "
            f"({worst}, ...): this is no checkpoint of a {found.config.model_type}, or model.config_overrides does not fit it"
        )
    return cast(PreTrainedModel, model)


def _check(name: str, config: PreTrainedConfig, network: Mapping[str, Any]) -> None:
    """Refuse settings that the family's configuration does not have, or that are unlike its own or out of range."""
    known = {**config.to_dict(), **config.attribute_map}
    for key, value in network.items():
        where = f"model.config_overrides.{key}"
        if key not in known or key in _FIXED or key.startswith("_"):
            raise InputError(
                f"model.config_overrides has no setting {key!r} for {name}: its config.json holds those it has"
            )
        if key.startswith("mask_") and config.model_type in _FIXED_LENGTH:
            raise InputError(f"{where} does nothing in a {config.model_type}, which masks nothing")
        own = getattr(config, key)
        fits = own is None or isinstance(value, _FITTING.get(type(own), (type(own),)))
        if not fits or (own is not None and isinstance(value, bool) != isinstance(own, bool)):
            raise InputError(f"{where} is written like {own!r}, not {value!r}")
        if key in _COUNTS and not 1 <= value <= own:
            raise InputError(f"{where} is a number of the checkpoint's {own} layers, the lowest ones, not {value}")
        if key.startswith("mask_") and key.endswith("_length") and value < 1:
            raise InputError(f"{where} must be 1 or more, not {value}")
        if ("prob" in key or "drop" in key) and isinstance(value, int | float) and not 0 <= value <= 1:
            raise InputError(f"{where} is a share between 0 and 1, not {value}")


def _dropouts(config: PreTrainedConfig) -> list[str]:
    """Return the settings of a configuration that are dropouts."""
    settings = config.to_dict()
    return [key for key, value in settings.items() if "dropout" in key and isinstance(value, int | float)]


def _shorten(name: str, config: PreTrainedConfig, extractor: Any, positions: int) -> None:
    """Let a Whisper hear fewer than its 30 s: 50 positions a second, and an extractor that cuts there."""
    if not 0 < positions <= config.max_source_positions or positions % 50:
        most = config.max_source_positions
        raise InputError(f"{name}: max_source_positions is 50 for each second heard, up to {most}, not {positions}")
    extractor.chunk_length = positions // 50
    extractor.n_samples = extractor.chunk_length * extractor.sampling_rate
    extractor.nb_max_frames = extractor.n_samples // extractor.hop_length


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Keep transformers' report and bar of what was loaded to ourselves; the Hub's bars of downloads stay."""
    verbosity, bars, downloads = logging.get_verbosity(), logging.is_progress_bar_enabled(), _hub_bars()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if downloads:
        enable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
        (enable_progress_bars if downloads else disable_progress_bars)()


def _hub_bars() -> bool:
    return not are_progress_bars_disabled()


@contextmanager
def readable_errors(name: str) -> Iterator[None]:
    """Say in one line why an encoder cannot be loaded; a Hub that is out of reach, in seconds."""
    folder = Path(name)
    try:
        with offline_if_unreachable(local=folder.is_dir()):
            yield
    except InputError:
        raise
    except Exception as error:
        pointers = [file.name for file in folder.glob("*") if _is_pointer(file)] if folder.is_dir() else []
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if pointers:
            first = f"{pointers[0]} is a git-lfs pointer, not the file itself: run `git lfs pull` there"
        elif isinstance(error, SafetensorError | UnpicklingError | EOFError):
            first = "its weights file is damaged, or cut short: fetch it anew"
        if folder.is_dir():
            raise InputError(f"{name}: no model of speech that transformers can load ({first})") from error
        raise InputError(
            f"{name}: neither a folder nor a model that is on this machine or can be had from the Hub ({first})"
        ) from error


def _is_pointer(file: Path) -> bool:
    if not file.is_file() or file.stat().st_size > 1024:
        return False
    return file.read_bytes().startswith(b"version https://git-lfs")
