"""The rules of the conversation monitor: intervals, negative segments, speaker baselines, highlights, sentences."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest

from ser_ft.inference.backends import ModelInfo
from ser_ft.inference.windows import Segment, Window, WindowSettings, merge_windows
from ser_ft.monitor import intervals
from ser_ft.monitor.conversation import Conversation, MonitorSettings, Speaker, emotion_shares
from ser_ft.monitor.highlights import MAX_HIGHLIGHTS, MAX_SECONDS, Highlight, select_highlights
from ser_ft.monitor.negative_segments import definition, find_negative_segments, negative_classes
from ser_ft.monitor.speaker_baseline import apply_baseline, estimate_baseline
from ser_ft.monitor.summary import clock, percent, summarize
from ser_ft.utils.errors import InputError

CLASSES = ("neutral", "happy", "sad", "angry")
NEGATIVE = ("sad", "angry")
MODEL = ModelInfo("a model", CLASSES, 0.5, 1600)
SETTINGS = WindowSettings(smoothing=0.0)

Predictions = Sequence[np.ndarray | None]


def predict(emotion: str, probability: float = 0.85) -> np.ndarray:
    probabilities = np.full(4, (1 - probability) / 3)
    probabilities[CLASSES.index(emotion)] = probability
    return probabilities


def make_windows(predictions: Predictions) -> list[Window]:
    """Return a window of three seconds for each second, full of speech; None is silence."""
    windows = []
    for second, scores in enumerate(predictions):
        spans = () if scores is None else ((float(second), second + 3.0),)
        windows.append(Window(float(second), second + 3.0, float(scores is not None), scores, scores, -20.0, spans))
    return windows


def make_speaker(name: str, predictions: Predictions) -> Speaker:
    windows = make_windows(predictions)
    emotion_segments = merge_windows(windows, MODEL, SETTINGS)
    speech = intervals.union(span for window in windows for span in window.spans)
    negative = find_negative_segments(emotion_segments, speech, NEGATIVE, 2.0)
    return Speaker(name, windows, emotion_segments, speech, *emotion_shares(windows, MODEL), negative, None)


def make_conversation(*speakers: Speaker, duration: float = 100.0) -> Conversation:
    silences = intervals.gaps(intervals.union(span for speaker in speakers for span in speaker.speech), duration)
    return Conversation(
        path="conversation.wav",
        duration=duration,
        sampling_rate=16_000,
        num_channels=len(speakers),
        mixed=len(speakers) == 1,
        model=MODEL,
        settings=MonitorSettings(SETTINGS),
        negative_classes=NEGATIVE,
        speakers=speakers,
        silence=intervals.total_seconds(silences),
        overlap=intervals.total_seconds(intervals.overlaps([speaker.speech for speaker in speakers])),
        pauses=[(start, end) for start, end in silences if end - start >= 5],
        highlights=[],
        notes=[],
    )


def segment(start: float, end: float, emotion: str, probability: float = 0.8, uncertain: bool = False) -> Segment:
    return Segment(start, end, emotion, probability, uncertain)


def test_intervals_are_merged_and_limited() -> None:
    merged = intervals.union([(4.0, 6.0), (0.0, 2.0), (1.0, 3.0), (6.0, 7.0), (9.0, 9.0)])
    assert merged == [(0.0, 3.0), (4.0, 7.0)]
    assert intervals.overlaps([merged]) == intervals.overlaps([]) == []
    assert intervals.gaps([], 10.0) == [(0.0, 10.0)]
    assert intervals.total_seconds(merged, 2.0, 5.0) == 2.0


def test_random_intervals_agree_with_counting_seconds() -> None:
    rng = np.random.default_rng(0)
    spans = [[tuple(np.sort(rng.integers(0, 200, 2)).tolist()) for _ in range(12)] for _ in range(3)]
    grid = np.zeros((3, 200), bool)
    for row, speaker_spans in zip(grid, spans, strict=True):
        for start, end in speaker_spans:
            row[start:end] = True
    speakers = [intervals.union(speaker_spans) for speaker_spans in spans]
    assert [intervals.total_seconds(speech) for speech in speakers] == list(grid.sum(axis=1))
    assert intervals.total_seconds(intervals.overlaps(speakers)) == (grid.sum(axis=0) > 1).sum()
    anybody = intervals.union(span for speech in speakers for span in speech)
    assert intervals.total_seconds(intervals.gaps(anybody, 200.0)) == (~grid.any(axis=0)).sum()


def test_consecutive_negative_segments_are_merged() -> None:
    emotions = [segment(0, 4, "sad"), segment(4, 9, "angry", 0.6), segment(10.5, 13, "sad"), segment(13, 20, "happy")]
    (merged,) = find_negative_segments(emotions, [(0.0, 20.0)], NEGATIVE, 2.0)
    assert (merged.start, merged.end, merged.speech_seconds, merged.emotion) == (0, 13, 13, "sad")
    assert merged.emotion_seconds == {"sad": 6.5, "angry": 5}
    assert merged.probability == pytest.approx((6.5 * 0.8 + 5 * 0.6) / 11.5)


@pytest.mark.parametrize(
    "emotions",
    [
        [segment(0, 4.9, "angry")],
        [segment(0, 4, "angry"), segment(6.1, 10, "angry")],
        [segment(0, 4, "angry"), segment(4, 5, "neutral"), segment(5, 9, "angry")],
        [segment(0, 4, "angry"), segment(4, 5, "sad", 0.3, True), segment(5, 9, "angry")],
        [segment(0, 60, "angry", 0.4, True)],
        [segment(0, 60, "happy")],
    ],
    ids=["too short", "pause between", "other emotion between", "uncertain between", "all uncertain", "happy"],
)
def test_no_negative_segment_outside_the_definition(emotions: list[Segment]) -> None:
    assert find_negative_segments(emotions, [(0.0, 60.0)], NEGATIVE, 2.0) == []


def test_the_negative_share_is_of_the_speech_without_pauses() -> None:
    speech = [(0.0, 3.0), (4.5, 10.0), (20.0, 30.0)]
    negative = find_negative_segments([segment(0, 10, "angry")], speech, ("angry",), 2.0)
    speaker = Speaker("speaker-1", make_windows([predict("angry")]), [], speech, {}, 0.0, negative, None)
    assert speaker.negative_share == pytest.approx(8.5 / 18.5)


def test_negative_emotions_are_recognized_by_their_synonyms() -> None:
    assert negative_classes(("Anger", "happiness", "SAD", "bored"), NEGATIVE) == ("Anger", "SAD")
    assert negative_classes(("good", "bad"), ("bad",)) == ("bad",)
    assert negative_classes(("good", "bad")) == ()
    assert "sounds sad or angry throughout" in str(definition(NEGATIVE, 2.0))
    assert definition((), 2.0) is None


def test_shares_add_up_and_are_weighted_by_speech() -> None:
    windows = make_windows([predict("angry"), predict("happy"), predict("sad", 0.4), None])
    windows[1] = Window(1.0, 4.0, 0.5, windows[1].probabilities, windows[1].smoothed, -20.0, ())
    by_emotion, uncertain = emotion_shares(windows, MODEL)
    assert by_emotion == pytest.approx({"neutral": 0, "happy": 0.2, "sad": 0, "angry": 0.4})
    assert uncertain == pytest.approx(0.4)
    assert emotion_shares([], MODEL) == (dict.fromkeys(CLASSES, 0.0), 0.0)
    assert emotion_shares(windows, ModelInfo("a model", CLASSES, None, 1600))[1] == 0


def test_a_speaker_who_always_sounds_angry_is_compared_with_the_own_baseline() -> None:
    usual = np.array([0.3, 0.05, 0.05, 0.6])
    windows = make_windows([usual] * 60 + [predict("sad", 0.9)] * 5)
    baseline = estimate_baseline(windows, CLASSES, 20.0, 1.0)
    assert baseline is not None
    assert (baseline.num_windows, baseline.end) == (20, 22.0)
    # Angry has odds of 0.6 / 0.3 against neutral, where one third of the other half is expected.
    expected = {"neutral": 0, "happy": 0, "sad": 0, "angry": np.log(6)}
    assert baseline.log_odds_reduction == pytest.approx(expected)
    corrected = apply_baseline(windows, baseline, SETTINGS)
    assert corrected[0].smoothed == pytest.approx(np.array([0.3, 0.05, 0.05, 0.1]) / 0.5)
    assert CLASSES[int(corrected[-1].smoothed.argmax())] == "sad"
    assert corrected[-1].smoothed.sum() == pytest.approx(1)


def test_a_baseline_never_increases_a_class() -> None:
    rng = np.random.default_rng(0)
    windows = make_windows([*rng.dirichlet(np.ones(4), 50), None, predict("neutral")])
    baseline = estimate_baseline(windows, CLASSES, 10.0, 1.0)
    assert baseline is not None
    assert min(baseline.log_odds_reduction.values()) == 0 == baseline.log_odds_reduction["neutral"]
    quiet = estimate_baseline(make_windows([predict("neutral", 0.97)] * 50), CLASSES, 10.0, 1.0)
    assert quiet is not None
    assert set(quiet.log_odds_reduction.values()) == {0.0}
    assert apply_baseline(windows, baseline, SETTINGS)[50].smoothed is None


def test_no_baseline_from_too_little_speech_or_without_a_neutral_class() -> None:
    windows = make_windows([predict("neutral")] * 30)
    assert estimate_baseline(windows, CLASSES, 16.0, 1.0) is None
    assert estimate_baseline(windows, CLASSES, 15.0, 1.0) is not None
    assert estimate_baseline(make_windows([None] * 30), CLASSES, 15.0, 1.0) is None
    with pytest.raises(InputError, match=r"needs the class neutral or calm .* its classes are good, bad"):
        estimate_baseline(windows, ("good", "bad"), 15.0, 1.0)
    with pytest.raises(InputError, match="must be a number of seconds of speech, such as 60, not -1"):
        MonitorSettings(baseline_seconds=-1)


def highlights_of(
    predictions: Predictions, duration: float = 1000.0, max_highlights: int = MAX_HIGHLIGHTS
) -> list[Highlight]:
    speaker = make_speaker("speaker-1", predictions)
    speakers, emotions = [(speaker.windows, speaker.segments)], ("happy", "sad", "angry")
    return select_highlights(speakers, CLASSES, emotions, duration, max_highlights)


def test_highlights_are_the_strongest_segments_and_changes_and_never_uncertain() -> None:
    calm = [predict("neutral")] * 20
    angry = [predict("angry", 0.8)] * 9 + [predict("angry", 0.95)] * 2 + [predict("angry", 0.8)] * 9
    highlights = highlights_of(calm + angry + calm + [predict("sad", 0.45)] * 20 + calm, 200)
    assert {highlight.emotion for highlight in highlights} == {"angry", "neutral"}
    strong = next(highlight for highlight in highlights if highlight.kind == "strong")
    assert strong.start < 31 < strong.end
    assert (strong.start + strong.end) / 2 == pytest.approx(31, abs=1)
    assert strong.strength == pytest.approx(0.815)
    changes = [(item.previous_emotion, item.emotion) for item in highlights if item.kind == "change"]
    assert ("neutral", "angry") in changes
    assert all("sad" not in (item.previous_emotion, item.emotion) for item in highlights)
    assert [highlight.number for highlight in highlights] == list(range(1, len(highlights) + 1))


def test_highlights_are_few_short_and_do_not_overlap_much() -> None:
    predictions = [predict(name) for _ in range(40) for name in ("happy", "sad", "angry", "neutral") for _ in range(12)]
    highlights = highlights_of(predictions, 1000.0, 7)
    assert len(highlights) == 7
    assert {highlight.emotion for highlight in highlights if highlight.kind == "strong"} == {"happy", "sad", "angry"}
    for highlight in highlights:
        assert 0 <= highlight.start < highlight.end <= 1000
        assert highlight.end - highlight.start <= MAX_SECONDS + 1e-9
    for first, second in pairwise(highlights):
        assert second.start >= first.start
        assert min(first.end, second.end) - second.start <= MAX_SECONDS / 2
    assert highlights_of([None] * 50) == highlights_of([]) == []


def test_the_summary_describes_who_talked_and_how_it_sounded() -> None:
    left = make_speaker("left", [predict("neutral")] * 15 + [None] * 20 + [predict("neutral")] * 10 + [None] * 15)
    right = make_speaker("right", [None] * 15 + [predict("angry")] * 17 + [None] * 15 + [predict("happy")] * 15)
    lines = summarize(make_conversation(left, right, duration=76.0))
    assert lines[0].startswith("Left talked for 0:29 (38 %), right for 0:36 (47 %), nobody for 0:")
    assert lines[0].endswith("and two at once for 0:02 (3 %).")
    assert "Left sounded neutral (100 % of the speech)." in lines
    (line,) = (line for line in lines if line.startswith("Right sounded negative in one segment, "))
    assert line.endswith("mostly angry.")
    assert "No negative segment was found for left." in lines
    trend = "right's speech that sounded sad or angry fell from 100 % in the first third"
    assert any(trend in line for line in lines)
    assert lines[-1] == "At the end left sounded neutral and right happy."
    assert not any(" was angry" in line or " felt " in line for line in lines)


def test_the_summary_describes_who_was_first_and_how_the_other_responded_unless_with_one_word() -> None:
    left = make_speaker("left", [predict("angry")] * 20 + [None] * 30)
    right = make_speaker("right", [None] * 8 + [predict("neutral")] * 12 + [None] * 5 + [predict("sad")] * 10)
    lines = summarize(make_conversation(left, right))
    assert any(line.startswith("Left was the first to sound negative, at 0:0") for line in lines)
    response = "From 0:00 to 0:26, while left sounded negative and just after, right sounded mostly neutral."
    assert response in lines
    windows = make_windows([None] * 8 + [predict("happy")])
    word = Speaker("right", windows, [], [(9.0, 10.0)], {"happy": 1.0}, 0.0, [], None)
    assert not any("just after" in line for line in summarize(make_conversation(left, word)))


def test_a_main_emotion_needs_a_larger_share_than_what_is_uncertain() -> None:
    """3 % of anger are not "mostly angry" if the rest is uncertain."""
    rare = make_speaker("left", [predict("angry")] * 3 + [predict("angry", 0.4)] * 97)
    assert (rare.main_emotion, rare.uncertain_share) == (None, pytest.approx(0.97))
    lines = summarize(make_conversation(rare, duration=120.0))
    (line,) = (line for line in lines if line.startswith("Left: 97 % of the speech was too uncertain to name"))
    assert line.endswith("an emotion; the rest sounded mostly angry (3 %).")
    assert make_speaker("left", [predict("angry")] * 3 + [predict("angry", 0.4)] * 2).main_emotion == "angry"


def test_one_word_is_not_a_trend() -> None:
    """A single window in the first third would make the share rise from 0 % to 100 %."""
    angry = [None] * 70 + [predict("angry")] * 25
    lines = summarize(make_conversation(make_speaker("left", [predict("neutral")] * 3 + angry[3:])))
    assert not any("third" in line for line in lines)
    lines = summarize(make_conversation(make_speaker("left", [predict("neutral")] * 12 + angry[12:])))
    assert any("rose from 0 % in the first third to 100 % in the last" in line for line in lines)


def test_a_speaker_who_stopped_long_before_is_not_described_at_the_end() -> None:
    left, right = make_speaker("left", [predict("neutral")] * 95), make_speaker("right", [predict("angry")] * 40)
    assert summarize(make_conversation(left, right))[-1] == "At the end left sounded neutral."
    assert not any(line.startswith("At the end") for line in summarize(make_conversation(right)))


def test_the_summary_admits_how_little_is_known() -> None:
    lines = summarize(make_conversation(make_speaker("all speakers", [predict("angry", 0.4)] * 10)))
    assert lines[0].startswith("Somebody talked for 0:12 (12 %), nobody for 1:28 (88 %)")
    assert lines[1] == "The longest pause, 1:28, began at 0:12."
    assert "All speakers: the speech was too uncertain to name an emotion." in lines
    short = make_speaker("all speakers", [predict("happy")] * 5 + [predict("sad", 0.4)] * 5)
    half = "50 % of the speech was too uncertain to name an emotion; the rest sounded mostly happy (50 %); that"
    assert any(half in line for line in summarize(make_conversation(short)))
    silent = summarize(make_conversation(make_speaker("all speakers", [None] * 5)))
    assert silent[-1] == "There was too little speech to analyze."


def test_times_and_shares_are_written_for_people() -> None:
    assert [clock(time) for time in (0, 7.4, 59.6, 760, 3723)] == ["0:00", "0:07", "1:00", "12:40", "1:02:03"]
    assert [percent(share) for share in (0, 0.004, 0.42, 1)] == ["0 %", "under 1 %", "42 %", "100 %"]
