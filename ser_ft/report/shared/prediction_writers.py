"""A recogniser's answers as text, row by row, and what of them a file holds already."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import sys
import unicodedata
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ...utils.errors import InputError
from ...utils.text import MISSING, display_width, pad, printable, score_text

RESUMABLE = ("csv", "jsonl")
"""Formats of a file that can be gone on with."""

_BEFORE = ("path", "emotion", "probability", "uncertain", "duration", "speech")
_SECOND = "second best"
# Of a file's name in a table, in terminal cells.
_LEAST_NAME = 20
# Which some readers of lines take for ends of lines.
_ENDS_OF_LINES = {ord(sign): f"\\u{ord(sign):04x}" for sign in "\x85\u2028\u2029"}
_BEGIN_JSON = '{"path": '
_OTHER_CLASSES = "holds answers of a model with other classes"


class PredictionWriter(Protocol):
    """Writes rows: of an answer, as `EmotionRecognizer` gives it, or {"path", "error"}."""

    def head(self) -> str:
        """Return what stands before the rows."""

    def line(self, row: Mapping[str, Any]) -> str:
        """Return a row."""

    def foot(self) -> str:
        """Return what stands behind them."""


def sheet(format: str, classes: Sequence[str], longest: int = 40, page: int | None = None) -> PredictionWriter:
    """Return what writes rows in a format.

    Args:
        format: "table" for people, "csv" (a column per class), "json" (a list), "jsonl" (an object a line).
        classes: of the model. longest: terminal cells of the longest path, for a table.
        page: cells of the terminal, for a table: names are shortened to fit in; by default they are not.
    """
    if format == "table":
        return _Table(classes, longest, page or sys.maxsize)
    kinds: dict[str, Callable[[Sequence[str]], PredictionWriter]] = {"csv": _Csv, "json": _Json, "jsonl": _JsonLines}
    return kinds[format](classes)


class _JsonLines:
    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = classes

    def head(self) -> str:
        return ""

    def line(self, row: Mapping[str, Any]) -> str:
        return json.dumps(_rounded(row), ensure_ascii=False, allow_nan=False).translate(_ENDS_OF_LINES) + "\n"

    def foot(self) -> str:
        return ""


class _Json(_JsonLines):
    _first = True

    def head(self) -> str:
        return "["

    def line(self, row: Mapping[str, Any]) -> str:
        before, self._first = "\n" if self._first else ",\n", False
        return before + super().line(row).rstrip("\n")

    def foot(self) -> str:
        return "\n]\n"


class _Csv:
    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = classes

    def head(self) -> str:
        return _csv_line(csv_columns(self.classes))

    def line(self, row: Mapping[str, Any]) -> str:
        told = _rounded(row)
        shares = told.get("scores", {})
        cells = {**told, "path": one_line(told["path"] or ""), "error": one_line(told.get("error", ""))}
        if shares:
            cells |= {"probability": max(shares.values()), "uncertain": str(told["uncertain"]).lower()}
        before, after = [cells.get(name, "") for name in _BEFORE], cells["error"]
        return _csv_line([*before, *(shares.get(name, "") for name in self.classes), after])

    def foot(self) -> str:
        return ""


class _Table:
    """Aligned columns; what is uncertain has a question mark."""

    def __init__(self, classes: Sequence[str], longest: int, page: int) -> None:
        named = max(map(display_width, classes))
        others = [max(named + 2, len("emotion")), len("probability"), max(named + 6, len(_SECOND))]
        room = page - sum(others) - 2 * len(others)
        self.widths = [max(len("file"), min(longest, max(_LEAST_NAME, room))), *others]
        self.page = page

    def head(self) -> str:
        heads = self._row(["file", "emotion", "probability", _SECOND])
        return heads + self._row(["-" * width for width in self.widths])

    def line(self, row: Mapping[str, Any]) -> str:
        name = shortened(printable(row["path"] or MISSING), self.widths[0])
        if "error" in row:
            why = shortened(printable(row["error"]), self.page - self.widths[0] - 4)
            return f"{pad(name, self.widths[0])}  ({why})\n"
        best, *others = sorted(row["scores"].items(), key=lambda item: -item[1])
        second = f"{printable(others[0][0])} {score_text(others[0][1])}" if others else MISSING
        mark = " ?" if row["uncertain"] else ""
        return self._row([name, f"{printable(best[0])}{mark}", score_text(best[1]), second])

    def foot(self) -> str:
        return ""

    def _row(self, cells: Sequence[str]) -> str:
        told = [
            pad(cell, width, place == 2) for place, (cell, width) in enumerate(zip(cells, self.widths, strict=True))
        ]
        return "  ".join(told).rstrip() + "\n"


def csv_columns(classes: Sequence[str]) -> list[str]:
    """Return the heads of a CSV file's columns, for a model of these classes."""
    return [*_BEFORE, *classes, "error"]


