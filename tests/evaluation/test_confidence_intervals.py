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
    """Per-speaker UARs of 0.5, 0.6, 0.7 and 0.8, from two classes."""
    return np.array([[4, 6], [6, 6], [8, 6], [10, 6]]), np.full((4, 2), 10)


def grouped(speakers: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three classes of 6 to 14 clips, the last of them with half of the speakers only."""
    random = np.random.default_rng(seed)
    clips = random.integers(6, 15, (speakers, 3))
    clips[: speakers // 2, 2] = 0
    return random.binomial(clips, 0.7), clips


def reference_jackknife(correct: np.ndarray, clips: np.ndarray) -> tuple[float, float]:
    """The pooled UAR and its jackknife error again, a speaker at a time."""

    def pooled(rows: np.ndarray) -> float:
        return float((correct[rows].sum(axis=0) / clips[rows].sum(axis=0)).mean())

    everyone = np.arange(len(clips))
    left = np.array([pooled(np.delete(everyone, place)) for place in everyone])
    return pooled(everyone), float(np.sqrt((len(left) - 1) / len(left) * np.square(left - left.mean()).sum()))


def test_t_by_hand():
    found = interval_from_counts(*four_speakers())
    error = np.std([0.5, 0.6, 0.7, 0.8], ddof=1) / 2
    half = stats.t.ppf(0.975, 3) * error / (0.65 * 0.35)
    middle = np.log(0.65 / 0.35)
    assert found is not None
    assert (found.method, found.level, found.speakers) == ("t", 0.95, 4)
    assert found.low == pytest.approx(1 / (1 + np.exp(half - middle)))
    assert found.high == pytest.approx(1 / (1 + np.exp(-half - middle)))


def test_a_speaker_with_many_more_clips_is_not_counted_like_the_others():
    correct, clips = (np.tile(counts, (3, 1)) for counts in four_speakers())
    more = np.where(np.arange(12) < 4, 4, 1)[:, None]
    found = interval_from_counts(correct * more, clips * more)
    assert found is not None
    assert found.method == "jackknife-t"
    pooled = ((correct * more).sum(axis=0) / (clips * more).sum(axis=0)).mean()
    assert expit((logit(found.low) + logit(found.high)) / 2) == pytest.approx(pooled)
    assert interval_from_counts(correct, clips).method == "t"
    assert (
        interval_from_counts(correct[:4] * np.array([[1], [1], [1], [50]]), clips[:4] * [[1], [1], [1], [50]]) is None
    )


def test_a_higher_level_gives_a_wider_interval():
    for correct, clips in (four_speakers(), grouped()):
        widths = []
        for level in (0.5, 0.8, 0.95):
            found = interval_from_counts(correct, clips, level)
            assert found is not None
            assert found.level == level
            widths.append(found.high - found.low)
        assert widths == sorted(widths)
        assert widths[0] < widths[1] < widths[2]


def test_jackknife_t_by_hand():
    correct, clips = grouped()
    found = interval_from_counts(correct, clips)
    centre, error = reference_jackknife(correct, clips)
    parts = np.array([sum((n / total) ** 2 for n, total in zip(row, clips.sum(axis=0), strict=True)) for row in clips])
    freedom = parts.sum() ** 2 / (parts**2).sum() - 1
    half = stats.t.ppf(0.975, freedom) * error / (centre * (1 - centre))
    middle = np.log(centre / (1 - centre))
    assert found is not None
    assert (found.method, found.level, found.speakers) == ("jackknife-t", 0.95, 12)
    assert 4 < freedom < 11
    assert found.low == pytest.approx(1 / (1 + np.exp(half - middle)))
    assert found.high == pytest.approx(1 / (1 + np.exp(-half - middle)))


def test_a_class_of_few_speakers_makes_the_interval_wider():
    """Were it taken for as sure as the others, as few as 0.89 of the nominal 95 % held the truth."""
    clips = np.full((24, 8), 8)
    correct = np.random.default_rng(0).binomial(clips, 0.7)
    many = interval_from_counts(correct, clips)
    rare = clips.copy()
    rare[3:, 0] = 0
    few = interval_from_counts(np.minimum(correct, rare), rare)
    assert many is not None
    assert few is not None
    assert few.high - few.low > many.high - many.low


def test_difference_by_hand():
    correct, clips = four_speakers()
    gained = np.array([[4.0, 2], [0, 2], [3, 1], [4, 4]])  # of 10: differences of 0.3, 0.1, 0.2 and 0.4
    half = stats.t.ppf(0.975, 3) * np.std([0.3, 0.1, 0.2, 0.4], ddof=1) / 2
    assert difference_interval_from_counts(gained, clips) == pytest.approx((0.25 - half, 0.25 + half))
    assert difference_interval_from_counts(-gained, clips) == pytest.approx((-0.25 - half, -0.25 + half))
    assert difference_interval_from_counts(correct * 0.0, clips) is None
    assert difference_interval_from_counts(gained[:3], clips[:3]) is None


def test_difference_where_a_class_is_missing():
    correct, clips = grouped()
    other = grouped(seed=1)[0].clip(max=clips)
    gained = (correct - other).astype(float)
    centre, error = reference_jackknife(gained, clips)
    found = difference_interval_from_counts(gained, clips)
    assert found is not None
    assert sum(found) / 2 == pytest.approx(centre)
    assert stats.t.ppf(0.975, 11) * error < (found[1] - found[0]) / 2 < stats.t.ppf(0.975, 5) * error


def test_a_difference_stays_within_its_range():
    clips = np.full((4, 2), 10)
    assert difference_interval_from_counts(np.array([[10.0, 10], [10, 10], [10, 10], [-10, 10]]), clips)[1] == 1


def test_a_class_nobody_has_is_left_out():
    correct, clips = four_speakers()
    nobody = np.zeros((4, 1), dtype=int)
    assert interval_from_counts(np.hstack([nobody, correct]), np.hstack([nobody, clips])) == interval_from_counts(
        correct, clips
    )


@pytest.mark.parametrize("speakers", [1, 2, 3])
def test_none_under_four_speakers(speakers):
    correct, clips = four_speakers()
    assert interval_from_counts(correct[:speakers], clips[:speakers]) is None


def test_none_where_speakers_do_not_differ():
    clips = np.full((6, 3), 10)
    assert interval_from_counts(clips, clips) is None  # all right
    assert interval_from_counts(clips * 0, clips) is None  # all wrong
    assert interval_from_counts(np.tile([10, 0, 0], (6, 1)), clips) is None  # one constant answer
    _, missing = grouped()
    assert interval_from_counts(missing, missing) is None


def test_none_where_a_class_is_missing_and_too_few_speakers_are_left():
    random = np.random.default_rng(0)
    clips = np.full((4, 4), 10) - 10 * np.eye(4, dtype=int)  # all weigh the same, each lacks one class
    assert interval_from_counts(random.binomial(clips, 0.6), clips) is None
    clips = np.full((5, 5), 10) - 10 * np.eye(5, dtype=int)
    assert interval_from_counts(random.binomial(clips, 0.6), clips) is not None
    clips = np.full((12, 8), 10)
    clips[2:, 0] = 0  # a class of two speakers
    assert interval_from_counts(random.binomial(clips, 0.6), clips) is None
    clips[2, 0] = 10  # of three
    assert interval_from_counts(random.binomial(clips, 0.6), clips) is not None
    clips[0] = 1000  # one speaker outweighs all others
    assert interval_from_counts(random.binomial(clips, 0.6), clips) is None


def test_ends_stay_within_0_and_1():
    clips = np.full((6, 2), 10)
    clips[:3, 1] = 0
    correct = clips.copy()
    correct[4, 1] = 1
    found = interval_from_counts(correct, clips)
    assert found is not None
    assert 0 < found.low < found.high < 1


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_a_level_out_of_range(level):
    correct, clips = four_speakers()
    with pytest.raises(InputError, match="level"):
        interval_from_counts(correct, clips, level)
    with pytest.raises(InputError, match="level"):
        difference_interval_from_counts(correct * 0.1, clips, level)


def clips_of(correct: np.ndarray, clips: np.ndarray) -> tuple[list[int], list[int], list[str]]:
    """Spell counts out as labels, predictions (a wrong one is the next class) and speakers, in a mixed order."""
    rows = [
        (column, column if clip < correct[speaker, column] else (column + 1) % clips.shape[1], f"speaker-{speaker}")
        for speaker, column in np.ndindex(*clips.shape)
        for clip in range(clips[speaker, column])
    ]
    order = np.random.default_rng(0).permutation(len(rows))
    labels, predictions, speakers = zip(*(rows[place] for place in order), strict=True)
    return list(labels), list(predictions), list(speakers)


def test_speaker_interval_counts_per_speaker():
    for correct, clips in (four_speakers(), grouped()):
        labels, predictions, speakers = clips_of(correct, clips)
        order = [int(name.rpartition("-")[2]) for name in sorted({*speakers})]
        found = uar_confidence_interval(labels, predictions, speakers, clips.shape[1])
        assert isinstance(found, ConfidenceInterval)
        assert found == interval_from_counts(correct[order], clips[order])
        assert found.low < uar(labels, predictions, clips.shape[1]) < found.high


def test_seeds_are_summed():
    correct, clips = grouped()
    labels, predictions, speakers = (np.array(values) for values in clips_of(correct, clips))
    once = count_by_speaker(labels, predictions, speakers, 3)
    summed = count_by_speaker(labels, np.stack([predictions, labels]), speakers, 3)
    assert np.array_equal(summed[1], 2 * once[1])
    assert np.array_equal(summed[0], once[0] + once[1])


def test_speaker_interval_does_not_depend_on_the_order_of_the_clips():
    labels, predictions, speakers = clips_of(*grouped())
    turned = uar_confidence_interval(labels[::-1], predictions[::-1], speakers[::-1], 3)
    assert turned == uar_confidence_interval(labels, predictions, speakers, 3)


def test_speaker_interval_checks_its_input():
    with pytest.raises(InputError, match="4 labels, but 3 speakers"):
        uar_confidence_interval([0, 1, 0, 1], [0, 1, 0, 1], ["a", "b", "c"], 2)
    with pytest.raises(InputError, match="predictions contain 2 for clip 3"):
        uar_confidence_interval([0, 1, 0, 1], [0, 1, 0, 2], ["a", "b", "c", "d"], 2)


def coverage(clips: np.ndarray, simulations: int, method: str) -> float:
    """Simulate speakers of logit-normal skill; the truth is the mean of the same skill over many more of them."""
    random = np.random.default_rng(0)
    speakers, classes = clips.shape
    truth = (1 / (1 + np.exp(-random.normal(1, 0.8, 1_000_000)))).mean()
    held = 0
    for _ in range(simulations):
        skill = 1 / (1 + np.exp(-random.normal(1, 0.8, (speakers, 1)).repeat(classes, axis=1)))
        found = interval_from_counts(random.binomial(clips, skill), clips)
        assert found is not None
        assert found.method == method
        held += found.low <= truth <= found.high
    return held / simulations


@pytest.mark.parametrize("speakers", [4, 12])
def test_t_covers_what_it_promises(speakers):
    assert 0.925 <= coverage(np.full((speakers, 6), 8), 800, "t") <= 0.975


@pytest.mark.parametrize("speakers", [6, 12])
def test_jackknife_t_covers_what_it_promises(speakers):
    clips = np.full((speakers, 6), 8)
    clips[: speakers // 2, 0] = 0
    assert 0.925 <= coverage(clips, 800, "jackknife-t") <= 0.975
