"""Comparison tables: rows made from run folders, and any rows as plain text, CSV or JSON."""

from __future__ import annotations

import csv
import io
import json
import math
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ...evaluation.run_folder import RunFolder
from ...utils.errors import InputError

FORMATS = ("table", "csv", "json", "jsonl")
LEAKING = "leaking split: the test speakers were heard in training too"
ALL_SEEN = (
    "what is chosen here has seen all speakers: a test on any of them would come out too well; "
    "--split FILE keeps the test speakers of a run's split.json out"
)
NOTHING = "-"
_HEADINGS = {"uar": "UAR", "macro_f1": "macro F1", "ece": "ECE", "nll": "NLL"}


def notes(metrics: Mapping[str, Any]) -> list[str]:
    """Say what keeps a run's figures from being taken at face value, one line each; an empty list is a clean run.

    A leaking split comes first, then what is unusual about a corpus's sound (synthetic voices, rebuilt audio) with
    the corpora that it holds for: "synthetic voices (ser_ft miniature), not recordings: ravdess, tess".
    """
    corpora: dict[str, list[str]] = {}
    for corpus, note in sorted((metrics.get("notes") or {}).items()):
        if note:
            corpora.setdefault(note, []).append(corpus)
    lines = [f"{note}: {', '.join(names)}" for note, names in corpora.items()]
    return [LEAKING, *lines] if metrics["split"]["leaking"] else lines


def short_note(note: str) -> str:
    """Cut a note at its first colon or bracket: "synthetic voices", "leaking split", "CREMA-D, rebuilt audio"."""
    return note.partition(":")[0].partition(" (")[0]


def split_name(split: Mapping[str, Any]) -> str:
    """Name a split of metrics.json or split.json: "speaker", "speaker fold 2"."""
    return str(split["name"]) if split.get("fold") is None else f"{split['name']} fold {split['fold']}"


def comparison(runs: Sequence[RunFolder], part: str = "test") -> list[dict[str, Any]]:
    """Put runs beside each other, a row each, in the order given.

    Args:
        runs: evaluated runs; the baselines of a run are in `run.baselines`.
        part: "train", "validation" or "test".

    Returns:
        rows with run (the folder's name), model, split, clips, speakers, uar, low, high (its interval, or None),
        accuracy, macro_f1 and notes (a list: see `notes`).

    Raises:
        InputError: a run was not evaluated on that part.
    """
    rows = []
    for run in runs:
        metrics = run.metrics
        if part not in metrics["parts"]:
            raise InputError(f"{run.path}: no {part} part in it: it has {', '.join(metrics['parts']) or 'none'}")
        scores = metrics["parts"][part]
        interval = scores.get("uar_interval") or {}
        rows.append(
            {
                "run": run.path.resolve().name,
                "model": metrics["model"],
                "split": split_name(metrics["split"]),
                "clips": scores["clips"],
                "speakers": scores["speakers"],
                "uar": scores["uar"],
                "low": interval.get("low"),
                "high": interval.get("high"),
                "accuracy": scores["accuracy"],
                "macro_f1": scores["macro_f1"],
                "notes": notes(metrics),
            }
        )
    return rows


def layer_rows(probe: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Put what `ser_ft.evaluation.probe.probe` found into rows, one per backbone and layer.

    Returns:
        rows with backbone, layer, state, uar (the mean over the folds), deviation, folds (a list), best (of its
        backbone), chance, clips, speakers, split (None: all clips), pooling, precision, seed and notes (a list).
    """
    split = probe["split"]
    common = {key: probe[key] for key in ("chance", "clips", "speakers")}
    common["split"] = None if split["name"] is None else split_name(split)
    common |= {key: probe[key] for key in ("pooling", "precision", "seed")}
    return [{**layer, **common, "notes": notes(probe)} for layer in probe["layers"]]


def layer_text(probe: Mapping[str, Any]) -> str:
    """Write what `ser_ft.evaluation.probe.probe` found for people; each backbone's best layer is marked."""
    rows = [{**row, "best": "*" if row["best"] else ""} for row in probe["layers"]]
    folds = len(probe["layers"][0]["folds"])
    pooled = probe["pooling"].replace("std", "deviation").replace("+", " and ")
    head = [
        f"UAR of a linear classifier on each layer's states ({pooled} over time), mean of {folds} folds by speaker",
        f"{probe['clips']:,} clips of {probe['speakers']:,} speakers, chance {score_text(probe['chance'])}",
    ]
    table = text_table(rows, ["backbone", "layer", "state", "uar", "deviation", "best"])
    told = [*([ALL_SEEN] if probe["split"]["name"] is None else []), *notes(probe)]
    return "\n".join([*head, "", table, "", *(f"note: {printable(note)}" for note in told)]).rstrip()


def render(rows: Sequence[Mapping[str, Any]], format: str = "table") -> str:
    """Write rows as text, without a newline at the end.

    Args:
        rows: mappings with the same keys; the first row's order is the order of the columns.
        format: "table" for people (low and high become one interval; notes stand short in the row and in full
            below), "csv" (lists are joined by "; "), "json" (a list), "jsonl" (an object a line).

    Raises:
        InputError: the format is unknown.
    """
    if format not in FORMATS:
        raise InputError(f"unknown format {format!r}: use one of {', '.join(FORMATS)}")
    plain = [{key: _plain(value) for key, value in row.items()} for row in rows]
    if format == "json":
        return json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False)
    if format == "jsonl":
        return "\n".join(json.dumps(row, ensure_ascii=False, allow_nan=False) for row in plain)
    if not plain:
        return ""
    keys = list(dict.fromkeys(key for row in plain for key in row))
    if format == "csv":
        return _csv(plain, keys)
    folded = ["interval" if key == "low" else key for key in keys if key != "high" or "low" not in keys]
    columns = [key for key in folded if key != "notes"]
    lines = list(dict.fromkeys(note for row in plain for note in row.get("notes") or ()))
    if not lines:
        return text_table(plain, columns)
    return "\n".join([text_table(plain, [*columns, "notes"]), "", *(f"note: {printable(line)}" for line in lines)])


