"""What the training loop is fed: cached frames, targets, and which classes each clip's corpus can hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..data.prepare import about
from ..results.evaluation import held_classes
from .cache import FlatCache

if TYPE_CHECKING:
    import datasets


@dataclass
class Inputs:
    """The clips of a prepared table, ready for a model.

    Attributes:
        frames: cached frames of every clip. classes: in the order of their numbers.
        labels: class numbers, shape (clips,). targets: shares of each class, float32, shape (clips, classes).
        allowed: which classes the clip's corpus can hold, bool, shape (clips, classes).
        corpora: of each clip.
    """

    frames: FlatCache
    classes: tuple[str, ...]
    labels: np.ndarray
    targets: np.ndarray
    allowed: np.ndarray
    corpora: list[str]

    @classmethod
    def of(cls, table: datasets.Dataset, frames: FlatCache) -> Inputs:
        """Gather the inputs of a prepared table; a column `votes` makes soft targets."""
        classes = tuple(table.features["emotion"].names)
        labels = np.array(table["emotion"], dtype=np.int64)
        corpora = list(table["corpus"])
        allowed = held_classes(corpora, about(table), classes)
        if "votes" in table.column_names:
            targets = np.array(table["votes"], dtype=np.float32)
        else:
            targets = np.eye(len(classes), dtype=np.float32)[labels]
        return cls(frames, classes, labels, targets, allowed, corpora)

    def collate(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        """Pad the frames of clips, by row, to the longest: input_features and attention_mask."""
        lengths = self.frames.lengths[list(rows)]
        features = np.zeros((len(rows), lengths.max(), self.frames.size), dtype=np.float32)
        for place, row in enumerate(rows):
            features[place, : lengths[place]] = self.frames[row]
        mask = np.arange(features.shape[1]) < lengths[:, None]
        return {"input_features": torch.from_numpy(features), "attention_mask": torch.from_numpy(mask).long()}


class TrainingClips(torch.utils.data.Dataset[int]):
    """The rows that batches are made of, as `torch.utils.data.DataLoader` wants them."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> int:
        return int(self.rows[place])
