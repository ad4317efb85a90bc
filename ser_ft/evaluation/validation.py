"""Checks of labels, predictions, probabilities and speakers, and their conversion to arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..utils.errors import InputError

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]

# Largest deviation from 1 of a clip's sum of probabilities. A softmax in bfloat16 comes close to it.
_SUM_TOLERANCE = 0.02


def as_array(values: ArrayLike, what: str, dtype: type[np.float64] | None = None) -> NDArray[Any]:
    """Return values as an array; `what` names them in the error message."""
    try:
        return np.asarray(values, dtype=dtype)
    except (TypeError, ValueError):
        raise InputError(f"{what} must be numbers, equally many for each clip") from None


def check_class_numbers(values: ArrayLike, what: str, classes: int | None = None) -> Ints:
    """Return class numbers, shape (N,) with N > 0, each below `classes` if that is given."""
    numbers = as_array(values, what)
    if numbers.ndim != 1:
        raise InputError(f"{what} must be a list of class numbers, not of shape {numbers.shape}")
    if not len(numbers):
        raise InputError(f"no {what}: at least one clip is needed")
    if numbers.dtype.kind not in "iu":
        raise InputError(f"{what} must be class numbers, not values of type {numbers.dtype}")
    wrong = numbers < 0 if classes is None else (numbers < 0) | (numbers >= classes)
    if wrong.any():
        clip = int(wrong.argmax())
        valid = "numbered from 0" if classes is None else f"numbered 0 to {classes - 1}"
        raise InputError(f"{what} contain {numbers[clip]} for clip {clip}: the classes are {valid}")
    return numbers.astype(np.int64)


def check_predictions(labels: ArrayLike, predictions: ArrayLike, classes: int | None = None) -> tuple[Ints, Ints]:
    """Return labels and predictions, both of shape (N,)."""
    true = check_class_numbers(labels, "labels", classes)
    predicted = check_class_numbers(predictions, "predictions", classes)
    if len(true) != len(predicted):
        raise InputError(f"{len(true)} labels, but {len(predicted)} predictions")
    return true, predicted


def check_probabilities(labels: ArrayLike, probabilities: ArrayLike) -> tuple[Ints, Floats]:
    """Return labels, shape (N,), and probabilities, shape (N, C), whose rows add up to about 1."""
    values: Floats = as_array(probabilities, "probabilities", np.float64)
    if values.ndim != 2:
        raise InputError(f"probabilities must be of shape (clips, classes), not {values.shape}")
    true = check_class_numbers(labels, "labels", values.shape[1])
    if len(true) != len(values):
        raise InputError(f"{len(true)} labels, but probabilities for {len(values)} clips")
    if not np.isfinite(values).all():
        raise InputError(f"probabilities of clip {int((~np.isfinite(values)).any(axis=1).argmax())} are not finite")
    wrong = (values < 0).any(axis=1) | (np.abs(values.sum(axis=1) - 1) > _SUM_TOLERANCE)
    if wrong.any():
        raise InputError(f"probabilities of clip {int(wrong.argmax())} are negative or do not add up to 1")
    return true, values


def check_names(values: Sequence[str], what: str, clips: int) -> NDArray[np.str_]:
    """Return one name per clip, such as its speaker, shape (clips,)."""
    if len(values) != clips:
        raise InputError(f"{clips} labels, but {len(values)} {what}")
    return np.asarray(values, dtype=np.str_)
