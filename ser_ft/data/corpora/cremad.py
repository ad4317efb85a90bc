"""CREMA-D: 91 actors, six emotions, twelve sentences; `ACTOR_SENTENCE_EMOTION_LEVEL`."""

from __future__ import annotations

import csv
import io
import re
from pathlib import PurePosixPath

from ...utils.errors import InputError
from .base import Corpus, Download, Skip, Utterance

_NAME = re.compile(r"(10\d\d)_([A-Z]{3})_(NEU|HAP|SAD|ANG|FEA|DIS)_(XX?|LO|MD|HI)", re.IGNORECASE | re.ASCII)
_EMOTIONS = {"NEU": "neutral", "HAP": "happy", "SAD": "sad", "ANG": "angry", "FEA": "fear", "DIS": "disgust"}
_LEVELS = {"LO": "low", "MD": "medium", "HI": "high"}
_SENTENCES = {
    "IEO": "It's eleven o'clock",
    "TIE": "That is exactly what happened",
    "IOM": "I'm on my way to the meeting",
    "IWW": "I wonder what this is about",
    "TAI": "The airplane is almost full",
    "MTI": "Maybe tomorrow it will be cold",
    "IWL": "I would like a new alarm clock",
    "ITH": "I think I have a doctor's appointment",
    "DFA": "Don't forget a jacket",
    "ITS": "I think I've seen this before",
    "TSI": "The surface is slick",
    "WSI": "We'll stop in a couple of minutes",
}
# Actors 1001 to 1091 in order (VideoDemographics.csv of the corpus).
_GENDERS = "MFFFMFFFFFMFFMMMMFMFFMMFFMMFFFMMMMMMFMMMMMFMMFFMFMMFFFFFMFMFFMFMMMMMMMMFFFFFMFFMMFMFMMMMFMF"
_AGES = (
    "51 21 21 42 29 58 38 46 24 27 32 23 22 24 32 61 42 25 29 61 30 22 22 59 48 33 44 57 33 42 31 30 31 74 48 49 45 21 "
    "51 42 42 37 25 40 22 22 22 38 25 62 56 33 35 36 57 52 25 36 21 28 51 56 33 53 38 25 66 34 27 25 41 33 24 31 40 25 "
    "20 21 21 21 30 20 45 46 34 33 62 23 24 50 29"
).split()
_SILENT = "1076_MTI_SAD_XX"
# Distributed twice, byte for byte, under two labels.
_TWO_LABELS = frozenset(
    f"{stem}_{emotion}_XX"
    for stem, pair in (("1006_TIE", ("HAP", "NEU")), ("1013_WSI", ("DIS", "SAD")), ("1017_IWW", ("ANG", "FEA")))
    for emotion in pair
)
_REPOSITORY = "CheyneyComputerScience/CREMA-D"
_TABLES = f"https://raw.githubusercontent.com/{_REPOSITORY}/master"
_SOUND = f"https://media.githubusercontent.com/media/{_REPOSITORY}/master"  # git-LFS objects
_VOTES = {"N": "neutral", "H": "happy", "S": "sad", "A": "angry", "F": "fear", "D": "disgust"}


def parse(path: PurePosixPath) -> Utterance | None:
    """Parse a clip's name. The seven clips that are silent or have two labels are excluded."""
    match = _NAME.fullmatch(path.stem)
    if match is None or not 1001 <= int(match[1]) <= 1091:
        return None
    actor, sentence, emotion, level = (part.upper() for part in match.groups())
    clip = f"{actor}_{sentence}_{emotion}_{'XX' if level == 'X' else level}"
    if clip == _SILENT:
        raise Skip("known-bad", "silent as distributed")
    if clip in _TWO_LABELS:
        raise Skip("known-bad", "distributed under two labels")
    index = int(actor) - 1001
    return Utterance(
        id=f"cremad-{clip}",
        speaker=f"cremad-{actor}",
        emotion=_EMOTIONS[emotion],
        gender="male" if _GENDERS[index] == "M" else "female",
        age=int(_AGES[index]),
        intensity=_LEVELS.get(level),
        statement=_SENTENCES.get(sentence, sentence),
    )


