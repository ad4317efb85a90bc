"""Highlights: short passages worth listening to, where a speaker sounds most emotional or changes sharply."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np

from ..inference.windows import Segment, Window

MAX_SECONDS = 10.0
"""Longest highlight, in seconds."""
MAX_HIGHLIGHTS = 12
"""Most highlights of a recording."""
MIN_CHANGE = 0.5
"""Smallest change that is reported: half the sum of the absolute differences in probability, from 0 to 1."""
_CHANGE_WINDOWS = 5  # windows before and after a change that are averaged
_MIN_SEGMENT_SECONDS = 1.0
_PADDING_SECONDS = 0.5  # added before and after a segment
_MAX_PER_KIND = 3  # highlights of one speaker with the same emotion, or changes of one speaker


@dataclass(frozen=True)
class Highlight:
    """A passage to listen to.

    Attributes:
        number: position in the recording, from 1.
        kind: "strong" for the strongest part of an emotion, "change" for a change between two emotions.
        speaker: index of the speaker.
        start: in seconds of the recording.
        end: in seconds of the recording.
        emotion: how the speaker sounds; after the change for a change.
        previous_emotion: how the speaker sounds before a change; None otherwise.
        strength: the emotion's mean probability; for a change, the distance as defined for `MIN_CHANGE`.
    """

    number: int
    kind: Literal["strong", "change"]
    speaker: int
    start: float
    end: float
    emotion: str
    previous_emotion: str | None
    strength: float


class _WindowProbabilities:
    """Looks up the smoothed probabilities of a speaker's windows by time."""

    def __init__(self, windows: Sequence[Window]) -> None:
        smoothed = [(window, window.smoothed) for window in windows if window.smoothed is not None]
        self._middles = [(window.start + window.end) / 2 for window, _ in smoothed]
        self._probabilities = [probabilities for _, probabilities in smoothed]

    def between(self, start: float, end: float) -> list[tuple[float, np.ndarray]]:
        """Return middle and probabilities of each window whose middle lies between two times."""
        matching = slice(bisect_left(self._middles, start), bisect_right(self._middles, end))
        return list(zip(self._middles[matching], self._probabilities[matching], strict=True))


def select_highlights(
    speakers: Sequence[tuple[Sequence[Window], Sequence[Segment]]],
    classes: Sequence[str],
    emotions: Collection[str],
    duration: float,
    max_highlights: int = MAX_HIGHLIGHTS,
) -> list[Highlight]:
    """Select highlights from a recording, without its uncertain segments.

    For each speaker, the strongest segments of each emotion and the sharpest changes are taken in turns, strongest
    first, until there are enough. No two highlights of a speaker overlap by more than half.

    Args:
        speakers: windows and segments of each speaker.
        classes: the class that each probability of a window belongs to.
        emotions: the emotions that are worth listening to.
        duration: of the recording, in seconds.
        max_highlights: the most that are returned.

    Returns:
        The highlights, in order of time.
    """
    candidates = []
    for speaker, (windows, segments) in enumerate(speakers):
        probabilities = _WindowProbabilities(windows)
        certain = [s for s in segments if not s.uncertain and s.end - s.start >= _MIN_SEGMENT_SECONDS]
        for emotion in emotions:
            column = list(classes).index(emotion)
            matching = [segment for segment in certain if segment.emotion == emotion]
            candidates.append(_strongest_first(_strong(speaker, s, probabilities, column) for s in matching))
        candidates.append(_strongest_first(_changes(speaker, segments, probabilities)))
    selected: list[Highlight] = []
    for turn in range(_MAX_PER_KIND):
        for highlight in _strongest_first(ranked[turn] for ranked in candidates if len(ranked) > turn):
            clipped = replace(highlight, start=max(0.0, highlight.start), end=min(duration, highlight.end))
            if len(selected) < max_highlights and not any(_overlap(clipped, other) for other in selected):
                selected.append(clipped)
    selected.sort(key=lambda highlight: (highlight.start, highlight.speaker))
    return [replace(highlight, number=number) for number, highlight in enumerate(selected, 1)]


def _strong(speaker: int, segment: Segment, probabilities: _WindowProbabilities, column: int) -> Highlight:
    """Return the highlight of a segment: all of it, or the part around the strongest window of a long one."""
    start, end = segment.start - _PADDING_SECONDS, segment.end + _PADDING_SECONDS
    if end - start > MAX_SECONDS:
        windows = probabilities.between(start, end) or [(start + MAX_SECONDS / 2, np.zeros(column + 1))]
        peak = max(windows, key=lambda pair: float(pair[1][column]))[0]
        start = min(max(start, peak - MAX_SECONDS / 2), end - MAX_SECONDS)
        end = start + MAX_SECONDS
    return Highlight(0, "strong", speaker, start, end, segment.emotion, None, segment.probability)


def _changes(speaker: int, segments: Sequence[Segment], probabilities: _WindowProbabilities) -> Iterator[Highlight]:
    for segment, following in pairwise(segments):
        if segment.uncertain or following.uncertain or following.start - segment.end > MAX_SECONDS / 2:
            continue
        before = [scores for _, scores in probabilities.between(segment.start, segment.end)][-_CHANGE_WINDOWS:]
        after = [scores for _, scores in probabilities.between(following.start, following.end)][:_CHANGE_WINDOWS]
        if not before or not after:
            continue
        change = float(np.abs(np.mean(before, axis=0) - np.mean(after, axis=0)).sum() / 2)
        if change >= MIN_CHANGE:
            start = (segment.end + following.start - MAX_SECONDS) / 2
            end = start + MAX_SECONDS
            yield Highlight(0, "change", speaker, start, end, following.emotion, segment.emotion, change)


def _strongest_first(highlights: Iterable[Highlight]) -> list[Highlight]:
    return sorted(highlights, key=lambda highlight: -highlight.strength)


def _overlap(first: Highlight, second: Highlight) -> bool:
    shared = min(first.end, second.end) - max(first.start, second.start)
    shorter = min(first.end - first.start, second.end - second.start)
    return first.speaker == second.speaker and shared > 0.5 * shorter
