"""Samples speakers, or clips, for the parts of a split."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

_NUM_TRIALS = 300


def count_speakers(fraction: float, total: int, minimum: int = 1) -> int:
    """Return a fraction of `total` speakers, at least one if others remain (at least `minimum` of two)."""
    if total < 2:
        return 0
    return min(max(round(fraction * total), minimum if total < 3 else 1), total - 1)


def sample_groups(frame: pd.DataFrame, sizes: Sequence[int], seed: int) -> list[list[str]]:
    """Sample disjoint groups of speakers that represent all speakers.

    Of several hundred random permutations, it uses the one whose groups have the fractions of emotion x gender x corpus
    nearest (in the sum of absolute differences) to those of all speakers.
    """
    import pandas as pd

    if not sum(sizes):
        return [[] for _ in sizes]
    cells = frame["emotion"].astype(str) + "/" + frame["gender"].fillna("?").astype(str) + "/" + frame["corpus"]
    counts = pd.crosstab(frame["speaker"], cells).sort_index()
    speakers, table = np.array(counts.index), counts.to_numpy(dtype=np.float64)
    generator = np.random.default_rng(seed)
    edges = np.cumsum((0, *sizes))
    best_distance, best_order = np.inf, np.arange(len(speakers))
    for _ in range(_NUM_TRIALS):
        order = generator.permutation(len(speakers))
        distance = 0.0
        for start, end in pairwise(edges):
            if end > start:
                group = table[order[start:end]].sum(axis=0)
                distance += np.abs(group / group.sum() - table.sum(axis=0) / table.sum()).sum()
                distance += abs(group.sum() / table.sum() - (end - start) / len(speakers))
        if distance < best_distance - 1e-12:
            best_distance, best_order = distance, order
    return [sorted(map(str, speakers[best_order[start:end]])) for start, end in pairwise(edges)]


def sample_clips(frame: pd.DataFrame, seed: int, test: float, validation: float) -> pd.Series:
    """Return the part of each clip if the clips of each class are split at random."""
    import pandas as pd

    generator = np.random.default_rng(seed)
    part_of_clip = np.full(len(frame), "train", dtype=object)
    for _, rows in sorted(frame.groupby("emotion").indices.items()):
        order = generator.permutation(rows)
        num_test = round(test * len(order))
        num_validation = round(validation * (len(order) - num_test))
        part_of_clip[order[:num_test]] = "test"
        part_of_clip[order[num_test : num_test + num_validation]] = "validation"
    return pd.Series(part_of_clip, index=frame.index)
