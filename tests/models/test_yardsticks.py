"""What a network must beat: majority and the support vector machine on statistics."""

import numpy as np
import pytest

from ser_ft.models.yardsticks import YARDSTICKS, make_yardstick, statistics


def clusters(labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """Numbers that tell the labels apart, beside one that never changes."""
    numbers = np.random.default_rng(seed).normal(size=(len(labels), 6)).astype(np.float32)
    numbers[np.arange(len(labels)), labels] += 8
    numbers[:, 5] = 1.0
    return numbers


@pytest.mark.parametrize("name", YARDSTICKS)
@pytest.mark.parametrize("present", [(0, 1), (1, 3), (0, 1, 2), (0, 2, 3), (0, 1, 2, 3)])
def test_probabilities_sum_to_one_and_absent_classes_get_none(name: str, present: tuple[int, ...]) -> None:
    labels = np.repeat(present, 12)
    yardstick = make_yardstick(name)
    yardstick.fit(clusters(labels), labels, classes=4)
    found = yardstick.probabilities(clusters(labels, seed=1))
    assert found.shape == (len(labels), 4)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert not found[:, [place for place in range(4) if place not in present]].any()
    if name == "svm":
        assert (found.argmax(axis=1) == labels).all()


def test_one_clip_can_be_asked_about() -> None:
    labels = np.repeat((0, 1), 10)
    svm = make_yardstick("svm")
    svm.fit(clusters(labels), labels, classes=2)
    assert svm.probabilities(clusters(labels)[-1:]).argmax() == 1


def test_majority_gives_the_shares_of_training() -> None:
    majority = make_yardstick("majority")
    majority.fit(np.zeros((4, 1)), np.array([2, 2, 2, 0]), classes=3)
    assert majority.probabilities(np.zeros((2, 1))).tolist() == [[0.25, 0, 0.75]] * 2


def test_unknown_names_are_refused() -> None:
    with pytest.raises(KeyError):
        make_yardstick("forest")


def test_statistics_of_any_length_have_one_width() -> None:
    frames = np.arange(12, dtype=np.float32).reshape(6, 2)
    found = statistics(frames)
    assert found.shape == statistics(frames[:1]).shape == (20,)
    np.testing.assert_allclose(found[:4], [5, 6, frames[:, 0].std(), frames[:, 1].std()], rtol=1e-6)
    np.testing.assert_allclose(found[4:10], [2.5, 3.5, 5, 6, 7.5, 8.5])
    np.testing.assert_allclose(found[10:14], [2, 2, 0, 0])
