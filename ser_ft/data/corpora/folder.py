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
METADATA_COLUMNS = ("speaker", "gender", "age", "intensity", "statement", "language")
_GENDERS = {"f": "female", "female": "female", "woman": "female", "m": "male", "male": "male", "man": "male"}


def user_corpus(name: str, parse: Callable[[PurePosixPath], Utterance | None] = lambda _: None) -> Corpus:
    """Describe a corpus of the user's own recordings; by default without a parser, if a table describes the clips."""
    return Corpus(
        name=name,
        title=name,
        emotions=(),
        license="other",
        terms="your own data: its terms are yours to know",
        citation="",
        source="your own data",
        parse=parse,
    )


def user_utterance(name: str, clip: str, cells: Mapping[str, Any], location: str) -> Utterance:
    """Describe a clip of the corpus `name` by a table's cells: emotion, and those of `METADATA_COLUMNS` it has."""
    texts = {key: "" if value is None or value != value else str(value).strip() for key, value in cells.items()}
    try:
        age = int(float(texts["age"])) if texts.get("age") else None
    except (ValueError, OverflowError) as error:
        raise InputError(f"{location}: age is {texts['age']!r}, not a number of years") from error
    return Utterance(
        id=f"{name}-{clip}",
        speaker=f"{name}-{texts.get('speaker') or UNKNOWN_SPEAKER}",
        emotion=texts["emotion"],
        gender=_GENDERS.get(texts.get("gender", "").lower()),
        age=age,
        intensity=texts.get("intensity") or None,
        statement=texts.get("statement") or None,
        language=texts.get("language") or None,
    )


def folder_parser(name: str, is_label: Callable[[str], bool]) -> Callable[[PurePosixPath], Utterance | None]:
    """Make a parser of `EMOTION/clip`, `EMOTION/SPEAKER/clip` and `SPEAKER/EMOTION/clip`.

    If the name of no folder above a clip is a label, the clip's own folder is its label; the label scheme does not have
    it, and the clip is listed as skipped.
    """

    def parse(path: PurePosixPath) -> Utterance | None:
        folders = path.parts[:-1]
        if not folders:
            return None
        label = next((index for index in reversed(range(len(folders))) if is_label(folders[index])), len(folders) - 1)
        speakers = folders[label + 1 :] or folders[max(0, label - 1) : label]
        return Utterance(
            id=f"{name}-{'/'.join((*folders, path.stem))}",
            speaker=f"{name}-{speakers[0] if speakers else UNKNOWN_SPEAKER}",
            emotion=folders[label],
            language=None,
        )

    return parse


def read_manifest(table: bytes, name: str, file: str) -> Iterator[tuple[str, Utterance | Skip]]:
    """Read a CSV manifest with the columns path and emotion, and optionally speaker, gender, age, intensity, ...

    Yields a clip's path in the manifest and its utterance; or a line's number and the reason for skipping it. `table`
    is the content of `file`, `name` the corpus.
    """
    try:
        reader = csv.DictReader(io.StringIO(table.decode("utf-8-sig"), newline=""))
        columns = {column.strip().lower(): column for column in reader.fieldnames or ()}
        rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file}: not a CSV file in UTF-8 ({error})") from error
    missing = " and ".join(column for column in ("path", "emotion") if column not in columns)
    if missing:
        raise InputError(
            f"{file}: no column {missing}: a manifest needs the columns path and emotion, and should have speaker"
        )
    for number, row in enumerate(rows, start=2):
        cells = {key: row[columns[key]] or "" for key in ("path", "emotion", *METADATA_COLUMNS) if key in columns}
        path, location = cells.pop("path").strip(), f"{file}, line {number}"
        if not path and not any(cells.values()):
            continue
        if not path or not cells["emotion"].strip():
            yield location, Skip("incomplete", "no path" if not path else f"no emotion for {path}")
            continue
        clip = posixpath.splitext(posixpath.normpath(path.replace("\\", "/")))[0].strip("/")
        yield path, user_utterance(name, clip, cells, location)
