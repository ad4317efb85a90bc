"""The audit of a data set: one recording in two places, speakers on two sides of a split, and silence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from .. import audio
from ..utils.errors import InputError
from ..utils.progress import progress_bar
from .deduplication import DuplicateIndex, signatures
from .fingerprints import SAME_RECORDING, LandmarkIndex, Landmarks, find_landmarks, similarity, to_narrowband
from .splits import PARTS, Split, read_json, speaker_lists

if TYPE_CHECKING:
    import datasets
    import pandas as pd

# In the order in which they are told; what is said of one, and of several.
FINDING_KINDS = {
    "speaker": ("speaker is", "speakers are"),
    "clip": ("clip is", "clips are"),
    "version": ("augmented version is", "augmented versions are"),
    "same": ("pair of clips is one recording", "pairs of clips are one recording"),
    "near": (
        "pair of clips shares a recording, changed or in part",
        "pairs of clips share a recording, changed or in part",
    ),
    "absent": ("clip of the split is not in the data", "clips of the split are not in the data"),
    "silent": ("clip is silent", "clips are silent"),
}
Sides: TypeAlias = "dict[str, tuple[str, ...]]"


@dataclass(frozen=True)
class Finding:
    """Something that makes a result unsafe, or a clip useless.

    Attributes:
        kind: one of `FINDING_KINDS`. clip, other: ids; None where it is about a speaker, or about one clip.
        speakers, labels: of the clip and of the other. sides: the parts of the split that it touches.
        likeness: of a pair, 0 to 1; 1 is the same recording.
    """

    kind: str
    clip: str | None
    other: str | None
    speakers: tuple[str, ...]
    labels: tuple[str, ...]
    sides: tuple[str, ...]
    similarity: float | None = None

    @property
    def crosses(self) -> bool:
        """Whether it touches two sides of the split."""
        return len(self.sides) > 1


def audit(table: datasets.Dataset, split: Split | str | Path | None = None, *, progress: bool = True) -> list[Finding]:
    """Look for what leaks or is of no use: recordings in two places, speakers on two sides, silent clips.

    Recordings are told by what is heard: the same samples (dither, level and zeros at the ends aside), or nearly the
    same, which a re-encoded, filtered, trimmed or shifted copy is (`ser_ft.data.fingerprints`; clips under half a
    second are looked at for the former alone). Augmented versions (a column `source`) are not compared: they have to
    be on their clip's side.

    Args:
        table: the prepared table.
        split: a split, a run folder, its `split.json`, or a split file (part -> list of speakers). What a file says
            of its speakers, and of whether it leaks, is not relied upon.
        progress: show bars.

    Returns:
        what was found, the gravest first: what is on two sides of the split, then the rest; an empty list is good.

    Raises:
        InputError: the split cannot be read, or is of other data.
    """
    columns = [name for name in ("id", "speaker", "corpus", "emotion", "source", "copy") if name in table.column_names]
    frame = table.select_columns(columns).to_pandas()
    frame["label"] = np.array(table.features["emotion"].names)[frame["emotion"].to_numpy()]
    sides = {} if split is None else _sides(frame, split)
    found = [*_of_split(frame, sides), *_of_sound(table, frame, sides, progress)]
    order = list(FINDING_KINDS)
    return sorted(found, key=lambda one: (not one.crosses, order.index(one.kind), -(one.likeness or 0.0)))


def group_findings(found: Sequence[Finding], split: bool) -> Iterator[tuple[str, list[Finding]]]:
    """Give findings by kind, each under a line for people; `split`: whether a split was looked at."""
    for crosses in (True, False):
        for kind, said in FINDING_KINDS.items():
            these = [one for one in found if one.kind == kind and one.crosses == crosses]
            if not these:
                continue
            where = " on two sides of the split" if crosses else ""
            if kind == "version":
                where = " on another side than the clip it was made from"
            elif kind in ("same", "near"):
                where = (where or (", not on two sides" if split else "")) + _differing(these)
            yield f"{len(these):,} {said[len(these) > 1]}{where}", these


def _differing(pairs: Sequence[Finding]) -> str:
    """Say how many pairs stand under two speakers' names, and under two labels."""
    counts = {
        "speakers": sum(len(set(pair.speakers)) > 1 for pair in pairs),
        "labels": sum(len(set(pair.labels)) > 1 for pair in pairs),
    }
    told = [f"{count:,} under two {what}" for what, count in counts.items() if count]
    return f" ({', '.join(told)})" if told else ""


def finding_rows(found: Sequence[Finding]) -> list[dict[str, Any]]:
    """Put findings into rows for tables and programs: the fields of `Finding`, sequences as lists."""
    return [
        {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(one).items()} for one in found
    ]


def _sides(frame: pd.DataFrame, split: Split | str | Path) -> Sides:
    """Return clip -> the parts it is in. A file is read as it is: `read_split` refuses what is to be found here."""
    if isinstance(split, Split):
        return _by_clip(split.parts)
    file = Path(split).expanduser()
    file = file / "split.json" if file.is_dir() else file
    content = read_json(file)
    if isinstance(content, dict) and "parts" in content:
        try:
            sides = _by_clip({part: list(map(str, content["parts"][part]["clips"])) for part in PARTS})
        except (KeyError, TypeError) as error:
            raise InputError(f"{file}: not a split ({error} is missing)") from error
        if not sides.keys() & set(frame["id"]):
            raise InputError(f"{file}: none of its clips is in the data: is it a split of other data?")
        return sides
    clips = frame.groupby("speaker")["id"].apply(list).to_dict()
    lists = {part: dict.fromkeys(names) for part, names in speaker_lists(content, frame, str(file)).items()}
    return _by_clip({part: [clip for name in names for clip in clips[name]] for part, names in lists.items()})


