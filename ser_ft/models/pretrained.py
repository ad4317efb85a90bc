"""Saved audio classifiers, fine-tuned by ser_ft or with transformers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    PreTrainedModel,
    SequenceFeatureExtractor,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES

from ..audio import SAMPLE_RATE
from ..utils.errors import InputError
from . import resolve_model_path
from .descriptors import DELTA_ORDERS, DELTA_WIDTH
from .encoders import EncoderParts, quiet_loading, readable_errors
from .features import SpectralFeatureExtractor

_OWN_PREFIX = "ser_ft_"


@dataclass(frozen=True)
class PretrainedClassifier:
    """A saved audio classifier, in float32 and in evaluation mode; its name is a folder or a name on the Hub."""

    name: str
    model: PreTrainedModel
    extractor: SequenceFeatureExtractor
    classes: tuple[str, ...]

    @classmethod
    def load(cls, name: str) -> PretrainedClassifier:
        """Load a classifier from a folder or the Hub, or the one that comes with ser_ft ("shipped").

        No code that is saved with the classifier is run. Raises `InputError` if the classifier cannot be loaded, does
        not classify audio at 16 kHz, or lacks weights, for example because transformers does not know its kind of head.
        """
        path = resolve_model_path(name)
        with quiet_loading(), readable_errors(name):
            config = AutoConfig.from_pretrained(path)
            family = config.model_type
            if family not in MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES and not family.startswith(_OWN_PREFIX):
                raise InputError(f"{name}: a {family} model does not classify audio")
            extractor = AutoFeatureExtractor.from_pretrained(path)
            model, report = AutoModelForAudioClassification.from_pretrained(
                path, dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True
            )
        # Masks are used in training only.
        missing = {key for key in report["missing_keys"] if not key.endswith("masked_spec_embed")}
        missing |= {key for key, *_ in report["mismatched_keys"]}
        if missing:
            raise InputError(
                f"{name}: {len(missing)} weights of the classifier are missing or have another shape ({min(missing)}, "
                "...): the model is not fine-tuned yet, or its head is not one of transformers"
            )
        if extractor.sampling_rate != SAMPLE_RATE:
            rate = extractor.sampling_rate
            raise InputError(f"{name}: the model takes audio at {rate} Hz, but prepared audio is at 16 kHz")
        classes = tuple(str(label) for _, label in sorted((model.config.id2label or {}).items()))
        return cls(name, model.eval(), extractor, classes)

    @property
    def display_name(self) -> str:
        """Name in tables: the name of the folder, or of the run folder if the model is a run's."""
        folder = Path(self.name)
        if not folder.is_dir():
            return self.name
        folder = folder.resolve()
        return folder.parent.name if folder.name == "model" else folder.name

    @property
    def min_samples(self) -> int:
        """Fewest samples that the model takes; shorter clips are padded with silence."""
        extractor = self.extractor
        if not isinstance(extractor, SpectralFeatureExtractor):
            return EncoderParts.of(self.model).input_spec.min_samples
        network: Any = self.model
        frames = max(network.min_frames, DELTA_WIDTH if DELTA_ORDERS.keys() & set(extractor.descriptors) else 1)
        return max(extractor.win_length, (int(frames) - 1) * extractor.hop_length)

    @property
    def threshold(self) -> float | None:
        """Fitted threshold of the highest probability below which a prediction is uncertain; None: not fitted."""
        threshold = getattr(self.model.config, "uncertain_below", None)
        return None if threshold is None else float(threshold)

    @property
    def is_own_network(self) -> bool:
        """Whether the model is a network of ser_ft, whose inputs are frames of descriptors."""
        return str(self.model.config.model_type).startswith(_OWN_PREFIX)


def fold_temperature(model: Any, temperature: float) -> None:
    """Divide a classifier's logits by a temperature in the weights and bias of its last linear layer.

    The saved model then gives calibrated probabilities with stock transformers, too. Its head `classifier` is a linear
    layer, or modules of which the last linear layer gives the logits.
    """
    last: nn.Linear = [module for module in model.classifier.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        for parameter in last.parameters():
            parameter.div_(temperature)
