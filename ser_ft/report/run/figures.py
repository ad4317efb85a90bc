"""The figures of a run, each drawn from its files alone."""

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
    escape_math,
    new_figure,
    save_figure,
    score_axis,
    style_axes,
)
from ..shared.tables import describe_sample, evaluated_part, run_notes, split_name
from .calibration_figures import groups, reliability, speakers, told_apart

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PART_COLOURS = {"train": "#a9b7c6", "validation": "#6d9cc9", "test": "#2f6cab"}
_BASELINE_COLOUR = "#c8bfae"
_MARKS = "os^DvPX"
# Where what the head is given stands, beside depths from 0 to 1.
_AFTER = 1.08


def write_figures(run: RunFolder) -> list[Path]:
    """Draw a run's figures into its `figures/`.

    curves.png (where it has a history), confusion, recall, parts, reliability, groups (where there are some) and
    speakers (where there are two or more).

    Returns:
        the files written, in that order.
    """
    metrics = run.metrics
    drawn: dict[str, Figure] = {}
    if run.history:
        drawn["curves"] = curves(run.history, metrics)
    drawn["confusion"] = confusion(metrics)
    drawn["recall"] = recall(metrics)
    drawn["parts"] = parts(metrics, [baseline.metrics for baseline in run.baselines])
    drawn["reliability"] = reliability(metrics)
    scores = evaluated_part(metrics)[1]
    if told_apart(scores):
        drawn["groups"] = groups(metrics)
    if scores["speaker_uar"]:
        drawn["speakers"] = speakers(metrics)
    run.figures.mkdir(parents=True, exist_ok=True)
    return [save_figure(figure, run.figures / f"{name}.png") for name, figure in drawn.items()]


def chosen(history: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Find the evaluation whose weights were kept: the highest validation UAR, of equals the lowest validation loss.

    Returns:
        its line of the history, or None where there was no validation.
    """
    judged = [line for line in history if line.get("validation_uar") is not None]
    return max(judged, key=lambda line: (line["validation_uar"], -line.get("validation_loss", 0.0)), default=None)


def curves(history: Sequence[Mapping[str, Any]], metrics: Mapping[str, Any]) -> Figure:
    """Draw loss and UAR over training, train beside validation, with the chosen epoch marked."""
    epochs = [line["epoch"] for line in history]
    unit = "epoch" if all(a < b for a, b in itertools.pairwise(epochs)) else "step"
    best = chosen(history)
    figure, low = new_figure(
        8.0, 2.9, f"Training of {display_name(metrics['model'], 60)}", "", run_notes(metrics), legend=1
    )
    for place, (measure, heading) in enumerate((("loss", "loss (lower is better)"), ("uar", "UAR (higher is better)"))):
        axes = style_axes(figure.add_subplot(1, 2, place + 1))
        for part in ("train", "validation"):
            points = [(line[unit], line[key]) for line in history if line.get(key := f"{part}_{measure}") is not None]
            if points:
                mark = "o" if len(points) < 30 else None
                axes.plot(*zip(*points, strict=True), color=PART_COLOURS[part], lw=2, marker=mark, ms=3.5, label=part)
        if best is not None:
            axes.axvline(best[unit], color=INK, lw=1.2, ls=":", label=f"chosen: {unit} {best[unit]}")
        axes.set_title(heading, loc="left", fontsize=9.5, color=INK)
        axes.set_xlabel(unit)
        axes.locator_params(axis="x", integer=True)
        axes.grid(axis="y", color=GRID, lw=0.8)
        if measure == "uar":
            chance = evaluated_part(metrics)[1]["chance"]
            axes.axhline(chance, color=FAINT, lw=1.2, ls="--", label=f"chance {score_text(chance)}")
            axes.set_ylim(0, 1)
            handles, labels = axes.get_legend_handles_labels()
            figure.legend(handles, labels, loc="lower left", bbox_to_anchor=(0.005, low), ncols=4, **LEGEND)
    return figure


def confusion(metrics: Mapping[str, Any]) -> Figure:
    """Draw the confusion matrix: each true class's clips shared out over the classes recognised, with the counts."""
    import numpy as np
    from matplotlib.patches import Rectangle

    part, scores = evaluated_part(metrics)
    counts = np.asarray(scores["confusion"], dtype=float)
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    size = len(counts)
    side = max(3.4, min(0.66 * size, 11.0))
    subtitle = f"{describe_sample(metrics)}\nshare of the true emotion's clips, their number below it"
    figure, _ = new_figure(side + 1.2, side + 0.5, "What each emotion was recognised as", subtitle, run_notes(metrics))
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row in range(size):
        if not totals[row, 0]:
            axes.add_patch(Rectangle((-0.5, row - 0.5), size, 1, fc="#f2f3f5", ec="none"))
            axes.text((size - 1) / 2, row, f"none in {part}", ha="center", va="center", fontsize=9, color=FAINT)
            continue
        for column in range(size):
            _share(axes, row, column, shares[row, column], int(counts[row, column]), size)
        axes.add_patch(Rectangle((row - 0.5, row - 0.5), 1, 1, fill=False, ec=INK, lw=1.1))
    names = [display_name(name) for name in metrics["classes"]]
    tilt: dict[str, Any] = {}
    if max(map(len, names)) > 9 or size > 12:
        tilt = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(size), names, **tilt)
    axes.set_yticks(range(size), names)
    axes.set_xlabel("recognised as", color=FAINT)
    axes.set_ylabel("true emotion", color=FAINT)
    axes.tick_params(length=0, labelsize=9, labelcolor=INK)
    axes.spines[:].set_visible(False)
    return figure


