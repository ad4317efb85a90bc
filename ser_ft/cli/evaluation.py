"""The `ser-ft` commands for trained models: evaluate, fuse, compare and report."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from ..report.shared.tables import comparison_rows, format_rows
from ..utils.errors import InputError
from ..utils.progress import progress_bar
from ..utils.text import print_text
from .arguments import Commands, add_allow_pickle, add_command, add_format, add_model, parse_pairs

if TYPE_CHECKING:
    import datasets


def add_evaluate(commands: Commands) -> None:
    """Add `ser-ft evaluate`."""
    about = "evaluate a fine-tuned model, trained by ser_ft or by anyone else, on any prepared data"
    details = (
        "The model's classes are matched to the data's by name (HAP, happiness and joy are happy). Clips of classes "
        "that the model does not know are excluded and counted, and so are clips of speakers that it was trained or "
        "validated on. The output is a run folder with a report."
    )
    parser = add_command(commands, "evaluate", _evaluate, about, details)
    add_model(parser)
    parser.add_argument("--data", required=True, metavar="PREPARED", help="a table written by `ser-ft prepare`")
    parser.add_argument("--out", metavar="FOLDER", help="the output folder (default: evaluations/NAME-on-DATA)")
    mapping = (
        "match classes of different names, such as calm=neutral; the probabilities of several model classes that match "
        "one data class are added"
    )
    parser.add_argument("--map", default="", metavar="MODEL_CLASS=DATA_CLASS,...", help=mapping)
    seen = "also evaluate on speakers that the model was trained on; the result is marked as leaking"
    parser.add_argument("--include-seen-speakers", action="store_true", help=seen)
    add_allow_pickle(parser)
    _add_overwrite(parser)


def add_fuse(commands: Commands) -> None:
    """Add `ser-ft fuse`."""
    about = "combine several runs into one system: the mean of their probabilities for each clip"
    details = (
        "The runs must have the same clips and classes. Runs in folders of runs, such as a sweep's, are matched by "
        "split, fold and seed. Nothing is fitted. The output are run folders with a report."
    )
    parser = add_command(commands, "fuse", _fuse, about, details)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="two or more run folders, or folders of runs")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="the output folder")
    weights = "the weight of each run, such as 2,1 (default: equal weights)"
    parser.add_argument("--weights", metavar="W,...", help=weights)
    _add_overwrite(parser)


def add_compare(commands: Commands) -> None:
    """Add `ser-ft compare`."""
    about = "compare runs: a table in the terminal, and a detailed HTML page"
    details = (
        "Runs that differ only in fold and seed are one model: their predictions are pooled. Models are compared only "
        "on the same test clips; other test sets have tables of their own, and a leaking split is never ranked with "
        "one that does not leak."
    )
    parser = add_command(commands, "compare", _compare, about, details)
    runs = "run folders, or folders of runs such as a sweep's; NAME=RUN gives the model a name"
    parser.add_argument("runs", nargs="+", metavar="RUN", help=runs)
    data = "the runs' table; clips that are shown on the page can then be played"
    parser.add_argument("--data", metavar="PREPARED", help=data)
    baseline = (
        "the model that all others are compared with (default: the best mfcc-cnn, otherwise the best network that was "
        "trained from scratch)"
    )
    parser.add_argument("--baseline", metavar="NAME", help=baseline)
    out = "comparison.html"
    parser.add_argument("--out", default=out, metavar="FILE.html", help=f"the page (default: {out})")
    add_format(parser)


def add_report(commands: Commands) -> None:
    """Add `ser-ft report`."""
    about = "write the report of a finished run again, optionally with sample recordings that can be played"
    parser = add_command(commands, "report", _report, about)
    parser.add_argument("run", metavar="RUN", help="the run folder")
    parser.add_argument("--data", metavar="PREPARED", help="the run's table; some of its recordings are embedded")


def _add_overwrite(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier output of this command")


def _evaluate(args: argparse.Namespace) -> None:
    from ..evaluation.evaluate import evaluate
    from ..report.run.report import write_report

    mapping, seen = parse_pairs(args.map, "--map"), args.include_seen_speakers
    run = evaluate(
        args.model,
        args.data,
        args.out,
        mapping=mapping,
        include_seen_speakers=seen,
        allow_pickle=args.allow_pickle,
        overwrite=args.overwrite,
    )
    write_report(run)
    print_text(f"\n{format_rows(comparison_rows([run]))}\n\nrun: {run.path}\nreport: {run.report_file}")


def _fuse(args: argparse.Namespace) -> None:
    from ..evaluation.ensemble import fuse
    from ..report.run.report import write_report

    try:
        weights = None if args.weights is None else [float(word) for word in args.weights.split(",")]
    except ValueError:
        raise InputError(f"--weights takes numbers, such as 2,1, not {args.weights!r}") from None
    runs = fuse(args.runs, args.out, weights, args.overwrite)
    for run in progress_bar(runs, desc="reports", show_progress=len(runs) > 1):
        write_report(run)
    print_text(f"{format_rows(comparison_rows(runs))}\n\nwritten: {args.out}")


def _compare(args: argparse.Namespace) -> None:
    from ..report.comparison.report import check_out, compare, comparison_text, system_rows, write_comparison

    out = check_out(args.out)
    data = _open_data(args.data)
    comparison = compare(args.runs, args.baseline)
    as_text = args.format == "table"
    print_text(
        comparison_text(comparison) if as_text else format_rows(system_rows(comparison), args.format), flush=True
    )
    page = write_comparison(comparison, out, data)
    print_text(f"\nreport: {page}" if as_text else f"report: {page}", file=sys.stdout if as_text else sys.stderr)


def _report(args: argparse.Namespace) -> None:
    from ..evaluation.run_folder import RunFolder
    from ..report.run.report import write_report

    run = RunFolder.open(args.run)
    print_text(write_report(run, _open_data(args.data)))


def _open_data(folder: str | None) -> datasets.Dataset | None:
    if not folder:
        return None
    from ..data.prepare import open_prepared

    return open_prepared(folder)
