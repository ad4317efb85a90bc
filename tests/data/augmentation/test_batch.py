"""SpecAugment masks and the weights of mixup."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ser_ft.data.augmentation.batch import SpecAugment, sample_mixup_weight, spec_augment
from ser_ft.utils.errors import InputError

Batch = tuple[torch.Tensor, torch.Tensor]
LENGTHS = (100, 60, 3, 1)


@pytest.fixture
def batch() -> Batch:
    """Four clips of 100, 60, 3 and 1 frames of 40 bands, padded with nines, and their mask."""
    features = torch.randn((4, 100, 40), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(100)[None] < torch.tensor(LENGTHS)[:, None]
    features[~mask] = 9.0
    return features, mask


def apply_masks(batch: Batch, seed: int = 0, **settings: Any) -> torch.Tensor:
    return spec_augment(*batch, torch.Generator().manual_seed(seed), SpecAugment(**settings))


def num_stretches(masked: torch.Tensor) -> int:
    return int((torch.diff(torch.nn.functional.pad(masked.int(), (1, 1))) > 0).sum())


def test_time_masks_have_every_allowed_width_and_position(batch: Batch) -> None:
    widths, covered = set(), torch.zeros(100)
    for seed in range(300):
        changed = apply_masks(batch, seed, num_time_masks=1, time_mask_width=0.2, num_freq_masks=0) != batch[0]
        masked = changed.all(dim=2)
        assert not masked[2:].any(), "a clip this short has no frame to lose"
        for clip, length in enumerate(LENGTHS):
            assert num_stretches(masked[clip]) <= 1
            assert masked[clip].sum() <= 0.2 * length
            assert not masked[clip, length:].any(), "padding was masked"
        widths.add(int(masked[0].sum()))
        covered += masked[0]
    assert widths == set(range(21))
    assert (covered > 0).all()


def test_frequency_masks_have_every_allowed_width_and_position(batch: Batch) -> None:
    widths, covered = set(), torch.zeros(40)
    for seed in range(300):
        changed = apply_masks(batch, seed, num_time_masks=0, num_freq_masks=1, freq_mask_width=0.25) != batch[0]
        assert not changed[~batch[1]].any(), "padding was masked"
        masked = changed[0].any(dim=0)
        assert torch.equal(changed[0], masked.expand(100, 40))
        assert num_stretches(masked) <= 1
        widths.add(int(masked.sum()))
        covered += masked
    assert widths == set(range(11))
    assert (covered > 0).all()


def test_masked_values_become_the_mean_of_the_real_frames(batch: Batch) -> None:
    augmented = apply_masks(batch, num_time_masks=3, time_mask_width=0.3)
    for clip, length in enumerate(LENGTHS):
        mean = batch[0][clip, :length].mean(dim=0).expand(100, 40)
        changed = augmented[clip] != batch[0][clip]
        assert torch.allclose(augmented[clip][changed], mean[changed], atol=1e-6)


def test_each_clip_has_its_own_masks_and_the_input_is_not_changed(batch: Batch) -> None:
    copies = (batch[0][:1].repeat(8, 1, 1), batch[1][:1].repeat(8, 1))
    before = copies[0].clone()
    augmented = apply_masks(copies)
    assert torch.equal(copies[0], before)
    assert len({clip.numpy().tobytes() for clip in augmented}) == 8


def test_masks_depend_on_the_seed_alone_not_on_types(batch: Batch) -> None:
    first = apply_masks(batch, seed=3)
    assert torch.equal(first, apply_masks((batch[0], batch[1].long()), seed=3))
    assert torch.equal(first, apply_masks((batch[0], batch[1].float()), seed=3))
    assert not torch.equal(first, apply_masks(batch, seed=4))
    half = apply_masks((batch[0].half(), batch[1]), seed=3)
    assert half.dtype == torch.float16
    assert torch.equal(half != batch[0].half(), first != batch[0])


def test_no_masks_and_clips_without_frames_change_nothing(batch: Batch) -> None:
    assert torch.equal(apply_masks(batch, num_time_masks=0, num_freq_masks=0), batch[0])
    assert torch.equal(apply_masks((batch[0], torch.zeros_like(batch[1]))), batch[0])


@pytest.mark.parametrize(("settings", "message"), [
    ({"num_time_masks": -1}, "spec_augment.num_time_masks must be a whole number from 0 to 100, not -1"),
    ({"num_freq_masks": 1.5}, "spec_augment.num_freq_masks must be a whole number from 0 to 100, not 1.5"),
    ({"time_mask_width": 1.2}, "spec_augment.time_mask_width must be a number from 0 to 1, not 1.2"),
    ({"freq_mask_width": float("nan")}, "spec_augment.freq_mask_width must be a number from 0 to 1, not nan"),
    ({"freq_mask_width": "wide"}, "spec_augment.freq_mask_width must be a number from 0 to 1, not 'wide'"),
])  # fmt: skip
def test_wrong_mask_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message.replace(".", r"\.")):
        SpecAugment(**settings)


@pytest.mark.parametrize(("alpha", "deviation"), [(0.2, 0.423), (1.0, 0.289), (8.0, 0.121)])
def test_mixup_weights_are_beta_distributed(alpha: float, deviation: float) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = [sample_mixup_weight(alpha, generator) for _ in range(4000)]
    assert 0 <= min(weights) <= max(weights) <= 1
    assert np.mean(weights) == pytest.approx(0.5, abs=0.02)
    # A Beta(a, a) has the variance 1 / (4 (2 a + 1)).
    assert np.std(weights) == pytest.approx(deviation, abs=0.01)
    assert sample_mixup_weight(alpha, torch.Generator().manual_seed(0)) == weights[0]

    for wrong_alpha in (0, -1, float("inf"), float("nan")):
        with pytest.raises(InputError, match="mixup's alpha must be a number above 0"):
            sample_mixup_weight(wrong_alpha, torch.Generator())
