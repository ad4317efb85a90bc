"""A run: data, split, features, training, evaluation, baselines; all but the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from accelerate import Accelerator, PartialState
from transformers import SequenceFeatureExtractor

from ..config.schema import AugmentConfig, DataConfig, HubConfig, ModelConfig, Recipe, TuningConfig
from ..data.augmentation.waveform import Augment, augment_table
from ..data.prepare import is_synthetic, load_corpora, load_table, open_prepared
from ..data.splits import Split, make_split
from ..dataloading.cache import compute_statistics
from ..dataloading.targets import ClipData
from ..evaluation.latency import real_time_factor
from ..evaluation.provenance import check_no_seen_speakers, speakers_seen_in_training
from ..evaluation.run_folder import RunFolder
from ..evaluation.scoring import SplitScorer
from ..models import MODELS, SHIPPED
from ..models.classical import CLASSICAL
from ..models.encoders import load_encoder
from ..models.pretrained import fold_temperature
from ..models.registry import build_model
from ..models.spectrogram import SpectrogramForAudioClassification
from ..utils.accelerator import create_accelerator, device_name
from ..utils.errors import InputError
from .finetuning import TrainableModel, find_encoder, prepare_encoder
from .from_scratch import prepare_image_backbone, prepare_network
from .run_guard import can_resume, init_run_folder, resumes
from .trainer import Trainer


@dataclass(frozen=True)
class TrainResult:
    """What a run left: its folder, the table it was made from, and whether this process is the one that writes.

    `table` is None where the run was finished before.
    """

    folder: RunFolder
    table: datasets.Dataset | None
    writes: bool


def train(
    recipe: Recipe, verbose: bool = True, check: Callable[[datasets.Dataset, Split], None] | None = None
) -> TrainResult:
    """Carry a recipe out, from recordings to an evaluated model.

    Args:
        recipe: what to do. verbose: show what is read, the split, and progress.
        check: is given the table and its split before anything is written, to refuse them.

    Raises:
        InputError: the recipe does not fit the data, or its run folder is taken; nothing is written then.
    """
    folder = RunFolder(recipe.out)
    if finished(recipe, folder):
        return TrainResult(folder, None, PartialState().is_main_process)
    accelerator = create_accelerator(
        recipe.train.mixed_precision,
        recipe.seed,
        pretrained=recipe.model.kind != "own",
        trackers=recipe.train.report_to,
        out=recipe.out,
    )
    _check_model(recipe)
    shown = verbose and accelerator.is_main_process
    with accelerator.local_main_process_first():
        table = load_data(recipe.data, shown)
    split = _split(recipe, table)
    if not split.leaking:
        check_no_seen_speakers(recipe.model.name, split, is_synthetic(table))
    if check is not None:
        check(table, split)
    if shown:
        print(split.describe())
    _train(recipe, folder, accelerator, table, split, shown)
    accelerator.end_training()
    for name in dict.fromkeys(recipe.baselines):
        if name in MODELS:
            train(_beside(recipe, name), verbose=False)
    return TrainResult(folder, table, accelerator.is_main_process)


def load_data(data: DataConfig, verbose: bool = True) -> datasets.Dataset:
    """Load the recordings that a recipe names.

    Raises:
        InputError: they are not there or cannot be used.
    """
    if data.prepared is not None:
        return open_prepared(data.prepared)
    if data.dataset is not None:
        return load_table(
            data.dataset, data.columns, split=data.dataset_split, labels=data.labels, calm=data.calm, verbose=verbose
        )
    return load_corpora(
        data.roots,
        data.labels,
        data.calm,
        include_song=data.include_song,
        cremad_labels=data.cremad_labels,
        notes=data.notes,
        verbose=verbose,
    )


def _split(recipe: Recipe, table: datasets.Dataset) -> Split:
    wanted = recipe.split
    split = make_split(
        table,
        wanted.kind,
        seed=wanted.seed,
        fold=wanted.fold,
        folds=wanted.folds,
        test=wanted.test,
        validation=wanted.validation,
        corpus=wanted.corpus,
        file=wanted.file,
    )
    labels, rows = np.array(table["emotion"]), split.row_indices(table)
    learned = np.unique(labels[rows["train"]])
    if len(learned) < 2:
        raise InputError(f"the split {split.name!r} leaves one class alone to train on: there is nothing to tell apart")
    if not np.isin(labels[rows["test"]], learned).any():
        raise InputError(f"the split {split.name!r} tests on classes alone that no training clip has")
    return split


def split_content(recipe: Recipe, split: Split) -> dict[str, Any]:
    """Return what a run's split.json holds: the split, and whom the model had heard before."""
    heard = speakers_seen_in_training(recipe.model.name, ("train", "validation"))
    return split.to_dict() | ({"seen": sorted(heard)} if heard else {})


