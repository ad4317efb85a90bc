"""What `ser-ft monitor` makes of answers: who talks, runs of dissatisfaction, baselines, moments, sentences."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest

from ser_ft.inference.backends import ModelInfo
from ser_ft.inference.windows import Segment, Window, WindowSettings, merge_windows
from ser_ft.monitor import intervals
from ser_ft.monitor import speaker_baseline as own
from ser_ft.monitor.conversation import Conversation, MonitorSettings, Voice, shares
from ser_ft.monitor.highlights import LONGEST, MOST, Moment, moments
from ser_ft.monitor.negative_segments import definition, named, runs
from ser_ft.monitor.summary import clock, feedback, percent
from ser_ft.utils.errors import InputError

CLASSES = ("neutral", "happy", "sad", "angry")
FACTS = ModelInfo("made up", CLASSES, 0.5, 1600)
SETTINGS = WindowSettings(smoothing=0.0)


def answer(emotion: str, sure: float = 0.85) -> np.ndarray:
    probabilities = np.full(4, (1 - sure) / 3)
    probabilities[CLASSES.index(emotion)] = sure
    return probabilities


def windows(told: Sequence[np.ndarray | None], begin: int = 0) -> list[Window]:
    """A window of three seconds each second, all speech; None is silence."""
    made = []
    for second, given in enumerate(told, begin):
        spans = () if given is None else ((float(second), second + 3.0),)
        made.append(Window(float(second), second + 3.0, float(given is not None), given, given, -20.0, spans))
    return made


def voice(name: str, told: Sequence[np.ndarray | None], begin: int = 0) -> Voice:
    made = windows(told, begin)
    found = merge_windows(made, FACTS, SETTINGS)
    spoken = intervals.union(span for window in made for span in window.spans)
    parts, unsure = shares(made, FACTS)
    return Voice(name, made, found, spoken, parts, unsure, runs(found, spoken, ("sad", "angry"), 2.0), None)


def conversation(*voices: Voice, duration: float = 100.0) -> Conversation:
    spoken = intervals.union(span for one in voices for span in one.talk)
    silences = intervals.gaps(spoken, duration)
    return Conversation(
        path="call.wav",
        duration=duration,
        rate=16_000,
        channels=len(voices),
        mixed=len(voices) == 1,
        info=FACTS,
        settings=MonitorSettings(SETTINGS),
        negative=("sad", "angry"),
        voices=voices,
        silence=intervals.seconds(silences),
        overlap=intervals.seconds(intervals.overlaps([one.talk for one in voices])),
        pauses=[span for span in silences if span[1] - span[0] >= 5],
        moments=[],
        notes=[],
    )


def segment(start: float, end: float, emotion: str, probability: float = 0.8, uncertain: bool = False) -> Segment:
    return Segment(start, end, emotion, probability, uncertain)


def test_talk_is_added_up_shared_and_left_over() -> None:
    one = intervals.union([(4.0, 6.0), (0.0, 2.0), (1.0, 3.0), (6.0, 7.0), (9.0, 9.0)])
    assert one == [(0.0, 3.0), (4.0, 7.0)]
    assert intervals.overlaps([one, [(2.0, 5.0)], [(2.5, 2.75)]]) == [(2.0, 3.0), (4.0, 5.0)]
    assert intervals.overlaps([one]) == intervals.overlaps([]) == []
    assert intervals.gaps(one, 10.0) == [(3.0, 4.0), (7.0, 10.0)]
    assert intervals.gaps([], 10.0) == [(0.0, 10.0)]
    assert intervals.seconds(one) == 6.0
    assert intervals.seconds(one, 2.0, 5.0) == 2.0


def test_random_talk_agrees_with_counting() -> None:
    draw = np.random.default_rng(0)
    spans = [[tuple(np.sort(draw.integers(0, 200, 2)).tolist()) for _ in range(12)] for _ in range(3)]
    grid = np.zeros((3, 200), bool)
    for row, some in zip(grid, spans, strict=True):
        for start, end in some:
            row[start:end] = True
    voices = [intervals.union(some) for some in spans]
    assert [intervals.seconds(one) for one in voices] == list(grid.sum(axis=1))
    assert intervals.seconds(intervals.overlaps(voices)) == (grid.sum(axis=0) > 1).sum()
    everyone = intervals.union(span for one in voices for span in one)
    assert intervals.seconds(intervals.gaps(everyone, 200.0)) == (~grid.any(axis=0)).sum()


def test_a_run_joins_what_is_negative_and_certain() -> None:
    told = [segment(0, 4, "sad"), segment(4, 9, "angry", 0.6), segment(10.5, 13, "sad"), segment(13, 20, "happy")]
    (run,) = runs(told, [(0.0, 20.0)], ("sad", "angry"), gap=2.0)
    assert (run.start, run.end, run.speech, run.emotion) == (0, 13, 13, "sad")
    assert run.emotions == {"sad": 6.5, "angry": 5}
    assert run.probability == pytest.approx((6.5 * 0.8 + 5 * 0.6) / 11.5)


@pytest.mark.parametrize(
    "told",
    [
        [segment(0, 4.9, "angry")],
        [segment(0, 4, "angry"), segment(6.1, 10, "angry")],
        [segment(0, 4, "angry"), segment(4, 5, "neutral"), segment(5, 9, "angry")],
        [segment(0, 4, "angry"), segment(4, 5, "sad", 0.3, True), segment(5, 9, "angry")],
        [segment(0, 60, "angry", 0.4, True)],
        [segment(0, 60, "happy")],
    ],
    ids=["too short", "a pause between", "another emotion between", "uncertain between", "all uncertain", "happy"],
)
def test_no_run_where_the_definition_does_not_hold(told: list[Segment]) -> None:
    assert runs(told, [(0.0, 60.0)], ("sad", "angry"), gap=2.0) == []


def test_a_share_of_dissatisfaction_is_of_the_speech_and_not_of_the_pauses() -> None:
    found = runs([segment(0, 10, "angry")], [(0.0, 3.0), (4.5, 10.0), (20.0, 30.0)], ("angry",), gap=2.0)
    made = Voice("one", windows([answer("angry")]), [], [(0.0, 3.0), (4.5, 10.0), (20.0, 30.0)], {}, 0.0, found, None)
    assert made.dissatisfied == pytest.approx(8.5 / 18.5)


def test_emotions_are_known_by_their_synonyms() -> None:
    assert named(("Anger", "happiness", "SAD", "own"), ("angry", "sad")) == ("Anger", "SAD")
    assert named(("good", "bad"), ("bad",)) == ("bad",)
    assert named(("good", "bad")) == ()
    assert "sounds sad or angry throughout" in str(definition(("sad", "angry"), 2.0))
    assert definition((), 2.0) is None


def test_shares_add_up_and_weigh_by_speech() -> None:
    made = windows([answer("angry"), answer("happy"), answer("sad", 0.4), None])
    made[1] = Window(1.0, 4.0, 0.5, made[1].probabilities, made[1].smoothed, -20.0, ())
    parts, unsure = shares(made, FACTS)
    assert parts == pytest.approx({"neutral": 0, "happy": 0.2, "sad": 0, "angry": 0.4})
    assert unsure == pytest.approx(0.4)
    assert shares([], FACTS) == (dict.fromkeys(CLASSES, 0.0), 0.0)
    without = ModelInfo("made up", CLASSES, None, 1600)
    assert shares(made, without)[1] == 0


def test_a_voice_that_always_sounds_angry_is_judged_by_what_departs_from_it() -> None:
    usual = np.array([0.3, 0.05, 0.05, 0.6])
    told = windows([usual] * 60 + [answer("sad", 0.9)] * 5)
    found = own.baseline(told, CLASSES, 20.0, 1.0)
    assert found is not None
    assert (found.windows, found.until) == (20, 22.0)
    # Angry at e^(0.69) against neutral, where a third of the other half was expected: ln(0.6 / 0.3) - ln(1/3).
    assert found.lowered == pytest.approx({"neutral": 0, "happy": 0, "sad": 0, "angry": np.log(6)})
    moved = own.taken_off(told, found, SETTINGS)
    assert moved[0].smoothed == pytest.approx(np.array([0.3, 0.05, 0.05, 0.1]) / 0.5)
    assert CLASSES[int(moved[-1].smoothed.argmax())] == "sad"
    assert moved[-1].smoothed.sum() == pytest.approx(1)


def test_a_baseline_raises_nothing_and_moves_no_order_of_what_it_leaves() -> None:
    draw = np.random.default_rng(0)
    told = windows([*draw.dirichlet(np.ones(4), 50), None, answer("neutral")])
    found = own.baseline(told, CLASSES, 10.0, 1.0)
    assert found is not None
    assert min(found.lowered.values()) == 0 == found.lowered["neutral"]
    quiet = own.baseline(windows([answer("neutral", 0.97)] * 50), CLASSES, 10.0, 1.0)
    assert quiet is not None
    assert set(quiet.lowered.values()) == {0.0}
    assert own.taken_off(told, found, SETTINGS)[50].smoothed is None


def test_no_baseline_where_it_would_leave_too_little() -> None:
    told = windows([answer("neutral")] * 30)
    assert own.baseline(told, CLASSES, 16.0, 1.0) is None
    assert own.baseline(told, CLASSES, 15.0, 1.0) is not None
    assert own.baseline(windows([None] * 30), CLASSES, 15.0, 1.0) is None
    with pytest.raises(InputError, match="needs a model that knows neutral or calm, not good, bad"):
        own.baseline(told, ("good", "bad"), 15.0, 1.0)
    with pytest.raises(InputError, match="a baseline is some seconds of speech, such as 60, not -1"):
        MonitorSettings(baseline=-1)


def chosen(told: Sequence[np.ndarray | None], duration: float = 1000.0, most: int = MOST) -> list[Moment]:
    one = voice("one", told)
    return moments([(one.windows, one.segments)], CLASSES, ("happy", "sad", "angry"), duration, most)


def test_moments_are_the_strongest_and_the_changes_never_the_uncertain() -> None:
    calm = [answer("neutral")] * 20
    angry = [answer("angry", 0.8)] * 9 + [answer("angry", 0.95)] * 2 + [answer("angry", 0.8)] * 9
    found = chosen(calm + angry + calm + [answer("sad", 0.45)] * 20 + calm, 200)
    assert {moment.emotion for moment in found} == {"angry", "neutral"}
    strong = next(moment for moment in found if moment.kind == "strong")
    assert strong.start < 31 < strong.end
    assert (strong.start + strong.end) / 2 == pytest.approx(31, abs=1)
    assert strong.strength == pytest.approx(0.815)
    changes = [moment for moment in found if moment.kind == "change"]
    assert ("neutral", "angry") in [(moment.before, moment.emotion) for moment in changes]
    assert all("sad" not in (moment.before, moment.emotion) for moment in found)
    assert [moment.number for moment in found] == list(range(1, len(found) + 1))


def test_moments_are_few_short_apart_and_inside() -> None:
    told = [answer(name) for _ in range(40) for name in ("happy", "sad", "angry", "neutral") for _ in range(12)]
    found = chosen(told, 1000.0, 7)
    assert len(found) == 7
    assert {moment.emotion for moment in found if moment.kind == "strong"} == {"happy", "sad", "angry"}
    for moment in found:
        assert 0 <= moment.start < moment.end <= 1000
        assert moment.end - moment.start <= LONGEST + 1e-9
    for one, two in pairwise(found):
        assert two.start >= one.start
        assert min(one.end, two.end) - two.start <= LONGEST / 2
    assert chosen([None] * 50) == chosen([]) == []


def test_the_sentences_of_a_complaint() -> None:
    agent = voice("agent", [answer("neutral")] * 15 + [None] * 20 + [answer("neutral")] * 10 + [None] * 15, 0)
    customer = voice("customer", [None] * 15 + [answer("angry")] * 17 + [None] * 15 + [answer("happy")] * 15, 0)
    told = feedback(conversation(agent, customer, duration=76.0))
    assert told[0].startswith("Agent talked for 0:29 (38 %), customer for 0:36 (47 %), nobody for 0:")
    assert told[0].endswith("and two at once for 0:02 (3 %).")
    assert "Agent sounded neutral (100 % of the speech)." in told
    assert any(line.startswith("Customer sounded dissatisfied in one run, ") for line in told)
    assert any(line.endswith("mostly angry.") for line in told)
    assert "No run of dissatisfaction was found for agent." in told
    assert any(
        "customer's speech that sounded sad or angry fell from 100 % in the first third" in line for line in told
    )
    assert told[-1] == "At the end agent sounded neutral and customer happy."
    assert not any(" was angry" in line or " felt " in line for line in told)


def test_the_sentences_say_who_was_first_and_how_the_other_answered() -> None:
    first = voice("customer", [answer("angry")] * 20 + [None] * 30)
    second = voice("agent", [None] * 8 + [answer("neutral")] * 12 + [None] * 5 + [answer("sad")] * 10)
    told = feedback(conversation(first, second))
    assert any(line.startswith("Customer was the first to sound so, at 0:0") for line in told)
    assert "From 0:00 to 0:26, while customer sounded so and just after, agent sounded mostly neutral." in told


def test_nothing_is_said_of_how_a_voice_answered_in_a_word() -> None:
    angry = voice("customer", [answer("angry")] * 20 + [None] * 30)
    word = Voice("agent", windows([answer("happy")], 8), [], [(9.0, 10.0)], {"happy": 1.0}, 0.0, [], None)
    assert not any("just after" in line for line in feedback(conversation(angry, word)))


def test_an_emotion_is_named_where_there_is_more_of_it_than_of_what_is_uncertain() -> None:
    """3 % of anger is not "mostly angry" where the rest cannot be named."""
    rare = voice("customer", [answer("angry")] * 3 + [answer("angry", 0.4)] * 97)
    assert (rare.top, rare.shares["angry"], rare.uncertain) == (None, pytest.approx(0.03), pytest.approx(0.97))
    told = feedback(conversation(rare, duration=120.0))
    (line,) = (line for line in told if line.startswith("Customer: 97 % of the speech was too uncertain to name"))
    assert line.endswith("an emotion; what could be named sounded mostly angry (3 %).")
    assert voice("customer", [answer("angry")] * 3 + [answer("angry", 0.4)] * 2).top == "angry"


def test_no_trend_from_a_word() -> None:
    """A single window in the first third made it rise from 0 % to 100 %."""
    angry = [None] * 70 + [answer("angry")] * 25
    told = feedback(conversation(voice("customer", [answer("neutral")] * 3 + angry[3:])))
    assert not any("third" in line for line in told)
    told = feedback(conversation(voice("customer", [answer("neutral")] * 12 + angry[12:])))
    assert any("rose from 0 % in the first third to 100 % in the last" in line for line in told)


def test_who_fell_silent_long_before_is_not_heard_at_the_end() -> None:
    agent, customer = voice("agent", [answer("neutral")] * 95), voice("customer", [answer("angry")] * 40)
    assert feedback(conversation(agent, customer))[-1] == "At the end agent sounded neutral."
    assert not any(line.startswith("At the end") for line in feedback(conversation(customer)))


def test_the_sentences_say_where_little_is_known() -> None:
    unsure = voice("the voices", [answer("angry", 0.4)] * 10)
    told = feedback(conversation(unsure))
    assert told[0].startswith("Somebody talked for 0:12 (12 %), nobody for 1:28 (88 %)")
    assert told[1] == "The longest pause, 1:28, began at 0:12."
    assert "The voices: the speech was too uncertain to name an emotion." in told
    short = feedback(conversation(voice("the voices", [answer("happy")] * 5 + [answer("sad", 0.4)] * 5)))
    assert any(
        "50 % of the speech was too uncertain to name an emotion; what could be named sounded mostly happy (50 %); that"
        in line
        for line in short
    )
    silent = feedback(conversation(voice("the voices", [None] * 5)))
    assert silent[-1] == "There was too little speech to judge."


def test_times_and_shares_are_written_for_people() -> None:
    assert [clock(time) for time in (0, 7.4, 59.6, 760, 3723)] == ["0:00", "0:07", "1:00", "12:40", "1:02:03"]
    assert [percent(share) for share in (0, 0.004, 0.42, 1)] == ["0 %", "under 1 %", "42 %", "100 %"]
