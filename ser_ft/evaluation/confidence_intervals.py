"""Confidence intervals over speakers for a UAR, and for the difference of two UARs.

They estimate how much a UAR would change with other speakers. The clips of one speaker are not independent, so
speakers, not clips, are the sampling unit. Both methods need only each speaker's clips and correct clips per class:

- "t", for speakers that are balanced (`is_balanced`): Student's t on the mean of the per-speaker UARs.
- "jackknife-t", otherwise: Student's t on the UAR of all clips pooled, with the standard error of the
  delete-one-speaker jackknife (Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapter 11) and degrees of
  freedom from the effective number of speakers (`_effective_speakers`).

The interval of a UAR is computed on the logit scale (standard error by the delta method) and transformed back: on the
plain scale a nominal 95 % covers only 90 to 93 % of simulated test sets near the ceiling (UAR 0.95, 4 to 24 speakers).
The interval of a difference is computed on the plain scale.

An interval is given only where it had its nominal coverage in simulations (93 to 97 % for a nominal 95 %): see
`benchmarks/interval_coverage.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit, stdtrit

from ..utils.errors import InputError
from .validation import Floats, Ints

MIN_SPEAKERS = 4
MIN_SPEAKERS_UNBALANCED = 5
MIN_SPEAKERS_PER_CLASS = 3
# Smallest ratio of the effective to the actual number of speakers that counts as balanced: clip counts vary by a third.
_MIN_BALANCE = 0.9
# Standard errors below this are rounding noise.
MIN_STANDARD_ERROR = 1e-12


@dataclass(frozen=True)
class ConfidenceInterval:
    """A confidence interval for UAR, with its ends in [0, 1] and its nominal coverage, such as 0.95.

    The method is "t" (of the mean of the per-speaker UARs) or "jackknife-t" (of the UAR of all clips pooled).
    """

    low: float
    high: float
    level: float
    method: Literal["t", "jackknife-t"]
    speakers: int


def interval_from_counts(correct: Ints, clips: Ints, level: float = 0.95) -> ConfidenceInterval | None:
    """Estimate a confidence interval for UAR from counts of correct and of all clips, shape (speakers, classes).

    Each speaker has at least one clip. Classes without clips are ignored. The result is None if an interval would not
    be reliable: for fewer than 4 speakers; if the speakers do not differ (for example, if all clips are correct); and,
    for speakers that are not balanced, for fewer than 5 speakers, a class of fewer than 3 speakers, or an effective
    number of speakers below 4.
    """
    estimate = _estimate(correct.astype(np.float64), clips, level)
    if estimate is None:
        return None
    mean, plain_half_width = estimate
    center, half_width = logit(mean), plain_half_width / (mean * (1 - mean))
    low, high = float(expit(center - half_width)), float(expit(center + half_width))
    return ConfidenceInterval(low, high, level, "t" if is_balanced(clips) else "jackknife-t", len(clips))


def difference_interval_from_counts(difference: Floats, clips: Ints, level: float = 0.95) -> tuple[float, float] | None:
    """Estimate a confidence interval for the difference of two systems' UARs on the same clips, in [-1, 1].

    `difference` are the numbers of clips that the first system recognizes minus those that the second one recognizes,
    shape (speakers, classes). The result is None for the reasons given in `interval_from_counts`.
    """
    estimate = _estimate(difference, clips, level)
    if estimate is None:
        return None
    mean, half_width = estimate
    return max(mean - half_width, -1.0), min(mean + half_width, 1.0)


def is_balanced(clips: Ints) -> bool:
    """Return whether the mean of the per-speaker UARs can be used in place of the UAR of all clips.

    This is so if each speaker has clips of every class, and the effective number of speakers is at least nine tenths of
    their number. `clips` are numbers of clips, shape (speakers, classes).
    """
    present = clips[:, clips.any(axis=0)]
    return bool((present > 0).all()) and _effective_speakers(present) >= _MIN_BALANCE * len(present)


def count_by_speaker(labels: Ints, predictions: Ints, speakers: NDArray[np.str_], classes: int) -> tuple[Ints, Ints]:
    """Count each speaker's correctly recognized clips and all clips by class, summed over the seeds of a system.

    `predictions` have shape (N,), or (seeds, N). Both counts have shape (speakers, classes), speakers sorted by name.
    """
    names, speaker_numbers = np.unique(speakers, return_inverse=True)
    predictions = np.atleast_2d(predictions)
    cells, shape = speaker_numbers * classes + labels, (len(names), classes)
    clips = len(predictions) * np.bincount(cells, minlength=len(names) * classes)
    hits = (predictions == labels).sum(axis=0)
    correct = np.bincount(cells, weights=hits, minlength=len(names) * classes)
    return correct.astype(np.int64).reshape(shape), clips.astype(np.int64).reshape(shape)


def _estimate(counts: Floats, clips: Ints, level: float) -> tuple[float, float] | None:
    """Return the mean UAR and half the width of its interval on the plain scale; None if it is not reliable."""
    if not 0 < level < 1:
        raise InputError(f"the level of a confidence interval must be between 0 and 1, not {level}")
    present = clips.any(axis=0)
    counts, clips = counts[:, present], clips[:, present]
    speakers = len(clips)
    if speakers < MIN_SPEAKERS:
        return None
    if is_balanced(clips):
        per_speaker = (counts / clips).mean(axis=1)
        mean, error = per_speaker.mean(), per_speaker.std(ddof=1) / np.sqrt(speakers)
        degrees_of_freedom = speakers - 1.0
    else:
        if speakers < MIN_SPEAKERS_UNBALANCED or (clips > 0).sum(axis=0).min() < MIN_SPEAKERS_PER_CLASS:
            return None
        effective = _effective_speakers(clips)
        if effective < MIN_SPEAKERS:
            return None
        mean, error = _jackknife(counts, clips)
        degrees_of_freedom = effective - 1.0
    if error < MIN_STANDARD_ERROR:
        return None
    return float(mean), float(stdtrit(degrees_of_freedom, (1 + level) / 2)) * float(error)


def _effective_speakers(clips: Ints) -> float:
    """Return the number of equal speakers that would determine the standard error as precisely as these do.

    Satterthwaite 1946, "An approximate distribution of estimates of variance components": (sum of v)^2 / sum of v^2,
    with v a speaker's contribution to the variance of the pooled UAR under equal variances, (n / N)^2 for n of the N
    clips of a class.
    """
    variances = np.square(clips / clips.sum(axis=0)).sum(axis=1)
    return float(variances.sum() ** 2 / np.square(variances).sum())


def _jackknife(counts: Floats, clips: Ints) -> tuple[float, float]:
    """Return the pooled UAR and its delete-one-speaker jackknife error. Each class has at least two speakers."""
    speakers = len(clips)
    hits, totals = counts.sum(axis=0), clips.sum(axis=0)
    replicates = ((hits - counts) / (totals - clips)).mean(axis=1)
    variance = np.square(replicates - replicates.mean()).sum() * (speakers - 1) / speakers
    return float((hits / totals).mean()), float(np.sqrt(variance))