def _by_clip(parts: Mapping[str, Sequence[str]]) -> Sides:
    sides: Sides = {}
    for part in PARTS:
        for clip in dict.fromkeys(parts.get(part, ())):
            sides[clip] = (*sides.get(clip, ()), part)
    return sides


def _ordered(*sides: Sequence[str]) -> tuple[str, ...]:
    return tuple(part for part in PARTS if any(part in one for one in sides))


def _of_split(frame: pd.DataFrame, sides: Sides) -> Iterator[Finding]:
    """Give speakers and clips on two sides, versions that left their clip's side, and clips that are not there."""
    facts = {clip: (speaker, label) for clip, speaker, label in frame[["id", "speaker", "label"]].itertuples(False)}
    of_speaker: dict[str, tuple[str, ...]] = {}
    for clip, parts in sides.items():
        if clip not in facts:
            yield Finding("absent", clip, None, (), (), ())
            continue
        speaker, label = facts[clip]
        of_speaker[speaker] = _ordered(of_speaker.get(speaker, ()), parts)
        if len(parts) > 1:
            yield Finding("clip", clip, None, (speaker,), (label,), parts)
    for speaker, parts in sorted(of_speaker.items()):
        if len(parts) > 1:
            yield Finding("speaker", None, None, (speaker,), (), parts)
    if "source" in frame:
        for clip, source, speaker, label in frame[["id", "source", "speaker", "label"]].itertuples(False):
            parts = _ordered(sides.get(clip, ()), sides.get(source, ()))
            if clip != source and len(parts) > 1:
                yield Finding("version", clip, source, (speaker, speaker), (label, label), parts)


def _of_sound(table: datasets.Dataset, frame: pd.DataFrame, sides: Sides, progress: bool) -> Iterator[Finding]:
    """Give silent clips, and pairs of clips that are one recording."""
    recordings, silent = _listen(table, frame, progress)
    facts = list(frame[["id", "speaker", "label"]].itertuples(False, name=None))

    def pair(kind: str, one: int, other: int, alike: float) -> Finding:
        clips, speakers, labels = zip(facts[one], facts[other], strict=True)
        touched = _ordered(*(sides.get(clip, ()) for clip in clips))
        return Finding(kind, *clips, speakers, labels, touched, alike)

    for row in silent:
        clip, speaker, label = facts[row]
        yield Finding("silent", clip, None, (speaker,), (label,), ())
    told: dict[int, Landmarks] = {}
    for first, (marks, copies) in recordings.items():
        # Each clip is paired with the first on each side: many copies make as many pairs, not the square of it.
        heads: dict[tuple[str, ...], int] = {}
        for row in (first, *copies):
            heads.setdefault(sides.get(facts[row][0], ()), row)
        pairs = {(min(row, head), max(row, head)) for row in (first, *copies) for head in heads.values() if row != head}
        for one, other in sorted(pairs):
            yield pair("same", one, other, 1.0)
        told |= dict.fromkeys(heads.values(), marks)
    origin = {row: first for first, (_, copies) in recordings.items() for row in (first, *copies)}
    for one, other, alike in _near(table, told, origin, progress):
        yield pair("near", one, other, alike)


Recordings: TypeAlias = "dict[int, tuple[Landmarks, list[int]]]"


def _listen(table: datasets.Dataset, frame: pd.DataFrame, progress: bool) -> tuple[Recordings, list[int]]:
    """Return the row of each recording's first clip -> its landmarks and the rows of its copies; and silent rows."""
    sounds = table.select_columns(["audio"])
    originals = np.flatnonzero(frame["copy"] == 0) if "copy" in frame else np.arange(len(frame))
    seen: DuplicateIndex[int] = DuplicateIndex()
    recordings: Recordings = {}
    silent: list[int] = []
    for row in progress_bar(originals.tolist(), desc="listening", unit=" clips", shown=progress):
        samples = audio.from_wav(sounds[row]["audio"]["bytes"])
        if audio.is_silent(samples):
            silent.append(row)
            continue
        first = seen.find_or_add(signatures(audio.to_pcm16(samples)), row)
        if first is None:
            recordings[row] = find_landmarks(to_narrowband(samples)), []
        else:
            recordings[first][1].append(row)
    return recordings, silent


def _near(
    table: datasets.Dataset, told: Mapping[int, Landmarks], origin: Mapping[int, int], progress: bool
) -> Iterator[tuple[int, int, float]]:
    """Give the pairs of rows that are nearly one recording, and how alike they are."""
    if not told:
        return
    sounds = table.select_columns(["audio"])

    @lru_cache(256)
    def sound(row: int) -> np.ndarray:
        return to_narrowband(audio.from_wav(sounds[row]["audio"]["bytes"]))

    places = sorted(told)
    index = LandmarkIndex([told[row] for row in places])
    for place, row in enumerate(progress_bar(places, desc="comparing", unit=" clips", shown=progress)):
        for later, offset in index.alike(place):
            other = places[later]
            if origin[row] != origin[other]:
                alike = similarity(sound(row), sound(other), offset)
                if alike >= SAME_RECORDING:
                    yield row, other, alike
