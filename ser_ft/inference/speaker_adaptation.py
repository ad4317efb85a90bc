"""Unsupervised speaker adaptation: a speaker's predictions are corrected by what the model predicts for the speaker.

A model is often biased for a speaker or a microphone: it predicts anger for every clip, for example. If the emotions of
several clips of a speaker are mixed, the mean of their log probabilities shows this bias, and is subtracted:

    ln p'(c) = ln p(c) - w n / (n + 2) m(c) + constant

where n is the number of clips and m(c) the mean of ln p(c) over them, without its mean over the classes. For a linear
head this is the same as subtracting the mean from the features that it takes, which is usual for speakers (Schuller et
al. 2010, "Cross-corpus acoustic emotion recognition: variances and strategies"); the factor n / (n + 2) shrinks it for
few clips. No labels, parameters or training are needed.

If all clips express the same emotion, m is that emotion, and must not be removed. After the correction, the
predictions of such clips differ little in comparison to those of mixed emotions. This is measured by the mutual
information I of clip and class, the entropy of the mean prediction less the mean entropy, as a share of ln(number of
classes): w rises from 0 at I = 0.40 to 1 at I = 0.45.

The constants were chosen on RAVDESS and "CREMA-D, rebuilt audio", by cross-validation within and across both.
benchmarks/speaker_adaptation.py measures the effect on the predictions of any run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ..utils.atomic import write_atomically
from ..utils.errors import InputError
from ..utils.readers import read_json
from .backends.base import Backend, ModelInfo

_SHRINKAGE = 2.0
_DIVERSITY = (0.40, 0.45)
_LEAST_PROBABILITY = 1e-6
MAX_CLIPS = 1000
"""Of more clips, only the last ones are used."""


@dataclass(frozen=True)
class SpeakerAdaptation:
    """What is known about a speaker: the predictions for some clips, shape (clips, classes), before adaptation."""

    classes: tuple[str, ...]
    probabilities: np.ndarray

    @classmethod
    def load(cls, file: str | Path) -> SpeakerAdaptation:
        """Read a file that `save` wrote.

        Raises:
            InputError: the file does not exist, or holds something else.
        """
        try:
            content = read_json(file)
            classes = tuple(map(str, content["classes"]))
            probabilities = np.array(content["probabilities"], dtype=float).reshape(-1, len(classes))
            if len(classes) < 2 or not (probabilities >= 0).all():
                raise ValueError
        except OSError as error:
            raise InputError(f"{file}: cannot be read ({error.strerror})") from error
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{file}: not a speaker that was saved by ser_ft: save one again") from error
        return cls(classes, probabilities)

    def save(self, file: str | Path) -> None:
        """Write the speaker to a JSON file, which holds the predictions for the clips, but no sound."""
        # Small probabilities count as much as large ones.
        rows = [[float(f"{value:.6g}") for value in clip] for clip in self.probabilities[-MAX_CLIPS:]]
        content = {"classes": self.classes, "probabilities": rows}
        with write_atomically(Path(file)) as partial:
            partial.write_text(json.dumps(content) + "\n", encoding="utf-8")

    @property
    def clips(self) -> int:
        """Number of clips that predictions are adapted by; 0: they are not changed."""
        return len(self._log_probabilities) if self.offset.any() else 0

    @cached_property
    def _log_probabilities(self) -> np.ndarray:
        return _centered_log(self.probabilities[-MAX_CLIPS:])

    @cached_property
    def offset(self) -> np.ndarray:
        """What is subtracted from the log probability of each class, shape (classes,)."""
        count = len(self._log_probabilities)
        if count < 2 or len(self.classes) < 2:
            return np.zeros(len(self.classes))
        mean = self._log_probabilities.mean(axis=0)
        low, high = _DIVERSITY
        weight = (_diversity(_softmax(self._log_probabilities - mean)) - low) / (high - low)
        return np.asarray(min(1.0, max(0.0, weight)) * count / (count + _SHRINKAGE) * mean)

    def adapt(self, probabilities: np.ndarray) -> np.ndarray:
        """Return the adapted predictions of clips of this speaker, shape (clips, classes)."""
        return _softmax(_centered_log(probabilities) - self.offset) if self.clips else probabilities


class AdaptedBackend:
    """A backend whose predictions are adapted to a speaker.

    InputError is raised if the speaker was saved by a model with other classes.
    """

    def __init__(self, backend: Backend, speaker: SpeakerAdaptation) -> None:
        if speaker.classes != backend.info.classes:
            raise InputError(
                f"the speaker was saved by a model with other classes ({', '.join(speaker.classes)}) than those of "
                f"{backend.info.name} ({', '.join(backend.info.classes)}): adapt this model to the speaker again"
            )
        self.backend, self.speaker = backend, speaker

    @property
    def info(self) -> ModelInfo:
        """That of the model."""
        return self.backend.info

    def probabilities(self, waveforms: np.ndarray) -> np.ndarray:
        """Predict clips of one length; see `Backend`."""
        return self.speaker.adapt(self.backend.probabilities(waveforms))


def _centered_log(probabilities: np.ndarray) -> np.ndarray:
    logs = np.log(np.maximum(probabilities, _LEAST_PROBABILITY))
    return np.asarray(logs - logs.mean(axis=-1, keepdims=True))


def _softmax(values: np.ndarray) -> np.ndarray:
    exponentials = np.exp(values - values.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))


def _diversity(predictions: np.ndarray) -> float:
    """Return the mutual information of clip and class, as a share of the highest possible one."""
    entropies = [-(values * np.log(values)).sum(axis=-1) for values in (predictions.mean(axis=0), predictions)]
    return float((entropies[0] - entropies[1].mean()) / np.log(predictions.shape[-1]))
