"""Splits into train, validation and test: by speaker, unless the user asks for a random split, which leaks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from ..utils.errors import InputError
from ..utils.readers import read_json
from ..utils.text import nfc
from .corpora import normalize_corpus_name
from .corpora.folder import UNKNOWN_SPEAKER
from .corpora.folder_names import EVALUATION, part_of
from .named_splits import NAMED_FOLDS, NAMED_VALIDATION
from .split_sampling import count_speakers, sample_clips, sample_groups

if TYPE_CHECKING:
    import datasets
    import pandas as pd

PARTS = ("train", "validation", "test")
SPLIT_KINDS = ("speaker", "kfold", "corpus", "cross-corpus", "random", "folders", "file", *NAMED_FOLDS)
_UNKNOWN = f"-{UNKNOWN_SPEAKER}"
_PART_SYNONYMS = {"dev": "validation", "val": "validation", "valid": "validation"}
_FILE_FORMAT = "a split file is a run's split.json, or an object with lists of speakers: train, validation, test"


Leaking: TypeAlias = bool | Literal["unknown"]
"""Whether speakers are in several parts; "unknown" if the clips' speakers are not known."""


@dataclass(frozen=True)
class Split:
    """The clips of each part.

    Attributes:
        name: how it was made.
        fold: number of the fold, or None.
        leaking: whether speakers are in several parts; unless it is False, results say nothing about unseen speakers.
        parts: part -> ids of its clips.
        unused: number of clips that are in no part (a file may name some speakers only).
    """

    name: str
    seed: int
    fold: int | None
    leaking: Leaking
    parts: Mapping[str, tuple[str, ...]]
    speakers: Mapping[str, tuple[str, ...]]
    unused: int = 0

    def __post_init__(self) -> None:
        for part, other in combinations(PARTS, 2):
            for kind, members in (("clip", self.parts), ("speaker", self.speakers)):
                shared = set(members[part]) & set(members[other])
                if shared and not (kind == "speaker" and self.leaking):
                    raise InputError(
                        f"{kind} {min(shared)} is both in {part} and in {other}: a split must keep them separate"
                    )

    def to_dict(self) -> dict[str, Any]:
        """Return the content of `split.json`, which `read_split` reads."""
        parts = {part: {"speakers": list(self.speakers[part]), "clips": list(self.parts[part])} for part in PARTS}
        return {"name": self.name, "seed": self.seed, "fold": self.fold, "leaking": self.leaking, "parts": parts}

    def row_indices(self, table: datasets.Dataset) -> dict[str, np.ndarray]:
        """Return part -> the rows of a table that belong to it, shape (clips,)."""
        row_of_clip = {clip: row for row, clip in enumerate(table["id"])}
        missing = [clip for clips in self.parts.values() for clip in clips if clip not in row_of_clip]
        if missing:
            text = f"{len(missing)} clips of the split are not in the data"
            raise InputError(f"{text} ({missing[0]} is the first): is it the same data?")
        return {part: np.array([row_of_clip[clip] for clip in self.parts[part]], dtype=np.int64) for part in self.parts}

    def describe(self) -> str:
        """Return a line per part, with a warning if the split leaks."""
        fold = "" if self.fold is None else f", fold {self.fold}"
        lines = [f"split {self.name}{fold}, seed {self.seed}"]
        lines += [f"  {part}: {len(self.parts[part])} clips, {self._count_speakers(part)}" for part in PARTS]
        if self.unused:
            lines.append(f"  in no part: {self.unused} clips")
        if self.leaking == "unknown":
            lines.append("  UNVERIFIED: speakers are not known; the score may say nothing about unseen speakers")
        elif self.leaking:
            lines.append("  LEAKING: speakers are in several parts; the score says nothing about unseen speakers")
        if not self.parts["validation"]:
            lines.append("  no speaker is left for validation: all epochs are trained and the last weights are kept")
        return "\n".join(lines)

    def _count_speakers(self, part: str) -> str:
        known = [name for name in self.speakers[part] if not name.endswith(_UNKNOWN)]
        return f"{len(known)} speakers{', others unknown' if len(known) < len(self.speakers[part]) else ''}"


