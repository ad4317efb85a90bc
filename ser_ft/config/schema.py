"""A recipe: everything that decides what a run does, read from YAML with `--a.b value` over it."""

from __future__ import annotations

import math
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from ..data.augmentation.batch import SpecAugment
from ..data.augmentation.spectrogram import SpectralAugment
from ..data.augmentation.waveform import Augment
from ..data.splits import SPLIT_KINDS
from ..models import MODELS, SHIPPED, model_kind
from ..models.classical import CLASSICAL
from ..utils.errors import InputError
from .publishing import HubConfig
from .validation import at_least, check_choice, check_seed

PRECISIONS = ("no", "bf16", "fp16", "auto")
TUNINGS = ("probe", "partial", "full", "lora")
IF_EXISTS = ("refuse", "resume", "replace")


@dataclass
class DataConfig:
    """Which recordings, under which labels."""

    roots: str | list[str] | dict[str, str] = "miniature"
    """Folders, .zip archives or manifests; or corpus: folder pairs; or "miniature", ser_ft's own synthetic voices."""

    prepared: str | None = None
    """A table that `ser-ft prepare` wrote; then the other settings here are not read: they were chosen there."""

    dataset: str | None = None
    """Instead of roots: a data set of the Hub, or a folder that `datasets` saved; name its columns."""

    columns: dict[str, str] = field(default_factory=dict)
    """For `dataset`: ours -> its own (audio, emotion, speaker, gender, age, intensity, statement, language)."""

    dataset_split: str = "train"
    """For `dataset`: which of its splits."""

    labels: str | dict[str, str] = "eight"
    """The label scheme: eight, seven, six, four, or a mapping of your own, emotion: class."""

    calm: str = "keep"
    """What becomes of calm speech: keep, neutral or drop."""

    include_song: bool = False
    """Take RAVDESS's song recordings in."""

    cremad_labels: str = "intended"
    """CREMA-D's labels: intended, voice (what most listeners heard) or voice-soft (their shares)."""

    notes: dict[str, str] = field(default_factory=dict)
    """Corpus: what must be said wherever its results are shown."""

    def __post_init__(self) -> None:
        """Refuse settings that would not be read: a table that is prepared was made with its own."""
        read = {"prepared"} if self.prepared is not None else {"dataset", "columns", "dataset_split", "labels", "calm"}
        if self.prepared is None and self.dataset is None:
            read = {"roots", "labels", "calm", "include_song", "cremad_labels", "notes"}
        source = next((name for name in ("prepared", "dataset") if getattr(self, name) is not None), "roots")
        for setting in fields(self):
            default = setting.default if setting.default_factory is MISSING else setting.default_factory()
            if setting.name not in read and getattr(self, setting.name) != default:
                raise InputError(f"data.{setting.name} is not read beside data.{source}: leave one of them out")


@dataclass
class SplitConfig:
    """Who is trained on, validated on and tested on."""

    kind: str = "speaker"
    """speaker, kfold, corpus, cross-corpus, random (leaks speakers), file, or a named split such as emobox-ravdess."""

    seed: int = 0
    """Seed of the draw; apart from the run's, so that seeds can be compared on one split."""

    fold: int = 0
    """For kfold and named splits: which fold, counted from 0."""

    folds: int = 5
    """For kfold: how many."""

    test: float = 0.2
    """For speaker, cross-corpus and random: share of the speakers (for random, of the clips) that is tested on."""

    validation: float = 0.15
    """Share of the rest that is validated on."""

    corpus: str | None = None
    """For corpus: the one that is left out of training and tested on; for cross-corpus: the one that is trained on, to
    be tested on speakers of it that were held back and on all other corpora."""

    file: str | None = None
    """For file: a run's split.json, or a JSON object with lists of speakers."""

    def __post_init__(self) -> None:
        check_choice(self.kind, SPLIT_KINDS, "split.kind")
        check_seed(self.seed, "split.seed")


