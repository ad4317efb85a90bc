"""The loss of a clip runs over the classes that its corpus can hold."""

from __future__ import annotations

import torch


def clip_losses(
    logits: torch.Tensor, targets: torch.Tensor, allowed: torch.Tensor, smoothing: float = 0.0
) -> torch.Tensor:
    """Return the cross entropy of each clip over the classes its corpus can hold.

    CREMA-D has no calm: were its clips taught that they are not calm, their sound itself would come to mean it.

    Args:
        logits: shape (clips, classes). targets: shares of each class, shape (clips, classes), rows sum to one.
        allowed: which classes the clip's corpus can hold, bool, shape (clips, classes).
        smoothing: share of the target that is spread over the allowed classes (Szegedy et al. 2016).

    Returns:
        Losses, float32, shape (clips,).
    """
    held = allowed.float()
    goal = (1 - smoothing) * targets.float() + smoothing * held / held.sum(dim=1, keepdim=True)
    scores = logits.float().masked_fill(~allowed, -torch.inf).log_softmax(dim=1)
    return -(goal * scores.masked_fill(~allowed, 0.0)).sum(dim=1)
