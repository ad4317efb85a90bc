"""Scores of recognition: UAR first, then the others, from labels and probabilities alone.

UAR, the unweighted average recall, is the mean over the classes of the share of a class's clips that were
recognised: a frequent class counts no more than a rare one, and a constant answer earns 1 / classes (Schuller et al.
2009, "The INTERSPEECH 2009 Emotion Challenge"). Labels and predictions are class numbers from 0 throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError
from .intervals import Floats, Interval, Ints, interval_from_counts

__all__ = [
    "Interval",
    "accuracy",
    "brier",
    "confusion",
    "expected_calibration_error",
    "macro_f1",
    "negative_log_likelihood",
    "recalls",
    "score",
    "speaker_interval",
    "uar",
]

# A class that a clip's corpus cannot hold has probability 0: its logarithm is taken here.
SMALLEST_PROBABILITY = 1e-12
# How far from 1 the probabilities of a clip may add up: what rounding to bfloat16 does to a softmax.
SUM_TOLERANCE = 0.02


def confusion(labels: ArrayLike, predictions: ArrayLike, classes: int) -> Ints:
    """Count the clips by label (row) and prediction (column).

    Args:
        labels: class numbers, shape (N,).
        predictions: class numbers, shape (N,).
        classes: C, the number of classes.

    Returns:
        Counts, shape (C, C).

    Raises:
        InputError: no clips, lengths that differ, or a number that is no class.
    """
    true, predicted = _pair(labels, predictions, classes)
    return np.bincount(true * classes + predicted, minlength=classes**2).reshape(classes, classes).astype(np.int64)


def recalls(labels: ArrayLike, predictions: ArrayLike, classes: int) -> Floats:
    """Return the recall of each class, shape (C,), nan where a class has no clips. Arguments as in `confusion`."""
    counts = confusion(labels, predictions, classes)
    return _ratio(np.diag(counts), counts.sum(axis=1))


def uar(labels: ArrayLike, predictions: ArrayLike, classes: int) -> float:
    """Return the mean recall over the classes that occur in the labels. Arguments as in `confusion`."""
    return float(np.nanmean(recalls(labels, predictions, classes)))


def accuracy(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Return the share of clips that were recognised ("weighted accuracy", WA); both arguments of shape (N,)."""
    true, predicted = _pair(labels, predictions)
    return float((true == predicted).mean())


def macro_f1(labels: ArrayLike, predictions: ArrayLike, classes: int) -> float:
    """Return the mean F1 over the classes that occur in the labels or in the predictions.

    These are the classes sklearn's `f1_score(average="macro")` takes by itself: one that is predicted but never
    there counts as 0. Arguments as in `confusion`.
    """
    return _macro_f1(confusion(labels, predictions, classes))


def expected_calibration_error(labels: ArrayLike, probabilities: ArrayLike, bins: int = 15) -> float:
    """Return the mean distance between confidence and accuracy, over bins of equal width, weighted by their clips.

    Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3: the confidence is a clip's largest
    probability, bin m holds those in ((m - 1) / bins, m / bins].

    Args:
        labels: class numbers, shape (N,).
        probabilities: shape (N, C).
        bins: the number of bins.

    Raises:
        InputError: the labels or probabilities are of the wrong shape or range, or `bins` is under 1.
    """
    true, shares = _labels_and_probabilities(labels, probabilities)
    if bins < 1:
        raise InputError(f"a calibration error needs 1 bin or more, not {bins}")
    confidence = shares.max(axis=1)
    right = shares.argmax(axis=1) == true
    place = np.digitize(confidence, np.linspace(0, 1, bins + 1)[1:-1], right=True)
    return float(np.abs(np.bincount(place, weights=right - confidence)).sum() / len(true))