@dataclass
class ModelConfig:
    """Which network."""

    name: str = "mfcc-cnn"
    """A small network, from nothing (mfcc-cnn, conv1d, lstm, plain-cnn, residual-cnn, wide-cnn, compact-cnn); the model
    that comes with ser_ft (shipped); a pretrained speech encoder, by its name on the Hub, such as
    facebook/wav2vec2-base; an image backbone on spectrograms, such as timm/vgg16_bn.tv_in1k or torchvision/alexnet; or
    a folder that holds one of them."""

    pretrained: bool = True
    """Of an image backbone: start from its pretrained weights; false: from random ones."""

    revision: str | None = None
    """Of a speech encoder on the Hub: a commit, a branch or a tag; null: the newest."""

    features: dict[str, Any] = field(default_factory=dict)
    """Settings of the feature extractor, such as descriptors or n_mels; a speech encoder brings its own extractor."""

    network: dict[str, Any] = field(default_factory=dict)
    """Settings of the network, such as channels; of an encoder, those of its config.json, such as mask_time_prob."""

    def __post_init__(self) -> None:
        if self.kind != "speech" and self.revision is not None:
            raise InputError(f"model.revision is of speech encoders on the Hub, not of {self.name}")
        if self.kind != "image" and not self.pretrained:
            raise InputError(
                f"model.pretrained is of image backbones, such as timm/vgg16_bn.tv_in1k, not of {self.name}"
            )
        if self.kind == "speech" and self.features:
            raise InputError("model.features: a speech encoder brings its own feature extractor")
        if "/" not in self.name and self.name not in (*MODELS, SHIPPED) and not Path(self.name).is_dir():
            raise InputError(
                f"unknown model {self.name!r}: use {', '.join((*MODELS, SHIPPED))}, a name on the Hub "
                "(facebook/wav2vec2-base, timm/vgg16_bn.tv_in1k), or a folder"
            )

    @property
    def kind(self) -> str:
        """What it stands for: speech, image or own."""
        return model_kind(self.name)


@dataclass
class TuningConfig:
    """What is trained of a pretrained backbone, of speech or images, and how fast."""

    mode: str = "full"
    """probe (the head on a learned weighting of the frozen layers), partial (the top layers), full or lora."""

    layers: int | None = None
    """For partial: how many of the top layers are trained; of an image backbone, stages (all that is of one size)."""

    convolutions: bool = False
    """For full: train the convolutional encoder too."""

    learning_rate: float = 5e-5
    """Highest rate of the backbone, or of its adapters; the head's is train.learning_rate."""

    layer_decay: float = 1.0
    """The rate of a layer by that of the one above it."""

    unfreeze_every: int | None = None
    """Train the head alone at first, and free one more layer, from the top, every so many epochs."""

    dropout: float | None = None
    """Of every kind that the family has; null: as the checkpoint says."""

    lora_rank: int = 8
    """Rank of the adapters."""

    lora_alpha: int = 16
    """Scale of the adapters, by lora_alpha / lora_rank."""

    lora_dropout: float = 0.0
    """Dropout before the adapters."""

    lora_targets: str = "attention"
    """Which linear layers get adapters: attention, or all of each transformer layer."""

    cache: bool = True
    """Compute what is frozen once per clip and keep it on the disk; false: anew at every step."""

    def __post_init__(self) -> None:
        check_choice(self.mode, TUNINGS, "tuning.mode")
        check_choice(self.lora_targets, ("attention", "all"), "tuning.lora_targets")
        if (self.mode == "partial") != (self.layers is not None):
            raise InputError("tuning.layers goes with tuning.mode partial, which needs it")
        if self.convolutions and self.mode != "full":
            raise InputError("tuning.convolutions goes with tuning.mode full")
        if self.unfreeze_every is not None and self.mode == "probe":
            raise InputError("tuning.unfreeze_every: a probe has nothing to unfreeze")
        for setting in fields(self):
            if (
                setting.name.startswith("lora_")
                and self.mode != "lora"
                and getattr(self, setting.name) != setting.default
            ):
                raise InputError(f"tuning.{setting.name} goes with tuning.mode lora")
        for name in ("layers", "unfreeze_every", "lora_rank"):
            at_least(getattr(self, name), 1, f"tuning.{name}")
        for name in ("learning_rate", "lora_alpha"):
            at_least(getattr(self, name), 0, f"tuning.{name}")
        for name in ("dropout", "lora_dropout"):
            if getattr(self, name) is not None and not 0 <= getattr(self, name) < 1:
                raise InputError(f"tuning.{name} is a share between 0 and 1, not {getattr(self, name)}")
        if not 0 < self.layer_decay <= 1:
            raise InputError(f"tuning.layer_decay is above 0 and at most 1, not {self.layer_decay:g}")


