import json
import socket
import subprocess
import sys

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from ser_ft.evaluation.calibration import expected_calibration_error, fit_temperature, reliability_bins
from ser_ft.evaluation.grouping import duration_groups
from ser_ft.evaluation.metrics import (
    accuracy,
    compute_metrics,
    confusion_matrix,
    macro_f1,
    negative_log_likelihood,
    recall_per_class,
    uar,
    uar_confidence_interval,
)
from ser_ft.utils.errors import InputError

CLASSES = ["neutral", "happy", "sad"]
LABELS = [0, 0, 0, 0, 1, 1, 2, 2]
PREDICTIONS = [0, 0, 0, 1, 1, 2, 2, 2]


def random_predictions(clips: int = 400, classes: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return labels of unequal frequency, and probabilities that favor them."""
    random = np.random.default_rng(seed)
    labels = np.minimum(random.geometric(0.4, clips) - 1, classes - 1)
    logits = random.normal(size=(clips, classes)) + 1.2 * np.eye(classes)[labels]
    return labels, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def test_a_constant_prediction_has_a_high_accuracy_but_not_a_high_uar():
    labels, predictions = [0] * 9 + [1], [0] * 10
    assert (uar(labels, predictions, 2), accuracy(labels, predictions)) == (0.5, 0.9)


def test_a_class_without_clips_does_not_count():
    metrics = recall_per_class([0, 0, 2], [0, 1, 2], 4)
    assert metrics.shape == (4,)
    assert np.isnan(metrics).tolist() == [False, True, False, True]
    assert uar([0, 0, 2], [0, 1, 2], 4) == 0.75
    # Class 1 is predicted but never occurs: it counts as 0. Class 3 is neither: it does not count.
    assert macro_f1([0, 0, 2], [0, 1, 2], 4) == pytest.approx((2 / 3 + 0 + 1) / 3)


def test_likelihood_and_macro_f1_agree_with_sklearn():
    labels, probabilities = random_predictions()
    predictions = probabilities.argmax(axis=1)
    expected = sklearn_metrics.log_loss(labels, probabilities)
    assert negative_log_likelihood(labels, probabilities) == pytest.approx(expected)
    assert negative_log_likelihood([0], [[0.0, 1.0]]) == pytest.approx(-np.log(1e-12)), "the likelihood is finite"
    assert negative_log_likelihood([1], [[0.0, 1.0]]) == 0
    for rows in (slice(None), labels < 3):
        expected = sklearn_metrics.f1_score(labels[rows], predictions[rows], average="macro")
        assert macro_f1(labels[rows], predictions[rows], 5) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("labels", "predictions", "message"),
    [
        ([], [], "no labels"),
        ([0, 1], [0], "2 labels, but 1 predictions"),
        ([0, 3], [0, 1], "labels contain 3 for clip 1: the classes are numbered 0 to 2"),
        ([0, 1], [-1, 1], "predictions contain -1 for clip 0"),
        ([0.0, 1.0], [0, 1], "labels must be class numbers"),
        (["sad", "happy"], [0, 1], "labels must be class numbers"),
        ([[0, 1]], [0, 1], "labels must be a list"),
        ([[0], [0, 1]], [0, 1], "labels must be numbers"),
    ],
)
def test_wrong_labels_or_predictions_are_refused(labels, predictions, message):
    for function in (confusion_matrix, recall_per_class, uar, macro_f1):
        with pytest.raises(InputError, match=message) as caught:
            function(labels, predictions, 3)
        assert "\n" not in str(caught.value)
    if message != "labels contain 3 for clip 1: the classes are numbered 0 to 2":  # accuracy has no number of classes
        with pytest.raises(InputError, match=message):
            accuracy(labels, predictions)


@pytest.mark.parametrize(
    ("probabilities", "message"),
    [
        ([0.5, 0.5], r"shape \(clips, classes\)"),
        ([[0.5, 0.5]], "2 labels, but probabilities for 1 clips"),
        ([[1.0], [1.0]], "labels contain 1 for clip 1"),
        ([[0.5, 0.5], [np.nan, 1.0]], "clip 1 are not finite"),
        ([[np.inf, 0.0], [0.5, 0.5]], "clip 0 are not finite"),
        ([[0.5, 0.5], [1.5, -0.5]], "clip 1 are negative or do not add up to 1"),
        ([[2.3, 0.4], [0.5, 0.5]], "clip 0 are negative or do not add up to 1"),
        ([[0.5, 0.5], [0.5]], "probabilities must be numbers"),
    ],
)
def test_wrong_probabilities_are_refused(probabilities, message):
    for function in (negative_log_likelihood, expected_calibration_error, reliability_bins, fit_temperature):
        with pytest.raises(InputError, match=message):
            function([0, 1], probabilities)
    with pytest.raises(InputError, match=message):
        compute_metrics([0, 1], probabilities, ["a", "b"], ["happy", "sad"])


def one_hot(predictions: list[int], classes: int, confidence: float = 0.7) -> np.ndarray:
    return np.where(np.eye(classes)[predictions] > 0, confidence, (1 - confidence) / (classes - 1))


def test_computed_metrics_agree_with_values_computed_by_hand():
    metrics = compute_metrics(LABELS, one_hot(PREDICTIONS, 3), list("aabbccdd"), CLASSES)
    assert list(metrics) == [
        *("clips", "speakers", "uar", "uar_interval", "accuracy", "chance", "macro_f1", "ece", "nll"),
        *("recall", "precision", "support", "confusion", "reliability", "by_speaker", "speaker_uar"),
    ]
    assert (metrics["clips"], metrics["speakers"]) == (8, 4)
    assert (metrics["uar"], metrics["accuracy"]) == (0.75, 0.75)
    assert metrics["macro_f1"] == macro_f1(LABELS, PREDICTIONS, 3) == pytest.approx((6 / 7 + 1 / 2 + 4 / 5) / 3)
    assert metrics["ece"] == pytest.approx(0.05)
    assert metrics["nll"] == pytest.approx(-(6 * np.log(0.7) + 2 * np.log(0.15)) / 8)
    assert metrics["chance"] == pytest.approx(1 / 3)
    assert metrics["recall"] == {"neutral": 0.75, "happy": 0.5, "sad": 1.0}
    assert metrics["precision"] == {"neutral": 1.0, "happy": 0.5, "sad": pytest.approx(2 / 3)}
    assert metrics["support"] == {"neutral": 4, "happy": 2, "sad": 2}
    assert metrics["confusion"] == [[3, 1, 0], [0, 1, 1], [0, 0, 2]]


def is_plain_json(value: object) -> bool:
    """Return whether a value consists only of the types of JSON."""
    if type(value) is dict:
        return all(type(key) is str and is_plain_json(item) for key, item in value.items())
    if type(value) is list:
        return all(is_plain_json(item) for item in value)
    return value is None or type(value) in (int, float, str)


def test_metrics_of_a_corpus_are_those_of_its_clips():
    labels, probabilities = random_predictions(clips=1200)
    speakers = np.array([f"speaker-{clip % 12:02}" for clip in range(1200)])
    corpora = ["ravdess" if clip % 12 < 8 else "cremad" for clip in range(1200)]
    classes = list("abcde")
    metrics = compute_metrics(labels, probabilities, speakers, classes, corpora)
    assert is_plain_json(metrics)
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    interval = uar_confidence_interval(labels, probabilities.argmax(axis=1), speakers, 5)
    assert metrics["uar_interval"] == {"low": interval.low, "high": interval.high, "level": 0.95, "method": "t"}
    assert interval.low < metrics["uar"] < interval.high
    assert list(metrics["by_corpus"]) == ["cremad", "ravdess"]
    for corpus, part in metrics["by_corpus"].items():
        rows = np.array(corpora) == corpus
        expected = compute_metrics(labels[rows], probabilities[rows], speakers[rows], classes)
        assert part == {key: expected[key] for key in part}
        assert list(part)[-1] == "confusion"
    assert metrics["by_corpus"]["ravdess"]["speakers"] == 8


def test_a_corpus_may_lack_a_class():
    """The probability of sad is zero for half of the speakers."""
    random = np.random.default_rng(0)
    speakers = np.repeat([f"speaker-{number}" for number in range(12)], 12)
    without = np.repeat(np.arange(12) < 6, 12)
    labels = np.where(without, np.arange(144) % 2, np.arange(144) % 3)
    probabilities = random.dirichlet([1, 1, 1], 144) * np.where(without[:, None], [1, 1, 0], 1) + np.eye(3)[labels] / 2
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    metrics = compute_metrics(labels, probabilities, speakers, CLASSES, np.where(without, "cremad", "ravdess"))
    cremad = metrics["by_corpus"]["cremad"]
    assert metrics["uar_interval"]["method"] == "jackknife-t"
    assert cremad["uar_interval"]["method"] == "t"
    assert (metrics["chance"], cremad["chance"]) == (pytest.approx(1 / 3), 0.5)
    assert cremad["recall"]["sad"] is None
    assert cremad["precision"]["sad"] is None
    assert cremad["support"]["sad"] == 0
    json.dumps(metrics, allow_nan=False)


@pytest.mark.parametrize(
    ("labels", "predictions", "speakers"),
    [
        ([0], [0], ["a"]),  # one clip
        ([0, 0, 0], [1, 1, 1], ["a", "a", "b"]),  # one class, never recognized
        (LABELS, LABELS, list("abcdabcd")),  # all recognized
        (LABELS, [0] * 8, list("abcabcab")),  # three speakers, constant prediction
    ],
)
def test_tiny_sets_have_metrics_but_no_interval(labels, predictions, speakers):
    probabilities = one_hot(predictions, 3, confidence=1.0)
    metrics = compute_metrics(labels, probabilities, speakers, CLASSES, ["savee"] * len(labels))
    assert is_plain_json(metrics)
    assert "NaN" not in json.dumps(metrics, allow_nan=False)
    assert metrics["uar_interval"] is None
    assert metrics["chance"] == 1 / len(set(labels))


def test_compute_metrics_refuses_wrong_input():
    probabilities = one_hot(PREDICTIONS, 3)
    with pytest.raises(InputError, match="8 labels, but 2 speakers"):
        compute_metrics(LABELS, probabilities, ["a", "b"], CLASSES)
    with pytest.raises(InputError, match="8 labels, but 1 corpora"):
        compute_metrics(LABELS, probabilities, list("abcdabcd"), CLASSES, ["savee"])
    for classes in (["happy", "sad"], ["happy", "sad", "sad"]):
        with pytest.raises(InputError, match="3 probabilities per clip"):
            compute_metrics(LABELS, probabilities, list("abcdabcd"), classes)


def test_importing_metrics_imports_nothing_slow():
    code = (
        "import sys, ser_ft; before = {*sys.modules}; import ser_ft.evaluation.metrics;"
        "print({'evaluate', 'datasets', 'sklearn', 'torch'} & ({*sys.modules} - before))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


@pytest.fixture
def offline(monkeypatch):
    """Make every network access fail."""

    def refuse(*_):
        raise AssertionError("a metric used the network")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.usefixtures("offline")
def test_hf_metrics_agree_with_ours_offline(tmp_path):
    import evaluate

    from ser_ft.evaluation.hf_metrics import UAR, MacroF1, WeightedAccuracy

    labels, probabilities = random_predictions()
    predictions = probabilities.argmax(axis=1)
    expected = {
        "uar": uar(labels, predictions, 5),
        "accuracy": accuracy(labels, predictions),
        "macro_f1": macro_f1(labels, predictions, 5),
    }
    hf_metrics = [metric(cache_dir=str(tmp_path)) for metric in (UAR, WeightedAccuracy, MacroF1)]
    assert evaluate.combine(hf_metrics).compute(predictions=predictions, references=labels) == expected
    for metric in hf_metrics:
        result = metric.compute(predictions=predictions.tolist(), references=labels.tolist())
        assert result == {metric.name: expected[metric.name]}
        assert isinstance(metric, evaluate.Metric)
        assert metric.description
        assert "@" in metric.citation
        assert metric.name in metric.inputs_description
        assert {feature.dtype for feature in metric.features.values()} == {"int64"}
    metric = UAR(cache_dir=str(tmp_path))
    for start in range(0, 8, 3):
        metric.add_batch(predictions=PREDICTIONS[start : start + 3], references=LABELS[start : start + 3])
    assert metric.compute() == {"uar": 0.75}
    with pytest.raises(InputError, match="labels contain -100 for clip 1"):
        metric.compute(predictions=[0, 1], references=[0, -100])


@pytest.mark.parametrize("seed", range(5))
def test_metrics_agree_with_sklearn_if_classes_are_absent(seed):
    """Of seven classes, some never occur, some are never predicted; overall and in each group."""
    random = np.random.default_rng(seed)
    clips, classes = 300, list("abcdefg")
    labels = random.choice([0, 1, 2, 3, 5], clips)
    probabilities = random.dirichlet(np.ones(7), clips) + 0.5 * np.eye(7)[labels]
    probabilities[:, [5, 6]] = 0
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    speakers = random.choice([f"speaker-{number}" for number in range(9)], clips)
    groups = {"gender": random.choice(["female", "male"], clips).tolist()}
    groups["duration"] = duration_groups(random.uniform(1, 6, clips))
    metrics = compute_metrics(labels, probabilities, speakers.tolist(), classes, groups=groups)
    assert_agrees_with_sklearn(metrics, labels, probabilities.argmax(axis=1))
    precision, recall, _, support = sklearn_metrics.precision_recall_fscore_support(
        labels, probabilities.argmax(axis=1), labels=range(7), zero_division=np.nan
    )
    for key, expected in (("precision", precision), ("recall", recall)):
        values = [np.nan if value is None else value for value in metrics[key].values()]
        assert values == pytest.approx(expected, nan_ok=True)
    assert list(metrics["support"].values()) == support.tolist()
    expected = sklearn_metrics.confusion_matrix(labels, probabilities.argmax(axis=1), labels=range(7))
    assert metrics["confusion"] == expected.tolist()
    expected_f1 = sklearn_metrics.f1_score(labels, probabilities.argmax(axis=1), average="macro")
    assert metrics["macro_f1"] == pytest.approx(expected_f1)
    for name, values in ({"speaker": speakers.tolist()} | groups).items():
        by_group = metrics[f"by_{name}"]
        assert set(by_group) == set(values)
        for group, scores in by_group.items():
            rows = np.array(values) == group
            assert scores["speakers"] == len(set(speakers[rows]))
            assert_agrees_with_sklearn(scores, labels[rows], probabilities[rows].argmax(axis=1))


def assert_agrees_with_sklearn(metrics: dict, labels: np.ndarray, predictions: np.ndarray) -> None:
    present = np.unique(labels)
    recall = sklearn_metrics.recall_score(labels, predictions, labels=present, average="macro")
    assert metrics["clips"] == len(labels)
    assert metrics["uar"] == pytest.approx(recall)
    assert metrics["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(labels, predictions))
    assert metrics["chance"] == pytest.approx(1 / len(present))


def test_unknown_groups_are_excluded():
    probabilities = one_hot(PREDICTIONS, 3)
    speakers = ["own-unknown", "own-unknown", *"aabbcc"]
    gender = ["female", None, float("nan"), "", "female", "male", "male", "male"]
    metrics = compute_metrics(LABELS, probabilities, speakers, CLASSES, groups={"gender": gender})
    assert {name: group["clips"] for name, group in metrics["by_gender"].items()} == {"female": 2, "male": 3}
    assert set(metrics["by_speaker"]) == {"a", "b", "c"}
    without_groups = compute_metrics(LABELS, probabilities, ["own-unknown"] * 8, CLASSES, groups={"gender": [None] * 8})
    assert (without_groups["by_gender"], without_groups["by_speaker"], without_groups["speaker_uar"]) == ({}, {}, None)
    with pytest.raises(InputError, match="8 labels, but 1 values of gender"):
        compute_metrics(LABELS, probabilities, speakers, CLASSES, groups={"gender": ["male"]})


def test_range_of_uar_over_speakers():
    metrics = compute_metrics(LABELS, one_hot(PREDICTIONS, 3), list("aaaabbbb"), CLASSES)
    # a: three of four neutral clips; b: one of two happy ones and both sad ones.
    assert {name: group["uar"] for name, group in metrics["by_speaker"].items()} == {"a": 0.75, "b": 0.75}
    assert metrics["speaker_uar"] == {"min": 0.75, "max": 0.75, "std": 0}
    metrics = compute_metrics(LABELS, one_hot(PREDICTIONS, 3), list("aaabbbbb"), CLASSES)
    assert metrics["speaker_uar"] == {"min": 0.5, "max": 1.0, "std": pytest.approx(np.std([1, 0.5], ddof=1))}
    assert compute_metrics(LABELS, one_hot(PREDICTIONS, 3), ["a"] * 8, CLASSES)["speaker_uar"] is None


def test_groups_are_in_a_meaningful_order():
    probabilities = one_hot(PREDICTIONS, 3)
    seconds = [4.0, 3.999, 3.0, 2.0, 1.999, 0.1, 9.0, float("nan")]
    intensity = ["strong", "normal", "high", "medium", "low", "other", "low", None]
    groups = {"duration": duration_groups(seconds), "intensity": intensity}
    metrics = compute_metrics(LABELS, probabilities, list("aabbccdd"), CLASSES, groups=groups)
    by_duration = [(name, group["clips"]) for name, group in metrics["by_duration"].items()]
    assert by_duration == [("under 2 s", 2), ("2 to 3 s", 1), ("3 to 4 s", 2), ("4 s and over", 2)]
    assert list(metrics["by_intensity"]) == ["low", "medium", "normal", "high", "strong", "other"]
