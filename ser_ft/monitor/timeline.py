"""SVG timelines of a conversation: when each speaker talks, how the speaker sounds, and the model's probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import groupby
from math import ceil, floor

import numpy as np
from markupsafe import Markup

from ..inference.windows import Window
from ..labels import label_color
from .conversation import Conversation, Speaker
from .intervals import union
from .summary import clock

WIDTH, LEFT, RIGHT = 1000, 84, 26
_HIGHLIGHTS, _SPEECH, _SEGMENTS, _PROBABILITIES, _NEGATIVE, _AXIS = 2, 44, 62, 92, 190, 208  # top of each row
_HEIGHT = 226
_SPEECH_HEIGHT, _SEGMENTS_HEIGHT, _PROBABILITIES_HEIGHT = 9, 20, 92
_MAX_COLUMNS = 460  # of the stacked probabilities
_TICK_STEPS = (5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200)


def timeline(conversation: Conversation, index: int) -> Markup:
    """Draw the timeline of one speaker.

    From the top: numbers that link to the highlights; speech; emotion segments, lower and paler if uncertain; smoothed
    probabilities, negative classes at the bottom; negative segments; time. Emotion colors are those of
    `ser_ft.labels`; the page's style sheet sets all others.
    """
    speaker, scale = conversation.speakers[index], (WIDTH - LEFT - RIGHT) / conversation.duration
    has_highlights = any(highlight.speaker == index for highlight in conversation.highlights)
    top = 0 if has_highlights else _SPEECH - 6
    parts = [
        f'<svg class="timeline" viewBox="0 {top} {WIDTH} {_HEIGHT - top}" role="img" aria-label="'
        f'{escape(speaker.name)}: emotions over time; the tables below hold the same data">',
        *_background(conversation.duration, scale, has_highlights),
        *_speech(speaker, scale),
        f'<g transform="translate(0 {_SEGMENTS})">',
        *segment_bars(speaker, conversation, LEFT, scale, _SEGMENTS_HEIGHT),
        "</g>",
        *_stacked_probabilities(speaker, conversation, scale),
        *_negative_segments(speaker, scale),
    ]
    if speaker.baseline:
        x = _x(speaker.baseline.end, scale)
        parts.append(f'<path class="until" d="M{x} {_SPEECH - 4}V{_AXIS}"/>')
        parts.append(f'<text class="small" x="{x + 4}" y="{_AXIS - 6}">baseline ends</text>')
    parts += _highlight_links(conversation, index, scale)
    return Markup("".join([*parts, "</svg>"]))


def strip(conversation: Conversation) -> Markup:
    """Draw the emotion segments of all speakers, as one thin band each."""
    rows = len(conversation.speakers)
    names = escape(", ".join(speaker.name for speaker in conversation.speakers))
    parts = [
        f'<svg class="strip" viewBox="0 0 300 {10 * rows}" style="height: {0.85 * rows:g}rem" '
        f'preserveAspectRatio="none" role="img" aria-label="emotions of {names} over time">'
    ]
    for row, speaker in enumerate(conversation.speakers):
        parts.append(f'<g transform="translate(0 {10 * row})"><rect class="bed" width="300" height="9"/>')
        parts += [*segment_bars(speaker, conversation, 0, 300 / conversation.duration, 9), "</g>"]
    return Markup("".join([*parts, "</svg>"]))


def segment_bars(
    speaker: Speaker, conversation: Conversation, left: float, scale: float, height: float
) -> Iterator[str]:
    """Draw a speaker's emotion segments as rectangles with tooltips."""
    colors = class_colors(conversation.model.classes)
    for segment in speaker.segments:
        x, width = left + segment.start * scale, max(0.6, (segment.end - segment.start) * scale)
        bar_height = height / 2 if segment.uncertain else height
        opacity = ' opacity=".4"' if segment.uncertain else ""
        label = f"{'uncertain, ' if segment.uncertain else ''}{segment.emotion} {segment.probability:.2f}"
        tooltip = f"{clock(segment.start)} to {clock(segment.end)}: {label}"
        yield f'<rect x="{x:.1f}" y="{height - bar_height:g}" width="{width:.1f}" height="{bar_height:g}" '
        yield f'fill="{colors[segment.emotion]}"{opacity}><title>{escape(tooltip)}</title></rect>'


def class_colors(classes: Sequence[str]) -> Mapping[str, str]:
    """Return the color of each class."""
    return {name: label_color(name, place) for place, name in enumerate(classes)}


def area_path(xs: Sequence[float], lower: np.ndarray, upper: np.ndarray) -> str:
    """Return the SVG path of the area between two lines."""
    forth = [f"{x:g} {y:.1f}" for x, y in zip(xs, upper, strict=True)]
    back = [f"{x:g} {y:.1f}" for x, y in zip(reversed(xs), lower[::-1], strict=True)]
    return f"M{'L'.join([*forth, *back])}z"


def ticks(duration: float) -> list[int]:
    """Return the times, in whole seconds, that label the axis of a recording of `duration` seconds."""
    step = next((step for step in _TICK_STEPS if duration / step <= 12), _TICK_STEPS[-1])
    return list(range(0, int(duration) + 1, step))