@dataclass
class AugmentConfig:
    """What is done to training clips, and to no others."""

    transforms: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Of the sound, each with its chance p and its ranges: noise: {p: 0.5, snr_db: [5, 30]}; `ser-ft augment --help`."""

    copies: int = 0
    """Versions of each training clip, made once and beside it; 0: each clip is drawn anew in each epoch."""

    spectral: dict[str, Any] | None = None
    """Hear log-mel spectrograms in other voices, tempos, rooms, noises and through other microphones in each step, as
    {max_tempo_change: 0.25, max_warp: 0.15, noise_prob: 0.5}, or {} for the defaults; the features must be [log-mel]."""

    spec_augment: dict[str, Any] | None = None
    """Mask stretches of time and of features in each step, as {num_time_masks: 2, time_mask_width: 0.1, num_freq_masks: 2, freq_mask_width: 0.15};
    of speech encoders, model.network.mask_time_prob does it."""

    mixup: float | None = None
    """Mix the clips of a batch in pairs, by shares of a Beta distribution of this parameter; null: not. Where states of
    a frozen part are kept, these are mixed, and not the sound."""

    def __post_init__(self) -> None:
        if self.transforms:
            Augment(self.transforms)
        for name, kind in (("spectral", SpectralAugment), ("spec_augment", SpecAugment)):
            if getattr(self, name) is not None:
                try:
                    kind(**getattr(self, name))
                except TypeError:
                    known = ", ".join(setting.name for setting in fields(kind))
                    raise InputError(f"augment.{name} has the settings {known}") from None
        at_least(self.copies, 0, "augment.copies")
        if self.mixup is not None and not 0 < self.mixup < math.inf:
            raise InputError(f"augment.mixup must be a number above 0, not {self.mixup:g}")
        if self.copies and not self.transforms:
            raise InputError("augment.copies: name the transforms that they are made with, in augment.transforms")

    @property
    def online(self) -> bool:
        """Whether the sound is drawn anew in each epoch."""
        return bool(self.transforms) and not self.copies

    def check_model(self, kind: str, tuning: TuningConfig) -> None:
        """Refuse what a model, or what is trained of it, cannot take."""
        drawn = [name for name in ("spectral", "spec_augment") if getattr(self, name) is not None]
        if kind == "speech" and drawn:
            other = "a speech encoder masks by model.network.mask_time_prob, and hears augment.transforms"
            raise InputError(f"augment.{drawn[0]} is of spectrograms: {other}")
        if kind != "own" and tuning.mode == "probe" and (self.online or drawn):
            without = f", without {drawn[0]}" if drawn else ""
            raise InputError(f"a probe sees frozen states: give augment.copies with transforms{without}")


@dataclass
class TrainConfig:
    """How it is trained."""

    epochs: int = 40
    """Passes over the training clips, at most."""

    batch_size: int = 16
    """Clips per batch and process."""

    batch_seconds: float | None = None
    """Seconds of sound per batch at most, padding counted in, beside the limit on clips; null: no such limit."""

    accumulation: int = 1
    """Batches per step of the optimiser."""

    learning_rate: float = 1e-3
    """Highest learning rate of AdamW; of a pretrained encoder's head alone."""

    weight_decay: float = 0.01
    """Weight decay, of all but biases and normalisation."""

    warmup: float = 0.1
    """Share of all steps over which the rate rises; after it falls along a cosine."""

    clip_norm: float = 5.0
    """Largest norm of the gradient."""

    label_smoothing: float = 0.1
    """Share of the target spread over the classes that the clip's corpus can hold."""

    class_weights: bool = False
    """Weigh clips by the inverse frequency of their class in training."""

    balanced: bool = False
    """Draw clips so that each corpus x emotion comes equally often (with replacement)."""

    average: float | None = None
    """Validate and keep an exponential mean of the weights, each step's share being 1 less this (0.998); null: the
    weights as they are."""

    patience: int | None = 10
    """Epochs without a better validation UAR after which training stops; null: never."""

    mixed_precision: str | None = None
    """no, bf16, fp16 or auto (bf16 where the machine has it, else fp16 on a GPU); null: the launcher's, else no."""

    compile: bool = False
    """Compile a speech encoder's layers with torch.compile: a minute or more at the start, faster steps on GPUs."""

    checkpoint_steps: int | None = None
    """A checkpoint every so many steps, beside the one after each epoch."""

    workers: int = 0
    """Processes that load batches; 0: the training process itself."""

    trackers: list[str] = field(default_factory=list)
    """Any of accelerate's trackers: tensorboard, trackio, wandb, ..."""

    def __post_init__(self) -> None:
        if self.mixed_precision is not None:
            check_choice(self.mixed_precision, PRECISIONS, "train.mixed_precision")
        if self.class_weights and self.balanced:
            raise InputError("train.class_weights and train.balanced do the same twice over: choose one")
        for name in ("epochs", "batch_size", "accumulation", "patience", "checkpoint_steps"):
            at_least(getattr(self, name), 1, f"train.{name}")
        for name in ("learning_rate", "weight_decay", "clip_norm", "workers", "batch_seconds"):
            at_least(getattr(self, name), 0, f"train.{name}")
        for name in ("clip_norm", "batch_seconds"):
            if getattr(self, name) == 0:
                raise InputError(f"train.{name} must be above 0")
        if self.average is not None and not 0 < self.average < 1:
            raise InputError(f"train.average is a share between 0 and 1, not {self.average}")
        for name in ("warmup", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"train.{name} is a share between 0 and 1, not {getattr(self, name)}")


