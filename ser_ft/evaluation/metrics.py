"""Classification metrics from labels and probabilities: UAR, accuracy, macro F1, and those of probabilities.

UAR (unweighted average recall, macro recall) is the mean over the classes of the fraction of their clips that are
recognized. All classes have the same weight, and a constant prediction has a UAR of 1 / classes (Schuller et al. 2009,
"The INTERSPEECH 2009 Emotion Challenge"). Labels and predictions are class numbers from 0, shape (N,), and
probabilities have shape (N, C). All functions raise an `InputError` if there are no clips, or lengths, values or shapes
are wrong.
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

# Lower bound of probabilities in a logarithm. A class that a clip's corpus does not contain has probability 0.
MIN_PROBABILITY = 1e-12


def confusion_matrix(labels: ArrayLike, predictions: ArrayLike, classes: int) -> Ints:
    """Count the clips by label (row) and prediction (column)."""
    true, predicted = check_predictions(labels, predictions, classes)
    return np.bincount(true * classes + predicted, minlength=classes**2).reshape(classes, classes).astype(np.int64)


def recall_per_class(labels: ArrayLike, predictions: ArrayLike, classes: int) -> Floats:
    """Return the recall per class, shape (C,), nan for a class without clips."""
    counts = confusion_matrix(labels, predictions, classes)
    return _ratio(np.diag(counts), counts.sum(axis=1))


def uar(labels: ArrayLike, predictions: ArrayLike, classes: int) -> float:
    """Return the mean recall over the classes that occur in the labels."""
    return float(np.nanmean(recall_per_class(labels, predictions, classes)))


def accuracy(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Return the fraction of clips that are recognized ("weighted accuracy", WA)."""
    true, predicted = check_predictions(labels, predictions)
    return float((true == predicted).mean())


def macro_f1(labels: ArrayLike, predictions: ArrayLike, classes: int) -> float:
    """Return the mean F1 over the classes that occur in the labels or in the predictions.

    A class that only occurs in the predictions counts as 0, as in scikit-learn's `f1_score(average="macro")`.
    """
    return _macro_f1(confusion_matrix(labels, predictions, classes))


def negative_log_likelihood(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Return the mean of -ln(probability of the true class), in nats. A probability below 1e-12 counts as 1e-12."""
    true, values = check_probabilities(labels, probabilities)
    likelihoods = values[np.arange(len(true)), true]
    return float(np.maximum(0.0, -np.log(np.maximum(likelihoods, MIN_PROBABILITY))).mean())


def uar_confidence_interval(
    labels: ArrayLike, predictions: ArrayLike, speakers: Sequence[str], classes: int, level: float = 0.95
) -> ConfidenceInterval | None:
    """Estimate a confidence interval of the UAR over speakers: see `ser_ft.evaluation.confidence_intervals`.

    The result is None if a speaker is unknown, or if `interval_from_counts` returns None, for example for fewer than 4
    speakers.
    """
    true, predicted = check_predictions(labels, predictions, classes)
    names = check_names(speakers, "speakers", len(true))
    if not all(map(is_known, names.tolist())):
        return None
    return interval_from_counts(*count_by_speaker(true, predicted, names, classes), level)


def compute_metrics(
    labels: ArrayLike,
    probabilities: ArrayLike,
    speakers: Sequence[str],
    classes: Sequence[str],
    corpora: Sequence[str] | None = None,
    groups: Mapping[str, Sequence[object]] | None = None,
) -> dict[str, Any]:
    """Return all metrics of a set of clips, ready for JSON: the entry of one part in metrics.json.

    The prediction for a clip is its most probable class. The probability of a class that the clip's corpus does not
    contain may be 0. Without `corpora` there is no "by_corpus". `groups` is name, such as "gender" -> value of each
    clip, None if unknown.

    Returns:
        uar, accuracy, macro_f1, ece, nll: as the functions of these names.
        uar_interval: {low, high, level, method} from `uar_confidence_interval`, or None.
        chance: the UAR of a constant prediction, 1 / number of classes in the labels.
        clips, speakers: their numbers.
        recall, precision: class -> value, None if the class has no clips, or is never predicted.
        support: class -> number of clips.
        confusion: counts, a row per label, a column per prediction.
        reliability: list from `ser_ft.evaluation.calibration.reliability_bins`.
        by_speaker: speaker -> clips, speakers, uar (over its classes), accuracy, chance and uar_interval (None).
        speaker_uar: {min, max, std} of the speakers' UARs; None for fewer than two speakers.
        by_corpus: corpus -> the entries from clips to confusion, for its clips.
        by_NAME, for each of `groups`: value -> as for a speaker, with an interval if one can be estimated.
    """
    true, values = check_probabilities(labels, probabilities)
    if len(classes) != values.shape[1] or len(set(classes)) != len(classes):
        raise InputError(
            f"{values.shape[1]} probabilities per clip need as many different classes, not {list(classes)}"
        )
    names = check_names(speakers, "speakers", len(true))
    metrics = _clip_metrics(true, values, names, classes)
    predicted = values.argmax(axis=1)
    by_speaker = _metrics_by_group(true, predicted, names, len(classes), "speaker", speakers)
    uars = [speaker["uar"] for speaker in by_speaker.values()]
    metrics |= {
        "reliability": reliability_bins(true, values),
        "by_speaker": by_speaker,
        "speaker_uar": {"min": min(uars), "max": max(uars), "std": float(np.std(uars, ddof=1))}
        if len(uars) > 1
        else None,
    }
    if corpora is not None:
        corpus_names = check_names(corpora, "corpora", len(true))
        masks = {str(corpus): corpus_names == corpus for corpus in np.unique(corpus_names)}
        metrics["by_corpus"] = {
            corpus: _clip_metrics(true[rows], values[rows], names[rows], classes) for corpus, rows in masks.items()
        }
    for name, group_values in (groups or {}).items():
        metrics[f"by_{name}"] = _metrics_by_group(true, predicted, names, len(classes), name, group_values)
    return metrics


def _clip_metrics(
    labels: Ints, probabilities: Floats, speakers: NDArray[np.str_], classes: Sequence[str]
) -> dict[str, Any]:
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


def _metrics_by_group(
    labels: Ints, predictions: Ints, speakers: NDArray[np.str_], classes: int, name: str, values: Sequence[object]
) -> dict[str, dict[str, Any]]:
    return {
        group: _summary(labels[rows], predictions[rows], speakers[rows], classes)
        for group, rows in group_masks(values, name, len(labels)).items()
    }


def _by_class(classes: Sequence[str], values: Floats) -> dict[str, float | None]:
    return {name: None if np.isnan(value) else float(value) for name, value in zip(classes, values, strict=True)}


def _ratio(part: Ints, whole: Ints) -> Floats:
    ratio = np.full(len(whole), np.nan)
    np.divide(part, whole, out=ratio, where=whole > 0)
    return ratio


def _macro_f1(counts: Ints) -> float:
    return float(np.nanmean(_ratio(2 * np.diag(counts), counts.sum(axis=0) + counts.sum(axis=1))))
