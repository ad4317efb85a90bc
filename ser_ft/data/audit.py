"""Audit of a data set: duplicate recordings, speakers in two parts of a split, and silent clips."""

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
from ..utils.text import nfc
from .deduplication import DuplicateIndex, signatures
from .fingerprints import SAME_RECORDING, LandmarkIndex, Landmarks, find_landmarks, similarity, to_narrowband
from .splits import PARTS, Split, read_split_file, speaker_lists

if TYPE_CHECKING:
    import datasets
    import pandas as pd

# Kinds of findings in order of display, and their descriptions in singular and plural.
FINDING_KINDS = {
    "speaker": ("speaker is", "speakers are"),
    "clip": ("clip is", "clips are"),
    "version": ("augmented version is", "augmented versions are"),
    "duplicate": ("pair of clips is one recording", "pairs of clips are one recording"),
    "near-duplicate": (
        "pair of clips shares a recording, changed or in part",
        "pairs of clips share a recording, changed or in part",
    ),
    "missing": ("clip of the split is not in the data", "clips of the split are not in the data"),
    "silent": ("clip is silent", "clips are silent"),
}
_PartsOfClip: TypeAlias = "dict[str, tuple[str, ...]]"


@dataclass(frozen=True)
class Finding:
    """A problem that invalidates results or makes a clip useless."""

    kind: str  # a key of `FINDING_KINDS`
    clip: str | None  # id of the clip; None if the finding is about a speaker
    other: str | None
    speakers: tuple[str, ...]  # speakers of the clip and of the other clip
    labels: tuple[str, ...]  # labels of the clip and of the other clip
    parts: tuple[str, ...]  # parts of the split that contain them
    similarity: float | None = None  # similarity of a pair, 0 to 1; 1 is the same recording

    @property
    def crosses_split(self) -> bool:
        """Whether it is about two parts of the split."""
        return len(self.parts) > 1


def audit(table: datasets.Dataset, split: Split | str | Path | None = None, *, progress: bool = True) -> list[Finding]:
    """Find duplicate recordings, speakers in two parts of a split, and silent clips.

    Recordings are recognized by their sound: equal samples (apart from dither, level and zeros at the ends), or almost
    equal ones, as in a re-encoded, filtered, trimmed or shifted copy (`ser_ft.data.fingerprints`). Clips under half a
    second are compared for equality only. Augmented versions (column `source`) are not compared; they must be in the
    same part as their clip.

    Args:
        split: a split, a run folder, its `split.json`, or a split file (part -> list of speakers). A file's own
            statements on its speakers and on leakage are ignored.
        progress: show progress bars.

    Returns:
        The findings; those across parts of the split come first. An empty list is good.
    """
    columns = [name for name in ("id", "speaker", "corpus", "emotion", "source", "copy") if name in table.column_names]
    frame = table.select_columns(columns).to_pandas()
    frame["label"] = np.array(table.features["emotion"].names)[frame["emotion"].to_numpy()]
    parts = {} if split is None else _parts_of_clips(frame, split)
    findings = [*_split_findings(frame, parts), *_sound_findings(table, frame, parts, progress)]
    kinds = list(FINDING_KINDS)
    return sorted(findings, key=lambda item: (not item.crosses_split, kinds.index(item.kind), -(item.similarity or 0)))


def group_findings(findings: Sequence[Finding], split: bool) -> Iterator[tuple[str, list[Finding]]]:
    """Yield a heading and the findings of each kind; `split`: whether a split was audited."""
    for crosses_split in (True, False):
        for kind, description in FINDING_KINDS.items():
            group = [item for item in findings if item.kind == kind and item.crosses_split == crosses_split]
            if not group:
                continue
            suffix = " in two parts of the split" if crosses_split else ""
            if kind == "version":
                suffix = " in another part than the clip it was made from"
            elif kind.endswith("duplicate"):
                suffix = (suffix or (", not in two parts" if split else "")) + _differences(group)
            yield f"{len(group):,} {description[len(group) > 1]}{suffix}", group


def _differences(pairs: Sequence[Finding]) -> str:
    counts = {name: sum(len(set(getattr(pair, name))) > 1 for pair in pairs) for name in ("speakers", "labels")}
    texts = [f"{count:,} under two {name}" for name, count in counts.items() if count]
    return f" ({', '.join(texts)})" if texts else ""


