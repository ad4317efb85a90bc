"""The timeline of a conversation's voice, drawn as SVG: when it speaks, how it sounds, and what the model answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from math import ceil, floor

import numpy as np
from markupsafe import Markup

from ..inference.windows import Window
from ..labels import label_color
from .conversation import Conversation, Voice
from .intervals import union
from .summary import clock

WIDTH, LEFT, RIGHT = 1000, 84, 26
_MARKS, _TALK, _BAND, _STACK, _RUNS, _AXIS = 2, 44, 62, 92, 190, 208  # where each row begins, from the top
_HEIGHT = 226
_TALK_HEIGHT, _BAND_HEIGHT, _STACK_HEIGHT = 9, 20, 92
_COLUMNS = 460  # of the stacked probabilities, at most
_STEPS = (5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200)
_MOST_TICKS = 12


def timeline(call: Conversation, number: int) -> Markup:
    """Draw a voice of a conversation.

    From the top: marks of its moments, which lead to their players; where it speaks; how its segments sound, lower
    and paler where they are uncertain; the smoothed probabilities, dissatisfaction at the bottom; its runs of
    dissatisfaction; the time. Colours are those of `ser_ft.labels`, the others the page's own.

    Args:
        call: the conversation. number: of the voice.
    """
    voice, scale = call.voices[number], (WIDTH - LEFT - RIGHT) / call.duration
    marked = any(moment.voice == number for moment in call.moments)
    top = 0 if marked else _TALK - 6
    parts = [
        f'<svg class="timeline" viewBox="0 {top} {WIDTH} {_HEIGHT - top}" role="img" aria-label="'
        f'{escape(voice.name)}: how it sounds over time; the tables below say the same">'
    ]
    parts += _ground(call.duration, scale, marked)
    parts += _talk(voice, scale)
    parts += [f'<g transform="translate(0 {_BAND})">', *band(voice, call, LEFT, scale, _BAND_HEIGHT), "</g>"]
    parts += _stack(voice, call, scale)
    parts += _runs(voice, scale)
    if voice.baseline:
        x = _x(voice.baseline.until, scale)
        parts.append(
            f'<path class="until" d="M{x} {_TALK - 4}V{_AXIS}"/><text class="small" x="{x + 4}" y="{_AXIS - 6}">'
        )
        parts.append("baseline ends</text>")
    parts += _marks(call, number, scale)
    return Markup("".join([*parts, "</svg>"]))


def strip(call: Conversation) -> Markup:
    """Draw how all voices of a conversation sound, a thin band each."""
    rows = len(call.voices)
    names = escape(", ".join(voice.name for voice in call.voices))
    parts = [
        f'<svg class="strip" viewBox="0 0 300 {10 * rows}" style="height: {0.85 * rows:g}rem" '
        f'preserveAspectRatio="none" role="img" aria-label="how {names} sounded over time">'
    ]
    for place, voice in enumerate(call.voices):
        parts.append(f'<g transform="translate(0 {10 * place})"><rect class="bed" width="300" height="9"/>')
        parts += [*band(voice, call, 0, 300 / call.duration, 9), "</g>"]
    return Markup("".join([*parts, "</svg>"]))


def band(voice: Voice, call: Conversation, left: float, scale: float, height: float) -> Iterator[str]:
    """Draw a voice's segments as rectangles, each with words for a pointer that rests on it."""
    fills = colours(call.info.classes)
    for segment in voice.segments:
        x, width = left + segment.start * scale, max(0.6, (segment.end - segment.start) * scale)
        tall = height / 2 if segment.uncertain else height
        look = ' opacity=".4"' if segment.uncertain else ""
        sure = "uncertain, " if segment.uncertain else ""
        said = f"{clock(segment.start)} to {clock(segment.end)}: {sure}{segment.emotion} {segment.probability:.2f}"
        yield f'<rect x="{x:.1f}" y="{height - tall:g}" width="{width:.1f}" height="{tall:g}" '
        yield f'fill="{fills[segment.emotion]}"{look}><title>{escape(said)}</title></rect>'


def colours(classes: Sequence[str]) -> Mapping[str, str]:
    """Return the colour of each class."""
    return {name: label_color(name, place) for place, name in enumerate(classes)}


def ticks(duration: float) -> list[int]:
    """Choose the times, in whole seconds, that an axis of so many seconds shows."""
    step = next((step for step in _STEPS if duration / step <= _MOST_TICKS), _STEPS[-1])
    return list(range(0, int(duration) + 1, step))


def _x(time: float, scale: float) -> float:
    return round(LEFT + time * scale, 1)


