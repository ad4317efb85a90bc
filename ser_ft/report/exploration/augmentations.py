"""`ser-ft augment`: an augmented version of a recording for each transform, and a figure of all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ... import audio
from ...data.augmentation.waveform import TRANSFORMS, Augment
from ...utils.atomic import write_file
from ...utils.errors import InputError
from ...utils.files import check_inputs, check_output, output_lock
from ..shared.audio_figures import draw_spectrogram, draw_waveform, peak_power, spectrogram_db
from ..shared.plotting import FAINT, INK, display_name, escape_math, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_SECONDS = 30.0  # a longer recording would be unreadable in the figure
_COLUMNS = 3
_RANGE_DB = 80.0
_ORIGINAL_COLOR, _VERSION_COLOR = "#c3ccd5", "#2f6cab"
# Inches: width of a cell, gaps between cells, margins, and heights of the parts of a cell.
_WIDTH, _COLUMN_GAP, _ROW_GAP = 3.9, 0.32, 0.38
_LEFT, _RIGHT, _BOTTOM = 0.45, 0.15, 0.55
_TITLE, _WAVEFORM, _SPECTROGRAM = 0.23, 0.55, 1.05
_CELL = _TITLE + _WAVEFORM + _SPECTROGRAM


class Version(NamedTuple):
    """A version of a recording: the transform or "original", a text of its random values, float32 samples at 16 kHz."""

    name: str
    values: str
    samples: np.ndarray


def write_augmentations(
    clip: str | Path,
    out: str | Path,
    seed: int = 0,
    only: Sequence[str] | None = None,
    noise_dir: str | Path | None = None,
) -> list[Path]:
    """Write a version of a recording for each transform with its default settings, and a figure of all of them.

    Args:
        only: names of transforms; by default all `TRANSFORMS`.
        noise_dir: a folder of recordings for the transform `background`, which is omitted without it.

    Returns:
        {clip}-original.wav, {clip}-{transform}.wav, ... (16 kHz, 16 bits), and {clip}-augmentations.png.

    Raises:
        InputError: the recording cannot be used, a name is unknown, or the folder cannot be written.
    """
    names = _select_transforms(only, noise_dir)
    settings = [{"sounds_path": noise_dir} if name == "background" else {} for name in names]
    augments = [Augment({name: values}, seed=seed) for name, values in zip(names, settings, strict=True)]
    file = Path(clip).expanduser()
    check_inputs([file])
    samples = audio.decode(file)
    seconds = len(samples) / audio.SAMPLE_RATE
    if audio.is_silent(samples):
        raise InputError(f"{clip}: silent: name a recording with speech")
    if seconds > MAX_SECONDS:
        raise InputError(f"{clip}: {seconds:.0f} s long: name a recording of {MAX_SECONDS:.0f} s or less")
    versions = [Version("original", f"{seconds:.2f} s", samples)]
    for name, augment in zip(names, augments, strict=True):
        values = augment.sample_parameters(file.name, 1)[name]
        versions.append(Version(name, _values_text(name, values), augment.apply(samples, file.name, 1)))
    with output_lock(out):
        folder = check_output(out)
        written = [
            write_file(folder / f"{file.stem}-{version.name}.wav", audio.to_wav(version.samples))
            for version in versions
        ]
        return [*written, save_figure(plot_versions(versions, file.name), folder / f"{file.stem}-augmentations.png")]


def plot_versions(versions: Sequence[Version], title: str) -> Figure:
    """Plot the waveform and the spectrogram of each version, the original first, with the same scales for all."""
    rows, columns = -(-len(versions) // _COLUMNS), min(_COLUMNS, len(versions))
    height = rows * _CELL + (rows - 1) * _ROW_GAP + _BOTTOM
    width = _LEFT + columns * _WIDTH + (columns - 1) * _COLUMN_GAP + _RIGHT
    subtitle = "waveform (gray: the original) and spectrogram of each version, over seconds; the same scales for all"
    figure, bottom = new_figure(width, height, display_name(title, 70), subtitle)
    figure.set_layout_engine("none")
    total_height = figure.get_figheight()
    top = bottom * total_height + height
    original = versions[0]
    seconds = max(len(version.samples) for version in versions) / audio.SAMPLE_RATE
    peaks = [float(np.abs(version.samples).max()) for version in versions]
    # Versions much louder than the original are clipped in the figure; otherwise the others would look flat.
    level = min(max(peaks), 1.5 * peaks[0])
    reference_power = peak_power(original.samples)
    for index, version in enumerate(versions):
        row, column = divmod(index, columns)
        x, y = _LEFT + column * (_WIDTH + _COLUMN_GAP), top - (row + 1) * _CELL - row * _ROW_GAP
        inches = ((x, y + _SPECTROGRAM, _WIDTH, _WAVEFORM), (x, y, _WIDTH, _SPECTROGRAM))
        size = np.array([width, total_height, width, total_height])
        waveform_axes, spectrogram_axes = (figure.add_axes(tuple(np.array(box) / size)) for box in inches)
        _annotate_version(waveform_axes, version)
        if index:
            draw_waveform(waveform_axes, original.samples, _ORIGINAL_COLOR)
        draw_waveform(waveform_axes, version.samples, _VERSION_COLOR if index else INK)
        decibels = spectrogram_db(version.samples, reference_power=reference_power)
        image = draw_spectrogram(spectrogram_axes, decibels, _RANGE_DB)
        for axes in (waveform_axes, spectrogram_axes):
            axes.set_xlim(0, seconds)
            axes.spines[:].set_visible(False)
            axes.tick_params(color="#b8c0c8", labelcolor=FAINT, labelsize=8, length=2, pad=2)
        waveform_axes.set_ylim(-level, level)
        waveform_axes.set_xticks([])
        waveform_axes.set_yticks([])
        spectrogram_axes.set_yticks([0, 4, 8], ["0", "4", "8 kHz"] if column == 0 else ["", "", ""])
        spectrogram_axes.locator_params(axis="x", nbins=6)
    left, y = _LEFT / width, bottom + 0.17 / total_height
    color_axes = figure.add_axes((left, y, 1.6 / width, 0.09 / total_height))
    scale = figure.colorbar(image, cax=color_axes, orientation="horizontal")
    scale.outline.set_visible(False)  # type: ignore[operator]
    color_axes.tick_params(labelsize=8, labelcolor=FAINT, color="#b8c0c8", length=2, pad=2)
    figure.text(left + 1.7 / width, y, "dB relative to the original's highest power", fontsize=8, color=FAINT)
    return figure


def _select_transforms(only: Sequence[str] | None, noise_dir: str | Path | None) -> list[str]:
    for name in only or ():
        if name not in TRANSFORMS:
            raise InputError(f"no augmentation {name!r}; there are {', '.join(TRANSFORMS)}")
    if only and "background" in only and noise_dir is None:
        raise InputError("background needs a folder of recordings: name one with --noise-dir")
    return [name for name in TRANSFORMS if name in (only or TRANSFORMS) and (noise_dir or name != "background")]


def _values_text(name: str, values: Mapping[str, Any]) -> str:
    """Write a transform's random values: "rt60 0.4 s, direct 9 dB"; a string value needs no key."""
    texts = {key: TRANSFORMS[name].parameters[key].format(value) for key, value in values.items()}
    return ", ".join(text if isinstance(values[key], str) else f"{key} {text}" for key, text in texts.items())


def _annotate_version(axes: Axes, version: Version) -> None:
    style: dict[str, Any] = {"textcoords": "offset points", "va": "baseline"}
    name = axes.annotate(version.name, (0, 1), (0, 4), xycoords="axes fraction", fontsize=10, color=INK, **style)
    name.set_fontweight("bold")
    after_name: Any = (name, "axes fraction")
    axes.annotate(escape_math(version.values), (1, 1), (7, 4), xycoords=after_name, fontsize=9, color=FAINT, **style)
