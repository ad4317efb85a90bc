"""`ser-ft monitor`: a quality report of recorded conversations."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ..utils.errors import InputError


def add_monitor(commands: argparse._SubParsersAction[Any]) -> None:
    """Add `ser-ft monitor`."""
    from ..report.shared.tables import FORMATS

    about = "report how a recorded conversation sounded: a timeline, dissatisfaction, moments to listen to"
    parser = commands.add_parser(
        "monitor",
        help=about,
        description=about.capitalize() + ". It reads expression, not feeling, and is often wrong. In the EU, inferring "
        "emotions of people at work or in education is prohibited save for medical or safety reasons (Regulation (EU) "
        "2024/1689, Article 5(1)(f)). The exit code is 0 where all calls were judged, 1 where one was not, 2 for wrong "
        "input.",
    )
    parser.add_argument(
        "calls", nargs="+", metavar="CALL", help="sound files, or folders of them; each channel is a voice"
    )
    parser.add_argument(
        "--out",
        default="monitor",
        metavar="FOLDER",
        help="what is written: report.html and monitor.json, or a folder of these for each call, index.html and "
        "calls.csv (default: monitor)",
    )
    parser.add_argument(
        "--model", metavar="MODEL", help="an .onnx file, a run folder, or a name on the Hub (default: ser_ft's own)"
    )
    parser.add_argument("--channels", metavar="NAME,...", help="whose voice each channel is, such as agent,customer")
    parser.add_argument(
        "--baseline",
        type=float,
        metavar="SECONDS",
        help="judge each voice by how it departs from its own first seconds of speech, such as 60",
    )
    parser.add_argument(
        "--negative",
        metavar="EMOTION,...",
        help="what counts as dissatisfaction (default: angry,sad,fear,disgust)",
    )
    parser.add_argument("--window", type=float, metavar="SECONDS", help="length of the windows judged (default: 3)")
    parser.add_argument("--hop", type=float, metavar="SECONDS", help="from one to the next (default: 1)")
    parser.add_argument("--overwrite", action="store_true", help="replace a report in that folder")
    parser.add_argument("--no-audio", action="store_true", help="leave the voices out of the pages: no players")
    parser.add_argument("--format", default="table", choices=FORMATS, help="table, csv, json or jsonl")
    parser.set_defaults(work=_monitor)


def _monitor(chosen: argparse.Namespace) -> int:
    from ..inference.backends import open_backend
    from ..inference.windows import WindowSettings
    from ..monitor.conversation import MonitorSettings
    from ..monitor.negative_segments import NEGATIVE
    from ..monitor.report import check_out, write_reports
    from ..monitor.to_json import readable
    from ..report.shared.tables import format_rows

    lengths = {"window": chosen.window, "hop": chosen.hop}
    settings = MonitorSettings(
        windows=WindowSettings(**{name: value for name, value in lengths.items() if value is not None}),
        names=_words(chosen.channels, "--channels"),
        baseline=chosen.baseline,
        negative=_words(chosen.negative, "--negative") or NEGATIVE,
    )
    out = Path(chosen.out).expanduser()
    check_out(out, chosen.overwrite)
    engine, sound = open_backend(chosen.model), not chosen.no_audio
    made = write_reports(engine, chosen.calls, out, settings, chosen.model, sound, _tell, chosen.overwrite)
    people = chosen.format == "table"
    print(_text(made.rows) if people else format_rows(made.rows, chosen.format), flush=True)
    if made.page:
        page = readable(str(made.page))
        print(f"\nreport: {page}" if people else f"report: {page}", file=sys.stdout if people else sys.stderr)
    return 1 if any(row["error"] for row in made.rows) else 0


def _words(text: str | None, what: str) -> tuple[str, ...] | None:
    """Read NAME,NAME,..., each name once."""
    from ..monitor.to_json import readable

    if text is None:
        return None
    words = tuple(readable(word.strip()) for word in text.split(","))
    if not all(words) or len({word.casefold() for word in words}) < len(words):
        raise InputError(f"{what} takes different names, such as a,b, not {text!r}")
    return words


def _tell(line: str) -> None:
    from tqdm import tqdm

    # Above the progress bar, where there is one.
    tqdm.write(f"ser-ft: {' '.join(line.split())}", file=sys.stderr)


def _text(rows: list[dict[str, Any]]) -> str:
    """Write the rows for people: a line for each voice."""
    from ..monitor.report import voices
    from ..monitor.summary import clock, percent
    from ..utils.text import MISSING, printable, text_table

    lines = []
    for row in rows:
        if row["error"]:
            lines.append({"call": row["call"], "voice": "not judged"})
            continue
        for place, voice in enumerate(voices(row)):
            shown = {"call": "" if place else row["call"], "length": "" if place else clock(row["seconds"])}
            shown |= {"voice": voice["name"], "speaks": percent(voice["speech"] / row["seconds"])}
            shown |= {"mostly": voice["emotion"] or MISSING}
            unknown = voice["dissatisfied"] is None
            shown |= {"dissatisfaction": MISSING if unknown else percent(voice["dissatisfied"])}
            lines.append(shown | {"uncertain": percent(voice["uncertain"])})
    columns = ["call", "length", "voice", "speaks", "mostly", "dissatisfaction", "uncertain"]
    table = text_table(lines, columns, {"length", "speaks", "dissatisfaction", "uncertain"})
    notes = dict.fromkeys(note for row in rows for note in row.get("notes") or ())
    return "\n".join([table, *(["", *(f"note: {printable(note)}" for note in notes)] if notes else [])])
