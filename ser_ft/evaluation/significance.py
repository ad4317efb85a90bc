"""Two systems on the same clips: how much better one is, and how easily chance alone would make it so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from ..utils.errors import InputError
from . import validation
from .confidence_intervals import count_by_speaker, difference_interval_from_counts, is_balanced
from .validation import Floats, Ints

# Up to so many speakers every way of swapping is tried, beyond that so many drawn ones.
MAX_ENUMERATED_SPEAKERS = 20
NUM_PERMUTATIONS = 10_000
# Differences this near to each other are equal: what the order of a sum does to it.
_EQUAL = 1e-12


@dataclass(frozen=True)
class PairedComparison:
    """The difference of two systems' UARs over the same clips.

    Attributes:
        difference: UAR of the first system minus that of the second. Where the speakers are
            `ser_ft.evaluation.confidence_intervals.is_balanced` it is the mean of their own, otherwise that of all clips pooled.
        low: the lower end of an interval for it, None where none can be trusted.
        high: the upper end, likewise.
        level: the nominal coverage of that interval.
        p_value: how often so large a difference, either way, comes about where each speaker's answers are swapped between
            the systems at random.
        smallest_p_value: the least p that so many speakers can give: over 0.05, no difference could ever be told.
        speakers: their number.
        clips: their number.
    """

    difference: float
    low: float | None
    high: float | None
    level: float
    p_value: float
    smallest_p_value: float
    speakers: int
    clips: int


def compare_paired(
    labels: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    speakers: Sequence[str],
    classes: int,
    level: float = 0.95,
    seed: int = 0,
) -> PairedComparison:
    """Compare two systems that answered the same clips.

    The test is a permutation test over speakers (Good 2005, "Permutation, Parametric and Bootstrap Tests of
    Hypotheses"): were the systems alike, a speaker's answers could have come from either. Up to 20
    speakers all 2^n ways of swapping are tried, beyond that 10 000 drawn ones, with p = (1 + count) / (1 + draws)
    (Phipson & Smyth 2010, "Permutation p-values should never be zero"). The interval is that of
    `ser_ft.evaluation.confidence_intervals.difference_interval_from_counts`; near the edge the two may disagree. The order of the clips
    does not matter.

    Args:
        labels: class numbers, shape (N,).
        first: predictions of the first system, shape (N,), or (seeds, N) where it was trained several times: a
            speaker's right answers are then averaged over the seeds.
        second: of the second system, likewise, with its own number of seeds.
        speakers: the speaker of each clip, shape (N,).
        classes: C, the number of classes.
        level: the nominal coverage of the interval.
        seed: of the draws.

    Raises:
        InputError: no clips, lengths that differ, a number that is no class, or a level out of range.
    """
    true = validation.check_class_numbers(labels, "labels", classes)
    who = validation.check_names(speakers, "speakers", len(true))
    recognised = []
    for answers, system in ((first, "first"), (second, "second")):
        predicted = _several(answers, f"{system} system's predictions", len(true), classes)
        correct, _ = count_by_speaker(true, predicted, who, classes)
        recognised.append(correct / len(predicted))
    _, clips = count_by_speaker(true, true, who, classes)
    gained = recognised[0] - recognised[1]
    parts = _parts(gained, clips)
    ends = difference_interval_from_counts(gained, clips, level)
    low, high = ends or (None, None)
    count = len(parts)
    smallest = 2.0 ** (1 - count) if count <= MAX_ENUMERATED_SPEAKERS else 1 / (1 + NUM_PERMUTATIONS)
    return PairedComparison(float(parts.sum()), low, high, level, _swapped(parts, seed), smallest, count, len(true))


def _several(predictions: ArrayLike, what: str, clips: int, classes: int) -> Ints:
    """Return predictions of shape (seeds, N)."""
    numbers = validation.as_array(predictions, what)
    rows = [numbers] if numbers.ndim < 2 else list(numbers)
    if not rows:
        raise InputError(f"no {what}: a comparison needs one seed or more of each system")
    several = np.stack([validation.check_class_numbers(row, what, classes) for row in rows])
    if several.shape[1] != clips:
        raise InputError(f"{clips} labels, but {several.shape[1]} of the {what}: compare answers to the same clips")
    return several


def _parts(gained: Floats, clips: Ints) -> Floats:
    """Return what each speaker adds to the difference of the UARs, shape (speakers,)."""
    present = clips.any(axis=0)
    gained, clips = gained[:, present], clips[:, present]
    shares = gained / clips / len(clips) if is_balanced(clips) else gained / clips.sum(axis=0)
    return np.asarray(shares.mean(axis=1))


def _swapped(parts: Floats, seed: int) -> float:
    """Return the two-sided p of the sum of the parts, were each of them as likely of the other sign."""
    if len(parts) <= MAX_ENUMERATED_SPEAKERS:
        sums = np.zeros(1)
        for part in parts:
            sums = np.concatenate((sums + part, sums - part))
    else:
        sums = _signs(len(parts), seed) @ parts
    reached = int((np.abs(sums) >= np.abs(parts.sum()) - _EQUAL).sum())
    return reached / len(sums) if len(parts) <= MAX_ENUMERATED_SPEAKERS else (1 + reached) / (1 + NUM_PERMUTATIONS)


@lru_cache(maxsize=8)
def _signs(count: int, seed: int) -> Floats:
    """Return 1 or -1 for each speaker in each draw, shape (draws, speakers)."""
    return np.where(np.random.default_rng(seed).integers(0, 2, (NUM_PERMUTATIONS, count)), -1.0, 1.0)
