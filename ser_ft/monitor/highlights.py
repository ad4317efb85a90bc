"""Moments worth listening to: where a voice sounds most of an emotion, and where it changes sharply."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from ..inference.windows import Segment, Window

LONGEST = 10.0
"""Seconds of sound of a moment, at most."""
MOST = 12
"""Moments of a recording, at most."""
CHANGE = 0.5
"""How far the answers before and after must differ: half the sum of the probabilities' differences, from 0 to 1."""
_AROUND = 5  # windows before and after that a change is measured on
_LEAST = 1.0  # seconds of a segment that is worth it
_PAD = 0.5  # seconds kept before and after a segment
_OF_ONE_KIND = 3  # turns: moments of one emotion, or changes, of one voice at most


@dataclass(frozen=True)
class Moment:
    """A moment to listen to; times in seconds of the recording.

    Attributes:
        number: its place in the recording, from 1. kind: "strong" or "change". voice: the number of its channel.
        start: where to listen from. end: to where.
        emotion: how it sounds; after the change. before: how it sounds before the change.
        strength: the mean probability of the emotion; of a change, how far the answers differ: see `CHANGE`.
    """

    number: int
    kind: str
    voice: int
    start: float
    end: float
    emotion: str
    before: str | None
    strength: float


class _Answers:
    """The judged windows of a voice: where their middles lie, in seconds, and their answers."""

    def __init__(self, windows: Sequence[Window]) -> None:
        judged = [window for window in windows if window.smoothed is not None]
        self._middles = [(window.start + window.end) / 2 for window in judged]
        self._answers = [window.smoothed for window in judged]

    def within(self, start: float, end: float) -> list[tuple[float, np.ndarray]]:
        first, last = bisect_left(self._middles, start), bisect_right(self._middles, end)
        return [(self._middles[at], answer) for at in range(first, last) if (answer := self._answers[at]) is not None]


def moments(
    voices: Sequence[tuple[Sequence[Window], Sequence[Segment]]],
    classes: Sequence[str],
    telling: Collection[str],
    duration: float,
    most: int = MOST,
) -> list[Moment]:
    """Choose moments, uncertain stretches left out.

    The strongest segments of each of the emotions and the sharpest changes of each voice are taken in turn, the
    strongest first, until there are enough; none lies more than half over another of the same voice.

    Args:
        voices: the windows and segments of each. classes: of the windows' probabilities.
        telling: the emotions that are worth listening to. duration: of the recording, in seconds.
        most: how many at most.

    Returns:
        the moments, in the order of their time.
    """
    piles = []
    for place, (windows, segments) in enumerate(voices):
        answers = _Answers(windows)
        certain = [one for one in segments if not one.uncertain and one.end - one.start >= _LEAST]
        for emotion in telling:
            column = list(classes).index(emotion)
            found = [_strong(place, segment, answers, column) for segment in certain if segment.emotion == emotion]
            piles.append(_strongest(found))
        piles.append(_strongest(_changes(place, segments, answers)))
    chosen: list[Moment] = []
    for turn in range(_OF_ONE_KIND):
        for moment in _strongest(pile[turn] for pile in piles if len(pile) > turn):
            inside = replace(moment, start=max(0.0, moment.start), end=min(duration, moment.end))
            if len(chosen) < most and not any(_same(inside, other) for other in chosen):
                chosen.append(inside)
    chosen.sort(key=lambda moment: (moment.start, moment.voice))
    return [replace(moment, number=number) for number, moment in enumerate(chosen, 1)]


def _strong(voice: int, segment: Segment, answers: _Answers, column: int) -> Moment:
    """Make a moment of a segment: of a long one, what is about its strongest window."""
    start, end = segment.start - _PAD, segment.end + _PAD
    if end - start > LONGEST:
        inside = answers.within(start, end) or [(start + LONGEST / 2, np.zeros(column + 1))]
        peak = max(inside, key=lambda pair: float(pair[1][column]))[0]
        start = min(max(start, peak - LONGEST / 2), end - LONGEST)
        end = start + LONGEST
    return Moment(0, "strong", voice, start, end, segment.emotion, None, segment.probability)


def _changes(voice: int, segments: Sequence[Segment], answers: _Answers) -> Iterator[Moment]:
    """Find where one segment follows another without being like it."""
    for one, two in pairwise(segments):
        if one.uncertain or two.uncertain or two.start - one.end > LONGEST / 2:
            continue
        before = [answer for _, answer in answers.within(one.start, one.end)][-_AROUND:]
        after = [answer for _, answer in answers.within(two.start, two.end)][:_AROUND]
        if not before or not after:
            continue
        change = float(np.abs(np.mean(before, axis=0) - np.mean(after, axis=0)).sum() / 2)
        if change >= CHANGE:
            start = (one.end + two.start - LONGEST) / 2
            yield Moment(0, "change", voice, start, start + LONGEST, two.emotion, one.emotion, change)


def _strongest(found: Iterable[Moment]) -> list[Moment]:
    return sorted(found, key=lambda moment: -moment.strength)


def _same(one: Moment, other: Moment) -> bool:
    shared = min(one.end, other.end) - max(one.start, other.start)
    return one.voice == other.voice and shared > 0.5 * min(one.end - one.start, other.end - other.start)
