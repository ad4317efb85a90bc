"""Batches: every clip once, little padding, the same order on every process and no two with the same batch."""

from collections import Counter

import numpy as np
import pytest

from ser_ft.errors import InputError
from ser_ft.training.batching import balancing_chances, epoch_batches


def lengths_of(clips: int, seed: int = 1) -> np.ndarray:
    """Frames of clips of 1 to 5 s, as corpora mixed together have them."""
    seconds = np.random.default_rng(seed).lognormal(np.log(2.5), 0.35, clips).clip(1, 5)
    return (1 + seconds * 62.5).astype(int)


def waste(lengths: np.ndarray, batches: list[list[int]]) -> float:
    padded = sum(lengths[batch].max() * len(batch) for batch in batches)
    return 1 - sum(lengths[batch].sum() for batch in batches) / padded


def flat(batches: list[list[int]]) -> list[int]:
    return [clip for batch in batches for clip in batch]


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 16])
def test_each_clip_comes_once_in_batches_of_the_size_asked_for(batch_size: int, world: int) -> None:
    for clips in (*range(world, 70), 799, 800, 801, 1601):
        lengths = lengths_of(clips)
        ranks = [epoch_batches(lengths, batch_size, 0, 0, rank=rank, world=world) for rank in range(world)]
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


def test_fewer_clips_than_processes_are_refused() -> None:
    with pytest.raises(InputError, match="3 training clips"):
        epoch_batches(lengths_of(3), 16, 0, 0, world=4)


def test_balanced_draws_expect_as_many_of_each_corpus_and_emotion() -> None:
    groups = [("tess", 0)] * 600 + [("tess", 1)] * 100 + [("ravdess", 0)] * 90 + [("savee", 1)] * 10
    chances = balancing_chances(groups)
    assert chances.sum() == pytest.approx(1)
    expected = Counter()
    for group, chance in zip(groups, chances, strict=True):
        expected[group] += chance
    assert list(expected.values()) == pytest.approx([0.25] * 4)

    lengths = lengths_of(len(groups))
    epochs = [epoch_batches(lengths, 16, 0, epoch, chances=chances) for epoch in range(10)]
    assert all(len(flat(batches)) == len(groups) for batches in epochs)
    drawn = Counter(groups[clip] for batches in epochs for clip in flat(batches))
    assert min(drawn.values()) > 0.9 * max(drawn.values())
    assert max(waste(lengths, batches) for batches in epochs) < 0.05