def provenance(path: PurePosixPath) -> str | None:
    """Return a note on audio that is not the corpus's original: that is WAV and MP3, never Ogg."""
    return "CREMA-D, rebuilt audio" if path.suffix.lower() in (".ogg", ".opus") else None


def parse_list(table: bytes) -> tuple[Download, ...]:
    """Parse the list of clips in the corpus's SentenceFilenames.csv."""
    rows = csv.DictReader(io.StringIO(table.decode("utf-8", errors="replace")))
    names = [row.get("Filename") or "" for row in rows]
    if not names or not all(_NAME.fullmatch(name) for name in names):
        raise InputError("SentenceFilenames.csv: not CREMA-D's list of clips")
    files = [f"AudioWAV/{name}.wav" for name in names]
    return tuple(Download(url=f"{_SOUND}/{file}", file=file) for file in files)


def read_votes(table: bytes, name: str) -> dict[str, dict[str, float]]:
    """Read the listeners' votes on the voice alone.

    `table` is the corpus's processedResults/tabulatedVotes.csv (all votes; rows 100001 to 199999 are on the voice
    alone) or summaryTable.csv (VoiceVote: the winning label, ties joined by ":"). Returns utterance id -> fraction of
    the votes by emotion, with the sum 1. In a tie of summaryTable.csv, all labels have the same fraction.
    """
    rows = list(csv.DictReader(io.StringIO(table.decode("utf-8", errors="replace"), newline="")))
    votes: dict[str, dict[str, float]] = {}
    try:
        if rows and {"", "fileName", *_VOTES} <= rows[0].keys():
            for row in rows:
                if int(float(row[""])) // 100_000 == 1:
                    counts = {emotion: float(row[code] or 0) for code, emotion in _VOTES.items()}
                    _add_votes(votes, row["fileName"], counts)
        elif rows and {"FileName", "VoiceVote"} <= rows[0].keys():
            for row in rows:
                winners = [_VOTES[code] for code in row["VoiceVote"].split(":") if code in _VOTES]
                _add_votes(votes, row["FileName"], dict.fromkeys(winners, 1.0))
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{name}: a line is broken ({error})") from error
    if not votes:
        raise InputError(f"{name}: not CREMA-D's tabulatedVotes.csv or summaryTable.csv (it has no votes on the voice)")
    return votes


def _add_votes(votes: dict[str, dict[str, float]], clip: str, counts: dict[str, float]) -> None:
    total = sum(counts.values())
    if total:
        stem = clip.strip().upper()
        stem += "X" if stem.endswith("_X") else ""
        votes[f"cremad-{stem}"] = {emotion: count / total for emotion, count in counts.items() if count}


CORPUS = Corpus(
    name="cremad",
    title="Crowd-sourced Emotional Multimodal Actors Dataset",
    emotions=tuple(_EMOTIONS.values()),
    license="ODbL-1.0",
    terms="ODbL 1.0, contents DbCL 1.0: attribution; share alike for the database",
    citation=(
        "Cao H, Cooper DG, Keutmann MK, Gur RC, Nenkova A, Verma R (2014). CREMA-D: Crowd-sourced Emotional Multimodal "
        "Actors Dataset. IEEE Transactions on Affective Computing 5(4), 377-390. https://doi.org/10.1109/TAFFC.2014.2336244"
    ),
    source=f"https://github.com/{_REPOSITORY} (`git lfs install`, then `git clone`; the sound is in AudioWAV)",
    parse=parse,
    downloads=(
        Download(
            url=f"{_TABLES}/SentenceFilenames.csv",
            file="SentenceFilenames.csv",
            megabytes=606,
            parse_list=parse_list,
            # Over the 7442 clips; git-LFS names each clip's object by its sha256.
            sha256="25423a2215ded4d0ab859749d980a2faf5d26b9e78d6cf9b6aa15e00609deffc",
        ),
        Download(url=f"{_TABLES}/VideoDemographics.csv", file="VideoDemographics.csv"),
        Download(url=f"{_TABLES}/processedResults/summaryTable.csv", file="processedResults/summaryTable.csv"),
        Download(url=f"{_TABLES}/processedResults/tabulatedVotes.csv", file="processedResults/tabulatedVotes.csv"),
    ),
)
