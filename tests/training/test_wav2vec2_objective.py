"""The contrastive task is that of the stock model, and its masks and distractors follow the paper."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ser_ft.training.wav2vec2.trainer import objective, sample_masks
from tests.helpers.tiny_encoders import write_tiny_backbone


def padded_batch(model: torch.nn.Module) -> tuple[dict[str, torch.Tensor], list[int], int]:
    generator = torch.Generator().manual_seed(0)
    waveforms, mask = torch.randn(3, 16_000, generator=generator), torch.ones(3, 16_000, dtype=torch.long)
    mask[1, 12_000:] = 0
    lengths = model._get_feat_extract_output_lengths(mask.sum(dim=1)).tolist()
    return {"input_values": waveforms * mask, "attention_mask": mask}, lengths, max(lengths)


@pytest.mark.parametrize("family", ["wav2vec2", "wav2vec2-large", "wav2vec2-conformer"])
@pytest.mark.parametrize("training", [True, False])
def test_losses_and_gradients_are_those_of_the_stock_model(family: str, training: bool, tmp_path: Path) -> None:
    from transformers import AutoModelForPreTraining

    model = AutoModelForPreTraining.from_pretrained(write_tiny_backbone(family, tmp_path)).train(training)
    batch, lengths, frames = padded_batch(model)
    np.random.seed(0)
    masked, negatives = sample_masks(lengths, frames, 0.65, 10, 100)
    stock_negatives = torch.zeros(3, frames, 100, dtype=torch.long)
    stock_negatives[masked] = negatives
    stock_negatives += frames * torch.arange(3)[:, None, None]

    def gradients(loss: torch.Tensor) -> torch.Tensor:
        model.zero_grad()
        loss.backward()
        return torch.cat([value.grad.flatten() for value in model.parameters() if value.grad is not None])

    torch.manual_seed(0)
    stock = model(**batch, mask_time_indices=masked, sampled_negative_indices=stock_negatives)
    expected = gradients(stock.loss)
    torch.manual_seed(0)
    values = objective(model(**batch, mask_time_indices=masked), masked, negatives, model.config)
    actual = gradients(values["contrastive_loss"] + 0.1 * values["diversity_loss"])
    torch.testing.assert_close(values["contrastive_loss"], stock.contrastive_loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(values["diversity_loss"], stock.diversity_loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))


def test_masks_and_distractors_stay_within_their_clip() -> None:
    np.random.seed(0)
    lengths = torch.tensor([11, 12, 30, 200])
    coverage = []
    for _ in range(200):
        masked, negatives = sample_masks(lengths.tolist(), 210, 0.65, 10, 20)
        assert not (masked & (torch.arange(210) >= lengths[:, None])).any()
        assert (masked.sum(dim=1) >= 10).all()
        clips, frames = masked.nonzero(as_tuple=True)
        assert masked[clips[:, None], negatives].all()
        assert (negatives != frames[:, None]).all()
        coverage.append(masked[3].float().mean())
    # Baevski et al. 2020, section 4.2: spans of 10 from a start in 6.5 % of all frames cover about 49 % of them.
    assert np.mean(coverage) == pytest.approx(0.49, abs=0.03)
