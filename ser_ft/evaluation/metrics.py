"""Scores of recognition: UAR first, then the others, from labels and probabilities alone.

UAR, the unweighted average recall, is the mean over the classes of the share of a class's clips that were
recognised: a frequent class counts no more than a rare one, and a constant answer earns 1 / classes (Schuller et al.
2009, "The INTERSPEECH 2009 Emotion Challenge"). Labels and predictions are class numbers from 0 throughout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..utils.errors import InputError
from .calibration import expected_calibration_error, reliability_bins
from .confidence_intervals import ConfidenceInterval, count_by_speaker, interval_from_counts
from .grouping import group_masks, is_known
from .validation import Floats, Ints, check_names, check_predictions, check_probabilities

# A class that a clip's corpus cannot hold has probability 0: its logarithm is taken here.
SMALLEST_PROBABILITY = 1e-12


def confusion_matrix(labels: ArrayLike, predictions: ArrayLike, classes: int) -> Ints:
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
    true, predicted = check_predictions(labels, predictions, classes)
    return np.bincount(true * classes + predicted, minlength=classes**2).reshape(classes, classes).astype(np.int64)


def recall_per_class(labels: ArrayLike, predictions: ArrayLike, classes: int) -> Floats:
    """Return the recall of each class, shape (C,), nan where a class has no clips. Arguments as in `confusion_matrix`."""
    counts = confusion_matrix(labels, predictions, classes)
    return _ratio(np.diag(counts), counts.sum(axis=1))


def uar(labels: ArrayLike, predictions: ArrayLike, classes: int) -> float:
    """Return the mean recall over the classes that occur in the labels. Arguments as in `confusion_matrix`."""
    return float(np.nanmean(recall_per_class(labels, predictions, classes)))


def accuracy(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Return the share of clips that were recognised ("weighted accuracy", WA); both arguments of shape (N,)."""
    true, predicted = check_predictions(labels, predictions)
    return float((true == predicted).mean())


def macro_f1(labels: ArrayLike, predictions: ArrayLike, classes: int) -> float:
    """Return the mean F1 over the classes that occur in the labels or in the predictions.

    These are the classes sklearn's `f1_score(average="macro")` takes by itself: one that is predicted but never
    there counts as 0. Arguments as in `confusion_matrix`.
    """
    return _macro_f1(confusion_matrix(labels, predictions, classes))


