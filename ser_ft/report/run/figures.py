"""The figures of a run, computed from the files of its folder."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...evaluation.run_folder import PARTS, RunFolder
from ...labels import label_color
from ...utils.files import check_output
from ...utils.text import count_text, interval_text, score_text
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
    row_fractions,
    save_figure,
    score_axis,
    style_axes,
)
from ..shared.tables import describe_sample, evaluated_part, pooling_text, run_notes, split_name
from .calibration_figures import group_figure, group_scores, reliability_diagram, speaker_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PART_COLORS = {"train": "#a9b7c6", "validation": "#6d9cc9", "test": "#2f6cab"}
_BASELINE_COLOR = "#c8bfae"
_MARKERS = "os^DvPX"
_HEAD_DEPTH = 1.08
"""Position of the head's input on the axis of depths, where 1 is the last layer."""


def write_figures(run: RunFolder) -> list[Path]:
    """Draw a run's figures into its `figures/` folder, and return the files."""
    metrics = run.metrics
    scores = evaluated_part(metrics)[1]
    figures: dict[str, Figure] = {"curves": training_curves(run.history, metrics)} if run.history else {}
    figures |= {
        "confusion": confusion_matrix(metrics),
        "recall": class_recalls(metrics),
        "parts": part_scores(metrics, [baseline.metrics for baseline in run.baselines]),
        "reliability": reliability_diagram(metrics),
    }
    if group_scores(scores):
        figures["groups"] = group_figure(metrics)
    if scores["speaker_uar"]:
        figures["speakers"] = speaker_figure(metrics)
    return [save_figure(figure, run.figures / f"{name}.png") for name, figure in figures.items()]


def selected_evaluation(history: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the line of the history whose weights were saved: highest validation UAR, then lowest validation loss."""
    validated = [line for line in history if line.get("validation_uar") is not None]
    return max(validated, key=lambda line: (line["validation_uar"], -line.get("validation_loss", 0.0)), default=None)


def training_curves(history: Sequence[Mapping[str, Any]], metrics: Mapping[str, Any]) -> Figure:
    """Draw loss and UAR on the training and validation parts over training; the selected epoch is marked."""
    epochs = [line["epoch"] for line in history]
    unit = "epoch" if all(first < second for first, second in itertools.pairwise(epochs)) else "step"
    best = selected_evaluation(history)
    title = f"Training of {display_name(metrics['model'], 60)}"
    figure, legend_y = new_figure(8.0, 2.9, title, "", run_notes(metrics), legend=1)
    for panel, (measure, heading) in enumerate((("loss", "loss (lower is better)"), ("uar", "UAR (higher is better)"))):
        axes = style_axes(figure.add_subplot(1, 2, panel + 1))
        for part in ("train", "validation"):
            points = [(line[unit], line[key]) for line in history if line.get(key := f"{part}_{measure}") is not None]
            if points:
                marker = "o" if len(points) < 30 else None
                axes.plot(*zip(*points, strict=True), color=_PART_COLORS[part], lw=2, marker=marker, ms=3.5, label=part)
        if best is not None:
            axes.axvline(best[unit], color=INK, lw=1.2, ls=":", label=f"selected: {unit} {best[unit]}")
        axes.set_title(heading, loc="left", fontsize=9.5, color=INK)
        axes.set_xlabel(unit)
        axes.locator_params(axis="x", integer=True)
        axes.grid(axis="y", color=GRID, lw=0.8)
        if measure == "uar":
            chance = evaluated_part(metrics)[1]["chance"]
            axes.axhline(chance, color=FAINT, lw=1.2, ls="--", label=f"chance {score_text(chance)}")
            axes.set_ylim(0, 1)
            handles, labels = axes.get_legend_handles_labels()
            figure.legend(handles, labels, loc="lower left", bbox_to_anchor=(0.005, legend_y), ncols=4, **LEGEND)
    return figure


def confusion_matrix(metrics: Mapping[str, Any]) -> Figure:
    """Draw the confusion matrix: each row as fractions of the true class's clips, with the counts."""
    import numpy as np
    from matplotlib.patches import Rectangle

    part, scores = evaluated_part(metrics)
    counts = np.asarray(scores["confusion"], dtype=float)
    totals = counts.sum(axis=1)
    fractions = row_fractions(counts)
    size = len(counts)
    side = max(3.4, min(0.66 * size, 11.0))
    subtitle = f"{describe_sample(metrics)}\nshare of the true emotion's clips, with their number below"
    figure, _ = new_figure(side + 1.2, side + 0.5, "Confusion matrix", subtitle, run_notes(metrics))
    axes = figure.add_subplot()
    axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    for row in range(size):
        if not totals[row]:
            axes.add_patch(Rectangle((-0.5, row - 0.5), size, 1, fc="#f2f3f5", ec="none"))
            axes.text((size - 1) / 2, row, f"none in {part}", ha="center", va="center", fontsize=9, color=FAINT)
            continue
        for column in range(size):
            _annotate_cell(axes, row, column, fractions[row, column], int(counts[row, column]), size)
        axes.add_patch(Rectangle((row - 0.5, row - 0.5), 1, 1, fill=False, ec=INK, lw=1.1))
    names = [display_name(name) for name in metrics["classes"]]
    tilt: dict[str, Any] = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(size), names, **(tilt if max(map(len, names)) > 9 or size > 12 else {}))
    axes.set_yticks(range(size), names)
    axes.set_xlabel("predicted emotion", color=FAINT)
    axes.set_ylabel("true emotion", color=FAINT)
    axes.tick_params(length=0, labelsize=9, labelcolor=INK)
    axes.spines[:].set_visible(False)
    return figure