def _learned(table: datasets.Dataset, split: Split) -> tuple[str, ...]:
    """Return the classes that the training clips have, in the order of their numbers."""
    names = table.features["emotion"].names
    return tuple(names[label] for label in np.unique(np.array(table["emotion"])[split.row_indices(table)["train"]]))


def finished(recipe: Recipe, folder: RunFolder) -> bool:
    """Say whether the run is there and done; refuse a folder that is not to be touched."""
    whole = folder.metrics_file.is_file() and len(folder.baselines) == len(set(recipe.baselines))
    return can_resume(recipe, folder, "run") and whole


def _train(
    recipe: Recipe, folder: RunFolder, accelerator: Accelerator, table: datasets.Dataset, split: Split, shown: bool
) -> None:
    classes, train = _learned(table, split), split.row_indices(table)["train"]
    with accelerator.local_main_process_first():
        tables = [table, *_copies(recipe, table.select(train), shown)]
    heard = np.concatenate([train, len(table) + np.arange(sum(map(len, tables[1:])))])
    setup, extractor = _set_up(recipe, tables, heard, classes, accelerator, shown)
    inputs = ClipData.from_table(
        tables[0] if len(tables) == 1 else datasets.concatenate_datasets(tables), setup.batch_source, classes
    )
    judge = SplitScorer(table, split, inputs, recipe.seed)
    rows = judge.rows
    if shown:
        _tell_left_out(judge)
    content = split_content(recipe, split)
    resume = resumes(recipe, folder, content, "run")
    trainer = Trainer(
        accelerator,
        setup,
        inputs,
        heard,
        rows["validation"],
        recipe.train,
        folder,
        recipe.seed,
        recipe.tuning.unfreeze_every,
        recipe.augment.mixup,
    )
    accelerator.wait_for_everyone()
    if accelerator.is_main_process and not resume:
        init_run_folder(recipe, folder, content)
    accelerator.wait_for_everyone()
    if recipe.train.report_to:
        accelerator.init_trackers("ser_ft", config=_flat({"seed": recipe.seed} | vars(recipe.train)))
    trainer.fit(resume, shown)
    shares = {part: trainer.probabilities(rows[part]) for part in rows if len(rows[part])}
    # All processes share this work, and wait for each other in it.
    simple = [name for name in recipe.baselines if name in CLASSICAL]
    numbers = compute_statistics(table, shown) if simple else np.empty(0)
    if not accelerator.is_main_process:
        return
    trained = sum(parameter.numel() for group in setup.groups for parameter in group["params"])
    model, trust = setup.finish(), judge.fit_calibration(shares)
    if trust is not None:
        fold_temperature(model, trust.temperature)
    # Also where there is none: the one of a model that was trained further is of what it was.
    model.config.uncertain_below = trust.threshold if trust is not None else None
    folder.model.mkdir(exist_ok=True)
    model.save_pretrained(folder.model)
    extractor.save_pretrained(folder.model)
    folder.write_environment(
        device=device_name(accelerator),
        processes=accelerator.num_processes,
        mixed_precision=accelerator.mixed_precision,
        seconds=round(trainer.state.seconds, 1),
        torch_threads=torch.get_num_threads(),
        speed=real_time_factor(model, extractor, table.select(rows["test"]), accelerator.device),
    )
    parameters = sum(parameter.numel() for parameter in model.parameters())
    said = {"model": _called(recipe), "parameters": parameters, "trained_parameters": trained}
    judge.write(folder, shares, trust, **said)
    judge.fit_baselines(folder, simple, numbers, shown)


