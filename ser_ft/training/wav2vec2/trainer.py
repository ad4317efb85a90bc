"""The contrastive task of wav2vec 2.0 (Baevski et al. 2020, arXiv:2006.11477), and the loop that trains by it.

Masked frames are predicted: which of some frames of the clip, quantized, is the one that was masked?
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from transformers import PreTrainedConfig, get_linear_schedule_with_warmup
from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices, _sample_negative_indices

from ...config.pretraining import PretrainConfig
from ...dataloading.batch_sampler import epoch_batches
from ...dataloading.targets import iter_steps
from ...evaluation.run_folder import RunFolder
from ...models.encoders import InputSpec
from ...utils.errors import InputError
from ...utils.progress import progress_bar
from ..checkpoints import Checkpoints, trained_names
from ..finetuning import TrainableModel

# Of Adam, in fairseq's configuration of the base model (wav2vec2_base_librispeech.yaml).
_BETAS, _EPSILON = (0.9, 0.98), 1e-6
# The cosine from which on two quantized frames count as holding the same codes.
_SAME = 1 - 1e-5
_WATCHED = ("contrastive_loss", "diversity_loss", "accuracy", "chance", "codevector_perplexity")


def draw(
    lengths: list[int], frames: int, probability: float, span: int, negatives: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw which frames of each clip are masked, and which others each is to be told from, with numpy's generator.

    Args:
        lengths: of the clips, each above `span`. frames: of the longest, to which all are padded.
        probability: share of the frames that the spans would cover if none overlapped. span: frames of each.
        negatives: other masked frames of the same clip, with replacement.

    Returns:
        Masked frames, bool, shape (clips, frames); and for each of them, in order, the places in its clip of those it
        is to be told from, shape (masked, negatives).
    """
    real = torch.arange(frames) < torch.tensor(lengths)[:, None]
    within: Any = real.long()
    masked = _compute_mask_indices((len(lengths), frames), probability, span, attention_mask=within, min_masks=1)
    places = _sample_negative_indices(masked.shape, negatives, masked)[masked] % frames
    return torch.from_numpy(masked), torch.from_numpy(places).long()


def objective(
    outputs: Any, masked: torch.Tensor, negatives: torch.Tensor, config: PreTrainedConfig
) -> dict[str, torch.Tensor]:
    """Return the sums, over masked frames, of what is minimised and watched (Baevski et al. 2020, equations 3 and 4).

    Args:
        outputs: of a stock model for pretraining, called with `mask_time_indices`. config: its own.
        masked, negatives: as `draw` gives them.

    Returns:
        contrastive_loss; diversity_loss (how far the perplexity of the codes is from their number, as a share of it);
        accuracy (whether the true frame is chosen); chance (of choosing it blindly: negatives with the same codes as
        the true frame are left out); codevector_perplexity.
    """
    predicted = torch.nn.functional.normalize(outputs.projected_states.float(), dim=-1)
    quantized = torch.nn.functional.normalize(outputs.projected_quantized_states.float(), dim=-1)
    clips, own = masked.nonzero(as_tuple=True)
    candidates = torch.cat((own[:, None], negatives), dim=1)
    # All frames of a clip are compared at once: far fewer products than each masked frame with its own negatives.
    scores = (predicted @ quantized.transpose(1, 2))[clips, own].gather(1, candidates)
    likeness = (quantized @ quantized.transpose(1, 2)).detach()[clips, own].gather(1, candidates)
    left_out = likeness > _SAME
    left_out[:, 0] = False
    logits = (scores / config.contrastive_logits_temperature).masked_fill(left_out, -torch.inf)
    codes = config.num_codevectors_per_group * config.num_codevector_groups
    count, perplexity = len(own), outputs.codevector_perplexity.float()
    return {
        "contrastive_loss": (logits.logsumexp(dim=1) - logits[:, 0]).sum(),
        "diversity_loss": count * (codes - perplexity) / codes,
        "accuracy": (logits.detach().argmax(dim=1) == 0).sum(),
        "chance": (1.0 / (~left_out).sum(dim=1)).sum(),
        "codevector_perplexity": count * perplexity.detach(),
    }


