"""Colors, fonts, the text around the axes, and how a figure is written to a file."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...utils.atomic import write_file
from ...utils.text import printable, score_text

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, ALERT, GRID = "#1f2933", "#66727f", "#a3301c", "#e4e7eb"
PALETTE = ("#2f6cab", "#aa4499", "#117733", "#999933", "#882255", "#44aa99", "#cc6677", "#332288")
"""Colors that can be distinguished with any color vision: Paul Tol's muted scheme after a blue of our own."""
LEGEND: dict[str, Any] = {"frameon": False, "fontsize": 9, "handlelength": 1.8, "columnspacing": 1.6}
_DPI = 160


def new_figure(
    width: float, height: float, title: str, subtitle: str, notes: Sequence[str] = (), legend: int = 0
) -> tuple[Figure, float]:
    """Create an empty figure with a title above the axes and warnings below. Names in its texts need no escaping.

    Args:
        width: width of the figure, in inches.
        height: height of the axes, in inches; the text around them is added to it.
        subtitle: text below the title, wrapped unless it has line breaks.
        legend: number of legend lines to leave room for, between the axes and the notes.

    Returns:
        The figure, and where its legend goes: the height of the notes as a fraction of the figure's height.
    """
    from matplotlib.figure import Figure

    subtitle = escape_math(printable(subtitle, keep_lines=True))
    subtitle_lines = textwrap.wrap(subtitle, int(width * 13)) if "\n" not in subtitle else subtitle.split("\n")
    texts = [escape_math(printable(note[:1].upper() + note[1:])) for note in notes]
    note_lines = [line for text in texts for line in textwrap.wrap(text, int(width * 14))]
    head, foot = 0.36 + 0.19 * len(subtitle_lines), 0.06 + 0.17 * len(note_lines)
    bottom = foot + (0.09 + 0.19 * legend if legend else 0.0)
    total = height + head + bottom
    figure = Figure(figsize=(width, total), dpi=_DPI, layout="constrained", facecolor="white")
    rect = (0.0, bottom / total, 1.0, (total - head - bottom) / total)
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.04, rect=rect)  # type: ignore[union-attr,call-arg]
    left, top = 0.1 / width, 1 - 0.1 / total
    style: dict[str, Any] = {"va": "top", "linespacing": 1.3}
    figure.text(left, top, escape_math(printable(title)), va="top", fontsize=11.5, fontweight="bold", color=INK)
    figure.text(left, top - 0.24 / total, "\n".join(subtitle_lines), fontsize=9, color=FAINT, **style)
    figure.text(left, foot / total, "\n".join(note_lines), fontsize=8.5, color=ALERT, **style)
    return figure, foot / total


def style_axes(axes: Axes) -> Axes:
    """Remove the frame's upper and right line, and set colors and font sizes."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#b8c0c8")
    axes.tick_params(color="#b8c0c8", labelcolor=INK, labelsize=9)
    axes.xaxis.label.set_color(FAINT)
    axes.set_axisbelow(True)
    return axes


def annotate_row(axes: Axes, row: int, text: str, faint: bool = False, bold: bool = False) -> None:
    """Write text to the right of a row of horizontal bars."""
    style: dict[str, Any] = {"color": FAINT if faint else INK, "fontweight": "bold" if bold else "normal"}
    axes.text(1.02, row, text, transform=axes.get_yaxis_transform(), va="center", fontsize=9, **style)


def score_axis(axes: Axes, names: Sequence[str], label: str) -> None:
    """Name rows of horizontal bars, the first on top, over an axis from 0 to 1."""
    axes.set_yticks(range(len(names)), names)
    axes.set_xlim(0, 1)
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.set_xlabel(label)
    axes.tick_params(axis="y", length=0)


def draw_reference_lines(axes: Axes, values: Mapping[str, float]) -> None:
    """Draw up to two values as vertical lines with their names above the axes, the lower one to its left."""
    for number, (name, value) in enumerate(sorted(values.items(), key=lambda item: item[1])):
        is_chance = name == "chance"
        color = FAINT if is_chance else INK
        axes.axvline(value, color=color, lw=1.2, ls="--" if is_chance else "-")
        side = "center" if len(values) == 1 else ("right", "left")[number]
        transform = axes.get_xaxis_transform()
        axes.text(value, 1.02, f"{name} {score_text(value)}", transform=transform, ha=side, fontsize=8.5, color=color)


def row_fractions(counts: np.ndarray) -> np.ndarray:
    """Divide each row of a confusion matrix by its sum; rows without clips stay 0."""
    import numpy as np

    totals = counts.sum(axis=1, keepdims=True)
    fractions: np.ndarray = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    return fractions


def display_name(name: str, longest: int = 22) -> str:
    """Shorten and escape the name of a class or a model, which may be the user's own."""
    text = printable(name)
    return escape_math(text if len(text) <= longest else text[: longest - 1] + "…")


def escape_math(text: str) -> str:
    """Keep matplotlib from reading dollar signs as mathematics; escaped ones are not escaped again."""
    return re.sub(r"(?<!\\)\$", r"\\$", text)


def save_figure(figure: Figure, file: Path, num_colors: int | None = None) -> Path:
    """Write a figure as PNG, or as SVG by the file's name, completely or not at all.

    `num_colors` reduces the colors of a PNG, to keep a large file small.
    """
    return write_file(file, figure_svg(figure) if file.suffix == ".svg" else figure_png(figure, num_colors))


def figure_svg(figure: Figure) -> bytes:
    """Return a figure as SVG: the same bytes for the same figure, with letters as paths, so that it needs no fonts."""
    from matplotlib import rc_context

    content = io.BytesIO()
    with rc_context({"svg.hashsalt": "ser_ft"}):
        figure.savefig(content, format="svg", metadata={"Date": None})
    return content.getvalue()


def figure_png(figure: Figure, num_colors: int | None = None) -> bytes:
    """Return a figure as PNG; `num_colors` as in `save_figure`."""
    content = io.BytesIO()
    figure.savefig(content, format="png")
    if num_colors is None:
        return content.getvalue()
    from PIL import Image

    with Image.open(content) as image:
        reduced = image.convert("RGB").quantize(num_colors, Image.Quantize.MEDIANCUT, kmeans=1)
    content = io.BytesIO()
    reduced.save(content, format="png", optimize=True)
    return content.getvalue()
