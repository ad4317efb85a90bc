"""The commands of `ser-ft` that judge what was trained: evaluate, fuse, compare and report."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from ..utils.errors import InputError
from .arguments import parse_pairs


def add_evaluate(commands: argparse._SubParsersAction[Any]) -> None:
    """Add `ser-ft evaluate`."""
    about = "judge a fine-tuned model, of ser_ft or of anyone, on any prepared data"
    parser = commands.add_parser(
        "evaluate",
        help=about,
        description=about.capitalize() + ". The model's classes are put to the data's by their names (HAP, happiness "
        "and joy are happy); clips of classes that it does not know are left out and counted, and so are the speakers "
        "that a run trained or validated on. What it writes is a run folder with a report.",
    )
    parser.add_argument(
        "model", metavar="RUN_OR_MODEL", help="a run folder, a folder with a saved classifier, or a name on the Hub"
    )
    parser.add_argument("--data", required=True, metavar="PREPARED", help="a table that `ser-ft prepare` wrote")
    parser.add_argument("--out", metavar="FOLDER", help="what is written (default: evaluations/NAME-on-DATA)")
    parser.add_argument(
        "--map",
        default="",
        metavar="THEIRS=OURS,...",
        help="the model's class = the data's, such as calm=neutral; probabilities of several for one are added",
    )
    parser.add_argument(
        "--heard", action="store_true", help="judge speakers that it was trained on, too: the result is marked LEAKING"
    )
    _add_overwrite(parser)
    parser.set_defaults(work=_evaluate)


def add_fuse(commands: argparse._SubParsersAction[Any]) -> None:
    """Add `ser-ft fuse`."""
    about = "join several runs into one system: the mean of their probabilities, clip by clip"
    parser = commands.add_parser(
        "fuse",
        help=about,
        description=about.capitalize() + ". The runs must be of the same clips and classes. Of folders of runs, such "
        "as a sweep's, those of one split, fold and seed are joined. Nothing is fitted. What it writes are run folders "
        "with a report.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="two or more run folders, or folders of runs")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="what is written")
    parser.add_argument("--weights", metavar="W,...", help="how much each weighs, such as 2,1 (default: all alike)")
    _add_overwrite(parser)
    parser.set_defaults(work=_fuse)


def add_compare(commands: argparse._SubParsersAction[Any]) -> None:
    """Add `ser-ft compare`."""
    from ..report.shared.tables import FORMATS

    about = "set runs beside each other: a table, and a page with all that can be said of them"
    parser = commands.add_parser(
        "compare",
        help=about,
        description=about.capitalize() + ". Runs that differ in fold and seed alone are one model: their answers are "
        "pooled. Models are compared only on the same test clips; what was tested on others stands in a table of its "
        "own, and a leaking split is never ranked with an honest one.",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="run folders, or folders of runs such as a sweep's; NAME=RUN says what the model is to be called",
    )
    parser.add_argument("--data", metavar="PREPARED", help="the table of the runs: the page lets clips be heard")
    parser.add_argument(
        "--baseline",
        metavar="NAME",
        help="the model that all others stand beside (default: the best mfcc-cnn, else the best classic network)",
    )
    parser.add_argument(
        "--out", default="comparison.html", metavar="FILE.html", help="the page (default: comparison.html)"
    )
    parser.add_argument("--format", default="table", choices=FORMATS, help="table, csv, json or jsonl")
    parser.set_defaults(work=_compare)


def add_report(commands: argparse._SubParsersAction[Any]) -> None:
    """Add `ser-ft report`."""
    about = "report a finished run anew; with its data, sample recordings can be played in the report"
    parser = commands.add_parser("report", help=about, description=about.capitalize() + ".")
    parser.add_argument("run", metavar="RUN", help="the run folder")
    parser.add_argument("--data", help="the table that the run was made from: its recordings go into the report")
    parser.set_defaults(work=_report)


def _add_overwrite(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--overwrite", action="store_true", help="replace what this command wrote to the folder before")


def _evaluate(chosen: argparse.Namespace) -> None:
    from ..evaluation.evaluate import evaluate
    from ..report.run.report import write_report
    from ..report.shared.tables import comparison_rows, format_rows

    mapping = parse_pairs(chosen.map, "--map")
    run = evaluate(
        chosen.model, chosen.data, chosen.out, mapping=mapping, heard=chosen.heard, overwrite=chosen.overwrite
    )
    write_report(run)
    print(f"\n{format_rows(comparison_rows([run]))}\n\nrun: {run.path}\nreport: {run.report_file}")


def _fuse(chosen: argparse.Namespace) -> None:
    from ..evaluation.ensemble import fuse
    from ..report.run.report import write_report
    from ..report.shared.tables import comparison_rows, format_rows
    from ..utils.progress import progress_bar

    try:
        weights = None if chosen.weights is None else [float(word) for word in chosen.weights.split(",")]
    except ValueError:
        raise InputError(f"--weights takes numbers, such as 2,1, not {chosen.weights!r}") from None
    runs = fuse(chosen.runs, chosen.out, weights, chosen.overwrite)
    for run in progress_bar(runs, desc="reports", shown=len(runs) > 1):
        write_report(run)
    print(f"{format_rows(comparison_rows(runs))}\n\nwritten: {chosen.out}")


def _compare(chosen: argparse.Namespace) -> None:
    from ..report.comparison.report import check_out, compare, comparison_text, system_rows, write_comparison
    from ..report.shared.tables import format_rows

    out, data = check_out(chosen.out), None
    if chosen.data:
        from ..data.prepare import open_prepared

        data = open_prepared(chosen.data)
    found = compare(chosen.runs, chosen.baseline)
    people = chosen.format == "table"
    print(comparison_text(found) if people else format_rows(system_rows(found), chosen.format), flush=True)
    page = write_comparison(found, out, data)
    print(f"\nreport: {page}" if people else f"report: {page}", file=sys.stdout if people else sys.stderr)


def _report(chosen: argparse.Namespace) -> None:
    from ..evaluation.run_folder import RunFolder
    from ..report.run.report import write_report

    run = RunFolder.open(chosen.run)
    table = None
    if chosen.data:
        from ..data.prepare import open_prepared

        table = open_prepared(chosen.data)
    print(write_report(run, table))
