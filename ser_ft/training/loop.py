"""The training loop: accelerate, the loss exact over any number of processes, resumable to the bit."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, get_cosine_schedule_with_warmup

from .. import folders
from ..errors import InputError
from ..progress import bar
from ..results.evaluation import predict
from ..results.metrics import uar
from ..results.runs import RunFolder
from .batching import balancing_chances, epoch_batches
from .config import TrainConfig
from .inputs import Inputs, TrainingClips
from .losses import clip_losses

_KEPT_CHECKPOINTS = 2


@dataclass
class Progress:
    """Where training stands: all that a checkpoint adds to weights, optimiser and random states."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best_uar: float = -1.0
    best_loss: float = math.inf
    best_epoch: int = 0
    train_loss: float = 0.0
    train_weight: float = 0.0
    hits: list[list[int]] | None = None
    stopped: bool = False
    seconds: float = 0.0
    processes: int = 1


class Trainer:
    """Trains a model on the clips of one part of a table, and keeps the weights that do best on another.

    Args:
        accelerator: prepared by the caller. model: untrained. inputs: of the whole table.
        train, validation: rows of the table; without validation the last weights are kept.
        run: where checkpoints and history go. seed: of the order of clips.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: PreTrainedModel,
        inputs: Inputs,
        train: np.ndarray,
        validation: np.ndarray,
        settings: TrainConfig,
        run: RunFolder,
        seed: int,
    ) -> None:
        self.accelerator, self.inputs, self.settings, self.run, self.seed = accelerator, inputs, settings, run, seed
        self.train, self.validation = train, validation
        self.state = Progress(processes=accelerator.num_processes)
        self.started = time.monotonic()
        self.weights = self._clip_weights()
        self.chances = None
        if settings.balanced:
            self.chances = balancing_chances([(inputs.corpora[row], int(inputs.labels[row])) for row in train])
        optimiser = torch.optim.AdamW(_decayed(model, settings.weight_decay), lr=settings.learning_rate)
        per_epoch = math.ceil(len(self._batches(0)) / settings.accumulation)
        total = per_epoch * settings.epochs
        self.schedule = get_cosine_schedule_with_warmup(optimiser, round(settings.warmup * total), total)
        self.steps_per_epoch = per_epoch
        self.model, self.optimiser = accelerator.prepare(model, optimiser)
        accelerator.register_for_checkpointing(self.schedule)

    @property
    def plain_model(self) -> PreTrainedModel:
        """The model itself, without what accelerate wraps around it."""
        model: PreTrainedModel = self.accelerator.unwrap_model(self.model)
        return model

    def fit(self, resume: bool = False, shown: bool = True) -> None:
        """Train to the end, or until validation no longer improves; the best weights are in the model afterwards."""
        if resume:
            self._load()
        elif self.accelerator.is_main_process:
            self.run.cut_history(0)
        total = self.steps_per_epoch * self.settings.epochs
        with bar(total=total, initial=self.state.step, desc="training", unit=" steps", shown=shown) as progress:
            while self.state.epoch < self.settings.epochs and not self.state.stopped:
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
            self.inputs.frames.lengths[self.train],
            self.settings.batch_size,
            self.seed,
            epoch,
            chances=self.chances,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
        )

    def _groups(self) -> Iterator[list[tuple[list[int], dict[str, torch.Tensor]]]]:
        """Yield the batches of each remaining step of this epoch: the rows, and the model's inputs."""
        batches = self._batches(self.state.epoch)[self.state.batch :]
        # A loader draws its workers' seed from torch's own stream, which resuming must not move: it gets another.
        loader = DataLoader(
            TrainingClips(self.train),
            batch_sampler=batches,
            collate_fn=partial(_with_rows, self.inputs),
            num_workers=self.settings.workers,
            generator=torch.Generator().manual_seed(self.seed),
        )
        group = []
        for batch in loader:
            group.append(batch)
            if len(group) == self.settings.accumulation:
                yield group
                group = []
        if group:
            yield group

    def _epoch(self, progress: Any) -> None:
        self.model.train()
        state = self.state
        if state.hits is None:
            state.hits = [[0] * len(self.inputs.classes) for _ in range(2)]
        for group in self._groups():
            self._step(group)
            state.batch += len(group)
            state.step += 1
            progress.update()
            every = self.settings.checkpoint_steps
            if every and state.step % every == 0:
                self._save()

    def _step(self, group: list[tuple[list[int], dict[str, torch.Tensor]]]) -> None:
        """Take one step: the loss is divided by the weight of all clips of the step, over all processes."""
        accelerator, inputs = self.accelerator, self.inputs
        own = torch.tensor(sum(float(self.weights[rows].sum()) for rows, _ in group), device=accelerator.device)
        whole = float(accelerator.reduce(own, "sum"))
        for place, (rows, batch) in enumerate(group):
            batch = {name: value.to(accelerator.device) for name, value in batch.items()}
            targets, allowed, weights = (
                torch.from_numpy(values[rows]).to(accelerator.device)
                for values in (inputs.targets, inputs.allowed, self.weights)
            )
            last = place == len(group) - 1
            with nullcontext() if last else accelerator.no_sync(self.model):
                with accelerator.autocast():
                    logits = self.model(**batch).logits
                loss = (clip_losses(logits, targets, allowed, self.settings.label_smoothing) * weights).sum()
                # Gradients are averaged over processes: times their number makes the sum again.
                accelerator.backward(loss * accelerator.num_processes / max(whole, 1e-12))
            self._count(rows, logits.detach(), allowed, float(loss.detach()))
        if accelerator.sync_gradients:
            accelerator.clip_grad_norm_(self.model.parameters(), self.settings.clip_norm)
        self.optimiser.step()
        if not accelerator.optimizer_step_was_skipped:
            self.schedule.step()
        self.optimiser.zero_grad()

    def _count(self, rows: list[int], logits: torch.Tensor, allowed: torch.Tensor, loss: float) -> None:
        state = self.state
        assert state.hits is not None
        guesses = logits.float().masked_fill(~allowed, -torch.inf).argmax(dim=1).cpu().numpy()
        for guess, label in zip(guesses, self.inputs.labels[rows], strict=True):
            state.hits[0][label] += int(guess == label)
            state.hits[1][label] += 1
        state.train_loss += loss
        state.train_weight += float(self.weights[rows].sum())

    def _end_epoch(self) -> str:
        """Evaluate, write the history's line, keep the best weights, decide whether to stop; return a line to show."""
        state = self.state
        assert state.hits is not None
        sums = torch.tensor([state.train_loss, state.train_weight], device=self.accelerator.device)
        loss, weight = self.accelerator.reduce(sums, "sum").tolist()
        hits = self.accelerator.reduce(torch.tensor(state.hits, device=self.accelerator.device), "sum").cpu().numpy()
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
        better = True
        if len(self.validation):
            line |= self._validate()
            now = (line["validation_uar"], -line["validation_loss"])
            better = now > (state.best_uar, -state.best_loss)
            if better:
                state.best_uar, state.best_loss = line["validation_uar"], line["validation_loss"]
        state.epoch, state.batch = state.epoch + 1, 0
        state.hits, state.train_loss, state.train_weight = None, 0.0, 0.0
        if better:
            state.best_epoch = state.epoch
            self._keep_best()
        patience = self.settings.patience
        state.stopped = bool(len(self.validation) and patience and state.epoch - state.best_epoch >= patience)
        if self.accelerator.is_main_process:
            self.run.append_history(line)
        self.accelerator.log({name: value for name, value in line.items() if name != "step"}, step=state.step)
        self._save()
        shown = f"UAR train {line['train_uar']:.3f}"
        return shown + (
            f", validation {line['validation_uar']:.3f} (best {state.best_uar:.3f})" if len(self.validation) else ""
        )

    def _validate(self) -> dict[str, float]:
        rows, allowed = self.validation, self.inputs.allowed[self.validation]
        shares = self.probabilities(rows)
        labels = self.inputs.labels[rows]
        logs = np.log(np.clip(shares, 1e-12, 1.0)) * allowed
        loss = float(-(self.inputs.targets[rows] * logs).sum(axis=1).mean())
        return {
            "validation_loss": loss,
            "validation_uar": float(uar(labels, shares.argmax(axis=1), len(self.inputs.classes))),
        }

    def probabilities(self, rows: np.ndarray) -> np.ndarray:
        """Return the model's probabilities for clips, shape (clips, classes); each process computes its share."""
        accelerator = self.accelerator
        if accelerator.num_processes > 1:
            # Each process has running statistics of its own: those that are saved, the first one's, are asked.
            for buffer in self.plain_model.buffers():
                torch.distributed.broadcast(buffer, src=0)
        mine = np.arange(accelerator.process_index, len(rows), accelerator.num_processes)
        found = np.zeros((len(rows), len(self.inputs.classes)))
        if len(mine):
            allowed = self.inputs.allowed[rows[mine]]
            lengths = self.inputs.frames.lengths
            found[mine] = predict(self.plain_model, self.inputs.collate, rows[mine], lengths, allowed)
        if accelerator.num_processes > 1:
            # Every clip is computed by one process and is zero elsewhere: the sum is the whole, none twice.
            found = accelerator.reduce(torch.from_numpy(found).to(accelerator.device), "sum").cpu().numpy()
        return found

    def _keep_best(self) -> None:
        if self.accelerator.is_main_process:
            folder = self.run.checkpoints / "best"
            partial_folder = folder.with_name(".best.partial")
            self.plain_model.save_pretrained(partial_folder)
            folders.put(partial_folder, folder)

    def _restore_best(self) -> None:
        self.accelerator.wait_for_everyone()
        from safetensors.torch import load_file

        weights = load_file(self.run.checkpoints / "best" / "model.safetensors")
        self.plain_model.load_state_dict(weights)

    def _save(self) -> None:
        """Write a checkpoint, whole or not at all, and let the oldest go."""
        accelerator = self.accelerator
        folder = self.run.checkpoints / f"step-{self.state.step:07d}"
        partial_folder = folder.with_name(f".{folder.name}.partial")
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            shutil.rmtree(partial_folder, ignore_errors=True)
            partial_folder.mkdir(parents=True)
        accelerator.wait_for_everyone()
        now = time.monotonic()
        self.state.seconds, self.started = self.state.seconds + now - self.started, now
        accelerator.save_state(str(partial_folder))
        own = partial_folder / f"progress-{accelerator.process_index}.json"
        own.write_text(json.dumps(asdict(self.state)), encoding="utf-8")
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            folders.put(partial_folder, folder)
            for outdated in checkpoints(self.run)[:-_KEPT_CHECKPOINTS]:
                folders.remove(outdated)
        accelerator.wait_for_everyone()

    def _load(self) -> None:
        """Go on from the newest checkpoint; from the start where there is none."""
        best = self.run.checkpoints / "best"
        if self.accelerator.is_main_process and not best.exists() and folders.old(best).exists():
            os.replace(folders.old(best), best)
        found = checkpoints(self.run)
        if found:
            started = json.loads((found[-1] / "progress-0.json").read_text(encoding="utf-8"))["processes"]
            if started != self.accelerator.num_processes:
                raise InputError(f"{self.run.path}: started on {started} processes; resume it on as many")
            self.accelerator.load_state(str(found[-1]))
            own = found[-1] / f"progress-{self.accelerator.process_index}.json"
            self.state = Progress(**json.loads(own.read_text(encoding="utf-8")))
        if self.accelerator.is_main_process:
            self.run.cut_history(self.state.epoch)
        self.accelerator.wait_for_everyone()


def checkpoints(run: RunFolder) -> list[Path]:
    """Return the run's whole checkpoints, oldest first."""
    return sorted(run.checkpoints.glob("step-*"))


def _decayed(model: PreTrainedModel, decay: float) -> list[dict[str, Any]]:
    """Leave biases and normalisation out of weight decay."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in trained if parameter.ndim > 1], "weight_decay": decay},
        {"params": [parameter for parameter in trained if parameter.ndim <= 1], "weight_decay": 0.0},
    ]


def _with_rows(inputs: Inputs, rows: list[int]) -> tuple[list[int], dict[str, torch.Tensor]]:
    return rows, inputs.collate(rows)