def make_split(
    table: datasets.Dataset,
    kind: str = "speaker",
    *,
    seed: int = 0,
    fold: int = 0,
    folds: int = 5,
    test: float = 0.2,
    validation: float = 0.15,
    corpus: str | None = None,
    file: str | Path | None = None,
) -> Split:
    """Split a table's clips into train, validation and test.

    Args:
        table: the prepared table.
        kind: "speaker" (test speakers at random), "kfold" (by speaker), "corpus" (leave one corpus out),
            "cross-corpus" (train on one corpus; test on held-out speakers of it and on all other corpora), "random"
            (clips at random, which LEAKS speakers; to reproduce older work), "folders" (the parts are those of the
            folders train, validation and test that the clips lie in; UNVERIFIED if speakers are not known), "file", or
            a named split of `NAMED_FOLDS`.
        seed: random seed.
        fold: which fold, counted from 0.
        folds: number of folds.
        test: fraction of the speakers (of the clips, for "random") in the test part.
        validation: fraction of the remaining ones in the validation part.
        corpus: for "corpus", the test corpus; for "cross-corpus", the training corpus.
        file: for "file", a `split.json`, or a JSON object part -> list of speakers.

    Raises:
        InputError: there are too few speakers, speakers are unknown, the fold does not exist, or the folders or the
            file do not fit the data.
    """
    frame = table.select_columns(["id", "speaker", "corpus", "emotion", "gender"]).to_pandas()
    corpus = corpus and normalize_corpus_name(corpus)
    if not 0 <= seed < 2**32:
        raise InputError(f"split.seed must be a whole number from 0 to {2**32 - 1}, not {seed}")
    for name, fraction in (("test", test), ("validation", validation)):
        if not 0 <= fraction < 1 or (name == "test" and fraction == 0):
            raise InputError(f"split.{name} must be a fraction between 0 and 1, not {fraction}")
    if kind == "speaker":
        return _by_speaker(frame, kind, seed, None, _sample_test(frame, seed, test), validation)
    if kind == "kfold":
        return _by_speaker(frame, kind, seed, fold, _kfold(frame, seed, fold, folds), validation)
    if kind == "corpus":
        test_speakers = sorted(_select_corpus(frame, corpus, "test")["speaker"].unique())
        return _by_speaker(frame, f"corpus-{corpus}", seed, None, test_speakers, validation)
    if kind == "cross-corpus":
        return _cross_corpus(frame, seed, corpus, test, validation)
    if kind == "random":
        return _random(frame, seed, test, validation)
    if kind == "folders":
        return _from_folders(frame, seed, validation)
    if kind == "file":
        return _from_file(frame, file)
    if kind in NAMED_FOLDS:
        return _named(frame, kind, seed, fold, validation)
    raise InputError(f"unknown split {kind!r}: use one of {', '.join(SPLIT_KINDS)}")


def read_split(file: str | Path) -> Split:
    """Read a `split.json`.

    Raises:
        InputError: the file is missing or not a split.
    """
    content = read_split_file(file)
    try:
        parts = {part: tuple(map(nfc, content["parts"][part]["clips"])) for part in PARTS}
        speakers = {part: tuple(map(nfc, content["parts"][part]["speakers"])) for part in PARTS}
        return Split(content["name"], content["seed"], content["fold"], content["leaking"], parts, speakers)
    except (KeyError, TypeError) as error:
        raise InputError(f"{file}: not a split ({error} is missing)") from error


def read_split_file(file: str | Path | None) -> Any:
    """Read any split file."""
    if file is None:
        raise InputError("split.kind is 'file': name the file with split.file")
    try:
        return read_json(Path(file).expanduser())
    except OSError as error:
        raise InputError(f"{file}: no split file there ({error.strerror})") from error


