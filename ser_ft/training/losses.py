"""The loss of a clip, over the classes that its corpus contains."""

from __future__ import annotations

import torch


def clip_losses(
    logits: torch.Tensor, targets: torch.Tensor, allowed: torch.Tensor, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Return the cross entropy of each clip over the classes that its corpus contains.

    CREMA-D has no calm. If its clips were trained as examples of "not calm", the model would learn to recognize the
    corpus instead of the emotion.

    Args:
        logits: shape (clips, classes).
        targets: target probabilities, shape (clips, classes); each row sums to one.
        allowed: the classes that the clip's corpus contains, bool, shape (clips, classes).
        label_smoothing: fraction of the target that is spread over the allowed classes (Szegedy et al. 2016).

    Returns:
        Losses, float32, shape (clips,).
    """
    mask = allowed.float()
    smoothed = (1 - label_smoothing) * targets.float() + label_smoothing * mask / mask.sum(dim=1, keepdim=True)
    log_probabilities = logits.float().masked_fill(~allowed, -torch.inf).log_softmax(dim=1)
    return -(smoothed * log_probabilities.masked_fill(~allowed, 0.0)).sum(dim=1)