def _beside(recipe: Recipe, name: str) -> Recipe:
    """Return the recipe of a small network that is trained from nothing beside a recipe's model, as its baseline."""
    return replace(
        recipe,
        model=ModelConfig(name),
        tuning=TuningConfig(),
        augment=AugmentConfig(),
        train=replace(recipe.train, compile=False, report_to=[]),
        baselines=[],
        out=str(RunFolder(recipe.out).path / "baselines" / name),
        overwrite=False,
        resume=True,
        embed_audio=False,
        push_to_hub=False,
        hub=HubConfig(),
    )


def _tell_left_out(judge: SplitScorer) -> None:
    for part, classes in judge.excluded.items():
        if classes:
            told = ", ".join(f"{count} {name}" for name, count in classes.items())
            print(f"  {part}: not judged, for no training clip is of their class: {told}")


def _check_model(recipe: Recipe) -> None:
    """Refuse a model, or settings of it, before the recordings are read."""
    chosen = recipe.model
    if chosen.kind == "speech":
        find_encoder(recipe, ("one", "other"))
    else:
        build_model(chosen.name, ("one", "other"), chosen.feature_extractor, chosen.config_overrides, pretrained=False)


def _copies(recipe: Recipe, clips: datasets.Dataset, shown: bool) -> list[datasets.Dataset]:
    """Return the augmented versions of training clips, where the recipe asks for any: a table of the same columns."""
    chosen = recipe.augment
    if not chosen.copies:
        return []
    augment = Augment(chosen.transforms, copies=chosen.copies, seed=recipe.seed, originals=False)
    made = augment_table(clips, augment, progress=shown)
    assert set(made["source"]) <= set(clips["id"]), "a version of a clip that is not trained on"
    return [made.select_columns(clips.column_names)]


def _set_up(
    recipe: Recipe,
    tables: Sequence[datasets.Dataset],
    heard: np.ndarray,
    classes: tuple[str, ...],
    accelerator: Accelerator,
    shown: bool,
) -> tuple[TrainableModel, SequenceFeatureExtractor]:
    """Make the model, with its feature extractor, ready to be trained on the rows of the tables that are heard."""
    chosen = recipe.model
    if chosen.kind == "speech":
        found = find_encoder(recipe, classes)
        with accelerator.local_main_process_first():
            encoder = load_encoder(found)
        return prepare_encoder(encoder, found.extractor, tables, recipe, accelerator.device, shown), found.extractor
    with accelerator.local_main_process_first():
        extractor, model = build_model(
            chosen.name, classes, chosen.feature_extractor, chosen.config_overrides, chosen.pretrained
        )
    if isinstance(model, SpectrogramForAudioClassification):
        return prepare_image_backbone(model, extractor, tables, heard, recipe, accelerator.device, shown), extractor
    return prepare_network(model, extractor, tables, heard, recipe, shown), extractor


def _called(recipe: Recipe) -> str:
    """Return what a run's model is called in tables: of an encoder in a folder, the folder's name and no path."""
    name = recipe.model.name
    if name in MODELS:
        return name
    if name == SHIPPED:
        return f"{name} (fine-tuned)"
    folder = Path(name)
    if folder.is_dir():
        folder = folder.resolve()
        name = folder.parent.name if folder.name == "model" else folder.name
    if recipe.model.kind == "image":
        name += "" if recipe.model.pretrained else ", random weights, not transfer"
    return f"{name} ({recipe.tuning.mode})" if recipe.model.kind != "own" else name


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what trackers take: numbers and words."""
    return {
        key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in settings.items()
    }
