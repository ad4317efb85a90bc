"""The clips of a run: loads the recordings, splits them, and makes augmented copies of training clips."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config.schema import AugmentConfig, DataConfig, SplitConfig
from ..data.augmentation.waveform import Augment, augment_table
from ..data.prepare import MINIATURE, find_prepared, load_corpora, load_table, open_prepared
from ..data.splits import Split, make_split, read_split_file
from ..evaluation.provenance import speakers_seen_in_training
from ..utils.caches import cache_home
from ..utils.errors import InputError
from ..utils.files import check_inputs

if TYPE_CHECKING:
    import datasets


def check_sources(data: DataConfig, split: SplitConfig) -> None:
    """Raise InputError if a file that a recipe names does not exist: call this before anything is read."""
    if data.prepared is not None:
        find_prepared(data.prepared)
    elif data.dataset is None and data.roots != MINIATURE:
        roots = data.roots.values() if isinstance(data.roots, Mapping) else data.roots
        check_inputs(Path(root).expanduser() for root in ([roots] if isinstance(roots, str) else roots))
    if split.kind == "file":
        read_split_file(split.file)


def load_data(data: DataConfig, verbose: bool = True) -> datasets.Dataset:
    """Load the recordings that a recipe names, as a prepared table.

    Raises:
        InputError: they do not exist or cannot be used, or the cache of what is computed from them cannot be written.
    """
    cache_home()
    if data.prepared is not None:
        return open_prepared(data.prepared)
    if data.dataset is not None:
        return load_table(
            data.dataset, data.columns, split=data.dataset_split, labels=data.labels, calm=data.calm, verbose=verbose
        )
    return load_corpora(
        data.roots,
        data.labels,
        data.calm,
        include_song=data.include_song,
        cremad_labels=data.cremad_labels,
        notes=data.notes,
        verbose=verbose,
    )


def split_for_training(table: datasets.Dataset, config: SplitConfig) -> Split:
    """Split a table, and check that a classifier can be trained and tested on the parts.

    Raises:
        InputError: the split does not fit the data, fewer than two classes are left to train on, or no test clip has a
            class that is trained on.
    """
    split = make_split(table, **asdict(config))
    labels, rows = np.array(table["emotion"]), split.row_indices(table)
    learned = np.unique(labels[rows["train"]])
    if len(learned) < 2:
        raise InputError(
            f"the split {split.name!r}: only one class is left to train on; at least two classes are needed"
        )
    if not np.isin(labels[rows["test"]], learned).any():
        raise InputError(f"the split {split.name!r}: no test clip has a class that is trained on")
    return split


def split_content(split: Split, model: str) -> dict[str, Any]:
    """Return the content of a run's split.json: the split, and the speakers that the model has seen before."""
    seen = speakers_seen_in_training(model, ("train", "validation"))
    return split.to_dict() | ({"seen": sorted(seen)} if seen else {})


def learned_classes(table: datasets.Dataset, train_rows: np.ndarray) -> tuple[str, ...]:
    """Return the classes of the training clips, in the order of their numbers."""
    names = table.features["emotion"].names
    return tuple(names[label] for label in np.unique(np.array(table["emotion"])[train_rows]))


def augmented_copies(
    clips: datasets.Dataset, augment: AugmentConfig, seed: int, show_progress: bool = False
) -> list[datasets.Dataset]:
    """Return a table of the augmented copies of training clips; none if the recipe asks for no copies."""
    if not augment.copies:
        return []
    transforms = Augment(augment.transforms, copies=augment.copies, seed=seed, originals=False)
    copies = augment_table(clips, transforms, progress=show_progress)
    assert set(copies["source"]) <= set(clips["id"]), "a copy of a clip that is not a training clip"
    return [copies.select_columns(clips.column_names)]
