"""Training of a classifier: loss, validation, early stopping, and the best weights."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from transformers import get_cosine_schedule_with_warmup

from ..config.training_loop import TrainConfig
from ..data.augmentation.batch import Mixup
from ..dataloading.batch_sampler import balancing_weights
from ..dataloading.targets import ClipData
from ..evaluation.metrics import uar
from ..evaluation.predict import predict
from ..evaluation.run_folder import RunFolder
from ..models.outputs import NotFiniteError
from ..utils.atomic import write_atomically
from .ema import EMA
from .losses import class_priors, clip_losses
from .trainer import Batch, Trainer, TrainingJob


@dataclass
class ClassificationJob(TrainingJob):
    """What the training of a classifier trains.

    Attributes:
        clips: labels, targets and allowed classes of all clips of the batch source.
        validation_rows: row numbers of the validation clips; without any, the last weights are kept.
        unfreeze_every: epochs after which one more of the model's stages is trained; None: all from the start.
        mixup: parameter of the Beta distribution of mixup; None: no mixup.
    """

    clips: ClipData
    validation_rows: np.ndarray
    unfreeze_every: int | None = None
    mixup: float | None = None


class ClassificationTrainer(Trainer):
    """Trains a classifier, and keeps the weights that are best on the validation clips."""

    def __init__(
        self, accelerator: Accelerator, job: ClassificationJob, config: TrainConfig, folder: RunFolder, seed: int
    ) -> None:
        self.job, self.config, self.clips = job, config, job.clips
        self.clip_weights = self._clip_weights()
        self.class_priors: np.ndarray | None = None
        if config.loss == "logit-adjusted":
            self.class_priors = class_priors(job.clips.targets, job.clips.allowed, job.train_rows)
        super().__init__(accelerator, job, config, folder, seed)
        self.ema: EMA | None = None
        if config.ema_decay is not None:
            self.ema = EMA(self.trainable.model, self.trained_names, config.ema_decay)
            self.checkpoints.register("ema", self.ema)

    def fit(self, resume: bool = False, show_progress: bool = True) -> None:
        """Train the model as `Trainer.fit` does; afterwards the model has its best weights."""
        super().fit(resume, show_progress)
        self.accelerator.wait_for_everyone()
        self.checkpoints.read_weights(self.folder.checkpoints / "best")

    def _create_schedule(self, optimizer: torch.optim.Optimizer, warmup_steps: int, steps: int) -> Any:
        return get_cosine_schedule_with_warmup(optimizer, warmup_steps, steps)

    @cached_property
    def _sampling_weights(self) -> np.ndarray | None:
        if not self.config.balanced:
            return None
        groups = [(self.clips.corpora[row], int(self.clips.labels[row])) for row in self.job.train_rows]
        return balancing_weights(groups)

    def _new_totals(self) -> dict[str, torch.Tensor]:
        dtype = torch.float64 if self.accelerator.device.type != "mps" else torch.float32
        # The summed loss and weight of the clips; per class, the correct predictions and the clips.
        correct = torch.zeros(2, len(self.clips.classes), dtype=torch.int64)
        return {"loss": torch.zeros(2, dtype=dtype), "correct": correct}

    def _on_epoch_start(self) -> None:
        every = self.job.unfreeze_every
        if every is not None:
            for index, stage in enumerate(self.trainable.stages):
                for parameter in stage:
                    parameter.requires_grad_(index < self.state.epoch // every)

    def _prepare_step(self, batches: list[Batch]) -> tuple[list[Any], float]:
        return batches, sum(float(self.clip_weights[rows].sum()) for rows, _ in batches)

    def _batch_loss(self, prepared: Batch, index: int) -> torch.Tensor:
        device, (rows, inputs) = self.accelerator.device, prepared
        inputs = {name: value.to(device, non_blocking=True) for name, value in inputs.items()}
        targets, allowed, weights, labels = (
            torch.from_numpy(values[rows]).to(device, non_blocking=True)
            for values in (self.clips.targets, self.clips.allowed, self.clip_weights, self.clips.labels)
        )
        priors = None if self.class_priors is None else torch.from_numpy(self.class_priors[rows]).to(device)
        if self.job.mixup:
            seed = (self.seed, self.state.step, index, self.accelerator.process_index)
            mixup = Mixup.sample(self.job.mixup, len(rows), seed)
            inputs = {name: mixup.mix_input(name, value) for name, value in inputs.items()}
            targets, allowed, weights = mixup.mix(targets), mixup.allowed_by_either(allowed), mixup.mix(weights)
            priors = None if priors is None else mixup.mix(priors)
        offsets = None if priors is None else self.config.logit_adjustment * priors.clamp(min=1e-12).log()
        focal_gamma = self.config.focal_gamma if self.config.loss == "focal" else 0.0
        with self.accelerator.autocast():
            outputs = self.model(**inputs)
        logits, member_logits = outputs.logits, outputs.get("member_logits")
        members = logits[None] if member_logits is None else member_logits
        losses = [
            clip_losses(member, targets, allowed, self.config.label_smoothing, focal_gamma, offsets)
            for member in members
        ]
        loss = (torch.stack(losses).mean(dim=0) * weights).sum()
        predictions = logits.detach().float().masked_fill(~allowed, -torch.inf).argmax(dim=1)
        self.totals["correct"][0].index_add_(0, labels, (predictions == labels).long())
        self.totals["correct"][1].index_add_(0, labels, torch.ones_like(labels))
        self.totals["loss"] += torch.stack((loss.detach(), weights.sum())).to(self.totals["loss"].dtype)
        return loss

    def _on_step_end(self) -> None:
        if self.ema is not None:
            self.ema.update()

    def _training_metrics(self, totals: dict[str, torch.Tensor]) -> dict[str, float]:
        (loss, weight), (correct, clips) = totals["loss"].tolist(), totals["correct"].numpy()
        present = clips > 0
        return {"train_loss": loss / max(weight, 1e-12), "train_uar": float((correct[present] / clips[present]).mean())}

    def _evaluate_epoch(self) -> dict[str, float]:
        state, has_validation, patience = self.state, len(self.job.validation_rows) > 0, None
        with nullcontext() if self.ema is None else self.ema.applied():
            metrics = self._validate() if has_validation else {}
            if has_validation:
                patience = self.config.early_stopping_patience
                score = (metrics["validation_uar"], -metrics["validation_loss"])
                if score > (state.best_uar, -state.best_loss):
                    state.best_uar, state.best_loss = metrics["validation_uar"], metrics["validation_loss"]
                    self._keep_weights()
            else:
                self._keep_weights()
        state.stopped = bool(patience and state.epoch - state.best_epoch >= patience)
        return metrics

    def _summary(self, metrics: dict[str, Any]) -> str:
        text = f"UAR train {metrics['train_uar']:.3f}"
        if "validation_uar" in metrics:
            text += f", validation {metrics['validation_uar']:.3f} (best {self.state.best_uar:.3f})"
        return text

    def probabilities(
        self, rows: np.ndarray, context: Callable[[], AbstractContextManager[Any]] = nullcontext
    ) -> np.ndarray:
        """Return the model's probabilities for clips, shape (clips, classes). The processes share the work.

        Args:
            rows: row numbers of the clips.
            context: makes a context manager around each call of the model; by default none, for float32.
        """
        accelerator, batch_source = self.accelerator, self.trainable.batch_source
        if accelerator.num_processes > 1:
            # Running statistics differ between the processes: those of the first one, which are saved, are used.
            for buffer in self.trainable.model.buffers():
                torch.distributed.broadcast(buffer, src=0)
        try:
            probabilities = predict(
                self.trainable.model,
                batch_source.collate,
                rows,
                batch_source.lengths,
                self.clips.allowed[rows],
                equal_lengths=batch_source.requires_equal_lengths,
                shard=(accelerator.process_index, accelerator.num_processes),
                context=context,
            )
        except NotFiniteError as error:
            raise self.diverged() from error
        if accelerator.num_processes > 1:
            # Each clip is computed by one process and is zero in the others.
            values = torch.from_numpy(probabilities).to(accelerator.device)
            probabilities = accelerator.reduce(values, "sum").cpu().numpy()
        return probabilities

    def _clip_weights(self) -> np.ndarray:
        labels, train_labels = self.clips.labels, self.clips.labels[self.job.train_rows]
        if not self.config.class_weights:
            return np.ones(len(labels), dtype=np.float32)
        counts = np.bincount(train_labels, minlength=len(self.clips.classes))
        present = counts > 0
        class_weights = np.zeros(len(counts))
        class_weights[present] = counts.sum() / (present.sum() * counts[present])
        return np.asarray(class_weights[labels], dtype=np.float32)

    def _validate(self) -> dict[str, float]:
        rows, labels = self.job.validation_rows, self.clips.labels[self.job.validation_rows]
        probabilities = self.probabilities(rows, self.accelerator.autocast)
        log_probabilities = np.log(np.clip(probabilities, 1e-12, 1.0)) * self.clips.allowed[rows]
        return {
            "validation_loss": float(-(self.clips.targets[rows] * log_probabilities).sum(axis=1).mean()),
            "validation_uar": float(uar(labels, probabilities.argmax(axis=1), len(self.clips.classes))),
        }

    def _keep_weights(self) -> None:
        """Write the weights as the best so far."""
        self.state.best_epoch = self.state.epoch
        if self.accelerator.is_main_process:
            with write_atomically(self.folder.checkpoints / "best") as partial_folder:
                partial_folder.mkdir()
                self.checkpoints.write_weights(partial_folder)
