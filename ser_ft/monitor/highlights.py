"""Highlights: short passages worth listening to, where a speaker sounds most emotional or changes sharply."""

from __future__ import annotations

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
        emotion: for a change, the emotion after it.
        previous_emotion: the emotion before a change; None otherwise.
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
    def __init__(self, windows: Sequence[Window]) -> None:
        with_speech = [window for window in windows if window.smoothed is not None]
        self._middles = np.array([(window.start + window.end) / 2 for window in with_speech])
        self._probabilities = np.array([window.smoothed for window in with_speech])

    def between(self, start: float, end: float) -> tuple[np.ndarray, np.ndarray]:
        """Return middles and smoothed probabilities of the windows whose middles lie between two times."""
        matching = slice(np.searchsorted(self._middles, start), np.searchsorted(self._middles, end, "right"))
        return self._middles[matching], self._probabilities[matching]


def select_highlights(
    speakers: Sequence[tuple[Sequence[Window], Sequence[Segment]]],
    classes: Sequence[str],
    emotions: Collection[str],
    duration: float,
    max_highlights: int = MAX_HIGHLIGHTS,
) -> list[Highlight]:
    """Select highlights from the windows and segments of each speaker, in order of time.

    For each speaker, the strongest segments of each of the `emotions` and the sharpest changes are taken in turns,
    strongest first, until there are enough. Uncertain segments are not used. No two highlights of a speaker overlap by
    more than half. `duration` is that of the recording, in seconds.
    """
    candidates = []
    for speaker, (windows, segments) in enumerate(speakers):
        probabilities = _WindowProbabilities(windows)
        certain = [s for s in segments if not s.uncertain and s.end - s.start >= _MIN_SEGMENT_SECONDS]
        for emotion in emotions:
            column = classes.index(emotion)
            strong = (_strong(speaker, s, probabilities, column) for s in certain if s.emotion == emotion)
            candidates.append(_strongest_first(strong))
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
        middles, scores = probabilities.between(start, end)
        peak = float(middles[scores[:, column].argmax()]) if len(middles) else start + MAX_SECONDS / 2
        start = min(max(start, peak - MAX_SECONDS / 2), end - MAX_SECONDS)
        end = start + MAX_SECONDS
    return Highlight(0, "strong", speaker, start, end, segment.emotion, None, segment.probability)


def _changes(speaker: int, segments: Sequence[Segment], probabilities: _WindowProbabilities) -> Iterator[Highlight]:
    for segment, following in pairwise(segments):
        if segment.uncertain or following.uncertain or following.start - segment.end > MAX_SECONDS / 2:
            continue
        before = probabilities.between(segment.start, segment.end)[1][-_CHANGE_WINDOWS:]
        after = probabilities.between(following.start, following.end)[1][:_CHANGE_WINDOWS]
        if not len(before) or not len(after):
            continue
        change = float(np.abs(before.mean(axis=0) - after.mean(axis=0)).sum() / 2)
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
