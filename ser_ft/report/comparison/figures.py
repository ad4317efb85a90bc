"""The figures of a comparison of systems."""

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
    annotate_row,
    display_name,
    draw_reference_lines,
    new_figure,
    row_fractions,
    style_axes,
)
from .pairs import SystemComparison, signed_interval_text, signed_text
from .published import HumanPerformance

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_KINDS = {
    "transfer": ("transfer learning", "#2f6cab", "o"),
    "baseline": ("MFCC-CNN", "#882255", "D"),
    "from-scratch": ("trained from scratch", "#44aa99", "s"),
    "fusion": ("fusion of models", "#117733", "^"),
    "other": ("trained elsewhere", "#999933", "v"),
    "classical": ("classical", "#9a8f7c", "P"),
}
KIND_NAMES = {kind: name for kind, (name, _, _) in _KINDS.items()}
KIND_COLORS = {kind: color for kind, (_, color, _) in _KINDS.items()}
_KIND_MARKERS = {kind: marker for kind, (_, _, marker) in _KINDS.items()}
COST_NAMES = {
    "parameters": "parameters",
    "trained_parameters": "trained parameters",
    "seconds": "training time per run",
    "cpu_seconds": "processor time of training per run",
    "real_time_factor": "seconds of computation\nper second of audio",
}
_TIMES = (1, 10, 60, 600, 3600, 36_000, 360_000)
_FINE_TIMES = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 18_000, 36_000, 72_000, 180_000, 360_000)
_MAX_NAME_LENGTH = 44


def difference_figure(comparison: SystemComparison, notes: Sequence[str]) -> Figure:
    """Draw the differences between the pretrained models and the baseline, with their intervals."""
    assert comparison.baseline is not None
    baseline = comparison.baseline.name
    pairs = [comparison.versus_baseline[name] for name in comparison.transfer]
    title = f"Transfer learning minus {display_name(baseline, _MAX_NAME_LENGTH)}"
    subtitle = f"difference of UAR, 95 % interval over speakers\n{comparison.title}"
    figure, _ = new_figure(6.4, 0.8 + 0.36 * len(pairs), title, subtitle, notes)
    axes = style_axes(figure.add_subplot())
    color = KIND_COLORS["transfer"]
    for row, pair in enumerate(pairs):
        if pair.low is not None and pair.high is not None:
            axes.plot((pair.low, pair.high), (row, row), color=color, lw=2.4, solid_capstyle="butt")
        axes.plot(pair.difference, row, "o", ms=7, color=color, mec="white", mew=0.8)
        annotate_row(axes, row, f"{signed_text(pair.difference)}   {signed_interval_text(pair)}")
    axes.axvline(0, color=INK, lw=1.2)
    transform = axes.get_xaxis_transform()
    axes.text(0, 1.02, display_name(baseline, 24), transform=transform, ha="center", fontsize=8.5, color=INK)
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, -0.05), max(high, 0.05))
    _name_rows(axes, list(comparison.transfer))
    axes.set_xlabel("difference of UAR")
    axes.grid(axis="x", color=GRID, lw=0.8)
    return figure


