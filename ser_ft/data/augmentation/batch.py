"""Augmentation of a batch of features in training: SpecAugment masks and mixup."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch

from ...utils.errors import InputError
from .parameters import check_integer, is_fraction


@dataclass
class SpecAugment:
    """Settings of the masks over frames and frequency bands (Park et al. 2019, SpecAugment)."""

    num_time_masks: int = 2
    """Masks over time in each clip."""

    time_mask_width: float = 0.1
    """Widest mask over time, as a fraction of the clip's frames."""

    num_freq_masks: int = 2
    """Masks over frequency bands in each clip."""

    freq_mask_width: float = 0.15
    """Widest mask over frequency bands, as a fraction of the bands."""

    def __post_init__(self) -> None:
        for name in ("num_time_masks", "num_freq_masks"):
            check_integer(getattr(self, name), f"spec_augment.{name}", 0, 100)
        for name in ("time_mask_width", "freq_mask_width"):
            if not is_fraction(getattr(self, name)):
                raise InputError(f"spec_augment.{name} must be a number from 0 to 1, not {getattr(self, name)!r}")


def spec_augment(
    features: torch.Tensor, mask: torch.Tensor, generator: torch.Generator, settings: SpecAugment
) -> torch.Tensor:
    """Mask stretches of time and of frequency bands in a batch of features (Park et al. 2019).

    The width of a mask is uniform between 0 and the widest, and so is its position. Masked values become the mean of
    the clip's real frames in the same band. Padding frames are not changed. `features` has the shape (clips, frames,
    bands); `mask`, shape (clips, frames), is true (or 1) for real frames, which come first in each clip.
    """
    real = mask.to(device=features.device, dtype=torch.bool)
    lengths = real.sum(dim=1)

    def masked_positions(count: int, max_width: float, sizes: torch.Tensor, num_positions: int) -> torch.Tensor:
        draws = torch.rand((2, len(features), count), generator=generator, device=generator.device)
        width_fraction, start_fraction = draws.to(features.device)
        widths = torch.floor(width_fraction * (torch.floor(max_width * sizes)[:, None] + 1))
        starts = torch.floor(start_fraction * (sizes[:, None] - widths + 1))
        positions = torch.arange(num_positions, device=features.device)
        inside = (positions >= starts[..., None]) & (positions < (starts + widths)[..., None])
        return inside.any(dim=1)

    frames = masked_positions(settings.num_time_masks, settings.time_mask_width, lengths, features.shape[1])
    sizes = torch.full_like(lengths, features.shape[2])
    bands = masked_positions(settings.num_freq_masks, settings.freq_mask_width, sizes, features.shape[2])
    masked = (frames[:, :, None] | bands[:, None, :]) & real[:, :, None]
    summed = torch.where(real[:, :, None], features, torch.zeros_like(features)).sum(dim=1, keepdim=True)
    return torch.where(masked, summed / lengths.clamp(min=1)[:, None, None], features)


@dataclass(frozen=True)
class Mixup:
    """Mixes the clips of a batch in pairs (Zhang et al. 2018)."""

    # Weight of the clip itself, between 0.5 and 1; its partner has the rest. Weights under 0.5 are mirrored: since
    # partners are uniform, the mixtures have the same distribution, and most of a mixed clip is the clip whose label is
    # counted.
    weight: float
    partners: torch.Tensor  # index of each clip's partner in the batch, shape (clips,)

    @classmethod
    def sample(cls, alpha: float, num_clips: int, seed: tuple[int, ...]) -> Mixup:
        """Sample the weight from Beta(alpha, alpha), and the partners, reproducibly for any integers `seed`."""
        digest = hashlib.sha256(repr(seed).encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        weight = sample_mixup_weight(alpha, generator)
        return cls(max(weight, 1 - weight), torch.randperm(num_clips, generator=generator))

    def mix(self, values: torch.Tensor) -> torch.Tensor:
        """Mix a tensor of the batch with the partners' values, shape (clips, ...)."""
        return self.weight * values + (1 - self.weight) * values[self.partners.to(values.device)]

    def mix_input(self, name: str, values: torch.Tensor) -> torch.Tensor:
        """Mix an input of the model; an attention mask becomes that of the longer clip of a pair."""
        if name.endswith("mask"):
            return values.maximum(values[self.partners.to(values.device)])
        return self.mix(values)

    def allowed_by_either(self, allowed: torch.Tensor) -> torch.Tensor:
        """Return which classes either clip of a pair allows, bool, shape (clips, classes)."""
        return allowed | allowed[self.partners.to(allowed.device)]


def sample_mixup_weight(alpha: float, generator: torch.Generator) -> float:
    """Sample the weight of a clip in mixup from Beta(alpha, alpha) (Zhang et al. 2018)."""
    if not 0 < alpha < float("inf"):
        raise InputError(f"mixup's alpha must be a number above 0, not {alpha!r}")
    seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
    return float(np.random.default_rng(seed).beta(alpha, alpha))
