"""Our own networks and image backbones by name: creates a model and its feature extractor."""

from __future__ import annotations

import inspect
import logging
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from transformers import AutoModelForAudioClassification, PreTrainedConfig, PreTrainedModel

from ..utils.caches import check_cache
from ..utils.errors import InputError, raise_machine_failure
from ..utils.hub_offline import offline_if_unreachable
from . import MODELS, baselines, compact, is_own_model_folder, model_kind, read_model_config, resolve_model_path
from . import spectrogram as image
from .features import SpectralFeatureExtractor
from .loading import check_folder, check_parameters, fetch, find_weights, open_model, quiet_loading

# The 34 short-term descriptors of pyAudioAnalysis (Giannakopoulos, PLoS ONE 2015).
SHORT_TERM = (
    *("zcr", "energy", "energy-entropy", "centroid", "spread", "spectral-entropy", "flux", "rolloff"),
    *("mfcc", "chroma", "chroma-deviation"),
)
STACKED = ("zcr", "rms", "mfcc", "mfcc-delta", "chroma", "log-mel")


@dataclass(frozen=True)
class NetworkDefaults:
    """A network's classes and default settings; `fixed_settings` define the network and cannot be changed."""

    config: type[PreTrainedConfig]
    model: type[PreTrainedModel]
    extractor_settings: Mapping[str, Any]
    fixed_settings: Mapping[str, Any] = field(default_factory=dict)


_TRAINING = {"normalize": "training"}
_STACKED = _TRAINING | {"descriptors": STACKED, "n_mfcc": 20, "hop_length": 256}
_SHORT_TERM = _TRAINING | {"descriptors": SHORT_TERM, "n_mfcc": 13, "hop_length": 256}
_STACKED_CNN = (baselines.StackedCnnConfig, baselines.StackedCnnForAudioClassification, _STACKED)
NETWORKS = {
    "mfcc-cnn": NetworkDefaults(
        baselines.MfccCnnConfig,
        baselines.MfccCnnForAudioClassification,
        _TRAINING | {"descriptors": ("mfcc",), "n_mfcc": 20, "n_mels": 64, "hop_length": 256},
    ),
    "conv1d": NetworkDefaults(baselines.Conv1dConfig, baselines.Conv1dForAudioClassification, _SHORT_TERM),
    "lstm": NetworkDefaults(baselines.LstmConfig, baselines.LstmForAudioClassification, _SHORT_TERM),
    "plain-cnn": NetworkDefaults(*_STACKED_CNN, {"block_type": "plain"}),
    "residual-cnn": NetworkDefaults(*_STACKED_CNN, {"block_type": "residual"}),
    "wide-cnn": NetworkDefaults(*_STACKED_CNN, {"block_type": "wide"}),
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
    _TRAINING | {"descriptors": ("log-mel",), "n_mels": 64, "hop_length": 160},
)
assert tuple(NETWORKS) == MODELS

# Settings that follow from others, or that are fitted.
_FIXED: dict[type, tuple[str, ...]] = {
    SpectralFeatureExtractor: ("sampling_rate", "padding_value", "mean", "scale"),
    image.SpectrogramConfig: ("feature_size", "backbone"),
}
_ACCEPTED_TYPES = {int: (int,), float: (int, float), str: (str,), tuple: (list, tuple), type(None): (int,)}


def build_model(
    name: str,
    classes: Sequence[str],
    extractor_settings: Mapping[str, Any],
    config_overrides: Mapping[str, Any],
    pretrained: bool = True,
    allow_pickle: bool = False,
) -> tuple[SpectralFeatureExtractor, PreTrainedModel]:
    """Create a network and its feature extractor.

    Args:
        name: one of `MODELS`, "small", a folder with a saved network of ser_ft, or an image backbone: timm/NAME on
            the Hub, a folder that timm saved, or torchvision/alexnet.
        classes: class names, in the order of their numbers.
        extractor_settings: changes of the feature extractor's default settings.
        config_overrides: changes of the configuration's default settings.
        pretrained: whether an image backbone gets pretrained weights.
        allow_pickle: whether pickled weights may be loaded.

    Raises:
        InputError: the name or a setting is unknown, a value is wrong, or the weights cannot be loaded.
    """
    if is_own_model_folder(name):
        return _load_own(resolve_model_path(name), classes, extractor_settings, config_overrides, allow_pickle)
    defaults = NETWORKS.get(name, _IMAGE)
    is_image = defaults is _IMAGE
    if is_image and model_kind(name) != "image":
        raise InputError(f"unknown model {name!r}: use one of {', '.join(MODELS)}, or timm/vgg16_bn.tv_in1k")
    _check_settings(SpectralFeatureExtractor, extractor_settings, "model.feature_extractor")
    _check_settings(defaults.config, config_overrides, "model.config_overrides", defaults.fixed_settings)
    try:
        extractor = SpectralFeatureExtractor(**{**defaults.extractor_settings, **extractor_settings})
        settings: dict[str, Any] = {
            "id2label": dict(enumerate(classes)),
            "label2id": {label: number for number, label in enumerate(classes)},
            "feature_size": extractor.feature_size,
            **defaults.fixed_settings,
            **config_overrides,
        }
        if name == "compact-cnn" and (extractor.descriptors, extractor.normalize) != (["log-mel"], "none"):
            raise InputError(
                f"{name} normalizes levels itself: model.feature_extractor needs descriptors [log-mel], normalize none"
            )
        if not is_image:
            return extractor, defaults.model(defaults.config(**settings))
        config = image.SpectrogramConfig(backbone=_timm_name(name), **settings)
        if extractor.feature_size != extractor.n_mels or "log-mel" not in extractor.descriptors:
            raise InputError(
                f"{name} takes log-mel spectrograms: model.feature_extractor.descriptors must be [log-mel]"
            )
        backbone = _create_backbone(name, pretrained, allow_pickle)
        image.check_accepts_any_size(backbone)
        return extractor, image.SpectrogramForAudioClassification(config, backbone)
    except (TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name}: {str(error).splitlines()[0]}") from error


