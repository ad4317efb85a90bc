"""Batches of clips of like length, the same for every process that asks, and shared out among them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import InputError

# Clips are sorted by length within pools of about so many batches, their lengths blurred by so large a share: 1 to 3 %
# of padding on corpora of 1 to 5 s, and other batches each epoch even where there is but one pool.
_POOL = 50
_BLUR = 0.02


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

    All processes draw the same order from (seed, epoch) and take every `world`-th batch. Batches are cut as evenly as
    they go, so that each process has as many, no clip is left out, and none stands alone in a batch, which
    normalisation over a batch cannot take (unless batches of one are asked for, or there are too few clips).

    Args:
        lengths: of each training clip, in any unit, shape (clips,).
        batch_size: clips per batch at most (of 1 to 3: a few more, where clips do not go round evenly or one would
            stand alone).
        seed, epoch: of the draw.
        chances: of each clip to be drawn, shape (clips,), with replacement; by default each clip comes once.
        rank, world: this process's number, and how many there are.

    Returns:
        Batches of positions in `lengths`.

    Raises:
        InputError: there are fewer clips than processes.
    """
    count = len(lengths)
    if count < world:
        raise InputError(f"{count} training clips cannot be shared among {world} processes: use fewer processes")
    generator = np.random.default_rng((seed, epoch))
    if chances is None:
        order = generator.permutation(count)
    else:
        order = generator.choice(count, size=count, p=chances / chances.sum())
    blurred = lengths[order] * generator.uniform(1 - _BLUR, 1 + _BLUR, count)
    pools = np.array_split(np.arange(count), max(1, round(count / (_POOL * batch_size))))
    # Upwards in one pool and downwards in the next: a batch that lies across two finds like lengths in both.
    rising = [pool[np.argsort(blurred[pool])][:: 1 - 2 * (number % 2)] for number, pool in enumerate(pools)]
    least = 2 if batch_size > 1 else 1
    each = max(1, min(-(-count // (batch_size * world)), count // (least * world)))
    batches = np.array_split(order[np.concatenate(rising)], each * world)
    shuffled = [batches[at].tolist() for at in generator.permutation(len(batches))]
    return shuffled[rank::world]


def balancing_chances(groups: Sequence[tuple[str, int]]) -> np.ndarray:
    """Return the chance of each clip, so that each (corpus, emotion) is drawn equally often, shape (clips,)."""
    names = [f"{corpus}/{emotion}" for corpus, emotion in groups]
    present, inverse, counts = np.unique(names, return_inverse=True, return_counts=True)
    return np.asarray(1.0 / (len(present) * counts[inverse]))
