"""The loss of a clip is computed over the classes that its corpus contains."""

import math

import pytest
import torch

from ser_ft.training.losses import clip_losses

ALL_ALLOWED = torch.ones(5, 4, dtype=torch.bool)
LABELS = torch.tensor([0, 1, 2, 3, 0])
ONE_HOT = torch.nn.functional.one_hot(LABELS, 4).float()


def random_logits(scale: float = 3.0) -> torch.Tensor:
    return (scale * torch.randn(5, 4, generator=torch.Generator().manual_seed(0))).requires_grad_()


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_with_all_classes_it_is_torchs_cross_entropy(smoothing: float) -> None:
    logits = random_logits()
    expected = torch.nn.functional.cross_entropy(logits, LABELS, reduction="none", label_smoothing=smoothing)
    torch.testing.assert_close(clip_losses(logits, ONE_HOT, ALL_ALLOWED, smoothing), expected)


def test_with_soft_targets_it_is_torchs_cross_entropy() -> None:
    logits, targets = random_logits(), torch.rand(5, 4).softmax(dim=1)
    expected = torch.nn.functional.cross_entropy(logits, targets, reduction="none", label_smoothing=0.2)
    torch.testing.assert_close(clip_losses(logits, targets, ALL_ALLOWED, 0.2), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_classes_that_a_corpus_lacks_get_no_gradient(smoothing: float) -> None:
    logits, allowed = random_logits(), ALL_ALLOWED.clone()
    allowed[1:3, 0] = allowed[0, 3] = False
    clip_losses(logits, ONE_HOT, allowed, smoothing).sum().backward()
    assert torch.equal(logits.grad != 0, allowed)


def test_values_computed_by_hand() -> None:
    logits = torch.tensor([[math.log(2), math.log(3), math.log(5), 50.0]])
    targets, allowed = torch.tensor([[0.0, 1, 0, 0]]), torch.tensor([[True, True, True, False]])
    assert clip_losses(logits, targets, allowed).item() == pytest.approx(-math.log(3 / 10))
    smooth = -(0.9 * math.log(3 / 10) + 0.1 / 3 * (math.log(2 / 10) + math.log(3 / 10) + math.log(5 / 10)))
    assert clip_losses(logits, targets, allowed, 0.1).item() == pytest.approx(smooth)
    soft = torch.tensor([[0.5, 0.0, 0.5, 0]])
    assert clip_losses(logits, soft, allowed).item() == pytest.approx(-0.5 * (math.log(2 / 10) + math.log(5 / 10)))


def test_a_clip_whose_corpus_has_one_class_has_no_loss() -> None:
    logits = random_logits()
    losses = clip_losses(logits, ONE_HOT, ONE_HOT.bool(), 0.1)
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
