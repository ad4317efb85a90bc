"""Labels, targets and allowed classes of clips, and the batches of each training step."""

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
    """The clips of a prepared table, ready for a model with `classes`.

    Labels are class numbers, -1 for a clip of another class. `targets` (float32 probabilities) and `allowed` (whether
    the clip's corpus contains the class) have shape (clips, classes).
    """

    batch_source: BatchSource
    classes: tuple[str, ...]
    labels: np.ndarray
    targets: np.ndarray
    allowed: np.ndarray
    corpora: list[str]

    @classmethod
    def from_table(cls, table: datasets.Dataset, batch_source: BatchSource, classes: Sequence[str]) -> ClipData:
        """Read labels and targets from a prepared table; its column `votes`, if any, gives soft targets."""
        names = table.features["emotion"].names
        class_numbers = np.array([classes.index(name) if name in classes else -1 for name in names])
        labels = class_numbers[np.array(table["emotion"], dtype=np.int64)]
        corpora = list(table["corpus"])
        allowed = allowed_classes(corpora, corpus_info(table), classes)
        targets = np.eye(len(classes), dtype=np.float32)[labels]
        if "votes" in table.column_names:
            votes = np.array(table["votes"], dtype=np.float32)[:, [names.index(name) for name in classes]]
            targets = votes if len(classes) == len(names) else votes / np.maximum(votes.sum(axis=1), 1e-6)[:, None]
        return cls(batch_source, tuple(classes), labels, targets, allowed, corpora)


def allowed_classes(
    corpora: Sequence[str], info: Mapping[str, Mapping[str, Any]], classes: Sequence[str]
) -> np.ndarray:
    """Return which classes each clip's corpus contains, bool, shape (clips, classes).

    `info` describes each corpus: see `ser_ft.data.prepare.corpus_info`.
    """
    rows = {name: np.array([label in corpus["classes"] for label in classes]) for name, corpus in info.items()}
    return np.stack([rows[corpus] for corpus in corpora])


def iter_steps(
    rows: np.ndarray,
    batches: list[list[int]],
    collate: Callable[[list[int]], Batch],
    accumulation_steps: int,
    seed: int,
    num_workers: int = 0,
    pin_memory: bool = False,
) -> Iterator[list[Batch]]:
    """Yield the batches of each training step, which `collate` makes from row numbers.

    `batches` are positions in `rows`. `num_workers` processes load the batches (0: this process), into pinned memory,
    from which copies to a GPU are fast, if `pin_memory` is set.
    """
    loader = DataLoader(
        rows.tolist(),
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=num_workers,
        pin_memory=pin_memory,
        # By default a loader advances torch's global generator, which would change the result after a resume.
        generator=torch.Generator().manual_seed(seed),
    )
    step: list[Batch] = []
    for batch in loader:
        step.append(batch)
        if len(step) == accumulation_steps:
            yield step
            step = []
