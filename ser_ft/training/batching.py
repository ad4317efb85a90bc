"""Batches of clips of like length, the same for every process that asks, and shared out among them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Clips are sorted by length within pools of so many batches: little padding, and batches still differ by epoch.
_POOL = 20


def epoch_batches(
    lengths: np.ndarray,
    batch_size: int,
    seed: int,
    epoch: int,
    *,
    chances: np.ndarray | None = None,
    rank: int = 0,
    world: int = 1,
) -> list[list[int]]:
    """Return one process's batches of an epoch.

    All processes draw the same order from (seed, epoch) and take every `world`-th batch, so each has as many. What is
    left over, fewer than `world` batches, rests for this epoch.

    Args:
        lengths: of each training clip, in any unit, shape (clips,).
        batch_size: clips per batch.
        seed, epoch: of the draw.
        chances: of each clip to be drawn, shape (clips,), with replacement; by default each clip comes once.
        rank, world: this process's number, and how many there are.

    Returns:
        Batches of positions in `lengths`. The last clips of an epoch are spread over the others rather than left as a
        batch of one, which normalisation over a batch cannot take.
    """
    generator = np.random.default_rng((seed, epoch))
    count = len(lengths)
    if chances is None:
        order = generator.permutation(count)
    else:
        order = generator.choice(count, size=count, p=chances / chances.sum())
    batches: list[np.ndarray] = []
    pool = _POOL * batch_size
    for start in range(0, count, pool):
        part = order[start : start + pool]
        part = part[np.argsort(lengths[part], kind="stable")]
        batches += np.array_split(part, max(1, round(len(part) / batch_size)))
    shuffled = [batches[at].tolist() for at in generator.permutation(len(batches))]
    if world > 1 and len(shuffled) < world:
        shuffled = [batch[at::world] for batch in shuffled for at in range(world)]
    whole = len(shuffled) // world * world
    return shuffled[rank:whole:world]


def balancing_chances(groups: Sequence[tuple[str, int]]) -> np.ndarray:
    """Return the chance of each clip, so that each (corpus, emotion) is drawn equally often, shape (clips,)."""
    names, inverse, counts = np.unique([f"{corpus}/{emotion}" for corpus, emotion in groups], return_inverse=True, return_counts=True)
    return 1.0 / (len(names) * counts[inverse])
