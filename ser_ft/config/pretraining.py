"""The settings of a continued pretraining: the dataclass `PretrainRecipe` and its section `pretrain`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import ClassVar

import yaml

from ..utils.errors import InputError
from .schema import DataConfig, ModelConfig, SplitConfig
from .training_loop import TrainingLoopConfig
from .validation import check_minimum, check_positive, check_run_folder_flags, check_seed


@dataclass
class PretrainConfig(TrainingLoopConfig):
    """The pretraining loop; the defaults are those of Baevski et al. 2020 (section 4.2) for their base model."""

    section: ClassVar[str] = "pretrain"

    epochs: int = 20
    """Number of passes over the training clips."""

    learning_rate: float = 1e-4
    """Peak learning rate of AdamW; a fifth of that for training from scratch, as in Chen & Rudnicky 2021's scripts."""

    warmup_ratio: float = 0.08
    """Fraction of all steps over which the learning rate rises. It falls linearly afterwards."""

    mask_prob: float = 0.65
    """Fraction of the frames that the masked spans would cover without overlap; as they overlap, about half."""

    mask_length: int = 10
    """Frames of a masked span. Clips that are not longer than a span are left out."""

    negatives: int = 100
    """Number of distractors: other masked frames of the same clip that the model must not choose."""

    diversity: float = 0.1
    """Weight of the loss that keeps all codes of the quantizer in use."""

    temperature: float = 2.0
    """Temperature of the quantizer's Gumbel softmax at the first step."""

    least_temperature: float = 0.5
    """Lower bound of that temperature."""

    temperature_decay: float = 0.999995
    """Factor by which the temperature is multiplied in each step."""

    cache: bool = True
    """Compute the output of the frozen convolutions once per clip and keep it on disk. false: compute it in every
    step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_minimum(self, "pretrain", 1, "negatives")
        # A span of one frame would leave no distractors.
        check_minimum(self, "pretrain", 2, "mask_length")
        check_minimum(self, "pretrain", 0, "diversity")
        check_positive(self, "pretrain", "least_temperature")
        check_minimum(self, "pretrain", self.least_temperature, "temperature")
        for name in ("mask_prob", "temperature_decay"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(f"pretrain.{name} must be above 0 and at most 1, not {getattr(self, name)}")


@dataclass
class PretrainRecipe:
    """A continued pretraining: data, split, encoder, training loop, and the output folder."""

    data: DataConfig = field(default_factory=DataConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    model: ModelConfig = field(default_factory=lambda: ModelConfig("facebook/wav2vec2-base"))
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)

    seed: int = 0
    """Seed of all random numbers in training."""

    out: str = "runs/tapt"
    """The run folder. The encoder in its `model/` can be fine-tuned."""

    overwrite: bool = False
    """Replace the pretraining that the folder holds. On the command line: --overwrite."""

    resume: bool = False
    """Continue the pretraining that the folder holds. On the command line: --resume."""

    def __post_init__(self) -> None:
        check_run_folder_flags(self.overwrite, self.resume)
        check_seed(self.seed, "seed")
        if self.model.kind != "speech":
            raise InputError(f"{self.model.name} is not a speech encoder: only speech encoders can be pretrained")
        if self.model.head is not None or self.model.layers is not None:
            raise InputError("model.head and model.layers have no effect on pretraining, which has no classifier")

    def text(self) -> str:
        """Return the whole recipe as YAML, defaults included."""
        return yaml.safe_dump(asdict(self), sort_keys=False, allow_unicode=True)
