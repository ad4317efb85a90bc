"""Batches: every clip once, little padding, and a consistent distribution over processes."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from ser_ft.dataloading.batch_sampler import balancing_weights, epoch_batches
from ser_ft.utils.errors import InputError


def lengths_of(clips: int, seed: int = 1) -> np.ndarray:
    """Frames of clips of 1 to 5 s, as in a mix of corpora."""
    seconds = np.random.default_rng(seed).lognormal(np.log(2.5), 0.35, clips).clip(1, 5)
    return (1 + seconds * 62.5).astype(int)


def padding_fraction(lengths: np.ndarray, batches: list[list[int]]) -> float:
    return 1 - sum(lengths[batch].sum() for batch in batches) / padded_lengths(lengths, batches).sum()


def all_ranks(
    lengths: np.ndarray, batch_size: int, world_size: int, epoch: int = 0, **options: Any
) -> list[list[list[int]]]:
    return [
        epoch_batches(lengths, batch_size, 0, epoch, rank=rank, world_size=world_size, **options)
        for rank in range(world_size)
    ]


def padded_lengths(lengths: np.ndarray, batches: list[list[int]]) -> np.ndarray:
    return np.array([lengths[batch].max() * len(batch) for batch in batches])


def waiting_fraction(sizes: np.ndarray) -> float:
    """The mean fraction of a step that the fastest process waits; sizes have shape (ranks, steps)."""
    return float(((sizes.max(axis=0) - sizes.min(axis=0)) / sizes.max(axis=0)).mean())


def flat(batches: list[list[int]]) -> list[int]:
    return [clip for batch in batches for clip in batch]


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 16])
def test_each_clip_occurs_once_and_batches_keep_their_size(batch_size: int, world_size: int) -> None:
    for clips in (*range(world_size, 70), 799, 800, 801, 1601):
        lengths = lengths_of(clips)
        ranks = all_ranks(lengths, batch_size, world_size)
        sizes = [len(batch) for batches in ranks for batch in batches]
        assert sorted(flat(flat(ranks))) == list(range(clips))
        assert len({len(batches) for batches in ranks}) == 1, f"{clips} clips: a process would wait forever"
        assert max(sizes) <= {1: 2 if world_size > 1 else 1, 2: 4, 3: 4}.get(batch_size, batch_size), (
            f"{clips} clips: {max(sizes)} in a batch"
        )
        assert min(sizes) > 1 or batch_size == 1 or clips < 2 * world_size, f"{clips} clips: a batch has one clip"


@pytest.mark.parametrize("clips", [400, 801, 1150, 5000])
def test_padding_is_under_five_percent(clips: int) -> None:
    lengths = lengths_of(clips)
    shuffled = np.array_split(np.random.default_rng(0).permutation(clips), clips // 16)
    for epoch in range(3):
        padding = padding_fraction(lengths, epoch_batches(lengths, 16, 0, epoch))
        assert padding < 0.05
        assert padding < padding_fraction(lengths, [batch.tolist() for batch in shuffled]) / 4


def test_the_order_depends_on_seed_and_epoch() -> None:
    lengths = lengths_of(500)
    batches = epoch_batches(lengths, 16, 3, 5)
    assert epoch_batches(lengths, 16, 3, 5) == batches
    assert epoch_batches(lengths, 16, 4, 5) != batches


@pytest.mark.parametrize(("clips", "batch_size", "max_length"), [(400, 16, None), (1000, 16, None), (1000, 64, 2500)])
def test_batches_differ_between_epochs(clips: int, batch_size: int, max_length: float | None) -> None:
    lengths = lengths_of(clips)
    first, second = (
        {frozenset(batch) for batch in epoch_batches(lengths, batch_size, 0, epoch, max_batch_length=max_length)}
        for epoch in (0, 1)
    )
    assert len(first & second) <= len(first) / 2


def test_batches_mix_no_short_with_long_clips_but_are_in_random_order() -> None:
    lengths = lengths_of(5000)
    batches = epoch_batches(lengths, 16, 0, 0)
    longest, shortest = ([function(lengths[batch]) for batch in batches] for function in (max, min))
    assert np.divide(longest, shortest).max() < 2
    assert abs(np.corrcoef(longest, range(len(longest)))[0, 1]) < 0.5


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("max_length", [600, 2500, 8000])
def test_batches_fill_the_length_limit_and_never_exceed_it(max_length: float, world_size: int) -> None:
    lengths = lengths_of(1601)
    for epoch in range(3):
        ranks = all_ranks(lengths, 64, world_size, epoch, max_batch_length=max_length)
        batches = flat(ranks)
        assert sorted(flat(batches)) == list(range(1601))
        assert len({len(batches) for batches in ranks}) == 1
        assert max(map(len, batches)) <= 64
        assert padded_lengths(lengths, batches).max() <= max_length
        assert padded_lengths(lengths, batches).mean() > 0.75 * max_length
        assert padding_fraction(lengths, batches) < 0.05
        single = [batch[0] for batch in batches if len(batch) == 1]
        assert sorted(single) == np.flatnonzero(2 * lengths > max_length).tolist(), "a batch has one clip without need"


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 16])
@pytest.mark.parametrize("kind", ["frames", "seconds", "equal"])
def test_few_clips_are_distributed_under_any_length_limit(kind: str, batch_size: int, world_size: int) -> None:
    for clips in range(world_size, 30):
        lengths = {"frames": lengths_of(clips), "seconds": lengths_of(clips) / 62.5, "equal": np.full(clips, 3.0)}[kind]
        for max_length in lengths.max() * np.array([0.1, 0.9, 1, 1.5, 2, 3.1, 5, 100]):
            ranks = all_ranks(lengths, batch_size, world_size, max_batch_length=max_length)
            batches = flat(ranks)
            message = f"{clips} clips, max_length {max_length}: {batches}"
            assert sorted(flat(batches)) == list(range(clips)), message
            assert len({len(batches) for batches in ranks}) == 1, message
            assert all(batches), message
            assert max(map(len, batches)) <= {1: 2, 2: 4, 3: 4}.get(batch_size, batch_size), message
            too_long = [batch for batch in batches if len(batch) > 1 and len(batch) * lengths[batch].max() > max_length]
            assert len(too_long) <= clips % world_size, message
            shortest = np.sort(lengths)[: 2 * (clips % world_size)]
            assert all(len(batch) == 2 and lengths[batch].max() <= shortest[-1] for batch in too_long), message


def test_a_clip_above_the_length_limit_is_a_batch() -> None:
    lengths = lengths_of(400)
    lengths[[7, 300]] = 5000
    for world_size in (1, 2, 3):
        batches = flat(all_ranks(lengths, 16, world_size, max_batch_length=2500))
        assert sorted(batch for batch in batches if len(batch) == 1) == [[7], [300]]


@pytest.mark.parametrize(("num_long", "num_short", "world_size"), [(6, 30, 8), (150, 30, 16)])
def test_clips_of_half_the_length_limit_share_batches(num_long: int, num_short: int, world_size: int) -> None:
    lengths = np.array([100] * num_long + [1] * num_short)
    for epoch in range(5):
        assert min(map(len, flat(all_ranks(lengths, 64, world_size, epoch, max_batch_length=200)))) == 2


def test_a_large_length_limit_has_no_effect() -> None:
    lengths = lengths_of(500)
    assert epoch_batches(lengths, 16, 0, 0, max_batch_length=lengths.sum() + 1) == epoch_batches(lengths, 16, 0, 0)


def test_batches_are_of_equal_size_if_lengths_allow_it() -> None:
    assert {*map(len, flat(all_ranks(np.full(400, 3.0), 64, 2, max_batch_length=60.0)))} == {20}
    assert {*map(len, flat(all_ranks(np.full(400, 3.0), 16, 4)))} == {14, 15}
    assert sorted(map(len, epoch_batches(lengths_of(17), 16, 0, 0))) == [8, 9]


@pytest.mark.parametrize("world_size", [2, 4, 8])
@pytest.mark.parametrize("max_length", [None, 2500])
def test_processes_have_similar_work_in_each_step(max_length: float | None, world_size: int) -> None:
    lengths = lengths_of(3000) + np.random.default_rng(0).uniform(0, 1, 3000)
    slowest = []
    for epoch in range(5):
        ranks = all_ranks(lengths, 16, world_size, epoch, max_batch_length=max_length)
        sizes = np.array([padded_lengths(lengths, batches) for batches in ranks])
        shuffled = np.random.default_rng(0).permutation(sizes.ravel()).reshape(world_size, -1)
        assert waiting_fraction(sizes) < 0.01 * world_size
        assert waiting_fraction(sizes) < waiting_fraction(shuffled) / 5
        assert abs(np.corrcoef(sizes[0, 1:], sizes[0, :-1])[0, 1]) < 0.5, "steps of similar size follow each other"
        slowest.extend(sizes.argmax(axis=0))
    fractions = np.bincount(slowest, minlength=world_size) / len(slowest)
    assert fractions.max() < 1.6 / world_size, "one process always has the most work"


def test_length_limits_hold_with_sampling_weights() -> None:
    lengths = lengths_of(900)
    weights = np.random.default_rng(0).uniform(0, 1, 900) ** 4
    for epoch in range(5):
        ranks = all_ranks(lengths, 64, 4, epoch, weights=weights, max_batch_length=2500)
        assert len(flat(flat(ranks))) == 900
        assert len({len(batches) for batches in ranks}) == 1
        assert padded_lengths(lengths, flat(ranks)).max() <= 2500
        assert min(map(len, flat(ranks))) > 1
        assert padding_fraction(lengths, flat(ranks)) < 0.05
    assert epoch_batches(lengths, 64, 0, 4, weights=weights, max_batch_length=2500, rank=3, world_size=4) == ranks[3]


def test_fewer_clips_than_processes_are_refused() -> None:
    with pytest.raises(InputError, match="3 training clips are too few"):
        epoch_batches(lengths_of(3), 16, 0, 0, world_size=4)


def test_balanced_sampling_equalizes_corpora_and_emotions() -> None:
    groups = [("tess", 0)] * 600 + [("tess", 1)] * 100 + [("ravdess", 0)] * 90 + [("savee", 1)] * 10
    weights = balancing_weights(groups)
    assert weights.sum() == pytest.approx(1)
    expected = Counter()
    for group, chance in zip(groups, weights, strict=True):
        expected[group] += chance
    assert list(expected.values()) == pytest.approx([0.25] * 4)

    lengths = lengths_of(len(groups))
    epochs = [epoch_batches(lengths, 16, 0, epoch, weights=weights) for epoch in range(10)]
    assert all(len(flat(batches)) == len(groups) for batches in epochs)
    counts = Counter(groups[clip] for batches in epochs for clip in flat(batches))
    assert min(counts.values()) > 0.9 * max(counts.values())
    assert max(padding_fraction(lengths, batches) for batches in epochs) < 0.05
