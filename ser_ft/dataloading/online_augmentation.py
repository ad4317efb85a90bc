"""Augmentation of training clips on the fly: other versions of each clip in each epoch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from .. import audio
from ..data.augmentation.batch import SpecAugment, spec_augment
from ..data.augmentation.spectrogram import SpectralAugment, spectral_augment
from ..data.augmentation.waveform import Augment

if TYPE_CHECKING:
    import datasets

    from ..config.schema import AugmentConfig


@dataclass(frozen=True)
class OnlineAugmentation:
    """Augments training clips: waveforms, log-mel spectrograms, and masks over time and frequency (None: not).

    The result depends only on the seed, the epoch and the clips.
    """

    table: datasets.Dataset
    seed: int
    waveform: Augment | None = None
    spectral: SpectralAugment | None = None
    spec_augment: SpecAugment | None = None

    @classmethod
    def from_config(cls, table: datasets.Dataset, config: AugmentConfig, seed: int) -> OnlineAugmentation | None:
        """Return the augmentation that a recipe describes; None if it augments nothing on the fly."""
        waveform = Augment(config.transforms, seed=seed) if config.online else None
        masks = None if config.spec_augment is None else SpecAugment(**config.spec_augment)
        spectral = None if config.spectral is None else SpectralAugment(**config.spectral)
        return cls(table, seed, waveform, spectral, masks) if waveform or spectral or masks else None

    def waveforms(self, rows: Sequence[int], epoch: int) -> list[np.ndarray]:
        """Return the augmented waveforms of clips, each float32 of shape (samples,)."""
        assert self.waveform is not None
        clips = self.table.select_columns(["id", "audio"])[list(rows)]
        waveforms = [audio.from_wav(sound["bytes"]) for sound in clips["audio"]]
        return [self.waveform.apply(wave, name, epoch) for wave, name in zip(waveforms, clips["id"], strict=True)]

    def mask_features(self, batch: dict[str, torch.Tensor], rows: Sequence[int], epoch: int) -> dict[str, torch.Tensor]:
        """Apply SpecAugment to the features of a batch."""
        if self.spec_augment is None:
            return batch
        generator = self._generator(rows, epoch)
        masked = spec_augment(batch["input_features"], batch["attention_mask"], generator, self.spec_augment)
        return batch | {"input_features": masked}

    def augment_spectrograms(
        self, features: torch.Tensor, lengths: torch.Tensor, rows: Sequence[int], epoch: int, hop_seconds: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Augment log-mel spectrograms: see `ser_ft.data.augmentation.spectrogram.spectral_augment`."""
        assert self.spectral is not None
        return spectral_augment(features, lengths, self._generator((-1, *rows), epoch), self.spectral, hop_seconds)

    def _generator(self, rows: Sequence[int], epoch: int) -> torch.Generator:
        key = f"{self.seed} {epoch} {list(rows)}".encode()
        return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(key).digest()[:8], "big") >> 1)
