"""`ser-ft monitor`: reports on recorded conversations."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from ..report.shared.tables import format_rows
from ..utils.errors import InputError
from ..utils.files import check_inputs
from ..utils.text import MISSING, fold, print_text, printable, text_table
from .arguments import Commands, add_allow_pickle, add_command, add_format


def add_monitor(commands: Commands) -> None:
    """Add `ser-ft monitor`."""
    about = "report how the speakers of a recorded conversation sound: timeline, negative segments, highlights"
    details = (
        "Monitor conversations only with the consent of everyone who speaks. The model recognizes expression, not "
        "feeling, and is often wrong. In the European Union, inferring the emotions of people at work or in education "
        "is prohibited except for medical or safety reasons (Regulation (EU) 2024/1689, Article 5(1)(f)); consent does "
        "not lift this prohibition. Exit code: 0 if all recordings were analyzed, 1 if some failed, 2 for wrong input."
    )
    parser = add_command(commands, "monitor", _monitor, about, details)
    add = parser.add_argument
    recordings = "sound files, or folders of sound files; each channel of a file is one speaker"
    add("recordings", nargs="+", metavar="RECORDING", help=recordings)
    out = (
        "output folder. One file: report.html and monitor.json. Several: such a folder for each, index.html and "
        "conversations.csv (default: monitor)"
    )
    add("--out", default="monitor", metavar="FOLDER", help=out)
    model = "an .onnx file, a run folder, or a model on the Hub (default: the model that ships with ser_ft)"
    add("--model", metavar="MODEL", help=model)
    add("--channels", metavar="NAME,...", help="the speaker of each channel, such as left,right")
    baseline = "compare each speaker with the speaker's own first seconds of speech, such as 60 (default: no baseline)"
    add("--speaker-baseline", type=float, metavar="SECONDS", help=baseline)
    adapt = (
        "adapt the predictions to each speaker by all of the speaker's windows; the speaker's emotions must be mixed"
    )
    add("--adapt", action="store_true", help=adapt)
    negative = "the emotions that count as negative (default: angry,sad,fear,disgust)"
    add("--negative", metavar="EMOTION,...", help=negative)
    add("--window", type=float, metavar="SECONDS", help="length of the windows (default: 3)")
    add("--hop", type=float, metavar="SECONDS", help="distance between windows (default: 1)")
    add("--overwrite", action="store_true", help="replace an existing report")
    add("--no-audio", action="store_true", help="write pages without recorded voices")
    add_allow_pickle(parser)
    add_format(parser)


def _monitor(arguments: argparse.Namespace) -> int:
    from ..inference.backends import open_backend
    from ..inference.windows import WindowSettings
    from ..monitor.conversation import MonitorSettings
    from ..monitor.negative_segments import NEGATIVE_EMOTIONS
    from ..monitor.report import check_output_folder, write_reports
    from ..monitor.to_json import escape_undecodable

    lengths = {"window": arguments.window, "hop": arguments.hop}
    settings = MonitorSettings(
        windows=WindowSettings(**{name: value for name, value in lengths.items() if value is not None}),
        channel_names=_names(arguments.channels, "--channels"),
        baseline_seconds=arguments.speaker_baseline,
        adapt=arguments.adapt,
        negative_emotions=_names(arguments.negative, "--negative") or NEGATIVE_EMOTIONS,
    )
    output = check_output_folder(arguments.out, arguments.overwrite)
    check_inputs(arguments.recordings)
    result = write_reports(
        open_backend(arguments.model, allow_pickle=arguments.allow_pickle),
        arguments.recordings,
        output,
        settings,
        model=arguments.model,
        embed_audio=not arguments.no_audio,
        on_error=_print_error,
        overwrite=arguments.overwrite,
    )
    is_table = arguments.format == "table"
    print_text(_table(result.rows) if is_table else format_rows(result.rows, arguments.format), flush=True)
    if result.page:
        page = escape_undecodable(str(result.page))
        print_text(f"\nreport: {page}" if is_table else f"report: {page}", file=sys.stdout if is_table else sys.stderr)
    return 1 if any(row["error"] for row in result.rows) else 0


def _names(text: str | None, option: str) -> tuple[str, ...] | None:
    """Parse NAME,NAME,... into distinct names."""
    from ..monitor.to_json import escape_undecodable

    if text is None:
        return None
    names = tuple(escape_undecodable(name.strip()) for name in text.split(","))
    if not all(names) or len({fold(name) for name in names}) < len(names):
        raise InputError(f"{option} must be different names separated by commas, such as a,b, not {text!r}")
    return names


def _print_error(line: str) -> None:
    from tqdm import tqdm

    # tqdm prints above a progress bar.
    tqdm.write(printable(f"ser-ft: {' '.join(line.split())}"), file=sys.stderr)


def _table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a table with one line per speaker, followed by the notes."""
    from ..monitor.report import speaker_columns
    from ..monitor.summary import clock, percent

    lines = []
    for row in rows:
        if row["error"]:
            lines.append({"file": row["file"], "speaker": "not analyzed"})
            continue
        for index, speaker in enumerate(speaker_columns(row)):
            negative = speaker["negative_share"]
            lines.append(
                {
                    "file": "" if index else row["file"],
                    "length": "" if index else clock(row["duration"]),
                    "speaker": speaker["name"],
                    "speech": percent(speaker["speech_seconds"] / row["duration"]),
                    "emotion": speaker["main_emotion"] or MISSING,
                    "negative": MISSING if negative is None else percent(negative),
                    "uncertain": percent(speaker["uncertain_share"]),
                }
            )
    columns = ["file", "length", "speaker", "speech", "emotion", "negative", "uncertain"]
    table = text_table(lines, columns, {"length", "speech", "negative", "uncertain"})
    notes = dict.fromkeys(note for row in rows for note in row.get("notes") or ())
    return "\n".join([table, *(["", *(f"note: {printable(note)}" for note in notes)] if notes else [])])
