"""`ser-ft monitor`: a page for each recorded conversation, and one that sets several beside each other."""

from __future__ import annotations

import os
import shutil
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..audio.discovery import SoundFile, find_sound_files
from ..inference.backends import Backend
from ..report.shared.tables import format_rows
from ..report.shared.templates import render_template
from ..utils.errors import InputError
from ..utils.files import check_output
from ..utils.progress import progress_bar
from . import negative_segments, speaker_baseline
from .analysis import monitor
from .conversation import Conversation, MonitorSettings
from .page import About, write_call
from .timeline import strip
from .to_json import readable

REPORT, RECORD, INDEX, ROWS = "report.html", "monitor.json", "index.html", "calls.csv"
_OF_A_VOICE = ("speech", "emotion", "dissatisfied", "uncertain")
_DELAY = 2.0  # seconds before a progress bar is shown

Tell = Callable[[str], None]


@dataclass
class Reports:
    """What was written of calls.

    Attributes:
        rows: one for each call: see `row` and `failed`. page: to begin with; None: nothing was written.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    page: Path | None = None


def write_reports(
    engine: Backend,
    calls: Sequence[str | Path],
    out: str | Path,
    settings: MonitorSettings,
    model: str | Path | None = None,
    sound: bool = True,
    tell: Tell = print,
    overwrite: bool = False,
    verbose: bool = True,
) -> Reports:
    """Judge recorded conversations, and write what was found.

    Of one file: out/report.html, which holds everything, and out/monitor.json, all its numbers. Of several, or of a
    folder: such a folder for each, out/index.html and out/calls.csv, a row each. What goes wrong with one call is told,
    and the others go on.

    Args:
        engine: that answers. calls: sound files, and folders of them. out: the folder to write.
        settings: how they are judged. model: where the engine's model lies, to say how good it is; None: in ser_ft.
        sound: put moments into the pages, to be played: then they hold voices.
        tell: called with a line for each call that cannot be judged.
        overwrite: remove an older report there, once a call was judged. verbose: show a progress bar.

    Raises:
        InputError: there is no call, the settings do not fit the model, or `out` holds something already.
    """
    check(engine, settings)
    home = Path(out).expanduser()
    check_out(home, overwrite)
    found = list(find_sound_files(calls))
    if not found:
        raise InputError(f"{', '.join(map(str, calls))}: no sound files found there")
    about = About.of(engine.info, settings, model)
    single = len(found) == 1 and not Path(calls[0]).is_dir()
    reports, older = Reports(), _held(home)
    strips: dict[str, str] = {}
    names = [""] if single else _names([entry.path for entry in found])

    def judge(entry: SoundFile, name: str) -> None:
        if entry.error:
            raise InputError(f"{entry.path}: {entry.error}")
        call = monitor(engine, entry.path, settings, progress.update)
        told, drawn = row(call, name), strip(call)
        if not strips:
            _clear(home)
        write_call(call, home / name, about, sound)
        reports.rows.append(told)
        strips[told["path"]] = drawn

    form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    with progress_bar(total=len(found), desc="judging", bar_format=form, delay=_DELAY, shown=verbose) as progress:
        try:
            for done, (entry, name) in enumerate(zip(found, names, strict=True), 1):
                try:
                    judge(entry, name)
                except Exception as error:
                    reports.rows.append(failed(entry.path, error))
                    tell(reports.rows[-1]["error"])
                progress.update(done - progress.n)
        finally:
            # What is done is not lost where hours of it are interrupted.
            if single:
                reports.page = home / REPORT if strips else None
            elif reports.rows and (strips or not older):
                reports.page = write_index(reports.rows, strips, home, about)
    return reports


def check(engine: Backend, settings: MonitorSettings) -> None:
    """Refuse settings that a model cannot serve.

    Raises:
        InputError: a baseline is asked of a model that knows nothing ordinary, or none of the emotions that the user
            names as dissatisfaction is known to it.
    """
    classes = engine.info.classes
    if settings.baseline is not None:
        speaker_baseline.ordinary(classes)
    for name in settings.negative if settings.negative != negative_segments.NEGATIVE else ():
        if not negative_segments.named(classes, [name]):
            raise InputError(f"--negative: the model knows no {name}: name some of {', '.join(classes)}")


def row(call: Conversation, folder: str) -> dict[str, Any]:
    """Sum a conversation up.

    Args:
        call: the conversation. folder: that its page is in, below the index; empty where it is alone.

    Returns:
        call (the file's name), path, seconds, silence, overlap (seconds), dissatisfied (share of the speech), runs,
        longest (run, in seconds); for each voice its speech (seconds), emotion, dissatisfied and uncertain, under
        "NAME speech" and so on; error (None), report (its page) and notes.
    """
    found = [run for voice in call.voices for run in voice.runs]
    run = negative_segments.longest(found)
    told: dict[str, Any] = {
        "call": readable(Path(call.path).name),
        "path": readable(call.path),
        "seconds": round(call.duration, 2),
        "silence": round(call.silence, 2),
        "overlap": round(call.overlap, 2),
        "dissatisfied": _rounded(call.dissatisfied),
        "runs": len(found),
        "longest": round(run.end - run.start, 2) if run else 0.0,
    }
    for voice in call.voices:
        told |= {
            f"{voice.name} speech": round(voice.spoken, 2),
            f"{voice.name} emotion": voice.top,
            f"{voice.name} dissatisfied": _rounded(voice.dissatisfied),
            f"{voice.name} uncertain": _rounded(voice.uncertain),
        }
    return told | {"error": None, "report": f"{folder}/{REPORT}" if folder else REPORT, "notes": list(call.notes)}


def voices(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Take the voices out of a row again: name, speech, emotion, dissatisfied and uncertain of each."""
    names = [key.removesuffix(" uncertain") for key in entry if key.endswith(" uncertain")]
    return [{"name": name} | {key: entry[f"{name} {key}"] for key in _OF_A_VOICE} for name in names]


def failed(path: str, error: Exception) -> dict[str, Any]:
    """Make the row of a call that could not be judged: call, path and error, in one line."""
    said = " ".join(str(error).split())
    if not isinstance(error, InputError):
        said = f"{path}: failed: {type(error).__name__}: {said[:500] or 'no reason given'} (--debug shows where)"
        if os.environ.get("SER_FT_DEBUG"):
            traceback.print_exception(error)
    return {"call": readable(Path(path).name), "path": readable(path), "error": readable(said)}


def write_index(rows: Sequence[Mapping[str, Any]], strips: Mapping[str, str], folder: Path, about: About) -> Path:
    """Write the page and the table of several calls, those with the largest share of dissatisfaction first.

    Args:
        rows: as `row` and `failed` make them. strips: of each path, as `timeline.strip` draws it.
        folder: where index.html and calls.csv go. about: the model and the settings.

    Returns:
        the page.
    """
    done = [entry for entry in rows if not entry["error"]]
    ranked = sorted(done, key=lambda entry: (-(entry["dissatisfied"] or 0.0), -entry["longest"], entry["path"]))
    shown = [
        entry | {"strip": strips[entry["path"]], "link": quote(entry["report"]), "voices": voices(entry)}
        for entry in map(dict, ranked)
    ]
    contents = {
        "rows": shown,
        "failed": [entry for entry in rows if entry["error"]],
        "seconds": sum(entry["seconds"] for entry in done),
        "with_runs": sum(bool(entry["runs"]) for entry in done),
        **about.contents(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / INDEX).write_text(render_template("monitor/index.html.j2", contents), encoding="utf-8")
    (folder / ROWS).write_text(format_rows(rows, "csv") + "\n", encoding="utf-8")
    return folder / INDEX


def check_out(out: Path, overwrite: bool = False) -> None:
    """Refuse to write over anything but an older report of this kind that may go, or where nothing can be written.

    Raises:
        InputError: the folder is there and holds something else, or a report without `overwrite`, or it cannot be made.
    """
    check_output(out, what="a report", is_part=_is_part_of_report, overwrite=overwrite)


def _is_part_of_report(entry: Path) -> bool:
    if entry.is_dir() and not entry.is_symlink():
        return {file.name for file in entry.iterdir()} <= {REPORT, RECORD, ".DS_Store"}
    return entry.name in (REPORT, RECORD, INDEX, ROWS)


def _held(out: Path) -> list[Path]:
    """Return what a folder holds, sorted; nothing where it is not there."""
    return sorted(entry for entry in out.iterdir() if entry.name != ".DS_Store") if out.is_dir() else []


def _clear(out: Path) -> None:
    """Take an older report away: what is left of it would stand beside the new one's."""
    if out.is_dir():
        for entry in out.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()


def _names(paths: Iterable[str]) -> list[str]:
    """Name a folder for each file, after it, without what cannot be read; a number tells those of one name apart."""
    taken: set[str] = set()
    names = []
    for path in paths:
        stem = "".join(sign if sign.isprintable() else "_" for sign in Path(path).stem.lstrip(".")[:100]) or "call"
        name, number = stem, 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.casefold())
        names.append(name)
    return names


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, 4)
