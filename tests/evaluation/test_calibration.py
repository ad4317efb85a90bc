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


def answers(clips: int = 600, classes: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn from a softmax, and its logits: a perfectly calibrated model."""
    random = np.random.default_rng(seed)
    logits = random.normal(scale=2.0, size=(clips, classes))
    return (random.random((clips, 1)) > softmax(logits, axis=1).cumsum(axis=1)).sum(axis=1), logits


def test_calibration_error_by_hand():
    probabilities = [[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.45, 0.55]]
    # Two bins: (0, 0.5] is empty, (0.5, 1] holds all; confidence 0.7375, accuracy 0.5.
    assert expected_calibration_error([0, 1, 1, 0], probabilities, bins=2) == pytest.approx(0.2375)
    # Ten: each clip alone: |1 - 0.9|, |0 - 0.8|, |1 - 0.7|, |0 - 0.55|.
    assert expected_calibration_error([0, 1, 1, 0], probabilities, bins=10) == pytest.approx(
        (0.1 + 0.8 + 0.3 + 0.55) / 4
    )


def test_calibration_bins_hold_their_upper_edge():
    # Of two bins the lower one ends at 0.5: one clip lies on it, one above; together they would cancel to 0.05.
    assert expected_calibration_error([0, 1], [[0.5, 0.5], [0.6, 0.4]], bins=2) == pytest.approx((0.5 + 0.6) / 2)


def test_calibration_error_of_honest_and_boastful_probabilities():
    random = np.random.default_rng(0)
    share = random.uniform(0.5, 1, 50_000)
    labels = (random.random(50_000) > share).astype(int)
    assert expected_calibration_error(labels, np.stack([share, 1 - share], axis=1)) < 0.01
    certain = np.tile([1.0, 0.0], (50_000, 1))
    assert expected_calibration_error(labels, certain) == pytest.approx(labels.mean())


def test_bins_agree_with_a_plain_loop():
    labels, logits = answers()
    shares = softmax(2 * logits, axis=1)
    expected, error = [], 0.0
    for number in range(15):
        low, high = number / 15, (number + 1) / 15
        rows = [row for row in range(len(labels)) if low < shares[row].max() <= high]
        if rows:
            sure = sum(float(shares[row].max()) for row in rows) / len(rows)
            right = sum(shares[row].argmax() == labels[row] for row in rows) / len(rows)
            expected.append({"low": low, "high": high, "clips": len(rows), "confidence": sure, "accuracy": right})
            error += len(rows) / len(labels) * abs(sure - right)
    found = reliability_bins(labels, shares)
    assert len(found) == len(expected) < 15  # of six classes none is surer than 1/6 alone
    for bin_, by_loop in zip(found, expected, strict=True):
        assert bin_ == pytest.approx(by_loop)
    assert expected_calibration_error(labels, shares) == pytest.approx(error)


def test_bins_must_be_one_or_more():
    for function in (expected_calibration_error, reliability_bins):
        with pytest.raises(InputError, match="1 bin"):
            function([0], [[1.0, 0.0]], bins=0)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_tempered_is_the_softmax_of_cooled_logits(temperature):
    """Folded into a model's last layer and applied to its probabilities, a temperature must do the same."""
    _, logits = answers()
    found = apply_temperature(softmax(logits, axis=1), temperature)
    assert found == pytest.approx(softmax(logits / temperature, axis=1))
    assert np.array_equal(found.argmax(axis=1), logits.argmax(axis=1))


def test_classes_that_a_corpus_cannot_hold_stay_at_zero():
    _, logits = answers()
    allowed = np.random.default_rng(1).random(logits.shape) < 0.6
    allowed[:, 0] = True
    found = apply_temperature(softmax(np.where(allowed, logits, -np.inf), axis=1), 2.0)
    assert (found[~allowed] == 0).all()
    assert found == pytest.approx(softmax(np.where(allowed, logits / 2.0, -np.inf), axis=1))


def test_tempered_survives_logits_far_apart():
    assert apply_temperature([[1.0, 1e-300, 0.0]], 0.25).tolist() == [[1.0, 0.0, 0.0]]
    assert apply_temperature([[0.0, 1.0]], 10.0).tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize("boast", [0.5, 1.0, 2.5])
def test_the_fit_agrees_with_a_grid(boast):
    labels, logits = answers()
    shares = softmax(boast * logits, axis=1)
    grid = np.geomspace(MIN_TEMPERATURE, MAX_TEMPERATURE, 4000)
    best = grid[np.argmin([negative_log_likelihood(labels, apply_temperature(shares, value)) for value in grid])]
    assert fit_temperature(labels, shares) == pytest.approx(best, rel=2e-3)


def test_a_boastful_model_is_cooled_and_a_modest_one_warmed():
    labels, logits = answers(clips=20_000)
    for boast in (0.5, 4.0):
        shares = softmax(boast * logits, axis=1)
        fitted = fit_temperature(labels, shares)
        assert fitted == pytest.approx(boast, rel=0.05)
        assert expected_calibration_error(labels, apply_temperature(shares, fitted)) < 0.02
        assert expected_calibration_error(labels, shares) > 0.1


def test_the_fit_where_classes_are_masked():
    labels, logits = answers()
    logits[np.arange(600), (labels + 1) % 6] = -np.inf
    shares = softmax(logits, axis=1)
    fitted = fit_temperature(labels, shares)
    for other in (0.97 * fitted, 1.03 * fitted):
        assert negative_log_likelihood(labels, apply_temperature(shares, other)) > negative_log_likelihood(
            labels, apply_temperature(shares, fitted)
        )


def test_the_temperature_is_bounded():
    """Validation clips that are all right, or all wrong, must not make a model boundlessly sure, or unsure."""
    shares = np.array([[0.7, 0.2, 0.1], [0.2, 0.5, 0.3]])
    assert fit_temperature([0, 1], shares) == MIN_TEMPERATURE
    assert fit_temperature([2, 0], shares) == MAX_TEMPERATURE


def test_where_no_temperature_is_better_than_another():
    assert fit_temperature([0, 1], [[1.0, 0.0], [0.0, 1.0]]) == 1  # certain, and right
    assert fit_temperature([1, 0], [[1.0, 0.0], [0.0, 1.0]]) == 1  # certain, and wrong
    assert fit_temperature([0, 2], np.full((2, 3), 1 / 3)) == 1  # mere guesses


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_must_be_over_zero(temperature):
    with pytest.raises(InputError, match="over 0"):
        apply_temperature([[0.5, 0.5]], temperature)


def test_the_threshold_is_where_answers_begin_to_be_right_more_often_than_wrong():
    random = np.random.default_rng(0)
    confidence = random.uniform(0.5, 1, 20_000)
    # Right by a share that rises from 0.2 to 0.8: it passes a half at a confidence of 0.75.
    right = random.random(20_000) < 0.2 + 1.2 * (confidence - 0.5)
    shares = np.stack([confidence, 1 - confidence], axis=1)
    labels = np.where(right, 0, 1)
    threshold = fit_threshold(labels, shares)
    assert threshold == pytest.approx(0.75, abs=0.03)
    told = abstention_metrics(labels, shares, threshold)
    assert told["uncertain"] == pytest.approx(0.5, abs=0.06)
    assert told["certain_accuracy"] == pytest.approx(0.65, abs=0.03)


@pytest.mark.parametrize(("label", "threshold", "share"), [(0, 0.0, 0.0), (1, 1.0, 1.0)])
def test_threshold_of_a_model_that_is_always_right_or_always_wrong(label, threshold, share):
    shares = [[0.6, 0.4], [0.8, 0.2], [0.9, 0.1]]
    assert fit_threshold([label] * 3, shares) == threshold
    told = abstention_metrics([label] * 3, shares, threshold)
    assert told["uncertain"] == share
    assert told["certain_accuracy"] == (None if share else 1.0)
