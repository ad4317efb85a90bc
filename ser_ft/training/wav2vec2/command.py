"""Continued pretraining on unlabelled sound before fine-tuning: its recipe, its command, and whom a model has heard.

TAPT, task-adaptive pretraining: Chen & Rudnicky 2021, "Exploring wav2vec 2.0 fine-tuning for improved speech emotion
recognition" (arXiv:2110.06309), with the task of Baevski et al. 2020, "wav2vec 2.0" (arXiv:2006.11477).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import yaml

from ...config.schema import IF_EXISTS, PRECISIONS, DataConfig, ModelConfig, SplitConfig
from ...config.validation import at_least, check_choice, check_seed
from ...utils.errors import InputError, run_command, strip_debug_flag

DESCRIPTION = """Continue the pretraining of a wav2vec 2.0 encoder, without labels, on the sound of a split's training
speakers alone. A recipe is a YAML file; every setting below can be given on the command line over it, as
--pretrain.epochs 10. What it writes is fine-tuned as any encoder is: --model.name OUT/model."""


@dataclass
class PretrainConfig:
    """How the pretraining goes on; by default as Baevski et al. 2020 (section 4.2) pretrain their base model."""

    epochs: int = 20
    """Passes over the training clips."""

    batch_size: int = 16
    """Clips per batch and process."""

    batch_seconds: float | None = None
    """Seconds of sound per batch at most, padding counted in, beside the limit on clips; null: no such limit."""

    accumulation: int = 1
    """Batches per step of the optimiser."""

    learning_rate: float = 1e-4
    """Highest learning rate of AdamW; a fifth of that from scratch, as in the scripts of Chen & Rudnicky 2021."""

    warmup: float = 0.08
    """Share of all steps over which the rate rises; after it falls along a line."""

    weight_decay: float = 0.01
    """Weight decay, of all but biases and normalisation."""

    clip_norm: float = 5.0
    """Largest norm of the gradient."""

    mask_prob: float = 0.65
    """Share of the frames that the masked spans would cover if none overlapped: about half, as they do."""

    mask_length: int = 10
    """Frames of a masked span; clips that are not longer are left out."""

    negatives: int = 100
    """Other masked frames of the same clip that the true one is to be told from."""

    diversity: float = 0.1
    """Weight of the loss that keeps all codes of the quantizer in use."""

    temperature: float = 2.0
    """Of the quantizer's Gumbel softmax at the first step."""

    least_temperature: float = 0.5
    """That at which it no longer falls."""

    temperature_decay: float = 0.999995
    """The temperature of a step by that of the step before."""

    mixed_precision: str | None = None
    """no, bf16, fp16 or auto (bf16 where the machine has it, else fp16 on a GPU); null: the launcher's, else no."""

    cache: bool = True
    """Compute what the frozen convolutions give once per clip and keep it on the disk; false: anew at every step."""

    checkpoint_steps: int | None = None
    """A checkpoint every so many steps, beside the one after each epoch."""

    workers: int = 0
    """Processes that load batches; 0: the training process itself."""

    def __post_init__(self) -> None:
        if self.mixed_precision is not None:
            check_choice(self.mixed_precision, PRECISIONS, "pretrain.mixed_precision")
        for name in ("epochs", "batch_size", "accumulation", "negatives", "checkpoint_steps"):
            at_least(getattr(self, name), 1, f"pretrain.{name}")
        # A span of one frame would leave nothing to tell it from.
        at_least(self.mask_length, 2, "pretrain.mask_length")
        for name in ("learning_rate", "weight_decay", "diversity", "workers"):
            at_least(getattr(self, name), 0, f"pretrain.{name}")
        for name in ("batch_seconds", "clip_norm", "least_temperature", "temperature"):
            at_least(getattr(self, name), 0, f"pretrain.{name}")
            if getattr(self, name) == 0:
                raise InputError(f"pretrain.{name} must be above 0")
        at_least(self.temperature, self.least_temperature, "pretrain.temperature")
        for name in ("mask_prob", "temperature_decay"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(f"pretrain.{name} is above 0 and at most 1, not {getattr(self, name)}")
        if not 0 <= self.warmup < 1:
            raise InputError(f"pretrain.warmup is a share between 0 and 1, not {self.warmup}")


@dataclass
class PretrainRecipe:
    """A continued pretraining: whose sound, of which split, which encoder, how, and where it is written."""

    data: DataConfig = field(default_factory=DataConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    model: ModelConfig = field(default_factory=lambda: ModelConfig("facebook/wav2vec2-base"))
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)

    seed: int = 0
    """Seed of everything drawn in training."""

    out: str = "runs/tapt"
    """The folder of this pretraining; its `model/` is what is fine-tuned."""

    if_exists: str = "refuse"
    """What to do where that folder exists: refuse, resume (go on where it was stopped) or replace."""

    def __post_init__(self) -> None:
        check_choice(self.if_exists, IF_EXISTS, "if_exists")
        check_seed(self.seed, "seed")
        if self.model.kind != "speech":
            raise InputError(f"{self.model.name} is no speech encoder: only the pretraining of one can go on")

    def text(self) -> str:
        """Return the whole recipe as YAML, defaults included."""
        return yaml.safe_dump(asdict(self), sort_keys=False, allow_unicode=True)


def main(arguments: Sequence[str] | None = None, program: str = "pretrain.py") -> int:
    """Read a recipe and carry it out: `recipes/pretrain.py`; return the exit code as `ser_ft.cli.main` does."""
    given = strip_debug_flag(arguments)

    def work() -> None:
        from ...config.parser import parse_as

        recipe = parse_as(PretrainRecipe, given, program, DESCRIPTION)
        from .run import pretrain

        pretrain(recipe)

    return run_command(work)
