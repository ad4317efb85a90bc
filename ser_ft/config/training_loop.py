"""The settings that fine-tuning and continued pretraining share: length, batches, optimizer steps, checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from .validation import check_fraction, check_minimum, check_positive


@dataclass
class TrainingLoopConfig:
    """A training loop and its optimizer."""

    section: ClassVar[str] = "train"

    epochs: int = 40
    """Largest number of passes over the training clips."""

    max_steps: int | None = None
    """Largest number of optimizer steps: training then stops and finishes as usual. null: no limit."""

    batch_size: int = 16
    """Clips per batch and process."""

    max_batch_seconds: float | None = None
    """Largest length of a batch in seconds, padding included, in addition to batch_size. null: no limit."""

    gradient_accumulation_steps: int = 1
    """Batches per optimizer step."""

    learning_rate: float = 1e-3
    """Peak learning rate of AdamW."""

    weight_decay: float = 0.01
    """Weight decay. Biases and normalization layers have none."""

    warmup_ratio: float = 0.1
    """Fraction of all steps over which the learning rate rises."""

    max_grad_norm: float = 5.0
    """Largest norm of the gradient."""

    mixed_precision: Literal["no", "bf16", "fp16", "auto"] | None = None
    """no, bf16, fp16 or auto (bf16 where the device supports it, else fp16 on a GPU). null: the launcher's, else no."""

    save_steps: int | None = None
    """Write a checkpoint after every so many steps, in addition to the one after each epoch."""

    dataloader_num_workers: int = 0
    """Processes that load batches. 0: the training process loads them."""

    def __post_init__(self) -> None:
        counts = ("epochs", "max_steps", "batch_size", "gradient_accumulation_steps", "save_steps")
        check_minimum(self, self.section, 1, *counts)
        check_minimum(self, self.section, 0, "learning_rate", "weight_decay", "dataloader_num_workers")
        check_positive(self, self.section, "max_grad_norm", "max_batch_seconds")
        check_fraction(self, self.section, "warmup_ratio")
