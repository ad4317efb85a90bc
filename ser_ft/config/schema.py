"""The settings of a training run: the dataclass `Recipe` and its sections, read from YAML and the command line."""

from __future__ import annotations

import math
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import yaml

from ..data.augmentation.batch import SpecAugment
from ..data.augmentation.spectrogram import SpectralAugment
from ..data.augmentation.waveform import Augment
from ..data.splits import SPLIT_KINDS
from ..models import CLASSICAL, MODELS, SHIPPED_MODELS, model_kind
from ..utils.errors import InputError
from .training_loop import TrainConfig
from .validation import check_choice, check_fraction, check_minimum, check_run_folder_flags, check_seed


@dataclass
class DataConfig:
    """The recordings and their labels."""

    roots: str | list[str] | dict[str, str] = "miniature"
    """Folders, .zip archives or manifests; or a mapping, corpus: folder; or "miniature", a small corpus of synthetic
    voices that ser_ft makes itself."""

    prepared: str | None = None
    """A table that `ser-ft prepare` wrote. The other settings of this section were fixed there and are refused here."""

    dataset: str | None = None
    """Instead of roots: a data set on the Hub, or a folder that `datasets` saved. `columns` names its columns."""

    columns: dict[str, str] = field(default_factory=dict)
    """For `dataset`: our column -> its column, for audio, emotion, speaker, gender, age, intensity, statement and
    language."""

    dataset_split: str = "train"
    """For `dataset`: which of its splits is read."""

    labels: str | dict[str, str] = "eight"
    """The label scheme: eight, seven, six, four, or a mapping of your own, emotion: class."""

    calm: Literal["keep", "neutral", "drop"] = "keep"
    """What happens to calm speech: keep the class, merge it into neutral, or drop its clips."""

    include_song: bool = False
    """Include RAVDESS's song recordings."""

    cremad_labels: Literal["intended", "voice", "voice-soft"] = "intended"
    """CREMA-D's labels: the intended emotion, the majority vote of its listeners (voice), or their votes as soft
    targets (voice-soft)."""

    notes: dict[str, str] = field(default_factory=dict)
    """Corpus: a note that is shown wherever its results are shown."""

    def __post_init__(self) -> None:
        used = {"prepared"} if self.prepared is not None else {"dataset", "columns", "dataset_split", "labels", "calm"}
        if self.prepared is None and self.dataset is None:
            used = {"roots", "labels", "calm", "include_song", "cremad_labels", "notes"}
        source = next((name for name in ("prepared", "dataset") if getattr(self, name) is not None), "roots")
        for setting in fields(self):
            default = setting.default if setting.default_factory is MISSING else setting.default_factory()
            if setting.name not in used and getattr(self, setting.name) != default:
                raise InputError(f"data.{setting.name} has no effect together with data.{source}: remove one of them")


@dataclass
class SplitConfig:
    """Which speakers are in the training, validation and test parts."""

    kind: str = "speaker"
    """speaker, kfold, corpus, cross-corpus, random (leaks speakers), folders (the folders train, validation and test
    that the clips lie in; unverified if speakers are not known), file, or a named split such as emobox-ravdess."""

    seed: int = 0
    """Seed of the split. It is separate from the seed of the run, so that runs can be compared on one split."""

    fold: int = 0
    """For kfold and named splits: the fold, counted from 0."""

    folds: int = 5
    """For kfold: the number of folds."""

    test: float = 0.2
    """For speaker, cross-corpus and random: fraction of the speakers (random: of the clips) in the test part."""

    validation: float = 0.15
    """Fraction of the remaining speakers (or clips) in the validation part."""

    corpus: str | None = None
    """For corpus: the corpus that is left out of training and tested on. For cross-corpus: the only corpus that is
    trained on; its held-out speakers and all other corpora are tested on."""

    file: str | None = None
    """For file: the split.json of a run, or a JSON object with lists of speakers."""

    def __post_init__(self) -> None:
        check_choice(self.kind, SPLIT_KINDS, "split.kind")
        check_seed(self.seed, "split.seed")