@dataclass
class Progress:
    """Where training stands: all that a checkpoint adds to weights, optimiser and random states."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    sums: list[float] = field(default_factory=list)
    seconds: float = 0.0


class Pretrainer:
    """Goes on with a model's pretraining on the clips of one part of a table; its last weights are kept.

    Args:
        accelerator: prepared by the caller. setup: the model, and what of it is trained. input_spec: of the model.
        rows: of the table: whose sound is heard. run: where checkpoints and history go. seed: of the order of clips.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        setup: TrainableModel,
        input_spec: InputSpec,
        rows: np.ndarray,
        settings: PretrainConfig,
        run: RunFolder,
        seed: int,
    ) -> None:
        self.accelerator, self.setup, self.input_spec, self.rows = accelerator, setup, input_spec, rows
        self.stock: Any = setup.model
        self.settings, self.run, self.seed = settings, run, seed
        self.state = Progress()
        self.started = time.monotonic()
        optimiser = torch.optim.AdamW(
            setup.groups,
            lr=settings.learning_rate,
            betas=_BETAS,
            eps=_EPSILON,
            fused=accelerator.device.type != "mps",
        )
        self.accumulation = min(settings.gradient_accumulation_steps, max(1, len(rows) // accelerator.num_processes))
        self.steps = sum(len(self._batches(epoch)) for epoch in range(settings.epochs)) // self.accumulation
        self.steps = min(self.steps, settings.max_steps or self.steps)
        self.schedule = get_linear_schedule_with_warmup(
            optimiser, round(settings.warmup_ratio * self.steps), self.steps
        )
        self.model, self.optimiser = accelerator.prepare(setup.model, optimiser)
        # Autocast is entered around the model alone: the objective is computed in float32.
        for name in ("forward", "_original_forward"):
            setup.model.__dict__.pop(name, None)
        accelerator.register_for_checkpointing(self.schedule)
        self.checkpoints = Checkpoints(accelerator, run, setup.model, trained_names(setup.model, setup.groups))
        # Sums stay on the device: to read them at every step would make it wait.
        exact = torch.float64 if accelerator.device.type != "mps" else torch.float32
        self.sums = torch.zeros(len(_WATCHED) + 1, dtype=exact, device=accelerator.device)

    def fit(self, resume: bool = False, shown: bool = True) -> None:
        """Train to the end."""
        if resume:
            self._load()
        elif self.accelerator.is_main_process:
            self.run.truncate_history(0)
        with progress_bar(
            total=self.steps, initial=self.state.step, desc="pretraining", unit=" steps", shown=shown
        ) as progress:
            while self.state.step < self.steps or self.state.batch:
                self._epoch(progress)
                progress.set_postfix_str(self._end_epoch())

    @property
    def temperature(self) -> float:
        """Of the quantizer, at this step."""
        settings = self.settings
        return max(settings.temperature * settings.temperature_decay**self.state.step, settings.least_temperature)

    def _batches(self, epoch: int) -> list[list[int]]:
        return epoch_batches(
            self.setup.batch_source.seconds[self.rows],
            self.settings.batch_size,
            self.seed,
            epoch,
            max_batch_length=self.settings.max_batch_seconds,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
            accumulation_steps=self.settings.gradient_accumulation_steps,
        )

    def _steps(self) -> Iterator[list[dict[str, torch.Tensor]]]:
        """Yield the batches of each remaining step of this epoch."""
        return iter_steps(
            self.rows,
            self._batches(self.state.epoch)[self.state.batch :],
            self.setup.batch_source.collate,
            self.accumulation,
            self.seed,
            self.settings.dataloader_num_workers,
            self.accelerator.device.type == "cuda",
        )

    def _epoch(self, progress: Any) -> None:
        self.model.train()
        for module in self.setup.still:
            module.training = False
        for group in islice(self._steps(), self.steps - self.state.step):
            self._step(group)
            self.state.batch += len(group)
            self.state.step += 1
            progress.update()
            every = self.settings.save_steps
            if every and self.state.step % every == 0:
                self._save()

    def _step(self, group: list[dict[str, torch.Tensor]]) -> None:
        """Take one step: the loss is divided by the masked frames of the step, over all processes."""
        accelerator, settings = self.accelerator, self.settings
        masks = [
            draw(*self._frames(batch), settings.mask_prob, settings.mask_length, settings.negatives) for batch in group
        ]
        own = torch.tensor(float(sum(len(negatives) for _, negatives in masks)), device=accelerator.device)
        whole = accelerator.reduce(own, "sum") if accelerator.num_processes > 1 else own
        # Gradients are averaged over processes: times their number makes the sum again.
        scale = accelerator.num_processes / whole
        self.stock.set_gumbel_temperature(self.temperature)
        for place, (batch, drawn) in enumerate(zip(group, masks, strict=True)):
            batch = {name: value.to(accelerator.device, non_blocking=True) for name, value in batch.items()}
            masked, negatives = (each.to(accelerator.device, non_blocking=True) for each in drawn)
            last = place == len(group) - 1
            with accelerator.no_sync(self.model) if not last else nullcontext():
                with accelerator.autocast():
                    outputs = self.model(**batch, mask_time_indices=masked)
                found = objective(outputs, masked, negatives, self.stock.config)
                loss = found["contrastive_loss"] + settings.diversity * found["diversity_loss"]
                accelerator.backward(loss * scale)
            sums = [found[name].detach() for name in _WATCHED] + [masked.sum()]
            self.sums += torch.stack([each.to(self.sums.dtype) for each in sums])
        if accelerator.sync_gradients:
            accelerator.clip_grad_norm_(self.model.parameters(), settings.max_grad_norm)
        self.optimiser.step()
        if not accelerator.optimizer_step_was_skipped:
            self.schedule.step()
        self.optimiser.zero_grad()

    def _frames(self, batch: Mapping[str, torch.Tensor]) -> tuple[list[int], int]:
        """Return the frames of each clip of a batch, and of the batch."""
        states, mask = batch.get("states"), batch.get("attention_mask")
        if states is not None:
            clips, frames = states.shape[:2]
        else:
            clips, frames = len(batch["input_values"]), int(self.input_spec.num_frames(batch["input_values"].shape[1]))
        return [frames] * clips if mask is None else self.input_spec.num_frames(mask.sum(dim=1)).tolist(), frames

    def _end_epoch(self) -> str:
        """Write the history's line and a checkpoint; return a line to show."""
        state = self.state
        *sums, count = self.accelerator.reduce(self.sums.clone(), "sum").tolist()
        line: dict[str, Any] = {"epoch": state.epoch + 1, "step": state.step}
        line |= {name: value / count for name, value in zip(_WATCHED, sums, strict=True)}
        line |= {"temperature": self.temperature, "learning_rate": self.schedule.get_last_lr()[0]}
        if not math.isfinite(line["contrastive_loss"] + line["diversity_loss"]):
            raise InputError(f"the loss is no longer a number in epoch {line['epoch']}: lower pretrain.learning_rate")
        state.epoch, state.batch = state.epoch + 1, 0
        self.sums.zero_()
        if self.accelerator.is_main_process:
            self.run.append_history(line)
        self._save()
        return f"loss {line['contrastive_loss']:.3f}, accuracy {line['accuracy']:.3f} (chance {line['chance']:.3f})"

    def _save(self) -> None:
        now = time.monotonic()
        self.state.seconds, self.started = self.state.seconds + now - self.started, now
        self.state.sums = self.sums.tolist()
        self.checkpoints.save(self.state.step, asdict(self.state))

    def _load(self) -> None:
        """Go on from the newest checkpoint; from the start where there is none."""
        found = self.checkpoints.load()
        if found is not None:
            self.state = Progress(**found)
            self.sums.copy_(torch.tensor(self.state.sums, dtype=torch.float64))
        if self.accelerator.is_main_process:
            self.run.truncate_history(self.state.epoch)
        self.accelerator.wait_for_everyone()
