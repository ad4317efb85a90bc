"""What a model answers: distinct class names, and probabilities that are finite."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..utils.errors import InputError

MAX_CLASSES = 10_000
"""Most classes of a model; the language models of MMS have 4017."""
_MAX_NAME_LENGTH = 200
# Columns of predictions that a class of this name would hide.
_COLUMNS = ("path", "emotion", "probability", "uncertain", "duration", "speech", "adapted", "error")


class NotFiniteError(InputError):
    """A model computes NaN or infinite values."""


def check_classes(name: str, classes: Iterable[Any]) -> tuple[str, ...]:
    """Return the class names of a model, which must be distinct texts.

    Raises:
        InputError: a name is empty, too long or that of a column of predictions, there are too many of them, or two
            differ at most in case, in surrounding spaces or in their encoding in Unicode, so that one of their
            probabilities would be lost.
    """
    names = tuple(classes)
    if not 1 <= len(names) <= MAX_CLASSES:
        raise InputError(f"{name}: a model has 1 to {MAX_CLASSES} classes, not {len(names)}")
    keys: dict[str, str] = {}
    for label in names:
        if not isinstance(label, str) or not label.strip() or len(label) > _MAX_NAME_LENGTH:
            raise InputError(f"{name}: {str(label)[:40]!r} is not the name of a class: change it in the model")
        if label in _COLUMNS:
            raise InputError(f"{name}: the class {label!r} has the name of a column of predictions: rename it")
        key = unicodedata.normalize("NFC", label).strip().casefold()
        if key in keys:
            raise InputError(f"{name}: two of its classes are named {keys[key]!r} and {label!r}: rename one of them")
        keys[key] = label
    return names


def to_probabilities(
    logits: np.ndarray, shape: Sequence[int], allowed: np.ndarray | None = None, name: str = "the model"
) -> np.ndarray:
    """Return the softmax of a model's logits, over the allowed classes of each clip.

    Args:
        logits: the model's output for clips.
        shape: the expected shape (clips, classes).
        allowed: bool, shape (clips, classes); None: all classes. Other classes get probability 0.

    Returns:
        Float64, shape (clips, classes); each row sums to one.

    Raises:
        NotFiniteError: a logit is NaN or infinite.
        InputError: the output has another shape.
    """
    logits = np.asarray(logits, dtype=np.float64)
    if logits.shape != tuple(shape):
        raise InputError(
            f"{name}: its output for {shape[0]} clips and {shape[1]} classes has the shape {logits.shape}: it does not "
            "fit its class names"
        )
    if not np.isfinite(logits).all():
        raise NotFiniteError(
            f"{name}: its output is not a finite number (NaN or infinite): its weights are damaged, or its training "
            "diverged; download it again, or train it with a lower learning rate"
        )
    if allowed is not None:
        logits = np.where(allowed, logits, -np.inf)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))
