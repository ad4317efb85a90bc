import numpy as np
import pytest
from scipy.special import softmax

from ser_ft.evaluation.calibration import (
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    abstention_metrics,
    apply_temperature,
    expected_calibration_error,
    fit_temperature,
    fit_threshold,
    reliability_bins,
)
from ser_ft.evaluation.metrics import negative_log_likelihood
from ser_ft.utils.errors import InputError


def calibrated_clips(clips: int = 600, classes: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return labels sampled from a softmax, and its logits: a perfectly calibrated model."""
    random = np.random.default_rng(seed)
    logits = random.normal(scale=2.0, size=(clips, classes))
    return (random.random((clips, 1)) > softmax(logits, axis=1).cumsum(axis=1)).sum(axis=1), logits


def test_calibration_error_agrees_with_values_computed_by_hand():
    labels, probabilities = [0, 1, 1, 0], [[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.45, 0.55]]
    # Two bins: (0, 0.5] is empty, (0.5, 1] contains all clips; confidence 0.7375, accuracy 0.5.
    assert expected_calibration_error(labels, probabilities, bins=2) == pytest.approx(0.2375)
    # Ten bins: each clip in its own bin: |1 - 0.9|, |0 - 0.8|, |1 - 0.7|, |0 - 0.55|.
    expected = (0.1 + 0.8 + 0.3 + 0.55) / 4
    assert expected_calibration_error(labels, probabilities, bins=10) == pytest.approx(expected)
    # Bins include their upper edge: one clip is on the edge at 0.5, one above. In one bin their errors would cancel.
    assert expected_calibration_error([0, 1], [[0.5, 0.5], [0.6, 0.4]], bins=2) == pytest.approx((0.5 + 0.6) / 2)


def test_calibration_error_of_calibrated_and_overconfident_probabilities():
    random = np.random.default_rng(0)
    confidence = random.uniform(0.5, 1, 50_000)
    labels = (random.random(50_000) > confidence).astype(int)
    assert expected_calibration_error(labels, np.stack([confidence, 1 - confidence], axis=1)) < 0.01
    certain = np.tile([1.0, 0.0], (50_000, 1))
    assert expected_calibration_error(labels, certain) == pytest.approx(labels.mean())


def test_bins_agree_with_a_simple_loop():
    labels, logits = calibrated_clips()
    probabilities = softmax(2 * logits, axis=1)
    expected, error = [], 0.0
    for number in range(15):
        low, high = number / 15, (number + 1) / 15
        rows = [row for row in range(len(labels)) if low < probabilities[row].max() <= high]
        if rows:
            confidence = sum(float(probabilities[row].max()) for row in rows) / len(rows)
            correct = sum(probabilities[row].argmax() == labels[row] for row in rows) / len(rows)
            expected.append(
                {"low": low, "high": high, "clips": len(rows), "confidence": confidence, "accuracy": correct}
            )
            error += len(rows) / len(labels) * abs(confidence - correct)
    bins = reliability_bins(labels, probabilities)
    assert len(bins) == len(expected) < 15  # with six classes, no confidence is below 1/6
    for bin_, by_loop in zip(bins, expected, strict=True):
        assert bin_ == pytest.approx(by_loop)
    assert expected_calibration_error(labels, probabilities) == pytest.approx(error)


@pytest.mark.parametrize("function", [expected_calibration_error, reliability_bins])
def test_at_least_one_bin_is_required(function):
    with pytest.raises(InputError, match="1 bin"):
        function([0], [[1.0, 0.0]], bins=0)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_apply_temperature_divides_the_logits(temperature):
    """A temperature has the same effect in the last layer of a model and on its probabilities."""
    _, logits = calibrated_clips()
    scaled = apply_temperature(softmax(logits, axis=1), temperature)
    assert scaled == pytest.approx(softmax(logits / temperature, axis=1))
    assert np.array_equal(scaled.argmax(axis=1), logits.argmax(axis=1))


def test_classes_with_probability_zero_keep_it():
    _, logits = calibrated_clips()
    allowed = np.random.default_rng(1).random(logits.shape) < 0.6
    allowed[:, 0] = True
    scaled = apply_temperature(softmax(np.where(allowed, logits, -np.inf), axis=1), 2.0)
    assert (scaled[~allowed] == 0).all()
    assert scaled == pytest.approx(softmax(np.where(allowed, logits / 2.0, -np.inf), axis=1))
    # Extreme logits are no problem.
    assert apply_temperature([[1.0, 1e-300, 0.0]], 0.25).tolist() == [[1.0, 0.0, 0.0]]
    assert apply_temperature([[0.0, 1.0]], 10.0).tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize("overconfidence", [0.5, 1.0, 2.5])
def test_the_fitted_temperature_agrees_with_a_grid_search(overconfidence):
    labels, logits = calibrated_clips()
    probabilities = softmax(overconfidence * logits, axis=1)
    grid = np.geomspace(MIN_TEMPERATURE, MAX_TEMPERATURE, 1000)
    best = grid[np.argmin([negative_log_likelihood(labels, apply_temperature(probabilities, value)) for value in grid])]
    assert fit_temperature(labels, probabilities) == pytest.approx(best, rel=5e-3)


def test_overconfident_and_underconfident_models_are_corrected():
    labels, logits = calibrated_clips(clips=20_000)
    for overconfidence in (0.5, 4.0):
        probabilities = softmax(overconfidence * logits, axis=1)
        fitted = fit_temperature(labels, probabilities)
        assert fitted == pytest.approx(overconfidence, rel=0.05)
        assert expected_calibration_error(labels, apply_temperature(probabilities, fitted)) < 0.02
        assert expected_calibration_error(labels, probabilities) > 0.1


def test_the_fit_ignores_masked_classes():
    labels, logits = calibrated_clips()
    logits[np.arange(600), (labels + 1) % 6] = -np.inf
    probabilities = softmax(logits, axis=1)
    fitted = fit_temperature(labels, probabilities)
    lower, best, higher = (
        negative_log_likelihood(labels, apply_temperature(probabilities, factor * fitted)) for factor in (0.97, 1, 1.03)
    )
    assert best < min(lower, higher)


@pytest.mark.parametrize(
    ("labels", "probabilities", "temperature"),
    [
        ([0, 1], [[0.7, 0.2, 0.1], [0.2, 0.5, 0.3]], MIN_TEMPERATURE),  # all validation clips are recognized
        ([2, 0], [[0.7, 0.2, 0.1], [0.2, 0.5, 0.3]], MAX_TEMPERATURE),  # none is
        ([0, 1], [[1.0, 0.0], [0.0, 1.0]], 1),  # certain and correct
        ([1, 0], [[1.0, 0.0], [0.0, 1.0]], 1),  # certain and wrong
        ([0, 2], np.full((2, 3), 1 / 3), 1),  # uniform
    ],
)
def test_the_temperature_is_bounded_and_one_if_all_are_equally_good(labels, probabilities, temperature):
    assert fit_temperature(labels, probabilities) == temperature


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_must_be_above_zero(temperature):
    with pytest.raises(InputError, match="above 0"):
        apply_temperature([[0.5, 0.5]], temperature)


def test_predictions_above_the_threshold_are_more_often_correct_than_wrong():
    random = np.random.default_rng(0)
    confidence = random.uniform(0.5, 1, 20_000)
    # The accuracy rises from 0.2 to 0.8 and is 0.5 at a confidence of 0.75.
    correct = random.random(20_000) < 0.2 + 1.2 * (confidence - 0.5)
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    labels = np.where(correct, 0, 1)
    threshold = fit_threshold(labels, probabilities)
    assert threshold == pytest.approx(0.75, abs=0.03)
    metrics = abstention_metrics(labels, probabilities, threshold)
    assert metrics["uncertain"] == pytest.approx(0.5, abs=0.06)
    assert metrics["certain_accuracy"] == pytest.approx(0.65, abs=0.03)


@pytest.mark.parametrize(("label", "threshold", "uncertain"), [(0, 0.0, 0.0), (1, 1.0, 1.0)])
def test_threshold_of_a_model_that_is_always_correct_or_always_wrong(label, threshold, uncertain):
    probabilities = [[0.6, 0.4], [0.8, 0.2], [0.9, 0.1]]
    assert fit_threshold([label] * 3, probabilities) == threshold
    metrics = abstention_metrics([label] * 3, probabilities, threshold)
    assert metrics["uncertain"] == uncertain
    assert metrics["certain_accuracy"] == (None if uncertain else 1.0)
