"""Marks that the figures of `ser-ft explore` share: shapes of distributions, boxes, rows, legends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..shared.plotting import INK, display_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Patch

_FEWEST_IN_SHAPE = 8
_NARROWEST = 0.3


def shape(axes: Axes, row: float, values: np.ndarray, fill: str, up: float, down: float) -> None:
    """Draw how values are spread, as a shape about a row that reaches so far up and down, and their median.

    A few values are drawn as they are.
    """
    if not len(values):
        return
    logarithmic = axes.get_xscale() == "log"
    scaled = np.log(values) if logarithmic else values
    if len(values) < _FEWEST_IN_SHAPE or np.ptp(scaled) < 1e-6:
        axes.plot(values, np.full(len(values), row - (up + down) / 2), "o", ms=4, color=fill, mec=INK, mew=0.4)
        return
    from scipy.stats import gaussian_kde

    places = np.linspace(scaled.min(), scaled.max(), 120)
    density = gaussian_kde(scaled)(places)
    density /= density.max()
    xs = np.exp(places) if logarithmic else places
    # Rows are counted downwards.
    axes.fill_between(xs, row - up * density, row - down * density, color=fill, lw=0)
    dot = row - (up + down) * 0.3
    axes.plot(np.median(values), dot, "o", ms=4.2, color="white", mec=INK, mew=1.0)


def box(axes: Axes, row: float, values: np.ndarray, fill: str, height: float) -> None:
    """Draw the middle half of values as a box, their median as a line in it, and whiskers about 95 % of them."""
    ends = np.quantile(values, (0.025, 0.25, 0.5, 0.75, 0.975))
    axes.plot(ends[[0, 4]], (row, row), color=fill, lw=1.2)
    wide = max(ends[3] - ends[1], _NARROWEST)
    axes.barh(row, wide, left=(ends[1] + ends[3] - wide) / 2, height=height, color=fill, lw=0)
    axes.plot(ends[[2, 2]], (row - height / 2, row + height / 2), color="white", lw=1.6)


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Name the rows of axes, the first at the top."""
    axes.set_yticks(range(len(names)), [display_name(name) for name in names])
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)


def tint(shade: str, fullness: float) -> str:
    """Mix a colour with white: the same on any ground, where transparency would show what lies below."""
    parts = (int(shade[at : at + 2], 16) for at in (1, 3, 5))
    return "#" + "".join(f"{round(255 - fullness * (255 - part)):02x}" for part in parts)


def patch(fill: str, label: str) -> Patch:
    """Make a legend's entry of a plain colour."""
    from matplotlib.patches import Patch

    return Patch(facecolor=fill, label=label)
