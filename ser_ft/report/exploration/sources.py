"""What `ser-ft explore` looks at: a prepared table, or a folder of recordings of which nothing else is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ... import audio
from ...data.corpora import REASONS
from ...utils.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset

    from ...data.catalog import Skipped
    from ...data.scan import ArchiveFile

_FACTS = ("id", "emotion", "corpus", "speaker", "gender", "age", "intensity", "statement", "duration", "path")
# Folders below the one given stand apart where they are few enough to be told apart by colour.
_MOST_FOLDERS = 8


@dataclass(frozen=True)
class Source:
    """Clips, what is known of each, and how their sound is had.

    Attributes:
        path: where they were found.
        facts: a row per clip: id, corpus, path, and where they are known (else None) emotion (the class's name),
            speaker, gender, age, intensity, statement, duration (s) and sampling_rate (Hz, as found).
        classes: the emotions' names, in their order; empty where there are no labels.
        corpora: corpus -> title, license, terms, citation, note, and the classes that it can hold.
        skipped: what was left out before; None where that is not known.
        sizes: of each clip, whatever it is measured in: clips of like size are listened to together.
        read: row -> its samples (float32, 16 kHz, mono) and its sampling rate as found, where it is known.
    """

    path: Path
    facts: pd.DataFrame
    classes: tuple[str, ...]
    corpora: Mapping[str, Mapping[str, Any]]
    skipped: list[Skipped] | None
    sizes: np.ndarray
    read: Callable[[int], tuple[np.ndarray, int | None]]

    @property
    def labelled(self) -> bool:
        """Whether the clips have labels."""
        return bool(self.classes)


def open_source(path: str | Path) -> Source:
    """Open a prepared table, or list the recordings in a folder.

    Raises:
        InputError: there is no such folder, the table is damaged, or there is no sound in the folder.
    """
    from ...data.prepare import CORPUS_INFO_FILE, open_prepared

    folder = Path(path).expanduser()
    if (folder / CORPUS_INFO_FILE).is_file():
        return _prepared(folder, open_prepared(folder))
    return _recordings(folder)


def _prepared(folder: Path, table: Dataset) -> Source:
    from ...data.builder import SKIPPED_FILE, read_skipped
    from ...data.prepare import corpus_info

    names = table.features["emotion"].names
    known = [name for name in (*_FACTS, "sampling_rate") if name in table.column_names]
    facts = table.select_columns(known).to_pandas()
    facts["emotion"] = [names[place] for place in facts["emotion"]]
    if "sampling_rate" not in facts:  # a table made before it was kept
        facts["sampling_rate"] = np.nan
    sounds = table.select_columns(["audio"]).with_format("arrow")

    def read(row: int) -> tuple[np.ndarray, int | None]:
        return audio.from_wav(sounds[row]["audio"][0].as_py()["bytes"]), None

    listed = folder / SKIPPED_FILE
    skipped = read_skipped(listed) if listed.is_file() else None
    return Source(folder, facts, tuple(names), corpus_info(table), skipped, facts["duration"].to_numpy(), read)


def _recordings(folder: Path) -> Source:
    import pandas as pd

    from ...data.builder import escape_surrogates
    from ...data.catalog import Skipped
    from ...data.scan import scan

    found = scan(folder)
    if not found.sounds:
        raise InputError(
            f"{folder}: neither a prepared table nor a folder that holds sound; "
            "name recordings, or make a table of them: ser-ft prepare FOLDER... --out TABLE"
        )
    groups = _groups(found.sounds, folder)
    facts = pd.DataFrame(
        {
            "id": [escape_surrogates(str(file.inner)) for file in found.sounds],
            "corpus": groups,
            "path": [escape_surrogates(file.path) for file in found.sounds],
            **dict.fromkeys(("emotion", "speaker", "gender", "age", "intensity", "statement"), None),
            **dict.fromkeys(("duration", "sampling_rate"), np.nan),
        }
    )
    notes: dict[str, dict[str, None]] = {name: {} for name in groups}
    for name, file in zip(groups, found.sounds, strict=True):
        if note := found.note(file.path):
            notes[name][note] = None
    corpora = {name: {"title": name, "note": "; ".join(told), "classes": []} for name, told in notes.items()}

    def read(row: int) -> tuple[np.ndarray, int | None]:
        file = found.sounds[row]
        samples, rate = audio.decode_with_rate(file.read(), name=file.inner.name)
        if audio.is_silent(samples):
            raise audio.AudioError("silent", REASONS["silent"])
        return samples, rate

    skipped = [Skipped(escape_surrogates(path), "", "unreadable", why) for path, why in found.broken]
    return Source(folder, facts, (), corpora, skipped, np.array([file.size for file in found.sounds]), read)


def _groups(sounds: list[ArchiveFile], folder: Path) -> list[str]:
    """Name the folder below the root that each file is in, where there are several and not too many; else the root."""
    from ...data.builder import escape_surrogates

    tops = [file.inner.parts[0] if len(file.inner.parts) > 1 else "" for file in sounds]
    name = folder.resolve().name or str(folder)
    if not 2 <= len(set(tops)) <= _MOST_FOLDERS:
        return [escape_surrogates(name)] * len(tops)
    return [escape_surrogates(top or name) for top in tops]
