"""Any data set of the Hub or on disk as a catalogue, by naming its columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa

from .. import audio
from ..labels import LabelScheme
from ..utils.errors import InputError
from ..utils.hub_offline import offline_if_unreachable
from .catalog import Catalog, CatalogBuilder, CatalogOptions, Skipped
from .corpora.folder import FACTS, own_corpus, own_utterance

_COLUMNS = ("audio", "emotion", *FACTS)


def catalog_from_table(table: datasets.Dataset, name: str, columns: Mapping[str, str], scheme: LabelScheme) -> Catalog:
    """Find the clips of any `datasets` table by naming its columns.

    Args:
        table: the table. name: what to call the corpus.
        columns: our name -> the table's: audio and emotion (where they are called otherwise), speaker, gender, age,
            intensity, statement, language.
        scheme: the label scheme.

    Raises:
        InputError: a column is not in the table or holds something else, or no clip is left.
    """
    columns = {"audio": "audio", "emotion": "emotion"} | dict(columns)
    for ours, theirs in columns.items():
        if ours not in _COLUMNS:
            raise InputError(f"unknown column {ours!r}: name {', '.join(_COLUMNS)}")
        if theirs not in table.column_names:
            raise InputError(f"the table {name} has no column {theirs!r}; it has {', '.join(table.column_names)}")
    sounds = table.select_columns([columns["audio"]])
    try:
        sounds = sounds.cast_column(columns["audio"], datasets.Audio(decode=False))
    except (TypeError, ValueError, pa.ArrowException) as error:
        raise InputError(f"the column {columns['audio']!r} of the table {name} holds no sound files") from error
    facts = table.select_columns([theirs for ours, theirs in columns.items() if ours != "audio"])
    book = Catalog(scheme)
    names = CatalogBuilder(book, CatalogOptions())
    names.state = [name, sorted(columns.items()), table._fingerprint]
    corpus = own_corpus(name)
    for at, row in enumerate(facts):
        where = f"{name}[{at}]"
        cells = {ours: _said(facts.features[columns[ours]], row[columns[ours]]) for ours in columns if ours != "audio"}
        if cells["emotion"] is None:
            book.skipped.append(Skipped(where, name, "no-place", "no label"))
            continue
        utterance = own_utterance(name, f"{at:06d}", cells, where)
        names.place(where, corpus, utterance, _row_reader(sounds, at, columns["audio"]))
    names.finish(name)
    return book


def _said(feature: Any, value: Any) -> Any:
    """Return a cell's value, a class's name for its number; a negative number is no class."""
    if not isinstance(feature, datasets.ClassLabel) or value is None:
        return value
    return feature.int2str(value) if value >= 0 else None


def _row_reader(sounds: datasets.Dataset, at: int, column: str) -> Callable[[], bytes]:
    def read() -> bytes:
        sound = sounds[at][column]
        if sound is None or (sound["bytes"] is None and sound["path"] is None):
            raise audio.AudioError("empty", f"row {at} has no sound")
        content: bytes = sound["bytes"] if sound["bytes"] is not None else audio.read_file(Path(sound["path"]))
        return content

    return read


def open_dataset(name: str, split: str) -> datasets.Dataset:
    """Open a data set of the Hub, or one that `datasets` saved.

    Raises:
        InputError: it cannot be had, or has no such split.
    """
    try:
        if not any((Path(name) / file).is_file() for file in ("dataset_info.json", "dataset_dict.json")):
            with offline_if_unreachable(Path(name).exists()):
                return datasets.load_dataset(name, split=split)
        saved = datasets.load_from_disk(name)
    except (OSError, ValueError, KeyError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"the data set {name!r} (split {split!r}) cannot be had: {first}") from error
    if isinstance(saved, datasets.Dataset):
        return saved
    if split not in saved:
        raise InputError(f"the data set {name!r} has no split {split!r}; it has {', '.join(saved)}")
    return saved[split]
