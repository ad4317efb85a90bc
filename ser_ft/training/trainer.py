"""The training loop: accelerate, the loss exact over any number of processes, resumable to the bit."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from transformers import get_cosine_schedule_with_warmup

from ..config.schema import TrainConfig
from ..data.augmentation.batch import Mixup
from ..dataloading.batch_sampler import balancing_weights, epoch_batches
from ..dataloading.batches import BatchSource
from ..dataloading.targets import ClipData, iter_steps
from ..evaluation.metrics import uar
from ..evaluation.predict import predict
from ..evaluation.run_folder import RunFolder
from ..utils.errors import InputError
from ..utils.files import backup_path, replace_atomically
from ..utils.progress import progress_bar
from .checkpoints import Checkpoints, trained_names
from .ema import EMA
from .finetuning import TrainableModel
from .losses import clip_losses


@dataclass
class Progress:
    """Where training stands: all that a checkpoint adds to weights, optimiser and random states."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best_uar: float = -1.0
    best_loss: float = math.inf
    best_epoch: int = 0
    sums: list[float] = field(default_factory=list)
    hits: list[list[int]] = field(default_factory=list)
    stopped: bool = False
    seconds: float = 0.0


class Trainer:
    """Trains a model on the clips of one part of a table, and keeps the weights that do best on another.

    Args:
        accelerator: prepared by the caller. setup: the model, and what of it is trained. inputs: of the whole table.
        train, validation: rows of the table; without validation the last weights are kept.
        run: where checkpoints and history go. seed: of the order of clips.
        unfreeze_every: epochs after which one more of the setup's stages is trained; None: all at once.
        mixup: parameter of the Beta distribution by whose shares clips are mixed in pairs; None: not at all.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        setup: TrainableModel,
        inputs: ClipData,
        train: np.ndarray,
        validation: np.ndarray,
        settings: TrainConfig,
        run: RunFolder,
        seed: int,
        unfreeze_every: int | None = None,
        mixup: float | None = None,
    ) -> None:
        self.accelerator, self.inputs, self.settings, self.run, self.seed = accelerator, inputs, settings, run, seed
        self.setup, self.unfreeze_every, self.mixup = setup, unfreeze_every, mixup
        self.train, self.validation = train, validation
        self.state = Progress()
        self.started = time.monotonic()
        self.weights = self._clip_weights()
        self.chances = None
        if settings.balanced:
            self.chances = balancing_weights([(inputs.corpora[row], int(inputs.labels[row])) for row in train])
        optimiser = torch.optim.AdamW(setup.groups, lr=settings.learning_rate, fused=accelerator.device.type != "mps")
        self.accumulation = min(settings.gradient_accumulation_steps, max(1, len(train) // accelerator.num_processes))
        # By a limit on seconds, epochs may differ by a batch or two.
        self.steps = sum(len(self._batches(epoch)) for epoch in range(settings.epochs)) // self.accumulation
        self.steps = min(self.steps, settings.max_steps or self.steps)
        self.schedule = get_cosine_schedule_with_warmup(
            optimiser, round(settings.warmup_ratio * self.steps), self.steps
        )
        self.model, self.optimiser = accelerator.prepare(setup.model, optimiser)
        # Autocast is entered where the loss is computed; final answers are asked for without it.
        for name in ("forward", "_original_forward"):
            setup.model.__dict__.pop(name, None)
        accelerator.register_for_checkpointing(self.schedule)
        trained = trained_names(setup.model, setup.groups)
        self.checkpoints = Checkpoints(accelerator, run, setup.model, trained)
        self.average = None
        if settings.ema_decay is not None:
            self.average = EMA(setup.model, trained, settings.ema_decay)
            accelerator.register_for_checkpointing(self.average)
        # Sums stay on the device: to read them at every step would make it wait.
        self.sums = torch.zeros(2, dtype=torch.float64 if accelerator.device.type != "mps" else torch.float32)
        self.hits = torch.zeros(2, len(inputs.classes), dtype=torch.int64)
        self.sums, self.hits = self.sums.to(accelerator.device), self.hits.to(accelerator.device)

    def fit(self, resume: bool = False, shown: bool = True) -> None:
        """Train to the end, or until validation no longer improves; the best weights are in the model afterwards."""
        if resume:
            self._load()
        elif self.accelerator.is_main_process:
            self.run.truncate_history(0)
        with progress_bar(
            total=self.steps, initial=self.state.step, desc="training", unit=" steps", shown=shown
        ) as progress:
            while (self.state.step < self.steps or self.state.batch) and not self.state.stopped:
                self._epoch(progress)
                progress.set_postfix_str(self._end_epoch())
        self._restore_best()

    def _clip_weights(self) -> np.ndarray:
        weights = np.ones(len(self.inputs.labels), dtype=np.float32)
        if self.settings.class_weights:
            counts = np.bincount(self.inputs.labels[self.train], minlength=len(self.inputs.classes))
            present = counts > 0
            scale = np.zeros(len(counts))
            scale[present] = counts.sum() / (present.sum() * counts[present])
            weights = scale[self.inputs.labels].astype(np.float32)
        return weights

    def _batches(self, epoch: int) -> list[list[int]]:
        return epoch_batches(
            self.inputs.batch_source.seconds[self.train],
            self.settings.batch_size,
            self.seed,
            epoch,
            max_batch_length=self.settings.max_batch_seconds,
            weights=self.chances,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
            accumulation_steps=self.settings.gradient_accumulation_steps,
        )

    def _steps(self) -> Iterator[list[tuple[list[int], dict[str, torch.Tensor]]]]:
        """Yield the batches of each remaining step of this epoch: the rows, and the model's inputs."""
        return iter_steps(
            self.train,
            self._batches(self.state.epoch)[self.state.batch :],
            partial(_with_rows, self.inputs.batch_source, self.state.epoch),
            self.accumulation,
            self.seed,
            self.settings.dataloader_num_workers,
            self.accelerator.device.type == "cuda",
        )

    def _unfreeze(self) -> None:
        """Let gradients reach as many of the stages, from the top, as the epoch has come to."""
        if self.unfreeze_every is not None:
            free = self.state.epoch // self.unfreeze_every
            for place, stage in enumerate(self.setup.stages):
                for parameter in stage:
                    parameter.requires_grad_(place < free)

    def _epoch(self, progress: Any) -> None:
        self._unfreeze()
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

    def _step(self, group: list[tuple[list[int], dict[str, torch.Tensor]]]) -> None:
        """Take one step: the loss is divided by the weight of all clips of the step, over all processes."""
        accelerator, inputs = self.accelerator, self.inputs
        own = torch.tensor(sum(float(self.weights[rows].sum()) for rows, _ in group))
        whole = accelerator.reduce(own.to(accelerator.device), "sum") if accelerator.num_processes > 1 else own
        # Gradients are averaged over processes: times their number makes the sum again.
        scale = accelerator.num_processes / whole.clamp(min=1e-12)
        for place, (rows, batch) in enumerate(group):
            batch = {name: value.to(accelerator.device, non_blocking=True) for name, value in batch.items()}
            targets, allowed, weights, labels = (
                torch.from_numpy(values[rows]).to(accelerator.device, non_blocking=True)
                for values in (inputs.targets, inputs.allowed, self.weights, inputs.labels)
            )
            if self.mixup:
                mix = Mixup.sample(
                    self.mixup, len(rows), (self.seed, self.state.step, place, accelerator.process_index)
                )
                batch = {name: mix.mix_input(name, value) for name, value in batch.items()}
                targets, allowed, weights = mix.mix(targets), mix.allowed_by_either(allowed), mix.mix(weights)
            last = place == len(group) - 1
            with nullcontext() if last else accelerator.no_sync(self.model):
                with accelerator.autocast():
                    answers = self.model(**batch)
                logits, apart = answers.logits, answers.get("member_logits")
                said = logits[None] if apart is None else apart
                losses = [clip_losses(each, targets, allowed, self.settings.label_smoothing) for each in said]
                loss = (torch.stack(losses).mean(dim=0) * weights).sum()
                accelerator.backward(loss * scale)
            guesses = logits.detach().float().masked_fill(~allowed, -torch.inf).argmax(dim=1)
            self.hits[0].index_add_(0, labels, (guesses == labels).long())
            self.hits[1].index_add_(0, labels, torch.ones_like(labels))
            self.sums += torch.stack((loss.detach(), weights.sum())).to(self.sums.dtype)
        if accelerator.sync_gradients:
            accelerator.clip_grad_norm_(self.model.parameters(), self.settings.max_grad_norm)
        self.optimiser.step()
        if not accelerator.optimizer_step_was_skipped:
            self.schedule.step()
            if self.average is not None:
                self.average.update()
        self.optimiser.zero_grad()

    def _end_epoch(self) -> str:
        """Evaluate, write the history's line, keep the best weights, decide whether to stop; return a line to show."""
        state = self.state
        loss, weight = self.accelerator.reduce(self.sums.clone(), "sum").tolist()
        hits = self.accelerator.reduce(self.hits.clone(), "sum").cpu().numpy()
        seen = hits[1] > 0
        line: dict[str, Any] = {
            "epoch": state.epoch + 1,
            "step": state.step,
            "train_loss": loss / max(weight, 1e-12),
            "train_uar": float((hits[0][seen] / hits[1][seen]).mean()),
            "learning_rate": self.schedule.get_last_lr()[0],
        }
        if not math.isfinite(line["train_loss"]):
            raise InputError(f"the loss is no longer a number in epoch {line['epoch']}: lower train.learning_rate")
        state.epoch, state.batch = state.epoch + 1, 0
        self.sums.zero_()
        self.hits.zero_()
        with self.average.used() if self.average is not None else nullcontext():
            line |= self._judge()
        patience = self.settings.early_stopping_patience
        state.stopped = bool(len(self.validation) and patience and state.epoch - state.best_epoch >= patience)
        if self.accelerator.is_main_process:
            self.run.append_history(line)
        self.accelerator.log({name: value for name, value in line.items() if name != "step"}, step=state.step)
        self._save()
        shown = f"UAR train {line['train_uar']:.3f}"
        return shown + (
            f", validation {line['validation_uar']:.3f} (best {state.best_uar:.3f})" if len(self.validation) else ""
        )

    def _judge(self) -> dict[str, float]:
        """Evaluate the weights on validation, where there is any, and keep them if they are the best so far."""
        state, scores, better = self.state, {}, True
        if len(self.validation):
            scores = self._validate()
            now = (scores["validation_uar"], -scores["validation_loss"])
            better = now > (state.best_uar, -state.best_loss)
            if better:
                state.best_uar, state.best_loss = scores["validation_uar"], scores["validation_loss"]
        if better:
            state.best_epoch = state.epoch
            self._keep_best()
        return scores

    def _validate(self) -> dict[str, float]:
        rows, allowed = self.validation, self.inputs.allowed[self.validation]
        shares = self.probabilities(rows, self.accelerator.autocast)
        labels = self.inputs.labels[rows]
        logs = np.log(np.clip(shares, 1e-12, 1.0)) * allowed
        loss = float(-(self.inputs.targets[rows] * logs).sum(axis=1).mean())
        return {
            "validation_loss": loss,
            "validation_uar": float(uar(labels, shares.argmax(axis=1), len(self.inputs.classes))),
        }

    def probabilities(
        self, rows: np.ndarray, context: Callable[[], AbstractContextManager[Any]] = nullcontext
    ) -> np.ndarray:
        """Return the model's probabilities for clips, shape (clips, classes); each process computes its share.

        Args:
            rows: of the clips. context: made around each call of the model; by default none: in float32.
        """
        accelerator, feed = self.accelerator, self.inputs.batch_source
        if accelerator.num_processes > 1:
            # Each process has running statistics of its own: those that are saved, the first one's, are asked.
            for buffer in self.setup.model.buffers():
                torch.distributed.broadcast(buffer, src=0)
        found = predict(
            self.setup.model,
            feed.collate,
            rows,
            feed.lengths,
            self.inputs.allowed[rows],
            equal_lengths=feed.requires_equal_lengths,
            shard=(accelerator.process_index, accelerator.num_processes),
            context=context,
        )
        if accelerator.num_processes > 1:
            # Every clip is computed by one process and is zero elsewhere: the sum is the whole, none twice.
            found = accelerator.reduce(torch.from_numpy(found).to(accelerator.device), "sum").cpu().numpy()
        return found

    def _keep_best(self) -> None:
        if self.accelerator.is_main_process:
            folder = self.run.checkpoints / "best"
            partial_folder = folder.with_name(".best.partial")
            partial_folder.mkdir(parents=True, exist_ok=True)
            self.checkpoints.write_weights(partial_folder)
            replace_atomically(partial_folder, folder)

    def _restore_best(self) -> None:
        self.accelerator.wait_for_everyone()
        self.checkpoints.read_weights(self.run.checkpoints / "best")

    def _save(self) -> None:
        now = time.monotonic()
        self.state.seconds, self.started = self.state.seconds + now - self.started, now
        self.state.hits, self.state.sums = self.hits.tolist(), self.sums.tolist()
        self.checkpoints.save(self.state.step, asdict(self.state))

    def _load(self) -> None:
        """Go on from the newest checkpoint; from the start where there is none."""
        best = self.run.checkpoints / "best"
        if self.accelerator.is_main_process and not best.exists() and backup_path(best).exists():
            os.replace(backup_path(best), best)
        found = self.checkpoints.load()
        if found is not None:
            self.state = Progress(**found)
            self.hits.copy_(torch.tensor(self.state.hits))
            self.sums.copy_(torch.tensor(self.state.sums, dtype=torch.float64))
        if self.accelerator.is_main_process:
            self.run.truncate_history(self.state.epoch)
        self.accelerator.wait_for_everyone()


def _with_rows(feed: BatchSource, epoch: int, rows: list[int]) -> tuple[list[int], dict[str, torch.Tensor]]:
    return rows, feed.collate(rows, epoch)
