"""Figures of a run's calibration, and of its UAR by group of clips and by speaker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...evaluation.calibration import NUM_BINS
from ...utils.text import interval_text, score_text
from ..shared.plotting import (
    ALERT,
    FAINT,
    GRID,
    INK,
    LEGEND,
    annotate_row,
    display_name,
    draw_reference_lines,
    new_figure,
    score_axis,
    style_axes,
)
from ..shared.tables import describe_sample, evaluated_part, run_notes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BLUE = "#2f6cab"
_OVERCONFIDENT: dict[str, Any] = {"facecolor": "#f3c9c0", "edgecolor": ALERT, "lw": 0.7}
_UNDERCONFIDENT: dict[str, Any] = {"facecolor": "#9dbfe0", "edgecolor": "white", "lw": 0.7, "hatch": "////"}
_DOT_COLUMNS = 48


def group_scores(scores: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return a part's scores by gender, intensity and duration: trait -> group -> scores, for two or more groups."""
    traits = ("gender", "intensity", "duration")
    return {trait: scores[f"by_{trait}"] for trait in traits if len(scores[f"by_{trait}"]) > 1}


def reliability_diagram(metrics: Mapping[str, Any]) -> Figure:
    """Draw the accuracy at each confidence (Guo et al. 2017, figure 1), and the number of clips."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    scores = evaluated_part(metrics)[1]
    figure, legend_y = new_figure(5.7, 4.1, "Reliability", _calibration_text(metrics), run_notes(metrics), legend=1)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    _draw_bins(style_axes(upper), scores["reliability"])
    style_axes(lower)
    for bin in scores["reliability"]:
        lower.bar(bin["low"], bin["clips"], 1 / NUM_BINS, align="edge", color=FAINT, ec="white", lw=0.6)
    lower.set_ylabel("clips", color=FAINT)
    lower.set_xlabel("confidence: the probability of the predicted emotion")
    lower.locator_params(axis="y", nbins=2, integer=True)
    handles = {
        "accuracy": Patch(color=_BLUE),
        "overconfident": Patch(**_OVERCONFIDENT),
        "underconfident": Patch(**_UNDERCONFIDENT),
        "perfect": Line2D([], [], color=INK, lw=1.2, ls="--"),
    }
    placement: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0.005, legend_y), "ncols": 4}
    figure.legend(list(handles.values()), list(handles), **placement, **LEGEND)
    return figure


def group_figure(metrics: Mapping[str, Any]) -> Figure:
    """Draw the UAR of each gender, intensity and duration, with its interval if it has one."""
    scores = evaluated_part(metrics)[1]
    traits = list(group_scores(scores).values())
    rows = [item for groups in traits for item in groups.items()]
    height = 0.75 + 0.36 * len(rows)
    figure, _ = new_figure(5.7, height, "UAR by group of clips", describe_sample(metrics), run_notes(metrics))
    axes = style_axes(figure.add_subplot())
    for row, (_, group) in enumerate(rows):
        text, interval = score_text(group["uar"]), group["uar_interval"]
        if interval:
            axes.plot((interval["low"], interval["high"]), (row, row), color=_BLUE, lw=2.2, alpha=0.55)
            text += f"   {interval_text(interval['low'], interval['high'])}"
        axes.plot(group["chance"], row, color=FAINT, marker="|", ms=9, mew=1.4)
        axes.plot(group["uar"], row, color=_BLUE, marker="o", ms=7.5)
        annotate_row(axes, row, text)
    for end in range(1, len(traits)):
        axes.axhline(sum(map(len, traits[:end])) - 0.5, color=GRID, lw=1)
    score_axis(axes, [display_name(name) for name, _ in rows], "UAR; the vertical tick is chance")
    draw_reference_lines(axes, {f"all {scores['clips']:,} clips": scores["uar"]})
    return figure


def speaker_figure(metrics: Mapping[str, Any]) -> Figure:
    """Draw the UAR of each speaker as a dot."""
    scores = evaluated_part(metrics)[1]
    speakers = sorted((speaker["uar"], name) for name, speaker in scores["by_speaker"].items())
    uars = [uar for uar, _ in speakers]
    ends = [f"{score_text(uar)} ({display_name(name)})" for uar, name in (speakers[0], speakers[-1])]
    heights = _stack_dots(uars)
    tallest = max(heights) + 1
    subtitle = f"{describe_sample(metrics)}\none dot per speaker, from {ends[0]} to {ends[1]}"
    figure, _ = new_figure(5.7, 1.05 + 0.16 * tallest, "UAR of each speaker", subtitle, run_notes(metrics))
    axes = style_axes(figure.add_subplot())
    axes.scatter(uars, heights, s=52, color=_BLUE, ec="white", lw=0.8, zorder=3, clip_on=False)
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.8, tallest + 0.2)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("UAR")
    axes.grid(axis="x", color=GRID, lw=0.8)
    draw_reference_lines(axes, {"chance": scores["chance"], "all clips": scores["uar"]})
    return figure


def _calibration_text(metrics: Mapping[str, Any]) -> str:
    part, scores = evaluated_part(metrics)
    calibration = metrics["calibration"]
    if not calibration:
        return f"{describe_sample(metrics)}\nno temperature was fitted: these are the model's own probabilities"
    before = f"{score_text(calibration['parts'][part]['ece_before'])} before"
    errors = f"calibration error (ECE) {score_text(scores['ece'])}; {before}"
    return f"{describe_sample(metrics)}\n{errors} the temperature of {calibration['temperature']:.2f}"


def _draw_bins(axes: Axes, bins: Sequence[Mapping[str, Any]]) -> None:
    for bin in bins:
        left, accuracy, confidence = bin["low"], bin["accuracy"], bin["confidence"]
        axes.bar(left, accuracy, 1 / NUM_BINS, align="edge", color=_BLUE, ec="white", lw=0.6)
        if confidence > accuracy:
            axes.bar(left, confidence - accuracy, 1 / NUM_BINS, accuracy, align="edge", **_OVERCONFIDENT)
        else:
            axes.bar(left, accuracy - confidence, 1 / NUM_BINS, confidence, align="edge", **_UNDERCONFIDENT)
    axes.plot((0, 1), (0, 1), color=INK, lw=1.2, ls="--")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_ylabel("accuracy", color=FAINT)
    axes.grid(axis="y", color=GRID, lw=0.8)


def _stack_dots(values: Sequence[float]) -> list[int]:
    """Stack dots that would cover each other, and return the height of each, from 0."""
    stacks: dict[int, int] = {}
    heights = []
    for value in values:
        column = round(value * _DOT_COLUMNS)
        heights.append(stacks.get(column, 0))
        stacks[column] = heights[-1] + 1
    return heights
