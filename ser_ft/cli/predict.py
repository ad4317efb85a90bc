"""The command `ser-ft predict`: recognizes the emotion in many files."""

from __future__ import annotations

import argparse
import io
import re
import shutil
import sys
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from ..report.shared.prediction_writers import (
    RESUMABLE_FORMATS,
    ExistingPredictions,
    path_key,
    prediction_writer,
    read_existing,
    remove_errors,
)
from ..report.shared.tables import FORMATS
from ..utils.atomic import explain_full_disk
from ..utils.errors import InputError
from ..utils.files import check_inputs, check_output, output_lock
from ..utils.progress import progress_bar
from ..utils.streams import output_error, silent_libraries
from ..utils.text import display_width, print_text, printable
from .arguments import Commands, add_allow_pickle, add_command

if TYPE_CHECKING:
    from tqdm import tqdm

    from ..audio import AudioError
    from ..inference.inputs import AudioInput
    from ..inference.recognizer import ClipPrediction, EmotionRecognizer

    _Result = tuple[AudioInput, ClipPrediction | AudioError]

_BAR_DELAY = 2.0  # seconds after which the progress bar appears


def add_predict(commands: Commands) -> None:
    """Add `ser-ft predict`."""
    about = "recognize the emotion in sound files"
    details = (
        "Folders are searched with their subfolders for files with the suffix of a sound format; hidden files are "
        "ignored. A clip longer than 20 s gets the mean prediction of its windows. In the table, a question mark "
        "stands for an uncertain prediction. If a file cannot be recognized, one line is written to stderr and an "
        "error to the output; the other files are still recognized, and the exit code is 1. The model recognizes "
        "expression, not feeling."
    )
    parser = add_command(commands, "predict", _predict, about, details)
    add = parser.add_argument
    add("paths", nargs="+", metavar="PATH", help="sound files, and folders of sound files")
    model = (
        "a run folder, an .onnx file of `ser-ft export`, a folder with a saved classifier, or a name on the Hub "
        "(default: the model that is part of ser_ft)"
    )
    add("--model", metavar="RUN_OR_MODEL", help=model)
    format = "table, csv, json or jsonl (default: by the suffix of --out, else table)"
    add("--format", choices=FORMATS, help=format)
    add("--out", metavar="FILE", help="file for the predictions, each of which is written at once")
    resume = (
        "continue with the files that have no prediction in --out (csv or jsonl) yet, or only an error. Use the same "
        "model: the file does not name it, and only a model with other classes is noticed"
    )
    add("--resume", action="store_true", help=resume)
    adapt = (
        "adapt predictions to each speaker by all clips of the speaker, without labels. all: all files are of one "
        "speaker; folder: each folder is one; a regular expression: its first group in the path names the speaker, as "
        "in 'Actor_([0-9]+)'; a .json file: a saved speaker. Without a saved speaker, predictions are written when all "
        "files are recognized. Speakers whose clips are few, or seem to express one emotion, keep their predictions"
    )
    add("--adapt", metavar="all|folder|REGEX|FILE.json", help=adapt)
    add_allow_pickle(parser)


def _predict(options: argparse.Namespace) -> int:
    out = Path(options.out) if options.out else None
    with output_lock(out):
        return _predict_files(options, out)


def _predict_files(options: argparse.Namespace, out: Path | None) -> int:
    from ..inference.recognizer import EmotionRecognizer

    format = _check_out(out, options.format, options.resume)
    check_inputs(options.paths)
    speaker = None
    if options.adapt and options.adapt.lower().endswith(".json"):
        from ..inference.speaker_adaptation import SpeakerAdaptation

        speaker = SpeakerAdaptation.load(options.adapt)
    speaker_name = _speaker_name(options.adapt, options.resume) if options.adapt and not speaker else None
    recognizer = EmotionRecognizer(options.model, allow_pickle=options.allow_pickle, speaker=speaker)
    with silent_libraries():
        return _write_predictions(recognizer, options.paths, format, out, speaker_name)


def _speaker_name(adapt: str, resume: bool) -> Callable[[str], str]:
    """Return a function from the path of a file to the name of its speaker."""
    if resume:
        raise InputError("--adapt needs the predictions for all clips of a speaker: omit --resume")
    if adapt == "all":
        return lambda _: ""
    if adapt == "folder":
        return lambda path: str(Path(path).parent)
    try:
        pattern = re.compile(adapt)
    except re.error as error:
        raise InputError(f"--adapt {adapt}: not a regular expression ({error})") from error
    if not pattern.groups:
        raise InputError(f"--adapt {adapt}: has no group: put brackets around the speaker's name, as in Actor_(..)")

    def name(path: str) -> str:
        match = pattern.search(path)
        if match is None or match[1] is None:
            raise InputError(f"--adapt {adapt}: names no speaker in {printable(path)}: change it")
        return match[1]

    return name


