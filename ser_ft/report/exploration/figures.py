"""The figures of `ser-ft explore` that count and measure: clips, speakers, durations, levels, pitch, the map."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...labels import colour
from ...utils.text import count_text
from ..shared.plotting import FAINT, GRID, INK, LEGEND, PALETTE, display_name, new_figure, style_axes
from ..shared.tables import run_notes
from .marks import box, name_rows, patch, shape, tint
from .measurements import Survey
from .separability import known_speakers

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_CORPORA = 8
# What is known of a voice, how full an emotion's colour is for it, and its colour where emotions are not told apart.
GENDERS: dict[str, tuple[float, str]] = {
    "female": (1.0, "#882255"),
    "male": (0.5, "#44aa99"),
    "gender unknown": (0.2, "#8a94a0"),
}
_MOST_PARTED = 100  # columns with a line between them


@dataclass(frozen=True)
class View:
    """What is drawn: clips, and how their emotions and corpora look.

    Attributes:
        clips: as in `Survey`, with voice, a key of `GENDERS`, and beside, the level beside the mean of all clips of
            the same speaker, in dB.
        classes: the emotions with a clip or more, in their order. corpora: by their clips, the largest first.
        colours: of each class. shades: of each corpus; those beyond the first eight share one.
        told: what must be borne in mind of a corpus. notes: the same, a line each.
        group: what `corpora` are: "corpus", or "folder" where nothing is known of the clips.
    """

    clips: pd.DataFrame
    classes: tuple[str, ...]
    corpora: tuple[str, ...]
    colours: Mapping[str, str]
    shades: Mapping[str, str]
    told: Mapping[str, str]
    notes: tuple[str, ...]
    group: str

    @property
    def voices(self) -> list[str]:
        """The keys of `GENDERS` that there are."""
        there = set(self.clips["voice"])
        return [name for name in GENDERS if name in there]

    @property
    def told_apart(self) -> bool:
        """Whether the gender of any voice is known."""
        return self.voices != ["gender unknown"]

    @property
    def kinds(self) -> tuple[str, tuple[str, ...], Mapping[str, str]]:
        """By what voices are told apart: a column of the clips, its values and their colours."""
        if self.classes:
            return "emotion", self.classes, self.colours
        return "corpus", self.corpora[:MOST_CORPORA], self.shades

    def tinted(self, shade: str, voice: str) -> str:
        """Return a colour as full as it is for a voice; full where all voices are of a kind."""
        return tint(shade, GENDERS[voice][0] if len(self.voices) > 1 else 1.0)

    def of(self, rows: Sequence[int]) -> View:
        """Return the same with some of the clips alone, and the notes that are about them."""
        some = self.clips.loc[list(rows)]
        there = {name: note for name, note in self.told.items() if name in set(some["corpus"])}
        return replace(self, clips=some, notes=_warned(there))


def view(found: Survey) -> View:
    """Choose how a survey is drawn."""
    clips = found.clips
    voice = clips["gender"].where(clips["gender"].isin(list(GENDERS)), "gender unknown")
    there = set(clips["emotion"])
    colours = {name: colour(name, place) for place, name in enumerate(found.source.classes) if name in there}
    corpora = tuple(clips["corpus"].value_counts().index)
    shades = {name: PALETTE[min(place, len(PALETTE) - 1)] for place, name in enumerate(corpora)}
    told = {name: facts["note"] for name, facts in found.source.corpora.items() if name in shades and facts["note"]}
    group = "corpus" if found.source.labelled else "folder"
    beside = clips["level"] - clips.groupby(_own(clips))["level"].transform("mean")
    return View(
        clips.assign(voice=voice, beside=beside), tuple(colours), corpora, colours, shades, told, _warned(told), group
    )


def _warned(told: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(run_notes({"notes": told, "split": {"leaking": False}}))


def counts(look: View) -> Figure:
    """Draw the clips of each emotion, a panel for each corpus, women and men apart."""
    shown = look.corpora[:MOST_CORPORA]
    columns = min(len(shown), 4)
    lines = math.ceil(len(shown) / columns)
    names = [display_name(name) for name in look.classes]
    subtitle = "clips of each emotion; each corpus has a scale of its own" + (
        f"; the {MOST_CORPORA} largest of {len(look.corpora)} corpora" * _many(look)
    )
    height = lines * (0.5 + 0.3 * len(names))
    width = 1.2 + max(7.8, 4.4 * columns if columns < 2 else 0.0)
    figure, low = new_figure(width, height, "What there is", subtitle, look.notes, legend=int(look.told_apart))
    grid = figure.subplots(lines, columns, squeeze=False)
    for place, axes in enumerate(grid.flat):
        if place >= len(shown):
            axes.set_visible(False)
            continue
        part = look.clips[look.clips["corpus"] == shown[place]]
        table = part.groupby(["emotion", "voice"]).size().unstack(fill_value=0).reindex(look.classes, fill_value=0)
        _stack(style_axes(axes), table, look)
        head = f"{count_text(len(part), 'clip')}, {_speakers(part)}"
        axes.set_title(f"{display_name(shown[place])}\n", loc="left", fontsize=10, color=INK, fontweight="bold", pad=2)
        offset: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points"}
        axes.annotate(head, (0, 1), (0, 3), fontsize=8.5, color=FAINT, **offset)
        axes.set_yticks(range(len(names)), names if place % columns == 0 else [""] * len(names))
    _voice_legend(figure, low, look)
    return figure


def _stack(axes: Axes, table: pd.DataFrame, look: View) -> None:
    """Draw a bar per emotion, its parts by voice one after the other, with the number at its end."""
    start = np.zeros(len(table))
    for voice in table.columns.intersection(list(GENDERS), sort=False):
        width = table[voice].to_numpy()
        fills = [look.tinted(look.colours[name], voice) for name in table.index]
        axes.barh(range(len(table)), width, left=start, height=0.72, color=fills, lw=0)
        start += width
    for row, total in enumerate(start):
        axes.annotate(
            f"{int(total):,}",
            (total, row),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=INK,
        )
    axes.set_xlim(0, max(1.0, start.max()) * 1.22)
    axes.set_ylim(len(table) - 0.45, -0.55)
    axes.set_xticks([])
    axes.tick_params(axis="y", length=0)
    axes.spines["bottom"].set_visible(False)


def speakers(look: View) -> Figure:
    """Draw each speaker's clips, stacked by emotion: a panel for each corpus."""
    clips = look.clips[known_speakers(look.clips)]
    shown = [name for name in look.corpora[:MOST_CORPORA] if name in set(clips["corpus"])]
    people = [int(clips["speaker"][clips["corpus"] == name].nunique()) for name in shown]
    least = 0.11 * sum(people)
    subtitle = f"a column for each of {count_text(sum(people), 'speaker')}, its clips stacked by emotion"
    across = max(1, min(8, int(100 / (max(len(display_name(name)) for name in look.classes) + 5))))
    lines = math.ceil(len(look.classes) / across)
    figure, low = new_figure(9.0, 2.6, "Who speaks", subtitle, look.notes, legend=lines)
    ratios = [max(count, least) for count in people]
    grid = figure.subplots(1, len(shown), squeeze=False, width_ratios=ratios)[0]
    for axes, corpus, count in zip(grid, shown, people, strict=True):
        _columns(style_axes(axes), clips[clips["corpus"] == corpus], look)
        # Corpora of a few speakers keep their columns thin.
        axes.set_xlim(0, max(count, least, 6))
        room = round(100 * max(count, least) / sum(ratios))
        axes.set_title(display_name(corpus, max(8, room)), loc="left", fontsize=10, color=INK, fontweight="bold")
        axes.set_xlabel(count_text(count, "speaker") if room > 14 else f"{count:,}", loc="left")
    grid[0].set_ylabel("clips", color=FAINT)
    handles = [patch(look.colours[name], display_name(name)) for name in look.classes]
    figure.legend(handles=handles, loc="lower left", bbox_to_anchor=(0.005, low), ncols=across, **LEGEND)
    return figure


