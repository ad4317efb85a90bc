"""The contrastive task of wav2vec 2.0 (Baevski et al. 2020, arXiv:2006.11477), and its training.

The model predicts masked frames: it must choose the quantized frame that was masked among other frames of the clip.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from transformers import PreTrainedConfig, get_linear_schedule_with_warmup
from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices, _sample_negative_indices

from ...config.pretraining import PretrainConfig
from ...evaluation.run_folder import RunFolder
from ...models.encoders import InputSpec
from ..trainer import Batch, Trainer, TrainingJob

# Settings of Adam in fairseq's configuration of the base model (wav2vec2_base_librispeech.yaml).
ADAM_BETAS, ADAM_EPSILON = (0.9, 0.98), 1e-6
# Cosine from which on two quantized frames count as the same codes.
_SAME_CODES = 1 - 1e-5
_METRICS = ("contrastive_loss", "diversity_loss", "accuracy", "chance", "codevector_perplexity")


def sample_masks(
    lengths: list[int], frames: int, mask_prob: float, mask_length: int, num_negatives: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sample the masked frames of each clip, and the distractors of each masked frame, with numpy's generator.

    Args:
        lengths: frames of each clip, each above `mask_length`.
        frames: frames of the longest clip, to which all are padded.
        mask_prob: fraction of the frames that the spans would cover without overlap.
        num_negatives: distractors per masked frame: other masked frames of the clip, with replacement.

    Returns:
        The masked frames, bool, shape (clips, frames); and, for each of them in order, the positions of its distractors
        in its clip, shape (masked, num_negatives).
    """
    attention_mask: Any = (torch.arange(frames) < torch.tensor(lengths)[:, None]).long()
    masked = _compute_mask_indices(
        (len(lengths), frames), mask_prob, mask_length, attention_mask=attention_mask, min_masks=1
    )
    negatives = _sample_negative_indices(masked.shape, num_negatives, masked)[masked] % frames
    return torch.from_numpy(masked), torch.from_numpy(negatives).long()


def objective(
    outputs: Any, masked: torch.Tensor, negatives: torch.Tensor, config: PreTrainedConfig
) -> dict[str, torch.Tensor]:
    """Return losses and metrics, summed over the masked frames (Baevski et al. 2020, equations 3 and 4).

    Args:
        outputs: output of a stock model for pretraining that was called with `mask_time_indices`.
        masked: masked frames, from `sample_masks`.
        negatives: distractors, from `sample_masks`.

    Returns:
        contrastive_loss; diversity_loss (relative difference of the codes' perplexity from their number); accuracy (of
        choosing the true frame); chance (accuracy of a random choice: distractors with the same codes as the true
        frame are excluded); codevector_perplexity.
    """
    predicted = torch.nn.functional.normalize(outputs.projected_states.float(), dim=-1)
    quantized = torch.nn.functional.normalize(outputs.projected_quantized_states.float(), dim=-1)
    clips, frames = masked.nonzero(as_tuple=True)
    candidates = torch.cat((frames[:, None], negatives), dim=1)
    # Comparing all frames of a clip at once takes fewer products than comparing each frame with its own distractors.
    scores = (predicted @ quantized.transpose(1, 2))[clips, frames].gather(1, candidates)
    similarity = (quantized @ quantized.transpose(1, 2)).detach()[clips, frames].gather(1, candidates)
    excluded = similarity > _SAME_CODES
    excluded[:, 0] = False
    logits = (scores / config.contrastive_logits_temperature).masked_fill(excluded, -torch.inf)
    codes = config.num_codevectors_per_group * config.num_codevector_groups
    count, perplexity = len(frames), outputs.codevector_perplexity.float()
    return {
        "contrastive_loss": (logits.logsumexp(dim=1) - logits[:, 0]).sum(),
        "diversity_loss": count * (codes - perplexity) / codes,
        "accuracy": (logits.detach().argmax(dim=1) == 0).sum(),
        "chance": (1.0 / (~excluded).sum(dim=1)).sum(),
        "codevector_perplexity": count * perplexity.detach(),
    }


