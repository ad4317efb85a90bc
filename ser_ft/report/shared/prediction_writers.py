"""Writes predictions as a table, CSV, JSON or JSON Lines, row by row, and reads existing files of predictions."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...utils.atomic import write_atomically
from ...utils.errors import InputError
from ...utils.text import MISSING, csv_line, display_width, nfc, pad, printable, restore_csv_cell, score_text

RESUMABLE_FORMATS = ("csv", "jsonl")
"""Formats in which an incomplete file can be resumed."""
_FIXED_COLUMNS = ("path", "emotion", "probability", "uncertain", "duration", "speech", "adapted")
_SECOND = "second best"
_MIN_NAME_WIDTH = 20
_OTHER_CLASSES = "holds predictions of a model with other classes"


def prediction_writer(
    format: str, classes: Sequence[str], longest: int = 40, terminal_width: int | None = None
) -> PredictionWriter:
    """Return the writer of a format.

    In a table, `longest` is the width of the longest path and `terminal_width` that of the terminal, in cells: names
    are shortened to fit in. None: they are not shortened.
    """
    if format == "table":
        return _TableWriter(classes, longest, terminal_width or sys.maxsize)
    return {"csv": _CsvWriter, "json": _JsonWriter, "jsonl": PredictionWriter}[format](classes)


class PredictionWriter:
    """Formats rows as JSON Lines: predictions as `EmotionRecognizer` returns them, or {"path", "error"}."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = classes

    def header(self) -> str:
        """Return the text before the rows."""
        return ""

    def row(self, row: Mapping[str, Any]) -> str:
        """Return the text of a row."""
        return printable(json.dumps(_rounded(row), ensure_ascii=False, allow_nan=False)) + "\n"

    def footer(self) -> str:
        """Return the text after the rows."""
        return ""


class _JsonWriter(PredictionWriter):
    _is_first = True

    def header(self) -> str:
        return "["

    def row(self, row: Mapping[str, Any]) -> str:
        separator, self._is_first = "\n" if self._is_first else ",\n", False
        return separator + super().row(row).rstrip("\n")

    def footer(self) -> str:
        return "\n]\n"


class _CsvWriter(PredictionWriter):
    def header(self) -> str:
        return csv_line(csv_columns(self.classes))

    def row(self, row: Mapping[str, Any]) -> str:
        cells = _rounded(row)
        scores = cells.get("scores", {})
        if scores:
            cells |= {"probability": max(scores.values()), "uncertain": str(cells["uncertain"]).lower()}
        fixed = [cells.get(name, "") for name in _FIXED_COLUMNS]
        return csv_line([*fixed, *(scores.get(name, "") for name in self.classes), cells.get("error", "")])


class _TableWriter(PredictionWriter):
    def __init__(self, classes: Sequence[str], longest: int, terminal_width: int) -> None:
        super().__init__(classes)
        class_width = max(map(display_width, classes))
        others = [max(class_width + 2, len("emotion")), len("probability"), max(class_width + 6, len(_SECOND))]
        room = terminal_width - sum(others) - 2 * len(others)
        self.widths = [max(len("file"), min(longest, max(_MIN_NAME_WIDTH, room))), *others]
        self.terminal_width = terminal_width

    def header(self) -> str:
        headings = self._line(["file", "emotion", "probability", _SECOND])
        return headings + self._line(["-" * width for width in self.widths])

    def row(self, row: Mapping[str, Any]) -> str:
        name = shorten_middle(printable(row["path"] or MISSING), self.widths[0])
        if "error" in row:
            error = shorten_middle(printable(row["error"]), self.terminal_width - self.widths[0] - 4)
            return f"{pad(name, self.widths[0])}  ({error})\n"
        best, *others = sorted(row["scores"].items(), key=lambda item: -item[1])
        second = f"{printable(others[0][0])} {score_text(others[0][1])}" if others else MISSING
        mark = " ?" if row["uncertain"] else ""
        return self._line([name, f"{printable(best[0])}{mark}", score_text(best[1]), second])

    def _line(self, cells: Sequence[str]) -> str:
        # Of the four columns, only the probability is aligned to the right.
        return "  ".join(map(pad, cells, self.widths, (False, False, True, False))).rstrip() + "\n"


