"""What each augmentation does to a recording: to hear, and to see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ... import audio
from ...data.augmentation.waveform import TRANSFORMS, Augment
from ...utils.errors import InputError
from ...utils.files import check_output
from ..shared.plotting import FAINT, INK, display_name, escape_math, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LONGEST = 30.0  # seconds of a recording, of which a picture still shows something
_COLUMNS = 3
_FLOOR = -80.0  # dB below the original's loudest, where the spectrograms end
_BEFORE, _AFTER = "#c3ccd5", "#2f6cab"
# Inches: a cell, the gaps between cells, the margins, and the heights of what a cell holds.
_WIDTH, _ACROSS, _DOWN = 3.9, 0.32, 0.38
_LEFT, _RIGHT, _SCALE = 0.45, 0.15, 0.55
_TITLE, _WAVE, _SPECTRUM = 0.23, 0.55, 1.05


@dataclass(frozen=True)
class Version:
    """A version of a recording: the transform's name ("original": none), what is said of it, and its samples."""

    name: str
    values: str
    samples: np.ndarray


def write_augmentations(
    clip: str | Path,
    out: str | Path,
    seed: int = 0,
    only: Sequence[str] | None = None,
    noises: str | Path | None = None,
) -> list[Path]:
    """Write a version of a recording for each transform, with its own settings, and a figure of them all.

    Args:
        clip: a sound file of up to 30 s. out: the folder they are written to. seed: of the draws.
        only: names of transforms; by default all of `TRANSFORMS`. noises: a folder of recordings for `background`,
            which is left out without it.

    Returns:
        the files: {clip}-original.wav, {clip}-{transform}.wav, ..., {clip}-augmentations.png; all 16 kHz, 16 bit.

    Raises:
        InputError: the recording cannot be used, a name is unknown, or the folder cannot be written to.
    """
    chosen = _chosen(only, noises)
    augments = [Augment({name: {"sounds_path": noises} if name == "background" else {}}, seed=seed) for name in chosen]
    file = Path(clip).expanduser()
    samples = audio.decode(file)
    if audio.is_silent(samples):
        raise InputError(f"{clip}: silent: name a recording with speech")
    if len(samples) > LONGEST * audio.SAMPLE_RATE:
        seconds = len(samples) / audio.SAMPLE_RATE
        raise InputError(f"{clip}: {seconds:.0f} s long: name a recording of {LONGEST:.0f} s or less")
    versions = [Version("original", f"{len(samples) / audio.SAMPLE_RATE:.2f} s", samples)]
    for name, augment in zip(chosen, augments, strict=True):
        values = augment.sample_parameters(file.name, 1)[name]
        versions.append(Version(name, _told(name, values), augment.apply(samples, file.name, 1)))
    home = _folder(out)
    written = []
    for version in versions:
        written.append(home / f"{file.stem}-{version.name}.wav")
        written[-1].write_bytes(audio.to_wav(version.samples))
    return [*written, save_figure(draw(versions, file.name), home / f"{file.stem}-augmentations.png")]