def _ground(duration: float, scale: float, marked: bool) -> Iterator[str]:
    """Draw the names of the rows, the lines between them and the time."""
    rows = (("moments", 24), ("speaks", _TALK + 9), ("sounds", _BAND + 15), ("answers", _STACK + 50))
    for name, y in rows[0 if marked else 1 :]:
        yield f'<text class="small" x="{LEFT - 10}" y="{y}" text-anchor="end">{name}</text>'
    yield f'<rect class="bed" x="{LEFT}" y="{_STACK}" width="{WIDTH - LEFT - RIGHT}" height="{_STACK_HEIGHT}"/>'
    yield f'<path class="rule" d="M{LEFT} {_TALK + _TALK_HEIGHT + 0.5}H{WIDTH - RIGHT}M{LEFT} '
    yield f'{_BAND + _BAND_HEIGHT + 0.5}H{WIDTH - RIGHT}"/>'
    for time in ticks(duration):
        x = _x(time, scale)
        yield f'<path class="rule" d="M{x} {_AXIS - 6}v5"/>'
        yield f'<text class="small" x="{x}" y="{_AXIS + 12}" text-anchor="middle">{clock(time)}</text>'


def _talk(voice: Voice, scale: float) -> Iterator[str]:
    """Draw where a voice speaks, out to half pixels: nothing is too short to be seen, and what is nearer is one."""
    shown = union((floor(2 * start * scale) / 2, ceil(2 * end * scale) / 2) for start, end in voice.talk)
    steps = "".join(f"M{LEFT + x:g} {_TALK}h{end - x:g}v{_TALK_HEIGHT}h{x - end:g}z" for x, end in shown)
    yield f'<path class="speech" d="{steps}"/>'


def _stack(voice: Voice, call: Conversation, scale: float) -> Iterator[str]:
    """Draw the smoothed probabilities over each other, as many columns as a screen shows."""
    classes, fills = call.info.classes, colours(call.info.classes)
    order = [*call.negative, *(name for name in classes if name not in call.negative)]
    picked = [classes.index(name) for name in order]
    hop = call.settings.windows.hop
    bunch = max(1, -(-round(call.duration / hop) // _COLUMNS))
    outlines = dict.fromkeys(order, "")
    for group in _stretches(voice.windows):
        times, heights = _columns(group, bunch, hop)
        edges = np.concatenate([np.zeros((len(times), 1)), np.cumsum(heights[:, picked], axis=1)], axis=1)
        levels = _STACK + _STACK_HEIGHT * (1 - np.minimum(edges, 1.0))
        for place, name in enumerate(order):
            outlines[name] += _outline([_x(time, scale) for time in times], levels[:, place], levels[:, place + 1])
    for name in order:
        yield f'<path d="{outlines[name]}" fill="{fills[name]}"><title>{escape(name)}</title></path>'


def _stretches(windows: Iterable[Window]) -> Iterator[list[Window]]:
    """Part a voice's windows where it says nothing."""
    group: list[Window] = []
    for window in windows:
        if window.smoothed is not None:
            group.append(window)
        elif group:
            yield group
            group = []
    if group:
        yield group


def _columns(group: Sequence[Window], bunch: int, hop: float) -> tuple[list[float], np.ndarray]:
    """Return times and mean probabilities of windows, so many to a column, level for half a hop at either end."""
    middles = [(window.start + window.end) / 2 for window in group]
    answers = np.array([window.smoothed for window in group])
    starts = range(0, len(group), bunch)
    times = [float(np.mean(middles[at : at + bunch])) for at in starts]
    means = np.array([answers[at : at + bunch].mean(axis=0) for at in starts])
    return [middles[0] - hop / 2, *times, middles[-1] + hop / 2], means[[0, *range(len(means)), len(means) - 1]]


def _outline(xs: Sequence[float], lower: np.ndarray, upper: np.ndarray) -> str:
    there = [f"{x:g} {y:.1f}" for x, y in zip(xs, upper, strict=True)]
    back = [f"{x:g} {y:.1f}" for x, y in zip(reversed(xs), lower[::-1], strict=True)]
    return f"M{'L'.join([*there, *back])}z"


def _runs(voice: Voice, scale: float) -> Iterator[str]:
    for run in voice.runs:
        x, width = _x(run.start, scale), max(2.0, (run.end - run.start) * scale)
        said = f"dissatisfaction, {clock(run.start)} to {clock(run.end)}: {', '.join(run.emotions)}"
        yield f'<rect class="run" x="{x}" y="{_RUNS}" width="{width:.1f}" height="5">'
        yield f"<title>{escape(said)}</title></rect>"


def _marks(call: Conversation, number: int, scale: float) -> Iterator[str]:
    """Draw the numbers of a voice's moments, in two rows where they would lie over each other."""
    ends = [-100.0, -100.0]
    for moment in call.moments:
        if moment.voice != number:
            continue
        x = _x((moment.start + moment.end) / 2, scale)
        row = next((row for row in (1, 0) if x - ends[row] >= 21), 1)
        ends[row] = x
        y = _MARKS + 9 + 20 * row - 1
        yield f'<a href="#moment-{moment.number}"><path class="rule" d="M{x} {y}V{_TALK - 2}"/><circle class="mark" '
        yield f'cx="{x}" cy="{y}" r="9"/><text class="number" x="{x}" y="{y + 4}" text-anchor="middle">'
        yield f"{moment.number}</text></a>"
