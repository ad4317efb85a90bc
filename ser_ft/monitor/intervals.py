"""Arithmetic on time intervals: when speakers talk, when they overlap, and when nobody talks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

Intervals: TypeAlias = "list[tuple[float, float]]"
"""Pairs of start and end, in seconds."""


def union(intervals: Iterable[tuple[float, float]]) -> Intervals:
    """Sort intervals, and merge those that touch or overlap."""
    merged: Intervals = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        elif end > start:
            merged.append((start, end))
    return merged


def overlaps(speakers: Sequence[Intervals]) -> Intervals:
    """Return when two or more speakers talk at once; the intervals of each speaker must come from `union`."""
    steps = sorted((time, step) for spans in speakers for start, end in spans for time, step in ((start, 1), (end, -1)))
    overlapping: Intervals = []
    num_talking, overlap_start = 0, 0.0
    for time, step in steps:
        before, num_talking = num_talking, num_talking + step
        if before == 1 and num_talking == 2:
            overlap_start = time
        elif before == 2 and num_talking == 1:
            overlapping.append((overlap_start, time))
    return union(overlapping)


def gaps(intervals: Intervals, end: float) -> Intervals:
    """Return the time from 0 to `end` that the intervals, which must come from `union`, do not cover."""
    edges = [0.0, *(time for interval in intervals for time in interval), end]
    return [(start, stop) for start, stop in zip(edges[::2], edges[1::2], strict=True) if stop > start]


def total_seconds(intervals: Iterable[tuple[float, float]], start: float = 0.0, end: float = float("inf")) -> float:
    """Return the total length of the parts of intervals that lie between `start` and `end`."""
    return sum(max(0.0, min(last, end) - max(first, start)) for first, last in intervals)