@dataclass
class Recipe:
    """A run: data, split, model, what is trained of it and how, and where it is written."""

    data: DataConfig = field(default_factory=DataConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    tuning: TuningConfig = field(default_factory=TuningConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    baselines: list[str] = field(default_factory=lambda: list(CLASSICAL))
    """Reference systems fitted on the same split and shown beside the model: majority, logistic, svm; or small
    networks, such as mfcc-cnn, trained from nothing as `train` says, without augmentation."""

    seed: int = 0
    """Seed of everything drawn in training."""

    out: str = "runs/run"
    """The run folder."""

    if_exists: str = "refuse"
    """What to do where the run folder exists: refuse, resume (go on where it was stopped) or replace."""

    embed_audio: bool = False
    """Put sample recordings into the report, to be played: then it holds voices, under their corpus's terms."""

    push_to_hub: bool = False
    """Publish the run once it is finished, as `ser-ft push` does; hub.model_id says where."""

    hub: HubConfig = field(default_factory=HubConfig)

    def __post_init__(self) -> None:
        check_choice(self.if_exists, IF_EXISTS, "if_exists")
        check_seed(self.seed, "seed")
        if self.push_to_hub and not self.hub.model_id:
            raise InputError("push_to_hub: hub.model_id says where, as USER/NAME")
        if self.model.kind == "own" and self.tuning != TuningConfig():
            raise InputError(f"tuning is of pretrained backbones: all of {self.model.name} is trained")
        if self.model.kind == "image":
            for name, used in (("mode", self.tuning.mode == "lora"), ("convolutions", self.tuning.convolutions)):
                if used:
                    raise InputError(f"tuning.{name}: an image backbone is tuned by probe, partial or full")
            if self.tuning.dropout is not None:
                raise InputError(
                    "tuning.dropout is of speech encoders; model.network.head_dropout of an image backbone"
                )
        if self.train.compile and self.model.kind != "speech":
            raise InputError(
                f"train.compile is of speech encoders: {self.model.name} would be compiled for each length"
            )
        self.augment.check_model(self.model.kind, self.tuning)
        for name in self.baselines:
            check_choice(name, (*CLASSICAL, *MODELS), "baselines")

    def text(self) -> str:
        """Return the whole recipe as YAML, defaults included."""
        return yaml.safe_dump(asdict(self), sort_keys=False, allow_unicode=True)
