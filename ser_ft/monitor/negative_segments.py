"""Dissatisfaction: what it is here, and where a voice sounds so."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ..inference.windows import Segment
from ..labels import canonical_name
from .intervals import Spans, seconds

NEGATIVE = ("angry", "sad", "fear", "disgust")
"""The emotions that count as dissatisfaction, where the user names no others."""
SHORTEST = 5.0
"""Seconds that a run must last at least: what is shorter is as likely a slip of the model."""
_ADJECTIVES = {"fear": "fearful", "disgust": "disgusted", "surprise": "surprised"}


@dataclass(frozen=True)
class Run:
    """A run of dissatisfaction; times in seconds of the recording.

    Attributes:
        start: of its first segment. end: of its last.
        speech: seconds of the voice's speech from start to end.
        emotion: the one with most of it. emotions: seconds of each in it, the most first.
        probability: mean over its segments, each by its length.
    """

    start: float
    end: float
    speech: float
    emotion: str
    emotions: dict[str, float]
    probability: float


def adjective(emotion: str) -> str:
    """Return how a voice sounds with an emotion: "fear" -> "fearful"; a class of the user's own as it is."""
    return _ADJECTIVES.get(canonical_name(emotion) or "", emotion)


def named(classes: Sequence[str], negative: Collection[str] = NEGATIVE) -> tuple[str, ...]:
    """Return which of a model's classes count, in its order: "anger" and "angry" are one."""
    wanted = {canonical_name(name) or name for name in negative}
    return tuple(name for name in classes if (canonical_name(name) or name) in wanted)


def runs(
    segments: Sequence[Segment], talk: Spans, negative: Collection[str], gap: float, shortest: float = SHORTEST
) -> list[Run]:
    """Find a voice's runs of dissatisfaction.

    A run is made of segments in a row, of any of the negative emotions, none of them uncertain, with no segment of
    another emotion and no silence of the voice longer than `gap` between them; it lasts `shortest` or more.

    Args:
        segments: of one voice, in order. talk: where it speaks, as `talk.union` gives it.
        negative: the classes that count: see `named`. gap: in seconds. shortest: in seconds.

    Returns:
        the runs, in order.
    """
    groups: list[list[Segment]] = []
    counts = [segment.emotion in negative and not segment.uncertain for segment in segments]
    for place, segment in enumerate(segments):
        if not counts[place]:
            continue
        if place and counts[place - 1] and segment.start - segments[place - 1].end <= gap:
            groups[-1].append(segment)
        else:
            groups.append([segment])
    return [_run(group, talk) for group in groups if group[-1].end - group[0].start >= shortest]


def longest(found: Sequence[Run]) -> Run | None:
    """Return the longest run, the first of several."""
    return max(found, key=lambda run: run.end - run.start, default=None)


def _run(group: Sequence[Segment], talk: Spans) -> Run:
    start, end = group[0].start, group[-1].end
    lengths: dict[str, float] = {}
    for segment in group:
        lengths[segment.emotion] = lengths.get(segment.emotion, 0.0) + segment.end - segment.start
    emotions = dict(sorted(lengths.items(), key=lambda pair: -pair[1]))
    weighed = sum(segment.probability * (segment.end - segment.start) for segment in group)
    return Run(
        start=start,
        end=end,
        speech=seconds(talk, start, end),
        emotion=next(iter(emotions)),
        emotions=emotions,
        probability=weighed / sum(lengths.values()),
    )


def definition(negative: Sequence[str], gap: float, shortest: float = SHORTEST) -> str | None:
    """Say in words what `runs` finds, and what its share is of; None where nothing counts as negative."""
    if not negative:
        return None
    *some, last = map(adjective, negative)
    emotions = f"{', '.join(some)} or {last}" if some else last
    return (
        f"A run of dissatisfaction is a stretch of {shortest:g} seconds or more in which a voice sounds {emotions} "
        f"throughout: segments in a row that are not uncertain, with no segment of another emotion and no pause of "
        f"that voice longer than {gap:g} seconds between them. Its share is the speech within the runs, of all "
        "speech of that voice."
    )
