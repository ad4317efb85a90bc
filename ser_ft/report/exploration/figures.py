"""The figures of `ser-ft explore` that show counts and measurements of the clips."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...labels import label_color
from ...utils.text import count_text
from ..shared.plotting import FAINT, GRID, INK, LEGEND, PALETTE, display_name, new_figure, style_axes
from ..shared.tables import run_notes
from .measurements import MeasuredClips
from .separability import known_speakers

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

MAX_CORPORA = 8
UNKNOWN_GENDER = "gender unknown"
# Gender -> strength of the emotion's color for it, and its own color where clips are not colored by emotion.
GENDERS: dict[str, tuple[float, str]] = {
    "female": (1.0, "#882255"),
    "male": (0.5, "#44aa99"),
    UNKNOWN_GENDER: (0.2, "#8a94a0"),
}
_MAX_SEPARATED_COLUMNS = 100
_MIN_VIOLIN_VALUES = 8
_MIN_BOX_WIDTH = 0.3
_VIOLIN_LEGEND = "a shape shows the distribution of a measure over the clips, its dot the median"


@dataclass(frozen=True)
class PlotData:
    """Clips, and the colors of their emotions and corpora.

    Attributes:
        clips: as in `MeasuredClips`, with gender_label, a key of `GENDERS`, and relative_level, the level minus the
            mean level of all clips of the same speaker, in dB.
        classes: the emotions that occur, in the order of the label scheme.
        corpora: sorted by their number of clips, the largest first.
        corpus_colors: all but the first seven share one color.
        corpus_notes: corpus -> a note that must be shown wherever its clips are.
        group_name: what `corpora` are: "corpus", or "folder" if the clips have no labels.
    """

    clips: pd.DataFrame
    classes: tuple[str, ...]
    corpora: tuple[str, ...]
    class_colors: Mapping[str, str]
    corpus_colors: Mapping[str, str]
    corpus_notes: Mapping[str, str]
    group_name: str

    @property
    def notes(self) -> list[str]:
        """The corpora's notes as sentences."""
        return run_notes({"notes": self.corpus_notes, "split": {"leaking": False}})

    @property
    def genders(self) -> list[str]:
        """The keys of `GENDERS` that occur."""
        present = set(self.clips["gender_label"])
        return [name for name in GENDERS if name in present]

    @property
    def has_genders(self) -> bool:
        """Whether the gender of any speaker is known."""
        return self.genders != [UNKNOWN_GENDER]

    @property
    def grouping(self) -> tuple[str, tuple[str, ...], Mapping[str, str]]:
        """The column by which figures group clips (emotion if there are labels), its values and their colors."""
        if self.classes:
            return "emotion", self.classes, self.class_colors
        return "corpus", self.corpora[:MAX_CORPORA], self.corpus_colors

    def gender_color(self, color: str, gender: str) -> str:
        """Return the tint of a color for a gender; the color itself if only one gender occurs."""
        return _tint(color, GENDERS[gender][0] if len(self.genders) > 1 else 1.0)

    def subset(self, rows: Sequence[int]) -> PlotData:
        """Return the same with only some of the clips and the notes about them."""
        clips = self.clips.loc[list(rows)]
        present = set(clips["corpus"])
        return replace(
            self, clips=clips, corpus_notes={name: note for name, note in self.corpus_notes.items() if name in present}
        )


def make_plot_data(measured: MeasuredClips) -> PlotData:
    """Assign colors and notes to measured clips."""
    clips, source = measured.clips, measured.source
    present = set(clips["emotion"])
    class_colors = {name: label_color(name, index) for index, name in enumerate(source.classes) if name in present}
    corpora = tuple(clips["corpus"].value_counts().index)
    corpus_colors = {name: PALETTE[min(index, len(PALETTE) - 1)] for index, name in enumerate(corpora)}
    corpus_notes = {
        name: corpus["note"] for name, corpus in source.corpora.items() if name in corpus_colors and corpus["note"]
    }
    speaker_or_corpus = clips["speaker"].where(known_speakers(clips), clips["corpus"])
    clips = clips.assign(
        gender_label=clips["gender"].where(clips["gender"].isin(list(GENDERS)), UNKNOWN_GENDER),
        relative_level=clips["level"] - clips.groupby(speaker_or_corpus)["level"].transform("mean"),
    )
    group_name = "corpus" if source.labeled else "folder"
    return PlotData(clips, tuple(class_colors), corpora, class_colors, corpus_colors, corpus_notes, group_name)