def csv_columns(classes: Sequence[str]) -> list[str]:
    """Return the columns of a CSV file."""
    return [*_FIXED_COLUMNS, *classes, "error"]


def shorten_middle(text: str, width: int) -> str:
    """Cut out the middle of a text that is wider than `width` terminal cells: "recordings/2…_final.wav"."""
    if display_width(text) <= width:
        return text
    room = width - 1
    head, tail = "", ""
    for character in text:
        if display_width(head + character) > room // 2:
            break
        head += character
    for character in reversed(text):
        if display_width(character + tail) > room - display_width(head):
            break
        tail = character + tail
    return f"{head}…{tail}"


@dataclass
class ExistingPredictions:
    """The paths with a prediction and the paths with an error in a file, as `path_key` writes them."""

    predicted: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)


def read_existing(file: Path, format: str, classes: Sequence[str]) -> ExistingPredictions:
    """Read a file of predictions in one of `RESUMABLE_FORMATS`. An incomplete last line is cut off the file.

    Raises:
        InputError: the file has another content, or holds predictions of a model with other classes.
    """
    existing, complete_bytes = ExistingPredictions(), 0
    start = csv_line(csv_columns(classes)) if format == "csv" else '{"path": '
    with file.open("rb") as lines:
        for line in lines:
            try:
                if not complete_bytes:
                    _check_start(line.decode(errors="replace"), start)
                if not line.endswith(b"\n"):
                    break
                if complete_bytes or format != "csv":
                    path, is_error = _READERS[format](line.decode(), classes)
                    (existing.failed if is_error else existing.predicted).add(path)
            except InputError as error:
                raise InputError(f"{file}: {error}; name another --out") from None
            except (ValueError, LookupError, TypeError, RecursionError, csv.Error) as error:
                raise InputError(f"{file}: does not hold predictions in {format}; name another --out") from error
            complete_bytes += len(line)
    os.truncate(file, complete_bytes)
    return existing


def remove_errors(file: Path, format: str, classes: Sequence[str], paths: Container[str]) -> None:
    """Remove the errors of some paths from a file that `read_existing` has read; `paths` are as `path_key` writes them.

    An interruption leaves the file complete.
    """
    with write_atomically(file) as partial, file.open("rb") as lines, partial.open("wb") as output:
        for number, line in enumerate(lines):
            is_header = format == "csv" and not number
            path, is_error = ("", False) if is_header else _READERS[format](line.decode(), classes)
            if not (is_error and path in paths):
                output.write(line)


def path_key(path: str, format: str) -> str:
    """Return a path as a file of predictions holds it, in Unicode NFC, in which paths are compared."""
    return nfc(printable(path) if format == "csv" else path)


def _check_start(line: str, start: str) -> None:
    """Check that the first line of a file, which may be incomplete, starts as in a file of predictions."""
    if line.startswith(start) or start.startswith(line):
        return
    if line.startswith(",".join(_FIXED_COLUMNS)):
        raise InputError(_OTHER_CLASSES)
    raise ValueError


def _read_csv(line: str, classes: Sequence[str]) -> tuple[str, bool]:
    (row,) = csv.reader([line])
    if len(row) != len(csv_columns(classes)):
        raise ValueError
    return nfc(restore_csv_cell(row[0])), bool(row[-1])


def _read_json(line: str, classes: Sequence[str]) -> tuple[str, bool]:
    row = json.loads(line)
    if "error" not in row and list(row["scores"]) != list(classes):
        raise InputError(_OTHER_CLASSES)
    return nfc(str(row["path"])), "error" in row


_READERS = {"csv": _read_csv, "jsonl": _read_json}
"""Functions that return the path in a line, and whether the line holds an error."""


def _rounded(row: Mapping[str, Any]) -> dict[str, Any]:
    rounded = dict(row)
    if "scores" in row:
        rounded["scores"] = {name: round(score, 6) for name, score in row["scores"].items()}
        rounded |= {name: round(row[name], 3) for name in ("duration", "speech")}
    return rounded