def negative_log_likelihood(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Return the mean of -ln(probability of the true class), in nats; a probability under 1e-12 counts as 1e-12.

    Args:
        labels: class numbers, shape (N,).
        probabilities: shape (N, C).

    Raises:
        InputError: the labels or probabilities are of the wrong shape or range.
    """
    true, shares = _labels_and_probabilities(labels, probabilities)
    given = shares[np.arange(len(true)), true]
    return float(np.maximum(0.0, -np.log(np.maximum(given, SMALLEST_PROBABILITY))).mean())


def brier(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Return the Brier score: the squared distance of the probabilities from the truth, summed over the classes.

    From 0 to 2, as in Brier 1950, "Verification of forecasts expressed in terms of probability". Arguments as in
    `negative_log_likelihood`.
    """
    true, shares = _labels_and_probabilities(labels, probabilities)
    return float(np.square(shares - np.eye(shares.shape[1])[true]).sum(axis=1).mean())


def speaker_interval(
    labels: ArrayLike,
    predictions: ArrayLike,
    speakers: Sequence[str],
    classes: int,
    level: float = 0.95,
    seed: int = 0,
    resamples: int = 2000,
) -> Interval | None:
    """Estimate an interval for UAR over speakers, not clips.

    Where each speaker has every class that occurs in the labels it is a t interval about the mean of the per-speaker
    UARs (which is the UAR of all clips only where the speakers have equally many of each class), otherwise a
    bootstrap-t interval about the UAR of all clips: see `ser_ft.results.intervals`. Neither depends on the order of
    the clips.

    Args:
        labels: class numbers, shape (N,).
        predictions: class numbers, shape (N,).
        speakers: the speaker of each clip, shape (N,).
        classes: C, the number of classes.
        level: the nominal coverage.
        seed: of the bootstrap.
        resamples: of the bootstrap.

    Returns:
        The interval; None under 4 speakers, and where `ser_ft.results.intervals.interval_from_counts` says so.

    Raises:
        InputError: wrong input, as in `confusion`, a speaker missing, or a level or number of resamples out of range.
    """
    true, predicted = _pair(labels, predictions, classes)
    names, place = np.unique(_names(speakers, "speakers", len(true)), return_inverse=True)
    cell = place * classes + true
    shape = (len(names), classes)
    clips = np.bincount(cell, minlength=len(names) * classes).reshape(shape)
    correct = np.bincount(cell[true == predicted], minlength=len(names) * classes).reshape(shape)
    return interval_from_counts(correct, clips, level, seed, resamples)


def score(
    labels: ArrayLike,
    probabilities: ArrayLike,
    speakers: Sequence[str],
    classes: Sequence[str],
    corpora: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Return every score of a set of clips, ready for JSON: the entry of a part in metrics.json.

    A clip's prediction is its most probable class. Probabilities may be 0 for classes that its corpus cannot hold.

    Args:
        labels: class numbers, shape (N,).
        probabilities: shape (N, C), each row adding up to 1.
        speakers: the speaker of each clip, shape (N,).
        classes: the names of the C classes.
        corpora: the corpus of each clip, shape (N,); without it "by_corpus" is left out.

    Returns:
        clips, speakers: their numbers.
        uar, accuracy, macro_f1, ece, nll: as the functions of these names.
        uar_interval: {low, high, level, method} of `speaker_interval`, or None.
        chance: what UAR a constant answer earns, 1 / number of classes that occur.
        recall, precision: class -> share, None where it has no clips, or was never predicted.
        support: class -> clips.
        confusion: counts, a row for each label, a column for each prediction.
        by_corpus: corpus -> the same for its clips.

    Raises:
        InputError: no clips, lengths that differ, a label that is no class, or probabilities that are none.
    """
    true, shares = _labels_and_probabilities(labels, probabilities)
    if len(classes) != shares.shape[1] or len(set(classes)) != len(classes):
        raise InputError(
            f"{shares.shape[1]} probabilities per clip need as many different classes, not {list(classes)}"
        )
    who = _names(speakers, "speakers", len(true))
    found = _score(true, shares, who, classes)
    if corpora is not None:
        where = _names(corpora, "corpora", len(true))
        found["by_corpus"] = {
            str(corpus): _score(true[where == corpus], shares[where == corpus], who[where == corpus], classes)
            for corpus in np.unique(where)
        }
    return found


def _score(labels: Ints, probabilities: Floats, speakers: NDArray[np.str_], classes: Sequence[str]) -> dict[str, Any]:
    predictions = probabilities.argmax(axis=1)
    counts = confusion(labels, predictions, len(classes))
    support, hits = counts.sum(axis=1), np.diag(counts)
    recall, precision = _ratio(hits, support), _ratio(hits, counts.sum(axis=0))
    interval = speaker_interval(labels, predictions, speakers.tolist(), len(classes))
    return {
        "clips": len(labels),
        "speakers": len(np.unique(speakers)),
        "uar": float(np.nanmean(recall)),
        "uar_interval": interval
        and {"low": interval.low, "high": interval.high, "level": interval.level, "method": interval.method},
        "accuracy": float(hits.sum() / len(labels)),
        "macro_f1": _macro_f1(counts),
        "ece": expected_calibration_error(labels, probabilities),
        "nll": negative_log_likelihood(labels, probabilities),
        "chance": 1 / int((support > 0).sum()),
        "recall": _by_class(classes, recall),
        "precision": _by_class(classes, precision),
        "support": dict(zip(classes, support.tolist(), strict=True)),
        "confusion": counts.tolist(),
    }


def _by_class(classes: Sequence[str], shares: Floats) -> dict[str, float | None]:
    return {name: None if np.isnan(share) else float(share) for name, share in zip(classes, shares, strict=True)}


def _ratio(part: Ints, whole: Ints) -> Floats:
    """Return part / whole, nan where the whole is 0."""
    ratio = np.full(len(whole), np.nan)
    np.divide(part, whole, out=ratio, where=whole > 0)
    return ratio


def _macro_f1(counts: Ints) -> float:
    return float(np.nanmean(_ratio(2 * np.diag(counts), counts.sum(axis=0) + counts.sum(axis=1))))


def _array(values: ArrayLike, what: str, dtype: type[np.float64] | None = None) -> NDArray[Any]:
    try:
        return np.asarray(values, dtype=dtype)
    except (TypeError, ValueError):
        raise InputError(f"{what} must be numbers, equally many for each clip") from None


def _class_numbers(values: ArrayLike, what: str, classes: int | None = None) -> Ints:
    numbers = _array(values, what)
    if numbers.ndim != 1:
        raise InputError(f"{what} must be a list of class numbers, not of shape {numbers.shape}")
    if not len(numbers):
        raise InputError(f"no {what}: a score needs one clip or more")
    if numbers.dtype.kind not in "iu":
        raise InputError(f"{what} must be class numbers, not values of type {numbers.dtype}")
    wrong = numbers < 0 if classes is None else (numbers < 0) | (numbers >= classes)
    if wrong.any():
        place = int(wrong.argmax())
        known = "numbered from 0" if classes is None else f"numbered 0 to {classes - 1}"
        raise InputError(f"{what} hold {numbers[place]} for clip {place}: the classes are {known}")
    return numbers.astype(np.int64)


def _pair(labels: ArrayLike, predictions: ArrayLike, classes: int | None = None) -> tuple[Ints, Ints]:
    true = _class_numbers(labels, "labels", classes)
    predicted = _class_numbers(predictions, "predictions", classes)
    if len(true) != len(predicted):
        raise InputError(f"{len(true)} labels, but {len(predicted)} predictions")
    return true, predicted


def _labels_and_probabilities(labels: ArrayLike, probabilities: ArrayLike) -> tuple[Ints, Floats]:
    shares: Floats = _array(probabilities, "probabilities", np.float64)
    if shares.ndim != 2:
        raise InputError(f"probabilities must be of shape (clips, classes), not {shares.shape}")
    true = _class_numbers(labels, "labels", shares.shape[1])
    if len(true) != len(shares):
        raise InputError(f"{len(true)} labels, but probabilities for {len(shares)} clips")
    if not np.isfinite(shares).all():
        raise InputError(f"probabilities of clip {int((~np.isfinite(shares)).any(axis=1).argmax())} are not finite")
    wrong = (shares < 0).any(axis=1) | (np.abs(shares.sum(axis=1) - 1) > SUM_TOLERANCE)
    if wrong.any():
        raise InputError(f"probabilities of clip {int(wrong.argmax())} are none: under 0, or not adding up to 1")
    return true, shares


def _names(values: Sequence[str], what: str, clips: int) -> NDArray[np.str_]:
    if len(values) != clips:
        raise InputError(f"{clips} labels, but {len(values)} {what}")
    return np.asarray(values, dtype=np.str_)
