"""What is fitted on training clips, and what is drawn for them anew in each epoch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from .. import audio
from ..config.schema import Recipe
from ..data.augmentation.batch import SpecAugment, spec_augment
from ..data.augmentation.spectrogram import SpectralAugment, spectral_augment
from ..data.augmentation.waveform import Augment
from ..models.features import SpectralFeatureExtractor, safe_scale
from .cache import Cache, extract_frames

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True)
class Standardizer:
    """How frames are standardised: by (frame - shift) / scale of their clip's group.

    Attributes:
        shift, scale: shape (groups, size), float32. groups: of each clip, shape (clips,).
    """

    shift: np.ndarray
    scale: np.ndarray
    groups: np.ndarray

    @classmethod
    def fit(
        cls, extractor: SpectralFeatureExtractor, frames: Cache, speakers: Sequence[str], fitted_on: np.ndarray
    ) -> Standardizer | None:
        """Fit what an extractor asks for; None where it asks for nothing.

        "training": one group, of the clips that are trained on; it is written into the extractor, too. "speaker": a
        group for each speaker, from all of their clips, unlabelled as they are to it.

        Args:
            extractor: whose `standardise` is read. frames: not yet standardised. speakers: of each clip.
            fitted_on: rows of the training clips.
        """
        if extractor.normalize == "training":
            groups = np.zeros(len(frames), dtype=np.int64)
            shift, scale = _moments(frames, groups, fitted_on, 1)
            extractor.mean, extractor.scale = shift[0].tolist(), scale[0].tolist()
            return cls(shift, scale, groups)
        if extractor.normalize == "speaker":
            names, groups = np.unique(np.array(speakers), return_inverse=True)
            return cls(*_moments(frames, groups, np.arange(len(frames)), len(names)), groups)
        return None

    def apply(self, frames: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        """Return the frames of clips, shape (clips, frames, size), standardised."""
        groups = self.groups[list(rows)]
        shift, scale = (torch.from_numpy(values[groups])[:, None] for values in (self.shift, self.scale))
        return (frames - shift) / scale


def _moments(frames: Cache, groups: np.ndarray, rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and deviation of the frames of each group's clips, float32, both of shape (groups, size)."""
    sums, squares = np.zeros((2, count, frames.size))
    totals = np.zeros((count, 1))
    for row in rows:
        values = frames[row].astype(np.float64)
        group = groups[row]
        sums[group] += values.sum(axis=0)
        squares[group] += np.square(values).sum(axis=0)
        totals[group] += len(values)
    totals = np.maximum(totals, 1)
    mean = sums / totals
    deviation = np.sqrt(np.maximum(squares / totals - np.square(mean), 0.0))
    scale = safe_scale(torch.from_numpy(mean), torch.from_numpy(deviation)).numpy()
    return mean.astype(np.float32), scale.astype(np.float32)


@dataclass(frozen=True)
class OnlineAugmentation:
    """Training clips as they are heard in an epoch: the same for one seed, epoch and clip, whoever asks.

    Attributes:
        table: of the clips. seed: of the draw.
        augment: of the sound, where it is drawn anew. spectral: of log-mel spectrograms. masks: of the frames.
    """

    table: datasets.Dataset
    seed: int
    augment: Augment | None = None
    spectral: SpectralAugment | None = None
    masks: SpecAugment | None = None

    @classmethod
    def of(cls, table: datasets.Dataset, recipe: Recipe) -> OnlineAugmentation | None:
        """Draw what a recipe says of a table's clips; None where it says nothing."""
        chosen = recipe.augment
        augment = Augment(chosen.transforms, seed=recipe.seed) if chosen.live else None
        masks = None if chosen.spec_augment is None else SpecAugment(**chosen.spec_augment)
        spectral = None if chosen.spectral is None else SpectralAugment(**chosen.spectral)
        return cls(table, recipe.seed, augment, spectral, masks) if augment or spectral or masks else None

    def waves(self, rows: Sequence[int], epoch: int) -> list[np.ndarray]:
        """Return the samples of clips, augmented, each float32 of shape (samples,)."""
        assert self.augment is not None
        found = self.table.select_columns(["id", "audio"])[list(rows)]
        sounds = [audio.from_wav(sound["bytes"]) for sound in found["audio"]]
        return [self.augment.apply(wave, name, epoch) for wave, name in zip(sounds, found["id"], strict=True)]

    def frames(self, rows: Sequence[int], epoch: int, extractor: SpectralFeatureExtractor) -> list[np.ndarray]:
        """Return the frames of augmented clips, each of shape (frames, size), not standardised."""
        return extract_frames(self.waves(rows, epoch), extractor)

    def masked(self, batch: dict[str, torch.Tensor], rows: Sequence[int], epoch: int) -> dict[str, torch.Tensor]:
        """Mask stretches of a batch's frames."""
        if self.masks is None:
            return batch
        generator = self._generator(rows, epoch)
        masked = spec_augment(batch["input_features"], batch["attention_mask"], generator, self.masks)
        return batch | {"input_features": masked}

    def heard(
        self,
        features: torch.Tensor,
        lengths: torch.Tensor,
        rows: Sequence[int],
        epoch: int,
        extractor: SpectralFeatureExtractor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Augment log-mel spectrograms: see `ser_ft.data.augmentation.spectrogram.spectral_augment`."""
        assert self.spectral is not None
        generator = self._generator((-1, *rows), epoch)
        seconds = extractor.hop_length / extractor.sampling_rate
        return spectral_augment(features, lengths, generator, self.spectral, seconds)

    def _generator(self, rows: Sequence[int], epoch: int) -> torch.Generator:
        said = f"{self.seed} {epoch} {list(rows)}".encode()
        return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(said).digest()[:8], "big") >> 1)
