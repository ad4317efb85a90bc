"""The map of `ser-ft explore`, and its examples: clips on a plane, and what a clip of each emotion looks like."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ... import audio
from ...utils.text import count_text
from ..shared.plotting import FAINT, INK, LEGEND, display_name, new_figure, style_axes
from .figures import GENDERS, MOST_CORPORA, View
from .marks import patch
from .measurements import active, decibels
from .separability import known_speakers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_EXAMPLES = 12
LONGEST_SHOWN = 6.0  # seconds of an example that are drawn
_UNLABELLED = 6
_OTHER = "#8a94a0"
_TOP = 5000.0  # Hz
_DEPTH = 65.0  # dB from the loudest to black
_LEAD = 0.15  # seconds that are left before the speech and after it
_PITCHES = (60, 100, 150, 250, 400, 600)  # Hz
_PITCH_COLOUR = "#7df0ff"


class _Trait(NamedTuple):
    heading: str
    column: str
    names: Sequence[str]
    colours: Mapping[str, str]


def plane(look: View, places: Mapping[str, np.ndarray], rows: np.ndarray, method: str) -> Figure:
    """Draw maps of clips: a line of them for each way of standardising, a column for each trait.

    Args:
        look: all clips. places: heading -> where each clip of `rows` lies, shape (clips, 2).
        rows: which clips are drawn, shape (clips,). method: how they were laid out.
    """
    clips = look.clips.iloc[rows]
    traits = _traits(look)
    side = {1: 5.0, 2: 4.4, 3: 3.1}[len(traits)]
    subtitle = (
        f"{count_text(len(rows), 'clip')}, like ones near each other ({method}); the axes have no meaning of their own"
    )
    deep = max(math.ceil(len(trait.names) / 2) for trait in traits)
    height = (side + 0.25) * len(places) + 0.2 * deep
    figure, _ = new_figure(side * len(traits) + 0.2, height, "A map of the clips", subtitle, look.notes)
    grid = figure.subplots(len(places), len(traits), squeeze=False)
    for line, (heading, points) in zip(grid, places.items(), strict=True):
        for axes, trait in zip(line, traits, strict=True):
            _scatter(axes, points, [trait.colours.get(value, _OTHER) for value in clips[trait.column]])
        line[0].set_ylabel(heading, fontsize=9.5, color=INK)
    for axes, trait in zip(grid[0], traits, strict=True):
        axes.set_title(trait.heading, loc="left", fontsize=10.5, fontweight="bold", color=INK)
    for axes, trait in zip(grid[-1], traits, strict=True):
        handles = [
            patch(trait.colours[name], display_name(name, 16 if len(traits) > 2 else 24)) for name in trait.names
        ]
        axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(-0.02, -0.01), ncols=2, **LEGEND)
    return figure


def _traits(look: View) -> list[_Trait]:
    """Choose by what the clips of a map are coloured: by what differs among them."""
    shades = {name: shade for name, (_, shade) in GENDERS.items()}
    traits = []
    if len(look.classes) > 1:
        traits.append(_Trait("emotion", "emotion", look.classes, look.colours))
    if len(look.corpora) > 1:
        traits.append(_Trait(look.group, "corpus", look.corpora[:MOST_CORPORA], look.shades))
    if len(look.voices) > 1:
        traits.append(_Trait("gender", "voice", look.voices, shades))
    return traits or [_Trait(look.group, "corpus", look.corpora, look.shades)]


def _scatter(axes: Axes, points: np.ndarray, fills: Sequence[str]) -> None:
    """Draw a map; the clips lie over each other by lot, not by class."""
    size = float(np.clip(6000 / len(points), 5, 40))
    order = np.random.default_rng(0).permutation(len(points))
    across, up = points[order].T
    axes.scatter(across, up, size, [fills[at] for at in order], alpha=0.75, lw=0)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color("#d5dae0")
    axes.margins(0.03)


@dataclass(frozen=True)
class Example:
    """A clip that is shown and played.

    Attributes:
        name: its emotion, or its own name where there are none. colour: its own.
        samples: of `trimmed`, float32, 16 kHz, shape (samples,).
        pitch: its median, in Hz, or nan. level: of the speech, in dBFS.
    """

    name: str
    colour: str
    samples: np.ndarray
    pitch: float
    level: float


def choose(look: View) -> dict[str, int]:
    """Choose a clip for each emotion, of one speaker and with the same words wherever there are such clips.

    The speaker is the one with most emotions, of a corpus with nothing to be borne in mind before others. Without
    emotions, clips from the shortest to the longest are chosen.

    Returns:
        the emotion (at most 12 of them), or the clip's id -> its row.
    """
    clips = look.clips
    if not look.classes:
        places = np.linspace(0, len(clips) - 1, min(len(clips), _UNLABELLED)).astype(int)
        some = clips["duration"].sort_values(kind="stable").index[places]
        return {str(clips["id"][row]): int(row) for row in some}
    known = clips[known_speakers(clips)]
    table = known.groupby(["corpus", "speaker"])["emotion"].nunique().reset_index()
    table["noted"] = table["corpus"].isin(list(look.told))
    speaker = statement = None
    if len(table):
        speaker = table.sort_values(["emotion", "noted", "speaker"], ascending=[False, True, True])["speaker"].iloc[0]
        spoken = known[known["speaker"] == speaker].groupby("statement")["emotion"].nunique()
        statement = spoken.idxmax() if len(spoken) else None
    chosen = {}
    ranks = 2 * (clips["speaker"] != speaker) + 1 * (clips["statement"] != statement)
    ordered = clips.assign(_rank=ranks).sort_values(["_rank", "id"], kind="stable")
    for name in look.classes[:MOST_EXAMPLES]:
        chosen[name] = int(ordered.index[ordered["emotion"] == name][0])
    return chosen


def examples(look: View, shown: Sequence[Example]) -> Figure:
    """Draw the waveform and the spectrogram of clips, with their pitch over it."""
    columns = min(2, len(shown))
    lines = math.ceil(len(shown) / columns)
    longest = max(len(example.samples) for example in shown) / audio.SAMPLE_RATE
    subtitle = f"waveforms, each to its own peak; spectrograms, {_DEPTH:g} dB deep; blue: pitch, its scale to the right"
    figure, _ = new_figure(4.7 * columns, 2.3 * lines, "What they look like", subtitle, look.notes)
    grid = figure.subplots(2 * lines, columns, squeeze=False, height_ratios=[1, 2.8] * lines)
    for place in range(lines * columns):
        upper, lower = (grid[2 * (place // columns) + side, place % columns] for side in (0, 1))
        if place >= len(shown):
            upper.set_visible(False)
            lower.set_visible(False)
            continue
        _wave(upper, shown[place], longest)
        pitch = _spectrogram(lower, shown[place].samples, longest)
        lower.set_xlabel("seconds" if place + columns >= len(shown) else "", fontsize=8.5)
        if place % columns == 0:
            lower.set_ylabel("kHz", color=FAINT, fontsize=8.5)
        if place % columns == columns - 1:
            pitch.set_ylabel("pitch (Hz)", color=FAINT, fontsize=8.5)
    return figure


def trimmed(samples: np.ndarray) -> np.ndarray:
    """Cut off what lies before the speech and after it, and what is longer than 6 seconds."""
    import torch

    hop = 160
    power = torch.from_numpy(np.pad(samples, (0, -len(samples) % hop))).reshape(1, -1, hop).square().mean(dim=2)
    speech, _ = active(decibels(power.sqrt()), torch.ones_like(power, dtype=torch.bool))
    places = speech[0].nonzero()
    lead = int(_LEAD * audio.SAMPLE_RATE)
    first, last = (int(places[at]) * hop for at in (0, -1))
    cut: np.ndarray = samples[max(0, first - lead) : last + hop + lead]
    return cut[: int(LONGEST_SHOWN * audio.SAMPLE_RATE)]


def _wave(axes: Axes, example: Example, longest: float) -> None:
    """Draw a waveform as the band between its highest and lowest samples."""
    step, heard = 32, example.samples
    steps = np.pad(heard, (0, -len(heard) % step)).reshape(-1, step)
    peak = max(float(np.abs(heard).max()), 1e-6)
    times = np.arange(len(steps)) * step / audio.SAMPLE_RATE
    axes.fill_between(times, steps.min(axis=1) / peak, steps.max(axis=1) / peak, color=example.colour, lw=0.3)
    axes.set_xlim(0, longest)
    axes.set_ylim(-1.08, 1.08)
    axes.axis("off")
    axes.set_title(display_name(example.name, 40), loc="left", fontsize=10, fontweight="bold", color=INK, pad=3)
    pitch = "" if math.isnan(example.pitch) else f"{example.pitch:.0f} Hz, "
    axes.set_title(f"{pitch}{example.level:.0f} dBFS", loc="right", fontsize=8.5, color=FAINT, pad=3)


def _spectrogram(axes: Axes, heard: np.ndarray, longest: float) -> Axes:
    """Draw a spectrogram, and the pitch over it; return the pitch's axes."""
    import torch

    from ...models.pitch import yin

    hop, size, rate = 160, 1024, audio.SAMPLE_RATE
    samples = torch.from_numpy(heard)
    hann = torch.hann_window(size // 2)
    power = torch.stft(samples, size, hop, size // 2, hann, pad_mode="constant", return_complex=True).abs()
    bins = int(_TOP / rate * size)
    shown = decibels(power / power.max().clamp(min=1e-9))[:bins].numpy()
    half = 0.5 * hop / rate
    extent = (-half, shown.shape[1] * 2 * half - half, 0.0, bins / size * rate / 1000)
    axes.imshow(shown, "magma", aspect="auto", origin="lower", extent=extent, vmin=-_DEPTH, vmax=0)
    style_axes(axes)
    axes.set_facecolor("black")
    axes.set_xlim(0, longest)
    axes.set_ylim(0, _TOP / 1000)
    axes.set_yticks([0, 1, 2, 3, 4, 5])
    axes.tick_params(labelsize=8)
    frequencies = yin(samples[None], torch.tensor([len(samples)]), hop_length=hop).frequency[0].numpy()
    # A jump of over half an octave from window to window is another dip, not a voice.
    frequencies[1:][np.abs(np.diff(np.log2(frequencies))) > 0.5] = np.nan
    other = style_axes(axes.twinx())
    other.plot(np.arange(len(frequencies)) * hop / rate, frequencies, color=_PITCH_COLOUR, lw=1.8)
    other.set_yscale("log")
    other.set_ylim(_PITCHES[0], _PITCHES[-1])
    other.set_yticks(_PITCHES, [str(pitch) for pitch in _PITCHES])
    other.minorticks_off()
    other.tick_params(labelsize=8, length=0)
    return other
