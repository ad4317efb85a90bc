"""Probabilities that mean what they say: how far they are from it, what brings them nearer, and when to say nothing.

Guo et al. 2017, "On Calibration of Modern Neural Networks" (ICML): a network's logits z are divided by one number,
the temperature T, found on validation data, before the softmax. No clip's order of classes changes, so neither do UAR
and accuracy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import softmax

from ..utils.errors import InputError
from .validation import Floats, Ints, check_probabilities

# The temperature's bounds. Where every validation clip is recognised the likelihood grows without end as T falls to 0,
# and where the answers are worse than guessing as T rises: neither is what new clips would bear out.
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.25, 20.0
NUM_BINS = 15
# A slope that changes by less than this over all temperatures is rounding noise.
_FLAT = 1e-12


def fit_temperature(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Find the temperature that makes labels likeliest: the least mean of -ln(probability of the true class).

    The mean is convex in 1 / T, so its slope has one zero: found to 1e-9 between T = 0.25 and T = 20, the bounds,
    which are returned where it lies beyond them. Clips whose true class has probability 0 are left out: no
    temperature changes that.

    Args:
        labels: class numbers of validation clips, shape (N,).
        probabilities: of an uncalibrated model, shape (N, C), 0 for classes that a clip cannot have.

    Returns:
        T: over 1 where the model is too sure of itself, under 1 where it is too modest; 1 where all temperatures
        are alike (each answer certain, or a mere guess).

    Raises:
        InputError: the labels or probabilities are of the wrong shape or range.
    """
    true, shares = check_probabilities(labels, probabilities)
    rows = shares[np.arange(len(true)), true] > 0
    true, logits = true[rows], _logarithms(shares[rows])
    if not len(true):
        return 1.0
    finite = np.where(np.isfinite(logits), logits, 0.0)
    given = float(finite[np.arange(len(true)), true].mean())

    def slope(inverse: float) -> float:
        return float((softmax(inverse * logits, axis=1) * finite).sum(axis=1).mean()) - given

    low, high = 1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE
    rise = slope(low), slope(high)
    if rise[1] - rise[0] < _FLAT:
        return 1.0
    if rise[0] >= 0 or rise[1] <= 0:
        return MAX_TEMPERATURE if rise[0] >= 0 else MIN_TEMPERATURE
    return 1 / float(brentq(slope, low, high, xtol=1e-9))


def apply_temperature(probabilities: ArrayLike, temperature: float) -> Floats:
    """Return what the probabilities would be with the logits divided by a temperature: softmax(logits / T).

    That is p^(1 / T), made to add up to 1: the logits are known up to a constant from the probabilities alone.

    Args:
        probabilities: shape (N, C). Zeros (classes that a clip cannot have) stay zeros.
        temperature: T, over 0; 1 changes nothing.

    Raises:
        InputError: the temperature is not over 0.
    """
    if not temperature > 0:
        raise InputError(f"a temperature must be over 0, not {temperature}")
    return np.asarray(softmax(_logarithms(np.asarray(probabilities, dtype=np.float64)) / temperature, axis=1))


def fit_threshold(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Find the confidence under which an answer is more often wrong than right: there it is better called uncertain.

    The share that is right is fitted as a function of the confidence that never falls (isotonic regression: Zadrozny &
    Elkan 2002, "Transforming Classifier Scores into Accurate Multiclass Probability Estimates", KDD).

    Args:
        labels: class numbers of validation clips, shape (N,).
        probabilities: calibrated, shape (N, C).

    Returns:
        the lowest confidence at which at least half are right; 0 where that is so throughout, 1 where nowhere.

    Raises:
        InputError: the labels or probabilities are of the wrong shape or range.
    """
    from sklearn.isotonic import IsotonicRegression

    true, shares = check_probabilities(labels, probabilities)
    confidence = shares.max(axis=1)
    fitted = IsotonicRegression().fit_transform(confidence, shares.argmax(axis=1) == true)
    if (fitted >= 0.5).all():
        return 0.0
    return float(confidence[fitted >= 0.5].min(initial=1.0))


def abstention_metrics(labels: ArrayLike, probabilities: ArrayLike, threshold: float) -> dict[str, float | None]:
    """Say what becomes of answers where those whose largest probability is under a threshold count as uncertain.

    Args:
        labels: class numbers, shape (N,). probabilities: shape (N, C). threshold: of the largest probability.

    Returns:
        uncertain: their share. certain_accuracy: the accuracy of the others; None where there are none.

    Raises:
        InputError: the labels or probabilities are of the wrong shape or range.
    """
    true, shares = check_probabilities(labels, probabilities)
    certain = shares.max(axis=1) >= threshold
    right = shares.argmax(axis=1) == true
    return {
        "uncertain": float(1 - certain.mean()),
        "certain_accuracy": float(right[certain].mean()) if certain.any() else None,
    }


def expected_calibration_error(labels: ArrayLike, probabilities: ArrayLike, bins: int = NUM_BINS) -> float:
    """Return the mean distance between confidence and accuracy, over bins of equal width, weighted by their clips.

    Guo et al. 2017, equation 3. Arguments and errors as in `reliability_bins`.
    """
    confidence, right, place = _binned(labels, probabilities, bins)
    return float(np.abs(np.bincount(place, weights=right - confidence)).sum() / len(place))


def reliability_bins(labels: ArrayLike, probabilities: ArrayLike, bins: int = NUM_BINS) -> list[dict[str, Any]]:
    """Compare confidence and accuracy, bin by bin: the points of a reliability diagram (Guo et al. 2017, figure 1).

    The confidence is a clip's largest probability; bin m holds those in ((m - 1) / bins, m / bins].

    Args:
        labels: class numbers, shape (N,).
        probabilities: shape (N, C).
        bins: the number of bins, of equal width.

    Returns:
        the bins that hold a clip, from the lowest: low, high (its edges), clips, confidence (the mean) and accuracy.

    Raises:
        InputError: the labels or probabilities are of the wrong shape or range, or `bins` is under 1.
    """
    confidence, right, place = _binned(labels, probabilities, bins)
    return [
        {
            "low": number / bins,
            "high": (number + 1) / bins,
            "clips": int((place == number).sum()),
            "confidence": float(confidence[place == number].mean()),
            "accuracy": float(right[place == number].mean()),
        }
        for number in np.unique(place).tolist()
    ]


def _binned(labels: ArrayLike, probabilities: ArrayLike, bins: int) -> tuple[Floats, Floats, Ints]:
    """Return the confidence, whether it was right (0 or 1) and the bin of each clip, all of shape (N,)."""
    true, shares = check_probabilities(labels, probabilities)
    if bins < 1:
        raise InputError(f"a calibration error needs 1 bin or more, not {bins}")
    confidence = shares.max(axis=1)
    place = np.digitize(confidence, np.linspace(0, 1, bins + 1)[1:-1], right=True)
    return confidence, (shares.argmax(axis=1) == true).astype(np.float64), place.astype(np.int64)


def _logarithms(shares: Floats) -> Floats:
    """Return ln p, minus infinity for 0."""
    with np.errstate(divide="ignore"):
        return np.log(shares)
