"""From a model's name to a network and its feature extractor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedModel, SequenceFeatureExtractor

from ..errors import InputError
from .baselines import MfccCnnConfig, MfccCnnForAudioClassification
from .features import SpectralFeatureExtractor

MODELS = ("mfcc-cnn",)


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
    labels = {"id2label": dict(enumerate(classes)), "label2id": {label: place for place, label in enumerate(classes)}}
    try:
        _known(SpectralFeatureExtractor, features, "model.features")
        _known(MfccCnnConfig, network, "model.network")
        extractor = SpectralFeatureExtractor(**features)
        config = MfccCnnConfig(**{"feature_size": extractor.feature_size, **network}, **labels)
        return extractor, MfccCnnForAudioClassification(config)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name}: {str(error).splitlines()[0]}") from error


def _known(owner: type, settings: Mapping[str, Any], where: str) -> None:
    import inspect

    names = [name for name, kind in inspect.signature(owner).parameters.items() if kind.kind is not kind.VAR_KEYWORD]
    unknown = [name for name in settings if name not in names]
    if unknown:
        raise InputError(f"{where} has no setting {unknown[0]!r}: it has {', '.join(names)}")
