"""Saved audio classifiers, fine-tuned by ser_ft or with transformers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForAudioClassification, PreTrainedModel, SequenceFeatureExtractor

from ..audio import SAMPLE_RATE
from ..utils.errors import InputError
from . import is_own_network
from .collation import make_collator
from .descriptors import DELTA_ORDERS, DELTA_WIDTH
from .encoder_spec import check_convolutions, encoder_config
from .encoders import EncoderParts, set_input_length
from .features import SpectralFeatureExtractor
from .loading import open_model, readable_errors
from .outputs import check_classes, to_probabilities


@dataclass(frozen=True)
class PretrainedClassifier:
    """A saved audio classifier, in float32 and in evaluation mode; its name is a folder or a name on the Hub."""

    name: str
    model: PreTrainedModel
    extractor: SequenceFeatureExtractor
    classes: tuple[str, ...]

    @classmethod
    def load(cls, name: str, allow_pickle: bool = False) -> PretrainedClassifier:
        """Load a classifier from a folder or the Hub, or one that comes with ser_ft.

        No code that is saved with the classifier is run. Pickled weights are loaded only with `allow_pickle`.

        Raises:
            InputError: the classifier cannot be loaded, needs code or files from elsewhere, does not classify audio at
                16 kHz, lacks weights (for example because transformers does not know its kind of head), has two classes
                of one name, or does not answer with finite numbers.
        """
        saved = open_model(name)
        extractor: Any = saved.extractor
        check_convolutions(name, encoder_config(saved.config))
        model, report = saved.load_weights(AutoModelForAudioClassification, allow_pickle=allow_pickle)
        set_input_length(model)
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
        labels = [label for _, label in sorted((model.config.id2label or {}).items())]
        classes = check_classes(name, (str(label) if isinstance(label, int) else label for label in labels))
        classifier = cls(name, cast(Any, model).eval(), extractor, classes)
        classifier._check_answer()
        return classifier

    def _check_answer(self) -> None:
        """Classify noise, so that settings that do not fit together are noticed before recordings are read."""
        threshold = getattr(self.model.config, "uncertain_below", None)
        if threshold is not None and not (isinstance(threshold, int | float) and 0 <= threshold <= 1):
            raise InputError(f"{self.name}: uncertain_below in config.json is no probability: {str(threshold)[:40]}")
        with readable_errors(self.name), torch.inference_mode():
            noise = np.random.default_rng(0).normal(0, 0.1, max(self.min_samples, SAMPLE_RATE // 2))
            inputs = make_collator(self.model, self.extractor)([noise.astype(np.float32)])
            logits = cast(nn.Module, self.model)(**inputs).logits
        to_probabilities(logits.numpy(), (1, len(self.classes)), name=self.name)

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
    def clip_length(self) -> bool:
        """Whether the model is a Whisper encoder that computes clips of their own length."""
        return not self.is_own_network and EncoderParts.of(self.model).input_spec.kind == "log_mel"

    @property
    def is_own_network(self) -> bool:
        """Whether the model is a network of ser_ft, whose inputs are frames of descriptors."""
        return is_own_network(str(self.model.config.model_type))


def fold_temperature(model: Any, temperature: float) -> None:
    """Divide a classifier's logits by a temperature in the weights and bias of its last linear layer.

    The saved model then gives calibrated probabilities with stock transformers, too. Its head `classifier` is a linear
    layer, or modules of which the last linear layer gives the logits.
    """
    with torch.no_grad():
        for parameter in last_linear_layer(model).parameters():
            parameter.div_(temperature)


def last_linear_layer(model: Any) -> nn.Linear:
    """Return the layer of a classifier that gives the logits."""
    return [module for module in model.classifier.modules() if isinstance(module, nn.Linear)][-1]
