import numpy as np
import pytest
from scipy import stats
from scipy.special import expit, logit

from ser_ft.evaluation.confidence_intervals import (
    ConfidenceInterval,
    count_by_speaker,
    difference_interval_from_counts,
    interval_from_counts,
)
from ser_ft.evaluation.metrics import uar, uar_confidence_interval
from ser_ft.utils.errors import InputError


def four_speakers() -> tuple[np.ndarray, np.ndarray]:
    """Return counts with per-speaker UARs of 0.5, 0.6, 0.7 and 0.8, of two classes."""
    return np.array([[4, 6], [6, 6], [8, 6], [10, 6]]), np.full((4, 2), 10)


def unbalanced(speakers: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return counts of three classes with 6 to 14 clips; half_width of the speakers lack the last class."""
    random = np.random.default_rng(seed)
    clips = random.integers(6, 15, (speakers, 3))
    clips[: speakers // 2, 2] = 0
    return random.binomial(clips, 0.7), clips


def reference_jackknife(correct: np.ndarray, clips: np.ndarray) -> tuple[float, float]:
    """Compute the pooled UAR and its jackknife error in a loop over speakers."""

    def pooled(rows: np.ndarray) -> float:
        return float((correct[rows].sum(axis=0) / clips[rows].sum(axis=0)).mean())

    all_speakers = np.arange(len(clips))
    replicates = np.array([pooled(np.delete(all_speakers, speaker)) for speaker in all_speakers])
    return pooled(all_speakers), float(
        np.sqrt((len(replicates) - 1) / len(replicates) * np.square(replicates - replicates.mean()).sum())
    )


def test_t_interval_agrees_with_values_computed_by_hand():
    interval = interval_from_counts(*four_speakers())
    error = np.std([0.5, 0.6, 0.7, 0.8], ddof=1) / 2
    half_width = stats.t.ppf(0.975, 3) * error / (0.65 * 0.35)
    center = np.log(0.65 / 0.35)
    assert interval is not None
    assert (interval.method, interval.level, interval.speakers) == ("t", 0.95, 4)
    assert interval.low == pytest.approx(1 / (1 + np.exp(half_width - center)))
    assert interval.high == pytest.approx(1 / (1 + np.exp(-half_width - center)))


def test_a_speaker_with_many_clips_makes_the_jackknife_necessary():
    correct, clips = (np.tile(counts, (3, 1)) for counts in four_speakers())
    factors = np.where(np.arange(12) < 4, 4, 1)[:, None]
    interval = interval_from_counts(correct * factors, clips * factors)
    assert interval is not None
    assert interval.method == "jackknife-t"
    pooled = ((correct * factors).sum(axis=0) / (clips * factors).sum(axis=0)).mean()
    assert expit((logit(interval.low) + logit(interval.high)) / 2) == pytest.approx(pooled)
    assert interval_from_counts(correct, clips).method == "t"
    factors = np.array([[1], [1], [1], [50]])
    assert interval_from_counts(correct[:4] * factors, clips[:4] * factors) is None


def test_a_higher_level_gives_a_wider_interval():
    for correct, clips in (four_speakers(), unbalanced()):
        intervals = [interval_from_counts(correct, clips, level) for level in (0.5, 0.8, 0.95)]
        assert [interval.level for interval in intervals] == [0.5, 0.8, 0.95]
        widths = [interval.high - interval.low for interval in intervals]
        assert widths[0] < widths[1] < widths[2]


def test_jackknife_interval_agrees_with_a_reference():
    correct, clips = unbalanced()
    interval = interval_from_counts(correct, clips)
    mean, error = reference_jackknife(correct, clips)
    parts = np.array([sum((n / total) ** 2 for n, total in zip(row, clips.sum(axis=0), strict=True)) for row in clips])
    degrees_of_freedom = parts.sum() ** 2 / (parts**2).sum() - 1
    half_width = stats.t.ppf(0.975, degrees_of_freedom) * error / (mean * (1 - mean))
    center = np.log(mean / (1 - mean))
    assert interval is not None
    assert (interval.method, interval.level, interval.speakers) == ("jackknife-t", 0.95, 12)
    assert 4 < degrees_of_freedom < 11
    assert interval.low == pytest.approx(1 / (1 + np.exp(half_width - center)))
    assert interval.high == pytest.approx(1 / (1 + np.exp(-half_width - center)))


def test_a_class_of_few_speakers_makes_the_interval_wider():
    """Without this, the coverage of a nominal 95 % is as low as 0.89."""
    clips = np.full((24, 8), 8)
    correct = np.random.default_rng(0).binomial(clips, 0.7)
    many = interval_from_counts(correct, clips)
    clips[3:, 0] = 0
    few = interval_from_counts(np.minimum(correct, clips), clips)
    assert few.high - few.low > many.high - many.low


def test_difference_interval_agrees_with_values_computed_by_hand():
    correct, clips = four_speakers()
    difference = np.array([[4.0, 2], [0, 2], [3, 1], [4, 4]])  # of 10: differences of 0.3, 0.1, 0.2 and 0.4
    half_width = stats.t.ppf(0.975, 3) * np.std([0.3, 0.1, 0.2, 0.4], ddof=1) / 2
    low, high = 0.25 - half_width, 0.25 + half_width
    assert difference_interval_from_counts(difference, clips) == pytest.approx((low, high))
    assert difference_interval_from_counts(-difference, clips) == pytest.approx((-high, -low))
    assert difference_interval_from_counts(correct * 0.0, clips) is None
    assert difference_interval_from_counts(difference[:3], clips[:3]) is None
    # The interval stays within the range of a difference.
    assert difference_interval_from_counts(np.array([[10.0, 10], [10, 10], [10, 10], [-10, 10]]), clips)[1] == 1


def test_difference_interval_if_speakers_lack_a_class():
    correct, clips = unbalanced()
    other = unbalanced(seed=1)[0].clip(max=clips)
    difference = (correct - other).astype(float)
    mean, error = reference_jackknife(difference, clips)
    interval = difference_interval_from_counts(difference, clips)
    assert interval is not None
    assert sum(interval) / 2 == pytest.approx(mean)
    assert stats.t.ppf(0.975, 11) * error < (interval[1] - interval[0]) / 2 < stats.t.ppf(0.975, 5) * error


def test_a_class_without_clips_is_ignored():
    counts = four_speakers()
    padded = (np.hstack([np.zeros((4, 1), dtype=int), values]) for values in counts)
    assert interval_from_counts(*padded) == interval_from_counts(*counts)


def test_no_interval_for_fewer_than_four_speakers_or_if_speakers_do_not_differ():
    correct, clips = four_speakers()
    assert [interval_from_counts(correct[:speakers], clips[:speakers]) for speakers in (1, 2, 3)] == [None] * 3
    clips = np.full((6, 3), 10)
    assert interval_from_counts(clips, clips) is None  # all recognized
    assert interval_from_counts(clips * 0, clips) is None  # none recognized
    assert interval_from_counts(np.tile([10, 0, 0], (6, 1)), clips) is None  # constant prediction
    _, missing = unbalanced()
    assert interval_from_counts(missing, missing) is None


def test_no_interval_if_a_class_has_too_few_speakers():
    random = np.random.default_rng(0)
    lack_a_class = [np.full((size, size), 10) - 10 * np.eye(size, dtype=int) for size in (4, 5)]  # equal weights
    two_speakers = np.full((12, 8), 10)
    two_speakers[2:, 0] = 0
    three_speakers = two_speakers.copy()
    three_speakers[2, 0] = 10
    dominated = three_speakers.copy()
    dominated[0] = 1000  # one speaker has most of the clips
    tables = (*lack_a_class, two_speakers, three_speakers, dominated)
    intervals = [interval_from_counts(random.binomial(clips, 0.6), clips) for clips in tables]
    assert [interval is not None for interval in intervals] == [False, True, False, True, False]


def test_ends_stay_within_0_and_1():
    clips = np.full((6, 2), 10)
    clips[:3, 1] = 0
    correct = clips.copy()
    correct[4, 1] = 1
    interval = interval_from_counts(correct, clips)
    assert interval is not None
    assert 0 < interval.low < interval.high < 1


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_a_level_out_of_range_is_refused(level):
    correct, clips = four_speakers()
    with pytest.raises(InputError, match="level"):
        interval_from_counts(correct, clips, level)
    with pytest.raises(InputError, match="level"):
        difference_interval_from_counts(correct * 0.1, clips, level)


def as_clips(correct: np.ndarray, clips: np.ndarray) -> tuple[list[int], list[int], list[str]]:
    """Convert counts to labels, predictions (the next class if wrong) and speakers, in random order."""
    rows = [
        (column, column if clip < correct[speaker, column] else (column + 1) % clips.shape[1], f"speaker-{speaker}")
        for speaker, column in np.ndindex(*clips.shape)
        for clip in range(clips[speaker, column])
    ]
    order = np.random.default_rng(0).permutation(len(rows))
    labels, predictions, speakers = zip(*(rows[speaker] for speaker in order), strict=True)
    return list(labels), list(predictions), list(speakers)


def test_interval_from_clips_is_that_from_counts():
    """The clips are in random order."""
    for correct, clips in (four_speakers(), unbalanced()):
        labels, predictions, speakers = as_clips(correct, clips)
        order = [int(name.rpartition("-")[2]) for name in sorted({*speakers})]
        interval = uar_confidence_interval(labels, predictions, speakers, clips.shape[1])
        assert isinstance(interval, ConfidenceInterval)
        assert interval == interval_from_counts(correct[order], clips[order])
        assert interval.low < uar(labels, predictions, clips.shape[1]) < interval.high


def test_counts_are_summed_over_seeds():
    correct, clips = unbalanced()
    labels, predictions, speakers = (np.array(values) for values in as_clips(correct, clips))
    single = count_by_speaker(labels, predictions, speakers, 3)
    summed = count_by_speaker(labels, np.stack([predictions, labels]), speakers, 3)
    assert np.array_equal(summed[1], 2 * single[1])
    assert np.array_equal(summed[0], single[0] + single[1])


def coverage(clips: np.ndarray, simulations: int, method: str) -> float:
    """Simulate speakers with logit-normal recalls; the true UAR is their mean over many more speakers."""
    random = np.random.default_rng(0)
    speakers, classes = clips.shape
    true_uar = (1 / (1 + np.exp(-random.normal(1, 0.8, 1_000_000)))).mean()
    covered = 0
    for _ in range(simulations):
        recall = 1 / (1 + np.exp(-random.normal(1, 0.8, (speakers, 1)).repeat(classes, axis=1)))
        interval = interval_from_counts(random.binomial(clips, recall), clips)
        assert interval is not None
        assert interval.method == method
        covered += interval.low <= true_uar <= interval.high
    return covered / simulations


@pytest.mark.parametrize(("method", "speakers"), [("t", 4), ("t", 12), ("jackknife-t", 6), ("jackknife-t", 12)])
def test_intervals_have_their_nominal_coverage(method, speakers):
    clips = np.full((speakers, 6), 8)
    if method == "jackknife-t":
        clips[: speakers // 2, 0] = 0
    assert 0.925 <= coverage(clips, 800, method) <= 0.975
