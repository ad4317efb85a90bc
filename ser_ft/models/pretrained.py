"""Classifiers that were fine-tuned before, by ser_ft or by anyone with transformers: loaded whole, or refused."""

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

_OURS = "ser_ft_"


@dataclass(frozen=True)
class PretrainedClassifier:
    """A classifier as it was saved.

    Attributes:
        name: its folder, or its name on the Hub. model: in float32, in evaluation mode. extractor: its own.
        classes: its names of them, in the order of their numbers.
    """

    name: str
    model: PreTrainedModel
    extractor: SequenceFeatureExtractor
    classes: tuple[str, ...]

    @classmethod
    def load(cls, name: str) -> PretrainedClassifier:
        """Load a classifier from a folder or the Hub, or the one that comes with ser_ft ("shipped").

        No code that comes with it is run.

        Raises:
            InputError: there is none, the Hub cannot be reached, it is no classifier of sound at 16 kHz, or weights of
                it are missing, as where its head is of a kind that transformers does not know.
        """
        place = resolve_model_path(name)
        with quiet_loading(), readable_errors(name):
            config = AutoConfig.from_pretrained(place)
            family = config.model_type
            if family not in MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES and not family.startswith(_OURS):
                raise InputError(f"{name}: is a {family}, which classifies no sound")
            extractor = AutoFeatureExtractor.from_pretrained(place)
            model, report = AutoModelForAudioClassification.from_pretrained(
                place, dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True
            )
        # Masks are drawn in training alone.
        missing = {key for key in report["missing_keys"] if not key.endswith("masked_spec_embed")}
        missing |= {key for key, *_ in report["mismatched_keys"]}
        if missing:
            raise InputError(
                f"{name}: {len(missing)} weights of the classifier are missing or of another shape ({min(missing)}, "
                "...): it was not fine-tuned yet, or its head is not transformers' own"
            )
        if extractor.sampling_rate != SAMPLE_RATE:
            raise InputError(f"{name}: hears sound at {extractor.sampling_rate} Hz, and prepared sound is at 16 kHz")
        names = model.config.id2label or {}
        return cls(name, model.eval(), extractor, tuple(str(names[number]) for number in sorted(names)))

    @property
    def display_name(self) -> str:
        """What it is called in tables: the last part of its name; of a run's model, the run's folder."""
        folder = Path(self.name)
        if not folder.is_dir():
            return self.name
        folder = folder.resolve()
        return folder.parent.name if folder.name == "model" else folder.name

    @property
    def min_samples(self) -> int:
        """The samples of the shortest clip that it is asked about; shorter ones are padded with silence."""
        extractor = self.extractor
        if not isinstance(extractor, SpectralFeatureExtractor):
            return EncoderParts.of(self.model).input_spec.min_samples
        summed: Any = self.model
        frames = max(summed.min_frames, DELTA_WIDTH if DELTA_ORDERS.keys() & set(extractor.descriptors) else 1)
        return max(extractor.win_length, (int(frames) - 1) * extractor.hop_length)

    @property
    def threshold(self) -> float | None:
        """The top probability under which an answer is uncertain, as it was fitted; None: it was not."""
        found = getattr(self.model.config, "uncertain_below", None)
        return None if found is None else float(found)

    @property
    def is_own_network(self) -> bool:
        """Whether it is a network of ser_ft, which is given frames of descriptors."""
        return str(self.model.config.model_type).startswith(_OURS)


def fold_temperature(model: Any, temperature: float) -> None:
    """Divide a classifier's logits by a temperature, for good, in the weights and bias of its last linear layer.

    Whoever loads the model then gets calibrated probabilities, with stock transformers too.

    Args:
        model: whose head is called `classifier`, a linear layer or modules of which the last linear one gives the
            logits. temperature: above 0.
    """
    last: nn.Linear = [module for module in model.classifier.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        for parameter in last.parameters():
            parameter.div_(temperature)
