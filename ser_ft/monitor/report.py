"""`ser-ft monitor`: one report per recorded conversation, and an index of several."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..audio.discovery import SoundFile, find_sound_files
from ..inference.backends import Backend
from ..report.shared.tables import format_rows
from ..report.shared.templates import render_template
from ..utils.atomic import write_atomically
from ..utils.errors import InputError, raise_machine_failure
from ..utils.files import check_output, output_lock
from ..utils.progress import progress_bar
from ..utils.text import file_name, fold
from . import negative_segments, speaker_baseline
from .analysis import analyze_conversation
from .conversation import Conversation, MonitorSettings
from .page import NUMBERS, REPORT, ReportContext, write_conversation_report
from .timeline import strip
from .to_json import escape_undecodable

INDEX, TABLE = "index.html", "conversations.csv"
_SPEAKER_COLUMNS = ("speech_seconds", "main_emotion", "negative_share", "uncertain_share")


@dataclass
class MonitorResult:
    """A row per recording, of `summary_row` or `error_row`, and the page to open first; None if nothing was written."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    page: Path | None = None


def write_reports(
    backend: Backend,
    recordings: Sequence[str | Path],
    output: str | Path,
    settings: MonitorSettings,
    model: str | Path | None = None,
    embed_audio: bool = True,
    on_error: Callable[[str], None] = print,
    overwrite: bool = False,
) -> MonitorResult:
    """Analyze recorded conversations and write the reports.

    For one file, `output` receives report.html, which contains everything, and monitor.json with all numbers. For
    several files or a folder, `output` receives such a folder for each file, index.html, and conversations.csv with
    one row per file. If one file fails, the others are still analyzed, and `on_error` is called with one line.

    Args:
        model: path or name of the model, to report its evaluation; None for the model that ships with ser_ft.
        overwrite: whether an existing report is replaced once the first file is analyzed.

    Raises:
        InputError: there is no sound file, the settings do not fit the model, or `output` may not be written.
    """
    check_settings(backend, settings)
    with output_lock(output):
        folder = check_output_folder(output, overwrite)
        files = list(find_sound_files(recordings))
        if not files:
            raise InputError(f"{', '.join(map(str, recordings))}: no sound files found there")
        context = ReportContext.load(backend.info, settings, model)
        single = len(files) == 1 and not Path(recordings[0]).is_dir()
        result = MonitorResult()
        had_report = folder.is_dir() and any(entry.name != ".DS_Store" for entry in folder.iterdir())
        strips: dict[str, str] = {}
        names = [""] if single else _folder_names([file.path for file in files])
        interruption: KeyboardInterrupt | None = None

        def analyze(file: SoundFile, name: str) -> None:
            if file.error:
                raise InputError(f"{file.path}: {file.error}")
            conversation = analyze_conversation(backend, file.path, settings, progress.update)
            row, svg = summary_row(conversation, name), strip(conversation)
            write_conversation_report(conversation, partial / name, context, embed_audio)
            result.rows.append(row)
            strips[row["path"]] = svg

        bar_format = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
        with write_atomically(folder) as partial:
            with progress_bar(total=len(files), desc="analyzing", bar_format=bar_format, delay=2.0) as progress:
                try:
                    for num_done, (file, name) in enumerate(zip(files, names, strict=True), 1):
                        try:
                            analyze(file, name)
                        except Exception as error:
                            raise_machine_failure(error)
                            result.rows.append(error_row(file.path, error))
                            on_error(result.rows[-1]["error"])
                        progress.update(num_done - progress.n)
                except KeyboardInterrupt as error:  # finished reports are not lost
                    interruption = error
            if single:
                result.page = folder / REPORT if strips else None
            elif result.rows and (strips or not had_report):
                result.page = folder / write_index(result.rows, strips, partial, context).name
        if interruption is not None:
            raise interruption
        return result


def check_settings(backend: Backend, settings: MonitorSettings) -> None:
    """Check that the model supports the settings.

    Raises:
        InputError: the model does not support a speaker baseline, or does not have a class that the user named.
    """
    classes = backend.info.classes
    if settings.baseline_seconds is not None:
        speaker_baseline.neutral_classes(classes)
    if settings.negative_emotions == negative_segments.NEGATIVE_EMOTIONS:
        return
    for name in settings.negative_emotions:
        if not negative_segments.negative_classes(classes, [name]):
            raise InputError(f"--negative: the model does not have the class {name}: choose from {', '.join(classes)}")


