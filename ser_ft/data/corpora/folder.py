"""The user's own recordings: a folder per emotion, or the cells of a table."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any

from ...labels import same_emotion
from ...utils.errors import InputError
from ...utils.text import fold, nfc
from .base import Corpus, Skip, Utterance
from .folder_names import gender_of, speaker_of

UNKNOWN_SPEAKER = "unknown"
METADATA_COLUMNS = ("speaker", "gender", "age", "intensity", "statement", "language")
_GENDERS = {
    **dict.fromkeys(
        "f w female woman weiblich frau femme mujer donna femenino femminile female_feminine".split(), "female"
    ),
    **dict.fromkeys(
        "m male man männlich mann homme hombre uomo masculin masculino maschile male_masculine".split(), "male"
    ),
}
# Numbers that tools such as pandas write as 3.0, because the column also has empty cells.
_WHOLE_NUMBER = re.compile(r"^(-?\d+)\.0+$")


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
    texts = {key: "" if value is None or value != value else nfc(str(value)).strip() for key, value in cells.items()}
    for key in ("emotion", "speaker"):
        texts[key] = _WHOLE_NUMBER.sub(r"\1", texts.get(key, ""))
    try:
        age = int(float(texts["age"].replace(",", "."))) if texts.get("age") else None
    except (ValueError, OverflowError) as error:
        advice = "correct it, or give the column another name"
        raise InputError(f"{location}: age is {texts['age']!r}, not a number of years: {advice}") from error
    return Utterance(
        id=f"{name}-{nfc(clip)}",
        speaker=f"{name}-{texts['speaker'] or UNKNOWN_SPEAKER}",
        emotion=texts["emotion"],
        gender=_GENDERS.get(fold(texts.get("gender", ""))),
        age=age,
        intensity=texts.get("intensity") or None,
        statement=texts.get("statement") or None,
        language=texts.get("language") or None,
    )


def folder_parser(name: str, is_label: Callable[[str], bool]) -> Callable[[PurePosixPath], Utterance | None]:
    """Make a parser of `EMOTION/clip`, `EMOTION/SPEAKER/clip` and `SPEAKER/EMOTION/clip`.

    If the name of no folder above a clip is a label, the clip's own folder is its label; the label scheme does not have
    it, and the clip is listed as skipped. So is a clip below two emotions, as in `sad/Joy/clip`. Folders such as
    `train`, `female` and `audio` may lie anywhere, and name no speaker.
    """

    def parse(path: PurePosixPath) -> Utterance | None:
        path = PurePosixPath(nfc(str(path)))
        folders = path.parts[:-1]
        if not folders:
            return None
        labels = [folder for folder in folders if is_label(folder)]
        if other := next((folder for folder in labels if not same_emotion(folder, labels[-1])), None):
            raise Skip("two-labels", f"the folders {other!r} and {labels[-1]!r} are both emotions: rename one")
        label = next((index for index in reversed(range(len(folders))) if is_label(folders[index])), len(folders) - 1)
        others = folders[:label] + folders[label + 1 :]
        return Utterance(
            id=f"{name}-{'/'.join((*folders, path.stem))}",
            speaker=f"{name}-{speaker_of(folders, label) or UNKNOWN_SPEAKER}",
            emotion=folders[label],
            gender=gender_of(others),
            language=None,
        )

    return parse
