"""From a model's name to a network and its feature extractor."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import AutoConfig, AutoModelForAudioClassification, PreTrainedConfig, PreTrainedModel

from ..utils.errors import InputError
from ..utils.hub_offline import offline_if_unreachable
from . import MODELS, compact, is_own_model_folder, model_kind, read_model_config, resolve_model_path
from . import baselines as own
from . import spectrogram as image
from .encoders import quiet_loading
from .features import SpectralFeatureExtractor

# The 34 short-term descriptors of pyAudioAnalysis (Giannakopoulos, PLoS ONE 2015).
SHORT_TERM = (
    *("zcr", "energy", "energy-entropy", "centroid", "spread", "spectral-entropy", "flux", "rolloff"),
    *("mfcc", "chroma", "chroma-deviation"),
)
STACKED = ("zcr", "rms", "mfcc", "mfcc-delta", "chroma", "log-mel")


@dataclass(frozen=True)
class NetworkDefaults:
    """One of our own: its classes, and the settings that it has before a recipe's."""

    config: type[PreTrainedConfig]
    model: type[PreTrainedModel]
    features: Mapping[str, Any]
    settings: Mapping[str, Any] = field(default_factory=dict)


_FITTED = {"normalize": "training"}
_STACK = _FITTED | {"descriptors": STACKED, "n_mfcc": 20, "hop_length": 256}
_DESCRIBED = _FITTED | {"descriptors": SHORT_TERM, "n_mfcc": 13, "hop_length": 256}
NETWORKS = {
    "mfcc-cnn": NetworkDefaults(
        own.MfccCnnConfig,
        own.MfccCnnForAudioClassification,
        _FITTED | {"descriptors": ("mfcc",), "n_mfcc": 20, "n_mels": 64, "hop_length": 256},
    ),
    "conv1d": NetworkDefaults(own.Conv1dConfig, own.Conv1dForAudioClassification, _DESCRIBED),
    "lstm": NetworkDefaults(own.LstmConfig, own.LstmForAudioClassification, _DESCRIBED),
    "plain-cnn": NetworkDefaults(
        own.StackedCnnConfig, own.StackedCnnForAudioClassification, _STACK, {"block_type": "plain"}
    ),
    "residual-cnn": NetworkDefaults(
        own.StackedCnnConfig, own.StackedCnnForAudioClassification, _STACK, {"block_type": "residual"}
    ),
    "wide-cnn": NetworkDefaults(
        own.StackedCnnConfig, own.StackedCnnForAudioClassification, _STACK, {"block_type": "wide"}
    ),
    "compact-cnn": NetworkDefaults(
        compact.CompactCnnConfig,
        compact.CompactCnnForAudioClassification,
        {"descriptors": ("log-mel",), "n_mels": 80, "f_min": 50.0, "mel_scale": "htk", "win_length": 400}
        | {"hop_length": 160, "n_fft": 512},
    ),
}
_IMAGE = NetworkDefaults(
    image.SpectrogramConfig,
    image.SpectrogramForAudioClassification,
    _FITTED | {"descriptors": ("log-mel",), "n_mels": 64, "hop_length": 160},
)
assert tuple(NETWORKS) == MODELS

# Settings that follow from others, or that everything before the model relies on.
_FIXED: dict[type, tuple[str, ...]] = {
    SpectralFeatureExtractor: ("sampling_rate", "padding_value", "mean", "scale"),
    image.SpectrogramConfig: ("feature_size", "backbone"),
}
_FITTING = {int: (int,), float: (int, float), str: (str,), tuple: (list, tuple), type(None): (int,)}


def build_model(
    name: str,
    classes: Sequence[str],
    features: Mapping[str, Any],
    network: Mapping[str, Any],
    pretrained: bool = True,
) -> tuple[SpectralFeatureExtractor, PreTrainedModel]:
    """Make a network for the given classes, and its feature extractor.

    Args:
        name: of `MODELS`; "shipped"; a folder where one was saved; or an image backbone: timm/NAME as on the Hub, a
            folder that timm saved, or torchvision/alexnet. classes: in the order of their numbers.
        features: settings of the feature extractor. network: settings of the network.
        pretrained: give an image backbone its pretrained weights; otherwise random ones.

    Raises:
        InputError: the name, or a setting, is unknown or does not fit, or the weights cannot be had.
    """
    if is_own_model_folder(name):
        return _saved(resolve_model_path(name), classes, features, network)
    known = NETWORKS.get(name, _IMAGE)
    if known is _IMAGE and model_kind(name) != "image":
        raise InputError(f"unknown model {name!r}: use one of {', '.join(MODELS)}, or timm/vgg16_bn.tv_in1k")
    _check(SpectralFeatureExtractor, features, "model.feature_extractor")
    _check(known.config, network, "model.config_overrides", known.settings)
    settings: dict[str, Any] = {"id2label": dict(enumerate(classes)), "label2id": {c: n for n, c in enumerate(classes)}}
    try:
        extractor = SpectralFeatureExtractor(**{**known.features, **features})
        settings |= {"feature_size": extractor.feature_size, **known.settings, **network}
        if name == "compact-cnn" and (extractor.descriptors, extractor.normalize) != (["log-mel"], "none"):
            raise InputError(
                f"{name}: measures levels itself: model.feature_extractor.descriptors must be [log-mel], normalize none"
            )
        if known is not _IMAGE:
            return extractor, known.model(known.config(**settings))
        config = image.SpectrogramConfig(backbone=_called_in_timm(name), **settings)
        if extractor.feature_size != extractor.n_mels or "log-mel" not in extractor.descriptors:
            raise InputError(
                f"{name}: sees a log-mel spectrogram: model.feature_extractor.descriptors must be [log-mel]"
            )
        backbone = _backbone(name, pretrained)
        image.check_accepts_any_size(backbone)
        return extractor, image.SpectrogramForAudioClassification(config, backbone)
    except (TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name}: {str(error).splitlines()[0]}") from error