def text_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], right: Collection[str] = ()) -> str:
    """Draw rows as an aligned monospace table: numbers to the right with three decimals, what is missing as "-".

    The column "interval" is made from low and high; "notes" shows the short form of each note. `right`: columns of
    words that stand to the right too.
    """
    cells = [[_cell(row, column) for column in columns] for row in rows]
    heads = [_HEADINGS.get(column, column.replace("_", " ")) for column in columns]
    widths = [max(map(width_of, column)) for column in zip(heads, *cells, strict=True)]
    sides = [column in right or _is_numeric(column, [row.get(column) for row in rows]) for column in columns]
    lines = [heads, ["-" * width for width in widths], *cells]
    return "\n".join(
        "  ".join(padded(cell, width, side) for cell, width, side in zip(line, widths, sides, strict=True)).rstrip()
        for line in lines
    )


def score_text(value: float | None) -> str:
    """Write a score with three decimals, one that does not exist as "-"."""
    return NOTHING if value is None or not math.isfinite(value) else f"{value:.3f}"


def interval_text(low: float | None, high: float | None) -> str:
    """Write an interval: "0.412-0.530", or "-" where there is none."""
    return NOTHING if low is None or high is None else f"{low:.3f}-{high:.3f}"


def size_text(parameters: int) -> str:
    """Write a number of parameters: "98 k", "0.31 M", "94.6 M", "1.6 G"."""
    for size, least, unit in ((1e9, 1e9, "G"), (1e6, 1e5, "M")):
        if parameters >= least:
            return f"{parameters / size:.3g} {unit}"
    return f"{parameters / 1e3:.3g} k"


def time_text(seconds: float) -> str:
    """Write a length of time: "45 s", "4.6 min", "2.1 h"."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 3600 else f"{seconds / 3600:.3g} h"


def _cell(row: Mapping[str, Any], column: str) -> str:
    if column == "interval":
        return interval_text(row.get("low"), row.get("high"))
    value = row.get(column)
    if column == "notes" and value:
        return printable("; ".join(map(short_note, value)))
    if value is None or value == []:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return score_text(value)
    if isinstance(value, list | tuple):
        return printable("; ".join(map(str, value)))
    return printable(str(value))


def _csv(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, keys, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: _csv_cell(value) for key, value in row.items()})
    return file.getvalue().rstrip("\n")


def _csv_cell(value: Any) -> Any:
    if isinstance(value, list):
        return "; ".join(map(str, value))
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value


def _plain(value: Any) -> Any:
    """Turn numpy's scalars into Python's, and what is no number into None: JSON has neither."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)


def _is_numeric(column: str, values: Sequence[Any]) -> bool:
    known = [value for value in values if value is not None]
    return column == "interval" or (bool(known) and all(isinstance(v, int | float) for v in known))


def printable(text: str) -> str:
    """Names are the user's: no control character of theirs reaches the terminal."""
    return "".join(sign if sign.isprintable() else " " for sign in text)


def width_of(text: str) -> int:
    """Count terminal cells: wide signs take two, combining ones none."""
    return sum(0 if unicodedata.combining(s) else 2 if unicodedata.east_asian_width(s) in "WF" else 1 for s in text)


def padded(text: str, width: int, right: bool = False) -> str:
    """Put spaces behind a text, or before it, until it takes so many terminal cells."""
    space = " " * (width - width_of(text))
    return space + text if right else text + space
