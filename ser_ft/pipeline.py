"""A run from recordings to a report: data, split, model, optimizer, training loop, evaluation, report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import torch
from accelerate import Accelerator

from .config.schema import Recipe
from .data.prepare import is_synthetic
from .data.splits import Split
from .dataloading.cache import compute_statistics
from .dataloading.targets import ClipData
from .evaluation.latency import real_time_factor
from .evaluation.provenance import check_no_seen_speakers
from .evaluation.run_folder import RunFolder
from .evaluation.scoring import SplitScorer
from .hub.publish import publication_check, publish_run
from .models import CLASSICAL, MODELS
from .report.comparison.report import compare, comparison_text, transfer_lines, write_comparison
from .report.run.report import write_report
from .report.shared.tables import comparison_rows, format_rows
from .training.classification import ClassificationJob, ClassificationTrainer
from .training.data import (
    augmented_copies,
    check_sources,
    learned_classes,
    load_data,
    split_content,
    split_for_training,
)
from .training.logistic_regression import LogisticRegressionTrainer, is_logistic_regression
from .training.model import baseline_recipe, check_model, display_name, prepare_model, save_model
from .training.run_guard import create_run_folder, is_finished, resumes
from .training.sweep import plan, run_all
from .training.trainer import create_optimizer
from .utils.accelerator import create_accelerator, device_name, is_main_process, start_trackers
from .utils.atomic import recover
from .utils.files import output_lock
from .utils.text import print_text


def run(recipe: Recipe, verbose: bool = True) -> RunFolder:
    """Train, evaluate and report a model as a recipe describes, and publish it if the recipe asks for it.

    Args:
        recipe: the recipe.
        verbose: show the data, the split, progress and results.

    Returns:
        The run folder. A finished run that is resumed is left unchanged.

    Raises:
        InputError: the recipe does not fit the data, its run folder cannot be used, or the model may not be published;
            nothing is written then.
    """
    check = publication_check(recipe.hub, recipe.model.name) if recipe.push_to_hub else None
    with output_lock(recipe.out):
        result = train(recipe, verbose, check)
        folder = result.folder
        if not result.is_main_process:
            return folder
        if result.table is not None or not folder.report_file.is_file():
            table = None
            if recipe.embed_audio:
                table = result.table if result.table is not None else load_data(recipe.data, verbose)
            write_report(folder, table)
        elif verbose:
            print_text(f"{folder.path}: this run is finished; nothing to do")
        if verbose:
            print_text()
            print_text(format_rows(comparison_rows([folder, *folder.baselines]), "table"))
            for line in transfer_lines(compare([folder.path], show_progress=False)):
                print_text(f"\n{line}")
            print_text(f"\nrun: {folder.path}\nreport: {folder.report_file}", flush=True)
        if recipe.push_to_hub:
            publish_run(folder, recipe.hub)
        return folder


@dataclass(frozen=True)
class TrainResult:
    """The result of training."""

    folder: RunFolder
    table: datasets.Dataset | None  # None if the run was finished before
    is_main_process: bool  # whether this process writes the files


def train(
    recipe: Recipe, verbose: bool = True, check: Callable[[datasets.Dataset, Split], None] | None = None
) -> TrainResult:
    """Train and evaluate a model as a recipe describes, with its baselines.

    Args:
        check: called with the table and its split before anything is written; it may raise an InputError.

    Raises:
        InputError: the recipe does not fit the data, or its run folder cannot be used; nothing is written then.
    """
    folder = RunFolder(recipe.out)
    if is_finished(recipe, folder, recipe.baselines):
        return TrainResult(folder, None, is_main_process())
    check_sources(recipe.data, recipe.split)
    accelerator = create_accelerator(
        recipe.train.mixed_precision,
        recipe.seed,
        pretrained=recipe.model.kind != "own",
        report_to=recipe.train.report_to,
        out=recipe.out,
    )
    check_model(recipe.model, recipe.tuning, recipe.augment)
    if accelerator.is_main_process:
        recover(folder.path)
    table = _train_and_evaluate(recipe, folder, accelerator, verbose and accelerator.is_main_process, check)
    # The process group must outlive the distributed model and gloo's last reduction: their destructors can deadlock.
    accelerator.wait_for_everyone()
    accelerator.end_training()
    for name in dict.fromkeys(recipe.baselines):
        if name in MODELS:
            train(baseline_recipe(recipe, name), verbose=False)
    return TrainResult(folder, table, accelerator.is_main_process)


def _train_and_evaluate(
    recipe: Recipe,
    folder: RunFolder,
    accelerator: Accelerator,
    show_progress: bool,
    check: Callable[[datasets.Dataset, Split], None] | None,
) -> datasets.Dataset:
    """Carry out all steps of `train` that need the accelerator; return the prepared table."""
    # Data
    with accelerator.local_main_process_first():
        table = load_data(recipe.data, show_progress)

    # Split
    split = split_for_training(table, recipe.split)
    if not split.leaking:
        check_no_seen_speakers(recipe.model.name, split, is_synthetic(table))
    if check is not None:
        check(table, split)
    if show_progress:
        print_text(split.describe())
    train_rows = split.row_indices(table)["train"]
    classes = learned_classes(table, train_rows)
    with accelerator.local_main_process_first():
        tables = [table, *augmented_copies(table.select(train_rows), recipe.augment, recipe.seed, show_progress)]
    train_rows = np.concatenate([train_rows, len(table) + np.arange(sum(map(len, tables[1:])))])

    # Model
    trainable, extractor = prepare_model(
        recipe.model,
        recipe.tuning,
        recipe.augment,
        recipe.train,
        tables,
        train_rows,
        classes,
        accelerator,
        seed=recipe.seed,
        show_progress=show_progress,
    )
    all_clips = tables[0] if len(tables) == 1 else datasets.concatenate_datasets(tables)
    clips = ClipData.from_table(all_clips, trainable.batch_source, classes)
    scorer = SplitScorer(table, split, clips, recipe.seed)
    if show_progress:
        for part, counts in scorer.excluded.items():
            if counts:
                text = ", ".join(f"{count} {name}" for name, count in counts.items())
                print_text(f"  {part}: clips of classes without training clips are excluded: {text}")

    # Optimizer
    optimizer = create_optimizer(trainable.learning_rates, recipe.train.weight_decay, accelerator.device)
    num_trained = sum(parameter.numel() for group in optimizer.param_groups for parameter in group["params"])

    # Training loop
    content = split_content(split, recipe.model.name)
    resume = resumes(recipe, folder, content, "run")
    job = ClassificationJob(
        trainable,
        optimizer,
        train_rows,
        clips,
        scorer.rows["validation"],
        recipe.tuning.unfreeze_every,
        recipe.augment.mixup,
    )
    trainer_class = LogisticRegressionTrainer if is_logistic_regression(trainable) else ClassificationTrainer
    trainer = trainer_class(accelerator, job, recipe.train, folder, recipe.seed)
    if not resume:
        create_run_folder(recipe, folder, content, accelerator)
    if recipe.train.report_to:
        start_trackers(accelerator, {"seed": recipe.seed} | vars(recipe.train))
    trainer.fit(resume, show_progress)

    # Evaluation. All processes compute the probabilities and the statistics together.
    probabilities = {part: trainer.probabilities(rows) for part, rows in scorer.rows.items() if len(rows)}
    classical = [name for name in recipe.baselines if name in CLASSICAL]
    statistics = compute_statistics(table, show_progress) if classical else np.empty(0)
    if accelerator.is_main_process:
        calibration = scorer.fit_calibration(probabilities)
        model = save_model(trainable.finish(), extractor, calibration, folder)
        folder.write_environment(
            device=device_name(accelerator),
            processes=accelerator.num_processes,
            mixed_precision=accelerator.mixed_precision,
            seconds=round(trainer.state.seconds, 1),
            cpu_seconds=round(trainer.state.cpu_seconds, 1),
            torch_threads=torch.get_num_threads(),
            speed=real_time_factor(model, extractor, table.select(scorer.rows["test"]), accelerator.device),
        )
        facts = {
            "model": display_name(recipe.model, recipe.tuning.mode),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "trained_parameters": num_trained,
        }
        scorer.write(folder, probabilities, calibration, **facts)
        scorer.fit_baselines(folder, classical, statistics, show_progress)
    return table


def sweep(
    recipes: Sequence[str | Path],
    out: str | Path,
    seeds: Sequence[int] = (0,),
    folds: Sequence[int] | None = None,
    settings: Sequence[str] = (),
    variants: str | Path | None = None,
    jobs: int = 1,
    threads: int = 1,
    list_only: bool = False,
) -> list[RunFolder]:
    """Run all runs of a sweep that are not finished, and compare them in OUT/comparison.html.

    Args:
        recipes, out, seeds, folds, settings, variants: see `ser_ft.training.sweep.plan`.
        jobs, threads: see `ser_ft.training.sweep.run_all`.
        list_only: print the command of each run instead.

    Returns:
        The run folders; none with `list_only`.

    Raises:
        InputError: a recipe does not fit (nothing is started then), or a run failed.
    """
    with output_lock(None if list_only else out):
        runs = plan(recipes, out, seeds, folds, settings, variants, show_progress=not list_only)
        if list_only:
            print_text("\n".join(f"OMP_NUM_THREADS={threads} {item.command}" for item in runs))
            return []
        run_all(runs, jobs, threads)
        folders = [item.folder for item in runs]
        comparison = compare([folder.path for folder in folders])
        print_text(comparison_text(comparison))
        print_text(f"\nruns: {out}\nreport: {write_comparison(comparison, Path(out) / 'comparison.html')}")
        return folders