def plot_emotions(data: PlotData) -> Figure:
    """Plot the number of clips of each emotion, a panel per corpus, bars divided by gender."""
    corpora = data.corpora[:MAX_CORPORA]
    columns = min(len(corpora), 4)
    lines = math.ceil(len(corpora) / columns)
    names = [display_name(name) for name in data.classes]
    subtitle = "number of clips of each emotion; each corpus has its own scale"
    if len(data.corpora) > MAX_CORPORA:
        subtitle += f"; the {MAX_CORPORA} largest of {len(data.corpora)} corpora"
    height = lines * (0.5 + 0.3 * len(names))
    width = 1.2 + max(7.8, 4.4 * columns if columns < 2 else 0.0)
    legend = int(data.has_genders)
    figure, bottom = new_figure(width, height, "Clips of each emotion", subtitle, data.notes, legend)
    grid = figure.subplots(lines, columns, squeeze=False)
    for index, axes in enumerate(grid.flat):
        if index >= len(corpora):
            axes.set_visible(False)
            continue
        part = data.clips[data.clips["corpus"] == corpora[index]]
        counts = part.groupby(["emotion", "gender_label"]).size().unstack(fill_value=0)
        _stacked_bars(style_axes(axes), counts.reindex(data.classes, fill_value=0), data)
        heading = f"{display_name(corpora[index])}\n"
        axes.set_title(heading, loc="left", fontsize=10, color=INK, fontweight="bold", pad=2)
        known = known_speakers(part)
        speakers = count_text(part["speaker"][known].nunique(), "speaker") if known.any() else "speakers unknown"
        style: dict[str, Any] = {"textcoords": "offset points", "fontsize": 8.5, "color": FAINT}
        axes.annotate(f"{count_text(len(part), 'clip')}, {speakers}", (0, 1), (0, 3), "axes fraction", **style)
        axes.set_yticks(range(len(names)), names if index % columns == 0 else [""] * len(names))
    _gender_legend(figure, bottom, data)
    return figure


def _stacked_bars(axes: Axes, counts: pd.DataFrame, data: PlotData) -> None:
    start = np.zeros(len(counts))
    for gender in counts.columns.intersection(list(GENDERS), sort=False):
        width = counts[gender].to_numpy()
        colors = [data.gender_color(data.class_colors[name], gender) for name in counts.index]
        axes.barh(range(len(counts)), width, left=start, height=0.72, color=colors, lw=0)
        start += width
    style: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": 8.5, "color": INK}
    for row, total in enumerate(start):
        axes.annotate(f"{int(total):,}", (total, row), xytext=(3, 0), **style)
    axes.set_xlim(0, max(1.0, start.max()) * 1.22)
    axes.set_ylim(len(counts) - 0.45, -0.55)
    axes.set_xticks([])
    axes.tick_params(axis="y", length=0)
    axes.spines["bottom"].set_visible(False)


def plot_speakers(data: PlotData) -> Figure:
    """Plot each speaker's number of clips, stacked by emotion, a panel per corpus."""
    clips = data.clips[known_speakers(data.clips)]
    corpora = [name for name in data.corpora[:MAX_CORPORA] if name in set(clips["corpus"])]
    speakers = [int(clips["speaker"][clips["corpus"] == name].nunique()) for name in corpora]
    min_width = 0.11 * sum(speakers)
    subtitle = f"a column for each of {count_text(sum(speakers), 'speaker')}, its clips stacked by emotion"
    legend_columns = max(1, min(8, int(100 / (max(len(display_name(name)) for name in data.classes) + 5))))
    legend_lines = math.ceil(len(data.classes) / legend_columns)
    figure, bottom = new_figure(9.0, 2.6, "Clips of each speaker", subtitle, data.notes, legend=legend_lines)
    widths = [max(count, min_width) for count in speakers]
    grid = figure.subplots(1, len(corpora), squeeze=False, width_ratios=widths)[0]
    for axes, corpus, count, width in zip(grid, corpora, speakers, widths, strict=True):
        _speaker_columns(style_axes(axes), clips[clips["corpus"] == corpus], data)
        axes.set_xlim(0, max(width, 6))  # keeps the columns of a few speakers thin
        characters = round(100 * width / sum(widths))
        axes.set_title(display_name(corpus, max(8, characters)), loc="left", fontsize=10, color=INK, fontweight="bold")
        axes.set_xlabel(count_text(count, "speaker") if characters > 14 else f"{count:,}", loc="left")
    grid[0].set_ylabel("clips", color=FAINT)
    colors = [(display_name(name), color) for name, color in data.class_colors.items()]
    _add_legend(figure, bottom, colors, legend_columns)
    return figure