def _columns(axes: Axes, clips: pd.DataFrame, look: View) -> None:
    """Stack the clips of a corpus's speakers, those with most to the left."""
    table = (
        clips.groupby(["speaker", "emotion"]).size().unstack(fill_value=0).reindex(columns=look.classes, fill_value=0)
    )
    table = table.loc[table.sum(axis=1).sort_values(ascending=False, kind="stable").index]
    edges = np.arange(len(table) + 1)
    base = np.zeros(len(edges))
    for name in look.classes:
        heights = table[name].to_numpy(dtype=float)
        top = base + np.append(heights, heights[-1:])
        axes.fill_between(edges, base, top, step="post", color=look.colours[name], lw=0)
        base = top
    if len(table) <= _MOST_PARTED:
        axes.vlines(edges[1:-1], 0, base[1:-1], color="white", lw=0.7)
    axes.set_ylim(0, base.max() * 1.05)
    axes.locator_params(axis="y", nbins=5, integer=True)
    axes.set_xticks([])


def durations(look: View) -> Figure:
    """Draw how long the clips are: of each corpus, and of each emotion."""
    corpora = look.corpora[:MOST_CORPORA]
    seconds = look.clips["duration"].to_numpy()
    most, usual = float(seconds.max()), float(np.quantile(seconds, 0.99))
    longest = most if most < 2 * usual else usual
    beyond = int((seconds > longest * 1.02).sum())
    subtitle = "a shape shows how a measure is spread over the clips, its dot their median"
    subtitle += f"; {count_text(beyond, 'clip')} longer than shown, up to {most:.0f} s" if beyond else ""
    lines = max(len(corpora), len(look.classes))
    figure, _ = new_figure(9.0, max(1.7, 0.7 + 0.33 * lines), "How long the clips are", subtitle, look.notes)
    parts = [(corpora, "corpus", look.shades)] + [(look.classes, "emotion", look.colours)] * bool(look.classes)
    for place, (names, column, fills) in enumerate(parts):
        axes = style_axes(figure.add_subplot(1, len(parts), place + 1))
        for row, name in enumerate(names):
            shape(axes, row, seconds[(look.clips[column] == name).to_numpy()], fills[name], 0.36, -0.36)
        name_rows(axes, names)
        axes.set_xlim(0, longest * 1.02)
        axes.set_xlabel("seconds")
    return figure


