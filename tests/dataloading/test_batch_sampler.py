"""Batches: every clip once, little padding, the same order on every process and no two with the same batch."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from ser_ft.dataloading.batch_sampler import balancing_weights, epoch_batches
from ser_ft.utils.errors import InputError


def lengths_of(clips: int, seed: int = 1) -> np.ndarray:
    """Frames of clips of 1 to 5 s, as corpora mixed together have them."""
    seconds = np.random.default_rng(seed).lognormal(np.log(2.5), 0.35, clips).clip(1, 5)
    return (1 + seconds * 62.5).astype(int)


def waste(lengths: np.ndarray, batches: list[list[int]]) -> float:
    return 1 - sum(lengths[batch].sum() for batch in batches) / padded(lengths, batches).sum()


def all_ranks(lengths: np.ndarray, batch_size: int, world: int, epoch: int = 0, **more: Any) -> list[list[list[int]]]:
    return [epoch_batches(lengths, batch_size, 0, epoch, rank=rank, world_size=world, **more) for rank in range(world)]


def padded(lengths: np.ndarray, batches: list[list[int]]) -> np.ndarray:
    return np.array([lengths[batch].max() * len(batch) for batch in batches])


def waiting(sizes: np.ndarray) -> float:
    """Return the share of a step that the process with least to do waits, the mean over steps: (ranks, steps)."""
    return float(((sizes.max(axis=0) - sizes.min(axis=0)) / sizes.max(axis=0)).mean())


def flat(batches: list[list[int]]) -> list[int]:
    return [clip for batch in batches for clip in batch]


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 16])
def test_each_clip_comes_once_in_batches_of_the_size_asked_for(batch_size: int, world: int) -> None:
    for clips in (*range(world, 70), 799, 800, 801, 1601):
        lengths = lengths_of(clips)
        ranks = all_ranks(lengths, batch_size, world)
        sizes = [len(batch) for batches in ranks for batch in batches]
        assert sorted(flat(flat(ranks))) == list(range(clips))
        assert len({len(batches) for batches in ranks}) == 1, f"{clips} clips: a process would wait for ever"
        assert max(sizes) <= {1: 2 if world > 1 else 1, 2: 4, 3: 4}.get(batch_size, batch_size), (
            f"{clips} clips: {max(sizes)} in a batch"
        )
        assert min(sizes) > 1 or batch_size == 1 or clips < 2 * world, f"{clips} clips: one stands alone"


def test_seventeen_clips_are_two_batches() -> None:
    assert sorted(map(len, epoch_batches(lengths_of(17), 16, 0, 0))) == [8, 9]


@pytest.mark.parametrize("clips", [400, 801, 1150, 5000])
def test_padding_stays_under_five_per_cent(clips: int) -> None:
    lengths = lengths_of(clips)
    shuffled = np.array_split(np.random.default_rng(0).permutation(clips), clips // 16)
    for epoch in range(3):
        found = waste(lengths, epoch_batches(lengths, 16, 0, epoch))
        assert found < 0.05
        assert found < waste(lengths, [batch.tolist() for batch in shuffled]) / 4


def test_no_batch_holds_the_shortest_clips_and_the_longest() -> None:
    lengths = lengths_of(5000)
    batches = epoch_batches(lengths, 16, 0, 0)
    assert max(lengths[batch].max() / lengths[batch].min() for batch in batches) < 2


def test_the_order_follows_from_seed_and_epoch_alone() -> None:
    lengths = lengths_of(500)
    once = epoch_batches(lengths, 16, 3, 5)
    assert epoch_batches(lengths, 16, 3, 5) == once
    assert epoch_batches(lengths, 16, 4, 5) != once


@pytest.mark.parametrize("clips", [400, 1000])
def test_other_clips_meet_in_another_epoch(clips: int) -> None:
    lengths = lengths_of(clips)
    first, second = ({frozenset(batch) for batch in epoch_batches(lengths, 16, 0, epoch)} for epoch in (0, 1))
    assert len(first & second) <= len(first) / 2


def test_long_and_short_batches_come_in_any_order() -> None:
    lengths = lengths_of(800)
    longest = [lengths[batch].max() for batch in epoch_batches(lengths, 16, 0, 0)]
    assert abs(np.corrcoef(longest, range(len(longest)))[0, 1]) < 0.5


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("max_length", [600, 2500, 8000])
def test_batches_fill_the_max_length_and_never_exceed_it(max_length: float, world: int) -> None:
    lengths = lengths_of(1601)
    for epoch in range(3):
        ranks = all_ranks(lengths, 64, world, epoch, max_batch_length=max_length)
        batches = flat(ranks)
        assert sorted(flat(batches)) == list(range(1601))
        assert len({len(batches) for batches in ranks}) == 1
        assert max(map(len, batches)) <= 64
        assert padded(lengths, batches).max() <= max_length
        assert padded(lengths, batches).mean() > 0.75 * max_length
        assert waste(lengths, batches) < 0.05
        alone = [batch[0] for batch in batches if len(batch) == 1]
        assert sorted(alone) == np.flatnonzero(2 * lengths > max_length).tolist(), "a clip stands alone without need"


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 16])
@pytest.mark.parametrize("kind", ["frames", "seconds", "equal"])
def test_few_clips_go_round_under_any_max_length(kind: str, batch_size: int, world: int) -> None:
    for clips in range(world, 30):
        lengths = {"frames": lengths_of(clips), "seconds": lengths_of(clips) / 62.5, "equal": np.full(clips, 3.0)}[kind]
        for max_length in lengths.max() * np.array([0.1, 0.9, 1, 1.5, 2, 3.1, 5, 100]):
            ranks = all_ranks(lengths, batch_size, world, max_batch_length=max_length)
            batches = flat(ranks)
            told = f"{clips} clips, max_length {max_length}: {batches}"
            assert sorted(flat(batches)) == list(range(clips)), told
            assert len({len(batches) for batches in ranks}) == 1, told
            assert all(batches), told
            assert max(map(len, batches)) <= {1: 2, 2: 4, 3: 4}.get(batch_size, batch_size), told
            over = [batch for batch in batches if len(batch) > 1 and len(batch) * lengths[batch].max() > max_length]
            assert len(over) <= clips % world, told
            shortest = np.sort(lengths)[: 2 * (clips % world)]
            assert all(len(batch) == 2 and lengths[batch].max() <= shortest[-1] for batch in over), told


def test_all_clips_stand_alone_if_the_max_length_is_smaller_than_any() -> None:
    lengths = lengths_of(40)
    for world in (1, 2, 4):
        assert {len(batch) for batch in flat(all_ranks(lengths, 16, world, max_batch_length=1))} == {1}


def test_a_clip_longer_than_the_max_length_stands_alone() -> None:
    lengths = lengths_of(400)
    lengths[[7, 300]] = 5000
    for world in (1, 2, 3):
        batches = flat(all_ranks(lengths, 16, world, max_batch_length=2500))
        assert sorted(batch for batch in batches if len(batch) == 1) == [[7], [300]]


@pytest.mark.parametrize(("long", "short", "world"), [(6, 30, 8), (150, 30, 16)])
def test_clips_of_half_the_max_length_find_company(long: int, short: int, world: int) -> None:
    lengths = np.array([100] * long + [1] * short)
    for epoch in range(5):
        assert min(map(len, flat(all_ranks(lengths, 64, world, epoch, max_batch_length=200)))) == 2


def test_a_max_length_larger_than_all_clips_changes_nothing() -> None:
    lengths = lengths_of(500)
    assert epoch_batches(lengths, 16, 0, 0, max_batch_length=lengths.sum() + 1) == epoch_batches(lengths, 16, 0, 0)


def test_equal_clips_fill_equal_batches() -> None:
    assert {*map(len, flat(all_ranks(np.full(400, 3.0), 64, 2, max_batch_length=60.0)))} == {20}
    assert {*map(len, flat(all_ranks(np.full(400, 3.0), 16, 4)))} == {14, 15}


@pytest.mark.parametrize("world", [2, 4, 8])
@pytest.mark.parametrize("max_length", [None, 2500])
def test_processes_do_not_wait_for_one_another(max_length: float | None, world: int) -> None:
    lengths = lengths_of(3000) + np.random.default_rng(0).uniform(0, 1, 3000)
    leads = []
    for epoch in range(5):
        ranks = all_ranks(lengths, 16, world, epoch, max_batch_length=max_length)
        sizes = np.array([padded(lengths, batches) for batches in ranks])
        shuffled = np.random.default_rng(0).permutation(sizes.ravel()).reshape(world, -1)
        assert waiting(sizes) < 0.01 * world
        assert waiting(sizes) < waiting(shuffled) / 5
        assert abs(np.corrcoef(sizes[0, 1:], sizes[0, :-1])[0, 1]) < 0.5, "steps of like size follow one another"
        leads.extend(sizes.argmax(axis=0))
    shares = np.bincount(leads, minlength=world) / len(leads)
    assert shares.max() < 1.6 / world, "one process has always the most to do"


def test_max_lengths_hold_for_clips_drawn_by_chance() -> None:
    lengths = lengths_of(900)
    weights = np.random.default_rng(0).uniform(0, 1, 900) ** 4
    for epoch in range(5):
        ranks = all_ranks(lengths, 64, 4, epoch, weights=weights, max_batch_length=2500)
        assert len(flat(flat(ranks))) == 900
        assert len({len(batches) for batches in ranks}) == 1
        assert padded(lengths, flat(ranks)).max() <= 2500
        assert min(map(len, flat(ranks))) > 1
        assert waste(lengths, flat(ranks)) < 0.05
    assert epoch_batches(lengths, 64, 0, 4, weights=weights, max_batch_length=2500, rank=3, world_size=4) == ranks[3]


def test_other_clips_meet_in_another_epoch_under_a_max_length() -> None:
    lengths = lengths_of(1000)
    first, second = (
        {frozenset(batch) for batch in epoch_batches(lengths, 64, 0, epoch, max_batch_length=2500)} for epoch in (0, 1)
    )
    assert len(first & second) <= len(first) / 2


def test_fewer_clips_than_processes_are_refused() -> None:
    with pytest.raises(InputError, match="3 training clips are too few"):
        epoch_batches(lengths_of(3), 16, 0, 0, world_size=4)


def test_balanced_draws_expect_as_many_of_each_corpus_and_emotion() -> None:
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
    drawn = Counter(groups[clip] for batches in epochs for clip in flat(batches))
    assert min(drawn.values()) > 0.9 * max(drawn.values())
    assert max(waste(lengths, batches) for batches in epochs) < 0.05
