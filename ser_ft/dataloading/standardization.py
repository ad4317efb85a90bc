"""Standardization of frames by statistics of the training clips or of each speaker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..models.features import SpectralFeatureExtractor, safe_scale
from .cache import Cache


@dataclass(frozen=True)
class Standardizer:
    """Standardizes frames: (frame - mean) / scale, with the statistics of the clip's group.

    Mean and scale are float32, shape (groups, size). `groups` is the group of each clip.
    """

    mean: np.ndarray
    scale: np.ndarray
    groups: np.ndarray

    @classmethod
    def fit(
        cls, extractor: SpectralFeatureExtractor, frames: Cache, speakers: Sequence[str], train_rows: np.ndarray
    ) -> Standardizer | None:
        """Fit the statistics that a feature extractor's `normalize` setting asks for; None if it needs none.

        With "training" all clips are one group, fitted on the training clips; the statistics are also written to the
        extractor. With "speaker" each speaker is a group, fitted on all of that speaker's clips, without labels.
        """
        if extractor.normalize == "training":
            groups = np.zeros(len(frames), dtype=np.int64)
            mean, scale = _group_statistics(frames, groups, train_rows, 1)
            extractor.mean, extractor.scale = mean[0].tolist(), scale[0].tolist()
            return cls(mean, scale, groups)
        if extractor.normalize == "speaker":
            names, groups = np.unique(np.array(speakers), return_inverse=True)
            return cls(*_group_statistics(frames, groups, np.arange(len(frames)), len(names)), groups)
        return None

    def apply(self, frames: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        """Return the standardized frames of clips, shape (clips, frames, size)."""
        groups = self.groups[list(rows)]
        mean, scale = (torch.from_numpy(values[groups])[:, None] for values in (self.mean, self.scale))
        return (frames - mean) / scale


def _group_statistics(
    frames: Cache, groups: np.ndarray, rows: np.ndarray, num_groups: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the scale of the frames of each group's clips, both float32, shape (groups, size)."""
    sums, squares = np.zeros((2, num_groups, frames.size))
    counts = np.zeros((num_groups, 1))
    for row in rows:
        values = frames[row].astype(np.float64)
        group = groups[row]
        sums[group] += values.sum(axis=0)
        squares[group] += np.square(values).sum(axis=0)
        counts[group] += len(values)
    counts = np.maximum(counts, 1)
    mean = sums / counts
    std = np.sqrt(np.maximum(squares / counts - np.square(mean), 0.0))
    scale = safe_scale(torch.from_numpy(mean), torch.from_numpy(std)).numpy()
    return mean.astype(np.float32), scale.astype(np.float32)