@dataclass
class PretrainingJob(TrainingJob):
    """What a continued pretraining trains.

    Attributes:
        input_spec: input requirements of the encoder.
    """

    input_spec: InputSpec


class PretrainingTrainer(Trainer):
    """Continues the pretraining of a wav2vec 2.0 encoder, and keeps its last weights."""

    description = "pretraining"

    def __init__(
        self, accelerator: Accelerator, job: PretrainingJob, config: PretrainConfig, folder: RunFolder, seed: int
    ) -> None:
        self.config, self.input_spec = config, job.input_spec
        self.encoder: Any = job.trainable.model
        super().__init__(accelerator, job, config, folder, seed)

    def _create_schedule(self, optimizer: torch.optim.Optimizer, warmup_steps: int, steps: int) -> Any:
        return get_linear_schedule_with_warmup(optimizer, warmup_steps, steps)

    @property
    def temperature(self) -> float:
        """The quantizer's temperature at this step."""
        config = self.config
        return max(config.temperature * config.temperature_decay**self.state.step, config.least_temperature)

    def _new_totals(self) -> dict[str, torch.Tensor]:
        dtype = torch.float64 if self.accelerator.device.type != "mps" else torch.float32
        return {"metrics": torch.zeros(len(_METRICS) + 1, dtype=dtype)}

    def _prepare_step(self, batches: list[Batch]) -> tuple[list[Any], float]:
        config = self.config
        masks = [
            sample_masks(*self._frames(inputs), config.mask_prob, config.mask_length, config.negatives)
            for _, inputs in batches
        ]
        self.encoder.set_gumbel_temperature(self.temperature)
        prepared = [(inputs, *mask) for (_, inputs), mask in zip(batches, masks, strict=True)]
        return prepared, float(sum(len(negatives) for _, negatives in masks))

    def _batch_loss(self, prepared: Any, index: int) -> torch.Tensor:  # noqa: ARG002
        device, (inputs, masked, negatives) = self.accelerator.device, prepared
        inputs = {name: value.to(device, non_blocking=True) for name, value in inputs.items()}
        masked, negatives = masked.to(device, non_blocking=True), negatives.to(device, non_blocking=True)
        # The objective is computed in float32, outside autocast.
        with self.accelerator.autocast():
            outputs = self.model(**inputs, mask_time_indices=masked)
        metrics = objective(outputs, masked, negatives, self.encoder.config)
        values = [metrics[name].detach() for name in _METRICS] + [masked.sum()]
        totals = self.totals["metrics"]
        totals += torch.stack([value.to(totals.dtype) for value in values])
        return metrics["contrastive_loss"] + self.config.diversity * metrics["diversity_loss"]

    def _training_metrics(self, totals: dict[str, torch.Tensor]) -> dict[str, float]:
        *sums, count = totals["metrics"].tolist()
        means = {name: value / count for name, value in zip(_METRICS, sums, strict=True)}
        return means | {"temperature": self.temperature}

    def _summary(self, metrics: dict[str, Any]) -> str:
        loss, accuracy, chance = (metrics[name] for name in ("contrastive_loss", "accuracy", "chance"))
        return f"loss {loss:.3f}, accuracy {accuracy:.3f} (chance {chance:.3f})"

    def _frames(self, inputs: Mapping[str, torch.Tensor]) -> tuple[list[int], int]:
        """Return the frames of each clip of a batch, and those of the padded batch."""
        states, mask = inputs.get("states"), inputs.get("attention_mask")
        if states is not None:
            clips, frames = states.shape[:2]
        else:
            clips = len(inputs["input_values"])
            frames = int(self.input_spec.num_frames(inputs["input_values"].shape[1]))
        lengths = [frames] * clips if mask is None else self.input_spec.num_frames(mask.sum(dim=1)).tolist()
        return lengths, frames
