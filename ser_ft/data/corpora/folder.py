"""The user's own recordings: a folder per emotion, a CSV manifest, or the columns of a table."""

from __future__ import annotations

import csv
import io
import posixpath
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from ...utils.errors import InputError
from .base import Corpus, Skip, Utterance

UNKNOWN_SPEAKER = "unknown"
FACTS = ("speaker", "gender", "age", "intensity", "statement", "language")
_GENDERS = {"f": "female", "female": "female", "woman": "female", "m": "male", "male": "male", "man": "male"}


def _by_table(_path: PurePosixPath) -> Utterance | None:
    """Tell nothing from a name: a table describes the clips."""
    return None


def own_corpus(name: str, parse: Callable[[PurePosixPath], Utterance | None] = _by_table) -> Corpus:
    """Describe a corpus of the user's own; what it can hold follows from what is found in it."""
    return Corpus(
        name=name,
        title=name,
        emotions=(),
        license="other",
        terms="your own data: its terms are yours to know",
        citation="",
        get="your own data",
        parse=parse,
    )


def own_utterance(name: str, clip: str, cells: Mapping[str, Any], where: str) -> Utterance:
    """Describe a clip by the cells of a table's row.

    Args:
        name: the corpus's name. clip: the clip's, unique in the corpus.
        cells: emotion, and what there is of `FACTS`. where: which row it is, for errors.

    Raises:
        InputError: the age is no number of years.
    """
    said = {key: "" if value is None or value != value else str(value).strip() for key, value in cells.items()}
    try:
        age = int(float(said["age"])) if said.get("age") else None
    except (ValueError, OverflowError) as error:
        raise InputError(f"{where}: age is {said['age']!r}, not a number of years") from error
    return Utterance(
        id=f"{name}-{clip}",
        speaker=f"{name}-{said.get('speaker') or UNKNOWN_SPEAKER}",
        emotion=said["emotion"],
        gender=_GENDERS.get(said.get("gender", "").lower()),
        age=age,
        intensity=said.get("intensity") or None,
        statement=said.get("statement") or None,
        language=said.get("language") or None,
    )


def folder_parser(name: str, is_label: Callable[[str], bool]) -> Callable[[PurePosixPath], Utterance | None]:
    """Make the parser for a folder per emotion: `EMOTION/clip`, `EMOTION/SPEAKER/clip` or `SPEAKER/EMOTION/clip`.

    Args:
        name: the corpus's name.
        is_label: says whether a folder's name is an emotion; where none above the clip is one, the clip's own folder
            is taken as the label, which then has no place in the scheme and is listed.
    """

    def parse(path: PurePosixPath) -> Utterance | None:
        folders = path.parts[:-1]
        if not folders:
            return None
        place = next((at for at in reversed(range(len(folders))) if is_label(folders[at])), len(folders) - 1)
        others = folders[place + 1 :] or folders[max(0, place - 1) : place]
        return Utterance(
            id=f"{name}-{'/'.join((*folders, path.stem))}",
            speaker=f"{name}-{others[0] if others else UNKNOWN_SPEAKER}",
            emotion=folders[place],
            language=None,
        )

    return parse


def read_manifest(table: bytes, name: str, file: str) -> Iterator[tuple[str, Utterance | Skip]]:
    """Read a CSV manifest: columns path and emotion, and, where known, speaker, gender, age, intensity, ...

    Args:
        table: the file's bytes. name: the corpus's name. file: the manifest's name, for errors.

    Yields:
        A clip's path as it stands in the manifest, and its utterance; or the line and why it is left out.

    Raises:
        InputError: it is no UTF-8 CSV, a column that must be there is missing, or an age is no number.
    """
    try:
        reader = csv.DictReader(io.StringIO(table.decode("utf-8-sig"), newline=""))
        columns = {column.strip().lower(): column for column in reader.fieldnames or ()}
        rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file}: not a CSV file in UTF-8 ({error})") from error
    missing = [column for column in ("path", "emotion") if column not in columns]
    if missing:
        lacks = " and ".join(missing)
        raise InputError(f"{file}: no column {lacks}: a manifest needs path and emotion, and wants speaker")
    for number, row in enumerate(rows, start=2):
        cells = {key: row[columns[key]] or "" for key in ("path", "emotion", *FACTS) if key in columns}
        path, where = cells.pop("path").strip(), f"{file}, line {number}"
        if not path and not any(cells.values()):
            continue
        if not path or not cells["emotion"].strip():
            yield where, Skip("incomplete", "no path" if not path else f"no emotion for {path}")
            continue
        clip = posixpath.splitext(posixpath.normpath(path.replace("\\", "/")))[0].strip("/")
        yield path, own_utterance(name, clip, cells, where)
