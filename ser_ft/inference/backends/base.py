"""The interface of a backend, and what a model tells about itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class ModelInfo:
    """What callers need to know about a model, with the classes in the order of the probabilities.

    Attributes:
        threshold: A prediction whose highest probability is below it is uncertain. None: no prediction is.
        min_samples: Samples at 16 kHz of the shortest clip that the model accepts; shorter ones are padded with zeros.
        max_seconds: Seconds of a clip that the model uses; the rest of a longer one is ignored. None: any length.
    """

    name: str
    classes: tuple[str, ...]
    threshold: float | None
    min_samples: int
    max_seconds: float | None = None


class Backend(Protocol):
    """A model that can be called from several threads at once."""

    @property
    def info(self) -> ModelInfo:
        """The model's name, classes, threshold and lengths."""

    def probabilities(self, waveforms: np.ndarray) -> np.ndarray:
        """Predict clips of one length: float32 samples at 16 kHz with full scale at 1.0, shape (clips, samples).

        A clip's probabilities do not depend on the other clips of the batch. Clips that are too short are padded with
        zeros. Returns float64 probabilities, shape (clips, classes); each row sums to one.
        """
