"""Folders above a clip whose names say something other than a speaker: parts of a split, genders and containers."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ...utils.text import fold

EVALUATION = "evaluation"
"""The part of folders named eval: the test part, or the validation part if there is another test part only."""
_PARTS = {
    **dict.fromkeys("train training trainset traindata".split(), "train"),
    **dict.fromkeys("val valid validation validate valset dev devel development devset".split(), "validation"),
    **dict.fromkeys("test testing tests testset testdata".split(), "test"),
    **dict.fromkeys("eval evaluation evalset evaluate".split(), EVALUATION),
}
GENDERS = {
    **dict.fromkeys("f female females w woman women weiblich frau frauen femme femmes mujer mujeres".split(), "female"),
    **dict.fromkeys("m male males man men männlich männer homme hommes hombre hombres uomo".split(), "male"),
}
# Words after which a number does not name a speaker: "fold 3", "data2", "16 kHz".
_NUMBERED = {*_PARTS, *"fold folds set split splits part data dataset batch k khz hz bit kbps".split()}
_CONTAINERS = {
    *_NUMBERED,
    *"and all raw original originals processed preprocessed clean cleaned noisy normalized resampled trimmed".split(),
    *"augmented augmentation augmentations aug audio audios audiofiles sound sounds speech voice voices".split(),
    *"wav wavs wave waves wavfiles mp3 flac ogg files file clips clip samples sample recordings recording".split(),
    *"datasets database corpus corpora emotion emotions class classes label labels labeled labelled".split(),
    *"segments segment utterances utterance mono stereo folder folders output outputs full".split(),
}


def part_of(folders: Sequence[str]) -> str | None:
    """Return the part of a split that the innermost such folder names, or None.

    It is train, validation, test or `EVALUATION`, from folders such as "Train", "dev_set", "test2".
    """
    parts = (_only(folder, _PARTS) for folder in reversed(folders))
    return next((part for part in parts if part), None)


def gender_of(folders: Sequence[str]) -> str | None:
    """Return the gender, "female" or "male", that a folder such as "Female" or "male_voices" names, or None."""
    return next((gender for folder in folders if (gender := _only(folder, GENDERS))), None)


def speaker_of(folders: Sequence[str], label: int) -> str | None:
    """Return the folder that names the speaker, or None; `label` is the index of the emotion's folder.

    It is the first folder below the emotion, else the last one above it, that names no part, gender or container. What
    lies above a part's folder contains the whole corpus, and names no speaker either.
    """
    parts = [index for index in range(label) if part_of(folders[index : index + 1])]
    above = folders[parts[-1] + 1 if parts else 0 : label]
    return next((folder for folder in (*folders[label + 1 :], *reversed(above)) if not _is_generic(folder)), None)


def _only(folder: str, names: dict[str, str]) -> str | None:
    """Return the meaning of the only word of a folder's name that is in `names`, if the name has no other meaning."""
    meanings = {names[word] for word in _words(folder) if word in names}
    return meanings.pop() if len(meanings) == 1 and _is_generic(folder) else None


def _is_generic(folder: str) -> bool:
    words = _words(folder)
    has_number = any(letter.isdigit() for letter in folder.replace("mp3", ""))
    generic = bool(words) and all(word in _CONTAINERS or word in GENDERS for word in words)
    return generic and (not has_number or any(word in _NUMBERED for word in words))


def _words(folder: str) -> list[str]:
    """Return the words of a name in lower case, without numbers: "TrainSet_16k" -> train, set, k."""
    return re.findall(r"mp3|[^\W\d_]+", fold(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", folder)))
