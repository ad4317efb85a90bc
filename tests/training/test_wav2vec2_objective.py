"""The contrastive task is that of the stock model, its masks and negatives those of the paper."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ser_ft.training.wav2vec2.trainer import objective
from tests.helpers.tiny_encoders import write_tiny_backbone


def plain_batch(model: torch.nn.Module) -> tuple[dict[str, torch.Tensor], list[int], int]:
    generator = torch.Generator().manual_seed(0)
    sound, mask = torch.randn(3, 16_000, generator=generator), torch.ones(3, 16_000, dtype=torch.long)
    mask[1, 12_000:] = 0
    lengths = model._get_feat_extract_output_lengths(mask.sum(dim=1)).tolist()
    return {"input_values": sound * mask, "attention_mask": mask}, lengths, max(lengths)


@pytest.mark.parametrize("family", ["wav2vec2", "wav2vec2-large", "wav2vec2-conformer"])
@pytest.mark.parametrize("training", [True, False])
def test_the_objective_is_the_stock_models(family: str, training: bool, tmp_path: Path) -> None:
    from transformers import AutoModelForPreTraining

    model = AutoModelForPreTraining.from_pretrained(write_tiny_backbone(family, tmp_path)).train(training)
    batch, lengths, frames = plain_batch(model)
    np.random.seed(0)
    masked, negatives = draw(lengths, frames, 0.65, 10, 100)
    everywhere = torch.zeros(3, frames, 100, dtype=torch.long)
    everywhere[masked] = negatives
    everywhere += frames * torch.arange(3)[:, None, None]

    def gradients(loss: torch.Tensor) -> torch.Tensor:
        model.zero_grad()
        loss.backward()
        return torch.cat([each.grad.flatten() for each in model.parameters() if each.grad is not None])

    torch.manual_seed(0)
    stock = model(**batch, mask_time_indices=masked, sampled_negative_indices=everywhere)
    theirs = gradients(stock.loss)
    torch.manual_seed(0)
    found = objective(model(**batch, mask_time_indices=masked), masked, negatives, model.config)
    ours = gradients(found["contrastive_loss"] + 0.1 * found["diversity_loss"])
    torch.testing.assert_close(found["contrastive_loss"], stock.contrastive_loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(found["diversity_loss"], stock.diversity_loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5 * float(theirs.abs().max()))


def test_masks_and_negatives_stay_within_their_clip() -> None:
    np.random.seed(0)
    lengths = [11, 12, 30, 200]
    covered = []
    for _ in range(200):
        masked, negatives = draw(lengths, 210, 0.65, 10, 20)
        ends = torch.tensor(lengths)
        assert not (masked & (torch.arange(210) >= ends[:, None])).any()
        assert (masked.sum(dim=1) >= 10).all()
        clips, own = masked.nonzero(as_tuple=True)
        assert masked[clips[:, None], negatives].all()
        assert (negatives != own[:, None]).all()
        covered.append(masked[3].float().mean())
    # Baevski et al. 2020, section 4.2: spans of 10 from a start in 6.5 % of all frames cover about 49 % of them.
    assert np.mean(covered) == pytest.approx(0.49, abs=0.03)