@dataclass
class ModelConfig:
    """The model that is trained."""

    name: str = "mfcc-cnn"
    """A small network with random weights (mfcc-cnn, conv1d, lstm, plain-cnn, residual-cnn, wide-cnn, compact-cnn);
    a model that ships with ser_ft (shipped, small); a pretrained speech encoder by its name on the Hub, such as
    facebook/wav2vec2-base; an image backbone on spectrograms, such as timm/vgg16_bn.tv_in1k or torchvision/alexnet; or
    a folder that holds one of them."""

    pretrained: bool = True
    """For an image backbone: start from its pretrained weights (true) or from random weights (false)."""

    revision: str | None = None
    """For a speech encoder on the Hub: a commit, branch or tag. null: the newest."""

    allow_pickle: bool = False
    """Also load pickled weights (pytorch_model.bin), with PyTorch's restricted unpickler. Many encoders on the Hub have
    no others. false: only safetensors, which cannot hold code."""

    feature_extractor: dict[str, Any] = field(default_factory=dict)
    """Settings of the feature extractor, such as descriptors or n_mels. A speech encoder has its own extractor."""

    config_overrides: dict[str, Any] = field(default_factory=dict)
    """Settings of the network that differ from its defaults, such as channels; for a pretrained encoder, entries of
    its config.json, such as mask_time_prob. Whisper's max_source_positions may be auto: the fixed length of the stock
    head is that of the longest training clip, rounded up to a second."""

    head: Literal["stock", "linear", "statistics", "attentive"] | None = None
    """The head of a speech encoder: that of transformers (stock), or two layers on the mean and standard deviation of
    the states over the clip (statistics), or on both weighted by attention (attentive), or one layer on both (linear):
    with tuning.mode probe it is fitted as a logistic regression in which all classes have the same weight, without
    epochs or learning rates. null: the checkpoint's if ser_ft trained it, else statistics for Whisper and stock for
    other encoders."""

    layers: Literal["last", "learned"] | list[int] | None = None
    """The states that the head of a speech encoder uses: the last, a learned weighting of all, or those with these
    numbers, as `ser-ft probe` counts them; layers above the highest are left out. The linear head takes each of them by
    itself instead of weighting them. null: learned for tuning.mode probe, else last."""

    num_layers: int | None = None
    """Keep only this many layers of a speech encoder, from the lowest. null: all."""

    def __post_init__(self) -> None:
        if self.kind != "speech" and self.revision is not None:
            raise InputError(f"model.revision applies to speech encoders on the Hub, not to {self.name}")
        if self.kind != "image" and not self.pretrained:
            raise InputError(
                f"model.pretrained applies to image backbones, such as timm/vgg16_bn.tv_in1k, not to {self.name}"
            )
        if self.allow_pickle and self.name in (*MODELS, *SHIPPED_MODELS):
            raise InputError(f"model.allow_pickle applies to weights from elsewhere, not to {self.name}")
        for name in ("head", "layers", "num_layers"):
            if self.kind != "speech" and getattr(self, name) is not None:
                raise InputError(f"model.{name} applies to speech encoders, not to {self.name}")
        check_minimum(self, "model", 1, "num_layers")
        if self.kind == "speech" and self.feature_extractor:
            raise InputError("model.feature_extractor: a speech encoder brings its own feature extractor")
        if "/" not in self.name and self.name not in (*MODELS, *SHIPPED_MODELS) and not Path(self.name).is_dir():
            raise InputError(
                f"unknown model {self.name!r}: use {', '.join((*MODELS, *SHIPPED_MODELS))}, a name on the Hub "
                "(facebook/wav2vec2-base, timm/vgg16_bn.tv_in1k), or a folder"
            )

    @property
    def kind(self) -> str:
        """The kind of model that the name stands for: speech, image or own."""
        return model_kind(self.name)


