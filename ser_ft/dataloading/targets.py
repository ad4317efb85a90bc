"""What the training loop is fed: cached frames, targets, and which classes each clip's corpus can hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader

from ..data.prepare import corpus_info
from .batches import BatchSource

if TYPE_CHECKING:
    import datasets

Batch = TypeVar("Batch")


@dataclass
class ClipData:
    """The clips of a prepared table, ready for a model.

    Attributes:
        feed: makes batches of them. classes: that the model tells apart, in the order of their numbers.
        labels: class numbers, shape (clips,); -1 for a clip whose class is none of them.
        targets: shares of each class, float32, shape (clips, classes).
        allowed: which classes the clip's corpus can hold, bool, shape (clips, classes).
        corpora: of each clip.
    """

    batch_source: BatchSource
    classes: tuple[str, ...]
    labels: np.ndarray
    targets: np.ndarray
    allowed: np.ndarray
    corpora: list[str]

    @classmethod
    def of(cls, table: datasets.Dataset, feed: BatchSource, classes: Sequence[str]) -> ClipData:
        """Gather the inputs of a table for the classes that are learned; a column `votes` makes soft targets."""
        names = table.features["emotion"].names
        places = [names.index(name) for name in classes]
        numbers = np.array([classes.index(name) if name in classes else -1 for name in names])
        labels = numbers[np.array(table["emotion"], dtype=np.int64)]
        corpora = list(table["corpus"])
        allowed = allowed_classes(corpora, corpus_info(table), classes)
        targets = np.eye(len(classes), dtype=np.float32)[labels]
        if "votes" in table.column_names:
            votes = np.array(table["votes"], dtype=np.float32)[:, places]
            targets = votes if len(classes) == len(names) else votes / np.maximum(votes.sum(axis=1), 1e-6)[:, None]
        return cls(feed, tuple(classes), labels, targets, allowed, corpora)


def allowed_classes(
    corpora: Sequence[str], facts: Mapping[str, Mapping[str, Any]], classes: Sequence[str]
) -> np.ndarray:
    """Return which classes each clip's corpus can hold, bool, shape (clips, classes).

    Args:
        corpora: of each clip. facts: as `ser_ft.data.prepare.corpus_info` gives them. classes: in the order of their numbers.
    """
    rows = {name: np.array([label in fact["classes"] for label in classes]) for name, fact in facts.items()}
    return np.stack([rows[corpus] for corpus in corpora])


class RowDataset(torch.utils.data.Dataset[int]):
    """The rows that batches are made of, as `torch.utils.data.DataLoader` wants them."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> int:
        return int(self.rows[place])


def iter_steps(
    rows: np.ndarray,
    batches: list[list[int]],
    collate: Callable[[list[int]], Batch],
    accumulation: int,
    seed: int,
    workers: int = 0,
    pinned: bool = False,
) -> Iterator[list[Batch]]:
    """Yield the batches of each step.

    Args:
        rows: of a table. batches: of places in `rows`. collate: from row numbers to a batch.
        accumulation: batches per step. seed: of a loader's workers. workers: processes that load; 0: this one.
        pinned: put batches where a GPU fetches them fast.
    """
    loader = DataLoader(
        RowDataset(rows),
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=pinned,
        # A loader draws its workers' seed from torch's own stream, which resuming must not move: it gets another.
        generator=torch.Generator().manual_seed(seed),
    )
    group: list[Batch] = []
    for batch in loader:
        group.append(batch)
        if len(group) == accumulation:
            yield group
            group = []
