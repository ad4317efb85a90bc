"""The training loop under fine-tuning and continued pretraining: batches, optimizer steps, checkpoints, resuming."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from itertools import islice, pairwise
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils.memory import clear_device_cache
from torch import nn
from transformers import PreTrainedModel

from ..config.training_loop import TrainingLoopConfig
from ..dataloading.batch_sampler import epoch_batches
from ..dataloading.batches import BatchSource
from ..dataloading.targets import iter_steps
from ..evaluation.run_folder import RunFolder
from ..utils.errors import InputError
from ..utils.progress import progress_bar
from .checkpoints import Checkpoints, trained_names

logger = logging.getLogger(__name__)

# The row numbers of a batch's clips, and the model's inputs.
Batch = tuple[list[int], dict[str, torch.Tensor]]


@dataclass
class TrainableModel:
    """A model prepared for training, with the source of its batches.

    Attributes:
        model: its output has `logits` when it is called with a batch.
        learning_rates: groups of trained parameters, each with its peak learning rate; those of the head come first.
        finish: assembles the stock model to be saved; nothing can be trained afterwards.
        stages: groups of parameters in the order in which gradual unfreezing trains them, top first.
        frozen_modules: modules that stay in evaluation mode.
    """

    model: nn.Module
    batch_source: BatchSource
    learning_rates: list[tuple[list[nn.Parameter], float]]
    finish: Callable[[], PreTrainedModel]
    stages: list[list[nn.Parameter]] = field(default_factory=list)
    frozen_modules: list[nn.Module] = field(default_factory=list)


@dataclass
class TrainingJob:
    """What a training loop trains. `train_rows` are row numbers of the batch source."""

    trainable: TrainableModel
    optimizer: torch.optim.Optimizer
    train_rows: np.ndarray


def create_optimizer(
    learning_rates: Sequence[tuple[list[nn.Parameter], float]],
    weight_decay: float,
    device: torch.device,
    **settings: Any,
) -> torch.optim.AdamW:
    """Return AdamW over groups of parameters; biases and normalization layers have no weight decay.

    Args:
        learning_rates: groups of parameters, each with its peak learning rate.
        settings: other arguments of AdamW.
    """
    groups = []
    for parameters, learning_rate in learning_rates:
        for decayed in (True, False):
            members = [value for value in parameters if value.requires_grad and (value.ndim > 1) == decayed]
            if members:
                decay = weight_decay if decayed else 0.0
                groups.append({"params": members, "lr": learning_rate, "weight_decay": decay})
    return torch.optim.AdamW(groups, fused=device.type != "mps", **settings)


@dataclass
class Progress:
    """The state of the loop that a checkpoint holds besides weights, optimizer and random states."""

    epoch: int = 0  # number of finished epochs
    batch: int = 0  # number of batches of the current epoch that were trained on
    step: int = 0  # number of optimizer steps
    seconds: float = 0.0  # duration of training
    cpu_seconds: float = 0.0  # processor time of the main process and its threads
    totals: dict[str, Any] = field(default_factory=dict)  # of the current epoch: see `Trainer._new_totals`
    stopped: bool = False  # whether training ended before its last epoch
    best_uar: float = -1.0  # validation UAR of the best epoch
    best_loss: float = math.inf  # validation loss of the best epoch
    best_epoch: int = 0  # counted from 1
    batch_parts: int = 1  # parts that each batch is cut into, because the GPU's memory did not suffice


class Trainer:
    """A training loop. Subclasses define the loss of a batch, the metrics of an epoch and the learning rate schedule.

    Training is deterministic: a run that was interrupted and resumed ends with the same weights, to the bit.
    `config` is the section `train` or `pretrain` of a recipe; `seed` determines the order of the clips.
    """

    description = "training"

    def __init__(
        self, accelerator: Accelerator, job: TrainingJob, config: TrainingLoopConfig, folder: RunFolder, seed: int
    ) -> None:
        self.accelerator, self.folder, self.seed = accelerator, folder, seed
        self.trainable, self.train_rows, self._config = job.trainable, job.train_rows, config
        self.state = Progress()
        self._last_save, self._last_cpu_time = time.monotonic(), time.process_time()
        self.accumulation = min(
            config.gradient_accumulation_steps, max(1, len(job.train_rows) // accelerator.num_processes)
        )
        # With a limit on seconds, the number of batches can differ between epochs.
        steps = sum(len(self._batches(epoch)) for epoch in range(config.epochs)) // self.accumulation
        self.total_steps = min(steps, config.max_steps or steps)
        self.schedule = self._create_schedule(
            job.optimizer, round(config.warmup_ratio * self.total_steps), self.total_steps
        )
        model = self.trainable.model
        self.model, self.optimizer = accelerator.prepare(model, job.optimizer)
        # Subclasses enter autocast where they compute the loss; predictions are computed without it.
        for name in ("forward", "_original_forward"):
            model.__dict__.pop(name, None)
        self.trained_names = trained_names(model, job.optimizer.param_groups)
        self.checkpoints = Checkpoints(accelerator, folder, model, self.trained_names)
        self.checkpoints.register("schedule", self.schedule)
        # Totals stay on the device: reading them in every step would make it wait.
        self.totals = {name: value.to(accelerator.device) for name, value in self._new_totals().items()}

    def _create_schedule(self, optimizer: torch.optim.Optimizer, warmup_steps: int, steps: int) -> Any:
        """Return the learning rate schedule."""
        raise NotImplementedError

    def _new_totals(self) -> dict[str, torch.Tensor]:
        """Return the running totals of an epoch, all zero; they are summed over the processes."""
        raise NotImplementedError

    def _prepare_step(self, batches: list[Batch]) -> tuple[list[Any], float]:
        """Return what `_batch_loss` needs for each batch of a step, and the total weight of this process's clips."""
        raise NotImplementedError

    def _batch_loss(self, prepared: Any, index: int) -> torch.Tensor:
        """Return the summed loss of a batch, an item of `_prepare_step`, and add to the running totals."""
        raise NotImplementedError

    def _training_metrics(self, totals: dict[str, torch.Tensor]) -> dict[str, float]:
        """Return the metrics of a finished epoch from its totals over all processes."""
        raise NotImplementedError

    def _summary(self, metrics: dict[str, Any]) -> str:
        """Return the metrics of an epoch as a short text for the progress bar."""
        raise NotImplementedError

    def _on_epoch_start(self) -> None:
        """Run before the batches of an epoch."""

    def _on_step_end(self) -> None:
        """Run after an optimizer step that was not skipped."""

    def _evaluate_epoch(self) -> dict[str, float]:
        """Evaluate the model after an epoch; return the metrics, and set `state.stopped` to end training."""
        return {}

    @cached_property
    def _sampling_weights(self) -> np.ndarray | None:
        """Sampling probability of each training clip; None: each clip is used once per epoch."""
        return None

    @cached_property
    def _min_clips(self) -> int:
        """Fewest clips that a batch is cut down to: batch normalization needs two."""
        return 1 + any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self.model.modules())

    def fit(self, resume: bool = False, show_progress: bool = True) -> None:
        """Train the model.

        Args:
            resume: continue from the newest checkpoint in the run folder.
        """
        if resume:
            self._load()
        elif self.accelerator.is_main_process:
            self.folder.truncate_history(0)
        state = self.state
        with progress_bar(
            total=self.total_steps,
            initial=state.step,
            desc=self.description,
            unit=" steps",
            show_progress=show_progress,
        ) as progress:
            while (state.step < self.total_steps or state.batch) and not state.stopped:
                self._run_epoch(progress)
                progress.set_postfix_str(self._end_epoch())

    def _batches(self, epoch: int) -> list[list[int]]:
        """Return this process's batches of an epoch: positions in the training rows."""
        return epoch_batches(
            self.trainable.batch_source.seconds[self.train_rows],
            self._config.batch_size,
            self.seed,
            epoch,
            weights=self._sampling_weights,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
            accumulation_steps=self._config.gradient_accumulation_steps,
            max_batch_length=self._config.max_batch_seconds,
        )

    def _steps(self) -> Iterator[list[Batch]]:
        """Yield the batches of each remaining step of this epoch."""
        steps = iter_steps(
            self.train_rows,
            self._batches(self.state.epoch)[self.state.batch :],
            partial(_collate, self.trainable.batch_source, self.state.epoch),
            self.accumulation,
            self.seed,
            self._config.dataloader_num_workers,
            self.accelerator.device.type == "cuda",
        )
        return islice(steps, self.total_steps - self.state.step)

    def _run_epoch(self, progress: Any) -> None:
        self._on_epoch_start()
        self.model.train()
        for module in self.trainable.frozen_modules:
            module.training = False
        save_steps = self._config.save_steps
        for batches in self._steps():
            self._step(batches)
            self.state.batch += len(batches)
            self.state.step += 1
            progress.update()
            if save_steps and self.state.step % save_steps == 0:
                self._check_finite()
                self._save()

    def _step(self, batches: list[Batch]) -> None:
        """Take one optimizer step; if the GPU's memory does not suffice, cut each batch into halves from then on."""
        accelerator = self.accelerator
        while not self._compute_gradients(batches):
            self._halve_batches(max(len(rows) for rows, _ in batches))
        if accelerator.sync_gradients:
            accelerator.clip_grad_norm_(self.model.parameters(), self._config.max_grad_norm)
        self.optimizer.step()
        if not accelerator.optimizer_step_was_skipped:
            self.schedule.step()
            self._on_step_end()
        self.optimizer.zero_grad()

    def _compute_gradients(self, batches: list[Batch]) -> bool:
        """Compute the gradients of a step's loss, divided by the total weight of the step over all processes.

        Returns False if the GPU's memory did not suffice; gradients and totals are then as before.
        """
        accelerator = self.accelerator
        totals = {name: value.clone() for name, value in self.totals.items()}
        prepared, own_weight = self._prepare_step(
            [part for batch in batches for part in _cut(batch, self.state.batch_parts, self._min_clips)]
        )
        weight = torch.tensor(own_weight)
        if accelerator.num_processes > 1:
            weight = accelerator.reduce(weight.to(accelerator.device), "sum")
        # Gradients are averaged over the processes: multiplied by their number, they are sums again.
        scale = accelerator.num_processes / weight.clamp(min=1e-12)
        try:
            for index, item in enumerate(prepared):
                with nullcontext() if index == len(prepared) - 1 else accelerator.no_sync(self.model):
                    accelerator.backward(self._batch_loss(item, index) * scale)
        except torch.OutOfMemoryError:
            # The tensors of the failed attempt are referred to by the error until this block ends.
            self.optimizer.zero_grad()
            for name, value in self.totals.items():
                value.copy_(totals[name])
        else:
            return True
        clear_device_cache(garbage_collection=True)
        return False

    def _halve_batches(self, largest: int) -> None:
        """Compute batches in twice as many parts from now on; `largest` is the number of clips of the step's largest.

        Raises:
            InputError: a single clip needs too much memory; or there are several processes, which would wait for each
                other.
        """
        section, state, advice = self._config.section, self.state, []
        supported = getattr(self.trainable.model, "supports_gradient_checkpointing", False)
        if supported and not getattr(self._config, "gradient_checkpointing", True):
            advice.append(f"set {section}.gradient_checkpointing true")
        if self.accelerator.mixed_precision == "no":
            advice.append(f"set {section}.mixed_precision auto")
        need, size, seconds = (
            "needs more memory than the GPU has",
            f"{section}.batch_size",
            f"{section}.max_batch_seconds",
        )
        if self.accelerator.num_processes > 1:
            advice.append(f"lower {size} or {seconds}")
            only = "only a run of one process cuts batches into parts"
            raise InputError(f"{self.description} {need}, and {only}: {' or '.join(advice)}")
        if state.batch_parts >= largest // self._min_clips:
            advice.append("choose a smaller model or shorter clips")
            useless = f"so that a lower {size} or {seconds} does not help"
            raise InputError(
                f"{self.description} {need} for {self._min_clips} clip(s), {useless}: {' or '.join(advice)}"
            )
        state.batch_parts *= 2
        parts = f"each batch is computed in {state.batch_parts} parts"
        logger.warning(f"{self.description} {need}: from step {state.step + 1} on, {parts}")

    def _end_epoch(self) -> str:
        """Compute the metrics, evaluate, write history and checkpoint; return a text for the progress bar."""
        state, accelerator = self.state, self.accelerator
        self._check_finite()
        totals = {name: accelerator.reduce(value.clone(), "sum").cpu() for name, value in self.totals.items()}
        metrics: dict[str, Any] = {"epoch": state.epoch + 1, "step": state.step} | self._training_metrics(totals)
        if not all(map(math.isfinite, metrics.values())):
            raise self.diverged()
        metrics["learning_rate"] = self.schedule.get_last_lr()[0]
        state.epoch, state.batch = state.epoch + 1, 0
        for value in self.totals.values():
            value.zero_()
        metrics |= self._evaluate_epoch()
        if accelerator.is_main_process:
            self.folder.append_history(metrics)
        accelerator.log({name: value for name, value in metrics.items() if name != "step"}, step=state.step)
        self._save()
        return self._summary(metrics)

    def _check_finite(self) -> None:
        """Stop a training that diverged before its weights are validated or saved."""
        state = self.trainable.model.state_dict()
        values = [*self.totals.values(), *(state[name] for name in self.trained_names if name in state)]
        failed = torch.stack([~value.isfinite().all() for value in values]).any().float()
        if self.accelerator.reduce(failed, "sum").item():
            raise self.diverged()

    def diverged(self) -> InputError:
        """Return the error of a training whose loss, weights or predictions are not finite."""
        settings = [f"{self._config.section}.learning_rate"]
        if len(self.trainable.learning_rates) > 1:
            settings.append("tuning.learning_rate")
        return InputError(
            f"{self.description} diverged: after step {self.state.step}, the loss or the weights are no longer finite "
            f"numbers: lower {' and '.join(settings)} ({self.folder.path} keeps its earlier checkpoints)"
        )

    def _save(self) -> None:
        now, cpu_time = time.monotonic(), time.process_time()
        self.state.seconds += now - self._last_save
        self.state.cpu_seconds += cpu_time - self._last_cpu_time
        self._last_save, self._last_cpu_time = now, cpu_time
        self.state.totals = {name: value.tolist() for name, value in self.totals.items()}
        self.checkpoints.save(self.state.step, asdict(self.state))

    def _load(self) -> None:
        """Continue from the newest checkpoint, or from the start if there is none."""
        progress = self.checkpoints.load()
        if progress is not None:
            self.state = Progress(**progress)
            for name, value in self.totals.items():
                value.copy_(torch.tensor(self.state.totals[name], dtype=value.dtype))
        if self.accelerator.is_main_process:
            self.folder.truncate_history(self.state.epoch)
        self.accelerator.wait_for_everyone()


def _cut(batch: Batch, parts: int, min_clips: int) -> Iterator[Batch]:
    """Yield the parts of a batch: as many as asked for, but none of fewer than `min_clips`, unless the batch is."""
    rows, inputs = batch
    bounds = np.linspace(0, len(rows), max(1, min(parts, len(rows) // min_clips)) + 1).astype(int).tolist()
    for start, end in pairwise(bounds):
        yield rows[start:end], {name: value[start:end] for name, value in inputs.items()}


def _collate(batch_source: BatchSource, epoch: int, rows: list[int]) -> Batch:
    return rows, batch_source.collate(rows, epoch)