def _speaker_columns(axes: Axes, clips: pd.DataFrame, data: PlotData) -> None:
    counts = clips.groupby(["speaker", "emotion"]).size().unstack(fill_value=0)
    counts = counts.reindex(columns=data.classes, fill_value=0)
    counts = counts.loc[counts.sum(axis=1).sort_values(ascending=False, kind="stable").index]
    edges = np.arange(len(counts) + 1)
    base = np.zeros(len(edges))
    for name in data.classes:
        heights = counts[name].to_numpy(dtype=float)
        top = base + np.append(heights, heights[-1:])
        axes.fill_between(edges, base, top, step="post", color=data.class_colors[name], lw=0)
        base = top
    if len(counts) <= _MAX_SEPARATED_COLUMNS:
        axes.vlines(edges[1:-1], 0, base[1:-1], color="white", lw=0.7)
    axes.set_ylim(0, base.max() * 1.05)
    axes.locator_params(axis="y", nbins=5, integer=True)
    axes.set_xticks([])


def plot_durations(data: PlotData) -> Figure:
    """Plot the distribution of durations of each corpus and of each emotion."""
    corpora = data.corpora[:MAX_CORPORA]
    seconds = data.clips["duration"].to_numpy()
    maximum, percentile_99 = float(seconds.max()), float(np.quantile(seconds, 0.99))
    limit = maximum if maximum < 2 * percentile_99 else percentile_99
    beyond = int((seconds > limit * 1.02).sum())
    subtitle = _VIOLIN_LEGEND
    subtitle += f"; {count_text(beyond, 'clip')} longer than shown, up to {maximum:.0f} s" if beyond else ""
    lines = max(len(corpora), len(data.classes))
    figure, _ = new_figure(9.0, max(1.7, 0.7 + 0.33 * lines), "Duration of the clips", subtitle, data.notes)
    panels = [(corpora, "corpus", data.corpus_colors)]
    if data.classes:
        panels.append((data.classes, "emotion", data.class_colors))
    for index, (names, column, colors) in enumerate(panels):
        axes = style_axes(figure.add_subplot(1, len(panels), index + 1))
        for row, name in enumerate(names):
            _draw_violin(axes, row, seconds[(data.clips[column] == name).to_numpy()], colors[name], 0.36, -0.36)
        _label_rows(axes, names)
        axes.set_xlim(0, limit * 1.02)
        axes.set_xlabel("seconds")
    return figure


def plot_levels(data: PlotData) -> Figure:
    """Plot the peak, speech and background levels of each corpus."""
    corpora = data.corpora[:MAX_CORPORA]
    measures = {"background": ("#b8c0c8", 0.26), "level": ("", 0.0), "peak": (INK, -0.26)}
    labels = {"background": "background: 10th percentile of the level", "level": "speech", "peak": "peak"}
    low, high = float(data.clips["background"].quantile(0.01)) - 3, 3.0
    subtitle = "dB relative to full scale; box: the middle half of the clips, line: median, whiskers: 95 % of the clips"
    figure, bottom = new_figure(9.0, 0.8 + 0.62 * len(corpora), "Levels of the clips", subtitle, data.notes, legend=1)
    axes = style_axes(figure.add_subplot())
    for row, corpus in enumerate(corpora):
        part = data.clips[data.clips["corpus"] == corpus]
        for measure, (color, shift) in measures.items():
            _draw_box(axes, row + shift, part[measure].to_numpy(), color or data.corpus_colors[corpus], 0.2)
    _label_rows(axes, corpora)
    axes.set_xlim(low, high)
    axes.axvline(0, color=FAINT, lw=1, ls="--")
    axes.set_xlabel("dBFS")
    axes.grid(axis="x", color=GRID, lw=0.8)
    _add_legend(figure, bottom, [(labels[name], color or PALETTE[0]) for name, (color, _) in measures.items()])
    return figure


