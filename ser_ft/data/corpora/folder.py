"""The user's own recordings: a folder per emotion, or a CSV manifest."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath

from ...errors import InputError
from .base import Corpus, Utterance

UNKNOWN_SPEAKER = "unknown"
_OPTIONAL = ("speaker", "gender", "age", "intensity", "statement", "language")
_GENDERS = {"f": "female", "female": "female", "woman": "female", "m": "male", "male": "male", "man": "male"}


def own_corpus(name: str, parse: Callable[[PurePosixPath], Utterance | None]) -> Corpus:
    """Describe a corpus of the user's own; what it can hold follows from what is found in it."""
    return Corpus(
        name=name,
        title=name,
        emotions=(),
        licence="other",
        terms="your own data: its terms are yours to know",
        citation="",
        get="your own data",
        parse=parse,
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
            id=f"{name}-{'_'.join((*folders, path.stem))}",
            speaker=f"{name}-{others[0] if others else UNKNOWN_SPEAKER}",
            emotion=folders[place],
            language=None,
        )

    return parse


def read_manifest(table: bytes, name: str, file: str) -> Iterator[tuple[str, Utterance]]:
    """Read a CSV manifest: columns path and emotion, and, where known, speaker, gender, age, intensity, ...

    Args:
        table: the file's bytes. name: the corpus's name. file: the manifest's name, for errors.

    Yields:
        A clip's path as it stands in the manifest, and its utterance.

    Raises:
        InputError: it is no UTF-8 CSV, or a column or a value that must be there is missing.
    """
    try:
        reader = csv.DictReader(io.StringIO(table.decode("utf-8-sig")))
        columns = {column.strip().lower(): column for column in reader.fieldnames or ()}
        rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file}: not a CSV file in UTF-8 ({error})") from error
    missing = [column for column in ("path", "emotion") if column not in columns]
    if missing:
        raise InputError(f"{file}: no column {' and '.join(missing)}: a manifest needs path and emotion, and wants speaker")
    for number, row in enumerate(rows, start=2):
        cell = {column: (row[columns[column]] or "").strip() for column in ("path", "emotion", *_OPTIONAL) if column in columns}
        if not cell["path"] or not cell["emotion"]:
            raise InputError(f"{file}, line {number}: path or emotion is empty")
        age = cell.get("age", "")
        if age and not age.isdigit():
            raise InputError(f"{file}, line {number}: age is {age!r}, not a whole number of years")
        yield (
            cell["path"],
            Utterance(
                id=f"{name}-{PurePosixPath(cell['path'].replace(chr(92), '/')).with_suffix('').as_posix().strip('/').replace('/', '_')}",
                speaker=f"{name}-{cell.get('speaker') or UNKNOWN_SPEAKER}",
                emotion=cell["emotion"],
                gender=_GENDERS.get(cell.get("gender", "").lower()),
                age=int(age) if age else None,
                intensity=cell.get("intensity") or None,
                statement=cell.get("statement") or None,
                language=cell.get("language") or None,
            ),
        )