@dataclass
class TuningConfig:
    """Which parameters of a pretrained speech encoder or image backbone are trained, and their learning rates."""

    mode: Literal["probe", "partial", "full", "lora"] = "full"
    """probe (only the head, on a learned weighting of the frozen layers), partial (the top layers), full or lora."""

    num_top_layers: int | None = None
    """For partial: the number of top layers that are trained; for an image backbone, of stages (blocks of one size)."""

    train_feature_encoder: bool = False
    """For full: also train the convolutional feature encoder."""

    learning_rate: float = 5e-5
    """Peak learning rate of the backbone or its adapters. The head uses train.learning_rate."""

    layer_decay: float = 1.0
    """Factor by which a layer's learning rate is multiplied relative to the layer above it."""

    unfreeze_every: int | None = None
    """Train only the head at first, and unfreeze one more layer, from the top, after every so many epochs."""

    dropout: float | None = None
    """Dropout probability at all places where the encoder has dropout. null: the checkpoint's own values."""

    lora_rank: int = 8
    """Rank of the adapters."""

    lora_alpha: int = 16
    """Scale of the adapters, divided by their rank: lora_alpha / lora_rank."""

    lora_dropout: float = 0.0
    """Dropout probability before the adapters."""

    lora_targets: Literal["attention", "all"] = "attention"
    """Linear layers of each transformer layer that get adapters: those of the attention, or all."""

    cache: bool = True
    """Compute the output of frozen layers once per clip and keep it on disk. false: compute it in every step."""

    def __post_init__(self) -> None:
        if (self.mode == "partial") != (self.num_top_layers is not None):
            raise InputError("tuning.num_top_layers is needed by tuning.mode partial, and by no other mode")
        if self.train_feature_encoder and self.mode != "full":
            raise InputError("tuning.train_feature_encoder needs tuning.mode full")
        if self.unfreeze_every is not None and self.mode == "probe":
            raise InputError("tuning.unfreeze_every: a probe has no layers to unfreeze")
        for setting in fields(self):
            changed = getattr(self, setting.name) != setting.default
            if setting.name.startswith("lora_") and changed and self.mode != "lora":
                raise InputError(f"tuning.{setting.name} needs tuning.mode lora")
        check_minimum(self, "tuning", 1, "num_top_layers", "unfreeze_every", "lora_rank")
        check_minimum(self, "tuning", 0, "learning_rate", "lora_alpha")
        check_fraction(self, "tuning", "dropout", "lora_dropout")
        if not 0 < self.layer_decay <= 1:
            raise InputError(f"tuning.layer_decay must be above 0 and at most 1, not {self.layer_decay:g}")