def negative_log_likelihood(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Return the mean of -ln(probability of the true class), in nats; a probability under 1e-12 counts as 1e-12.

    Args:
        labels: class numbers, shape (N,).
        probabilities: shape (N, C).

    Raises:
        InputError: the labels or probabilities are of the wrong shape or range.
    """
    true, shares = check_probabilities(labels, probabilities)
    given = shares[np.arange(len(true)), true]
    return float(np.maximum(0.0, -np.log(np.maximum(given, SMALLEST_PROBABILITY))).mean())


def brier_score(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Return the Brier score: the squared distance of the probabilities from the truth, summed over the classes.

    From 0 to 2, as in Brier 1950, "Verification of forecasts expressed in terms of probability". Arguments as in
    `negative_log_likelihood`.
    """
    true, shares = check_probabilities(labels, probabilities)
    return float(np.square(shares - np.eye(shares.shape[1])[true]).sum(axis=1).mean())


def uar_confidence_interval(
    labels: ArrayLike,
    predictions: ArrayLike,
    speakers: Sequence[str],
    classes: int,
    level: float = 0.95,
) -> ConfidenceInterval | None:
    """Estimate an interval for UAR over speakers, not clips.

    Where each speaker has every class that occurs in the labels, and about as many clips as the others, it is a t
    interval about the mean of the per-speaker UARs, otherwise a jackknife-t interval about the UAR of all clips: see
    `ser_ft.evaluation.confidence_intervals`.

    Args:
        labels: class numbers, shape (N,).
        predictions: class numbers, shape (N,).
        speakers: the speaker of each clip, shape (N,).
        classes: C, the number of classes.
        level: the nominal coverage.

    Returns:
        The interval; None where a speaker is not known (the clips may be anybody's), under 4 speakers, and where
        `ser_ft.evaluation.confidence_intervals.interval_from_counts` says so.

    Raises:
        InputError: wrong input, as in `confusion_matrix`, a speaker missing, or a level out of range.
    """
    true, predicted = check_predictions(labels, predictions, classes)
    who = check_names(speakers, "speakers", len(true))
    if not all(map(is_known, who.tolist())):
        return None
    counts = count_by_speaker(true, predicted, who, classes)
    return interval_from_counts(*counts, level)


def compute_metrics(
    labels: ArrayLike,
    probabilities: ArrayLike,
    speakers: Sequence[str],
    classes: Sequence[str],
    corpora: Sequence[str] | None = None,
    traits: Mapping[str, Sequence[object]] | None = None,
) -> dict[str, Any]:
    """Return every score of a set of clips, ready for JSON: the entry of a part in metrics.json.

    A clip's prediction is its most probable class. Probabilities may be 0 for classes that its corpus cannot hold.

    Args:
        labels: class numbers, shape (N,).
        probabilities: shape (N, C), each row adding up to 1.
        speakers: the speaker of each clip, shape (N,).
        classes: the names of the C classes.
        corpora: the corpus of each clip, shape (N,); without it "by_corpus" is left out.
        traits: name -> the group of each clip, shape (N,), None where it is not known: "gender", say.

    Returns:
        clips, speakers: their numbers.
        uar, accuracy, macro_f1, ece, nll: as the functions of these names.
        uar_interval: {low, high, level, method} of `uar_confidence_interval`, or None.
        chance: what UAR a constant answer earns, 1 / number of classes that occur.
        recall, precision: class -> share, None where it has no clips, or was never predicted.
        support: class -> clips.
        confusion: counts, a row for each label, a column for each prediction.
        reliability: as `ser_ft.evaluation.calibration.reliability_bins` gives it.
        by_speaker: speaker -> clips, speakers, uar (over the classes that the speaker has), accuracy, chance and
            uar_interval (None).
        spread: lowest, highest and deviation of the speakers' UARs; None under two speakers.
        by_corpus: corpus -> the same for its clips, without what stands below "confusion" here.
        by_NAME, for each trait: group -> as for a speaker, with an interval where one can be trusted. A group's UAR
            is over the classes that occur in it.

    Raises:
        InputError: no clips, lengths that differ, a label that is no class, or probabilities that are none.
    """
    true, shares = check_probabilities(labels, probabilities)
    if len(classes) != shares.shape[1] or len(set(classes)) != len(classes):
        raise InputError(
            f"{shares.shape[1]} probabilities per clip need as many different classes, not {list(classes)}"
        )
    who = check_names(speakers, "speakers", len(true))
    found = _score(true, shares, who, classes)
    predicted = shares.argmax(axis=1)
    by_speaker = _by_group(true, predicted, who, len(classes), "speaker", speakers)
    found |= {
        "reliability": reliability_bins(true, shares),
        "by_speaker": by_speaker,
        "speaker_uar": _spread(by_speaker),
    }
    if corpora is not None:
        where = check_names(corpora, "corpora", len(true))
        found["by_corpus"] = {
            str(corpus): _score(true[where == corpus], shares[where == corpus], who[where == corpus], classes)
            for corpus in np.unique(where)
        }
    for trait, values in (traits or {}).items():
        found[f"by_{trait}"] = _by_group(true, predicted, who, len(classes), trait, values)
    return found


def _score(labels: Ints, probabilities: Floats, speakers: NDArray[np.str_], classes: Sequence[str]) -> dict[str, Any]:
    predictions = probabilities.argmax(axis=1)
    counts = confusion_matrix(labels, predictions, len(classes))
    support, hits = counts.sum(axis=1), np.diag(counts)
    return {
        **_summary(labels, predictions, speakers, len(classes)),
        "macro_f1": _macro_f1(counts),
        "ece": expected_calibration_error(labels, probabilities),
        "nll": negative_log_likelihood(labels, probabilities),
        "recall": _by_class(classes, _ratio(hits, support)),
        "precision": _by_class(classes, _ratio(hits, counts.sum(axis=0))),
        "support": dict(zip(classes, support.tolist(), strict=True)),
        "confusion": counts.tolist(),
    }


def _summary(labels: Ints, predictions: Ints, speakers: NDArray[np.str_], classes: int) -> dict[str, Any]:
    """Return the scores that every group of clips has."""
    recall = recall_per_class(labels, predictions, classes)
    interval = uar_confidence_interval(labels, predictions, speakers.tolist(), classes)
    return {
        "clips": len(labels),
        "speakers": len(np.unique(speakers)),
        "uar": float(np.nanmean(recall)),
        "uar_interval": interval
        and {"low": interval.low, "high": interval.high, "level": interval.level, "method": interval.method},
        "accuracy": float((labels == predictions).mean()),
        "chance": 1 / int(np.isfinite(recall).sum()),
    }


def _by_group(
    labels: Ints, predictions: Ints, speakers: NDArray[np.str_], classes: int, trait: str, values: Sequence[object]
) -> dict[str, dict[str, Any]]:
    return {
        group: _summary(labels[rows], predictions[rows], speakers[rows], classes)
        for group, rows in group_masks(values, trait, len(labels)).items()
    }


def _spread(by_speaker: Mapping[str, Mapping[str, Any]]) -> dict[str, float] | None:
    uars = [found["uar"] for found in by_speaker.values()]
    if len(uars) < 2:
        return None
    return {"min": min(uars), "max": max(uars), "std": float(np.std(uars, ddof=1))}


def _by_class(classes: Sequence[str], shares: Floats) -> dict[str, float | None]:
    return {name: None if np.isnan(share) else float(share) for name, share in zip(classes, shares, strict=True)}


def _ratio(part: Ints, whole: Ints) -> Floats:
    """Return part / whole, nan where the whole is 0."""
    ratio = np.full(len(whole), np.nan)
    np.divide(part, whole, out=ratio, where=whole > 0)
    return ratio


def _macro_f1(counts: Ints) -> float:
    return float(np.nanmean(_ratio(2 * np.diag(counts), counts.sum(axis=0) + counts.sum(axis=1))))
