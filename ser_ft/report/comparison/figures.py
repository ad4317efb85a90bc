"""The figures of a comparison, drawn from pooled systems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...evaluation.systems import System
from ...utils.text import interval_text, score_text, size_text, time_text
from ..shared.plotting import (
    FAINT,
    GRID,
    INK,
    LEGEND,
    PALETTE,
    annotate_row,
    display_name,
    draw_reference_lines,
    new_figure,
    style_axes,
)
from .pairs import Compared, signed, signed_interval
from .published import People

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KIND_COLOURS = {
    "transfer": "#2f6cab",
    "baseline": "#882255",
    "from-scratch": "#44aa99",
    "fusion": "#117733",
    "other": "#999933",
    "classical": "#9a8f7c",
}
KIND_WORDS = {
    "transfer": "transfer learning",
    "baseline": "MFCC-CNN",
    "from-scratch": "trained from nothing",
    "fusion": "fusion of models",
    "other": "trained elsewhere",
    "classical": "classical",
}
COST_WORDS = {
    "parameters": "parameters",
    "seconds": "training, a run",
    "real_time_factor": "seconds of computing\nper second of sound",
}
_MARKS = {"transfer": "o", "baseline": "D", "from-scratch": "s", "fusion": "^", "other": "v", "classical": "P"}
_POINTS = "os^DvPX*"
_TIMES = (1, 10, 60, 600, 3600, 36_000, 360_000)
_FINE_TIMES = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 18_000, 36_000, 72_000, 180_000, 360_000)
_LONGEST = 38


def differences(one: Compared, notes: Sequence[str]) -> Figure:
    """Draw the transfer models' differences from the baseline, with their intervals."""
    assert one.baseline is not None
    base = one.baseline.name
    found = {name: one.beside[name] for name in one.transfer}
    title = f"Transfer learning less {display_name(base, _LONGEST)}"
    figure, _ = new_figure(
        6.4, 0.8 + 0.36 * len(found), title, f"difference of UAR, 95 % interval over speakers\n{one.title}", notes
    )
    axes = style_axes(figure.add_subplot())
    for row, pair in enumerate(found.values()):
        if pair.low is not None and pair.high is not None:
            axes.plot((pair.low, pair.high), (row, row), color=KIND_COLOURS["transfer"], lw=2.4, solid_capstyle="butt")
        axes.plot(pair.difference, row, "o", ms=7, color=KIND_COLOURS["transfer"], mec="white", mew=0.8)
        annotate_row(axes, row, f"{signed(pair.difference)}   {signed_interval(pair)}")
    axes.axvline(0, color=INK, lw=1.2)
    axes.text(
        0, 1.02, display_name(base, 24), transform=axes.get_xaxis_transform(), ha="center", fontsize=8.5, color=INK
    )
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, -0.05), max(high, 0.05))
    _rows(axes, list(found))
    axes.set_xlabel("difference of UAR")
    axes.grid(axis="x", color=GRID, lw=0.8)
    return figure


