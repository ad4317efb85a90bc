"""Calibration of probabilities: measuring it, temperature scaling, and the threshold for uncertain predictions.

Guo et al. 2017, "On Calibration of Modern Neural Networks" (ICML): a network's logits are divided by a temperature T,
which is fitted on validation data; UAR and accuracy do not change. Labels are class numbers of shape (N,),
probabilities have shape (N, C). All functions raise an `InputError` if they have the wrong shape or range.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import softmax

from ..utils.errors import InputError
from .validation import Floats, Ints, check_probabilities

# Bounds of the temperature. The likelihood has no maximum if every validation clip is recognized (T goes to 0) or if
# the predictions are worse than chance (T goes to infinity); neither generalizes to new clips.
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.25, 20.0
NUM_BINS = 15
# A slope that changes by less than this over all temperatures is rounding noise.
_FLAT = 1e-12


def fit_temperature(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Find the temperature that maximizes the likelihood of the labels, from probabilities of an uncalibrated model.

    The mean of -ln(probability of the true class) is convex in 1 / T, so its slope has one zero, which is found with a
    precision of 1e-9 between the bounds T = 0.25 and T = 20. If the zero is outside, the nearest bound is returned.
    Clips whose true class has probability 0 are ignored. T is above 1 for an overconfident model, below 1 for an
    underconfident one, and 1 if all temperatures have the same likelihood, because each prediction is certain or
    uniform.
    """
    true, values = check_probabilities(labels, probabilities)
    rows = values[np.arange(len(true)), true] > 0
    true, logits = true[rows], _log(values[rows])
    if not len(true):
        return 1.0
    finite = np.where(np.isfinite(logits), logits, 0.0)
    mean_true_logit = float(finite[np.arange(len(true)), true].mean())

    def slope(inverse: float) -> float:
        return float((softmax(inverse * logits, axis=1) * finite).sum(axis=1).mean()) - mean_true_logit

    low, high = 1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE
    slopes = slope(low), slope(high)
    if slopes[1] - slopes[0] < _FLAT:
        return 1.0
    if slopes[0] >= 0 or slopes[1] <= 0:
        return MAX_TEMPERATURE if slopes[0] >= 0 else MIN_TEMPERATURE
    return 1 / float(brentq(slope, low, high, xtol=1e-9))


def apply_temperature(probabilities: ArrayLike, temperature: float) -> Floats:
    """Return softmax(logits / T), which is p^(1 / T) normalized to a sum of 1. Zeros remain zeros."""
    if not temperature > 0:
        raise InputError(f"a temperature must be above 0, not {temperature}")
    return np.asarray(softmax(_log(np.asarray(probabilities, dtype=np.float64)) / temperature, axis=1))


def fit_threshold(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Find the confidence below which a prediction is more often wrong than right, and should be called uncertain.

    The accuracy is fitted as a non-decreasing function of the confidence of calibrated probabilities (isotonic
    regression: Zadrozny & Elkan 2002, "Transforming Classifier Scores into Accurate Multiclass Probability Estimates",
    KDD). The threshold is the lowest confidence with a fitted accuracy of at least 0.5; 0 if all confidences have it, 1
    if none has it.
    """
    from sklearn.isotonic import IsotonicRegression

    true, values = check_probabilities(labels, probabilities)
    confidence = values.max(axis=1)
    fitted = IsotonicRegression().fit_transform(confidence, values.argmax(axis=1) == true)
    if (fitted >= 0.5).all():
        return 0.0
    return float(confidence[fitted >= 0.5].min(initial=1.0))


def abstention_metrics(labels: ArrayLike, probabilities: ArrayLike, threshold: float) -> dict[str, float | None]:
    """Return metrics of abstaining from predictions whose largest probability is below a threshold.

    `uncertain` is the fraction of these; `certain_accuracy` is the accuracy of the others, None if there are none.
    """
    true, values = check_probabilities(labels, probabilities)
    certain = values.max(axis=1) >= threshold
    correct = values.argmax(axis=1) == true
    return {
        "uncertain": float(1 - certain.mean()),
        "certain_accuracy": float(correct[certain].mean()) if certain.any() else None,
    }


def expected_calibration_error(labels: ArrayLike, probabilities: ArrayLike, bins: int = NUM_BINS) -> float:
    """Return the mean difference of confidence and accuracy over bins of equal width, weighted by their clips.

    Guo et al. 2017, equation 3.
    """
    confidence, correct, bin_numbers = _assign_bins(labels, probabilities, bins)
    return float(np.abs(np.bincount(bin_numbers, weights=correct - confidence)).sum() / len(bin_numbers))


def reliability_bins(labels: ArrayLike, probabilities: ArrayLike, bins: int = NUM_BINS) -> list[dict[str, Any]]:
    """Return confidence and accuracy per bin: the points of a reliability diagram (Guo et al. 2017, figure 1).

    The confidence is a clip's largest probability. Bin m contains those in ((m - 1) / bins, m / bins]. The bins that
    contain a clip are returned in ascending order: low and high (the edges), clips, confidence (the mean) and accuracy.
    """
    confidence, correct, bin_numbers = _assign_bins(labels, probabilities, bins)
    return [
        {
            "low": number / bins,
            "high": (number + 1) / bins,
            "clips": int((bin_numbers == number).sum()),
            "confidence": float(confidence[bin_numbers == number].mean()),
            "accuracy": float(correct[bin_numbers == number].mean()),
        }
        for number in np.unique(bin_numbers).tolist()
    ]


def _assign_bins(labels: ArrayLike, probabilities: ArrayLike, bins: int) -> tuple[Floats, Floats, Ints]:
    """Return the confidence, the correctness (0 or 1) and the bin of each clip."""
    true, values = check_probabilities(labels, probabilities)
    if bins < 1:
        raise InputError(f"at least 1 bin is needed, not {bins}")
    confidence = values.max(axis=1)
    bin_numbers = np.digitize(confidence, np.linspace(0, 1, bins + 1)[1:-1], right=True)
    return confidence, (values.argmax(axis=1) == true).astype(np.float64), bin_numbers.astype(np.int64)


def _log(probabilities: Floats) -> Floats:
    """Return ln p, minus infinity for 0."""
    with np.errstate(divide="ignore"):
        return np.log(probabilities)
