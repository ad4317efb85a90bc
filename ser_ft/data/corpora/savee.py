"""SAVEE: four men, seven emotions; `DC/a01` (speaker in the folder) and `DC_a01` (flat copy)."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from .base import Corpus, Utterance

_SPEAKERS = ("DC", "JE", "JK", "KL")
_EMOTIONS = {"a": "angry", "d": "disgust", "f": "fear", "h": "happy", "n": "neutral", "sa": "sad", "su": "surprise"}
_CLIP = re.compile(r"(?:(DC|JE|JK|KL)_)?(a|d|f|h|n|sa|su)(\d\d)", re.IGNORECASE | re.ASCII)


def parse(path: PurePosixPath) -> Utterance | None:
    """Parse a clip's name, and its folder's name if the speaker is not in it."""
    match = _CLIP.fullmatch(path.stem)
    if match is None:
        return None
    speaker = (match[1] or path.parent.name).upper()
    if speaker not in _SPEAKERS:
        return None
    clip = f"{match[2].lower()}{match[3]}"
    return Utterance(
        id=f"savee-{speaker}_{clip}",
        speaker=f"savee-{speaker}",
        emotion=_EMOTIONS[match[2].lower()],
        gender="male",
        statement=clip,
    )


CORPUS = Corpus(
    name="savee",
    title="Surrey Audio-Visual Expressed Emotion database",
    emotions=("neutral", "happy", "sad", "angry", "fear", "disgust", "surprise"),
    license="other",
    terms="research only, on registration",
    citation=(
        "Haq S, Jackson PJB (2010). Multimodal Emotion Recognition. In: Wang W (ed), Machine Audition: Principles, "
        "Algorithms and Systems, IGI Global, 398-423"
    ),
    source="http://kahlan.eps.surrey.ac.uk/savee/ (register, then `Download`)",
    parse=parse,
)