def _x(time: float, scale: float) -> float:
    return round(LEFT + time * scale, 1)


def _background(duration: float, scale: float, has_highlights: bool) -> Iterator[str]:
    rows = {"highlights": 24, "speech": _SPEECH + 9, "emotion": _SEGMENTS + 15, "scores": _PROBABILITIES + 50}
    for name, y in list(rows.items())[0 if has_highlights else 1 :]:
        yield f'<text class="small" x="{LEFT - 10}" y="{y}" text-anchor="end">{name}</text>'
    width = WIDTH - LEFT - RIGHT
    yield f'<rect class="bed" x="{LEFT}" y="{_PROBABILITIES}" width="{width}" height="{_PROBABILITIES_HEIGHT}"/>'
    yield f'<path class="rule" d="M{LEFT} {_SPEECH + _SPEECH_HEIGHT + 0.5}H{WIDTH - RIGHT}M{LEFT} '
    yield f'{_SEGMENTS + _SEGMENTS_HEIGHT + 0.5}H{WIDTH - RIGHT}"/>'
    for time in ticks(duration):
        x = _x(time, scale)
        yield f'<path class="rule" d="M{x} {_AXIS - 6}v5"/>'
        yield f'<text class="small" x="{x}" y="{_AXIS + 12}" text-anchor="middle">{clock(time)}</text>'


def _speech(speaker: Speaker, scale: float) -> Iterator[str]:
    # Rounded outward to half pixels, so that the shortest interval is visible and the drawing of a long call is small.
    rounded = union((floor(2 * start * scale) / 2, ceil(2 * end * scale) / 2) for start, end in speaker.speech)
    steps = "".join(f"M{LEFT + x:g} {_SPEECH}h{end - x:g}v{_SPEECH_HEIGHT}h{x - end:g}z" for x, end in rounded)
    yield f'<path class="speech" d="{steps}"/>'


def _stacked_probabilities(speaker: Speaker, conversation: Conversation, scale: float) -> Iterator[str]:
    classes, colors = conversation.model.classes, class_colors(conversation.model.classes)
    negative = conversation.negative_classes
    order = [*negative, *(name for name in classes if name not in negative)]
    columns = [classes.index(name) for name in order]
    hop = conversation.settings.windows.hop
    windows_per_column = max(1, -(-round(conversation.duration / hop) // _MAX_COLUMNS))
    paths = dict.fromkeys(order, "")
    for has_prediction, group in groupby(speaker.windows, lambda window: window.smoothed is not None):
        if not has_prediction:
            continue
        times, means = _column_means(list(group), windows_per_column, hop)
        edges = np.concatenate([np.zeros((len(times), 1)), np.cumsum(means[:, columns], axis=1)], axis=1)
        levels = _PROBABILITIES + _PROBABILITIES_HEIGHT * (1 - np.minimum(edges, 1.0))
        for place, name in enumerate(order):
            paths[name] += area_path([_x(time, scale) for time in times], levels[:, place], levels[:, place + 1])
    for name in order:
        yield f'<path d="{paths[name]}" fill="{colors[name]}"><title>{escape(name)}</title></path>'


def _column_means(group: Sequence[Window], size: int, hop: float) -> tuple[list[float], np.ndarray]:
    """Return time and mean probabilities of each `size` windows, extended by half a hop at both ends."""
    middles = [(window.start + window.end) / 2 for window in group]
    probabilities = np.array([window.smoothed for window in group])
    starts = range(0, len(group), size)
    times = [float(np.mean(middles[start : start + size])) for start in starts]
    means = np.array([probabilities[start : start + size].mean(axis=0) for start in starts])
    return [middles[0] - hop / 2, *times, middles[-1] + hop / 2], means[[0, *range(len(means)), len(means) - 1]]


def _negative_segments(speaker: Speaker, scale: float) -> Iterator[str]:
    for segment in speaker.negative_segments:
        x, width = _x(segment.start, scale), max(2.0, (segment.end - segment.start) * scale)
        tooltip = f"negative, {clock(segment.start)} to {clock(segment.end)}: {', '.join(segment.emotion_seconds)}"
        yield f'<rect class="negative" x="{x}" y="{_NEGATIVE}" width="{width:.1f}" height="5">'
        yield f"<title>{escape(tooltip)}</title></rect>"


def _highlight_links(conversation: Conversation, index: int, scale: float) -> Iterator[str]:
    """Draw the numbers of a speaker's highlights, in two rows where they would overlap."""
    last_x = [-100.0, -100.0]
    for highlight in conversation.highlights:
        if highlight.speaker != index:
            continue
        x = _x((highlight.start + highlight.end) / 2, scale)
        row = next((row for row in (1, 0) if x - last_x[row] >= 21), 1)
        last_x[row] = x
        y = _HIGHLIGHTS + 9 + 20 * row - 1
        yield f'<a href="#highlight-{highlight.number}"><path class="rule" d="M{x} {y}V{_SPEECH - 2}"/><circle '
        yield f'class="mark" cx="{x}" cy="{y}" r="9"/><text class="number" x="{x}" y="{y + 4}" text-anchor="middle">'
        yield f"{highlight.number}</text></a>"
