"""Who is in train, validation and test: by speaker, unless a run says aloud that it leaks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..utils.errors import InputError
from .corpora.folder import UNKNOWN_SPEAKER
from .named_splits import NAMED_FOLDS, NAMED_VALIDATION

if TYPE_CHECKING:
    import datasets
    import pandas as pd

PARTS = ("train", "validation", "test")
_DRAWS = 300
_FILE_FORM = "a split file is a run's split.json, or an object with lists of speakers: train, validation, test"


SPLIT_KINDS = ("speaker", "kfold", "corpus", "cross-corpus", "random", "file", *NAMED_FOLDS)


@dataclass(frozen=True)
class Split:
    """Which clips are in which part.

    Attributes:
        name: how it was made. parts: part -> ids of its clips. speakers: part -> its speakers.
        leaking: whether a speaker may stand on two sides; a result on it says nothing about unseen speakers.
        unused: how many clips of the data are in no part (a file may name some speakers only).
    """

    name: str
    seed: int
    fold: int | None
    leaking: bool
    parts: Mapping[str, tuple[str, ...]]
    speakers: Mapping[str, tuple[str, ...]]
    unused: int = 0

    def __post_init__(self) -> None:
        for i, one in enumerate(PARTS):
            for other in PARTS[i + 1 :]:
                for what, groups in (("clip", self.parts), ("speaker", self.speakers)):
                    shared = set(groups[one]) & set(groups[other])
                    if shared and not (what == "speaker" and self.leaking):
                        raise InputError(
                            f"{what} {min(shared)} is both in {one} and in {other}: a split must keep them apart"
                        )
        for part in ("train", "test"):
            if not self.parts[part]:
                raise InputError(f"the split {self.name!r} leaves no clip for {part}")

    def to_dict(self) -> dict[str, Any]:
        """Return what `split.json` holds; `read_split` takes it back."""
        parts = {part: {"speakers": list(self.speakers[part]), "clips": list(self.parts[part])} for part in PARTS}
        return {"name": self.name, "seed": self.seed, "fold": self.fold, "leaking": self.leaking, "parts": parts}

    def row_indices(self, table: datasets.Dataset) -> dict[str, np.ndarray]:
        """Return part -> the rows of a table that belong to it, shape (clips,)."""
        place = {name: at for at, name in enumerate(table["id"])}
        missing = [clip for clips in self.parts.values() for clip in clips if clip not in place]
        if missing:
            raise InputError(
                f"{len(missing)} clips of the split are not in the data, {missing[0]} first: is it the same data?"
            )
        return {part: np.array([place[clip] for clip in clips], dtype=np.int64) for part, clips in self.parts.items()}

    def describe(self) -> str:
        """Return a line per part for people, and a warning where it leaks."""
        lines = [
            f"split {self.name}" + (f", fold {self.fold}" if self.fold is not None else "") + f", seed {self.seed}"
        ]
        lines += [f"  {part}: {len(self.parts[part])} clips, {len(self.speakers[part])} speakers" for part in PARTS]
        if self.unused:
            lines.append(f"  in no part: {self.unused} clips")
        if self.leaking:
            lines.append(
                "  LEAKING: speakers are on both sides; the score says nothing about people not heard in training"
            )
        if not self.parts["validation"]:
            lines.append(
                "  no speaker is left for validation: training runs its full length and keeps its last weights"
            )
        return "\n".join(lines)


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
        kind: "speaker" (one draw), "kfold" (by speaker), "corpus" (leave one corpus out), "cross-corpus" (train on one
            corpus; test on speakers of it that were held back, and on all of the others), "random" (clips at random:
            LEAKS speakers; to reproduce older work), "file", or a named split of `NAMED_FOLDS`.
        seed: of the draw. fold, folds: which fold, counted from 0, of how many.
        test: share of the speakers (of the clips, for "random") that is tested on.
        validation: share of what is left for training that is validated on.
        corpus: for "corpus", the one that is tested on; for "cross-corpus", the one that is trained on.
        file: for "file", a `split.json`, or a JSON object part -> list of speakers.

    Raises:
        InputError: there are too few speakers, the fold does not exist, or the file does not fit the data.
    """
    frame = table.select_columns(["id", "speaker", "corpus", "emotion", "gender"]).to_pandas()
    if not 0 <= seed < 2**32:
        raise InputError(f"split.seed must be a whole number from 0 to {2**32 - 1}, not {seed}")
    for name, share in (("test", test), ("validation", validation)):
        if not 0 <= share < 1 or (name == "test" and share == 0):
            raise InputError(f"split.{name} is a share between 0 and 1, not {share}")
    if kind == "speaker":
        return _by_speaker(frame, kind, seed, None, _draw_test(frame, seed, test), validation)
    if kind == "kfold":
        return _by_speaker(frame, kind, seed, fold, _kfold(frame, seed, fold, folds), validation)
    if kind == "corpus":
        return _leave_corpus_out(frame, seed, corpus, validation)
    if kind == "cross-corpus":
        return _cross_corpus(frame, seed, corpus, test, validation)
    if kind == "random":
        return _random(frame, seed, test, validation)
    if kind == "file":
        return _from_file(frame, file)
    if kind in NAMED_FOLDS:
        return _named(frame, kind, seed, fold, validation)
    raise InputError(f"unknown split {kind!r}: use one of {', '.join(SPLIT_KINDS)}")


