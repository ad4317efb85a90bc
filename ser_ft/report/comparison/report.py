"""The comparison of several runs: the table for the terminal, and the page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...evaluation.pooling import find_runs, leaderboards, pool_runs
from ...evaluation.run_folder import RunFolder
from ...evaluation.systems import System
from ...utils.atomic import write_file
from ...utils.errors import InputError
from ...utils.files import check_output, output_lock
from ...utils.progress import progress_bar
from ...utils.text import printable, size_text, text_table, time_text
from ..shared.samples import check_same_clips
from ..shared.tables import run_notes
from ..shared.templates import render_template
from .contents import page_contents
from .pairs import (
    SystemComparison,
    check_baseline,
    compare_systems,
    conclusion,
    p_text,
    signed_interval_text,
    signed_text,
)

if TYPE_CHECKING:
    from datasets import Dataset

_COLUMNS = ("model", "starts_from", "runs", "uar", "interval", "std_folds", "accuracy", "macro_f1")
_TEXT_COLUMNS = ("parameters", "training", "real_time", "difference", "difference_interval", "p")


def compare(
    paths: Sequence[str | Path], baseline: str | None = None, show_progress: bool = True
) -> list[SystemComparison]:
    """Read runs, pool them into systems, and compare the systems that were tested on the same clips.

    Args:
        paths: run folders, or folders that contain runs; NAME=PATH names the model of these runs.
        baseline: the name of the model that the others are compared with: see `compare_systems`.

    Returns:
        One comparison per test set: speaker-independent splits first, then the rows of a cross-corpus matrix, then
        leaking splits.

    Raises:
        InputError: a path contains no run, a run cannot be compared, or there is no such baseline.
    """
    runs: dict[Path, RunFolder] = {}
    names: dict[Path, str] = {}
    for text in paths:
        name, path = _split_name(str(text))
        new_runs = {run.path.resolve(): run for run in find_runs([path])}
        runs |= new_runs
        names |= dict.fromkeys(new_runs, name) if name else {}
    boards = leaderboards(pool_runs(list(runs.values()), names, show_progress))
    check_baseline(boards, baseline)
    return [
        compare_systems(board, baseline)
        for board in progress_bar(boards, desc="comparisons", show_progress=show_progress)
    ]


def system_rows(comparisons: Sequence[SystemComparison]) -> list[dict[str, Any]]:
    """Return one row per system: its scores, its cost, and its difference from the baseline."""
    return [_row(comparison, system) for comparison in comparisons for system in comparison.tested.systems]


def comparison_text(comparisons: Sequence[SystemComparison]) -> str:
    """Return tables for people, one per test set."""
    lines = []
    for comparison in comparisons:
        baseline = comparison.baseline if comparison.versus_baseline else None
        suffix = f"; difference: UAR minus that of {baseline.name}" if baseline else ""
        kind = "UNVERIFIED" if comparison.leaking == "unknown" else "LEAKING"
        warning = f"{kind} split, do not compare: " if comparison.leaking else ""
        rows = [_text_row(comparison, system) for system in comparison.tested.systems]
        columns = [*_COLUMNS, *(name for name in _TEXT_COLUMNS if any(row[name] is not None for row in rows))]
        columns += ["notes"] if any(row["notes"] for row in rows) else []
        lines += [printable(f"{warning}{comparison.title}{suffix}"), "", text_table(rows, columns, _TEXT_COLUMNS), ""]
    notes = list(dict.fromkeys(note for row in system_rows(comparisons) for note in row["notes"]))
    if any(comparison.versus_baseline for comparison in comparisons):
        notes.append("interval: 95 % over speakers; p: permutation test over speakers, not corrected")
    return "\n".join([*lines, *(f"note: {printable(note)}" for note in notes)]).rstrip()


def transfer_lines(comparisons: Sequence[SystemComparison]) -> list[str]:
    """Return what the comparison of each pretrained model with the baseline shows, in one line each."""
    lines = []
    for comparison in comparisons:
        for name, p_value in comparison.transfer.items():
            assert comparison.baseline is not None
            pair = comparison.versus_baseline[name]
            interval = f" (95 % interval {signed_interval_text(pair)})" if pair.low is not None else ""
            difference = f"difference of UAR {signed_text(pair.difference)}{interval}, p {p_text(p_value)}"
            lines.append(printable(f"{conclusion(name, comparison.baseline.name, pair, p_value)}: {difference}"))
    return lines


def check_out(out: str | Path) -> Path:
    """Check that the page may be written, before anything is read, and return its path."""
    return check_output(out, kind="file", what="a comparison", suffixes=(".html", ".htm"))


def write_comparison(
    comparisons: Sequence[SystemComparison],
    out: str | Path,
    data: Dataset | None = None,
    num_examples: int = 12,
    show_progress: bool = True,
) -> Path:
    """Write the page, a single file that loads nothing else, and return its path.

    It shows up to `num_examples` clips per test set that no model recognized. With `data`, the prepared table that the
    runs were tested on, they can be played.

    Raises:
        InputError: the file cannot be written, or the table does not hold the tested clips.
    """
    import pandas as pd

    with output_lock(out):
        path = check_out(out)
        if data is not None:
            check_same_clips(pd.concat([comparison.tested.best.clips for comparison in comparisons]), data)
        contents = page_contents(comparisons, data, num_examples, show_progress)
        return write_file(path, render_template("report/comparison/comparison.html.j2", contents))


def _split_name(text: str) -> tuple[str | None, str]:
    """Split NAME=PATH; the path of an existing folder may contain an equals sign."""
    name, equals, path = text.partition("=")
    if not equals or Path(text).expanduser().exists():
        return None, text
    if not name.strip() or not path:
        raise InputError(f"{text}: a run is a folder, or NAME=FOLDER")
    return name.strip(), path


def _row(comparison: SystemComparison, system: System) -> dict[str, Any]:
    pair = comparison.versus_baseline.get(system.name)
    scores = {key: value for key, value in system.scores.items() if key != "recall"}
    return {
        "test_set": comparison.title,
        "leaking": comparison.leaking,
        "clips": len(system.labels),
        "speakers": comparison.tested.speakers,
        "classes": len(system.classes),
        "model": system.name,
        "kind": system.kind,
        "starts_from": system.starts_from,
        "runs": len(system.runs),
        **scores,
        **system.cost,
        "baseline": comparison.baseline and comparison.baseline.name,
        "difference": pair and pair.difference,
        "difference_low": pair and pair.low,
        "difference_high": pair and pair.high,
        "p_value": pair and pair.p_value,
        "smallest_p_value": pair and pair.smallest_p_value,
        "notes": run_notes(system.runs[0].metrics),
        "folders": [str(run.folder.path) for run in system.runs],
    }


def _text_row(comparison: SystemComparison, system: System) -> dict[str, Any]:
    row = _row(comparison, system)
    pair = comparison.versus_baseline.get(system.name)
    return {
        **{name: row.get(name) for name in _COLUMNS},
        "low": row["low"],
        "high": row["high"],
        "parameters": row["parameters"] and size_text(row["parameters"]),
        "training": row["seconds"] and time_text(row["seconds"]),
        "real_time": row["real_time_factor"] and f"{row['real_time_factor']:.3g}",
        "difference": pair and signed_text(pair.difference),
        "difference_interval": pair and signed_interval_text(pair),
        "p": pair and p_text(pair.p_value),
        "notes": row["notes"],
    }
