"""From a model's name to a network and its feature extractor."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedModel, SequenceFeatureExtractor

from ..errors import InputError
from . import MODELS
from .baselines import MfccCnnConfig, MfccCnnForAudioClassification
from .features import SpectralFeatureExtractor

# Settings that follow from others, or that everything before the model relies on.
_FIXED = {SpectralFeatureExtractor: ("sampling_rate", "padding_value"), MfccCnnConfig: ("feature_size",)}
_FITTING = {int: (int,), float: (int, float), str: (str,), tuple: (list, tuple)}


def build(
    name: str, classes: Sequence[str], features: Mapping[str, Any], network: Mapping[str, Any]
) -> tuple[SequenceFeatureExtractor, PreTrainedModel]:
    """Make an untrained network for the given classes, and its feature extractor.

    Args:
        name: of `MODELS`. classes: in the order of their numbers.
        features: settings of the feature extractor. network: settings of the network.

    Raises:
        InputError: the name, or a setting, is unknown or does not fit.
    """
    if name not in MODELS:
        raise InputError(f"unknown model {name!r}: use one of {', '.join(MODELS)}")
    _check(SpectralFeatureExtractor, features, "model.features")
    _check(MfccCnnConfig, network, "model.network")
    labels: dict[str, Any] = {"id2label": dict(enumerate(classes)), "label2id": {c: n for n, c in enumerate(classes)}}
    try:
        extractor = SpectralFeatureExtractor(**features)
        config = MfccCnnConfig(feature_size=extractor.feature_size, **network, **labels)
        return extractor, MfccCnnForAudioClassification(config)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name}: {str(error).splitlines()[0]}") from error


def _check(owner: type, settings: Mapping[str, Any], where: str) -> None:
    """Refuse settings that the owner's constructor does not have, or that are unlike its defaults."""
    parameters = inspect.signature(owner).parameters.values()
    defaults = {each.name: each.default for each in parameters if each.kind is not each.VAR_KEYWORD}
    known = [name for name in defaults if name not in _FIXED[owner]]
    for name, value in settings.items():
        if name not in known:
            raise InputError(f"{where} has no setting {name!r}: it has {', '.join(known)}")
        if isinstance(value, bool) or not isinstance(value, _FITTING[type(defaults[name])]):
            raise InputError(f"{where}.{name} is written like {defaults[name]!r}, not {value!r}")