def levels(look: View) -> Figure:
    """Draw how loud the clips of each corpus are: peaks, speech, and what lies behind it."""
    corpora = look.corpora[:MOST_CORPORA]
    measures = {"background": ("#b8c0c8", 0.26), "level": ("", 0.0), "peak": (INK, -0.26)}
    labels = {"background": "background: a tenth of the sound lies below", "level": "speech", "peak": "peak"}
    low, high = float(look.clips["background"].quantile(0.01)) - 3, 3.0
    subtitle = (
        "dB below full scale; box: the middle half of the clips, line in it: their median, whiskers: 95 % of them"
    )
    figure, foot = new_figure(9.0, 0.8 + 0.62 * len(corpora), "How loud the clips are", subtitle, look.notes, legend=1)
    axes = style_axes(figure.add_subplot())
    for row, corpus in enumerate(corpora):
        part = look.clips[look.clips["corpus"] == corpus]
        for measure, (fill, shift) in measures.items():
            box(axes, row + shift, part[measure].to_numpy(), fill or look.shades[corpus], 0.2)
    name_rows(axes, corpora)
    axes.set_xlim(low, high)
    axes.axvline(0, color=FAINT, lw=1, ls="--")
    axes.set_xlabel("dBFS")
    axes.grid(axis="x", color=GRID, lw=0.8)
    handles = [patch(fill or PALETTE[0], labels[name]) for name, (fill, _) in measures.items()]
    figure.legend(handles=handles, loc="lower left", bbox_to_anchor=(0.005, foot), ncols=3, **LEGEND)
    return figure


