"""What is done to batches: masks over their features, and clips that are mixed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ser_ft.data.augmentation.waveform import SpecAugment, mixed, mixup_share, spec_augment
from ser_ft.utils.errors import InputError

LENGTHS = (100, 60, 3, 1)


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Four clips of 100, 60, 3 and 1 frames of 40 numbers, padded with nines."""
    features = torch.randn((4, 100, 40), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(100)[None] < torch.tensor(LENGTHS)[:, None]
    features[~mask] = 9.0
    return features, mask


def masked(batch: tuple[torch.Tensor, torch.Tensor], seed: int = 0, **settings: Any) -> torch.Tensor:
    return spec_augment(*batch, torch.Generator().manual_seed(seed), **settings)


def runs(hidden: torch.Tensor) -> list[int]:
    """Lengths of the stretches of true."""
    edges = torch.diff(torch.nn.functional.pad(hidden.int(), (1, 1)))
    return (torch.nonzero(edges < 0) - torch.nonzero(edges > 0)).flatten().tolist()


def test_masks_over_time_are_no_wider_than_asked_and_lie_anywhere(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    widths, covered = [], torch.zeros(100)
    for seed in range(400):
        hidden = (masked(batch, seed, times=1, time_width=0.2, bands=0) != batch[0]).all(dim=2)
        assert not hidden[2:].any(), "a clip this short has no frame to lose"
        for clip, length in enumerate(LENGTHS):
            assert len(runs(hidden[clip])) <= 1
            assert hidden[clip].sum() <= 0.2 * length
            assert not hidden[clip, length:].any(), "padding was masked"
        widths.append(int(hidden[0].sum()))
        covered += hidden[0]
    assert set(widths) == set(range(21))
    assert (covered > 0).all()


def test_masks_over_bands_are_no_wider_than_asked_and_lie_anywhere(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    widths, covered = set(), torch.zeros(40)
    for seed in range(400):
        changed = masked(batch, seed, times=0, bands=1, band_width=0.25) != batch[0]
        assert not changed[~batch[1]].any(), "padding was masked"
        hidden = changed[0].any(dim=0)
        assert torch.equal(changed[0], hidden.expand(100, 40))
        assert len(runs(hidden)) <= 1
        widths.add(int(hidden.sum()))
        covered += hidden
    assert widths == set(range(11))
    assert (covered > 0).all()


def test_what_is_masked_becomes_the_mean_of_the_clips_real_frames(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    made = masked(batch, times=3, time_width=0.3)
    for clip, length in enumerate(LENGTHS):
        mean = batch[0][clip, :length].mean(dim=0).expand(100, 40)
        changed = made[clip] != batch[0][clip]
        assert torch.allclose(made[clip][changed], mean[changed], atol=1e-6)


def test_each_clip_has_masks_of_its_own_and_the_batch_is_not_written_to(
    batch: tuple[torch.Tensor, torch.Tensor],
) -> None:
    twins = (batch[0][:1].repeat(8, 1, 1), batch[1][:1].repeat(8, 1))
    before = twins[0].clone()
    made = masked(twins)
    assert torch.equal(twins[0], before)
    assert len({clip.numpy().tobytes() for clip in made}) == 8


def test_one_generator_gives_one_masking_whatever_the_masks_type(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    first = masked(batch, seed=3)
    assert torch.equal(first, masked((batch[0], batch[1].long()), seed=3))
    assert torch.equal(first, masked((batch[0], batch[1].float()), seed=3))
    assert not torch.equal(first, masked(batch, seed=4))
    half = masked((batch[0].half(), batch[1]), seed=3)
    assert half.dtype == torch.float16
    assert torch.equal(half != batch[0].half(), first != batch[0])


def test_without_masks_nothing_changes_and_a_clip_without_frames_does_no_harm(
    batch: tuple[torch.Tensor, torch.Tensor],
) -> None:
    assert torch.equal(masked(batch, times=0, bands=0), batch[0])
    empty = (batch[0], torch.zeros_like(batch[1]))
    assert torch.equal(masked(empty), batch[0])


@pytest.mark.parametrize(("settings", "says"), [
    ({"times": -1}, "spec_augment.times must be a whole number from 0 to 100, not -1"),
    ({"bands": 1.5}, "spec_augment.bands must be a whole number from 0 to 100, not 1.5"),
    ({"time_width": 1.2}, "spec_augment.time_width must be a share from 0 to 1, not 1.2"),
    ({"band_width": float("nan")}, "spec_augment.band_width must be a share from 0 to 1, not nan"),
    ({"band_width": "wide"}, "spec_augment.band_width must be a share from 0 to 1, not 'wide'"),
])  # fmt: skip
def test_wrong_masks_are_one_line(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says.replace(".", r"\.")):
        SpecAugment(**settings)


@pytest.mark.parametrize(("alpha", "deviation"), [(0.2, 0.423), (1.0, 0.289), (8.0, 0.121)])
def test_the_share_of_mixup_is_beta_distributed(alpha: float, deviation: float) -> None:
    generator = torch.Generator().manual_seed(0)
    shares = [mixup_share(alpha, generator) for _ in range(4000)]
    assert 0 <= min(shares) <= max(shares) <= 1
    assert np.mean(shares) == pytest.approx(0.5, abs=0.02)
    # A Beta(a, a) has the variance 1 / (4 (2 a + 1)).
    assert np.std(shares) == pytest.approx(deviation, abs=0.01)
    assert mixup_share(alpha, torch.Generator().manual_seed(0)) == shares[0]


@pytest.mark.parametrize("alpha", [0, -1, float("inf"), float("nan")])
def test_a_wrong_alpha_is_one_line(alpha: float) -> None:
    with pytest.raises(InputError, match="mixup's alpha must be a number above 0"):
        mixup_share(alpha, torch.Generator())


def test_clips_are_mixed_with_their_partners() -> None:
    inputs, partners = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), torch.tensor([2, 0, 1])
    expected = torch.tensor([[2.0, 3.0], [2.5, 3.5], [4.5, 5.5]])
    assert torch.allclose(mixed(inputs, partners, 0.75), expected)
    targets = mixed(torch.eye(3), partners, 0.75)
    assert torch.allclose(targets.sum(dim=1), torch.ones(3))