def models(one: Compared, people: People | None, notes: Sequence[str]) -> Figure:
    """Draw the UAR of every system with its interval, its single runs, chance, and how well people do."""
    found = one.tested.systems
    kinds = [kind for kind in KIND_WORDS if any(system.kind == kind for system in found)]
    lines = -(-(len(kinds) + 1) // 4)
    subtitle = f"large: all runs pooled, with the 95 % interval over speakers; small: single runs\n{one.title}"
    figure, low = new_figure(7.2, 0.8 + 0.36 * len(found), "UAR of every model", subtitle, notes, legend=lines)
    axes = style_axes(figure.add_subplot())
    for row, system in enumerate(found):
        shade, scores = KIND_COLOURS[system.kind], system.scores
        runs = [member.uar for member in system.runs]
        axes.plot(runs, [row + 0.24] * len(runs), "o", ms=3.2, color=shade, alpha=0.65, mew=0)
        text = score_text(scores["uar"])
        if scores["low"] is not None:
            axes.plot((scores["low"], scores["high"]), (row, row), color=shade, lw=2.4, solid_capstyle="butt")
            text += f"   {interval_text(scores['low'], scores['high'])}"
        axes.plot(scores["uar"], row, _MARKS[system.kind], ms=7.5, color=shade, mec="white", mew=0.8)
        annotate_row(axes, row, text, bold=system.is_model)
    for kind in kinds:
        axes.plot([], [], _MARKS[kind], ms=7, color=KIND_COLOURS[kind], label=KIND_WORDS[kind])
    axes.plot([], [], "o", ms=3.2, color=FAINT, label="a single run")
    _rows(axes, [system.name for system in found])
    axes.set_xlim(0, 1)
    axes.set_xlabel("UAR")
    axes.grid(axis="x", color=GRID, lw=0.8)
    landmarks = {"chance": found[0].scores["chance"]} | ({"people": people.share} if people else {})
    draw_reference_lines(axes, landmarks)
    figure.legend(loc="lower left", bbox_to_anchor=(0.005, low), ncols=4, **LEGEND)
    return figure


def cost(one: Compared, measures: Sequence[str], notes: Sequence[str]) -> Figure:
    """Draw UAR against what a model costs, a panel for each measure that is known."""
    found = [system for system in one.tested.systems if any(system.cost[name] for name in measures)]
    lines = -(-len(found) // 3)
    subtitle = f"up and left is better; the scales of cost are logarithmic\n{one.title}"
    width = 1.4 + 2.75 * len(measures)
    figure, low = new_figure(max(width, 5.4), 2.9, "Accuracy against cost", subtitle, notes, legend=lines)
    panels: Any = figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]
    for axes, measure in zip(panels, measures, strict=True):
        style_axes(axes)
        for place, system in enumerate(found):
            value = system.cost[measure]
            mark, shade = _POINTS[place % len(_POINTS)], PALETTE[place % len(PALETTE)]
            label = display_name(system.name, _LONGEST) if axes is panels[0] else None
            spot = ([value], [system.scores["uar"]]) if value else ([], [])
            axes.plot(*spot, mark, ms=7.5, color=shade, mec="white", mew=0.7, label=label)
        axes.set_xlabel(COST_WORDS[measure])
        axes.grid(color=GRID, lw=0.8)
        _cost_axis(axes, measure, [system.cost[measure] for system in found if system.cost[measure]])
    panels[0].margins(y=0.1)
    panels[0].set_ylabel("UAR", color=FAINT)
    figure.legend(loc="lower left", bbox_to_anchor=(0.005, low), ncols=3, **LEGEND)
    return figure


def _cost_axis(axes: Axes, measure: str, values: Sequence[float]) -> None:
    """Make the axis of a cost logarithmic, a power of ten wide or more, with ticks in the units that people use."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    axes.set_xlim(min(values) / 2.5, max(values) * 2.5)
    write = {"parameters": lambda value: size_text(int(value)), "seconds": time_text}.get(measure, "{:g}".format)
    narrow = max(values) < 20 * min(values)
    times = FixedLocator(_FINE_TIMES if narrow else _TIMES)
    axes.xaxis.set_major_locator(
        times if measure == "seconds" else LogLocator(subs=(1.0, 2.0, 5.0) if narrow else (1.0,))
    )
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: write(value)))
    axes.xaxis.set_minor_locator(NullLocator())
    if measure == "real_time_factor" and max(values) > 0.1:
        axes.set_xlim(right=max(max(values) * 2.5, 2.0))
        axes.axvline(1, color=FAINT, lw=1.2, ls="--")


def confusions(one: Compared, shown: Sequence[System], notes: Sequence[str]) -> Figure:
    """Draw the confusion matrices of some systems side by side: shares of each true class, in percent."""
    classes = one.tested.best.classes
    across = min((3, 4), key=lambda width: (-len(shown) % width, width)) if len(shown) > 3 else len(shown)
    down = -(-len(shown) // across)
    side = max(1.9, min((0.3 if across < 4 else 0.27) * len(classes), 4.5))
    subtitle = f"rows: true emotion; columns: recognised as; percent of the true emotion's clips\n{one.title}"
    size = (max(across * (side + 0.25) + 0.9, 5.4), down * (side + 0.3) + 1.0)
    figure, _ = new_figure(*size, "What each emotion was recognised as", subtitle, notes)
    panels: Any = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    names = [display_name(name, 12) for name in classes]
    for axes, system in zip(panels.flat, shown, strict=False):
        _heat(axes, system.confusion.astype(float))
        axes.set_title(f"{display_name(system.name, 30)}", fontsize=8.5, color=INK, loc="left")
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
        axes.tick_params(length=0, labelsize=7.5, labelcolor=INK)
        axes.spines[:].set_visible(False)
    for place, axes in enumerate(panels.flat):
        axes.set_visible(place < len(shown))
        if place + across >= len(shown):
            axes.tick_params(labelbottom=True)
    return figure


def panels(
    title: str,
    subtitle: str,
    groups: Mapping[str, Mapping[str, Mapping[str, Any]]],
    colours: Mapping[str, str],
    notes: Sequence[str],
) -> Figure:
    """Draw a panel for each group with a bar for each model.

    Args:
        title, subtitle, notes: the words around it.
        groups: group -> model -> its share ("value"; None is left out), with an interval ("low", "high") or none.
        colours: group -> of its bars.
    """
    across = min(len(groups), 4)
    down = -(-len(groups) // across)
    names = list(next(iter(groups.values())))
    size = (1.9 + 1.55 * across, down * (0.6 + 0.2 * len(names)) + 0.3)
    figure, _ = new_figure(max(size[0], 5.4), size[1], title, subtitle, notes)
    drawn: Any = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    for place, axes in enumerate(drawn.flat):
        style_axes(axes)
        axes.set_visible(place < len(groups))
        if place + across >= len(groups):
            axes.tick_params(labelbottom=True)
    for axes, (group, bars) in zip(drawn.flat, groups.items(), strict=False):
        for row, name in enumerate(names):
            value = bars.get(name, {}).get("value")
            if value is None:
                continue
            axes.barh(row, value, height=0.72, color=colours[group])
            if bars[name].get("low") is not None:
                axes.plot((bars[name]["low"], bars[name]["high"]), (row, row), color=INK, lw=1.0, marker="|", ms=4)
            inside = value > 0.3
            where, ink = (0.03, "white") if inside else (max(value, bars[name].get("high") or 0.0) + 0.03, INK)
            axes.text(where, row, f"{100 * value:.0f}", va="center", fontsize=7, color=ink)
        axes.set_title(display_name(group), fontsize=9, color=INK, loc="left")
        axes.set_xlim(0, 1)
        axes.set_yticks(range(len(names)), [display_name(name, 30) for name in names])
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0, labelsize=8)
    return figure


def matrix(rows: Mapping[str, Mapping[str, Mapping[str, Any]]], corpora: Sequence[str], notes: Sequence[str]) -> Figure:
    """Draw the cross-corpus matrix of each model.

    Args:
        rows: model -> corpus trained on (or "all others") -> corpus tested on -> its scores: see `System.by`.
        corpora: those tested on, in order. notes: of warning.
    """
    across = min(len(rows), 3)
    down = -(-len(rows) // across)
    tall = max(len(kinds) for kinds in rows.values())
    subtitle = "UAR; rows: trained on; columns: tested on; framed: other speakers of the same corpus"
    size = (max(across * (0.75 * len(corpora) + 1.2), 5.4), down * (0.46 * tall + 0.75))
    figure, _ = new_figure(*size, "From one corpus to another", subtitle, notes)
    drawn: Any = figure.subplots(down, across, squeeze=False)
    for place, axes in enumerate(drawn.flat):
        axes.set_visible(place < len(rows))
    for axes, (name, content) in zip(drawn.flat, rows.items(), strict=False):
        _cells(axes, content, corpora)
        axes.set_title(display_name(name, 30), fontsize=9, color=INK, loc="left")
    return figure


def _cells(axes: Axes, content: Mapping[str, Mapping[str, Mapping[str, Any]]], corpora: Sequence[str]) -> None:
    from matplotlib.patches import Rectangle

    shares = np.full((len(content), len(corpora)), np.nan)
    for row, (trained, cells) in enumerate(content.items()):
        for column, tested in enumerate(corpora):
            if tested not in cells:
                continue
            shares[row, column] = value = cells[tested]["uar"]
            ink = "white" if value > 0.55 else INK
            axes.text(column, row, score_text(value), ha="center", va="center", fontsize=9, color=ink)
            if trained == tested:
                axes.add_patch(Rectangle((column - 0.47, row - 0.47), 0.94, 0.94, fill=False, ec=INK, lw=1.4))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(corpora)), [display_name(name, 12) for name in corpora])
    axes.set_yticks(range(len(content)), [display_name(name, 14) for name in content])
    axes.tick_params(length=0, labelsize=8.5, labelcolor=INK)
    axes.spines[:].set_visible(False)


def _heat(axes: Axes, counts: np.ndarray) -> None:
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(counts) > 12:
        return
    for row, column in zip(*np.nonzero(shares >= 0.005), strict=True):
        share = shares[row, column]
        ink = "white" if share > 0.55 else INK
        axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=6.5, color=ink)


def _rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), [display_name(name, _LONGEST) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