def class_recalls(metrics: Mapping[str, Any]) -> Figure:
    """Draw the recall of each class in the color of its emotion."""
    part, scores = evaluated_part(metrics)
    classes = list(metrics["classes"])
    height = 0.75 + 0.34 * len(classes)
    figure, _ = new_figure(5.7, height, "Recall of each emotion", describe_sample(metrics), run_notes(metrics))
    axes = style_axes(figure.add_subplot())
    for row, name in enumerate(classes):
        recall, clips = scores["recall"][name], scores["support"][name]
        axes.barh(row, recall or 0.0, height=0.7, color=label_color(name, row))
        text = f"{score_text(recall)}   {scores['confusion'][row][row]:,} of {clips:,}" if clips else f"none in {part}"
        annotate_row(axes, row, text, faint=not clips)
    score_axis(axes, [display_name(name) for name in classes], "recall")
    lines = (("chance", scores["chance"]), ("UAR", scores["uar"]))
    draw_reference_lines(axes, {name: value for name, value in lines if value is not None})
    return figure


def part_scores(metrics: Mapping[str, Any], baselines: Sequence[Mapping[str, Any]] = ()) -> Figure:
    """Draw the UAR on each part, and that of the baselines on the evaluated part, where it has an interval."""
    from matplotlib.patheffects import withStroke

    part, scores = evaluated_part(metrics)
    halo = [withStroke(linewidth=4, foreground="white")]
    model, parts = display_name(metrics["model"]), [name for name in PARTS if name in metrics["parts"]]
    bars = [(f"{model}, {name}", _PART_COLORS[name], metrics["parts"][name], name == part) for name in parts]
    for baseline in baselines:
        if part in baseline["parts"]:
            name = f"{display_name(baseline['model'])}, {part}"
            bars.append((name, _BASELINE_COLOR, baseline["parts"][part], True))
    title = "UAR on each part, compared with the baselines" if baselines else "UAR on each part"
    figure, _ = new_figure(5.7, 0.75 + 0.38 * len(bars), title, describe_sample(metrics), run_notes(metrics))
    axes = style_axes(figure.add_subplot())
    for row, (_, color, values, is_evaluated) in enumerate(bars):
        axes.barh(row, values["uar"] or 0.0, height=0.66, color=color)
        text = score_text(values["uar"])
        if is_evaluated and (interval := values.get("uar_interval")):
            ends = (interval["low"], interval["high"])
            axes.plot(ends, (row, row), color=INK, lw=1.6, marker="|", ms=9, mew=1.6, path_effects=halo)
            text += f"   {interval_text(*ends)}"
        annotate_row(axes, row, text, bold=values is scores)
    score_axis(axes, [name for name, *_ in bars], "UAR")
    draw_reference_lines(axes, {"chance": scores["chance"]})
    return figure


def check_figure_file(file: str | Path) -> Path:
    """Check that a figure may be written, before it is computed, and return its path."""
    return check_output(file, kind="file", what="a figure", option="--figure", suffixes=(".png",))


def write_layers(probe: Mapping[str, Any], file: Path) -> Path:
    """Draw the result of `ser_ft.evaluation.probe.probe` into a file."""
    return save_figure(layer_curves(probe), file)


