"""Batches of clips of like length, the same for every process that asks, and shared out among them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from ..utils.errors import InputError

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
    accumulation: int = 1,
    budget: float | None = None,
) -> list[list[int]]:
    """Return one process's batches of an epoch.

    All processes draw the same steps from (seed, epoch): a step is `world * accumulation` batches, shared out among
    the processes, so that two processes take the steps of one that accumulates twice as many. Each has as many
    batches, and no clip is left out. None stands alone in a batch, which normalisation over a batch cannot take, unless
    batches of one are asked for, it is longer than half the budget, or there is no other way to go round. The batches
    of one step are of like padded size, so that no process waits for another; steps come in any order.

    Args:
        lengths: of each training clip, in any unit, shape (clips,).
        batch_size: clips per batch at most (of 1 to 3: a few more, where clips do not go round evenly or one would
            stand alone).
        seed, epoch: of the draw.
        chances: of each clip to be drawn, shape (clips,), with replacement; by default each clip comes once.
        rank, world: this process's number, and how many there are. accumulation: batches of each process per step (as
            many as there are clips for, where there are fewer).
        budget: padded length of a batch at most (clips times the longest), in the unit of `lengths`; a longer clip
            stands alone. Where nearly all must and they do not go round, the shortest share batches nevertheless: two
            in each, fewer than `world` batches.

    Returns:
        Batches of positions in `lengths`.

    Raises:
        InputError: there are fewer clips than processes.
    """
    count = len(lengths)
    if count < world:
        raise InputError(f"{count} training clips cannot be shared among {world} processes: use fewer processes")
    accumulation = min(accumulation, count // world)
    per_step = world * accumulation
    generator = np.random.default_rng((seed, epoch))
    if chances is None:
        order = generator.permutation(count)
    else:
        order = generator.choice(count, size=count, p=chances / chances.sum())
    blurred = lengths[order] * generator.uniform(1 - _BLUR, 1 + _BLUR, count)
    cut = _cut(lengths[order].astype(float), blurred, batch_size, math.inf if budget is None else budget, per_step)
    batches = [order[places] for places in cut]
    by_size = np.argsort([len(batch) * lengths[batch].max() for batch in batches], kind="stable")
    steps = generator.permuted(generator.permutation(by_size.reshape(-1, per_step)), axis=1)
    own = steps[:, rank * accumulation : (rank + 1) * accumulation]
    return [batches[at].tolist() for at in own.reshape(-1)]


def balancing_chances(groups: Sequence[tuple[str, int]]) -> np.ndarray:
    """Return the chance of each clip, so that each (corpus, emotion) is drawn equally often, shape (clips,)."""
    names = [f"{corpus}/{emotion}" for corpus, emotion in groups]
    present, inverse, counts = np.unique(names, return_inverse=True, return_counts=True)
    return np.asarray(1.0 / (len(present) * counts[inverse]))


def _cut(lengths: np.ndarray, blurred: np.ndarray, most: int, budget: float, world: int) -> list[np.ndarray]:
    """Cut clips into as few batches as the limits let be, a multiple of `world`: places in `lengths`."""
    count = len(lengths)
    shares = np.maximum(lengths * (most / budget), 1.0) / most
    longest_first = np.argsort(-lengths, kind="stable")
    # Any two clips of at most half the budget fit together: only longer ones must stand alone.
    forced = int((2 * lengths > budget).sum()) if most > 1 else count
    # If that does not go round: batches of up to 4 where fewer were asked for, else the longest of the rest alone, else
    # (nearly all must stand alone) pairs of the shortest, which always go round.
    tries = [(most, forced, budget), (max(most, 4), forced, budget)]
    tries += [(most, alone, budget) for alone in range(forced + 1, count + 1)]
    tries += [(2, count - 2 * (count % world), math.inf)]
    for allowed, alone, held in tries:
        rest = _by_length(np.sort(longest_first[alone:]), blurred, shares)
        latest = _fewest(lengths[rest].tolist(), allowed, held)
        parts = -(-(alone + len(latest) - 1) // world) * world - alone
        if 2 * parts <= len(rest):
            break
    bounds = _even(lengths[rest].tolist(), shares[rest], parts, latest, allowed, held)
    return [*longest_first[:alone, None], *(rest[start:end] for start, end in pairwise(bounds))]


def _by_length(places: np.ndarray, blurred: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Sort clips in pools, upwards in one and downwards in the next: a batch across two finds like lengths in both."""
    pools = np.array_split(places, max(1, round(shares[places].sum() / _POOL)))
    return np.concatenate([pool[np.argsort(blurred[pool])][:: 1 - 2 * (at % 2)] for at, pool in enumerate(pools)])


def _reach(lengths: list[float], start: int, most: int, budget: float) -> int:
    """Return the end of the largest batch that begins at `start`."""
    longest, last = 0.0, min(start + most, len(lengths))
    for end in range(start, last):
        longest = max(longest, lengths[end])
        if (end + 1 - start) * longest > budget:
            return end
    return last


def _fewest(lengths: list[float], most: int, budget: float) -> list[int]:
    """Return the bounds of the fewest batches there can be, filled from the end."""
    backwards, bounds = lengths[::-1], [0]
    while bounds[-1] < len(lengths):
        bounds.append(_reach(backwards, bounds[-1], most, budget))
    return [len(lengths) - bound for bound in reversed(bounds)]


def _even(
    lengths: list[float], shares: np.ndarray, parts: int, latest: list[int], most: int, budget: float
) -> list[int]:
    """Return the bounds of `parts` batches of two clips or more, as even in their shares of a full batch as they go.

    `latest` are the bounds of the fewest batches, filled from the end: what lies beyond each fits into as many batches
    as are left, so a bound that stays at it or above can always be followed by another.
    """
    sums = np.concatenate([[0.0], np.cumsum(shares)])
    aims = np.rint(np.interp(np.linspace(0, sums[-1], parts + 1), sums, np.arange(len(sums)))).astype(int).tolist()
    least = [0] * (parts + 1 - len(latest)) + latest
    bounds = [0]
    for part in range(1, parts + 1):
        low = max(least[part], bounds[-1] + 2)
        high = min(_reach(lengths, bounds[-1], most, budget), len(lengths) - 2 * (parts - part))
        bounds.append(min(max(aims[part], low), high))
    return bounds
