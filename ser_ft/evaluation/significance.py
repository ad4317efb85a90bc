"""Paired comparison of two systems on the same clips: difference of their UARs, confidence interval and p-value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from ..utils.errors import InputError
from .confidence_intervals import count_by_speaker, difference_interval_from_counts, is_balanced
from .validation import Floats, Ints, as_array, check_class_numbers, check_names

# Up to this number of speakers all permutations are enumerated, above it they are sampled.
MAX_ENUMERATED_SPEAKERS = 20
NUM_PERMUTATIONS = 10_000
# Sums that differ by less are equal: rounding depends on the order of summation.
_TOLERANCE = 1e-12


@dataclass(frozen=True)
class PairedComparison:
    """The difference of two systems' UARs on the same clips.

    Attributes:
        difference: UAR of the first system minus that of the second: of the mean of the per-speaker UARs if the
            speakers are balanced (`ser_ft.evaluation.confidence_intervals.is_balanced`), otherwise of all clips pooled.
        low, high: ends of its confidence interval, None if no reliable one can be given.
        p_value: two-sided p-value of a permutation test over speakers.
        smallest_p_value: smallest p-value that is possible with this number of speakers. Above 0.05, no difference can
            be significant.
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
    """Compare two systems on the same clips.

    The test is a permutation test over speakers (Good 2005, "Permutation, Parametric and Bootstrap Tests of
    Hypotheses"): under the null hypothesis, a speaker's predictions can be swapped between the systems. For up to 20
    speakers all 2^n swaps are enumerated, for more 10 000 are sampled, with p = (1 + count) / (1 + samples) (Phipson &
    Smyth 2010, "Permutation p-values should never be zero"). The interval is that of
    `ser_ft.evaluation.confidence_intervals.difference_interval_from_counts`; for borderline differences it may disagree
    with the test. The order of the clips does not matter.

    Predictions have shape (N,), or (seeds, N) for a system that was trained several times: a speaker's correct
    predictions are averaged over the seeds. `seed` is that of the sampled permutations.
    """
    true = check_class_numbers(labels, "labels", classes)
    names = check_names(speakers, "speakers", len(true))
    recognized = []
    for predictions, system in ((first, "first"), (second, "second")):
        predicted = _predictions_by_seed(predictions, f"{system} system's predictions", len(true), classes)
        correct, _ = count_by_speaker(true, predicted, names, classes)
        recognized.append(correct / len(predicted))
    _, clips = count_by_speaker(true, true, names, classes)
    difference = recognized[0] - recognized[1]
    contributions = _speaker_contributions(difference, clips)
    low, high = difference_interval_from_counts(difference, clips, level) or (None, None)
    count = len(contributions)
    smallest = 2.0 ** (1 - count) if count <= MAX_ENUMERATED_SPEAKERS else 1 / (1 + NUM_PERMUTATIONS)
    p_value = _permutation_p_value(contributions, seed)
    return PairedComparison(float(contributions.sum()), low, high, level, p_value, smallest, count, len(true))


def _predictions_by_seed(predictions: ArrayLike, what: str, clips: int, classes: int) -> Ints:
    numbers = as_array(predictions, what)
    rows = [numbers] if numbers.ndim < 2 else list(numbers)
    if not rows:
        raise InputError(f"no {what}: a comparison needs at least one seed of each system")
    by_seed = np.stack([check_class_numbers(row, what, classes) for row in rows])
    if by_seed.shape[1] != clips:
        raise InputError(
            f"{clips} labels, but {by_seed.shape[1]} of the {what}: compare predictions for the same clips"
        )
    return by_seed


def _speaker_contributions(difference: Floats, clips: Ints) -> Floats:
    """Return each speaker's contribution to the difference of the UARs, shape (speakers,)."""
    present = clips.any(axis=0)
    difference, clips = difference[:, present], clips[:, present]
    recalls = difference / clips / len(clips) if is_balanced(clips) else difference / clips.sum(axis=0)
    return np.asarray(recalls.mean(axis=1))


def _permutation_p_value(contributions: Floats, seed: int) -> float:
    enumerated = len(contributions) <= MAX_ENUMERATED_SPEAKERS
    if enumerated:
        sums = np.zeros(1)
        for contribution in contributions:
            sums = np.concatenate((sums + contribution, sums - contribution))
    else:
        sums = _random_signs(len(contributions), seed) @ contributions
    count = int((np.abs(sums) >= np.abs(contributions.sum()) - _TOLERANCE).sum())
    return count / len(sums) if enumerated else (1 + count) / (1 + NUM_PERMUTATIONS)


@lru_cache(maxsize=8)
def _random_signs(speakers: int, seed: int) -> Floats:
    """Return signs, 1 or -1, shape (permutations, speakers)."""
    return np.where(np.random.default_rng(seed).integers(0, 2, (NUM_PERMUTATIONS, speakers)), -1.0, 1.0)