def uar_figure(comparison: SystemComparison, people: HumanPerformance | None, notes: Sequence[str]) -> Figure:
    """Draw the UAR of each system with its interval and its single runs, with chance and human performance."""
    systems = comparison.tested.systems
    kinds = [kind for kind in KIND_NAMES if any(system.kind == kind for system in systems)]
    legend_lines = -(-(len(kinds) + 1) // 4)
    subtitle = f"large: all runs pooled, with the 95 % interval over speakers; small: single runs\n{comparison.title}"
    size = (7.2, 0.8 + 0.36 * len(systems))
    figure, legend_y = new_figure(*size, "UAR of each model", subtitle, notes, legend=legend_lines)
    axes = style_axes(figure.add_subplot())
    for row, system in enumerate(systems):
        color, scores = KIND_COLORS[system.kind], system.scores
        uars = [run.uar for run in system.runs]
        axes.plot(uars, [row + 0.24] * len(uars), "o", ms=3.2, color=color, alpha=0.65, mew=0)
        text = score_text(scores["uar"])
        if scores["low"] is not None:
            axes.plot((scores["low"], scores["high"]), (row, row), color=color, lw=2.4, solid_capstyle="butt")
            text += f"   {interval_text(scores['low'], scores['high'])}"
        axes.plot(scores["uar"], row, _KIND_MARKERS[system.kind], ms=7.5, color=color, mec="white", mew=0.8)
        annotate_row(axes, row, text, bold=system.is_model)
    for kind in kinds:
        axes.plot([], [], _KIND_MARKERS[kind], ms=7, color=KIND_COLORS[kind], label=KIND_NAMES[kind])
    axes.plot([], [], "o", ms=3.2, color=FAINT, label="a single run")
    _name_rows(axes, [system.name for system in systems])
    axes.set_xlim(0, 1)
    axes.set_xlabel("UAR")
    axes.grid(axis="x", color=GRID, lw=0.8)
    people_line = {"people": people.score} if people else {}
    draw_reference_lines(axes, {"chance": systems[0].scores["chance"]} | people_line)
    figure.legend(loc="lower left", bbox_to_anchor=(0.005, legend_y), ncols=4, **LEGEND)
    return figure


def cost_figure(comparison: SystemComparison, measures: Sequence[str], notes: Sequence[str]) -> Figure:
    """Draw the UAR and its interval against the cost of each model, one panel for each known measure of cost.

    The models are named at the right, from the highest UAR to the lowest.
    """
    systems = [system for system in comparison.tested.systems if any(system.cost[name] for name in measures)]
    kinds = [kind for kind in KIND_NAMES if any(system.kind == kind for system in systems)]
    subtitle = f"lines: 95 % interval over speakers; the cost axes are logarithmic\n{comparison.title}"
    width, height = 3.1 + max(2.75 * len(measures), 4.0), max(2.9, 0.21 * len(systems) + 0.7)
    figure, legend_y = new_figure(width, height, "Accuracy and cost", subtitle, notes, legend=-(-len(kinds) // 4))
    panels: Any = figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]
    for axes, measure in zip(panels, measures, strict=True):
        style_axes(axes)
        for system in systems:
            cost, scores, color = system.cost[measure], system.scores, KIND_COLORS[system.kind]
            if not cost:
                continue
            if scores["low"] is not None:
                axes.plot((cost, cost), (scores["low"], scores["high"]), color=color, lw=1.4, alpha=0.45)
            axes.plot(cost, scores["uar"], _KIND_MARKERS[system.kind], ms=7.5, color=color, mec="white", mew=0.8)
        axes.set_xlabel(COST_NAMES[measure])
        axes.grid(color=GRID, lw=0.8)
        _set_cost_axis(axes, measure, [system.cost[measure] for system in systems if system.cost[measure]])
    panels[0].margins(y=0.06)
    panels[0].set_ylabel("UAR", color=FAINT)
    _name_points(panels[-1], systems, measures[-1], height)
    for kind in kinds:
        panels[0].plot([], [], _KIND_MARKERS[kind], ms=7, color=KIND_COLORS[kind], label=KIND_NAMES[kind])
    figure.legend(loc="lower left", bbox_to_anchor=(0.005, legend_y), ncols=4, **LEGEND)
    return figure


def _name_points(axes: Axes, systems: Sequence[System], measure: str, height: float) -> None:
    """Write the names of points to the right of the axes, as near to their heights as they fit, and draw lines there.

    The systems are sorted by UAR, the best first; `height` is that of the axes in inches.
    """
    from sklearn.isotonic import isotonic_regression

    low, high = axes.get_ylim()
    right = axes.get_xlim()[1]
    line_heights = 0.17 * (high - low) / height * np.arange(len(systems))
    uars = np.array([system.scores["uar"] for system in systems])
    places = isotonic_regression(uars + line_heights, increasing=False) - line_heights
    for system, uar, place in zip(systems, uars, places, strict=True):
        line: dict[str, Any] = {"color": KIND_COLORS[system.kind], "lw": 0.6, "alpha": 0.5}
        axes.plot((system.cost[measure] or right, right), (uar, uar), zorder=1, **line)
        axes.annotate(
            f"{score_text(uar)}  {display_name(system.name, _MAX_NAME_LENGTH)}",
            xy=(1, uar),
            xycoords=axes.get_yaxis_transform(),
            xytext=(1.1, place),
            va="center",
            fontsize=8,
            color=INK,
            arrowprops={"arrowstyle": "-", "relpos": (0, 0.5), "shrinkA": 1, "shrinkB": 0, **line},
            annotation_clip=False,
        )


def _set_cost_axis(axes: Axes, measure: str, values: Sequence[float]) -> None:
    """Make a cost axis logarithmic, at least a power of ten wide, with ticks in common units."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    axes.set_xlim(min(values) / 2.5, max(values) * 2.5)
    is_time = measure in ("seconds", "cpu_seconds")
    formats = {"real_time_factor": "{:g}".format, "seconds": time_text, "cpu_seconds": time_text}
    format_value = formats.get(measure, lambda value: size_text(int(value)))
    is_narrow = max(values) < 20 * min(values)
    times = FixedLocator(_FINE_TIMES if is_narrow else _TIMES)
    powers = LogLocator(subs=(1.0, 2.0, 5.0) if is_narrow else (1.0,))
    axes.xaxis.set_major_locator(times if is_time else powers)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_value(value)))
    axes.xaxis.set_minor_locator(NullLocator())
    if measure == "real_time_factor" and max(values) > 0.1:
        axes.set_xlim(right=max(max(values) * 2.5, 2.0))
        axes.axvline(1, color=FAINT, lw=1.2, ls="--")


def confusion_figure(comparison: SystemComparison, systems: Sequence[System], notes: Sequence[str]) -> Figure:
    """Draw the confusion matrices of some systems side by side, in percent of each true class."""
    classes = comparison.tested.best.classes
    # Three or four columns, whichever leaves fewer gaps.
    columns = min((3, 4), key=lambda n: (-len(systems) % n, n)) if len(systems) > 3 else len(systems)
    num_rows = -(-len(systems) // columns)
    side = max(1.9, min((0.3 if columns < 4 else 0.27) * len(classes), 4.5))
    axis_names = "rows: true emotion; columns: predicted emotion; percent of the true emotion's clips"
    size = (max(columns * (side + 0.25) + 0.9, 5.4), num_rows * (side + 0.3) + 1.0)
    figure, _ = new_figure(*size, "Confusion matrices", f"{axis_names}\n{comparison.title}", notes)
    panels: Any = figure.subplots(num_rows, columns, sharex=True, sharey=True, squeeze=False)
    names = [display_name(name, 12) for name in classes]
    for axes, system in zip(panels.flat, systems, strict=False):
        fractions = row_fractions(system.confusion.astype(float))
        axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
        for row, column in np.argwhere(fractions >= 0.005) if len(classes) <= 12 else ():
            text, color = f"{100 * fractions[row, column]:.0f}", "white" if fractions[row, column] > 0.55 else INK
            axes.text(column, row, text, ha="center", va="center", fontsize=6.5, color=color)
        axes.set_title(display_name(system.name, 30), fontsize=8.5, color=INK, loc="left")
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
        axes.tick_params(length=0, labelsize=7.5, labelcolor=INK)
        axes.spines[:].set_visible(False)
    _hide_empty_panels(panels, columns, len(systems))
    return figure


def bar_panels(
    title: str,
    subtitle: str,
    groups: Mapping[str, Mapping[str, Mapping[str, Any]]],
    colors: Mapping[str, str],
    notes: Sequence[str],
) -> Figure:
    """Draw one panel per group with one bar per model.

    `groups` maps group -> model -> "value" (a fraction, or None for no bar), and "low" and "high" of its interval.
    """
    columns = min(len(groups), 4)
    rows = -(-len(groups) // columns)
    names = list(next(iter(groups.values())))
    height = rows * (0.6 + 0.2 * len(names)) + 0.3
    figure, _ = new_figure(max(1.9 + 1.55 * columns, 5.4), height, title, subtitle, notes)
    panels: Any = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes in panels.flat:
        style_axes(axes)
    for axes, (group, bars) in zip(panels.flat, groups.items(), strict=False):
        for row, name in enumerate(names):
            value = bars.get(name, {}).get("value")
            if value is None:
                continue
            axes.barh(row, value, height=0.72, color=colors[group])
            low, high = bars[name].get("low"), bars[name].get("high")
            if low is not None:
                axes.plot((low, high), (row, row), color=INK, lw=1.0, marker="|", ms=4)
            x, color = (0.03, "white") if value > 0.3 else (max(value, high or 0.0) + 0.03, INK)
            axes.text(x, row, f"{100 * value:.0f}", va="center", fontsize=7, color=color)
        axes.set_title(display_name(group), fontsize=9, color=INK, loc="left")
        axes.set_xlim(0, 1)
        axes.set_yticks(range(len(names)), [display_name(name, 30) for name in names])
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0, labelsize=8)
    _hide_empty_panels(panels, columns, len(groups))
    return figure


def cross_corpus_figure(
    models: Mapping[str, Mapping[str, Mapping[str, Any]]], corpora: Sequence[str], notes: Sequence[str]
) -> Figure:
    """Draw the cross-corpus matrix of each model.

    `models` maps model -> corpus trained on (or "all others") -> corpus tested on -> scores (see `System.scores_by`).
    """
    columns = min(len(models), 3)
    rows = -(-len(models) // columns)
    subtitle = "UAR; rows: trained on; columns: tested on; framed: other speakers of the same corpus"
    size = (max(columns * (0.75 * len(corpora) + 1.2), 5.4), rows * (0.46 * max(map(len, models.values())) + 0.75))
    figure, _ = new_figure(*size, "From one corpus to another", subtitle, notes)
    panels: Any = figure.subplots(rows, columns, squeeze=False)
    for axes, (name, content) in zip(panels.flat, models.items(), strict=False):
        _draw_matrix(axes, content, corpora)
        axes.set_title(display_name(name, 30), fontsize=9, color=INK, loc="left")
    _hide_empty_panels(panels, columns, len(models))
    return figure


def _draw_matrix(axes: Axes, content: Mapping[str, Mapping[str, Mapping[str, Any]]], corpora: Sequence[str]) -> None:
    from matplotlib.patches import Rectangle

    uars = np.full((len(content), len(corpora)), np.nan)
    for row, (trained_on, cells) in enumerate(content.items()):
        for column, tested_on in enumerate(corpora):
            if tested_on not in cells:
                continue
            uars[row, column] = uar = cells[tested_on]["uar"]
            color = "white" if uar > 0.55 else INK
            axes.text(column, row, score_text(uar), ha="center", va="center", fontsize=9, color=color)
            if trained_on == tested_on:
                axes.add_patch(Rectangle((column - 0.47, row - 0.47), 0.94, 0.94, fill=False, ec=INK, lw=1.4))
    axes.imshow(uars, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(corpora)), [display_name(name, 12) for name in corpora])
    axes.set_yticks(range(len(content)), [display_name(name, 14) for name in content])
    axes.tick_params(length=0, labelsize=8.5, labelcolor=INK)
    axes.spines[:].set_visible(False)


def _hide_empty_panels(panels: Any, columns: int, count: int) -> None:
    """Hide the panels after the last one, and label the x axis of the lowest visible panel of each column."""
    for index, axes in enumerate(panels.flat):
        axes.set_visible(index < count)
        if index + columns >= count:
            axes.tick_params(labelbottom=True)


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), [display_name(name, _MAX_NAME_LENGTH) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