def plot_pitch(data: PlotData) -> Figure:
    """Plot pitch, pitch range and level of each emotion: women above each line, men below it."""
    column, names, colors = data.grouping
    panels = {"pitch": "pitch (Hz)", "pitch_range": "pitch range within a clip (semitones)"}
    relative = {"relative_level": "level relative to the speaker's mean (dB)"}
    panels |= relative if data.classes else {"level": "level (dBFS)"}
    subtitle = _VIOLIN_LEGEND
    if {"female", "male"} <= set(data.genders):
        subtitle += "; women above the line, men below"
    title = f"Pitch and level of each {'emotion' if data.classes else data.group_name}"
    height = 0.7 + 0.5 * len(names)
    figure, bottom = new_figure(9.4, height, title, subtitle, data.notes, legend=int(data.has_genders))
    rows_of = [(data.clips[column] == name).to_numpy() for name in names]
    for index, (measure, heading) in enumerate(panels.items()):
        axes = style_axes(figure.add_subplot(1, 3, index + 1))
        values = data.clips[measure].to_numpy(dtype=float)
        if measure == "pitch":
            axes.set_xscale("log")
        for row, (name, selected) in enumerate(zip(names, rows_of, strict=True)):
            _gender_violins(axes, data, row, values, selected, colors[name])
        _label_rows(axes, names if index == 0 else [""] * len(names))
        axes.set_title(heading, loc="left", fontsize=9, color=INK)
        axes.grid(axis="x", color=GRID, lw=0.8)
        _set_value_limits(axes, [values[selected] for selected in rows_of], measure)
    _gender_legend(figure, bottom, data)
    return figure


def _gender_violins(axes: Axes, data: PlotData, row: int, values: np.ndarray, selected: np.ndarray, color: str) -> None:
    # Unknown gender is behind the others.
    for gender in reversed(data.genders):
        part = values[selected & (data.clips["gender_label"] == gender).to_numpy()]
        up, down = {"female": (0.42, 0.0), "male": (0.0, -0.42)}.get(gender, (0.42, -0.42))
        _draw_violin(axes, row, part[~np.isnan(part)], data.gender_color(color, gender), up, down)


def _set_value_limits(axes: Axes, groups: Sequence[np.ndarray], measure: str) -> None:
    """Show at least 98 % of each group's values; give pitch readable ticks."""
    from matplotlib.ticker import FixedLocator, NullLocator

    valid = [known for values in groups if len(known := values[~np.isnan(values)])]
    if not valid:
        return
    low = min(float(np.quantile(values, 0.01)) for values in valid)
    high = max(float(np.quantile(values, 0.99)) for values in valid)
    if measure == "pitch":
        axes.set_xlim(low * 0.9, high * 1.1)
        axes.xaxis.set_major_locator(FixedLocator([60, 80, 100, 150, 200, 300, 400, 600]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter("{x:g}")
        return
    axes.locator_params(axis="x", nbins=6)
    margin = 0.06 * (high - low) or 1.0
    axes.set_xlim(0 if measure == "pitch_range" else low - margin, high + margin)


def _gender_legend(figure: Figure, bottom: float, data: PlotData) -> None:
    if data.has_genders:
        _add_legend(figure, bottom, [(gender, data.gender_color("#4a5560", gender)) for gender in data.genders])


def _add_legend(figure: Figure, bottom: float, colors: Sequence[tuple[str, str]], columns: int | None = None) -> None:
    handles = [legend_patch(color, label) for label, color in colors]
    columns = columns or len(handles)
    figure.legend(handles=handles, loc="lower left", bbox_to_anchor=(0.005, bottom), ncols=columns, **LEGEND)


def _draw_violin(axes: Axes, row: float, values: np.ndarray, color: str, up: float, down: float) -> None:
    """Draw the density of values up and down from a row, and their median; fewer than 8 values are dots."""
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


def _draw_box(axes: Axes, row: float, values: np.ndarray, color: str, height: float) -> None:
    """Draw the middle half of values as a box, their median as a line in it, and whiskers around 95 % of them."""
    quantiles = np.quantile(values, (0.025, 0.25, 0.5, 0.75, 0.975))
    axes.plot(quantiles[[0, 4]], (row, row), color=color, lw=1.2)
    width = max(quantiles[3] - quantiles[1], _MIN_BOX_WIDTH)
    axes.barh(row, width, left=(quantiles[1] + quantiles[3] - width) / 2, height=height, color=color, lw=0)
    axes.plot(quantiles[[2, 2]], (row - height / 2, row + height / 2), color="white", lw=1.6)


def _label_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), [display_name(name) for name in names])
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)


def _tint(color: str, strength: float) -> str:
    """Mix a color (#rrggbb) with white; unlike transparency, the result does not show what lies below."""
    channels = (int(color[start : start + 2], 16) for start in (1, 3, 5))
    return "#" + "".join(f"{round(255 - strength * (255 - channel)):02x}" for channel in channels)


def legend_patch(color: str, label: str) -> Patch:
    """Return a legend entry of one color."""
    from matplotlib.patches import Patch

    return Patch(facecolor=color, label=label)
