"""An interval for UAR over speakers: how far the score would move with other speakers of the same kind.

Clips of one speaker succeed and fail together, so speakers, not clips, are what is sampled. Two methods, from each
speaker's clips and correct clips per class alone:

- "t", where every speaker has every class: Student's t on the mean of the per-speaker UARs, on the logit scale (the
  standard error carried over by the delta method), turned back. On the plain scale a nominal 95 % covers only 90 to
  93 % of simulated test sets near the ceiling (UAR 0.95, 4 to 24 speakers).
- "bootstrap-t", otherwise: the studentised bootstrap over speakers of the pooled UAR, with the standard error of the
  delete-one-speaker jackknife (Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapters 11 and 12).

An interval is given only where simulation found it to hold what it promises (a nominal 95 % covers 93 to 96 %):
`benchmarks/interval_coverage.py` measures it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit, stdtrit

from ..errors import InputError

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]

FEWEST_SPEAKERS = 4
FEWEST_BOOTSTRAPPED = 5
FEWEST_PER_CLASS = 3
# Standard errors below this are rounding noise.
TINY = 1e-12


@dataclass(frozen=True)
class Interval:
    """An interval for UAR.

    Attributes:
        low: its lower end, in [0, 1].
        high: its upper end, in [0, 1].
        level: the share of such intervals meant to hold the true UAR, such as 0.95.
        method: "t" (about the mean of the per-speaker UARs) or "bootstrap-t" (about the UAR of all clips pooled).
        speakers: the number of speakers it rests on.
    """

    low: float
    high: float
    level: float
    method: Literal["t", "bootstrap-t"]
    speakers: int


def interval_from_counts(
    correct: Ints, clips: Ints, level: float = 0.95, seed: int = 0, resamples: int = 2000
) -> Interval | None:
    """Estimate an interval for UAR from counts per speaker and class.

    Args:
        correct: rightly recognised clips, shape (speakers, classes).
        clips: all clips, same shape, a row for each speaker with at least one. Columns without clips are left out.
        level: the nominal coverage.
        seed: of the bootstrap's random numbers; the same counts and seed give the same interval.
        resamples: how many times the bootstrap draws the speakers anew.

    Returns:
        The interval, or None where none can be trusted: fewer than 4 speakers; no difference between them (all
        right, say: nothing then tells how much other speakers would differ); and, where a speaker lacks a class,
        fewer than 5 speakers, a class of fewer than 3, or speakers that weigh so unevenly in the pooled UAR that
        their effective number (Kish 1965, "Survey Sampling": 1 / sum of squared weights) is under 4.

    Raises:
        InputError: `level` is not between 0 and 1, or `resamples` is under 100.
    """
    if not 0 < level < 1:
        raise InputError(f"the level of an interval must lie between 0 and 1, not {level}")
    if resamples < 100:
        raise InputError(f"a bootstrap needs 100 resamples or more, not {resamples}")
    present = clips.any(axis=0)
    correct, clips = correct[:, present], clips[:, present]
    if len(clips) < FEWEST_SPEAKERS:
        return None
    complete = bool((clips > 0).all())
    ends = _t(correct, clips, level) if complete else _bootstrap_t(correct, clips, level, seed, resamples)
    if ends is None:
        return None
    low, high = (min(max(float(end), 0.0), 1.0) for end in ends)
    return Interval(low, high, level, "t" if complete else "bootstrap-t", len(clips))


def _t(correct: Ints, clips: Ints, level: float) -> tuple[float, float] | None:
    per_speaker = (correct / clips).mean(axis=1)
    speakers, centre = len(per_speaker), per_speaker.mean()
    error = per_speaker.std(ddof=1) / np.sqrt(speakers)
    if error < TINY:
        return None
    half = stdtrit(speakers - 1, (1 + level) / 2) * error / (centre * (1 - centre))
    return float(expit(logit(centre) - half)), float(expit(logit(centre) + half))


def _bootstrap_t(correct: Ints, clips: Ints, level: float, seed: int, resamples: int) -> tuple[float, float] | None:
    """Return the ends, not yet clipped to [0, 1], or None.

    A resample in which a class has fewer than two draws has no jackknife: it is ignored. Where that happens to more
    than half of them, what is left stands for no sampling of speakers any more: None.
    """
    speakers = len(clips)
    weights = (clips / clips.sum(axis=0)).mean(axis=1)
    effective = 1 / np.square(weights).sum()
    held = (clips > 0).sum(axis=0).min()
    if speakers < FEWEST_BOOTSTRAPPED or held < FEWEST_PER_CLASS or effective < FEWEST_SPEAKERS:
        return None
    (pooled,), (error,) = _jackknife(correct, clips, np.ones((1, speakers)))
    if error < TINY:
        return None
    draws = np.random.default_rng(seed).multinomial(speakers, np.full(speakers, 1 / speakers), size=resamples)
    draws = draws[(draws @ (clips > 0) >= 2).all(axis=1)]
    if len(draws) < resamples / 2:
        return None
    redrawn, errors = _jackknife(correct, clips, draws.astype(np.float64))
    shift = redrawn - pooled
    studentised = np.copysign(np.inf, shift)
    np.divide(shift, errors, out=studentised, where=errors > TINY)
    # Order statistics, not interpolated: a resample of one speaker alone has no spread and counts as infinite.
    lower, upper = np.quantile(studentised, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
    return float(pooled - upper * error), float(pooled - lower * error)


def _jackknife(correct: Ints, clips: Ints, draws: Floats) -> tuple[Floats, Floats]:
    """Return the pooled UAR of each resample and its delete-one-speaker jackknife standard error, both (resamples,).

    Args:
        correct: shape (speakers, classes).
        clips: same shape; every class has two draws or more in every resample.
        draws: how often each resample holds each speaker, shape (resamples, speakers).
    """
    speakers = len(clips)
    hits, totals = draws @ correct, draws @ clips
    pooled = (hits / totals).mean(axis=1)
    without = np.zeros_like(draws)  # the UAR of a resample less one draw of a speaker
    above, below = np.empty_like(draws), np.empty_like(draws)  # reused: fresh ones would take as long as the sums
    with np.errstate(divide="ignore", invalid="ignore"):  # where a speaker that was not drawn is taken away
        for column in range(clips.shape[1]):
            np.subtract(hits[:, column, None], correct[:, column], out=above)
            np.subtract(totals[:, column, None], clips[:, column], out=below)
            without += np.divide(above, below, out=above)
    without = np.where(draws > 0, without / clips.shape[1], 0.0)
    centre = (draws * without).sum(axis=1, keepdims=True) / speakers
    variance = (draws * np.square(without - centre)).sum(axis=1) * (speakers - 1) / speakers
    return pooled, np.sqrt(variance)
