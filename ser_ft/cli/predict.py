"""The command `ser-ft predict`: the emotion of each of many files."""

from __future__ import annotations

import argparse
import io
import os
import shutil
import sys
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ..utils.errors import InputError

if TYPE_CHECKING:
    from ..audio import AudioError
    from ..inference.inputs import AudioInput
    from ..inference.recognizer import ClipPrediction, EmotionRecognizer
    from ..report.shared.prediction_writers import ExistingPredictions

_FORMATS = ("table", "csv", "json", "jsonl")
# Shown where it takes longer, in seconds.
_BAR_AFTER = 2.0


def add_predict(commands: argparse._SubParsersAction[Any]) -> None:
    """Add `ser-ft predict`."""
    about = "recognise the emotion in sound files"
    parser = commands.add_parser(
        "predict",
        help=about,
        description=about.capitalize() + ". Folders are searched with all that lies below for files with a suffix of "
        "sound; what is hidden is passed over. A clip longer than 20 s is answered by the mean of its windows. What is "
        "uncertain has a question mark in the table. A file that cannot be recognised is one line on stderr, and an "
        "error in the answers: the others go on, and the exit code is 1. "
        "It is expression that is recognised, not feeling.",
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="sound files, and folders of them")
    parser.add_argument(
        "--model",
        metavar="RUN_OR_MODEL",
        help="a run folder, an .onnx file of `ser-ft export`, a folder with a saved classifier, or a name on the Hub "
        "(default: the model that ships with ser_ft)",
    )
    parser.add_argument(
        "--format", choices=_FORMATS, help="table, csv, json or jsonl (default: as --out ends, else table)"
    )
    parser.add_argument("--out", metavar="FILE", help="where the answers go, each as soon as it is there")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the files that --out (csv or jsonl) holds no answer of; those that failed are tried again. "
        "Give the same model: the file does not say which one answered, and only other classes are noticed",
    )
    parser.set_defaults(work=_predict)


def _predict(chosen: argparse.Namespace) -> int:
    from ..inference.recognizer import EmotionRecognizer

    out = Path(chosen.out) if chosen.out else None
    format = chosen.format or _format_of(out)
    _check_out(out, format, chosen.resume)
    recognizer = EmotionRecognizer(chosen.model)
    try:
        with _without_chatter():
            return _answer(recognizer, chosen.paths, format, out)
    except BrokenPipeError:
        # Whoever read the answers has had enough; Python would complain once more as it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _answer(recognizer: EmotionRecognizer, paths: Sequence[str], format: str, out: Path | None) -> int:
    """Recognise what is found and not answered yet, and write it; return the exit code."""
    from ..report.shared.prediction_writers import ExistingPredictions, prediction_writer, read_existing, remove_errors
    from ..utils.progress import progress_bar
    from ..utils.text import printable

    classes, before = recognizer.info.classes, ExistingPredictions()
    if out and out.exists():
        before = read_existing(out, format, classes)
    done = before.predicted
    total, longest, again = _survey(_left(paths, format, done), format, before)
    if not total and not done:
        raise InputError(f"{', '.join(paths)}: no sound files there")
    if out and again:
        remove_errors(out, format, classes, again)
    lively, failed = out is None and sys.stdout.isatty(), 0
    written = prediction_writer(format, classes, longest, shutil.get_terminal_size().columns if lively else None)
    with _opened(out) as file, progress_bar(total=total, shown=not lively, unit="file", delay=_BAR_AFTER) as progress:
        file.write("" if out and out.stat().st_size else written.header())
        for item, outcome in recognizer.each(_left(paths, format, done)):
            row = _row(item, outcome)
            if "error" in row:
                failed += 1
                if not progress.disable and progress.last_print_t > progress.start_t:
                    progress.clear()
                print(f"ser-ft: {printable(item.name)}: {printable(row['error'])}", file=sys.stderr)
            file.write(written.row(row))
            file.flush()
            progress.update()
        file.write(written.footer())
    if failed:
        print(f"ser-ft: {failed} of {total} files could not be recognised", file=sys.stderr)
    if left := len(before.failed) - len(again):
        print(f"ser-ft: {out}: holds the errors of {left} more, which were not among the files given", file=sys.stderr)
    return 1 if failed or left else 0


def _left(paths: Sequence[str], format: str, done: Container[str]) -> Iterator[AudioInput]:
    """Yield the files that are not answered yet."""
    from ..audio.discovery import find_sound_files
    from ..inference.inputs import AudioInput
    from ..report.shared.prediction_writers import path_key

    for found in find_sound_files(paths):
        if not done or path_key(found.path, format) not in done:
            yield AudioInput(found.path, found.path, Path(found.path), found.error)


def _row(item: AudioInput, outcome: ClipPrediction | AudioError) -> dict[str, Any]:
    """Return what is written of a file: its answer, or {"path", "error"}."""
    if isinstance(outcome, dict):
        return {**outcome}
    return {"path": item.path, "error": str(outcome).removeprefix(f"{item.name}: ")}


def _survey(items: Iterator[AudioInput], format: str, before: ExistingPredictions) -> tuple[int, int, set[str]]:
    """Return how many files there are, the terminal cells of the longest path, and which of them failed before."""
    from ..report.shared.prediction_writers import path_key
    from ..utils.text import display_width

    total, longest, again = 0, 0, set()
    for item in items:
        total, longest = total + 1, max(longest, display_width(item.name))
        if before.failed and (path := path_key(item.name, format)) in before.failed:
            again.add(path)
    return total, longest, again


def _format_of(out: Path | None) -> str:
    """Return the format that a file's name asks for."""
    if out is None:
        return "table"
    format = out.suffix.lower().removeprefix(".")
    if format not in _FORMATS:
        raise InputError(f"--out {out}: its name says no format: let it end in .csv, .json or .jsonl, or give --format")
    return format


def _check_out(out: Path | None, format: str, resume: bool) -> None:
    """Refuse a file that cannot be written, or gone on with."""
    from ..report.shared.prediction_writers import RESUMABLE_FORMATS
    from ..utils.files import check_output

    if resume and (out is None or format not in RESUMABLE_FORMATS):
        raise InputError(f"--resume goes on with a file: give --out FILE, in {' or '.join(RESUMABLE_FORMATS)}")
    if out is not None:
        continued = resume if format in RESUMABLE_FORMATS else None
        check_output(out, kind="file", what="a file", overwrite=None, resume=continued)


@contextmanager
def _opened(out: Path | None) -> Iterator[IO[str]]:
    """Open what answers are written to: a file that is gone on with, or stdout."""
    if out is None:
        # Names of files need not be text.
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        yield sys.stdout
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        yield file


@contextmanager
def _without_chatter() -> Iterator[None]:
    """Keep away what libraries write to the process's stderr themselves, as libmpg123 does of damaged files."""
    ours = sys.stderr
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        with open(kept, "w", encoding=ours.encoding, errors=ours.errors, buffering=1, closefd=False) as direct:
            ours.flush()
            os.dup2(nowhere, 2)
            if ours is sys.__stderr__:
                sys.stderr = direct
            yield
    finally:
        sys.stderr = ours
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
