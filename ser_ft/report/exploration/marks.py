"""Marks that the figures of `ser-ft explore` share: violins, boxes, row labels, legend entries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..shared.plotting import INK, display_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Patch

_MIN_VIOLIN_VALUES = 8
_MIN_BOX_WIDTH = 0.3


def draw_violin(axes: Axes, row: float, values: np.ndarray, color: str, up: float, down: float) -> None:
    """Draw the density of values around a row, from `up` above it to `down` below it, and their median.

    Fewer than 8 values are drawn as dots.
    """
    if not len(values):
        return
    logarithmic = axes.get_xscale() == "log"
    scaled = np.log(values) if logarithmic else values
    if len(values) < _MIN_VIOLIN_VALUES or np.ptp(scaled) < 1e-6:
        axes.plot(values, np.full(len(values), row - (up + down) / 2), "o", ms=4, color=color, mec=INK, mew=0.4)
        return
    from scipy.stats import gaussian_kde

    grid = np.linspace(scaled.min(), scaled.max(), 120)
    density = gaussian_kde(scaled)(grid)
    density /= density.max()
    x = np.exp(grid) if logarithmic else grid
    # The y axis points down.
    axes.fill_between(x, row - up * density, row - down * density, color=color, lw=0)
    axes.plot(np.median(values), row - (up + down) * 0.3, "o", ms=4.2, color="white", mec=INK, mew=1.0)


def draw_box(axes: Axes, row: float, values: np.ndarray, color: str, height: float) -> None:
    """Draw the middle half of values as a box, their median as a line in it, and whiskers around 95 % of them."""
    quantiles = np.quantile(values, (0.025, 0.25, 0.5, 0.75, 0.975))
    axes.plot(quantiles[[0, 4]], (row, row), color=color, lw=1.2)
    width = max(quantiles[3] - quantiles[1], _MIN_BOX_WIDTH)
    axes.barh(row, width, left=(quantiles[1] + quantiles[3] - width) / 2, height=height, color=color, lw=0)
    axes.plot(quantiles[[2, 2]], (row - height / 2, row + height / 2), color="white", lw=1.6)


def label_rows(axes: Axes, names: Sequence[str]) -> None:
    """Label the rows of axes, the first at the top."""
    axes.set_yticks(range(len(names)), [display_name(name) for name in names])
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)


def tint(color: str, strength: float) -> str:
    """Mix a color (#rrggbb) with white; unlike transparency, the result does not show what lies below."""
    channels = (int(color[start : start + 2], 16) for start in (1, 3, 5))
    return "#" + "".join(f"{round(255 - strength * (255 - channel)):02x}" for channel in channels)


def legend_patch(color: str, label: str) -> Patch:
    """Make a legend entry of one color."""
    from matplotlib.patches import Patch

    return Patch(facecolor=color, label=label)
