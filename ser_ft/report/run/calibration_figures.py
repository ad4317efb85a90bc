"""The figures that say how far a run's scores can be trusted: its certainty, groups of clips, and speakers."""

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

TRAITS = ("gender", "intensity", "duration")
_BLUE = "#2f6cab"
_TOO_SURE: dict[str, Any] = {"facecolor": "#f3c9c0", "edgecolor": ALERT, "lw": 0.7}
_TOO_MODEST: dict[str, Any] = {"facecolor": "#9dbfe0", "edgecolor": "white", "lw": 0.7, "hatch": "////"}
_DOTS = 48  # columns that the speakers' dots are put into


def told_apart(scores: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the groups of a part's scores by trait: gender, intensity and duration, where there are two or more."""
    return {trait: scores[f"by_{trait}"] for trait in TRAITS if len(scores[f"by_{trait}"]) > 1}


def reliability(metrics: Mapping[str, Any]) -> Figure:
    """Draw how often answers of each confidence are right (Guo et al. 2017, figure 1), and how many there are."""
    scores = evaluated_part(metrics)[1]
    figure, low = new_figure(
        5.7, 4.1, "Is it as often right as it is sure?", _calibrated(metrics), run_notes(metrics), legend=1
    )
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    _bars(style_axes(upper), scores["reliability"])
    style_axes(lower)
    for place in scores["reliability"]:
        lower.bar(place["low"], place["clips"], 1 / NUM_BINS, align="edge", color=FAINT, ec="white", lw=0.6)
    lower.set_ylabel("clips", color=FAINT)
    lower.set_xlabel("confidence: the probability of the emotion that is recognised")
    lower.locator_params(axis="y", nbins=2, integer=True)
    key = _key()
    figure.legend(list(key.values()), list(key), loc="lower left", bbox_to_anchor=(0.005, low), ncols=4, **LEGEND)
    return figure


def groups(metrics: Mapping[str, Any]) -> Figure:
    """Draw the UAR of each gender, intensity and duration, with its interval where there is one."""
    scores = evaluated_part(metrics)[1]
    rows = [(group, found) for apart in told_apart(scores).values() for group, found in apart.items()]
    cuts = [len(apart) for apart in told_apart(scores).values()]
    figure, _ = new_figure(
        5.7, 0.75 + 0.36 * len(rows), "UAR by group of clips", describe_sample(metrics), run_notes(metrics)
    )
    axes = style_axes(figure.add_subplot())
    for row, (_, found) in enumerate(rows):
        interval = found["uar_interval"]
        if interval:
            axes.plot((interval["low"], interval["high"]), (row, row), color=_BLUE, lw=2.2, alpha=0.55)
        axes.plot(found["chance"], row, color=FAINT, marker="|", ms=9, mew=1.4)
        axes.plot(found["uar"], row, color=_BLUE, marker="o", ms=7.5)
        told = f"   {interval_text(interval['low'], interval['high'])}" if interval else ""
        annotate_row(axes, row, score_text(found["uar"]) + told)
    for row in range(1, len(cuts)):
        axes.axhline(sum(cuts[:row]) - 0.5, color=GRID, lw=1)
    score_axis(axes, [display_name(name) for name, _ in rows], "UAR; the upright tick is chance")
    draw_reference_lines(axes, {f"all {scores['clips']:,} clips": scores["uar"]})
    return figure


def speakers(metrics: Mapping[str, Any]) -> Figure:
    """Draw the UAR of each speaker, a dot each."""
    scores = evaluated_part(metrics)[1]
    ordered = sorted(scores["by_speaker"].items(), key=lambda pair: (pair[1]["uar"], pair[0]))
    ends = [f"{score_text(found['uar'])} ({display_name(name)})" for name, found in (ordered[0], ordered[-1])]
    places = _piled([found["uar"] for _, found in ordered])
    tall = max(places) + 1
    subtitle = f"{describe_sample(metrics)}\na dot per speaker, from {ends[0]} to {ends[1]}"
    figure, _ = new_figure(5.7, 1.05 + 0.16 * tall, "UAR of each speaker", subtitle, run_notes(metrics))
    axes = style_axes(figure.add_subplot())
    dots: dict[str, Any] = {"s": 52, "color": _BLUE, "ec": "white", "lw": 0.8, "zorder": 3}
    axes.scatter([found["uar"] for _, found in ordered], places, **dots, clip_on=False)
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.8, tall + 0.2)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("UAR")
    axes.grid(axis="x", color=GRID, lw=0.8)
    draw_reference_lines(axes, {"chance": scores["chance"], "all clips": scores["uar"]})
    return figure


def _calibrated(metrics: Mapping[str, Any]) -> str:
    part, scores = evaluated_part(metrics)
    found = metrics["calibration"]
    if not found:
        return f"{describe_sample(metrics)}\nno temperature was fitted here: probabilities as the model gives them"
    before = score_text(found["parts"][part]["ece_before"])
    return (
        f"{describe_sample(metrics)}\ncalibration error (ECE) {score_text(scores['ece'])}; "
        f"{before} before the temperature of {found['temperature']:.2f}"
    )


def _bars(axes: Axes, bins: Sequence[Mapping[str, Any]]) -> None:
    """Draw the share that is right, with its distance from the confidence above it (too sure) or within it."""
    for place in bins:
        left, right, sure = place["low"], place["accuracy"], place["confidence"]
        axes.bar(left, right, 1 / NUM_BINS, align="edge", color=_BLUE, ec="white", lw=0.6)
        if sure > right:
            axes.bar(left, sure - right, 1 / NUM_BINS, right, align="edge", **_TOO_SURE)
        else:
            axes.bar(left, right - sure, 1 / NUM_BINS, sure, align="edge", **_TOO_MODEST)
    axes.plot((0, 1), (0, 1), color=INK, lw=1.2, ls="--")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_ylabel("share that is right", color=FAINT)
    axes.grid(axis="y", color=GRID, lw=0.8)


def _key() -> dict[str, Any]:
    """Return what stands in the legend of a reliability diagram: name -> a mark."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    marks = {"right": Patch(color=_BLUE), "too sure by": Patch(**_TOO_SURE), "too modest by": Patch(**_TOO_MODEST)}
    return marks | {"as it should be": Line2D([], [], color=INK, lw=1.2, ls="--")}


def _piled(values: Sequence[float]) -> list[int]:
    """Pile dots up where they would cover each other: the height of each, from 0."""
    piles: dict[int, int] = {}
    heights = []
    for value in values:
        column = round(value * _DOTS)
        heights.append(piles.get(column, 0))
        piles[column] = heights[-1] + 1
    return heights
