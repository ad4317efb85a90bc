"""The section `train`, and those of its settings that continued pretraining shares."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from ..utils.errors import InputError
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


@dataclass
class TrainConfig(TrainingLoopConfig):
    """The training loop and its optimizer."""

    learning_rate: float = 1e-3
    """Peak learning rate of AdamW; for a pretrained backbone, of its head only."""

    warmup_ratio: float = 0.1
    """Fraction of all steps over which the learning rate rises. It falls along a cosine afterwards."""

    loss: Literal["cross-entropy", "focal", "logit-adjusted"] = "cross-entropy"
    """cross-entropy; focal, in which clips count less the better they are classified; or logit-adjusted, in which the
    log priors of the training part's classes are added to the logits, to compensate for rare classes."""

    focal_gamma: float = 2.0
    """For focal: exponent of the factor (1 - probability of the class) in the loss."""

    logit_adjustment: float = 1.0
    """For logit-adjusted: factor (tau) of the log priors."""

    label_smoothing: float = 0.1
    """Fraction of the target that is spread over the classes that the clip's corpus contains."""

    class_weights: bool = False
    """Weight clips by the inverse frequency of their class in the training part."""

    balanced: bool = False
    """Sample clips with replacement so that each combination of corpus and emotion is equally frequent. The logistic
    regression of model.head linear with tuning.mode probe has weights instead: in each class, those of all corpora are
    equal."""

    ema_decay: float | None = None
    """Decay of the exponential moving average (EMA) of the weights, which is validated and saved instead of them, for
    example 0.998. null: no EMA."""

    early_stopping_patience: int | None = 10
    """Stop after this many epochs without a better validation UAR. null: never."""

    gradient_checkpointing: bool = False
    """Compute the activations of a speech encoder's layers again in the backward pass instead of keeping them: steps
    take less memory and more time."""

    compile: bool = False
    """Compile the layers of a speech encoder with torch.compile: it takes a minute or more at the start, and steps on
    GPUs are faster."""

    report_to: list[str] = field(default_factory=list)
    """Experiment trackers that accelerate supports: tensorboard, trackio, wandb, ..."""

    def __post_init__(self) -> None:
        super().__post_init__()
        options = {
            "train.class_weights": self.class_weights,
            "train.balanced": self.balanced,
            "train.loss logit-adjusted": self.loss == "logit-adjusted",
        }
        balancing = [name for name, is_used in options.items() if is_used]
        if len(balancing) > 1:
            raise InputError(f"{balancing[0]} and {balancing[1]} both compensate for rare classes: choose one")
        for name, loss in (("focal_gamma", "focal"), ("logit_adjustment", "logit-adjusted")):
            if getattr(self, name) != getattr(TrainConfig, name) and self.loss != loss:
                raise InputError(f"train.{name} needs train.loss {loss}")
        check_positive(self, "train", "focal_gamma", "logit_adjustment")
        check_minimum(self, "train", 1, "early_stopping_patience")
        check_fraction(self, "train", "label_smoothing")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise InputError(f"train.ema_decay must be between 0 and 1, not {self.ema_decay}")
