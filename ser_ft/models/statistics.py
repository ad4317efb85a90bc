"""Statistics over time: one row of numbers for a clip of any length."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

# Of float32, in sums over frames: what varies less does not vary.
_ROUNDING = 1e-5
_QUANTILES = {"quartile-25": 0.25, "median": 0.5, "quartile-75": 0.75}
_MOMENTS = {"mean", "deviation", "skewness", "kurtosis"}
_OF_FRAMES = ("mean", "deviation", "minimum", *_QUANTILES, "maximum", "skewness", "kurtosis")
FUNCTIONALS = (*_OF_FRAMES, *(f"change-{name}" for name in _OF_FRAMES))


def statistics(features: torch.Tensor, mask: torch.Tensor, functionals: Sequence[str] = FUNCTIONALS) -> torch.Tensor:
    """Sum up each clip's frames.

    Args:
        features: shape (clips, frames, size). mask: shape (clips, frames), 1 where a frame is real, these first.
        functionals: of `FUNCTIONALS`. Those that begin with "change-" are of the differences from frame to frame,
            and 0 for a clip of one frame. Kurtosis is that above a normal distribution's; it and the skewness are 0
            where nothing varies. Quantiles lie between frames as NumPy's do.

    Returns:
        Shape (clips, functionals x size): all columns of the first functional, then of the second, and so on.

    Raises:
        ValueError: a functional is unknown, or a clip has no real frame.
    """
    unknown = [name for name in functionals if name not in FUNCTIONALS]
    if unknown or not functionals:
        raise ValueError(f"functionals must be some of {', '.join(FUNCTIONALS)}, not {', '.join(unknown) or 'none'}")
    counts = mask.sum(dim=1).long()
    if not bool((counts > 0).all()):
        raise ValueError("a clip has no real frame")
    found = _summed(features, counts, [name for name in functionals if not name.startswith("change-")])
    changed = [name.removeprefix("change-") for name in functionals if name.startswith("change-")]
    if changed:
        step = torch.zeros_like(features)
        step[:, :-1] = features[:, 1:] - features[:, :-1]
        step[counts == 1] = 0
        of_changes = _summed(step, (counts - 1).clamp(min=1), changed)
        found |= {f"change-{name}": values for name, values in of_changes.items()}
    return torch.cat([found[name] for name in functionals], dim=1)


def _summed(features: torch.Tensor, counts: torch.Tensor, names: Sequence[str]) -> dict[str, torch.Tensor]:
    """Compute functionals of the first `counts` frames of each clip, each of shape (clips, size)."""
    real = torch.arange(features.shape[1], device=features.device) < counts[:, None]
    found: dict[str, torch.Tensor] = {}
    if _MOMENTS & set(names):
        found |= _moments(features, real.to(features.dtype), names)
    if not {"minimum", "maximum", *_QUANTILES}.isdisjoint(names):
        ordered = _sorted(features.masked_fill(~real[..., None], torch.inf))
        at = _reader(ordered, counts)
        found |= {"minimum": ordered[:, 0], "maximum": at(1.0)}
        found |= {name: at(share) for name, share in _QUANTILES.items()}
    return found


def _moments(features: torch.Tensor, real: torch.Tensor, names: Sequence[str]) -> dict[str, torch.Tensor]:
    """Compute the moments that are asked for, and those that they need."""
    shares = (real / real.sum(dim=1, keepdim=True))[:, None]

    def average(values: torch.Tensor) -> torch.Tensor:
        return (shares @ values)[:, 0]

    found = {"mean": average(features)}
    if _MOMENTS & set(names) == {"mean"}:
        return found
    apart = (features - found["mean"][:, None]).mul_(real[..., None])
    deviation = average(apart.square()).sqrt()
    varies = deviation > _ROUNDING * found["mean"].abs()
    found["deviation"] = deviation * varies
    if {"skewness", "kurtosis"}.isdisjoint(names):
        return found
    apart /= deviation.where(varies, torch.inf)[:, None]
    square = apart.square()
    return found | {"skewness": average(square * apart), "kurtosis": (average(square.square()) - 3) * varies}


def _sorted(values: torch.Tensor) -> torch.Tensor:
    """Sort along the second axis."""
    if values.is_cuda:
        return values.sort(dim=1).values
    # Ten times as fast: torch also finds where each value came from.
    return torch.from_numpy(np.sort(values.numpy(), axis=1))


def _reader(ordered: torch.Tensor, counts: torch.Tensor) -> Callable[[float], torch.Tensor]:
    """Return what reads a quantile off sorted frames, linear between two."""

    def at(share: float) -> torch.Tensor:
        place = share * (counts - 1)
        low = place.floor().long()
        rows = torch.arange(len(ordered), device=ordered.device)
        high = torch.minimum(low + 1, counts - 1)
        return torch.lerp(ordered[rows, low], ordered[rows, high], (place - low)[:, None].to(ordered.dtype))

    return at