def _adapt(recognizer: EmotionRecognizer, results: list[_Result], speaker_name: Callable[[str], str]) -> list[_Result]:
    """Return the predictions adapted to each speaker, in the same order."""
    speakers: dict[str, list[int]] = {}
    for index, (item, outcome) in enumerate(results):
        if isinstance(outcome, dict):
            speakers.setdefault(speaker_name(item.name), []).append(index)
    adapted, changed = list(results), 0
    for rows in speakers.values():
        predictions = recognizer.adapt_predictions([cast("ClipPrediction", results[row][1]) for row in rows])
        changed += bool(predictions[0]["adapted"])
        for row, prediction in zip(rows, predictions, strict=True):
            adapted[row] = results[row][0], prediction
    print_text(f"ser-ft: predictions of {changed} of {len(speakers)} speakers were adapted", file=sys.stderr)
    return adapted


def _write_predictions(
    recognizer: EmotionRecognizer,
    paths: Sequence[str],
    format: str,
    out: Path | None,
    speaker_name: Callable[[str], str] | None,
) -> int:
    """Recognize the files that have no prediction yet, write the predictions, and return the exit code."""
    classes, existing = recognizer.info.classes, ExistingPredictions()
    if out and out.exists():
        existing = read_existing(out, format, classes)
    done = existing.predicted
    total, widest, retried = _count_files(_remaining_files(paths, format, done), format, existing, speaker_name)
    if not total and not done:
        raise InputError(f"{', '.join(paths)}: no sound files there")
    if out and retried:
        remove_errors(out, format, classes, retried)
    in_terminal, failed = out is None and sys.stdout.isatty(), 0
    columns = shutil.get_terminal_size().columns if in_terminal else None
    writer = prediction_writer(format, classes, widest, columns)
    progress = progress_bar(
        total=total, show_progress=speaker_name is not None or not in_terminal, unit="file", delay=_BAR_DELAY
    )
    with _open_output(out) as file, progress:
        file.write("" if out and out.stat().st_size else writer.header())
        results = _recognize(recognizer, _remaining_files(paths, format, done), progress)
        for item, outcome in results if speaker_name is None else _adapt(recognizer, list(results), speaker_name):
            if isinstance(outcome, dict):
                row: dict[str, Any] = {**outcome}
            else:
                row, failed = {"path": item.path, "error": _reason(item, outcome)}, failed + 1
            file.write(writer.row(row))
            file.flush()
            if out is None and output_error():
                break
        file.write(writer.footer())
    if failed:
        print_text(f"ser-ft: {failed} of {total} files could not be recognized", file=sys.stderr)
    if others := len(existing.failed) - len(retried):
        print_text(f"ser-ft: {out}: contains errors of {others} more files, which were not passed", file=sys.stderr)
    return 1 if failed or others else 0


def _recognize(recognizer: EmotionRecognizer, files: Iterator[AudioInput], progress: tqdm[Any]) -> Iterator[_Result]:
    """Recognize files, and tell of those that cannot be."""
    for item, outcome in recognizer.iter_predictions(files):
        if not isinstance(outcome, dict):
            if not progress.disable and progress.last_print_t > progress.start_t:
                progress.clear()
            print_text(f"ser-ft: {printable(item.name)}: {printable(_reason(item, outcome))}", file=sys.stderr)
        progress.update()
        yield item, outcome


def _reason(item: AudioInput, error: AudioError) -> str:
    return str(error).removeprefix(f"{item.name}: ")


def _remaining_files(paths: Sequence[str], format: str, done: Container[str]) -> Iterator[AudioInput]:
    from ..audio.discovery import find_sound_files
    from ..inference.inputs import AudioInput

    for file in find_sound_files(paths):
        if not done or path_key(file.path, format) not in done:
            yield AudioInput(file.path, file.path, Path(file.path), file.error)


def _count_files(
    items: Iterator[AudioInput],
    format: str,
    existing: ExistingPredictions,
    speaker_name: Callable[[str], str] | None,
) -> tuple[int, int, set[str]]:
    """Return the number of files, the width of the longest path in terminal cells, and the files that failed before.

    InputError is raised if a path names no speaker.
    """
    total, widest, retried = 0, 0, set()
    for item in items:
        if speaker_name is not None:
            speaker_name(item.name)
        total, widest = total + 1, max(widest, display_width(item.name))
        if existing.failed and (path := path_key(item.name, format)) in existing.failed:
            retried.add(path)
    return total, widest, retried


def _check_out(out: Path | None, format: str | None, resume: bool) -> str:
    """Return the format of the output, by default that of its suffix."""
    if format is None:
        format = out.suffix.lower().removeprefix(".") if out else "table"
        if format not in FORMATS:
            raise InputError(f"--out {out}: its suffix is not .csv, .json or .jsonl: change it, or pass --format")
    if resume and (out is None or format not in RESUMABLE_FORMATS):
        raise InputError(f"--resume continues a file: pass --out FILE, in {' or '.join(RESUMABLE_FORMATS)}")
    if out is not None:
        can_resume = resume if format in RESUMABLE_FORMATS else None
        check_output(out, kind="file", what="a file", overwrite=None, resume=can_resume)
    return format


@contextmanager
def _open_output(out: Path | None) -> Iterator[IO[str]]:
    """Open the output file to append to it, or stdout."""
    if out is None:
        # File names are not always valid text.
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        yield sys.stdout
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    with explain_full_disk(out), out.open("a", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        yield file