def summary_row(conversation: Conversation, folder: str) -> dict[str, Any]:
    """Return the row of conversations.csv for an analyzed recording; all times are in seconds.

    `folder` is the name of the folder with its report, relative to the index; empty without an index.
    """
    segments = [segment for speaker in conversation.speakers for segment in speaker.negative_segments]
    longest = negative_segments.longest(segments)
    row: dict[str, Any] = {
        "file": escape_undecodable(Path(conversation.path).name),
        "path": escape_undecodable(conversation.path),
        "duration": round(conversation.duration, 2),
        "silence": round(conversation.silence, 2),
        "overlap": round(conversation.overlap, 2),
        "negative_share": _rounded(conversation.negative_share),
        "num_negative_segments": len(segments),
        "longest_negative_segment": round(longest.end - longest.start, 2) if longest else 0.0,
    }
    for speaker in conversation.speakers:
        row[f"{speaker.name} speech_seconds"] = round(speaker.speech_seconds, 2)
        row[f"{speaker.name} main_emotion"] = speaker.main_emotion
        row[f"{speaker.name} negative_share"] = _rounded(speaker.negative_share)
        row[f"{speaker.name} uncertain_share"] = _rounded(speaker.uncertain_share)
    page = f"{folder}/{REPORT}" if folder else REPORT
    return row | {"error": None, "report": page, "notes": list(conversation.notes)}


def speaker_columns(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return name, speech_seconds, main_emotion, negative_share and uncertain_share of each speaker of a row."""
    names = [key.removesuffix(" uncertain_share") for key in row if key.endswith(" uncertain_share")]
    return [{"name": name} | {key: row[f"{name} {key}"] for key in _SPEAKER_COLUMNS} for name in names]


def error_row(path: str, error: Exception) -> dict[str, Any]:
    """Return the row of conversations.csv for a recording that failed: file, path and error, on one line."""
    message = " ".join(str(error).split())
    if not isinstance(error, InputError):
        message = f"{path}: failed: {type(error).__name__}: {message[:500] or 'no message'} (--debug shows where)"
        if os.environ.get("SER_FT_DEBUG"):
            traceback.print_exception(error)
    row = {"file": Path(path).name, "path": path, "error": message}
    return {key: escape_undecodable(text) for key, text in row.items()}


def write_index(
    rows: Sequence[Mapping[str, Any]], strips: Mapping[str, str], folder: Path, context: ReportContext
) -> Path:
    """Write index.html, sorted by negative share, and conversations.csv, in the order of the rows.

    `strips` has the drawing of `timeline.strip` for each path. The path of index.html is returned.
    """
    analyzed = [
        {**row, "strip": strips[row["path"]], "link": quote(row["report"]), "speakers": speaker_columns(row)}
        for row in rows
        if not row["error"]
    ]
    analyzed.sort(key=lambda row: (-(row["negative_share"] or 0.0), -row["longest_negative_segment"], row["path"]))
    values = {
        "rows": analyzed,
        "failed": [row for row in rows if row["error"]],
        "seconds": sum(row["duration"] for row in analyzed),
        "num_negative": sum(bool(row["num_negative_segments"]) for row in analyzed),
        **context.template_values(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / INDEX).write_text(render_template("monitor/index.html.j2", values), encoding="utf-8")
    (folder / TABLE).write_text(format_rows(rows, "csv") + "\n", encoding="utf-8")
    return folder / INDEX


def check_output_folder(path: str | Path, overwrite: bool = False) -> Path:
    """Check that a report may be written to a folder, and return the folder.

    Raises:
        InputError: the folder contains other files, or a report without `overwrite`, or cannot be created.
    """
    return check_output(path, what="a report", is_part=_is_part_of_report, overwrite=overwrite)


def _is_part_of_report(entry: Path) -> bool:
    if entry.is_dir() and not entry.is_symlink():
        return {file.name for file in entry.iterdir()} <= {REPORT, NUMBERS, ".DS_Store"}
    return entry.name in (REPORT, NUMBERS, INDEX, TABLE)


def _folder_names(paths: Iterable[str]) -> list[str]:
    """Return a folder name for each file: its stem without unprintable characters, numbered if it is not unique."""
    names: dict[str, str] = {}
    for path in paths:
        stem = file_name(Path(path).stem.lstrip(".")[:100]) or "conversation"
        candidates = (f"{stem}-{number}" if number > 1 else stem for number in count(1))
        name = next(name for name in candidates if fold(name) not in names)
        names[fold(name)] = name
    return list(names.values())


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, 4)
