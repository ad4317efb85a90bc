"""Two figures of `ser-ft explore`: the map of the clips on a plane, and an example clip of each emotion."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ... import audio
from ...utils.text import count_text
from ..shared.audio_figures import HOP_LENGTH, draw_spectrogram, draw_waveform, spectrogram_db
from ..shared.plotting import FAINT, INK, LEGEND, display_name, new_figure, style_axes
from .figures import GENDERS, MAX_CORPORA, PlotData, legend_patch
from .measurements import active_speech_level, to_dbfs
from .separability import known_speakers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_EXAMPLES = 12
MAX_EXAMPLE_SECONDS = 6.0
_UNLABELED_EXAMPLES = 6
_OTHER_COLOR = "#8a94a0"
_MAX_HZ = 5000.0
_RANGE_DB = 65.0
_MARGIN_SECONDS = 0.15  # kept before and after the speech
_PITCH_TICKS = (60, 100, 150, 250, 400, 600)  # Hz
_PITCH_COLOR = "#7df0ff"


class _Trait(NamedTuple):
    heading: str
    column: str
    names: Sequence[str]
    colors: Mapping[str, str]


def plot_map(data: PlotData, coordinates: Mapping[str, np.ndarray], rows: np.ndarray, method: str) -> Figure:
    """Plot maps of clips: a line per normalization of the features, a column per trait.

    Args:
        coordinates: heading of the line -> positions of the clips, shape (rows, 2).
        rows: positions in `data.clips` of the clips to show, shape (rows,).
        method: name of the method that computed the coordinates.
    """
    clips = data.clips.iloc[rows]
    traits = _map_traits(data)
    side = {1: 5.0, 2: 4.4, 3: 3.1}[len(traits)]
    subtitle = f"{count_text(len(rows), 'clip')}, similar ones close to each other ({method}); the axes have no meaning"
    legend_lines = max(math.ceil(len(trait.names) / 2) for trait in traits)
    height = (side + 0.25) * len(coordinates) + 0.2 * legend_lines
    figure, _ = new_figure(side * len(traits) + 0.2, height, "Map of the clips", subtitle, data.notes)
    grid = figure.subplots(len(coordinates), len(traits), squeeze=False)
    for line, (heading, points) in zip(grid, coordinates.items(), strict=True):
        for axes, trait in zip(line, traits, strict=True):
            _scatter(axes, points, [trait.colors.get(value, _OTHER_COLOR) for value in clips[trait.column]])
        line[0].set_ylabel(heading, fontsize=9.5, color=INK)
    max_characters = 16 if len(traits) > 2 else 24
    for first, last, trait in zip(grid[0], grid[-1], traits, strict=True):
        first.set_title(trait.heading, loc="left", fontsize=10.5, fontweight="bold", color=INK)
        handles = [legend_patch(trait.colors[name], display_name(name, max_characters)) for name in trait.names]
        last.legend(handles=handles, loc="upper left", bbox_to_anchor=(-0.02, -0.01), ncols=2, **LEGEND)
    return figure


def _map_traits(data: PlotData) -> list[_Trait]:
    """Return the traits by which maps are colored: those with more than one value."""
    gender_colors = {name: color for name, (_, color) in GENDERS.items()}
    corpus = _Trait(data.group_name, "corpus", data.corpora[:MAX_CORPORA], data.corpus_colors)
    emotion = _Trait("emotion", "emotion", data.classes, data.class_colors)
    gender = _Trait("gender", "gender_label", data.genders, gender_colors)
    return [trait for trait in (emotion, corpus, gender) if len(trait.names) > 1] or [corpus]


def _scatter(axes: Axes, points: np.ndarray, colors: Sequence[str]) -> None:
    size = float(np.clip(6000 / len(points), 5, 40))
    # In random order, so that no class covers the others.
    order = np.random.default_rng(0).permutation(len(points))
    x, y = points[order].T
    axes.scatter(x, y, size, [colors[index] for index in order], alpha=0.75, lw=0)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color("#d5dae0")
    axes.margins(0.03)


class Example(NamedTuple):
    """A clip that is shown and can be played.

    Attributes:
        name: its emotion, or its id if the clips have no labels.
        samples: from `trim_silence`, float32, 16 kHz.
        pitch: median in Hz, or nan.
        level: of the speech, in dBFS.
    """

    name: str
    color: str
    samples: np.ndarray
    pitch: float
    level: float


def choose_examples(data: PlotData) -> dict[str, int]:
    """Choose a clip of each emotion, from the same speaker and with the same words if such clips exist.

    The speaker is the one with the most emotions, preferably from a corpus without a note. Without labels, clips from
    the shortest to the longest are chosen.

    Returns:
        The emotion (at most 12), or the clip's id -> its row.
    """
    clips = data.clips
    if not data.classes:
        ranks = np.linspace(0, len(clips) - 1, min(len(clips), _UNLABELED_EXAMPLES)).astype(int)
        rows = clips["duration"].sort_values(kind="stable").index[ranks]
        return {str(clips["id"][row]): int(row) for row in rows}
    known = clips[known_speakers(clips)]
    candidates = known.groupby(["corpus", "speaker"])["emotion"].nunique().reset_index()
    candidates["has_note"] = candidates["corpus"].isin(list(data.corpus_notes))
    speaker = statement = None
    if len(candidates):
        ranking = candidates.sort_values(["emotion", "has_note", "speaker"], ascending=[False, True, True])
        speaker = ranking["speaker"].iloc[0]
        statements = known[known["speaker"] == speaker].groupby("statement")["emotion"].nunique()
        statement = statements.idxmax() if len(statements) else None
    rank = 2 * (clips["speaker"] != speaker) + 1 * (clips["statement"] != statement)
    ordered = clips.assign(_rank=rank).sort_values(["_rank", "id"], kind="stable")
    return {name: int(ordered.index[ordered["emotion"] == name][0]) for name in data.classes[:MAX_EXAMPLES]}


def plot_examples(data: PlotData, examples: Sequence[Example]) -> Figure:
    """Plot the waveform and the spectrogram of clips, with their pitch over it, and the notes of `data`."""
    columns = min(2, len(examples))
    lines = math.ceil(len(examples) / columns)
    max_seconds = max(len(example.samples) for example in examples) / audio.SAMPLE_RATE
    subtitle = f"waveforms, each scaled to its peak; spectrograms over {_RANGE_DB:g} dB"
    subtitle += "; blue: pitch, with its scale on the right"
    figure, _ = new_figure(4.7 * columns, 2.3 * lines, "Waveforms and spectrograms", subtitle, data.notes)
    grid = figure.subplots(2 * lines, columns, squeeze=False, height_ratios=[1, 2.8] * lines)
    for index in range(lines * columns):
        line, column = divmod(index, columns)
        waveform_axes, spectrogram_axes = grid[2 * line, column], grid[2 * line + 1, column]
        if index >= len(examples):
            waveform_axes.set_visible(False)
            spectrogram_axes.set_visible(False)
            continue
        _plot_waveform(waveform_axes, examples[index], max_seconds)
        pitch_axes = _plot_spectrogram(spectrogram_axes, examples[index].samples, max_seconds)
        spectrogram_axes.set_xlabel("seconds" if index + columns >= len(examples) else "", fontsize=8.5)
        if column == 0:
            spectrogram_axes.set_ylabel("kHz", color=FAINT, fontsize=8.5)
        if column == columns - 1:
            pitch_axes.set_ylabel("pitch (Hz)", color=FAINT, fontsize=8.5)
    return figure


def trim_silence(samples: np.ndarray) -> np.ndarray:
    """Remove what comes before and after the speech, and everything after 6 seconds."""
    import torch

    power = torch.from_numpy(np.pad(samples, (0, -len(samples) % HOP_LENGTH))).reshape(1, -1, HOP_LENGTH)
    power = power.square().mean(dim=2)
    speech, _ = active_speech_level(to_dbfs(power.sqrt()), torch.ones_like(power, dtype=torch.bool))
    windows = speech[0].nonzero()
    margin = int(_MARGIN_SECONDS * audio.SAMPLE_RATE)
    first, last = int(windows[0]) * HOP_LENGTH, int(windows[-1]) * HOP_LENGTH
    trimmed: np.ndarray = samples[max(0, first - margin) : last + HOP_LENGTH + margin]
    return trimmed[: int(MAX_EXAMPLE_SECONDS * audio.SAMPLE_RATE)]


def _plot_waveform(axes: Axes, example: Example, max_seconds: float) -> None:
    peak = max(float(np.abs(example.samples).max()), 1e-6)
    draw_waveform(axes, example.samples / peak, example.color)
    axes.set_xlim(0, max_seconds)
    axes.set_ylim(-1.08, 1.08)
    axes.axis("off")
    axes.set_title(display_name(example.name, 40), loc="left", fontsize=10, fontweight="bold", color=INK, pad=3)
    pitch = "" if math.isnan(example.pitch) else f"{example.pitch:.0f} Hz, "
    axes.set_title(f"{pitch}{example.level:.0f} dBFS", loc="right", fontsize=8.5, color=FAINT, pad=3)


def _plot_spectrogram(axes: Axes, samples: np.ndarray, max_seconds: float) -> Axes:
    """Draw a spectrogram with the pitch over it; return the pitch's axes."""
    import torch

    from ...models.pitch import yin

    style_axes(axes)
    draw_spectrogram(axes, spectrogram_db(samples), _RANGE_DB, max_hz=_MAX_HZ)
    axes.set_xlim(0, max_seconds)
    axes.set_yticks(range(int(_MAX_HZ / 1000) + 1))
    axes.tick_params(labelsize=8)
    waveforms, lengths = torch.from_numpy(samples)[None], torch.tensor([len(samples)])
    frequencies = yin(waveforms, lengths, hop_length=HOP_LENGTH).frequency[0].numpy()
    # A jump of over half an octave between windows is an error of the estimate: the line is interrupted there.
    frequencies[1:][np.abs(np.diff(np.log2(frequencies))) > 0.5] = np.nan
    pitch_axes = style_axes(axes.twinx())
    seconds = np.arange(len(frequencies)) * HOP_LENGTH / audio.SAMPLE_RATE
    pitch_axes.plot(seconds, frequencies, color=_PITCH_COLOR, lw=1.8)
    pitch_axes.set_yscale("log")
    pitch_axes.set_ylim(_PITCH_TICKS[0], _PITCH_TICKS[-1])
    pitch_axes.set_yticks(_PITCH_TICKS, [str(hz) for hz in _PITCH_TICKS])
    pitch_axes.minorticks_off()
    pitch_axes.tick_params(labelsize=8, length=0)
    return pitch_axes
