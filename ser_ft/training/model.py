"""The model of a run: built from the recipe, prepared for training, and saved afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from accelerate import Accelerator
from transformers import PreTrainedModel, SequenceFeatureExtractor

from ..config.schema import AugmentConfig, HubConfig, ModelConfig, Recipe, TuningConfig
from ..config.training_loop import TrainConfig
from ..evaluation.run_folder import RunFolder
from ..evaluation.scoring import Calibration
from ..models import MODELS, SHIPPED_MODELS
from ..models.compact import CompactCnnForAudioClassification
from ..models.encoders import load_encoder
from ..models.pretrained import fold_temperature
from ..models.registry import build_model
from ..models.spectrogram import SpectrogramForAudioClassification
from ..utils.atomic import write_atomically
from ..utils.errors import InputError
from .finetuning import find_encoder, prepare_encoder
from .from_scratch import frame_batches, prepare_image_backbone
from .trainer import TrainableModel

if TYPE_CHECKING:
    import datasets


def check_model(model: ModelConfig, tuning: TuningConfig, augment: AugmentConfig) -> None:
    """Check the model and its settings before the recordings are read.

    Raises:
        InputError: there is no such model, or a setting does not fit it.
    """
    classes = ("one", "other")
    if model.kind == "speech":
        find_encoder(model, tuning, classes)
        return
    _, network = build_model(
        model.name, classes, model.feature_extractor, model.config_overrides, False, model.allow_pickle
    )
    if augment.mixup is not None and isinstance(network, CompactCnnForAudioClassification):
        raise InputError("augment.mixup would mix levels before compact-cnn has measured them: leave it out")


def prepare_model(
    model: ModelConfig,
    tuning: TuningConfig,
    augment: AugmentConfig,
    train: TrainConfig,
    tables: Sequence[datasets.Dataset],
    train_rows: np.ndarray,
    classes: tuple[str, ...],
    accelerator: Accelerator,
    *,
    seed: int,
    show_progress: bool = False,
) -> tuple[TrainableModel, SequenceFeatureExtractor]:
    """Build a model and prepare it for training: see `ser_ft.training.finetuning` and `ser_ft.training.from_scratch`.

    `tables` are the prepared table and, after it, the augmented copies of training clips, if any; row numbers
    count through all of them. Returns the model and its feature extractor.
    """
    device = accelerator.device
    if model.kind == "speech":
        durations = [np.array(table["duration"]) for table in tables]
        spec = find_encoder(model, tuning, classes, float(np.concatenate(durations)[train_rows].max()))
        with accelerator.local_main_process_first():
            encoder = load_encoder(spec)
        trainable = prepare_encoder(
            encoder,
            spec.extractor,
            tables,
            tuning,
            augment,
            train.learning_rate,
            device,
            seed=seed,
            gradient_checkpointing=train.gradient_checkpointing,
            compile_layers=train.compile,
            autocast=accelerator.autocast,
            show_progress=show_progress,
        )
        return trainable, spec.extractor
    with accelerator.local_main_process_first():
        extractor, network = build_model(
            model.name,
            classes,
            model.feature_extractor,
            model.config_overrides,
            model.pretrained,
            model.allow_pickle,
        )
    batch_source = frame_batches(extractor, tables, train_rows, augment, seed=seed, show_progress=show_progress)
    if isinstance(network, SpectrogramForAudioClassification):
        trainable = prepare_image_backbone(
            network, batch_source, tables, tuning, train.learning_rate, device, show_progress=show_progress
        )
    else:
        learning_rates = [(list(network.parameters()), train.learning_rate)]
        trainable = TrainableModel(network, batch_source, learning_rates, lambda: network)
    return trainable, extractor


def display_name(model: ModelConfig, mode: str) -> str:
    """Return the name of a trained model in tables and reports; a path is shortened to the name of its folder."""
    name = model.name
    if name in MODELS:
        return name
    if name in SHIPPED_MODELS:
        return f"{name} ({'fine-tuned' if model.kind == 'own' else mode})"
    folder = Path(name)
    if folder.is_dir():
        folder = folder.resolve()
        name = folder.parent.name if folder.name == "model" else folder.name
    if model.kind == "image" and not model.pretrained:
        name += ", random weights"
    return f"{name} ({mode})" if model.kind != "own" else name


def save_model(
    model: PreTrainedModel, extractor: SequenceFeatureExtractor, calibration: Calibration | None, folder: RunFolder
) -> PreTrainedModel:
    """Fold the calibration into a trained model, and save it with its feature extractor in the run folder."""
    if calibration is not None:
        fold_temperature(model, calibration.temperature)
    # Without a calibration, the threshold of the model that training started from must not remain.
    model.config.uncertain_below = calibration.threshold if calibration is not None else None
    write_model(model, extractor, folder)
    return model


def write_model(model: PreTrainedModel, extractor: SequenceFeatureExtractor, folder: RunFolder) -> None:
    """Write a model and its feature extractor to the run folder, completely or not at all."""
    with write_atomically(folder.model) as partial_folder:
        model.save_pretrained(partial_folder)
        extractor.save_pretrained(partial_folder)


def baseline_recipe(recipe: Recipe, name: str) -> Recipe:
    """Return the recipe of a small network that is trained as a baseline of a recipe's model."""
    return replace(
        recipe,
        model=ModelConfig(name),
        tuning=TuningConfig(),
        augment=AugmentConfig(),
        train=replace(recipe.train, gradient_checkpointing=False, compile=False, report_to=[]),
        baselines=[],
        out=str(RunFolder(recipe.out).path / "baselines" / name),
        overwrite=False,
        resume=True,
        embed_audio=False,
        push_to_hub=False,
        hub=HubConfig(),
    )
