import itertools

import numpy as np
import pytest

from ser_ft.evaluation.confidence_intervals import difference_interval_from_counts
from ser_ft.evaluation.metrics import uar
from ser_ft.evaluation.significance import NUM_PERMUTATIONS, compare_paired
from ser_ft.utils.errors import InputError


def simulate(
    num_speakers: int, gain: float = 0.0, clips: int = 5, classes: int = 4, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Return labels, predictions of two systems, of which the first has a higher accuracy, and speakers."""
    random = np.random.default_rng(seed)
    labels = np.tile(np.repeat(np.arange(classes), clips), num_speakers)
    speakers = np.repeat([f"speaker-{number:02}" for number in range(num_speakers)], clips * classes)
    first, second = (
        np.where(random.random(len(labels)) < chance, labels, (labels + 1) % classes) for chance in (0.6 + gain, 0.6)
    )
    return labels, first, second, speakers.tolist()


def p_value_by_enumeration(
    labels: np.ndarray, first: np.ndarray, second: np.ndarray, speakers: list[str], classes: int
) -> float:
    """Enumerate all swaps of the speakers' predictions, and compute the UARs from the clips each time."""
    names, num_speakers = np.array(speakers), sorted({*speakers})
    observed = abs(uar(labels, first, classes) - uar(labels, second, classes))
    extreme = []
    for swaps in itertools.product((False, True), repeat=len(num_speakers)):
        rows = np.isin(names, [name for name, swapped in zip(num_speakers, swaps, strict=True) if swapped])
        swapped_first, swapped_second = np.where(rows, second, first), np.where(rows, first, second)
        difference = abs(uar(labels, swapped_first, classes) - uar(labels, swapped_second, classes))
        extreme.append(difference > observed - 1e-12)
    return float(np.mean(extreme))


@pytest.mark.parametrize(("num_speakers", "lack_a_class"), [(6, False), (8, True)])
def test_difference_and_p_value_agree_with_enumeration(num_speakers, lack_a_class):
    labels, first, second, speakers = map(np.array, simulate(num_speakers, gain=0.15))
    rows = np.arange(len(labels)) > len(labels) // 2 if lack_a_class else True
    clips = [values[(labels > 0) | rows] for values in (labels, first, second)]
    names = speakers[(labels > 0) | rows].tolist()
    comparison = compare_paired(*clips, names, 4)
    assert comparison.difference == pytest.approx(uar(clips[0], clips[1], 4) - uar(clips[0], clips[2], 4))
    assert comparison.p_value == p_value_by_enumeration(*clips, names, 4)
    assert comparison.smallest_p_value == 2 / 2**num_speakers
    assert (comparison.speakers, comparison.clips, comparison.level) == (num_speakers, len(names), 0.95)


def test_if_one_speaker_has_many_clips_the_difference_is_of_pooled_uars():
    labels, first, second, speakers = simulate(num_speakers=5, gain=0.2)
    times = np.where(np.array(speakers) == "speaker-04", 7, 1)
    labels, first, second, speakers = (np.repeat(values, times) for values in (labels, first, second, speakers))
    comparison = compare_paired(labels, first, second, speakers.tolist(), 4)
    assert comparison.difference == pytest.approx(uar(labels, first, 4) - uar(labels, second, 4))


def test_the_interval_is_that_of_the_speakers_differences():
    labels, first, second, speakers = simulate(num_speakers=7, gain=0.2)
    comparison = compare_paired(labels, first, second, speakers, 4, level=0.9)
    differences = np.zeros((7, 4))
    for label, swapped_first, swapped_second, name in zip(labels, first, second, speakers, strict=True):
        differences[int(name[-2:]), label] += int(swapped_first == label) - int(swapped_second == label)
    assert (comparison.low, comparison.high) == difference_interval_from_counts(differences, np.full((7, 4), 5), 0.9)
    assert comparison.low < comparison.difference < comparison.high


def test_swapping_the_systems_only_changes_the_sign():
    labels, first, second, speakers = simulate(num_speakers=20, gain=0.05)
    forward = compare_paired(labels, first, second, speakers, 4)
    backward = compare_paired(labels, second, first, speakers, 4)
    expected = (-forward.difference, -forward.high, -forward.low)
    assert (backward.difference, backward.low, backward.high) == pytest.approx(expected)
    assert backward.p_value == forward.p_value


def test_a_system_does_not_differ_from_itself():
    labels, first, _, speakers = simulate(num_speakers=9)
    comparison = compare_paired(labels, first, first, speakers, 4)
    assert (comparison.difference, comparison.low, comparison.high, comparison.p_value) == (0, None, None, 1)


def test_permutations_of_many_speakers_are_sampled():
    labels, first, second, speakers = simulate(num_speakers=30, gain=0.3)
    comparison = compare_paired(labels, first, second, speakers, 4)
    assert comparison.p_value == comparison.smallest_p_value == 1 / (1 + NUM_PERMUTATIONS)
    null = compare_paired(*simulate(num_speakers=30, seed=4), 4)
    assert null.p_value > 0.05
    assert null == compare_paired(*simulate(num_speakers=30, seed=4), 4)
    other_seed = compare_paired(*simulate(num_speakers=30, seed=4), 4, seed=1)
    assert null.p_value != other_seed.p_value == pytest.approx(null.p_value, abs=0.03)


@pytest.mark.parametrize("num_speakers", [9, 30])
def test_the_order_of_the_clips_does_not_matter(num_speakers):
    labels, first, second, speakers = simulate(num_speakers, gain=0.05)
    order = np.random.default_rng(0).permutation(len(labels))
    permuted = labels[order], first[order], second[order], [speakers[number] for number in order]
    assert compare_paired(*permuted, 4) == compare_paired(labels, first, second, speakers, 4)


def test_few_speakers_have_no_small_p_value():
    labels, _, _, speakers = simulate(num_speakers=1)
    comparison = compare_paired(labels, labels, (labels + 1) % 4, speakers, 4)
    assert (comparison.difference, comparison.low, comparison.high) == (1, None, None)
    assert (comparison.p_value, comparison.smallest_p_value) == (1, 1)
    labels, _, _, speakers = simulate(num_speakers=4)
    assert compare_paired(labels, labels, (labels + 1) % 4, speakers, 4).p_value == 0.125


def test_seeds_are_averaged():
    """A system that was trained three times counts with its mean, and the number of speakers is the same."""
    labels, first, second, speakers = simulate(num_speakers=8, gain=0.2)
    third = simulate(num_speakers=8, seed=5)[1]
    comparison = compare_paired(labels, np.stack([first, third, third]), second, speakers, 4)
    means = [uar(labels, system, 4) for system in (first, third, third)]
    assert comparison.difference == pytest.approx(np.mean(means) - uar(labels, second, 4))
    assert comparison.speakers == 8
    single_seed = compare_paired(labels, first, second, speakers, 4)
    assert compare_paired(labels, np.stack([first, first]), second[None], speakers, 4) == single_seed


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
def test_input_that_does_not_match_is_refused(change, message):
    arguments = {"labels": [0, 1], "first": [0, 1], "second": [0, 0], "speakers": ["a", "b"], "classes": 2} | change
    with pytest.raises(InputError, match=message) as caught:
        compare_paired(**arguments)
    assert "\n" not in str(caught.value)
