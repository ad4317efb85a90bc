import itertools

import numpy as np
import pytest

from ser_ft.evaluation.confidence_intervals import difference_interval_from_counts
from ser_ft.evaluation.metrics import uar
from ser_ft.evaluation.significance import NUM_PERMUTATIONS, compare_paired
from ser_ft.utils.errors import InputError


def answered(
    people: int, gains: float = 0.0, clips: int = 5, classes: int = 4, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Labels, two systems' predictions of which the first is right more often by `gains`, and speakers."""
    random = np.random.default_rng(seed)
    labels = np.tile(np.repeat(np.arange(classes), clips), people)
    speakers = np.repeat([f"speaker-{place:02}" for place in range(people)], clips * classes)
    first, second = (
        np.where(random.random(len(labels)) < chance, labels, (labels + 1) % classes) for chance in (0.6 + gains, 0.6)
    )
    return labels, first, second, speakers.tolist()


def by_all_swaps(labels: np.ndarray, first: np.ndarray, second: np.ndarray, speakers: list[str], classes: int) -> float:
    """The test again: every way of swapping the speakers' answers, and the UARs of the clips all over again."""
    who, people = np.array(speakers), sorted({*speakers})
    observed = abs(uar(labels, first, classes) - uar(labels, second, classes))
    reached = []
    for swaps in itertools.product((False, True), repeat=len(people)):
        rows = np.isin(who, [name for name, swapped in zip(people, swaps, strict=True) if swapped])
        one, other = np.where(rows, second, first), np.where(rows, first, second)
        difference = abs(uar(labels, one, classes) - uar(labels, other, classes))
        reached.append(difference > observed - 1e-12)
    return float(np.mean(reached))


def test_difference_and_p_agree_with_all_swaps():
    labels, first, second, speakers = answered(people=6, gains=0.15)
    found = compare_paired(labels, first, second, speakers, 4)
    assert found.difference == pytest.approx(uar(labels, first, 4) - uar(labels, second, 4))
    assert found.p_value == by_all_swaps(labels, first, second, speakers, 4)
    assert found.smallest_p_value == 2 / 2**6
    assert (found.speakers, found.clips, found.level) == (6, 120, 0.95)


def test_difference_and_p_where_speakers_lack_classes():
    labels, first, second, speakers = answered(people=8, gains=0.1)
    kept = (labels > 0) | (np.arange(len(labels)) > len(labels) // 2)
    some = labels[kept], first[kept], second[kept], [name for name, keep in zip(speakers, kept, strict=True) if keep]
    found = compare_paired(*some, 4)
    assert found.difference == pytest.approx(uar(some[0], some[1], 4) - uar(some[0], some[2], 4))
    assert found.p_value == by_all_swaps(*some, 4)


def test_where_one_speaker_has_many_more_clips_the_difference_is_that_of_the_pooled_uars():
    labels, first, second, speakers = answered(people=5, gains=0.2)
    times = np.where(np.array(speakers) == "speaker-04", 7, 1)
    true, one, other, who = (np.repeat(values, times) for values in (labels, first, second, speakers))
    gained = uar(true, one, 4) - uar(true, other, 4)
    assert compare_paired(true, one, other, who.tolist(), 4).difference == pytest.approx(gained)


def test_the_interval_is_that_of_the_speakers_differences():
    labels, first, second, speakers = answered(people=7, gains=0.2)
    found = compare_paired(labels, first, second, speakers, 4, level=0.9)
    gained = np.zeros((7, 4))
    for label, one, other, name in zip(labels, first, second, speakers, strict=True):
        gained[int(name[-2:]), label] += int(one == label) - int(other == label)
    assert (found.low, found.high) == difference_interval_from_counts(gained, np.full((7, 4), 5), 0.9)
    assert found.low < found.difference < found.high


def test_turned_round_only_the_sign_changes():
    labels, first, second, speakers = answered(people=20, gains=0.05)
    there, back = compare_paired(labels, first, second, speakers, 4), compare_paired(labels, second, first, speakers, 4)
    assert (back.difference, back.low, back.high) == pytest.approx((-there.difference, -there.high, -there.low))
    assert back.p_value == there.p_value


def test_a_system_against_itself():
    labels, first, _, speakers = answered(people=9)
    found = compare_paired(labels, first, first, speakers, 4)
    assert (found.difference, found.low, found.high, found.p_value) == (0, None, None, 1)


def test_many_speakers_are_swapped_by_lot():
    labels, first, second, speakers = answered(people=30, gains=0.3)
    found = compare_paired(labels, first, second, speakers, 4)
    assert found.p_value == found.smallest_p_value == 1 / (1 + NUM_PERMUTATIONS)
    alike = compare_paired(*answered(people=30, seed=4), 4)
    assert alike.p_value > 0.05
    assert alike == compare_paired(*answered(people=30, seed=4), 4)
    assert alike.p_value == pytest.approx(compare_paired(*answered(people=30, seed=4), 4, seed=1).p_value, abs=0.03)
    assert alike.p_value != compare_paired(*answered(people=30, seed=4), 4, seed=1).p_value


@pytest.mark.parametrize("people", [9, 30])
def test_the_order_of_the_clips_does_not_matter(people):
    labels, first, second, speakers = answered(people, gains=0.05)
    order = np.random.default_rng(0).permutation(len(labels))
    mixed = labels[order], first[order], second[order], [speakers[place] for place in order]
    assert compare_paired(*mixed, 4) == compare_paired(labels, first, second, speakers, 4)


def test_few_speakers_can_tell_nothing():
    labels, _, _, speakers = answered(people=1)
    found = compare_paired(labels, labels, (labels + 1) % 4, speakers, 4)
    assert (found.difference, found.low, found.high, found.p_value, found.smallest_p_value) == (1, None, None, 1, 1)
    labels, _, _, speakers = answered(people=4)
    assert compare_paired(labels, labels, (labels + 1) % 4, speakers, 4).p_value == 0.125


def test_seeds_are_averaged():
    """A system trained three times is judged by its mean, not by its best run, and has no more speakers for it."""
    labels, first, second, speakers = answered(people=8, gains=0.2)
    third = answered(people=8, seed=5)[1]
    found = compare_paired(labels, np.stack([first, third, third]), second, speakers, 4)
    means = [uar(labels, system, 4) for system in (first, third, third)]
    assert found.difference == pytest.approx(np.mean(means) - uar(labels, second, 4))
    assert found.speakers == 8
    once = compare_paired(labels, first, second, speakers, 4)
    assert compare_paired(labels, np.stack([first, first]), second[None], speakers, 4) == once


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [0, 4]}, "labels contain 4"),
        ({"first": [0, 1, 1]}, "2 labels, but 3 of the first system's predictions"),
        ({"second": [[0, 1], [0]]}, "second system's predictions must be numbers"),
        ({"second": [0, 9]}, "second system's predictions contain 9"),
        ({"first": np.zeros((0, 2), dtype=int)}, "no first system's predictions"),
        ({"first": np.zeros((1, 1, 2), dtype=int)}, "list of class numbers"),
        ({"speakers": ["a"]}, "2 labels, but 1 speakers"),
        ({"level": 1.5}, "level"),
    ],
)
def test_input_that_does_not_match(change, message):
    given = {"labels": [0, 1], "first": [0, 1], "second": [0, 0], "speakers": ["a", "b"], "classes": 2} | change
    with pytest.raises(InputError, match=message) as caught:
        compare_paired(**given)
    assert "\n" not in str(caught.value)