def recall(metrics: Mapping[str, Any]) -> Figure:
    """Draw the recall of each class, in the emotions' own colours."""
    part, scores = evaluated_part(metrics)
    classes = list(metrics["classes"])
    figure, _ = new_figure(
        5.7, 0.75 + 0.34 * len(classes), "Recall of each emotion", describe_sample(metrics), run_notes(metrics)
    )
    axes = style_axes(figure.add_subplot())
    for row, name in enumerate(classes):
        value, clips = scores["recall"][name], scores["support"][name]
        axes.barh(row, value or 0.0, height=0.7, color=label_color(name, row))
        found = f"{score_text(value)}   {scores['confusion'][row][row]:,} of {clips:,}" if clips else f"none in {part}"
        annotate_row(axes, row, found, faint=not clips)
    score_axis(axes, [display_name(name) for name in classes], "recall")
    lines = {"chance": scores["chance"], "UAR": scores["uar"]}
    draw_reference_lines(axes, {name: value for name, value in lines.items() if value is not None})
    return figure


def parts(metrics: Mapping[str, Any], baselines: Sequence[Mapping[str, Any]] = ()) -> Figure:
    """Draw the UAR on each part, with its interval where the model is judged, beside the baselines'."""
    from matplotlib.patheffects import withStroke

    part, scores = evaluated_part(metrics)
    halo = [withStroke(linewidth=4, foreground="white")]
    bars = [
        (f"{display_name(metrics['model'])}, {name}", PART_COLOURS[name], metrics["parts"][name], name == part)
        for name in PARTS
        if name in metrics["parts"]
    ]
    for other in baselines:
        if part in other["parts"]:
            bars.append((f"{display_name(other['model'])}, {part}", _BASELINE_COLOUR, other["parts"][part], True))
    title = "UAR on each part, beside the baselines" if baselines else "UAR on each part"
    figure, _ = new_figure(5.7, 0.75 + 0.38 * len(bars), title, describe_sample(metrics), run_notes(metrics))
    axes = style_axes(figure.add_subplot())
    for row, (_, shade, values, judged) in enumerate(bars):
        axes.barh(row, values["uar"] or 0.0, height=0.66, color=shade)
        text = score_text(values["uar"])
        if judged and (interval := values.get("uar_interval")):
            ends = (interval["low"], interval["high"])
            axes.plot(ends, (row, row), color=INK, lw=1.6, marker="|", ms=9, mew=1.6, path_effects=halo)
            text += f"   {interval_text(*ends)}"
        annotate_row(axes, row, text, bold=values is scores)
    score_axis(axes, [name for name, *_ in bars], "UAR")
    draw_reference_lines(axes, {"chance": scores["chance"]})
    return figure


def check_file(file: str | Path) -> Path:
    """Return where a figure is to be written, before it is drawn.

    Raises:
        InputError: it is no .png, or cannot be written there.
    """
    return check_output(file, kind="file", what="a figure", option="--figure", suffixes=(".png",))