def _by_speaker(
    frame: pd.DataFrame, name: str, seed: int, fold: int | None, test: Sequence[str], validation: float
) -> Split:
    # Unknown speakers are used for training only.
    remaining = frame[~frame["speaker"].isin(test) & ~_is_unknown(frame)]
    # The last speaker of a corpus is used for training if other speakers can be used for validation.
    only_speaker = remaining.groupby("corpus")["speaker"].transform("nunique") == 1
    pool = remaining if only_speaker.all() else remaining[~only_speaker]
    count = min(count_speakers(validation, remaining["speaker"].nunique(), minimum=0), pool["speaker"].nunique() - 1)
    held_out = sample_groups(pool, [count], seed + 1)[0] if validation and count > 0 else []
    return _from_speakers(frame, name, seed, fold, {"validation": held_out, "test": test})


def _from_speakers(
    frame: pd.DataFrame, name: str, seed: int, fold: int | None, speakers: Mapping[str, Sequence[str]]
) -> Split:
    """Make a split from part -> speakers. If train is not given, it gets all other speakers."""
    part_of_speaker = {speaker: part for part, members in speakers.items() for speaker in members}
    part_of_clip = frame["speaker"].map(part_of_speaker)
    if "train" not in speakers:
        part_of_clip = part_of_clip.fillna("train")
    return _from_parts(frame, name, seed, fold, False, part_of_clip)


def _from_parts(
    frame: pd.DataFrame, name: str, seed: int, fold: int | None, leaking: Leaking, part_of_clip: pd.Series
) -> Split:
    parts = {part: tuple(frame.loc[part_of_clip == part, "id"]) for part in PARTS}
    for part in ("train", "test"):
        if not parts[part]:
            raise InputError(f"the split {name!r} has no clip for {part}")
    speakers = {part: tuple(sorted(frame.loc[part_of_clip == part, "speaker"].unique())) for part in PARTS}
    return Split(name, seed, fold, leaking, parts, speakers, len(frame) - sum(map(len, parts.values())))


def _known_speakers(frame: pd.DataFrame, minimum: int, what: str) -> pd.DataFrame:
    """Return the clips of the corpora whose speakers are known, of which there must be enough.

    A corpus without any known speaker is used for training as a whole; one with some cannot be divided by speaker.
    """
    unknown = _is_unknown(frame)
    known = frame[~unknown]
    doubtful = frame[unknown & (frame["corpus"].isin(known["corpus"]) | known.empty)]
    if len(doubtful):
        raise InputError(
            f"{what} needs the speaker of each clip, and {len(doubtful)} of {len(frame)} clips have none "
            f"({doubtful['id'].iloc[0]} is the first): name the speakers in folders (EMOTION/SPEAKER/clip) or in a "
            "manifest (a column speaker); or use split.kind: folders, if there are folders train and test, or random: "
            "both are marked, because the test speakers may be in the training part"
        )
    count = known["speaker"].nunique()
    if count < minimum:
        raise InputError(
            f"{what} needs {minimum} speakers or more, and the data has {count}; "
            "split.kind: random is possible, but leaks the speaker"
        )
    return known


def _is_unknown(frame: pd.DataFrame) -> pd.Series:
    return frame["speaker"].str.endswith(_UNKNOWN)


def _sample_test(frame: pd.DataFrame, seed: int, fraction: float) -> list[str]:
    """Sample test speakers in each corpus that has two or more."""
    frame = _known_speakers(frame, 2, "a split by speaker")
    test: list[str] = []
    for _, clips in frame.groupby("corpus", sort=True):
        test += sample_groups(clips, [count_speakers(fraction, clips["speaker"].nunique())], seed)[0]
    return test or sample_groups(frame, [count_speakers(fraction, frame["speaker"].nunique())], seed)[0]


