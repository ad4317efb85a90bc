"""Reads the tables in which users list their recordings, as spreadsheets and other tools write them."""

from __future__ import annotations

import codecs
import csv
import io
import posixpath
import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

from ...utils.errors import InputError
from ...utils.text import fold, printable
from .base import Skip, Utterance
from .folder import METADATA_COLUMNS, user_utterance

_SEPARATORS = ",;\t|"
# Names of our columns in tables: the first one that a table has is read. file_name and label are those of audiofolder
# in `datasets`; client_id, sentence and locale those of Common Voice.
_COLUMN_NAMES = {
    "path": ("path", "file_name", "filename", "file", "file_path", "filepath"),
    "emotion": ("emotion", "label"),
    **{name: (name,) for name in METADATA_COLUMNS},
    "speaker": ("speaker", "speaker_id", "client_id"),
    "gender": ("gender", "sex"),
    "statement": ("statement", "sentence", "transcription", "transcript"),
    "language": ("language", "locale"),
}
_KNOWN_NAMES = frozenset(name for names in _COLUMN_NAMES.values() for name in names)


class ManifestRow(NamedTuple):
    """A line of a manifest: the path that it names, and the clip, or the reason for skipping the line."""

    line: int
    path: str
    clip: Utterance | Skip


class _Table(NamedTuple):
    columns: dict[str, int]  # our name -> index
    num_columns: int
    separator: str
    rows: list[tuple[int, list[str]]]  # number of the line, cells


def read_manifest(table: bytes, name: str, file: str, folder: str = "") -> Iterator[ManifestRow]:
    """Read a manifest with columns for path and emotion, and optionally for speaker, gender, age, intensity, ...

    The table is text in UTF-8, or UTF-16 with a byte order mark; its cells are separated by commas, semicolons, tabs
    or vertical bars.

    Args:
        table: the content of `file`.
        name: the name of the corpus.
        folder: a path to put before the paths in the ids of clips.

    Raises:
        InputError: it is not such a table.
    """
    columns, num_columns, separator, rows = _parse(table, file)
    for line, cells in rows:
        values = {key: cells[index] if index < len(cells) else "" for key, index in columns.items()}
        path, emotion = values.pop("path"), values["emotion"]
        if not path and not any(values.values()):
            continue
        if any(cells[num_columns:]):
            advice = f"put quotation marks around texts that contain {separator!r}"
            yield ManifestRow(line, path, Skip("incomplete", f"more cells than columns: {advice}"))
        elif not path or not emotion:
            yield ManifestRow(line, path, Skip("incomplete", f"no emotion for {path}" if path else "no path"))
        else:
            clip = posixpath.splitext(posixpath.normpath(posixpath.join(folder, path.replace("\\", "/"))))[0].strip("/")
            yield ManifestRow(line, path, user_utterance(name, clip, values, f"{file}, line {line}"))


def check_manifest(table: bytes, file: str) -> None:
    """Raise `InputError` if a table is not a manifest."""
    _parse(table, file)


def _parse(table: bytes, file: str) -> _Table:
    text = _decode(table, file)
    separator = _find_separator(text)
    rows: list[tuple[int, list[str]]] = []
    try:
        rows.extend(_rows(text, separator))
    except csv.Error as error:
        if separator != "\t":
            line = rows[-1][0] + 1 if rows else 1
            raise InputError(f"{file}, line {line}: a quotation mark is missing or misplaced ({error})") from error
        rows = list(_rows(text, separator, csv.QUOTE_NONE))
    if rows and _is_separator_line(separator.join(rows[0][1])):
        del rows[0]
    header = rows.pop(0)[1] if rows else []
    names = list(map(_column_name, header))
    columns: dict[str, int] = {}
    for ours, theirs in _COLUMN_NAMES.items():
        found = next((name for name in theirs if name in names), None)
        if found is not None:
            if names.count(found) > 1:
                raise InputError(f"{file}: two columns are called {found}")
            columns[ours] = names.index(found)
    if missing := " and ".join(column for column in ("path", "emotion") if column not in columns):
        start = f"its first line is {printable(separator.join(header))[:200]!r}" if header else "it is empty"
        raise InputError(
            f"{file}: no column {missing}: a manifest needs the columns path (or file_name) and emotion (or label), "
            f"and should have speaker; {start}"
        )
    return _Table(columns, len(header), separator, rows)


def _decode(table: bytes, file: str) -> str:
    is_utf16 = table.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = table.decode("utf-16" if is_utf16 else "utf-8-sig")
        line = text[: text.index("\0")].count("\n") + 1 if "\0" in text else 0
    except UnicodeDecodeError as error:
        line = table[: error.start].count(b"\n") + 1
    if line:
        advice = (
            "save it as UTF-8 (in Excel: Save As, CSV UTF-8; in LibreOffice: Edit filter settings, Unicode (UTF-8))"
        )
        raise InputError(f"{file}: line {line} is not text in UTF-8: {advice}")
    return text


def _find_separator(text: str) -> str:
    """Return the separator with which the first line of the table has most of the known names of columns."""
    lines = (line for line in io.StringIO(text, newline="") if line.strip(f'" \r\n{_SEPARATORS}'))
    header = next((line for line in lines if not _is_separator_line(line)), "")

    def num_known(separator: str) -> int:
        return sum(_column_name(cell.strip(' "\r\n')) in _KNOWN_NAMES for cell in header.split(separator))

    return max(_SEPARATORS, key=num_known)


def _is_separator_line(line: str) -> bool:
    """Return whether a line tells Excel the separator, as in "sep=;"."""
    return re.fullmatch(r'"?sep=.?"?\s*', line) is not None


def _column_name(cell: str) -> str:
    return re.sub(r"[\s-]+", "_", fold(cell))


def _rows(text: str, separator: str, quoting: Literal[0, 3] = csv.QUOTE_MINIMAL) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the cells of each line that has text."""
    # Without `strict`, a quotation mark that is never closed would swallow all lines after it.
    lines = io.StringIO(text, newline="")
    reader = csv.reader(lines, delimiter=separator, quoting=quoting, skipinitialspace=True, strict=True)
    for cells in reader:
        if any(cell.strip() for cell in cells):
            yield reader.line_num, [cell.strip() for cell in cells]
