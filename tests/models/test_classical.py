"""What a network must beat: majority, logistic regression and the support vector machine on statistics."""

import numpy as np
import pytest

from ser_ft.models.classical import CLASSICAL, make_classical


def clusters(labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """Numbers that tell the labels apart, beside one that never changes."""
    numbers = np.random.default_rng(seed).normal(size=(len(labels), 6)).astype(np.float32)
    numbers[np.arange(len(labels)), labels] += 8
    numbers[:, 5] = 1.0
    return numbers


@pytest.mark.parametrize("name", CLASSICAL)
@pytest.mark.parametrize("present", [(0, 1), (1, 3), (0, 1, 2), (0, 2, 3), (0, 1, 2, 3)])
def test_probabilities_sum_to_one_and_absent_classes_get_none(name: str, present: tuple[int, ...]) -> None:
    labels = np.repeat(present, 12)
    baseline = make_classical(name)
    baseline.fit(clusters(labels), labels, classes=4)
    found = baseline.probabilities(clusters(labels, seed=1))
    assert found.shape == (len(labels), 4)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-6)
    assert not found[:, [place for place in range(4) if place not in present]].any()
    if name != "majority":
        assert (found.argmax(axis=1) == labels).all()


@pytest.mark.parametrize("name", ["logistic", "svm"])
def test_one_clip_can_be_asked_about(name: str) -> None:
    labels = np.repeat((0, 1), 10)
    baseline = make_classical(name)
    baseline.fit(clusters(labels), labels, classes=2)
    assert baseline.probabilities(clusters(labels)[-1:]).argmax() == 1


@pytest.mark.parametrize("name", ["logistic", "svm"])
def test_what_is_measured_in_thousands_counts_no_more(name: str) -> None:
    """A centroid in Hz stands beside entropies below 4: unstandardised, it would drown them."""
    labels = np.repeat((0, 1, 2), 12)
    numbers, others = clusters(labels), clusters(labels, seed=1)
    noise = np.random.default_rng(2).normal(scale=3000, size=(2, len(labels), 1))
    baseline = make_classical(name)
    baseline.fit(np.hstack([numbers, noise[0]]), labels, classes=3)
    assert (baseline.probabilities(np.hstack([others, noise[1]])).argmax(axis=1) == labels).mean() > 0.9


@pytest.mark.parametrize("name", ["logistic", "svm"])
def test_a_rare_class_counts_as_much_as_a_frequent_one(name: str) -> None:
    """UAR is what is compared: a baseline that gives rare classes up would be beaten too easily."""
    labels = np.repeat((0, 1), (90, 10))
    numbers = np.random.default_rng(0).normal(size=(100, 4))
    numbers[:, 0] += 1.5 * labels
    baseline = make_classical(name)
    baseline.fit(numbers, labels, classes=2)
    assert (baseline.probabilities(numbers).argmax(axis=1) == labels)[90:].mean() >= 0.7


def test_majority_gives_the_shares_of_training() -> None:
    majority = make_classical("majority")
    majority.fit(np.zeros((4, 1)), np.array([2, 2, 2, 0]), classes=3)
    assert majority.probabilities(np.zeros((2, 1))).tolist() == [[0.25, 0, 0.75]] * 2


def test_unknown_names_are_refused() -> None:
    with pytest.raises(KeyError):
        make_classical("forest")
