"""RAVDESS: 24 actors, eight emotions, two statements; `03-01-EMOTION-INTENSITY-STATEMENT-REPETITION-ACTOR`."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from .base import Corpus, Download, Skip, Utterance

_NAME = re.compile(r"(\d\d)-(\d\d)-(0[1-8])-(0[12])-(0[12])-(0[12])-([01]\d|2[0-4])", re.ASCII)
_EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fear", "disgust", "surprise")
_INTENSITIES = {"01": "normal", "02": "strong"}
_STATEMENTS = {"01": "Kids are talking by the door", "02": "Dogs are sitting by the door"}


def parse(path: PurePosixPath) -> Utterance | None:
    """Parse a clip's name. Song (vocal channel 02) is parsed too; video (modality 01, 02) is excluded.

    The modality is read from the name, not from the container.
    """
    match = _NAME.fullmatch(path.stem)
    if match is None or match[7] == "00":
        return None
    modality, channel, emotion, intensity, statement, _, actor = match.groups()
    if modality != "03" or channel not in ("01", "02"):
        raise Skip("other-recording", f"modality {modality}, vocal channel {channel}: only 03-01 is audio-only speech")
    return Utterance(
        id=f"ravdess-{path.stem}",
        speaker=f"ravdess-{actor}",
        emotion=_EMOTIONS[int(emotion) - 1],
        gender="male" if int(actor) % 2 else "female",
        intensity=_INTENSITIES[intensity],
        statement=_STATEMENTS[statement],
    )


def is_song(utterance: Utterance) -> bool:
    """Return whether an utterance of this corpus is sung."""
    return utterance.id.startswith("ravdess-03-02-")


CORPUS = Corpus(
    name="ravdess",
    title="Ryerson Audio-Visual Database of Emotional Speech and Song",
    emotions=_EMOTIONS,
    license="CC-BY-NC-SA-4.0",
    terms="non-commercial; share alike; name the authors",
    citation=(
        "Livingstone SR, Russo FA (2018). The Ryerson Audio-Visual Database of Emotional Speech and Song (RAVDESS). "
        "PLoS ONE 13(5): e0196391. https://doi.org/10.1371/journal.pone.0196391"
    ),
    source="https://zenodo.org/records/1188976 (Audio_Speech_Actors_01-24.zip, 208 MB)",
    parse=parse,
    downloads=(
        Download(
            url="https://zenodo.org/records/1188976/files/Audio_Speech_Actors_01-24.zip?download=1",
            file="Audio_Speech_Actors_01-24.zip",
            md5="bc696df654c87fed845eb13823edef8a",
            megabytes=208,
        ),
    ),
)