def _kfold(frame: pd.DataFrame, seed: int, fold: int, folds: int) -> list[str]:
    if folds < 2:
        raise InputError(f"split.folds must be 2 or more, not {folds}")
    frame = _known_speakers(frame, folds, f"a split into {folds} folds by speaker")
    _check_fold(fold, folds)
    members: list[list[str]] = [[] for _ in range(folds)]
    for _, clips in frame.groupby("corpus", sort=True):
        count = clips["speaker"].nunique()
        # Each corpus starts with the fold that has fewest speakers, so that small corpora are spread over the folds.
        order = sorted(range(folds), key=lambda index: len(members[index]))
        sizes = [count // folds + (place < count % folds) for place in range(folds)]
        for index, group in zip(order, sample_groups(clips, sizes, seed), strict=True):
            members[index] += group
    return members[fold]


def _check_fold(fold: int, folds: int) -> None:
    if not 0 <= fold < folds:
        raise InputError(f"split.fold is {fold}: folds are numbered 0 to {folds - 1}")


def _named(frame: pd.DataFrame, name: str, seed: int, fold: int, validation: float) -> Split:
    _check_fold(fold, len(NAMED_FOLDS[name]))
    corpus = name.split("-")[1] if name != "tess-talker" else "tess"
    others = sorted(set(frame["corpus"]) - {corpus})
    if others:
        raise InputError(f"the split {name} is of {corpus} alone; the data also holds {', '.join(others)}")
    speakers = set(frame["speaker"])
    test = [speaker for speaker in NAMED_FOLDS[name][fold] if speaker in speakers]
    if not test or len(speakers) == len(test):
        tests = ", ".join(NAMED_FOLDS[name][fold])
        raise InputError(f"fold {fold} of {name} tests on {tests}; the data has {', '.join(sorted(speakers))}")
    if name in NAMED_VALIDATION:
        held_out = [speaker for speaker in NAMED_VALIDATION[name] if speaker in speakers]
        return _from_speakers(frame, name, seed, fold, {"validation": held_out, "test": test})
    return _by_speaker(frame, name, seed, fold, test, validation)


def _cross_corpus(frame: pd.DataFrame, seed: int, corpus: str | None, test: float, validation: float) -> Split:
    clips = _known_speakers(_select_corpus(frame, corpus, "train"), 1, "a split of the training corpus by speaker")
    others = sorted(set(frame["speaker"]) - set(clips["speaker"]))
    held_out = sample_groups(clips, [count_speakers(test, clips["speaker"].nunique())], seed)[0]
    return _by_speaker(frame, f"cross-corpus-{corpus}", seed, None, [*held_out, *others], validation)


def _select_corpus(frame: pd.DataFrame, corpus: str | None, use: str) -> pd.DataFrame:
    corpora = sorted(set(frame["corpus"]))
    if corpus not in corpora:
        raise InputError(f"split.corpus must name the corpus to {use} on: one of {', '.join(corpora)}, not {corpus!r}")
    if len(corpora) < 2:
        raise InputError(f"the data holds {corpus} alone: a split by corpus needs two corpora or more")
    return frame[frame["corpus"] == corpus]


def _random(frame: pd.DataFrame, seed: int, test: float, validation: float) -> Split:
    """Split the clips of each class at random: a speaker's clips are in every part."""
    return _from_parts(frame, "random", seed, None, True, sample_clips(frame, seed, test, validation))


def _from_folders(frame: pd.DataFrame, seed: int, validation: float) -> Split:
    """Take the parts from the folders that the clips lie in; without a validation part, sample one of the training.

    A clip's id has its folders below the root.
    """
    names = zip(frame["id"], frame["corpus"], strict=True)
    part_of_clip = frame["id"].copy()
    part_of_clip[:] = [part_of(clip.removeprefix(f"{corpus}-").split("/")[:-1]) for clip, corpus in names]
    parts = set(part_of_clip.dropna())
    is_validation = "test" in parts and "validation" not in parts
    part_of_clip = part_of_clip.replace(EVALUATION, "validation" if is_validation else "test")
    for part in ("train", "test"):
        if not (part_of_clip == part).any():
            counts = ", ".join(f"{name}: {count} clips" for name, count in part_of_clip.value_counts().items())
            raise InputError(
                f"split.kind is folders, and no clip is in a folder named {part} ({counts or 'there are no parts'}); "
                "the folders are named train, validation (or val, dev) and test (or eval)"
            )
    if not (part_of_clip == "validation").any() and validation:
        train = frame[part_of_clip == "train"]
        if _is_unknown(train).any():
            part_of_clip.update(sample_clips(train, seed, 0.0, validation))
        else:
            count = count_speakers(validation, train["speaker"].nunique(), minimum=0)
            held_out = sample_groups(train, [count], seed)[0]
            part_of_clip[train.index[train["speaker"].isin(held_out)]] = "validation"
    used = frame[part_of_clip.notna()]
    shared = (used.assign(part=part_of_clip).groupby("speaker")["part"].nunique() > 1).any()
    leaking: Leaking = "unknown" if _is_unknown(used).any() else bool(shared)
    return _from_parts(frame, "folders", seed, None, leaking, part_of_clip)


def _from_file(frame: pd.DataFrame, file: str | Path | None) -> Split:
    content = read_split_file(file)
    if isinstance(content, dict) and "parts" in content:
        return _fit_to_data(read_split(str(file)), frame, str(file))
    speakers = speaker_lists(content, frame, str(file))
    if not {"train", "test"} <= speakers.keys():
        raise InputError(f"{file}: {_FILE_FORMAT}")
    for part, other in combinations(speakers, 2):
        shared = set(speakers[part]) & set(speakers[other])
        if shared:
            raise InputError(f"{file}: speaker {min(shared)} is both in {part} and in {other}")
    return _from_speakers(frame, f"file-{Path(str(file)).stem}", 0, None, speakers)


def speaker_lists(content: Any, frame: pd.DataFrame, file: str) -> dict[str, list[str]]:
    """Return part -> speakers of the data, from the content of a split file with lists of speakers."""
    content = content if isinstance(content, dict) else {}
    lists = {_PART_SYNONYMS.get(str(key), str(key)): value for key, value in content.items()}
    if not lists or not lists.keys() <= set(PARTS) or not all(isinstance(value, list) for value in lists.values()):
        raise InputError(f"{file}: {_FILE_FORMAT}")
    speakers_of_name = _speakers_by_short_name(frame)
    return {part: [_full_name(str(name), speakers_of_name, file) for name in names] for part, names in lists.items()}


def _fit_to_data(split: Split, frame: pd.DataFrame, file: str) -> Split:
    """Use a split's clips with the data's speakers: the file's own statements on speakers are ignored."""
    part_of = {clip: part for part, clips in split.parts.items() for clip in clips}
    clips = set(frame["id"])
    missing = [clip for clip in part_of if clip not in clips]
    if missing:
        text = f"{file}: {len(missing)} of its clips are not in the data"
        raise InputError(f"{text} ({missing[0]} is the first): is it the same data?")
    return _from_parts(frame, split.name, split.seed, split.fold, split.leaking, frame["id"].map(part_of))


def _speakers_by_short_name(frame: pd.DataFrame) -> dict[str, set[str]]:
    """Return the names that a file may use -> speakers: "ravdess-07", "07" and 7 are the same."""
    speakers: dict[str, set[str]] = {}
    for corpus, speaker in frame[["corpus", "speaker"]].drop_duplicates().itertuples(index=False, name=None):
        short = speaker.removeprefix(f"{corpus}-")
        for name in {speaker, short, short.lstrip("0")}:
            speakers.setdefault(name, set()).add(speaker)
    return speakers


def _full_name(name: str, speakers_of_name: Mapping[str, set[str]], file: str) -> str:
    matches = sorted(speakers_of_name.get(nfc(name), ()))
    if len(matches) != 1:
        what = "no speaker" if not matches else f"several speakers ({', '.join(matches)})"
        raise InputError(f"{file}: {name!r} names {what} of the data; write CORPUS-SPEAKER")
    return matches[0]
