"""Text for terminals, reports and CSV files: numbers, counts, aligned tables, and names that cannot do harm."""

from __future__ import annotations

import csv
import io
import math
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from typing import IO, Any

MISSING = "-"
"""What tables show for a value that does not exist."""
_SHORT_ESCAPES = {"\t": "\\t", "\n": "\\n", "\r": "\\r"}
_CONTROL_CHARACTERS = (
    *(range(0x20), range(0x7F, 0xA0), range(0x2028, 0x202F), range(0xD800, 0xE000)),
    *(range(0x2066, 0x206A), range(0x200E, 0x2010), range(0x61C, 0x61D)),
)
"""What terminals obey, what ends a line, what reverses the text after it, and bytes that are not valid text."""
_ESCAPES = {code: _SHORT_ESCAPES.get(chr(code), f"\\u{code:04x}") for codes in _CONTROL_CHARACTERS for code in codes}
_ESCAPES_WITHIN_LINES = {code: escape for code, escape in _ESCAPES.items() if code != ord("\n")}
_NOT_IN_FILE_NAMES = frozenset('/\\:*?"<>|')
_FORMULA_STARTS = tuple("=+-@＝＋－＠")
_HEADINGS = {"uar": "UAR", "macro_f1": "macro F1", "ece": "ECE", "nll": "NLL"}


def nfc(name: str) -> str:
    """Return a name in Unicode NFC: macOS writes "ö" as two characters (NFD), other systems as one."""
    return unicodedata.normalize("NFC", name)


def fold(name: str) -> str:
    """Return the form in which names are compared: NFC, in lower case, without spaces at the ends."""
    return nfc(nfc(name).strip().casefold())


def text_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], right: Collection[str] = ()) -> str:
    """Return rows as an aligned monospace table: numbers, and the columns named in `right`, are aligned to the right.

    The column "interval" is made from "low" and "high"; "notes" shows the short form of each note.
    """
    cells = [[_cell(row, column) for column in columns] for row in rows]
    headings = [printable(column_heading(column)) for column in columns]
    widths = [max(map(display_width, column)) for column in zip(headings, *cells, strict=True)]
    to_right = [column in right or _is_numeric(column, [row.get(column) for row in rows]) for column in columns]
    lines = [headings, ["-" * width for width in widths], *cells]
    return "\n".join("  ".join(map(pad, line, widths, to_right)).rstrip() for line in lines)


def column_heading(column: str) -> str:
    """Return the heading of a column: "UAR" for "uar", "std folds" for "std_folds"."""
    return _HEADINGS.get(column, column.replace("_", " "))


def count_text(number: int, noun: str) -> str:
    """Return a count with its noun: "1 clip", "1,440 clips"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def score_text(value: float | None) -> str:
    """Return a score with three decimals, or "-" if it does not exist."""
    return MISSING if value is None or not math.isfinite(value) else f"{value:.3f}"


def interval_text(low: float | None, high: float | None) -> str:
    """Return an interval: "0.412 to 0.530", or "-" if it does not exist."""
    return MISSING if low is None or high is None else f"{low:.3f} to {high:.3f}"


def size_text(parameters: int) -> str:
    """Return a number of parameters: "98 k", "0.31 M", "94.6 M", "1.6 G"."""
    if parameters < 1e5:
        return f"{parameters / 1e3:.3g} k"
    return f"{parameters / 1e6:.3g} M" if parameters < 1e9 else f"{parameters / 1e9:.3g} G"


def time_text(seconds: float) -> str:
    """Return a duration: "45 s", "4.6 min", "2.1 h"."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 3600 else f"{seconds / 3600:.3g} h"


def short_note(note: str) -> str:
    """Cut a note at its first colon or bracket: "synthetic voices", "leaking split", "CREMA-D, rebuilt audio"."""
    return note.partition(":")[0].partition(" (")[0]


def printable(text: str, keep_lines: bool = False) -> str:
    r"""Write control characters as escapes, "\u001b": names chosen by others must not control the terminal.

    The escapes are those of JSON. With `keep_lines`, line feeds are left as they are.
    """
    return text.translate(_ESCAPES_WITHIN_LINES if keep_lines else _ESCAPES)


def file_name(name: str) -> str:
    """Return a name chosen by others as a part of the name of a file: without separators and control characters."""
    return "".join("_" if ord(sign) in _ESCAPES or sign in _NOT_IN_FILE_NAMES else sign for sign in name)


def print_text(text: object = "", file: IO[str] | None = None, flush: bool = False) -> None:
    """Print text of one or several lines, with control characters as escapes."""
    print(printable(str(text), keep_lines=True), file=file, flush=flush)


def csv_line(cells: Sequence[Any]) -> str:
    """Return cells as a line of CSV that is safe in a spreadsheet.

    Control characters are written as escapes. Text that a spreadsheet would take for a formula, because it begins with
    = + - or @, gets an apostrophe in front (OWASP, "CSV Injection"); numbers are written as they are.
    """
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(map(_csv_cell, cells))
    return line.getvalue()


def restore_csv_cell(cell: str) -> str:
    """Remove the apostrophe that `csv_line` has put in front of a cell."""
    return cell[1:] if cell.startswith("'") and _is_formula(cell) else cell


def display_width(text: str) -> int:
    """Return the number of terminal cells: wide characters take two, combining ones none."""
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )


def pad(text: str, width: int, right: bool = False) -> str:
    """Fill a text with spaces up to a width in terminal cells, aligned to the left or to the right."""
    spaces = " " * (width - display_width(text))
    return spaces + text if right else text + spaces


def _csv_cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = printable(value)  # without tabs and carriage returns, after which spreadsheets look for formulas too
    return f"'{text}" if _is_formula(text) else text


def _is_formula(text: str) -> bool:
    # Apostrophes are skipped to distinguish those of the text from added ones.
    return text.lstrip("'").startswith(_FORMULA_STARTS)


def _cell(row: Mapping[str, Any], column: str) -> str:
    if column == "interval":
        return interval_text(row.get("low"), row.get("high"))
    value = row.get(column)
    if column == "notes" and value:
        return printable("; ".join(map(short_note, value)))
    if value is None or value == []:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return score_text(value)
    if isinstance(value, list | tuple):
        return printable("; ".join(map(str, value)))
    return printable(str(value))


def _is_numeric(column: str, values: Sequence[Any]) -> bool:
    known = [value for value in values if value is not None]
    return column == "interval" or (bool(known) and all(isinstance(value, int | float) for value in known))
