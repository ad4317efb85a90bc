"""What is drawn of sound and of answers: HTML and SVG that follow the page's light and dark colours."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from html import escape

import numpy as np

from ser_ft.audio import SAMPLE_RATE
from ser_ft.monitor.summary import percent

WIDTH = 1000
_FFT, _HOP, _MELS = 512, 160, 64
_FLOOR = 70.0  # dB under the loudest, where a spectrogram ends
_COLUMNS = 1200  # of a spectrogram, at most


def bars(scores: Mapping[str, float], fills: Mapping[str, str], best: str | None = None) -> str:
    """Draw probabilities as bars, the largest first; `best` in bold."""
    rows = []
    for name, score in sorted(scores.items(), key=lambda pair: -pair[1]):
        mark = ' class="best"' if name == best else ""
        rows.append(
            f'<dt{mark}>{escape(name)}</dt><dd class="track"><i style="width:{100 * score:.1f}%;'
            f'background:{fills[name]}"></i></dd><dd class="n">{percent(score)}</dd>'
        )
    return f'<dl class="bars">{"".join(rows)}</dl>'


def waveform(samples: np.ndarray, name: str = "waveform") -> str:
    """Draw the reach of the samples, shape (samples,), as one path."""
    starts = np.linspace(0, len(samples), min(WIDTH // 2, len(samples)), endpoint=False).astype(int)
    lows, highs = (reach.reduceat(samples, starts) for reach in (np.minimum, np.maximum))
    level = max(float(np.abs(samples).max()), 1e-6)
    xs = starts * (WIDTH / len(samples))
    there = "L".join(f"{x:.0f} {50 - 48 * y / level:.1f}" for x, y in zip(xs, highs, strict=True))
    back = "L".join(f"{x:.0f} {50 - 48 * y / level:.1f}" for x, y in zip(xs[::-1], lows[::-1], strict=True))
    return (
        f'<svg class="wave" viewBox="0 0 {WIDTH} 100" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(name)}"><path d="M{there}L{back}z"/></svg>'
    )


def log_mel(samples: np.ndarray) -> np.ndarray:
    """Return the log-mel spectrogram: dB under its loudest, shape (64, frames), frames of 32 ms every 10 ms."""
    from scipy.signal import ShortTimeFFT
    from scipy.signal.windows import hann

    steps = ShortTimeFFT(hann(_FFT, sym=False), hop=_HOP, fs=SAMPLE_RATE)
    power = steps.spectrogram(np.pad(samples, (0, max(0, _FFT - len(samples)))), p0=0)
    mels = _mel_bands() @ power
    decibels: np.ndarray = 10 * np.log10(np.maximum(mels / max(float(mels.max()), 1e-12), 1e-12))
    return decibels


@cache
def _mel_bands() -> np.ndarray:
    """Return triangles that are evenly spaced over mel = 2595 log10(1 + f / 700), as in HTK; shape (64, 257)."""
    top = 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, _MELS + 2) / 2595) - 1)
    frequencies = np.linspace(0, SAMPLE_RATE / 2, _FFT // 2 + 1)
    rising = (frequencies - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - frequencies) / (edges[2:] - edges[1:-1])[:, None]
    bands: np.ndarray = np.maximum(0, np.minimum(rising, falling))
    # The lowest bands are narrower than the distance of two frequencies: each takes the one that is closest.
    empty = ~bands.any(axis=1)
    bands[empty, np.abs(frequencies - edges[1:-1][empty, None]).argmin(axis=1)] = 1.0
    return bands


def spectrogram(samples: np.ndarray, name: str = "log-mel spectrogram") -> str:
    """Draw the log-mel spectrogram as a picture."""
    from PIL import Image

    decibels = log_mel(samples)
    if decibels.shape[1] > _COLUMNS:
        starts = np.linspace(0, decibels.shape[1], _COLUMNS, endpoint=False).astype(int)
        decibels = np.maximum.reduceat(decibels, starts, axis=1)
    levels = np.clip((decibels[::-1] / _FLOOR + 1) * 255, 0, 255).astype(np.uint8)
    image = Image.fromarray(levels, mode="P")
    image.putpalette(_magma())
    file = io.BytesIO()
    image.save(file, "PNG")
    uri = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    return f'<img class="spectrogram" src="{uri}" alt="{escape(name)}">'


@cache
def _magma() -> list[int]:
    import matplotlib

    colours = matplotlib.colormaps["magma"](np.linspace(0, 1, 256))[:, :3]
    return [int(value) for value in np.rint(colours * 255).ravel()]


def legend(fills: Mapping[str, str]) -> str:
    """Name each emotion's colour."""
    entries = "".join(f'<li><i style="background:{fill}"></i>{escape(name)}</li>' for name, fill in fills.items())
    return f'<ul class="legend" aria-label="Colours">{entries}</ul>'