def _saved(
    folder: str, classes: Sequence[str], features: Mapping[str, Any], network: Mapping[str, Any]
) -> tuple[SpectralFeatureExtractor, PreTrainedModel]:
    """Load one of our own networks that was trained before, with a new head where its classes are others."""
    for name, settings in (("features", features), ("network", network)):
        if settings:
            raise InputError(f"model.{name} is settled in {folder}: leave {', '.join(settings)} out")
    try:
        with quiet_loading():
            config = AutoConfig.from_pretrained(folder)
            others = list(config.id2label.values()) != list(classes)
            if others:
                config.id2label = dict(enumerate(classes))
                config.label2id = {label: number for number, label in enumerate(classes)}
            model = AutoModelForAudioClassification.from_pretrained(folder, config=config, ignore_mismatched_sizes=True)
            if others:
                model.classifier.reset_parameters()
            return SpectralFeatureExtractor.from_pretrained(folder), model
    except Exception as error:
        raise InputError(f"{folder}: no model of ser_ft that can be loaded ({str(error).splitlines()[0]})") from error


def _called_in_timm(name: str) -> str:
    """Return what makes the same network of timm again, without weights."""
    return str(
        read_model_config(name).get("architecture") or (name if name == image.ALEXNET else name.rpartition("/")[2])
    )


def _backbone(name: str, pretrained: bool) -> Any:
    """Make an image backbone; its weights are read only where they are asked for."""
    import timm

    if name == image.ALEXNET:
        return image.make_alexnet(_alexnet_weights() if pretrained else None)
    if name.startswith("torchvision/"):
        raise InputError(f"{name}: of torchvision there is {image.ALEXNET} alone; timm has the others: timm/NAME")
    # That a network's own head is left out is no news.
    logging.getLogger("timm").setLevel(logging.ERROR)
    local = bool(read_model_config(name))
    called = _called_in_timm(name)
    if not local and not timm.is_model(called.partition(".")[0]):
        raise InputError(f"{name}: timm knows no such network; timm.list_models() names those it has")
    try:
        if not pretrained:
            return image.make_timm(called)
        with quiet_loading(), offline_if_unreachable(local):
            return image.make_timm(f"local-dir:{name}" if local else f"hf-hub:{name}", pretrained=True)
    except Exception as error:
        first = str(error).strip().partition("\n")[0] or type(error).__name__
        if pretrained and not local:
            first = f"its weights are neither on this machine nor to be had from the Hub ({first})"
        if pretrained:
            first += "; --model.pretrained false starts from random weights"
        raise InputError(f"{name}: {first}") from error


def _alexnet_weights() -> dict[str, Any]:
    """Fetch AlexNet's weights from torchvision's own place: a checked file, read as weights alone."""
    import socket

    from torchvision.models import AlexNet_Weights

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(5)
    try:
        found: dict[str, Any] = AlexNet_Weights.IMAGENET1K_V1.get_state_dict(check_hash=True, weights_only=True)
    except Exception as error:
        url = AlexNet_Weights.IMAGENET1K_V1.url
        raise InputError(
            f"{image.ALEXNET}: its weights cannot be had from {url} ({str(error).partition(chr(10))[0]}); "
            "--model.pretrained false starts from random weights"
        ) from error
    finally:
        socket.setdefaulttimeout(before)
    return found


def _check(owner: type, settings: Mapping[str, Any], where: str, set_already: Mapping[str, Any] | None = None) -> None:
    """Refuse settings that the owner's constructor does not have, or that are unlike its defaults."""
    parameters = inspect.signature(owner).parameters.values()
    defaults = {each.name: each.default for each in parameters if each.kind is not each.VAR_KEYWORD}
    fixed = (*_FIXED.get(owner, ("feature_size",)), *(set_already or ()))
    known = [name for name in defaults if name not in fixed]
    for name, value in settings.items():
        if name not in known:
            raise InputError(f"{where} has no setting {name!r}: it has {', '.join(known)}")
        if isinstance(value, bool) or not isinstance(value, _FITTING[type(defaults[name])]):
            if value is None and defaults[name] is None:
                continue
            raise InputError(f"{where}.{name} is written like {defaults[name]!r}, not {value!r}")