def voices(look: View) -> Figure:
    """Draw pitch, its range and the level of each emotion; women above the line, men below it."""
    column, names, fills = look.kinds
    panels = {"pitch": "pitch (Hz)", "pitch_range": "range of pitch within a clip (semitones)"}
    panels |= {"beside": "level, beside the speaker's own mean (dB)"} if look.classes else {"level": "level (dBFS)"}
    subtitle = "a shape shows how a measure is spread over the clips, its dot their median; " + _sides(look)
    title = "How the emotions sound" if look.classes else "How the voices sound"
    figure, low = new_figure(
        9.4, 0.7 + 0.5 * len(names), title, subtitle.rstrip("; "), look.notes, legend=int(look.told_apart)
    )
    each = [(look.clips[column] == name).to_numpy() for name in names]
    for place, (measure, heading) in enumerate(panels.items()):
        axes = style_axes(figure.add_subplot(1, 3, place + 1))
        numbers = look.clips[measure].to_numpy(dtype=float)
        if measure == "pitch":
            axes.set_xscale("log")
        for row, (name, those) in enumerate(zip(names, each, strict=True)):
            _voices_of(axes, look, row, numbers, those, fills[name])
        name_rows(axes, names if place == 0 else [""] * len(names))
        axes.set_title(heading, loc="left", fontsize=9, color=INK)
        axes.grid(axis="x", color=GRID, lw=0.8)
        _span(axes, [numbers[those] for those in each], measure)
    _voice_legend(figure, low, look)
    return figure


def _voices_of(axes: Axes, look: View, row: int, numbers: np.ndarray, those: np.ndarray, fill: str) -> None:
    """Draw a row's shapes, those of unknown gender behind the others."""
    for voice in reversed(look.voices):
        some = numbers[those & (look.clips["voice"] == voice).to_numpy()]
        up, down = {"female": (0.42, 0.0), "male": (0.0, -0.42)}.get(voice, (0.42, -0.42))
        shape(axes, row, some[~np.isnan(some)], look.tinted(fill, voice), up, down)


def _span(axes: Axes, groups: Sequence[np.ndarray], measure: str) -> None:
    """Show 98 % of each group's values or more; pitch with ticks that people read."""
    from matplotlib.ticker import FixedLocator, NullLocator

    there = [some for numbers in groups if len(some := numbers[~np.isnan(numbers)])]
    if not there:
        return
    low = min(float(np.quantile(some, 0.01)) for some in there)
    high = max(float(np.quantile(some, 0.99)) for some in there)
    if measure == "pitch":
        axes.set_xlim(low * 0.9, high * 1.1)
        axes.xaxis.set_major_locator(FixedLocator([60, 80, 100, 150, 200, 300, 400, 600]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter("{x:g}")
        return
    axes.locator_params(axis="x", nbins=6)
    gap = 0.06 * (high - low) or 1.0
    axes.set_xlim(0 if measure == "pitch_range" else low - gap, high + gap)


def _own(clips: pd.DataFrame) -> pd.Series[str]:
    """Name the speaker of each clip, or its corpus where the speaker is not known."""
    return clips["speaker"].where(known_speakers(clips), clips["corpus"])


def _speakers(part: pd.DataFrame) -> str:
    known = known_speakers(part)
    return count_text(part["speaker"][known].nunique(), "speaker") if known.any() else "speakers unknown"


def _sides(look: View) -> str:
    return "women above the line, men below" if {"female", "male"} <= set(look.voices) else ""


def _many(look: View) -> bool:
    return len(look.corpora) > MOST_CORPORA


def _voice_legend(figure: Figure, low: float, look: View) -> None:
    if not look.told_apart:
        return
    handles = [patch(look.tinted("#4a5560", voice), voice) for voice in look.voices]
    figure.legend(handles=handles, loc="lower left", bbox_to_anchor=(0.005, low), ncols=len(handles), **LEGEND)
