"""Many runs beside each other: the table for the terminal, and the page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...evaluation.pooling import find_runs, leaderboards, pool_runs
from ...evaluation.run_folder import RunFolder
from ...evaluation.systems import System
from ...utils.errors import InputError
from ...utils.files import check_output
from ...utils.progress import progress_bar
from ...utils.text import printable, size_text, text_table, time_text
from ..shared import samples
from ..shared.tables import run_notes
from ..shared.templates import render_template
from .contents import contents
from .pairs import Compared, check_baseline, compare_set, p_text, signed, signed_interval

if TYPE_CHECKING:
    from datasets import Dataset

_COLUMNS = {
    "model": "model",
    "runs": "runs",
    "uar": "uar",
    "interval": "interval",
    "over_folds": "std_folds",
    "accuracy": "accuracy",
    "macro_f1": "macro_f1",
}
_WORDS = ("parameters", "training", "real_time", "difference", "its_interval", "p")


def compare(paths: Sequence[str | Path], baseline: str | None = None, shown: bool = True) -> list[Compared]:
    """Read runs, put them together into systems, and compare those that were tested on the same clips.

    Args:
        paths: run folders, or folders of runs; NAME=PATH names the model found there.
        baseline: the name of the model that the others stand beside: see `compare_set`. shown: show progress.

    Returns:
        the test sets: those of honest splits first, then the rows of a cross-corpus matrix, then leaking ones.

    Raises:
        InputError: a path holds no run, a run cannot be compared, or there is no such baseline.
    """
    runs: dict[Path, RunFolder] = {}
    names: dict[Path, str] = {}
    for text in paths:
        name, path = _named(str(text))
        found = {run.path.resolve(): run for run in find_runs([path])}
        runs |= found
        names |= dict.fromkeys(found, name) if name else {}
    sets = leaderboards(pool_runs(list(runs.values()), names, shown))
    check_baseline(sets, baseline)
    return [compare_set(tested, baseline) for tested in progress_bar(sets, desc="comparisons", shown=shown)]


def rows(compared: Sequence[Compared]) -> list[dict[str, Any]]:
    """Put what was compared into rows, one per system, for a program to read.

    Returns:
        rows with test_set, leaking, clips, speakers, classes (numbers), model, kind, runs, uar, low, high,
        std_folds, std_seeds, accuracy, macro_f1, ece, chance, parameters, trained_parameters, seconds,
        real_time_factor, baseline, difference, difference_low, difference_high, p_value, smallest_p_value, machines, notes,
        folders.
    """
    return [_row(one, system) for one in compared for system in one.tested.systems]


def text(compared: Sequence[Compared]) -> str:
    """Write what was compared as tables for people, one for each test set."""
    pieces = []
    for one in compared:
        base = "" if one.baseline is None or not one.beside else f"; difference: UAR less that of {one.baseline.name}"
        head = f"{'LEAKING split, not to be compared: ' if one.leaking else ''}{one.title}{base}"
        found = [_shown(one, system) for system in one.tested.systems]
        known = [name for name in _WORDS if any(row[name] is not None for row in found)]
        told = ["notes"] if any(row["notes"] for row in found) else []
        pieces += [printable(head), "", text_table(found, [*_COLUMNS, *known, *told], _WORDS), ""]
    told = list(dict.fromkeys(note for row in rows(compared) for note in row["notes"]))
    if any(one.beside for one in compared):
        told.append("interval: 95 % over speakers; p: speakers' answers swapped between the two, not corrected")
    return "\n".join([*pieces, *(f"note: {printable(line)}" for line in told)]).rstrip()


def check_out(out: str | Path) -> Path:
    """Check that the page may be written, before anything is read, and return its path."""
    return check_output(out, kind="file", what="a comparison", suffixes=(".html", ".htm"))


def write_comparison(
    compared: Sequence[Compared],
    out: str | Path,
    data: Dataset | None = None,
    num_examples: int = 12,
    shown: bool = True,
) -> Path:
    """Write the page: one file that holds everything and loads nothing.

    Args:
        compared: as `compare` gives it. out: the file.
        data: the prepared table that the runs were tested on: what no model recognised can then be listened to.
        num_examples: how many such clips are shown for each test set. shown: show progress.

    Returns:
        the file.

    Raises:
        InputError: the file cannot be written, or the data holds other clips than those that were tested.
    """
    import pandas as pd

    path = check_out(out)
    if data is not None:
        samples.check_same_clips(pd.concat([one.tested.best.clips for one in compared]), data)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(
        render_template("report/comparison/comparison.html.j2", contents(compared, data, num_examples, shown)),
        encoding="utf-8",
    )
    return partial.replace(path)


def _named(text: str) -> tuple[str | None, str]:
    """Read NAME=PATH, or a path that may itself have such a sign in it."""
    name, equals, path = text.partition("=")
    if not equals or Path(text).expanduser().exists():
        return None, text
    if not name.strip() or not path:
        raise InputError(f"{text}: a run is a folder, or NAME=FOLDER")
    return name.strip(), path


def _row(one: Compared, system: System) -> dict[str, Any]:
    found = one.beside.get(system.name)
    scores = {key: value for key, value in system.scores.items() if key != "recall"}
    return {
        "test_set": one.title,
        "leaking": one.leaking,
        "clips": len(system.labels),
        "speakers": one.tested.speakers,
        "classes": len(system.classes),
        "model": system.name,
        "kind": system.kind,
        "runs": len(system.runs),
        **scores,
        **system.cost,
        "baseline": one.baseline and one.baseline.name,
        "difference": found and found.difference,
        "difference_low": found and found.low,
        "difference_high": found and found.high,
        "p_value": found and found.p_value,
        "smallest_p_value": found and found.smallest_p_value,
        "notes": run_notes(system.runs[0].metrics),
        "folders": [str(member.folder.path) for member in system.runs],
    }


def _shown(one: Compared, system: System) -> dict[str, Any]:
    row = _row(one, system)
    found = one.beside.get(system.name)
    return {
        **{name: row.get(key) for name, key in _COLUMNS.items()},
        "low": row["low"],
        "high": row["high"],
        "parameters": row["parameters"] and size_text(row["parameters"]),
        "training": row["seconds"] and time_text(row["seconds"]),
        "real_time": row["real_time_factor"] and f"{row['real_time_factor']:.3g}",
        "difference": found and signed(found.difference),
        "its_interval": found and signed_interval(found),
        "p": found and p_text(found.p_value),
        "notes": row["notes"],
    }
