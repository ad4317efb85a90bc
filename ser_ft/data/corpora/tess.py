"""TESS: two talkers (OAF, 64 years; YAF, 26 years), seven emotions, 200 words; `OAF_WORD_EMOTION`."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from ...utils.errors import InputError
from ...utils.readers import parse_json
from .base import Corpus, Download, Utterance

# One file of the older talker is distributed as OA_bite_neutral.
_NAME = re.compile(r"(OAF|OA|YAF)_([a-z]+)_(neutral|angry|disgust|fear|happy|sad|ps)", re.IGNORECASE | re.ASCII)
_AGES = {"OAF": 64, "YAF": 26}
_CLIPS = 2800
_BOREALIS = "https://borealisdata.ca/api"


def parse(path: PurePosixPath) -> Utterance | None:
    """Parse a clip's name. Folder names are ignored: their spelling differs between copies."""
    match = _NAME.fullmatch(path.stem)
    if match is None:
        return None
    talker = "YAF" if match[1].upper() == "YAF" else "OAF"
    word, code = match[2].lower(), match[3].lower()
    return Utterance(
        id=f"tess-{talker}_{word}_{code}",
        speaker=f"tess-{talker}",
        emotion="surprise" if code == "ps" else code,
        gender="female",
        age=_AGES[talker],
        statement=f"Say the word {word}",
    )


def parse_list(response: bytes) -> tuple[Download, ...]:
    """Parse the list of clips and their md5 from the response of Borealis.

    Source: https://guides.dataverse.org/en/latest/api/native-api.html (List Files in a Dataset).
    """
    clips: dict[str, Download] = {}
    try:
        for entry in parse_json(response.decode("utf-8"), "the response")["data"]:
            file, path = entry["dataFile"], PurePosixPath(entry["dataFile"]["filename"])
            if path.suffix.lower() == ".wav" and _NAME.fullmatch(path.stem):
                md5 = file["checksum"]["value"] if file["checksum"]["type"] == "MD5" else file["md5"]
                url = f"{_BOREALIS}/access/datafile/{int(file['id'])}"
                clips[path.name] = Download(url=url, file=path.name, md5=str(md5).lower())
    except (ValueError, KeyError, TypeError) as error:
        raise InputError("the response of Borealis is not a list of the files of TESS") from error
    if len(clips) != _CLIPS:
        raise InputError(f"the list of Borealis names {len(clips)} clips of TESS, not {_CLIPS}")
    return tuple(clips.values())


CORPUS = Corpus(
    name="tess",
    title="Toronto Emotional Speech Set",
    emotions=("neutral", "happy", "sad", "angry", "fear", "disgust", "surprise"),
    license="other",
    terms="CC BY-NC-ND 4.0: non-commercial; no derivatives",
    citation=(
        "Pichora-Fuller MK, Dupuis K (2020). Toronto emotional speech set (TESS). Borealis. "
        "https://doi.org/10.5683/SP2/E8H2MF"
    ),
    source="https://doi.org/10.5683/SP2/E8H2MF (Borealis: `Access Dataset`, original format zip)",
    parse=parse,
    downloads=(
        Download(
            url=f"{_BOREALIS}/datasets/:persistentId/versions/:latest/files?persistentId=doi:10.5683/SP2/E8H2MF",
            file="files.json",
            megabytes=281,
            parse_list=parse_list,
        ),
    ),
)
