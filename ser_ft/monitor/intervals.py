"""Who talks when: stretches of speech, what two of them share, and what none of them covers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

Spans: TypeAlias = "list[tuple[float, float]]"


def union(spans: Iterable[tuple[float, float]]) -> Spans:
    """Join stretches that touch or lie over each other.

    Args:
        spans: (start, end) in seconds, in any order.

    Returns:
        the same time, in order, no two of them touching.
    """
    joined: Spans = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        elif end > start:
            joined.append((start, end))
    return joined


def overlaps(voices: Sequence[Spans]) -> Spans:
    """Return where two voices or more talk at once; each voice's stretches as `union` gives them."""
    steps = sorted((time, step) for spans in voices for start, end in spans for time, step in ((start, 1), (end, -1)))
    found: Spans = []
    talking, since = 0, 0.0
    for time, step in steps:
        before, talking = talking, talking + step
        if before == 1 and talking == 2:
            since = time
        elif before == 2 and talking == 1:
            found.append((since, time))
    return union(found)


def gaps(spans: Spans, end: float) -> Spans:
    """Return what stretches, as `union` gives them, leave of the time from 0 to `end`."""
    edges = [0.0, *(time for span in spans for time in span), end]
    return [(start, stop) for start, stop in zip(edges[::2], edges[1::2], strict=True) if stop > start]


def seconds(spans: Iterable[tuple[float, float]], start: float = 0.0, end: float = float("inf")) -> float:
    """Add up the lengths of stretches that do not lie over each other, as far as they are within start and end."""
    return sum(max(0.0, min(stop, end) - max(begin, start)) for begin, stop in spans)
