"""Negative segments: where a speaker sounds angry, sad, fearful or disgusted for several seconds."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ..inference.windows import Segment
from ..labels import canonical_name
from ..utils.text import fold
from .intervals import Intervals, total_seconds

NEGATIVE_EMOTIONS = ("angry", "sad", "fear", "disgust")
"""The emotions that count as negative by default."""
MIN_SECONDS = 5.0
"""Shortest negative segment, in seconds: shorter ones are as likely mistakes of the model."""
_ADJECTIVES = {"fear": "fearful", "disgust": "disgusted", "surprise": "surprised"}


@dataclass(frozen=True)
class NegativeSegment:
    """A stretch in which a speaker sounds negative throughout.

    Attributes:
        emotion: the emotion with the most seconds.
        emotion_seconds: seconds of each emotion, longest first.
        probability: mean probability of its emotion segments, weighted by their lengths.
    """

    start: float
    end: float
    speech_seconds: float
    emotion: str
    emotion_seconds: dict[str, float]
    probability: float


def adjective(emotion: str) -> str:
    """Return the adjective for an emotion, such as "fearful" for "fear"; other class names are returned unchanged."""
    return _ADJECTIVES.get(canonical_name(emotion) or "", emotion)


def negative_classes(classes: Sequence[str], emotions: Collection[str] = NEGATIVE_EMOTIONS) -> tuple[str, ...]:
    """Return the model's classes that are among the emotions or their synonyms, in the model's order."""
    names = {canonical_name(name) or fold(name) for name in emotions}
    return tuple(name for name in classes if (canonical_name(name) or fold(name)) in names)


def find_negative_segments(
    segments: Sequence[Segment], speech: Intervals, negative: Collection[str], max_gap: float
) -> list[NegativeSegment]:
    """Find the negative segments of one speaker, each `MIN_SECONDS` or longer.

    A negative segment consists of consecutive emotion segments. Each has one of the negative classes and is not
    uncertain. No segment of another emotion and no pause longer than `max_gap` seconds lies between them. `speech` must
    come from `intervals.union`.
    """
    groups: list[list[Segment]] = []
    counts = [segment.emotion in negative and not segment.uncertain for segment in segments]
    for place, segment in enumerate(segments):
        if not counts[place]:
            continue
        if place and counts[place - 1] and segment.start - segments[place - 1].end <= max_gap:
            groups[-1].append(segment)
        else:
            groups.append([segment])
    return [_merge(group, speech) for group in groups if group[-1].end - group[0].start >= MIN_SECONDS]


def _merge(group: Sequence[Segment], speech: Intervals) -> NegativeSegment:
    start, end = group[0].start, group[-1].end
    lengths: dict[str, float] = {}
    for segment in group:
        lengths[segment.emotion] = lengths.get(segment.emotion, 0.0) + segment.end - segment.start
    emotion_seconds = dict(sorted(lengths.items(), key=lambda pair: -pair[1]))
    weighted = sum(segment.probability * (segment.end - segment.start) for segment in group)
    speech_seconds, probability = total_seconds(speech, start, end), weighted / sum(lengths.values())
    return NegativeSegment(start, end, speech_seconds, next(iter(emotion_seconds)), emotion_seconds, probability)


def longest(segments: Sequence[NegativeSegment]) -> NegativeSegment | None:
    """Return the longest negative segment, or the first of several that are equally long."""
    return max(segments, key=lambda segment: segment.end - segment.start, default=None)


def definition(negative: Sequence[str], max_gap: float) -> str | None:
    """Describe what `find_negative_segments` finds, in words; None if no class counts as negative."""
    if not negative:
        return None
    *others, last = map(adjective, negative)
    emotions = f"{', '.join(others)} or {last}" if others else last
    return (
        f"A negative segment is a stretch of {MIN_SECONDS:g} seconds or more in which a speaker sounds {emotions} "
        f"throughout: consecutive segments that are not uncertain, with no segment of another emotion and no pause of "
        f"that speaker longer than {max_gap:g} seconds between them. The negative share is the speech within these "
        "segments, divided by all speech of that speaker."
    )