def read_split(file: str | Path) -> Split:
    """Read a `split.json` back.

    Raises:
        InputError: the file is missing or is no split.
    """
    content = read_json(file)
    try:
        parts = {part: tuple(content["parts"][part]["clips"]) for part in PARTS}
        speakers = {part: tuple(content["parts"][part]["speakers"]) for part in PARTS}
        return Split(content["name"], content["seed"], content["fold"], content["leaking"], parts, speakers)
    except (KeyError, TypeError) as error:
        raise InputError(f"{file}: not a split ({error} is missing)") from error


def read_json(file: str | Path | None) -> Any:
    """Read a split file, whatever is in it.

    Raises:
        InputError: there is none, or it is no JSON.
    """
    if file is None:
        raise InputError("split.kind is 'file': name the file with split.file")
    try:
        return json.loads(Path(file).expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{file}: no split file there ({error.strerror})") from error
    except ValueError as error:
        raise InputError(f"{file}: not JSON ({error})") from error


def _by_speaker(
    frame: pd.DataFrame, name: str, seed: int, fold: int | None, test: Sequence[str], validation: float
) -> Split:
    rest = frame[~frame["speaker"].isin(test)]
    # The last speaker of a corpus is trained on, where other speakers can be validated on.
    alone = rest.groupby("corpus")["speaker"].transform("nunique") == 1
    pool = rest if alone.all() else rest[~alone]
    count = min(_count(validation, rest["speaker"].nunique(), least=0), pool["speaker"].nunique() - 1)
    held = _draw(pool, [count], seed + 1)[0] if validation and count > 0 else []
    return _assemble(frame, name, seed, fold, {"validation": held, "test": test})


def _assemble(
    frame: pd.DataFrame, name: str, seed: int, fold: int | None, speakers: Mapping[str, Sequence[str]]
) -> Split:
    side = {speaker: part for part, members in speakers.items() for speaker in members}
    part_of = frame["speaker"].map(side).fillna("train") if "train" not in speakers else frame["speaker"].map(side)
    return _finish(frame, name, seed, fold, False, part_of)


def _finish(frame: pd.DataFrame, name: str, seed: int, fold: int | None, leaking: bool, part_of: pd.Series) -> Split:
    parts = {part: tuple(frame.loc[part_of == part, "id"]) for part in PARTS}
    speakers = {part: tuple(sorted(frame.loc[part_of == part, "speaker"].unique())) for part in PARTS}
    return Split(name, seed, fold, leaking, parts, speakers, len(frame) - sum(map(len, parts.values())))


def _need_speakers(frame: pd.DataFrame, least: int, what: str) -> None:
    count = frame["speaker"].nunique()
    if count < least:
        unknown = frame["speaker"].str.endswith(f"-{UNKNOWN_SPEAKER}").any()
        known = "; name the speakers in a manifest (a column speaker)" if unknown else ""
        raise InputError(
            f"{what} needs {least} speakers or more, and the data has {count}{known}; "
            "split.kind: random is possible, but leaks the speaker"
        )


def _count(share: float, total: int, least: int = 1) -> int:
    """Return how many of `total` speakers a share is: one at the least where others remain."""
    if total < 2:
        return 0
    return min(max(round(share * total), least if total < 3 else 1), total - 1)


def _draw_test(frame: pd.DataFrame, seed: int, share: float) -> list[str]:
    """Draw the test speakers corpus by corpus, so that each corpus with two speakers or more is tested on."""
    _need_speakers(frame, 2, "a split by speaker")
    drawn: list[str] = []
    for _, part in frame.groupby("corpus", sort=True):
        drawn += _draw(part, [_count(share, part["speaker"].nunique())], seed)[0]
    return drawn or _draw(frame, [_count(share, frame["speaker"].nunique())], seed)[0]


def _kfold(frame: pd.DataFrame, seed: int, fold: int, folds: int) -> list[str]:
    if folds < 2:
        raise InputError(f"split.folds must be 2 or more, not {folds}")
    _need_speakers(frame, folds, f"a split into {folds} folds by speaker")
    _check_fold(fold, folds)
    members: list[list[str]] = [[] for _ in range(folds)]
    for _, part in frame.groupby("corpus", sort=True):
        count = part["speaker"].nunique()
        # Corpora start filling at the fold with the fewest speakers so far, so that small corpora do not pile up.
        order = sorted(range(folds), key=lambda at: len(members[at]))
        sizes = [count // folds + (place < count % folds) for place in range(folds)]
        for at, group in zip(order, _draw(part, sizes, seed), strict=True):
            members[at] += group
    return members[fold]


def _check_fold(fold: int, folds: int) -> None:
    if not 0 <= fold < folds:
        raise InputError(f"split.fold is {fold}: folds are numbered 0 to {folds - 1}")


def _draw(frame: pd.DataFrame, sizes: Sequence[int], seed: int) -> list[list[str]]:
    """Draw disjoint groups of speakers that are like the whole.

    Of some hundred random draws the one is taken whose groups' shares of emotion x gender x corpus are nearest (in the
    sum of absolute differences) to those of all speakers.
    """
    import pandas as pd

    cells = frame["emotion"].astype(str) + "/" + frame["gender"].fillna("?").astype(str) + "/" + frame["corpus"]
    counts = pd.crosstab(frame["speaker"], cells).sort_index()
    speakers, table = np.array(counts.index), counts.to_numpy(dtype=np.float64)
    if not sum(sizes):
        return [[] for _ in sizes]
    generator = np.random.default_rng(seed)
    edges = np.cumsum((0, *sizes))
    best, order = np.inf, np.arange(len(speakers))
    for _ in range(_DRAWS):
        trial = generator.permutation(len(speakers))
        distance = 0.0
        for start, end in pairwise(edges):
            if end > start:
                group = table[trial[start:end]].sum(axis=0)
                distance += np.abs(group / group.sum() - table.sum(axis=0) / table.sum()).sum()
                distance += abs(group.sum() / table.sum() - (end - start) / len(speakers))
        if distance < best - 1e-12:
            best, order = distance, trial
    return [sorted(map(str, speakers[order[start:end]])) for start, end in pairwise(edges)]


def _named(frame: pd.DataFrame, name: str, seed: int, fold: int, validation: float) -> Split:
    _check_fold(fold, len(NAMED_FOLDS[name]))
    corpus = name.split("-")[1] if name != "tess-talker" else "tess"
    others = sorted(set(frame["corpus"]) - {corpus})
    if others:
        raise InputError(f"the split {name} is of {corpus} alone; the data also holds {', '.join(others)}")
    here = set(frame["speaker"])
    test = [speaker for speaker in NAMED_FOLDS[name][fold] if speaker in here]
    if not test or len(here) == len(test):
        tests = ", ".join(NAMED_FOLDS[name][fold])
        raise InputError(f"fold {fold} of {name} tests on {tests}; the data has {', '.join(sorted(here))}")
    if name in NAMED_VALIDATION:
        held = [speaker for speaker in NAMED_VALIDATION[name] if speaker in here]
        return _assemble(frame, name, seed, fold, {"validation": held, "test": test})
    return _by_speaker(frame, name, seed, fold, test, validation)


def _leave_corpus_out(frame: pd.DataFrame, seed: int, corpus: str | None, validation: float) -> Split:
    own = _of_corpus(frame, corpus, "test")
    return _by_speaker(frame, f"corpus-{corpus}", seed, None, sorted(own["speaker"].unique()), validation)


def _cross_corpus(frame: pd.DataFrame, seed: int, corpus: str | None, test: float, validation: float) -> Split:
    own = _of_corpus(frame, corpus, "train")
    others = sorted(set(frame["speaker"]) - set(own["speaker"]))
    held = _draw(own, [_count(test, own["speaker"].nunique())], seed)[0]
    return _by_speaker(frame, f"cross-corpus-{corpus}", seed, None, [*held, *others], validation)


def _of_corpus(frame: pd.DataFrame, corpus: str | None, use: str) -> pd.DataFrame:
    corpora = sorted(set(frame["corpus"]))
    if corpus not in corpora:
        raise InputError(f"split.corpus must name the corpus to {use} on: one of {', '.join(corpora)}, not {corpus!r}")
    if len(corpora) < 2:
        raise InputError(f"the data holds {corpus} alone: a split by corpus needs two corpora or more")
    return frame[frame["corpus"] == corpus]


def _random(frame: pd.DataFrame, seed: int, test: float, validation: float) -> Split:
    """Draw clips at random within each class: a speaker's clips fall on every side."""
    generator = np.random.default_rng(seed)
    part_of = np.full(len(frame), "train", dtype=object)
    for _, rows in sorted(frame.groupby("emotion").indices.items()):
        order = generator.permutation(rows)
        tested = round(test * len(order))
        held = round(validation * (len(order) - tested))
        part_of[order[:tested]] = "test"
        part_of[order[tested : tested + held]] = "validation"
    import pandas as pd

    return _finish(frame, "random", seed, None, True, pd.Series(part_of, index=frame.index))


def _from_file(frame: pd.DataFrame, file: str | Path | None) -> Split:
    content = read_json(file)
    if isinstance(content, dict) and "parts" in content:
        return _fit(read_split(str(file)), frame, str(file))
    lists = speaker_lists(content, frame, str(file))
    if not {"train", "test"} <= lists.keys():
        raise InputError(f"{file}: {_FILE_FORM}")
    for i, one in enumerate(lists):
        for other in list(lists)[i + 1 :]:
            shared = set(lists[one]) & set(lists[other])
            if shared:
                raise InputError(f"{file}: speaker {min(shared)} is both in {one} and in {other}")
    return _assemble(frame, f"file-{Path(str(file)).stem}", 0, None, lists)


def speaker_lists(content: Any, frame: pd.DataFrame, file: str) -> dict[str, list[str]]:
    """Return part -> speakers of the data, as a split file with lists of speakers names them.

    Args:
        content: of the file. frame: columns speaker and corpus of the data. file: its name, for messages.

    Raises:
        InputError: it holds something else, or names a speaker whom the data has not, or has several of.
    """
    names = {"dev": "validation", "val": "validation", "valid": "validation"}
    given = {names.get(key, key): value for key, value in content.items()} if isinstance(content, dict) else {}
    if not given or not given.keys() <= set(PARTS) or not all(isinstance(value, list) for value in given.values()):
        raise InputError(f"{file}: {_FILE_FORM}")
    short = _short_names(frame)
    return {str(part): [_full_name(str(name), short, file) for name in members] for part, members in given.items()}


def _fit(split: Split, frame: pd.DataFrame, file: str) -> Split:
    """Take a split's clips, and their speakers from the data: what the file says of these is not relied upon."""
    part_of = {clip: part for part, clips in split.parts.items() for clip in clips}
    known = set(frame["id"])
    missing = [clip for clip in part_of if clip not in known]
    if missing:
        raise InputError(
            f"{file}: {len(missing)} of its clips are not in the data, {missing[0]} first: is it the same data?"
        )
    return _finish(frame, split.name, split.seed, split.fold, split.leaking, frame["id"].map(part_of))


def _short_names(frame: pd.DataFrame) -> dict[str, set[str]]:
    """Return what a speaker may be called in a file -> the speakers: "ravdess-07", "07" and 7 are the same."""
    short: dict[str, set[str]] = {}
    for corpus, speaker in frame[["corpus", "speaker"]].drop_duplicates().itertuples(index=False, name=None):
        own = speaker.removeprefix(f"{corpus}-")
        for name in {speaker, own, own.lstrip("0")}:
            short.setdefault(name, set()).add(speaker)
    return short


def _full_name(name: str, short: Mapping[str, set[str]], file: str) -> str:
    found = sorted(short.get(name, ()))
    if len(found) != 1:
        what = "no speaker" if not found else f"several speakers ({', '.join(found)})"
        raise InputError(f"{file}: {name!r} names {what} of the data; write CORPUS-SPEAKER")
    return found[0]
