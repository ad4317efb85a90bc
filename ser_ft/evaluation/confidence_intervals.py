"""Intervals for UAR, and for the difference of two, over speakers: how far a score would move with other speakers.

Clips of one speaker succeed and fail together, so speakers, not clips, are what is sampled. Two methods, from each
speaker's clips and correct clips per class alone:

- "t", where the speakers are `is_balanced`: Student's t on the mean of the per-speaker UARs.
- "jackknife-t", otherwise: Student's t on the UAR of all clips pooled, with the standard error of the
  delete-one-speaker jackknife (Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapter 11) and the
  degrees of freedom of `_effective`.

A UAR's interval is made on the logit scale (the standard error carried over by the delta method) and turned back: on
the plain scale a nominal 95 % covers only 90 to 93 % of simulated test sets near the ceiling (UAR 0.95, 4 to 24
speakers). That of a difference is made on the plain scale.

An interval is given only where simulation found it to hold what it promises (a nominal 95 % covers 93 to 97 %):
`benchmarks/interval_coverage.py` measures it.
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
# The effective number of speakers by their number, from which on each may count alike: clips that vary by a third.
_ALIKE = 0.9
# Standard errors below this are rounding noise.
TINY = 1e-12


@dataclass(frozen=True)
class ConfidenceInterval:
    """An interval for UAR.

    Attributes:
        low: its lower end, in [0, 1].
        high: its upper end, in [0, 1].
        level: the share of such intervals meant to hold the true UAR, such as 0.95.
        method: "t" (about the mean of the per-speaker UARs) or "jackknife-t" (about the UAR of all clips pooled).
        speakers: the number of speakers it rests on.
    """

    low: float
    high: float
    level: float
    method: Literal["t", "jackknife-t"]
    speakers: int


@dataclass(frozen=True)
class _Estimate:
    centre: float
    error: float
    freedom: float
    balanced: bool

    def half(self, level: float) -> float:
        """Return half the width of the interval on the plain scale."""
        return float(stdtrit(self.freedom, (1 + level) / 2)) * self.error


def interval_from_counts(correct: Ints, clips: Ints, level: float = 0.95) -> ConfidenceInterval | None:
    """Estimate an interval for UAR from counts per speaker and class.

    Args:
        correct: rightly recognised clips, shape (speakers, classes).
        clips: all clips, same shape, a row for each speaker with at least one. Columns without clips are left out.
        level: the nominal coverage.

    Returns:
        The interval, or None where none can be trusted: fewer than 4 speakers; no difference between them (all
        right, say: nothing then tells how much other speakers would differ); and, where they are not `is_balanced`,
        fewer than 5 speakers, a class of fewer than 3, or an effective number of speakers under 4: see `_effective`.

    Raises:
        InputError: `level` is not between 0 and 1.
    """
    found = _estimate(correct.astype(np.float64), clips, level)
    if found is None:
        return None
    middle, half = logit(found.centre), found.half(level) / (found.centre * (1 - found.centre))
    method: Literal["t", "jackknife-t"] = "t" if found.balanced else "jackknife-t"
    return ConfidenceInterval(float(expit(middle - half)), float(expit(middle + half)), level, method, len(clips))


def difference_interval_from_counts(gained: Floats, clips: Ints, level: float = 0.95) -> tuple[float, float] | None:
    """Estimate an interval for the difference of two UARs over the same clips.

    Args:
        gained: the clips that the first system recognises more than the second, shape (speakers, classes).
        clips: all clips, same shape, as in `interval_from_counts`.
        level: the nominal coverage.

    Returns:
        Its ends, in [-1, 1], or None for the reasons that `interval_from_counts` has.

    Raises:
        InputError: `level` is not between 0 and 1.
    """
    found = _estimate(gained, clips, level)
    if found is None:
        return None
    half = found.half(level)
    return max(found.centre - half, -1.0), min(found.centre + half, 1.0)


def is_balanced(clips: Ints) -> bool:
    """Say whether the mean of the per-speaker UARs may stand for the UAR of all clips.

    So where each speaker has every class that occurs, and about as many clips as the others: an effective number
    (see `_effective`) of nine tenths of their number or more.

    Args:
        clips: of each speaker and class, shape (speakers, classes).
    """
    present = clips[:, clips.any(axis=0)]
    return bool((present > 0).all()) and _effective(present) >= _ALIKE * len(present)


def count_by_speaker(labels: Ints, predictions: Ints, speakers: NDArray[np.str_], classes: int) -> tuple[Ints, Ints]:
    """Count each speaker's clips by class, summed over the seeds of a system.

    Args:
        labels: class numbers, shape (N,).
        predictions: class numbers, shape (N,), or (seeds, N) for a system trained several times.
        speakers: of each clip, shape (N,).
        classes: C, the number of classes.

    Returns:
        The rightly recognised clips and all clips, both of shape (speakers, C), the speakers in the order of names.
    """
    people, place = np.unique(speakers, return_inverse=True)
    several = np.atleast_2d(predictions)
    cell, shape = place * classes + labels, (len(people), classes)
    clips = len(several) * np.bincount(cell, minlength=len(people) * classes)
    correct = np.bincount(cell, weights=(several == labels).sum(axis=0), minlength=len(people) * classes)
    return correct.astype(np.int64).reshape(shape), clips.astype(np.int64).reshape(shape)


def _estimate(counts: Floats, clips: Ints, level: float) -> _Estimate | None:
    if not 0 < level < 1:
        raise InputError(f"the level of an interval must lie between 0 and 1, not {level}")
    present = clips.any(axis=0)
    counts, clips = counts[:, present], clips[:, present]
    speakers, alike = len(clips), is_balanced(clips)
    if speakers < MIN_SPEAKERS:
        return None
    if alike:
        per_speaker = (counts / clips).mean(axis=1)
        centre, error = per_speaker.mean(), per_speaker.std(ddof=1) / np.sqrt(speakers)
        freedom = speakers - 1.0
    else:
        if speakers < MIN_SPEAKERS_UNBALANCED or (clips > 0).sum(axis=0).min() < MIN_SPEAKERS_PER_CLASS:
            return None
        effective = _effective(clips)
        if effective < MIN_SPEAKERS:
            return None
        centre, error = _jackknife(counts, clips)
        freedom = effective - 1.0
    return None if error < TINY else _Estimate(float(centre), float(error), freedom, alike)


def _effective(clips: Ints) -> float:
    """Return the number of equal speakers whose spread would tell as much about the standard error as these do.

    A rare class rests on few speakers, and one with many clips weighs much; the standard error then rests on few, too:
    Satterthwaite 1946, "An approximate distribution of estimates of variance components", (sum of v)^2 / sum of v^2,
    with v a speaker's part of the variance of the pooled UAR were their skills equally spread (of a class of N clips,
    (n / N)^2 for n of them).
    """
    variances = np.square(clips / clips.sum(axis=0)).sum(axis=1)
    return float(variances.sum() ** 2 / np.square(variances).sum())


def _jackknife(counts: Floats, clips: Ints) -> tuple[float, float]:
    """Return the pooled UAR and its delete-one-speaker jackknife error; each class has two speakers or more."""
    speakers = len(clips)
    hits, totals = counts.sum(axis=0), clips.sum(axis=0)
    without = ((hits - counts) / (totals - clips)).mean(axis=1)
    variance = np.square(without - without.mean()).sum() * (speakers - 1) / speakers
    return float((hits / totals).mean()), float(np.sqrt(variance))