def layer_curves(probe: Mapping[str, Any]) -> Figure:
    """Draw the UAR of each layer by its depth: one line per backbone, with its standard deviation over the folds."""
    backbones = list(dict.fromkeys(row["backbone"] for row in probe["layers"]))
    sample = f"{count_text(probe['clips'], 'clip')} of {count_text(probe['speakers'], 'speaker')}: "
    is_all = probe["split"]["name"] is None
    sample += "all of the data" if is_all else f"the training part of split {split_name(probe['split'])}"
    folds = len(probe["layers"][0]["folds"])
    pooling = f"{pooling_text(probe)} over time, linear classifier, {folds} folds by speaker"
    subtitle = f"{pooling}; band: standard deviation over folds\n{sample}"
    title = "How well each layer predicts the emotion"
    figure, legend_y = new_figure(7.0, 3.7, title, subtitle, run_notes(probe), legend=len(backbones))
    axes = style_axes(figure.add_subplot())
    top = max(
        _draw_backbone(axes, number, name, [row for row in probe["layers"] if row["backbone"] == name])
        for number, name in enumerate(backbones)
    )
    chance = probe["chance"]
    axes.axhline(chance, color=FAINT, lw=1.2, ls="--")
    axes.text(0.0, chance, f"chance {score_text(chance)}", va="bottom", fontsize=8.5, color=FAINT)
    axes.set_xlabel("depth: 0 is the input of the first layer, 1 the output of the last")
    axes.set_ylabel("UAR (higher is better)", color=FAINT)
    axes.set_ylim(0, min(1.0, max(top, chance) + 0.06))
    ticks: dict[float, str] = {depth / 5: f"{depth / 5:g}" for depth in range(6)}
    if any(row["state"] == "head" for row in probe["layers"]):
        ticks[_HEAD_DEPTH] = "head"
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.set_xlim(-0.03, max(ticks) + 0.03)
    axes.grid(axis="y", color=GRID, lw=0.8)
    figure.legend(loc="lower left", bbox_to_anchor=(0.005, legend_y), ncols=1, **LEGEND)
    return figure


def _draw_backbone(axes: Axes, number: int, name: str, rows: Sequence[Mapping[str, Any]]) -> float:
    """Draw one backbone's line, with a ring around its best layer, and return its highest value."""
    color, marker = PALETTE[number % len(PALETTE)], _MARKERS[number % len(_MARKERS)]
    last = max(row["layer"] for row in rows)
    depths = [_HEAD_DEPTH if row["state"] == "head" else row["layer"] / last for row in rows]
    uars, stds = [row["uar"] for row in rows], [row["std"] for row in rows]
    lows, highs = ([u + sign * d for u, d in zip(uars, stds, strict=True)] for sign in (-1, 1))
    best = next(index for index, row in enumerate(rows) if row["best"])
    layer = "the head's input" if rows[best]["state"] == "head" else f"layer {rows[best]['layer']} of {last}"
    axes.fill_between(depths[: last + 1], lows[: last + 1], highs[: last + 1], color=color, alpha=0.15, lw=0)
    label = f"{_shorten_left(name)}: best {layer}, {score_text(uars[best])}"
    axes.plot(depths[: last + 1], uars[: last + 1], color=color, lw=2, marker=marker, ms=4, label=label)
    if len(rows) > last + 1:
        axes.plot(depths[last:], uars[last:], color=color, lw=1.2, ls=":")
        axes.errorbar(_HEAD_DEPTH, uars[-1], stds[-1], color=color, marker=marker, ms=4, elinewidth=1.2, capsize=3)
    axes.plot(depths[best], uars[best], marker="o", ms=12, mfc="none", mec=color, mew=1.6)
    return float(max(highs))


def _shorten_left(name: str, longest: int = 44) -> str:
    """Shorten a backbone's name or folder at its start, where names differ least."""
    return display_name(name, len(name)) if len(name) <= longest else f"…{display_name(name[1 - longest :], longest)}"


def _annotate_cell(axes: Axes, row: int, column: int, fraction: float, count: int, size: int) -> None:
    style: dict[str, Any] = {"ha": "center", "va": "center", "color": "white" if fraction > 0.55 else INK}
    if count and size > 12:
        axes.text(column, row, str(count), fontsize=7, **style)
    elif count:
        axes.text(column, row - 0.1, f"{fraction:.2f}", fontsize=10, **style)
        axes.text(column, row + 0.26, str(count), fontsize=7, alpha=0.8, **style)