@dataclass
class AugmentConfig:
    """Augmentation of training clips. Validation and test clips are never augmented."""

    transforms: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Transforms of the waveform, each with its probability p and its ranges: noise: {p: 0.5, snr_db: [5, 30]}; see
    `ser-ft augment --help`."""

    copies: int = 0
    """Number of augmented copies of each training clip, computed once and added to the clips. 0: transform each clip
    again in every epoch instead."""

    spectral: dict[str, Any] | None = None
    """Change voice, tempo, room, noise and microphone of log-mel spectrograms in each step, as
    {max_tempo_change: 0.25, max_warp: 0.15, noise_prob: 0.5}, or {} for the defaults. Needs descriptors [log-mel]."""

    spec_augment: dict[str, Any] | None = None
    """Mask spans of frames and of features in each step, as {num_time_masks: 2, time_mask_width: 0.1,
    num_freq_masks: 2, freq_mask_width: 0.15}. For speech encoders set model.config_overrides.mask_time_prob instead."""

    mixup: float | None = None
    """Mix the clips of a batch in pairs, with weights from a Beta distribution with this parameter. null: no mixing.
    Where the output of frozen layers is cached, that output is mixed instead of the sound."""

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
        check_minimum(self, "augment", 0, "copies")
        if self.mixup is not None and not 0 < self.mixup < math.inf:
            raise InputError(f"augment.mixup must be a number above 0, not {self.mixup:g}")
        if self.copies and not self.transforms:
            raise InputError("augment.copies: name the transforms that they are made with, in augment.transforms")

    @property
    def online(self) -> bool:
        """Whether the waveform is transformed again in every epoch."""
        return bool(self.transforms) and not self.copies

    def check_model(self, kind: str, tuning: TuningConfig) -> None:
        """Refuse augmentation that a kind of model, or what is trained of it, cannot use."""
        spectral = [name for name in ("spectral", "spec_augment") if getattr(self, name) is not None]
        if kind == "speech" and spectral:
            other = "for a speech encoder use model.config_overrides.mask_time_prob and augment.transforms"
            raise InputError(f"augment.{spectral[0]} applies to spectrograms: {other}")
        if kind != "own" and tuning.mode == "probe" and (self.online or spectral):
            without = f", without {spectral[0]}" if spectral else ""
            raise InputError(f"a probe sees frozen states: give augment.copies with transforms{without}")


@dataclass
class HubConfig:
    """Where a finished run is published. The access token is that of `hf auth login`, or HF_TOKEN."""

    model_id: str | None = None
    """The repository, USER/NAME. It is created if it does not exist."""

    private: bool = False
    """Make the repository private."""

    overwrite: bool = False
    """Replace what the repository holds; its history keeps the old content."""

    accept_terms: bool = False
    """Confirm that the terms of TESS or SAVEE allow you to publish a model that was trained on them."""


@dataclass
class Recipe:
    """A training run: data, split, model, what is trained and how, and the output folder."""

    data: DataConfig = field(default_factory=DataConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    tuning: TuningConfig = field(default_factory=TuningConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    baselines: list[str] = field(default_factory=lambda: list(CLASSICAL))
    """Reference systems that are trained on the same split and reported with the model: majority, logistic, svm; or
    small networks, such as mfcc-cnn, trained with the settings of `train` and without augmentation."""

    seed: int = 0
    """Seed of all random numbers in training."""

    out: str = "runs/run"
    """The run folder."""

    overwrite: bool = False
    """Replace the run that the folder holds. On the command line: --overwrite."""

    resume: bool = False
    """Continue the run that the folder holds; a finished run is left unchanged. On the command line: --resume."""

    embed_audio: bool = False
    """Embed sample recordings in the report. It then contains voices, under the terms of their corpus."""

    push_to_hub: bool = False
    """Publish the finished run, as `ser-ft push` does, at hub.model_id."""

    hub: HubConfig = field(default_factory=HubConfig)

    def __post_init__(self) -> None:
        check_run_folder_flags(self.overwrite, self.resume)
        check_seed(self.seed, "seed")
        if self.push_to_hub and not self.hub.model_id:
            raise InputError("push_to_hub needs hub.model_id, as USER/NAME")
        if self.model.kind == "own" and self.tuning != TuningConfig():
            raise InputError(f"tuning applies to pretrained backbones: all of {self.model.name} is trained")
        if self.model.kind == "image":
            if self.tuning.mode == "lora" or self.tuning.train_feature_encoder:
                name = "mode" if self.tuning.mode == "lora" else "train_feature_encoder"
                raise InputError(f"tuning.{name}: an image backbone is tuned by probe, partial or full")
            if self.tuning.dropout is not None:
                other = "for an image backbone use model.config_overrides.head_dropout"
                raise InputError(f"tuning.dropout applies to speech encoders; {other}")
        if self.train.compile and self.model.kind != "speech":
            raise InputError(
                f"train.compile applies to speech encoders: {self.model.name} would be compiled for each length"
            )
        if self.model.head == "linear" and self.tuning.mode == "probe":
            unused = {"augment.mixup": self.augment.mixup, "train.ema_decay": self.train.ema_decay}
            unused |= {"train.class_weights": self.train.class_weights}
            unused |= {"tuning.cache false": not self.tuning.cache, "train.loss": self.train.loss != "cross-entropy"}
            for name in (name for name, is_used in unused.items() if is_used):
                raise InputError(f"{name} has no effect on a logistic regression (model.head linear): use statistics")
        if self.train.gradient_checkpointing and self.model.kind != "speech":
            raise InputError(f"train.gradient_checkpointing applies to speech encoders, not to {self.model.name}")
        if self.train.gradient_checkpointing and self.tuning.mode == "probe":
            raise InputError("train.gradient_checkpointing: a probe has no activations to keep, its encoder is frozen")
        self.augment.check_model(self.model.kind, self.tuning)
        for name in self.baselines:
            check_choice(name, (*CLASSICAL, *MODELS), "baselines")

    def text(self) -> str:
        """Return the whole recipe as YAML, defaults included."""
        return yaml.safe_dump(asdict(self), sort_keys=False, allow_unicode=True)