def draw(versions: Sequence[Version], title: str) -> Figure:
    """Draw the waveform and the spectrogram of each version, all on the same scales of time, level and power.

    Args:
        versions: the first is the original, which stands in grey behind the waveforms of the others. title: the clip.
    """
    rows, columns = -(-len(versions) // _COLUMNS), min(_COLUMNS, len(versions))
    cell = _TITLE + _WAVE + _SPECTRUM
    wide = _LEFT + columns * _WIDTH + (columns - 1) * _ACROSS + _RIGHT
    words = "waveform (grey: the original) and spectrogram of each version, over seconds; all on the same scales"
    figure, low = new_figure(wide, rows * cell + (rows - 1) * _DOWN + _SCALE, display_name(title, 70), words)
    figure.set_layout_engine("none")
    tall = figure.get_figheight()
    top = low * tall + rows * cell + (rows - 1) * _DOWN + _SCALE
    seconds = max(len(version.samples) for version in versions) / audio.SAMPLE_RATE
    peaks = [float(np.abs(version.samples).max()) for version in versions]
    # What is much louder than the original is cut off in the picture: else the others would be flat.
    level = min(max(peaks), 1.5 * peaks[0])
    loudest = float(_power(versions[0].samples).max())
    for place, version in enumerate(versions):
        row, column = divmod(place, columns)
        x, y = _LEFT + column * (_WIDTH + _ACROSS), top - (row + 1) * cell - row * _DOWN
        upper = figure.add_axes((x / wide, (y + _SPECTRUM) / tall, _WIDTH / wide, _WAVE / tall))
        lower = figure.add_axes((x / wide, y / tall, _WIDTH / wide, _SPECTRUM / tall))
        _head(upper, version)
        _waves(upper, versions[0] if place else None, version, level)
        image = _spectrogram(lower, version.samples, loudest)
        for axes in (upper, lower):
            axes.set_xlim(0, seconds)
            axes.spines[:].set_visible(False)
            axes.tick_params(color="#b8c0c8", labelcolor=FAINT, labelsize=8, length=2, pad=2)
        upper.set_xticks([])
        lower.set_yticks([0, 4, 8], ["0", "4", "8 kHz"] if column == 0 else ["", "", ""])
        lower.locator_params(axis="x", nbins=6)
    _scale(figure, image, low)
    return figure


def _folder(out: str | Path) -> Path:
    home = check_output(out)
    home.mkdir(parents=True, exist_ok=True)
    return home


def _chosen(only: Sequence[str] | None, noises: str | Path | None) -> list[str]:
    for name in only or ():
        if name not in TRANSFORMS:
            raise InputError(f"no augmentation {name!r}; there are {', '.join(TRANSFORMS)}")
    if only and "background" in only and noises is None:
        raise InputError("background needs a folder of recordings: name one with --noise-dir")
    wanted = set(only or TRANSFORMS) - ({"background"} if noises is None else set())
    return [name for name in TRANSFORMS if name in wanted]


def _told(name: str, values: Mapping[str, Any]) -> str:
    """Write what was drawn for a transform: "rt60 0.4 s, direct 9 dB"; a name says enough by itself."""
    told = {key: TRANSFORMS[name].parameters[key].format(value) for key, value in values.items()}
    return ", ".join(text if isinstance(values[key], str) else f"{key} {text}" for key, text in told.items())


def _head(axes: Axes, version: Version) -> None:
    """Write a version's name and what was drawn for it above its waveform."""
    above: dict[str, Any] = {"textcoords": "offset points", "va": "baseline"}
    name = axes.annotate(version.name, (0, 1), (0, 4), xycoords="axes fraction", fontsize=10, color=INK, **above)
    name.set_fontweight("bold")
    beside: Any = (name, "axes fraction")
    axes.annotate(escape_math(version.values), (1, 1), (7, 4), xycoords=beside, fontsize=9, color=FAINT, **above)


def _waves(axes: Axes, before: Version | None, version: Version, level: float) -> None:
    for shown, colour in ((before, _BEFORE), (version, _AFTER if before else INK)):
        if shown is not None:
            starts = np.linspace(0, len(shown.samples), min(900, len(shown.samples)), endpoint=False).astype(int)
            lows, highs = (reach.reduceat(shown.samples, starts) for reach in (np.minimum, np.maximum))
            axes.fill_between(starts / audio.SAMPLE_RATE, lows, highs, color=colour, lw=0.4)
    axes.set_ylim(-level, level)
    axes.set_yticks([])


def _power(samples: np.ndarray) -> np.ndarray:
    """Return the power over windows of 32 ms, 5 ms apart: shape (257, frames)."""
    from scipy.signal import ShortTimeFFT
    from scipy.signal.windows import hann

    steps = ShortTimeFFT(hann(512, sym=False), hop=80, fs=audio.SAMPLE_RATE)
    power: np.ndarray = steps.spectrogram(np.pad(samples, (0, max(0, 512 - len(samples)))), p0=0)
    return power


def _spectrogram(axes: Axes, samples: np.ndarray, loudest: float) -> Any:
    decibels = 10 * np.log10(np.maximum(_power(samples) / loudest, 1e-12))
    extent = (0.0, len(samples) / audio.SAMPLE_RATE, 0.0, audio.SAMPLE_RATE / 2000)
    return axes.imshow(
        decibels,
        origin="lower",
        aspect="auto",
        extent=extent,
        cmap="magma",
        vmin=_FLOOR,
        vmax=0,
        interpolation="bilinear",
    )


def _scale(figure: Figure, image: Any, low: float) -> None:
    """Draw the scale of the spectrograms below them."""
    wide, tall = figure.get_size_inches()
    left, y = _LEFT / wide, low + 0.17 / tall
    bar = figure.colorbar(image, cax=figure.add_axes((left, y, 1.6 / wide, 0.09 / tall)), orientation="horizontal")
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.ax.tick_params(labelsize=8, labelcolor=FAINT, color="#b8c0c8", length=2, pad=2)
    figure.text(left + 1.7 / wide, y, "dB, by the original's highest power", fontsize=8, color=FAINT)
