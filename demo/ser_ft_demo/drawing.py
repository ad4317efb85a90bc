"""Probabilities, sound and measurements as HTML and SVG, in the page's light and dark colors."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from html import escape

import numpy as np

from ser_ft.audio import SAMPLE_RATE
from ser_ft.monitor.summary import percent
from ser_ft.monitor.timeline import area_path
from ser_ft.report.shared.audio_figures import spectrogram_db, waveform_envelope

WIDTH = 1000
_N_MELS = 64
_RANGE_DB = 70.0  # of a spectrogram, below its maximum
_MAX_COLUMNS = 1200  # of a spectrogram


def bars(scores: Mapping[str, float], colors: Mapping[str, str], best: str | None = None) -> str:
    """Draw probabilities as bars, largest first, with the name `best` in bold."""
    rows = []
    for name, score in sorted(scores.items(), key=lambda pair: -pair[1]):
        mark = ' class="best"' if name == best else ""
        rows.append(
            f'<dt{mark}>{escape(name)}</dt><dd class="track"><i style="width:{100 * score:.1f}%;'
            f'background:{colors[name]}"></i></dd><dd class="n">{percent(score)}</dd>'
        )
    return f'<dl class="bars">{"".join(rows)}</dl>'


def legend(colors: Mapping[str, str]) -> str:
    """Return the names and colors of the classes."""
    entries = "".join(f'<li><i style="background:{color}"></i>{escape(name)}</li>' for name, color in colors.items())
    return f'<ul class="legend" aria-label="Colors">{entries}</ul>'


def waveform(samples: np.ndarray) -> str:
    """Draw a waveform, shape (samples,), as the area between its minima and maxima."""
    times, minima, maxima = waveform_envelope(samples, WIDTH // 2)
    peak = max(float(np.abs(samples).max()), 1e-6)
    xs = np.round(times * (WIDTH * SAMPLE_RATE / len(samples)))
    path = area_path(xs.tolist(), 50 - 48 * minima / peak, 50 - 48 * maxima / peak)
    return (
        f'<svg class="wave" viewBox="0 0 {WIDTH} 100" preserveAspectRatio="none" role="img" '
        f'aria-label="waveform"><path d="{path}"/></svg>'
    )


def spectrogram(samples: np.ndarray, name: str = "log-mel spectrogram") -> str:
    """Draw a log-mel spectrogram as an image."""
    from PIL import Image

    decibels = spectrogram_db(samples, _N_MELS)
    if decibels.shape[1] > _MAX_COLUMNS:
        starts = np.linspace(0, decibels.shape[1], _MAX_COLUMNS, endpoint=False).astype(int)
        decibels = np.maximum.reduceat(decibels, starts, axis=1)
    levels = np.clip((decibels[::-1] / _RANGE_DB + 1) * 255, 0, 255).astype(np.uint8)
    image = Image.fromarray(levels, mode="P")
    image.putpalette(_magma())
    file = io.BytesIO()
    image.save(file, "PNG")
    uri = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    return f'<img class="spectrogram" src="{uri}" alt="{escape(name)}">'


@cache
def _magma() -> list[int]:
    import matplotlib

    colors = matplotlib.colormaps["magma"](np.linspace(0, 1, 256))[:, :3]
    return [int(value) for value in np.rint(colors * 255).ravel()]


def rolling_probabilities(
    times: Sequence[float], scores: Sequence[Mapping[str, float] | None], colors: Mapping[str, str], span: float
) -> str:
    """Draw the stacked probabilities of the last `span` seconds; scores without speech are None."""
    now = times[-1] if times else 0.0
    parts = [f'<svg class="rolling" viewBox="0 0 {WIDTH} 260" preserveAspectRatio="none" role="img" ']
    parts.append(f'aria-label="probabilities over the last {span:g} seconds">')
    parts.append(f'<rect class="bed" width="{WIDTH}" height="260"/>')
    for group in _groups_with_scores(times, scores, now - span):
        xs = [round(WIDTH * (time - now + span) / span, 1) for time, _ in group]
        heights = np.array([[probabilities[name] for name in colors] for _, probabilities in group])
        edges = 260 * (1 - np.concatenate([np.zeros((len(xs), 1)), np.cumsum(heights, axis=1)], axis=1))
        for index, (name, color) in enumerate(colors.items()):
            path = area_path(xs, edges[:, index], edges[:, index + 1])
            parts.append(f'<path d="{path}" fill="{color}"><title>{escape(name)}</title></path>')
    seconds = range(0, int(span), 10)
    parts += [f'<path class="rule" d="M{WIDTH * second / span:.0f} 0v260"/>' for second in seconds[1:]]
    ticks = "".join(f"<span>{second - span:g} s</span>" for second in seconds) + "<span>now</span>"
    return "".join([*parts, f'</svg><div class="ticks" aria-hidden="true">{ticks}</div>'])


def _groups_with_scores(
    times: Sequence[float], scores: Sequence[Mapping[str, float] | None], start: float
) -> Iterator[list[tuple[float, Mapping[str, float]]]]:
    """Split predictions where there is no speech; each group is extended by half a second at its start."""
    group: list[tuple[float, Mapping[str, float]]] = []
    for time, probabilities in [*zip(times, scores, strict=True), (0.0, None)]:
        if probabilities is not None and time >= start:
            group.append((time, probabilities))
        elif group:
            yield [(max(start, group[0][0] - 0.5), group[0][1]), *group]
            group = []


def line(values: np.ndarray, seconds: float, name: str) -> str:
    """Draw values over time, shape (frames,), with gaps where they are NaN."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    value_range = max(high - low, 1e-9)
    points, command = [], "M"
    for index, value in enumerate(values):
        if not np.isfinite(value):
            command = "M"
            continue
        x, y = WIDTH * index / max(1, len(values) - 1), 78 - 74 * (value - low) / value_range
        points.append(f"{command}{x:.1f} {y:.1f}")
        command = "L"
    return (
        f'<svg class="line" viewBox="0 0 {WIDTH} 80" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(name)} over {seconds:.1f} seconds, from {low:.4g} to {high:.4g}">'
        f'<path d="{"".join(points)}"/></svg>'
    )