def finding_rows(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Return the fields of findings as rows, with lists instead of tuples."""
    return [
        {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(finding).items()}
        for finding in findings
    ]


def _parts_of_clips(frame: pd.DataFrame, split: Split | str | Path) -> _PartsOfClip:
    """Return the parts of each clip. Files are not read with `read_split`, which refuses what the audit looks for."""
    if isinstance(split, Split):
        return _by_clip(split.parts)
    file = Path(split).expanduser()
    file = file / "split.json" if file.is_dir() else file
    content = read_split_file(file)
    if isinstance(content, dict) and "parts" in content:
        try:
            parts = _by_clip({part: [nfc(str(clip)) for clip in content["parts"][part]["clips"]] for part in PARTS})
        except (KeyError, TypeError) as error:
            raise InputError(f"{file}: not a split ({error} is missing)") from error
        if not parts.keys() & set(frame["id"]):
            raise InputError(f"{file}: none of its clips is in the data: is it a split of other data?")
        return parts
    clips = frame.groupby("speaker")["id"].apply(list).to_dict()
    speakers = speaker_lists(content, frame, str(file))
    return _by_clip({part: [clip for name in names for clip in clips[name]] for part, names in speakers.items()})


def _by_clip(clips: Mapping[str, Sequence[str]]) -> _PartsOfClip:
    parts: _PartsOfClip = {}
    for part in PARTS:
        for clip in dict.fromkeys(clips.get(part, ())):
            parts[clip] = (*parts.get(clip, ()), part)
    return parts


def _union(*parts: Sequence[str]) -> tuple[str, ...]:
    return tuple(part for part in PARTS if any(part in some for some in parts))


def _split_findings(frame: pd.DataFrame, parts: _PartsOfClip) -> Iterator[Finding]:
    """Yield speakers and clips in two parts, versions in another part than their clip, and missing clips."""
    speaker_and_label = {
        clip: (speaker, label) for clip, speaker, label in frame[["id", "speaker", "label"]].itertuples(False)
    }
    parts_of_speaker: dict[str, tuple[str, ...]] = {}
    for clip, clip_parts in parts.items():
        if clip not in speaker_and_label:
            yield Finding("missing", clip, None, (), (), ())
            continue
        speaker, label = speaker_and_label[clip]
        parts_of_speaker[speaker] = _union(parts_of_speaker.get(speaker, ()), clip_parts)
        if len(clip_parts) > 1:
            yield Finding("clip", clip, None, (speaker,), (label,), clip_parts)
    for speaker, speaker_parts in sorted(parts_of_speaker.items()):
        if len(speaker_parts) > 1:
            yield Finding("speaker", None, None, (speaker,), (), speaker_parts)
    if "source" in frame:
        for clip, source, speaker, label in frame[["id", "source", "speaker", "label"]].itertuples(False):
            version_parts = _union(parts.get(clip, ()), parts.get(source, ()))
            if clip != source and len(version_parts) > 1:
                yield Finding("version", clip, source, (speaker, speaker), (label, label), version_parts)


def _sound_findings(
    table: datasets.Dataset, frame: pd.DataFrame, parts: _PartsOfClip, progress: bool
) -> Iterator[Finding]:
    recordings, silent_rows = _find_recordings(table, frame, progress)
    metadata = list(frame[["id", "speaker", "label"]].itertuples(False, name=None))

    def pair_finding(kind: str, row: int, other: int, similarity: float) -> Finding:
        clips, speakers, labels = zip(metadata[row], metadata[other], strict=True)
        return Finding(kind, *clips, speakers, labels, _union(*(parts.get(clip, ()) for clip in clips)), similarity)

    for row in silent_rows:
        clip, speaker, label = metadata[row]
        yield Finding("silent", clip, None, (speaker,), (label,), ())
    compared: dict[int, Landmarks] = {}
    for first, (landmarks, copies) in recordings.items():
        # Each copy is paired with the first one of each part only: the number of pairs grows linearly.
        first_in_part: dict[tuple[str, ...], int] = {}
        for row in (first, *copies):
            first_in_part.setdefault(parts.get(metadata[row][0], ()), row)
        heads = set(first_in_part.values())
        pairs = {(min(row, head), max(row, head)) for row in (first, *copies) for head in heads if row != head}
        for row, other in sorted(pairs):
            yield pair_finding("duplicate", row, other, 1.0)
        compared |= dict.fromkeys(first_in_part.values(), landmarks)
    recording_of = {row: first for first, (_, copies) in recordings.items() for row in (first, *copies)}
    for row, other, score in _near_duplicates(table, compared, recording_of, progress):
        yield pair_finding("near-duplicate", row, other, score)


def _find_recordings(
    table: datasets.Dataset, frame: pd.DataFrame, progress: bool
) -> tuple[dict[int, tuple[Landmarks, list[int]]], list[int]]:
    """Return row of each recording's first clip -> its landmarks and the rows of its copies; and the silent rows."""
    sounds = table.select_columns(["audio"])
    originals = np.flatnonzero(frame["copy"] == 0) if "copy" in frame else np.arange(len(frame))
    index: DuplicateIndex[int] = DuplicateIndex()
    recordings: dict[int, tuple[Landmarks, list[int]]] = {}
    silent_rows = []
    for row in progress_bar(originals.tolist(), desc="reading", unit=" clips", show_progress=progress):
        samples = audio.from_wav(sounds[row]["audio"]["bytes"])
        if audio.is_silent(samples):
            silent_rows.append(row)
            continue
        first = index.find_or_add(signatures(audio.to_pcm16(samples)), row)
        if first is None:
            recordings[row] = find_landmarks(to_narrowband(samples)), []
        else:
            recordings[first][1].append(row)
    return recordings, silent_rows


def _near_duplicates(
    table: datasets.Dataset, landmarks: Mapping[int, Landmarks], recording_of: Mapping[int, int], progress: bool
) -> Iterator[tuple[int, int, float]]:
    """Yield pairs of rows with almost the same recording, and their similarity."""
    if not landmarks:
        return
    sounds = table.select_columns(["audio"])

    @lru_cache(256)
    def narrowband(row: int) -> np.ndarray:
        return to_narrowband(audio.from_wav(sounds[row]["audio"]["bytes"]))

    rows = sorted(landmarks)
    index = LandmarkIndex([landmarks[row] for row in rows])
    for position, row in enumerate(progress_bar(rows, desc="comparing", unit=" clips", show_progress=progress)):
        for other_position, offset in index.find_later_matches(position):
            other = rows[other_position]
            if recording_of[row] != recording_of[other]:
                score = similarity(narrowband(row), narrowband(other), offset)
                if score >= SAME_RECORDING:
                    yield row, other, score
