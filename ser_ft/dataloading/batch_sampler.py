"""Batches of clips of similar length, distributed over the processes of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from ..utils.errors import InputError

# Clips are sorted by length within pools of this many batches, after multiplying the lengths by random factors of
# 1 +/- jitter. This gives 1 to 3 % of padding on corpora of 1 to 5 s, and other batches in each epoch.
_POOL_BATCHES, _LENGTH_JITTER = 50, 0.02


def epoch_batches(
    lengths: np.ndarray,
    batch_size: int,
    seed: int,
    epoch: int,
    *,
    weights: np.ndarray | None = None,
    rank: int = 0,
    world_size: int = 1,
    accumulation_steps: int = 1,
    max_batch_length: float | None = None,
) -> list[list[int]]:
    """Return one process's batches of an epoch, as positions in `lengths`.

    All processes compute the same steps from (seed, epoch). A step is `world_size * accumulation_steps` batches, which
    are distributed over the processes: two processes take the same steps as one that accumulates twice as many batches.
    All processes have the same number of batches, and no clip is left out. A batch has at least two clips, as batch
    normalization requires, unless `batch_size` is 1, the clip is longer than half of `max_batch_length`, or the clips
    cannot be distributed otherwise. The batches of a step have similar padded sizes, so that processes do not wait for
    each other; the order of the steps is random.

    Args:
        lengths: length of each training clip in any unit, shape (clips,).
        batch_size: largest number of clips in a batch. With 1 to 3, batches may have up to 4 clips if the clips cannot
            be distributed otherwise.
        weights: sampling weight of each clip, for sampling with replacement; None: each clip occurs once.
        accumulation_steps: batches of each process per step; fewer if there are not enough clips.
        max_batch_length: largest padded length of a batch (clips times the longest), in the unit of `lengths`. A longer
            clip is a batch by itself. If nearly all clips are, and cannot be distributed evenly, the shortest form
            pairs nevertheless, fewer than `world_size`.
    """
    count = len(lengths)
    if count < world_size:
        raise InputError(f"{count} training clips are too few for {world_size} processes: use fewer processes")
    accumulation_steps = min(accumulation_steps, count // world_size)
    per_step = world_size * accumulation_steps
    generator = np.random.default_rng((seed, epoch))
    if weights is None:
        order = generator.permutation(count)
    else:
        order = generator.choice(count, size=count, p=weights / weights.sum())
    jittered = lengths[order] * generator.uniform(1 - _LENGTH_JITTER, 1 + _LENGTH_JITTER, count)
    limit = math.inf if max_batch_length is None else max_batch_length
    batches = [order[places] for places in _cut(lengths[order].astype(float), jittered, batch_size, limit, per_step)]
    by_size = np.argsort([len(batch) * lengths[batch].max() for batch in batches], kind="stable")
    steps = generator.permuted(generator.permutation(by_size.reshape(-1, per_step)), axis=1)
    own_steps = steps[:, rank * accumulation_steps : (rank + 1) * accumulation_steps]
    return [batches[number].tolist() for number in own_steps.reshape(-1)]


def balancing_weights(groups: Sequence[tuple[str, int]]) -> np.ndarray:
    """Return sampling weights of clips with which each (corpus, emotion) is equally frequent, shape (clips,)."""
    names = [f"{corpus}/{emotion}" for corpus, emotion in groups]
    present, inverse, counts = np.unique(names, return_inverse=True, return_counts=True)
    return np.asarray(1.0 / (len(present) * counts[inverse]))


def _cut(
    lengths: np.ndarray, jittered: np.ndarray, batch_size: int, max_length: float, multiple: int
) -> list[np.ndarray]:
    """Cut clips into as few batches as the limits allow, a multiple of `multiple`: positions in `lengths`."""
    count = len(lengths)
    # Fraction of a full batch that each clip takes.
    loads = np.maximum(lengths * (batch_size / max_length), 1.0) / batch_size
    longest_first = np.argsort(-lengths, kind="stable")
    # Two clips of at most half the largest length always fit together: only longer ones must be single.
    num_long = int((2 * lengths > max_length).sum()) if batch_size > 1 else count
    # If the number of batches is no multiple: batches of up to 4 clips, or more single clips, or (if nearly all clips
    # are single) pairs of the shortest clips, which always works.
    attempts = [(batch_size, num_long, max_length), (max(batch_size, 4), num_long, max_length)]
    attempts += [(batch_size, num_single, max_length) for num_single in range(num_long + 1, count + 1)]
    attempts += [(2, count - 2 * (count % multiple), math.inf)]
    for max_clips, num_single, max_padded in attempts:
        rest = _sort_in_pools(np.sort(longest_first[num_single:]), jittered, loads)
        latest = _fewest_batches(lengths[rest].tolist(), max_clips, max_padded)
        num_batches = -(-(num_single + len(latest) - 1) // multiple) * multiple - num_single
        if 2 * num_batches <= len(rest):
            break
    bounds = _even_batches(lengths[rest].tolist(), loads[rest], num_batches, latest, max_clips, max_padded)
    return [*longest_first[:num_single, None], *(rest[start:end] for start, end in pairwise(bounds))]


def _sort_in_pools(places: np.ndarray, jittered: np.ndarray, loads: np.ndarray) -> np.ndarray:
    """Sort clips within pools, ascending and descending in turn, so that lengths fit across the pools' borders, too."""
    pools = np.array_split(places, max(1, round(loads[places].sum() / _POOL_BATCHES)))
    return np.concatenate(
        [pool[np.argsort(jittered[pool])][:: 1 - 2 * (number % 2)] for number, pool in enumerate(pools)]
    )


def _largest_end(lengths: list[float], start: int, max_clips: int, max_length: float) -> int:
    longest, last = 0.0, min(start + max_clips, len(lengths))
    for end in range(start, last):
        longest = max(longest, lengths[end])
        if (end + 1 - start) * longest > max_length:
            return end
    return last


def _fewest_batches(lengths: list[float], max_clips: int, max_length: float) -> list[int]:
    """Return the bounds of the fewest possible batches, filled from the end."""
    backwards, bounds = lengths[::-1], [0]
    while bounds[-1] < len(lengths):
        bounds.append(_largest_end(backwards, bounds[-1], max_clips, max_length))
    return [len(lengths) - bound for bound in reversed(bounds)]


def _even_batches(
    lengths: list[float], loads: np.ndarray, num_batches: int, latest: list[int], max_clips: int, max_length: float
) -> list[int]:
    """Return the bounds of batches of two clips or more with loads that are as even as possible.

    `latest` are the bounds of the fewest batches, filled from the end. The clips after each of them fit into the
    remaining batches, so that a solution exists as long as no bound is below its counterpart.
    """
    sums = np.concatenate([[0.0], np.cumsum(loads)])
    even_sums = np.linspace(0, sums[-1], num_batches + 1)
    targets = np.rint(np.interp(even_sums, sums, np.arange(len(sums)))).astype(int).tolist()
    lowest = [0] * (num_batches + 1 - len(latest)) + latest
    bounds = [0]
    for number in range(1, num_batches + 1):
        low = max(lowest[number], bounds[-1] + 2)
        high = _largest_end(lengths, bounds[-1], max_clips, max_length)
        bounds.append(min(max(targets[number], low), high, len(lengths) - 2 * (num_batches - number)))
    return bounds