def _load_own(
    folder: str,
    classes: Sequence[str],
    extractor_settings: Mapping[str, Any],
    config_overrides: Mapping[str, Any],
    allow_pickle: bool,
) -> tuple[SpectralFeatureExtractor, PreTrainedModel]:
    for section, settings in (("feature_extractor", extractor_settings), ("config_overrides", config_overrides)):
        if settings:
            raise InputError(f"model.{section} cannot change the saved model {folder}: remove {', '.join(settings)}")
    saved = open_model(folder)
    config, extractor = saved.config, saved.extractor
    if not isinstance(extractor, SpectralFeatureExtractor):
        raise InputError(f"{folder}: its feature extractor is not one of ser_ft")
    needs_new_head = list((config.id2label or {}).values()) != list(classes)
    if needs_new_head:
        config.id2label = dict(enumerate(classes))
        config.label2id = {label: number for number, label in enumerate(classes)}
    model, report = saved.load_weights(AutoModelForAudioClassification, config, allow_pickle)
    missing = sorted(report["missing_keys"])
    if missing:
        raise InputError(f"{folder}: {len(missing)} weights of the model are missing ({missing[0]}, ...)")
    if needs_new_head:
        cast(Any, model).classifier.reset_parameters()
    return extractor, model


def _timm_name(name: str) -> str:
    """Return the name under which timm creates the same network without weights."""
    architecture = read_model_config(name).get("architecture")
    return str(architecture or (name if name == image.ALEXNET else name.rpartition("/")[2]))


def _create_backbone(name: str, pretrained: bool, allow_pickle: bool) -> Any:
    import timm

    if name == image.ALEXNET:
        return image.make_alexnet(_alexnet_weights() if pretrained else None)
    if name.startswith("torchvision/"):
        raise InputError(f"{name}: {image.ALEXNET} is the only torchvision model; timm has the others: timm/NAME")
    # timm warns that it leaves out the network's own head, as it should.
    logging.getLogger("timm").setLevel(logging.ERROR)
    is_local = bool(read_model_config(name))
    timm_name = _timm_name(name)
    if not is_local and not timm.is_model(timm_name.partition(".")[0]):
        raise InputError(f"{name}: timm has no such model; see timm.list_models()")
    try:
        if not pretrained:
            return image.make_timm(timm_name)
        with quiet_loading(), offline_if_unreachable(is_local):
            folder = fetch(name, None, allow_pickle)
            check_folder(name, folder)
            files = find_weights(name, folder, allow_pickle)
            with torch.device("meta"):
                check_parameters(name, image.make_timm(f"local-dir:{folder}"), files)
            return image.make_timm(f"local-dir:{folder}", pretrained=True)
    except InputError:
        raise
    except Exception as error:
        raise_machine_failure(error)
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        if pretrained and not is_local:
            reason = f"the weights are not on this machine and cannot be downloaded from the Hub ({reason})"
        if pretrained:
            reason += "; use --model.pretrained false for random weights"
        raise InputError(f"{name}: {reason}") from error


def _alexnet_weights() -> dict[str, Any]:
    from torchvision.models import AlexNet_Weights

    source, timeout = AlexNet_Weights.IMAGENET1K_V1, socket.getdefaulttimeout()
    socket.setdefaulttimeout(5)
    try:
        weights: dict[str, Any] = source.get_state_dict(check_hash=True, weights_only=True)
    except Exception as error:
        check_cache(torch.hub.get_dir(), "TORCH_HOME")
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"{image.ALEXNET}: the weights cannot be downloaded from {source.url} ({reason}); "
            "use --model.pretrained false for random weights"
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)
    return weights


def _check_settings(
    owner: type, settings: Mapping[str, Any], section: str, fixed_settings: Mapping[str, Any] | None = None
) -> None:
    """Check that a configuration or an extractor has the settings, and that the values have its defaults' types."""
    fixed = (*_FIXED.get(owner, ("feature_size",)), *(fixed_settings or ()))
    if issubclass(owner, PreTrainedConfig):
        defaults = {name: getattr(owner, name) for name in owner.__annotations__}
    else:
        parameters = inspect.signature(owner).parameters.values()
        defaults = {item.name: item.default for item in parameters if item.kind is not item.VAR_KEYWORD}
    defaults = {name: default for name, default in defaults.items() if name not in fixed}
    for name, value in settings.items():
        if name not in defaults:
            raise InputError(f"{section} has no setting {name!r}: the settings are {', '.join(defaults)}")
        default = defaults[name]
        if isinstance(value, bool) or not isinstance(value, _ACCEPTED_TYPES[type(default)]):
            if value is None and default is None:
                continue
            raise InputError(f"{section}.{name} must be a value like {default!r}, not {value!r}")