def rolling(
    times: Sequence[float], answers: Sequence[Mapping[str, float] | None], fills: Mapping[str, str], span: float
) -> str:
    """Draw the probabilities of the last seconds over each other.

    Args:
        times: of each answer, in seconds, ascending. answers: the probability of each class; None: nothing was said.
        fills: the colour of each class. span: seconds that are shown.
    """
    until = times[-1] if times else 0.0
    parts = [f'<svg class="rolling" viewBox="0 0 {WIDTH} 260" preserveAspectRatio="none" role="img" ']
    parts.append(f'aria-label="probabilities over the last {span:g} seconds">')
    parts.append(f'<rect class="bed" width="{WIDTH}" height="260"/>')
    for stretch in _stretches(times, answers, until - span):
        xs = [WIDTH * (time - until + span) / span for time, _ in stretch]
        heights = np.array([[scores[name] for name in fills] for _, scores in stretch])
        edges = 260 * (1 - np.concatenate([np.zeros((len(xs), 1)), np.cumsum(heights, axis=1)], axis=1))
        for place, (name, fill) in enumerate(fills.items()):
            outline = _outline(xs, edges[:, place], edges[:, place + 1])
            parts.append(f'<path d="{outline}" fill="{fill}"><title>{escape(name)}</title></path>')
    parts += [f'<path class="rule" d="M{WIDTH * at / span:.0f} 0v260"/>' for at in range(10, int(span), 10)]
    ticks = "".join(f"<span>{at - span:g} s</span>" for at in range(0, int(span), 10)) + "<span>now</span>"
    return "".join([*parts, f'</svg><div class="ticks" aria-hidden="true">{ticks}</div>'])


def _stretches(
    times: Sequence[float], answers: Sequence[Mapping[str, float] | None], start: float
) -> Iterator[list[tuple[float, Mapping[str, float]]]]:
    """Part the answers where nothing was said; each stretch is as wide as two points at least."""
    group: list[tuple[float, Mapping[str, float]]] = []
    for time, scores in [*zip(times, answers, strict=True), (0.0, None)]:
        if scores is not None and time >= start:
            group.append((time, scores))
        elif group:
            yield [(max(start, group[0][0] - 0.5), group[0][1]), *group]
            group = []


def line(values: np.ndarray, seconds: float, name: str) -> str:
    """Draw numbers over time, shape (frames,), with gaps where they are nan."""
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    reach = max(high - low, 1e-9)
    points = []
    pen = "M"
    for place, value in enumerate(values):
        if not np.isfinite(value):
            pen = "M"
            continue
        points.append(f"{pen}{WIDTH * place / max(1, len(values) - 1):.1f} {78 - 74 * (value - low) / reach:.1f}")
        pen = "L"
    return (
        f'<svg class="line" viewBox="0 0 {WIDTH} 80" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(name)} over {seconds:.1f} seconds, from {low:.4g} to {high:.4g}">'
        f'<path d="{"".join(points)}"/></svg>'
    )


def _outline(xs: Iterable[float], lower: np.ndarray, upper: np.ndarray) -> str:
    pairs = list(xs)
    there = [f"{x:.1f} {y:.1f}" for x, y in zip(pairs, upper, strict=True)]
    back = [f"{x:.1f} {y:.1f}" for x, y in zip(pairs[::-1], lower[::-1], strict=True)]
    return f"M{'L'.join([*there, *back])}z"