def shortened(text: str, cells: int) -> str:
    """Take out a text's middle where it would take more terminal cells: "recordings/2…_final.wav"."""
    if display_width(text) <= cells:
        return text
    room = cells - 1
    head, tail = "", ""
    for sign in text:
        if display_width(head + sign) > room // 2:
            break
        head += sign
    for sign in reversed(text):
        if display_width(sign + tail) > room - display_width(head):
            break
        tail = sign + tail
    return f"{head}…{tail}"


def one_line(text: str) -> str:
    """Write control characters, and bytes of a file's name that are no UTF-8, as backslash escapes."""
    if text.isprintable():
        return text
    return "".join(
        sign.encode("unicode_escape").decode() if unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") else sign
        for sign in text
    )


@dataclass(frozen=True)
class ExistingPredictions:
    """What a file of answers holds.

    Attributes:
        answered: paths with an answer, as `key` has them. failed: those with an error.
    """

    answered: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)


def held(file: Path, format: str, classes: Sequence[str]) -> ExistingPredictions:
    """Return what a file of answers holds; a half-written last line is cut off.

    Args:
        file: that was written in one of the formats `RESUMABLE`. format: which. classes: of the model at hand.

    Raises:
        InputError: it holds something else, or answers of a model with other classes.
    """
    found, whole = ExistingPredictions(), 0
    begin = _csv_line(csv_columns(classes)) if format == "csv" else _BEGIN_JSON
    with file.open("rb") as lines:
        for line in lines:
            try:
                if not whole:
                    _check_begin(line.decode(errors="replace"), begin)
                if not line.endswith(b"\n"):
                    break
                if whole or format != "csv":
                    path, is_error = _READ[format](line.decode(), classes)
                    (found.failed if is_error else found.answered).add(path)
            except InputError as error:
                raise InputError(f"{file}: {error}; name another --out") from None
            except (ValueError, LookupError, TypeError, csv.Error) as error:
                raise InputError(
                    f"{file}: holds something else than answers in {format}; name another --out"
                ) from error
            whole += len(line)
    os.truncate(file, whole)
    return found


def take_errors_out(file: Path, format: str, classes: Sequence[str], failed: Container[str]) -> None:
    """Write a file of answers anew, without the errors of some paths; whenever this is broken off, it is whole.

    Args:
        file: that `held` has read. format: its format. classes: of the model at hand. failed: the paths.
    """
    target = file.resolve()
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with target.open("rb") as lines, partial.open("wb") as kept:
            for place, line in enumerate(lines):
                path, is_error = ("", False) if format == "csv" and not place else _READ[format](line.decode(), classes)
                if not (is_error and path in failed):
                    kept.write(line)
            kept.flush()
            os.fsync(kept.fileno())
        shutil.copymode(target, partial)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def key(path: str, format: str) -> str:
    """Return what stands for a path in a file of answers."""
    return one_line(path) if format == "csv" else path


def _check_begin(line: str, begin: str) -> None:
    """Check that a file's first line, which may be half of one, begins as those of answers do."""
    if line.startswith(begin) or begin.startswith(line):
        return
    if line.startswith(",".join(_BEFORE)):
        raise InputError(_OTHER_CLASSES)
    raise ValueError


def _read_csv(line: str, classes: Sequence[str]) -> tuple[str, bool]:
    """Return a row's path, and whether it holds an error."""
    (row,) = csv.reader([line])
    if len(row) != len(csv_columns(classes)):
        raise ValueError
    return row[0], bool(row[-1])


def _read_json(line: str, classes: Sequence[str]) -> tuple[str, bool]:
    """Return a row's path, and whether it holds an error."""
    row = json.loads(line)
    if "error" not in row and list(row["scores"]) != list(classes):
        raise InputError(_OTHER_CLASSES)
    return str(row["path"]), "error" in row


_READ = {"csv": _read_csv, "jsonl": _read_json}


def _csv_line(cells: Sequence[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


def _rounded(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with no more digits than mean something."""
    told = dict(row)
    if "scores" in row:
        told["scores"] = {name: round(share, 6) for name, share in row["scores"].items()}
        told |= {name: round(row[name], 3) for name in ("duration", "speech")}
    return told