def write_layers(probe: Mapping[str, Any], file: Path) -> Path:
    """Draw what `ser_ft.evaluation.probe.probe` found into a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    return save_figure(layers(probe), file)


def layers(probe: Mapping[str, Any]) -> Figure:
    """Draw the UAR of each layer by its depth, a line per backbone, with a band of the deviation over the folds."""
    names = list(dict.fromkeys(row["backbone"] for row in probe["layers"]))
    split = probe["split"]["name"]
    clips = f"{count_text(probe['clips'], 'clip')} of {count_text(probe['speakers'], 'speaker')}"
    clips += (
        ": all of the data" if split is None else f": training part of split {escape_math(split_name(probe['split']))}"
    )
    pooled = probe["pooling"].replace("std", "deviation").replace("+", " and ")
    folds = len(probe["layers"][0]["folds"])
    subtitle = f"{pooled} over time, linear classifier, {folds} folds by speaker; band: deviation over folds\n{clips}"
    figure, low = new_figure(
        7.0, 3.7, "What each layer tells of the emotion", subtitle, run_notes(probe), legend=len(names)
    )
    axes = style_axes(figure.add_subplot())
    top = max(
        _backbone(axes, place, name, [row for row in probe["layers"] if row["backbone"] == name])
        for place, name in enumerate(names)
    )
    chance = probe["chance"]
    axes.axhline(chance, color=FAINT, lw=1.2, ls="--")
    axes.text(0.0, chance, f"chance {score_text(chance)}", va="bottom", fontsize=8.5, color=FAINT)
    axes.set_xlabel("depth: 0 is what enters the first layer, 1 what leaves the last")
    axes.set_ylabel("UAR (higher is better)", color=FAINT)
    axes.set_ylim(0, min(1.0, max(top, chance) + 0.06))
    ticks: dict[float, str] = {depth / 5: f"{depth / 5:g}" for depth in range(6)}
    if any(row["state"] == "head" for row in probe["layers"]):
        ticks[_AFTER] = "head"
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.set_xlim(-0.03, max(ticks) + 0.03)
    axes.grid(axis="y", color=GRID, lw=0.8)
    figure.legend(loc="lower left", bbox_to_anchor=(0.005, low), ncols=1, **LEGEND)
    return figure


def _backbone(axes: Axes, place: int, name: str, rows: Sequence[Mapping[str, Any]]) -> float:
    """Draw a backbone's line, with its best layer ringed; return how high it reaches."""
    shade, mark = PALETTE[place % len(PALETTE)], _MARKS[place % len(_MARKS)]
    last = max(row["layer"] for row in rows)
    depths = [_AFTER if row["state"] == "head" else row["layer"] / last for row in rows]
    uars, spreads = [row["uar"] for row in rows], [row["std"] for row in rows]
    lows, highs = ([u + sign * s for u, s in zip(uars, spreads, strict=True)] for sign in (-1, 1))
    best = next(at for at, row in enumerate(rows) if row["best"])
    what = "the head's input" if rows[best]["state"] == "head" else f"layer {rows[best]['layer']} of {last}"
    axes.fill_between(depths[: last + 1], lows[: last + 1], highs[: last + 1], color=shade, alpha=0.15, lw=0)
    label = f"{_tail(name)}: best {what}, {score_text(uars[best])}"
    axes.plot(depths[: last + 1], uars[: last + 1], color=shade, lw=2, marker=mark, ms=4, label=label)
    if len(rows) > last + 1:
        axes.plot(depths[last:], uars[last:], color=shade, lw=1.2, ls=":")
        axes.errorbar(_AFTER, uars[-1], spreads[-1], color=shade, marker=mark, ms=4, elinewidth=1.2, capsize=3)
    axes.plot(depths[best], uars[best], marker="o", ms=12, mfc="none", mec=shade, mew=1.6)
    return float(max(highs))


def _tail(name: str, longest: int = 44) -> str:
    """Shorten a backbone's name or folder from the left, where names differ least."""
    return display_name(name, len(name)) if len(name) <= longest else f"…{display_name(name[1 - longest :], longest)}"


def _share(axes: Axes, row: int, column: int, share: float, count: int, size: int) -> None:
    """Write a cell's share, and its count below where there is room."""
    if not count:
        return
    ink = "white" if share > 0.55 else INK
    if size > 12:
        axes.text(column, row, str(count), ha="center", va="center", fontsize=7, color=ink)
        return
    axes.text(column, row - 0.1, f"{share:.2f}", ha="center", va="center", fontsize=10, color=ink)
    axes.text(column, row + 0.26, str(count), ha="center", va="center", fontsize=7, color=ink, alpha=0.8)
