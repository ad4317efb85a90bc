"""What every figure shares: its colours and type, the words around it, and how a file is written."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...utils.text import score_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, ALERT, GRID = "#1f2933", "#66727f", "#a3301c", "#e4e7eb"
# Paul Tol's muted scheme after the house's blue: told apart with any colour vision, and by their marks.
PALETTE = ("#2f6cab", "#aa4499", "#117733", "#999933", "#882255", "#44aa99", "#cc6677", "#332288")
LEGEND: dict[str, Any] = {"frameon": False, "fontsize": 9, "handlelength": 1.8, "columnspacing": 1.6}
_DPI = 160
_LONGEST_NAME = 22


def new_figure(
    width: float, height: float, title: str, subtitle: str, notes: Sequence[str] = (), legend: int = 0
) -> tuple[Figure, float]:
    """Make an empty figure with a title above, and notes of warning below what is drawn.

    Args:
        width: of the drawing itself, in inches. height: likewise; the words around it come on top.
        title: in bold. subtitle: below it, wrapped where it has no line breaks of its own.
        notes: what must be borne in mind, a line or more each.
        legend: how many lines of it there is room for between the drawing and the notes.

    Returns:
        the figure, and the height of its notes as a share of its own: where a legend goes.
    """
    from matplotlib.figure import Figure

    words = textwrap.wrap(subtitle, int(width * 13)) if "\n" not in subtitle else subtitle.split("\n")
    warned = [part for line in notes for part in textwrap.wrap(line[0].upper() + line[1:], int(width * 14))]
    head, foot = 0.36 + 0.19 * len(words), 0.06 + 0.17 * len(warned)
    bottom = foot + (0.09 + 0.19 * legend if legend else 0.0)
    tall = height + head + bottom
    figure = Figure(figsize=(width, tall), dpi=_DPI, layout="constrained", facecolor="white")
    rect = (0.0, bottom / tall, 1.0, (tall - head - bottom) / tall)
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.04, rect=rect)  # type: ignore[union-attr,call-arg]
    left, top = 0.1 / width, 1 - 0.1 / tall
    figure.text(left, top, title, va="top", fontsize=11.5, fontweight="bold", color=INK)
    figure.text(left, top - 0.24 / tall, "\n".join(words), va="top", fontsize=9, color=FAINT, linespacing=1.3)
    figure.text(left, foot / tall, escape_math("\n".join(warned)), va="top", fontsize=8.5, color=ALERT, linespacing=1.3)
    return figure, foot / tall


def style_axes(axes: Axes) -> Axes:
    """Leave of the axes' frame what is needed, and set its type."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#b8c0c8")
    axes.tick_params(color="#b8c0c8", labelcolor=INK, labelsize=9)
    axes.xaxis.label.set_color(FAINT)
    axes.set_axisbelow(True)
    return axes


def annotate_row(axes: Axes, row: int, text: str, faint: bool = False, bold: bool = False) -> None:
    """Write a row's figures in a column to the right of the bars."""
    axes.text(
        1.02,
        row,
        text,
        transform=axes.get_yaxis_transform(),
        va="center",
        fontsize=9,
        color=FAINT if faint else INK,
        fontweight="bold" if bold else "normal",
    )


def score_axis(axes: Axes, names: Sequence[str], label: str) -> None:
    """Name the rows of horizontal bars, the first on top, over an axis from 0 to 1."""
    axes.set_yticks(range(len(names)), names)
    axes.set_xlim(0, 1)
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.set_xlabel(label)
    axes.tick_params(axis="y", length=0)


def draw_reference_lines(axes: Axes, values: Mapping[str, float]) -> None:
    """Draw values as upright lines named above the axes: the lowest to its left, the next to its right."""
    for place, (name, value) in enumerate(sorted(values.items(), key=lambda pair: pair[1])):
        dashed = name == "chance"
        axes.axvline(value, color=FAINT if dashed else INK, lw=1.2, ls="--" if dashed else "-")
        side = "center" if len(values) == 1 else ("right", "left")[place]
        text = f"{name} {score_text(value)}"
        where = axes.get_xaxis_transform()
        axes.text(value, 1.02, text, transform=where, ha=side, fontsize=8.5, color=FAINT if dashed else INK)


def display_name(name: str, longest: int = _LONGEST_NAME) -> str:
    """Shorten and escape a class's or a model's name: it may be the user's own."""
    shown = "".join(sign if sign.isprintable() else " " for sign in name)
    return escape_math(shown if len(shown) <= longest else shown[: longest - 1] + "…")


def escape_math(text: str) -> str:
    """Keep matplotlib from reading dollar signs as mathematics."""
    return text.replace("$", r"\$")


def save_figure(figure: Figure, file: Path, colours: int | None = None) -> Path:
    """Write a figure as PNG: whole, or not at all; of so many colours at most, where a picture would be large."""
    partial = file.with_name(f".{file.name}.partial")
    figure.savefig(partial, format="png")
    if colours is not None:
        from PIL import Image

        with Image.open(partial) as picture:
            few = picture.convert("RGB").quantize(colours, Image.Quantize.MEDIANCUT, kmeans=1)
        few.save(partial, format="png", optimize=True)
    return partial.replace(file)
