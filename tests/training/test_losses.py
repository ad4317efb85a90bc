"""The loss of a clip runs over what its corpus can hold, and over nothing else."""

import math

import pytest
import torch

from ser_ft.training.losses import clip_losses

EVERYTHING = torch.ones(5, 4, dtype=torch.bool)
LABELS = torch.tensor([0, 1, 2, 3, 0])


def logits(scale: float = 3.0) -> torch.Tensor:
    return (scale * torch.randn(5, 4, generator=torch.Generator().manual_seed(0))).requires_grad_()


def one_hot() -> torch.Tensor:
    return torch.nn.functional.one_hot(LABELS, 4).float()


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_equals_torch_where_everything_can_be_held(smoothing: float) -> None:
    scores = logits()
    wanted = torch.nn.functional.cross_entropy(scores, LABELS, reduction="none", label_smoothing=smoothing)
    torch.testing.assert_close(clip_losses(scores, one_hot(), EVERYTHING, smoothing), wanted)


def test_soft_targets_equal_torchs() -> None:
    scores, targets = logits(), torch.rand(5, 4).softmax(dim=1)
    wanted = torch.nn.functional.cross_entropy(scores, targets, reduction="none", label_smoothing=0.2)
    torch.testing.assert_close(clip_losses(scores, targets, EVERYTHING, 0.2), wanted)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_what_a_corpus_cannot_hold_gets_no_gradient(smoothing: float) -> None:
    scores, allowed = logits(), EVERYTHING.clone()
    allowed[1:3, 0] = allowed[0, 3] = False
    clip_losses(scores, one_hot(), allowed, smoothing).sum().backward()
    assert torch.equal(scores.grad != 0, allowed)


def test_values_by_hand() -> None:
    scores = torch.tensor([[math.log(2), math.log(3), math.log(5), 50.0]])
    targets, allowed = torch.tensor([[0.0, 1, 0, 0]]), torch.tensor([[True, True, True, False]])
    assert clip_losses(scores, targets, allowed).item() == pytest.approx(-math.log(3 / 10))
    smooth = -(0.9 * math.log(3 / 10) + 0.1 / 3 * (math.log(2 / 10) + math.log(3 / 10) + math.log(5 / 10)))
    assert clip_losses(scores, targets, allowed, 0.1).item() == pytest.approx(smooth)
    shared = torch.tensor([[0.5, 0.0, 0.5, 0]])
    assert clip_losses(scores, shared, allowed).item() == pytest.approx(-0.5 * (math.log(2 / 10) + math.log(5 / 10)))


def test_one_class_alone_costs_nothing() -> None:
    alone = one_hot().bool()
    scores = logits()
    found = clip_losses(scores, one_hot(), alone, 0.1)
    found.sum().backward()
    assert not found.any()
    assert not scores.grad.any()


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_safe(kind: torch.dtype) -> None:
    scores = (logits(scale=2e4).detach().clamp(-6e4, 6e4)).to(kind).requires_grad_()
    allowed = EVERYTHING.clone()
    allowed[1:3, 0] = False
    found = clip_losses(scores, one_hot(), allowed, 0.1)
    assert found.dtype == torch.float32
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert torch.isfinite(scores.grad).all()
    wanted = clip_losses(scores.detach().float(), one_hot(), allowed, 0.1)
    torch.testing.assert_close(found, wanted)
