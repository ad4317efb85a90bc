"""The loss of a clip is computed over the classes that its corpus contains."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from ser_ft.training.losses import class_priors, clip_losses

ALL_ALLOWED = torch.ones(5, 4, dtype=torch.bool)
LABELS = torch.tensor([0, 1, 2, 3, 0])
ONE_HOT = torch.nn.functional.one_hot(LABELS, 4).float()


def random_logits(scale: float = 3.0) -> torch.Tensor:
    return (scale * torch.randn(5, 4, generator=torch.Generator().manual_seed(0))).requires_grad_()


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_with_all_classes_it_is_torchs_cross_entropy(smoothing: float) -> None:
    logits = random_logits()
    expected = cross_entropy(logits, LABELS, reduction="none", label_smoothing=smoothing)
    torch.testing.assert_close(clip_losses(logits, ONE_HOT, ALL_ALLOWED, smoothing), expected)


def test_with_soft_targets_it_is_torchs_cross_entropy() -> None:
    logits, targets = random_logits(), torch.rand(5, 4).softmax(dim=1)
    expected = cross_entropy(logits, targets, reduction="none", label_smoothing=0.2)
    torch.testing.assert_close(clip_losses(logits, targets, ALL_ALLOWED, 0.2), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("options", [{}, {"focal_gamma": 2.0}, {"logit_offsets": torch.tensor([0.0, -1, -2, -0.5])}])
def test_classes_that_a_corpus_lacks_get_no_gradient(smoothing: float, options: dict[str, Any]) -> None:
    logits, allowed = random_logits(), ALL_ALLOWED.clone()
    allowed[1:3, 0] = allowed[0, 3] = False
    clip_losses(logits, ONE_HOT, allowed, smoothing, **options).sum().backward()
    assert torch.equal(logits.grad != 0, allowed)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_focal_loss_is_that_of_lin_et_al(gamma: float) -> None:
    logits = random_logits()
    probabilities = logits.detach().double().softmax(dim=1).numpy()
    chosen = probabilities[np.arange(5), LABELS]
    losses = clip_losses(logits, ONE_HOT, ALL_ALLOWED, focal_gamma=gamma)
    np.testing.assert_allclose(losses.detach(), -((1 - chosen) ** gamma) * np.log(chosen), rtol=1e-5)
    soft = torch.rand(5, 4, generator=torch.Generator().manual_seed(1)).softmax(dim=1)
    smoothed = 0.9 * soft.numpy() + 0.1 / 4
    expected = -(smoothed * (1 - probabilities) ** gamma * np.log(probabilities)).sum(axis=1)
    np.testing.assert_allclose(clip_losses(logits, soft, ALL_ALLOWED, 0.1, gamma).detach(), expected, rtol=1e-5)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_loss_has_finite_gradients_where_a_class_is_certain(gamma: float) -> None:
    logits = torch.tensor([[500.0, 0, -500, 0], [-500.0, 0, 500, 0]], requires_grad=True)
    losses = clip_losses(logits, ONE_HOT[[0, 0]], ALL_ALLOWED[:2], 0.1, gamma)
    losses.sum().backward()
    assert torch.isfinite(losses).all()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("tau", [0.5, 1.0])
def test_logit_adjusted_loss_is_that_of_menon_et_al(tau: float) -> None:
    """Their equation 10: log(1 + sum over other classes of (prior of the other / prior of y)^tau e^(other - y))."""
    logits, priors = random_logits(), np.array([0.5, 0.3, 0.15, 0.05])
    offsets = torch.from_numpy(tau * np.log(priors)).float().expand(5, 4)
    scores = logits.detach().double().numpy()
    expected = [
        math.log1p(sum((priors[k] / priors[y]) ** tau * math.exp(row[k] - row[y]) for k in range(4) if k != y))
        for row, y in zip(scores, LABELS.tolist(), strict=True)
    ]
    losses = clip_losses(logits, ONE_HOT, ALL_ALLOWED, logit_offsets=offsets)
    np.testing.assert_allclose(losses.detach(), expected, rtol=1e-5)


def test_priors_are_those_of_training_clips_of_corpora_with_the_same_classes() -> None:
    wide, narrow = [True, True, True], [True, False, True]
    allowed = np.array([wide] * 6 + [narrow] * 5)
    labels = [0, 0, 0, 1, 2, 2, 0, 2, 2, 2, 0]
    targets = np.eye(3, dtype=np.float32)[labels]
    priors = class_priors(targets, allowed, np.array([0, 1, 2, 3, 6, 7, 8, 9]))
    # The last two clips of the first corpus and the last of the second are not trained on; a class without clips
    # counts as one.
    np.testing.assert_allclose(priors[:6], [[3 / 5, 1 / 5, 1 / 5]] * 6)
    np.testing.assert_allclose(priors[6:], [[1 / 4, 0, 3 / 4]] * 5)
    targets[0] = [0.5, 0.5, 0]
    soft = class_priors(targets, allowed, np.arange(4))
    np.testing.assert_allclose(soft[0], [2.5 / 5, 1.5 / 5, 1 / 5])


def test_values_computed_by_hand() -> None:
    logits = torch.tensor([[math.log(2), math.log(3), math.log(5), 50.0]])
    targets, allowed = torch.tensor([[0.0, 1, 0, 0]]), torch.tensor([[True, True, True, False]])
    assert clip_losses(logits, targets, allowed).item() == pytest.approx(-math.log(3 / 10))
    smooth = -(0.9 * math.log(3 / 10) + 0.1 / 3 * (math.log(2 / 10) + math.log(3 / 10) + math.log(5 / 10)))
    assert clip_losses(logits, targets, allowed, 0.1).item() == pytest.approx(smooth)
    soft = torch.tensor([[0.5, 0.0, 0.5, 0]])
    assert clip_losses(logits, soft, allowed).item() == pytest.approx(-0.5 * (math.log(2 / 10) + math.log(5 / 10)))


@pytest.mark.parametrize("gamma", [0.0, 0.5])
def test_a_clip_whose_corpus_has_one_class_has_no_loss(gamma: float) -> None:
    logits = random_logits()
    losses = clip_losses(logits, ONE_HOT, ONE_HOT.bool(), 0.1, gamma)
    losses.sum().backward()
    assert not losses.any()
    assert not logits.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_logits_in_half_precision_give_finite_losses(dtype: torch.dtype) -> None:
    logits = random_logits(scale=2e4).detach().clamp(-6e4, 6e4).to(dtype).requires_grad_()
    allowed = ALL_ALLOWED.clone()
    allowed[1:3, 0] = False
    losses = clip_losses(logits, ONE_HOT, allowed, 0.1)
    assert losses.dtype == torch.float32
    losses.sum().backward()
    assert torch.isfinite(losses).all()
    assert torch.isfinite(logits.grad).all()
    torch.testing.assert_close(losses, clip_losses(logits.detach().float(), ONE_HOT, allowed, 0.1))
