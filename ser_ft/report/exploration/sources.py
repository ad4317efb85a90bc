"""The clips that `ser-ft explore` reads: a prepared table, or a folder of recordings without labels."""

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

    from ...data.scan import ArchiveFile
    from ...data.skipped import Skipped

_COLUMNS = ("id", "emotion", "corpus", "speaker", "gender", "age", "intensity", "statement", "duration", "path")
_MAX_FOLDER_GROUPS = 8  # more subfolders than colors are shown as one group


@dataclass(frozen=True)
class Source:
    """Clips, their metadata, and a function that reads their audio.

    Attributes:
        metadata: one row per clip with id, corpus and path, and, where known (else None), emotion (the class's
            name), speaker, gender, age, intensity, statement, duration (s) and sampling_rate (Hz, of the file).
        classes: names of the emotions, in the order of the label scheme; empty if the clips have no labels.
        corpora: corpus -> title, license, terms, citation, note, and the classes that it can contain.
        skipped: files that were skipped before; None if unknown.
        sizes: size of each clip in any unit, shape (clips,); clips of similar size are measured together.
        read: row -> the clip's samples (float32, 16 kHz, mono) and the file's sampling rate if it is known; its second
            argument, which may wait, is called before a long clip is read as a whole.
    """

    path: Path
    metadata: pd.DataFrame
    classes: tuple[str, ...]
    corpora: Mapping[str, Mapping[str, Any]]
    skipped: list[Skipped] | None
    sizes: np.ndarray
    read: Callable[[int, Callable[[], object]], tuple[np.ndarray, int | None]]

    @property
    def labeled(self) -> bool:
        """Whether the clips have labels."""
        return bool(self.classes)


def open_source(path: str | Path) -> Source:
    """Open a prepared table, or list the recordings in a folder."""
    from ...data.prepare import CORPUS_INFO_FILE, open_prepared

    folder = Path(path).expanduser()
    if (folder / CORPUS_INFO_FILE).is_file():
        return _from_table(folder, open_prepared(folder))
    return _from_folder(folder)


def _from_table(folder: Path, table: Dataset) -> Source:
    from ...data.builder import SKIPPED_FILE, read_skipped
    from ...data.prepare import corpus_info

    classes = table.features["emotion"].names
    columns = [name for name in (*_COLUMNS, "sampling_rate") if name in table.column_names]
    metadata = table.select_columns(columns).to_pandas()
    metadata["emotion"] = [classes[index] for index in metadata["emotion"]]
    if "sampling_rate" not in metadata:  # older tables lack the column
        metadata["sampling_rate"] = np.nan
    recordings = table.select_columns(["audio"]).with_format("arrow")

    def read(row: int, before_long: Callable[[], object]) -> tuple[np.ndarray, int | None]:
        if metadata["duration"].iloc[row] > audio.LONG_SECONDS:
            before_long()
        return audio.from_wav(recordings[row]["audio"][0].as_py()["bytes"]), None

    skipped_file = folder / SKIPPED_FILE
    skipped = read_skipped(skipped_file) if skipped_file.is_file() else None
    return Source(folder, metadata, tuple(classes), corpus_info(table), skipped, metadata["duration"].to_numpy(), read)


def _from_folder(folder: Path) -> Source:
    import pandas as pd

    from ...data.builder import escape_surrogates
    from ...data.scan import scan
    from ...data.skipped import Skipped

    listing = scan(folder)
    files = listing.sounds
    if not files:
        raise InputError(
            f"{folder}: neither a prepared table nor a folder that holds sound files; "
            "name recordings, or make a table of them: ser-ft prepare FOLDER... --out TABLE"
        )
    groups = [escape_surrogates(name) for name in _group_by_subfolder(files, folder)]
    metadata = pd.DataFrame(
        {
            "id": [escape_surrogates(str(file.relative_path)) for file in files],
            "corpus": groups,
            "path": [escape_surrogates(file.path) for file in files],
            **dict.fromkeys(("emotion", "speaker", "gender", "age", "intensity", "statement"), None),
            **dict.fromkeys(("duration", "sampling_rate"), np.nan),
        }
    )
    notes: dict[str, dict[str, None]] = {name: {} for name in groups}
    for name, file in zip(groups, files, strict=True):
        if note := listing.note_for(file.path):
            notes[name][note] = None
    corpora = {name: {"title": name, "note": "; ".join(lines), "classes": []} for name, lines in notes.items()}

    def read(row: int, before_long: Callable[[], object]) -> tuple[np.ndarray, int | None]:
        file = files[row]
        samples, rate, _ = file.decode(before_long)
        if audio.is_silent(samples):
            raise audio.AudioError("silent", REASONS["silent"])
        return samples, rate

    skipped = [Skipped(escape_surrogates(path), "", reason, detail) for path, reason, detail in listing.broken]
    return Source(folder, metadata, (), corpora, skipped, np.array([file.size for file in files]), read)


def _group_by_subfolder(files: list[ArchiveFile], folder: Path) -> list[str]:
    """Name the top-level subfolder of each file if there are 2 to 8 of them, else the folder itself."""
    subfolders = [file.relative_path.parts[0] if len(file.relative_path.parts) > 1 else "" for file in files]
    name = folder.resolve().name or str(folder)
    if not 2 <= len(set(subfolders)) <= _MAX_FOLDER_GROUPS:
        return [name] * len(files)
    return [subfolder or name for subfolder in subfolders]
