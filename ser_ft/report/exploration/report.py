"""`ser-ft explore`: a report on a data set before anything is trained on it."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from threadpoolctl import threadpool_limits

from ... import audio
from ...data.corpora import REASONS
from ...utils.atomic import write_atomically
from ...utils.files import check_output, output_lock
from ...utils.progress import progress_bar
from ..shared.plotting import save_figure
from ..shared.tables import format_rows
from ..shared.templates import embed_png, render_template
from . import figures, findings, map, measurements, separability, tables
from .measurements import MeasuredClips
from .separability import Separability
from .sources import open_source

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_COMPARED = 5000
MAX_MAPPED = 1500
REPORT_FILE, CLIPS_FILE, FIGURES_FOLDER = "report.html", "clips.csv", "figures"
_METADATA = ("corpus", "emotion", "speaker", "gender", "intensity", "duration", "sampling_rate", "path")
_SEED = 0
_MAX_SKIPPED_LISTED = 200
_PNG_COLORS = 256  # limits the size of the large figures


def explore(source: str | Path, out: str | Path | None = None, embed_audio: bool = False, verbose: bool = True) -> Path:
    """Write a report on a prepared table, or on a folder of recordings without labels.

    Args:
        source: a table that `ser-ft prepare` wrote, or a folder that contains sound files at any depth.
        out: the folder to write, by default explore-NAME in the current folder. It holds report.html, which needs no
            other file; figures/, its pictures; and clips.csv, the measurements of each clip. An older report in it
            is replaced.
        embed_audio: include the example clips in the page so that they can be played. The page then contains
            recordings, and their corpus's terms apply to it.

    Returns:
        The path of the page.

    Raises:
        InputError: the source has no readable clips, or `out` holds other files or cannot be written.
    """
    out = f"explore-{Path(source).expanduser().resolve().name or 'data'}" if out is None else out
    with output_lock(out):
        clips = open_source(source)
        folder = check_output(
            out,
            what="an exploration report",
            is_part=lambda entry: entry.name in (REPORT_FILE, CLIPS_FILE, FIGURES_FOLDER),
            is_ours=lambda folder: (folder / CLIPS_FILE).exists(),
        )
        measured = measurements.measure_source(clips, verbose)
        # On a busy machine, several BLAS threads are slower than one because they wait for each other.
        with write_atomically(folder) as partial, threadpool_limits(1):
            _write(measured, partial, embed_audio, verbose)
        return folder / REPORT_FILE


def _write(measured: MeasuredClips, folder: Path, embed_audio: bool, verbose: bool) -> None:
    data = figures.make_plot_data(measured)
    compared = np.random.default_rng(_SEED).permutation(len(measured.clips))[:MAX_COMPARED]
    normalized = separability.normalize_features(measured.clips, measured.features)
    normalized = {name: features[compared] for name, features in normalized.items()}
    allowed_classes = {name: corpus["classes"] for name, corpus in measured.source.corpora.items()}
    compared_clips = measured.clips.iloc[compared].reset_index(drop=True)
    results = separability.estimate_separability(compared_clips, normalized, allowed_classes, _SEED, verbose)
    examples = _read_examples(measured, data)
    figures_folder = folder / FIGURES_FOLDER
    figures_folder.mkdir(parents=True)
    pictures = _draw_figures(data, normalized, compared, examples, figures_folder, verbose)
    clips = measured.clips[["id", *_METADATA, *measurements.MEASURES]]
    rows = [
        {str(name): float(f"{value:.4g}") if isinstance(value, float) else value for name, value in row.items()}
        for row in clips.to_dict("records")
    ]
    (folder / CLIPS_FILE).write_text(format_rows(rows, "csv") + "\n", encoding="utf-8")
    context = _template_context(measured, data, results, examples, pictures, embed_audio)
    page = render_template("report/exploration/exploration.html.j2", context)
    (folder / REPORT_FILE).write_text(page, encoding="utf-8")


def _read_examples(measured: MeasuredClips, data: figures.PlotData) -> dict[int, map.Example]:
    """Read the clips that are shown as examples: row -> example."""
    examples = {}
    for name, row in map.choose_examples(data).items():
        clip = data.clips.loc[row].to_dict()
        samples, _ = measurements.read_clip(measured.source, int(measured.rows[row]))
        color = data.class_colors.get(name, data.corpus_colors[clip["corpus"]])
        examples[row] = map.Example(name, color, map.trim_silence(samples), clip["pitch"], clip["level"])
    return examples


def _draw_figures(
    data: figures.PlotData,
    normalized: dict[str, np.ndarray],
    compared: np.ndarray,
    examples: dict[int, map.Example],
    folder: Path,
    verbose: bool,
) -> dict[str, Path]:
    """Draw the figures for which there are data: name -> file."""

    def plot_map() -> Figure:
        coordinates, method = {}, ""
        for name in (separability.OVERALL, separability.PER_SPEAKER):
            if name in normalized:
                coordinates[name], method = separability.embed_in_2d(normalized[name][:MAX_MAPPED], _SEED)
        return map.plot_map(data, coordinates, compared[:MAX_MAPPED], method)

    plots: dict[str, Callable[[], Figure]] = {}
    if data.classes:
        plots["emotions"] = lambda: figures.plot_emotions(data)
        if separability.known_speakers(data.clips).any():
            plots["speakers"] = lambda: figures.plot_speakers(data)
    plots["durations"] = lambda: figures.plot_durations(data)
    plots["levels"] = lambda: figures.plot_levels(data)
    plots["examples"] = lambda: map.plot_examples(data.subset(list(examples)), list(examples.values()))
    plots["pitch"] = lambda: figures.plot_pitch(data)
    if len(data.clips) > 2:
        plots["map"] = plot_map
    files = {}
    for name, plot in progress_bar(plots.items(), desc="drawing", unit=" figures", show_progress=verbose):
        large = name in ("examples", "map")
        files[name] = save_figure(plot(), folder / f"{name}.png", _PNG_COLORS if large else None)
    return files


def _template_context(
    measured: MeasuredClips,
    data: figures.PlotData,
    results: Sequence[Separability],
    examples: dict[int, map.Example],
    pictures: dict[str, Path],
    embed_audio: bool,
) -> dict[str, Any]:
    clips, source = data.clips, measured.source
    return {
        "name": source.path.resolve().name,
        "labeled": source.labeled,
        "data": data,
        "group": data.group_name,
        "clips": len(clips),
        "speakers": clips["speaker"][separability.known_speakers(clips)].nunique(),
        "hours": clips["duration"].sum() / 3600,
        "findings": findings.find_notable(measured, data, results),
        "pictures": {name: embed_png(file.read_bytes()) for name, file in pictures.items()},
        "tables": tables,
        "separability": results,
        "normalizations": [name for name in separability.NORMALIZATIONS if results and name in results[0].uar],
        "interpretation": findings.interpret_separability(results),
        "compared": min(MAX_COMPARED, len(clips)),
        "mapped": min(MAX_MAPPED, len(clips)),
        "num_neighbors": separability.NUM_NEIGHBORS,
        "measurements": measurements,
        "full_scale": findings.FULL_SCALE,
        "num_truncated": measured.num_truncated,
        "max_example_seconds": map.MAX_EXAMPLE_SECONDS,
        "num_examples": len(examples),
        "players": [_player(data, row, example) for row, example in examples.items()] if embed_audio else [],
        "example_sources": _example_sources(measured, data, list(examples)),
        "skipped": _skipped(measured),
        "terms": {name: source.corpora[name] for name in data.corpora} if source.labeled else {},
    }


def _player(data: figures.PlotData, row: int, example: map.Example) -> dict[str, str]:
    clip = data.clips.loc[row].to_dict()
    details = [clip[name] for name in ("speaker", "gender", "intensity", "statement")]
    return {
        "name": example.name,
        "color": example.color,
        "id": clip["id"],
        "details": ", ".join(value for value in details if isinstance(value, str)),
        "uri": "data:audio/wav;base64," + base64.b64encode(audio.to_wav(example.samples)).decode(),
    }


def _example_sources(measured: MeasuredClips, data: figures.PlotData, rows: list[int]) -> list[str]:
    """Return a line for each corpus with an example: its note, or else its title and terms."""
    lines = []
    for name in dict.fromkeys(data.clips.loc[rows, "corpus"]):
        corpus = measured.source.corpora[name]
        labeled = measured.source.labeled
        terms = f"{corpus['title']} ({corpus['license']}: {corpus['terms']})" if labeled else ""
        if line := corpus["note"] or terms:
            lines.append(f"{name}: {line}")
    return lines


def _skipped(measured: MeasuredClips) -> dict[str, Any] | None:
    """Count the skipped files by corpus and reason, and list them; None if they are unknown."""
    if measured.skipped is None:
        return None
    counts = Counter((file.corpus, file.reason) for file in measured.skipped)
    rows = [
        {"corpus": corpus, "reason": REASONS.get(reason, reason), "files": count}
        for (corpus, reason), count in counts.most_common()
    ]
    return {"rows": rows, "files": measured.skipped[:_MAX_SKIPPED_LISTED], "count": len(measured.skipped)}
