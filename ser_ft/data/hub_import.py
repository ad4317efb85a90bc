"""Builds a catalog from any data set on the Hub or on disk, given the names of its columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa

from .. import audio
from ..labels import LabelScheme
from ..utils.caches import check_cache
from ..utils.errors import InputError
from ..utils.files import check_path_or_hub_name, is_below
from ..utils.hub_offline import offline_if_unreachable
from ..utils.text import nfc
from .catalog import Catalog, CatalogBuilder, CatalogOptions
from .corpora.folder import METADATA_COLUMNS, user_corpus, user_utterance

_COLUMNS = ("audio", "emotion", *METADATA_COLUMNS)


def catalog_from_table(
    table: datasets.Dataset,
    name: str,
    columns: Mapping[str, str],
    scheme: LabelScheme,
    homes: Sequence[Path] | None = None,
) -> Catalog:
    """Build a catalog from a `datasets` table.

    Args:
        table: The table; its sounds are bytes, or paths of files.
        name: Name of the corpus.
        columns: Our names -> the table's: audio and emotion (by default the same) and those of `METADATA_COLUMNS`.
        scheme: The label scheme.
        homes: The folders that the table's paths may not leave. None: they may lead anywhere.
    """
    name, names = nfc(name), {nfc(column): column for column in table.column_names}
    columns = {"audio": "audio", "emotion": "emotion"} | dict(columns)
    for ours, theirs in columns.items():
        if ours not in _COLUMNS:
            raise InputError(f"unknown column {ours!r}: name {', '.join(_COLUMNS)}")
        if nfc(theirs) not in names:
            raise InputError(
                f"the table {name} has no column {theirs!r}; it has {', '.join(names)}: name its columns, as in "
                f"--columns audio=audio,emotion=label"
            )
    columns = {ours: names[nfc(theirs)] for ours, theirs in columns.items()}
    sounds = table.select_columns([columns["audio"]])
    try:
        sounds = sounds.cast_column(columns["audio"], datasets.Audio(decode=False))
    except (TypeError, ValueError, pa.ArrowException) as error:
        raise InputError(f"the column {columns['audio']!r} of the table {name} holds no sound files") from error
    metadata = table.select_columns([theirs for ours, theirs in columns.items() if ours != "audio"])
    catalog = Catalog(scheme)
    builder = CatalogBuilder(catalog, CatalogOptions())
    builder.state = [name, sorted(columns.items()), table._fingerprint]
    corpus = user_corpus(name)
    for index, row in enumerate(metadata):
        location = f"{name}[{index}]"
        cells = {
            ours: _cell(metadata.features[theirs], row[theirs]) for ours, theirs in columns.items() if ours != "audio"
        }
        if cells["emotion"] is None:
            catalog.skip(location, name, "not-in-scheme", "no label")
            continue
        utterance = user_utterance(name, f"{index:06d}", cells, location)
        builder.add_clip(location, corpus, utterance, partial(_decode_row, sounds, index, columns["audio"], homes))
    builder.finish(name)
    return catalog


def _cell(feature: Any, value: Any) -> Any:
    """Return a cell's value, with a class's name instead of its number; negative numbers mean no class."""
    if not isinstance(feature, datasets.ClassLabel) or value is None:
        return value
    return feature.int2str(value) if value >= 0 else None


def _decode_row(
    sounds: datasets.Dataset, row: int, column: str, homes: Sequence[Path] | None, before_long: Callable[[], object]
) -> audio.DecodedClip:
    sound = sounds[row][column]
    if sound is None or (sound["bytes"] is None and sound["path"] is None):
        raise audio.AudioError("empty", f"row {row} has no sound")
    if sound["bytes"] is not None:
        return audio.decode_clip(sound["bytes"], f"row {row}", before_long)
    if homes is not None and not any(is_below(sound["path"], home) for home in homes):
        raise audio.AudioError("unreadable", f"row {row} names {sound['path']}, which is no file of the data set")
    return audio.decode_clip(Path(sound["path"]), None, before_long)


def homes_of(name: str) -> list[Path]:
    """Return the folders with the files of a data set: its own, or the caches of the Hub and of `datasets`."""
    from huggingface_hub import constants

    own = [Path(name)] if Path(name).exists() else [Path(constants.HF_HUB_CACHE)]
    return [*own, Path(datasets.config.HF_DATASETS_CACHE)]


def open_dataset(name: str, split: str) -> datasets.Dataset:
    """Open a data set on the Hub, or one that `datasets` saved to disk."""
    check_path_or_hub_name(name)
    is_saved = any((Path(name) / file).is_file() for file in ("dataset_info.json", "dataset_dict.json"))
    if not is_saved:
        check_cache(datasets.config.HF_DATASETS_CACHE, "HF_DATASETS_CACHE or HF_HOME")
    try:
        if not is_saved:
            with offline_if_unreachable(Path(name).exists()):
                return datasets.load_dataset(name, split=split)
        saved = datasets.load_from_disk(name)
    except (OSError, ValueError, KeyError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"the data set {name!r} (split {split!r}) cannot be loaded: {reason}") from error
    if isinstance(saved, datasets.Dataset):
        return saved
    if split not in saved:
        raise InputError(f"the data set {name!r} has no split {split!r}; it has {', '.join(saved)}")
    return saved[split]
