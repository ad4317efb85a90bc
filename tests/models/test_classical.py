"""Classical baselines, and the statistics over time that are their inputs."""

import numpy as np
import pytest
import torch

from ser_ft.models import CLASSICAL
from ser_ft.models.classical import FUNCTIONALS, frame_statistics, make_classical


def clusters(labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """Values that separate the labels, and a constant one."""
    values = np.random.default_rng(seed).normal(size=(len(labels), 6)).astype(np.float32)
    values[np.arange(len(labels)), labels] += 8
    values[:, 5] = 1.0
    return values


@pytest.mark.parametrize("name", CLASSICAL)
@pytest.mark.parametrize("present", [(0, 1), (1, 3), (0, 1, 2), (0, 2, 3), (0, 1, 2, 3)])
def test_probabilities_sum_to_one_and_classes_without_training_clips_get_none(
    name: str, present: tuple[int, ...]
) -> None:
    labels = np.repeat(present, 12)
    baseline = make_classical(name)
    baseline.fit(clusters(labels), labels, num_classes=4)
    probabilities = baseline.predict_proba(clusters(labels, seed=1))
    assert probabilities.shape == (len(labels), 4)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)
    assert not probabilities[:, [label for label in range(4) if label not in present]].any()
    if name != "majority":
        assert (probabilities.argmax(axis=1) == labels).all()


@pytest.mark.parametrize("name", ["logistic", "svm"])
def test_a_single_clip_can_be_classified(name: str) -> None:
    labels = np.repeat((0, 1), 10)
    baseline = make_classical(name)
    baseline.fit(clusters(labels), labels, num_classes=2)
    assert baseline.predict_proba(clusters(labels)[-1:]).argmax() == 1


@pytest.mark.parametrize("name", ["logistic", "svm"])
def test_values_in_thousands_do_not_dominate(name: str) -> None:
    """Without standardization, a centroid in Hz would dominate entropies below 4."""
    labels = np.repeat((0, 1, 2), 12)
    train, test = clusters(labels), clusters(labels, seed=1)
    noise = np.random.default_rng(2).normal(scale=3000, size=(2, len(labels), 1))
    baseline = make_classical(name)
    baseline.fit(np.hstack([train, noise[0]]), labels, num_classes=3)
    assert (baseline.predict_proba(np.hstack([test, noise[1]])).argmax(axis=1) == labels).mean() > 0.9


@pytest.mark.parametrize("name", ["logistic", "svm"])
def test_a_rare_class_counts_as_much_as_a_frequent_one(name: str) -> None:
    """Models are compared by UAR: a baseline that ignores rare classes would be beaten too easily."""
    labels = np.repeat((0, 1), (90, 10))
    values = np.random.default_rng(0).normal(size=(100, 4))
    values[:, 0] += 1.5 * labels
    baseline = make_classical(name)
    baseline.fit(values, labels, num_classes=2)
    assert (baseline.predict_proba(values).argmax(axis=1) == labels)[90:].mean() >= 0.7


def test_majority_predicts_the_class_frequencies_of_training() -> None:
    majority = make_classical("majority")
    majority.fit(np.zeros((4, 1)), np.array([2, 2, 2, 0]), num_classes=3)
    assert majority.predict_proba(np.zeros((2, 1))).tolist() == [[0.25, 0, 0.75]] * 2


LENGTHS = (60, 1, 2, 3, 17)
# Scales from the flux of a quiet clip to a frequency.
SCALES = np.array([1.0, 1e-6, 3000.0, 1.0], dtype=np.float32)


def clips() -> tuple[torch.Tensor, torch.Tensor]:
    """Clips of several lengths, columns of several scales, and large values in the padding."""
    values = np.random.default_rng(0).gamma(2.0, size=(len(LENGTHS), 60, 4)).astype(np.float32)
    values *= SCALES
    values[..., 3] -= 7
    mask = np.arange(60) < np.array(LENGTHS)[:, None]
    values[~mask] = 1e6
    return torch.from_numpy(values), torch.from_numpy(mask).long()


def reference(values: np.ndarray, name: str) -> np.ndarray:
    """The statistic of one clip of shape (frames, size) in float64."""
    values = values.astype(np.float64)
    if name.startswith("change-"):
        if len(values) == 1:
            return np.zeros(values.shape[1])
        return reference(np.diff(values, axis=0), name.removeprefix("change-"))
    quantiles = {"minimum": 0, "quartile-25": 25, "median": 50, "quartile-75": 75, "maximum": 100}
    if name in quantiles:
        return np.percentile(values, quantiles[name], axis=0)
    mean, std = values.mean(axis=0), values.std(axis=0)
    if name in ("mean", "deviation"):
        return mean if name == "mean" else std
    centered = (values - mean) / np.where(std > 0, std, np.inf)
    return (centered**3).mean(axis=0) if name == "skewness" else ((centered**4).mean(axis=0) - 3) * (std > 0)


@pytest.mark.parametrize("name", FUNCTIONALS)
def test_a_statistic_follows_its_definition(name: str) -> None:
    features, mask = clips()
    statistics = frame_statistics(features, mask, [name])
    for row, count in enumerate(LENGTHS):
        expected = reference(features[row, :count].numpy(), name)
        scales = 1 if name.endswith(("skewness", "kurtosis")) else SCALES
        np.testing.assert_allclose(statistics[row] / scales, expected / scales, rtol=1e-4, atol=1e-4)


def test_statistics_are_in_the_requested_order() -> None:
    features, mask = clips()
    names = ["change-mean", "maximum", "mean"]
    statistics = frame_statistics(features, mask, names)
    assert torch.equal(statistics, torch.cat([frame_statistics(features, mask, [name]) for name in names], dim=1))
    assert frame_statistics(features, mask).shape == (len(LENGTHS), 4 * len(FUNCTIONALS))


def test_a_clip_has_the_same_statistics_alone_and_in_a_batch() -> None:
    features, mask = clips()
    statistics = frame_statistics(features, mask)
    for row, count in enumerate(LENGTHS):
        single = frame_statistics(features[row : row + 1, :count], mask[row : row + 1, :count])
        torch.testing.assert_close(statistics[row : row + 1], single, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("value", [0.0, -23.025852, 4321.1])
def test_constant_values_have_no_deviation_skewness_or_kurtosis(value: float) -> None:
    statistics = frame_statistics(torch.full((1, 400, 1), value), torch.ones(1, 400))[0]
    for name, number in zip(FUNCTIONALS, statistics.tolist(), strict=True):
        is_level = name in ("mean", "minimum", "maximum", "median", "quartile-25", "quartile-75")
        assert number == pytest.approx(value if is_level else 0, rel=1e-5, abs=1e-3), name


def test_unknown_names_and_empty_clips_are_refused() -> None:
    features, mask = clips()
    with pytest.raises(ValueError, match=r"some of mean, deviation, .*change-kurtosis, not mode"):
        frame_statistics(features, mask, ["mean", "mode"])
    with pytest.raises(ValueError, match="not none"):
        frame_statistics(features, mask, [])
    with pytest.raises(ValueError, match="has no frame"):
        frame_statistics(features, mask * torch.tensor([1, 1, 0, 1, 1])[:, None])
