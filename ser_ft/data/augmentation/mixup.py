"""Mixing the clips of a batch in pairs (Zhang et al. 2018)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch

from .waveform import mixed, mixup_share


@dataclass(frozen=True)
class Mixup:
    """Who is mixed with whom in a batch, and by which share.

    Attributes:
        share: of the clip itself, a half or more: what is seen is drawn as by any share, for partners are drawn evenly,
            and a mixed clip is most of all the clip whose label is counted.
        partners: each clip's partner, by its place in the batch, shape (clips,).
    """

    share: float
    partners: torch.Tensor

    @classmethod
    def draw(cls, alpha: float, clips: int, seed: tuple[int, ...]) -> Mixup:
        """Draw a batch's mixing, the same for one seed.

        Args:
            alpha: of the Beta distribution that the share is drawn from. clips: in the batch. seed: any numbers.
        """
        said = hashlib.sha256(repr(seed).encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(said[:8], "big") >> 1)
        share = mixup_share(alpha, generator)
        return cls(max(share, 1 - share), torch.randperm(clips, generator=generator))

    def inputs(self, name: str, values: torch.Tensor) -> torch.Tensor:
        """Mix what a model is called with; a mask comes to cover the longer of two clips."""
        if name.endswith("mask"):
            return torch.maximum(values, values[self.partners.to(values.device)])
        return self.shares(values)

    def shares(self, values: torch.Tensor) -> torch.Tensor:
        """Mix numbers of clips, shape (clips, ...)."""
        return mixed(values, self.partners.to(values.device), self.share)

    def either(self, allowed: torch.Tensor) -> torch.Tensor:
        """Return what either of two clips allows, bool, shape (clips, classes)."""
        return allowed | allowed[self.partners.to(allowed.device)]
