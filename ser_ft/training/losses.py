"""The loss of a clip, over the classes that its corpus contains."""

from __future__ import annotations

import numpy as np
import torch

_TINY = torch.finfo(torch.float32).tiny


def clip_losses(
    logits: torch.Tensor,
    targets: torch.Tensor,
    allowed: torch.Tensor,
    label_smoothing: float = 0.0,
    focal_gamma: float = 0.0,
    logit_offsets: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the loss of each clip over the classes that its corpus contains; by default the cross entropy.

    CREMA-D has no calm. If its clips were trained as examples of "not calm", the model would learn to recognize the
    corpus instead of the emotion.

    Args:
        logits: shape (clips, classes).
        targets: target probabilities, shape (clips, classes); each row sums to one.
        allowed: the classes that the clip's corpus contains, bool, shape (clips, classes).
        label_smoothing: fraction of the target that is spread over the allowed classes (Szegedy et al. 2016).
        focal_gamma: exponent of the focal loss (Lin et al. 2017, equation 4): the term of each class, with probability
            p, is multiplied by (1 - p) ** focal_gamma. 0: cross entropy.
        logit_offsets: added to the logits, shape (clips, classes). With the classes' log priors times tau, this is the
            logit-adjusted loss (Menon et al. 2021, equation 10). None: nothing is added.

    Returns:
        Losses, float32, shape (clips,).
    """
    mask = allowed.float()
    smoothed = (1 - label_smoothing) * targets.float() + label_smoothing * mask / mask.sum(dim=1, keepdim=True)
    scores = logits.float() if logit_offsets is None else logits.float() + logit_offsets
    log_probabilities = scores.masked_fill(~allowed, -torch.inf).log_softmax(dim=1).masked_fill(~allowed, 0.0)
    if focal_gamma:
        # The slope of a power below 1 is infinite at 0, where a class has the probability 1.
        log_probabilities = (-log_probabilities.expm1()).clamp(min=_TINY) ** focal_gamma * log_probabilities
    return -(smoothed * log_probabilities).sum(dim=1)


def class_priors(targets: np.ndarray, allowed: np.ndarray, train_rows: np.ndarray) -> np.ndarray:
    """Return the prior of each class for each clip: its frequency among training clips with the same allowed classes.

    The model learns to tell apart the classes of a clip's corpus only, so that other corpora's clips say nothing about
    their frequency. A class without training clips counts as one clip.

    Args:
        targets: target probabilities of all clips, shape (clips, classes).
        allowed: the classes that each clip's corpus contains, bool, shape (clips, classes).
        train_rows: row numbers of the training clips.

    Returns:
        Priors, float32, shape (clips, classes); zero for classes that are not allowed.
    """
    sets, members = np.unique(allowed, axis=0, return_inverse=True)
    priors = np.zeros(sets.shape, dtype=np.float32)
    for number, present in enumerate(sets):
        rows = train_rows[members[train_rows] == number]
        counts = targets[rows].sum(axis=0).clip(min=1.0) * present
        priors[number] = counts / counts.sum()
    return priors[members]
