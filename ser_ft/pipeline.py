"""The whole road: a recipe carried out, from recordings to a reported model."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .config.schema import HubConfig, Recipe
from .evaluation.run_folder import RunFolder
from .report.comparison.report import compare, comparison_text, write_comparison
from .report.run.report import write_report
from .report.shared.tables import comparison_rows, format_rows
from .training.run import load_data, train
from .training.sweep import plan, run_cells
from .utils.errors import InputError

if TYPE_CHECKING:
    import datasets

    from .data.splits import Split


def run(recipe: Recipe, verbose: bool = True) -> RunFolder:
    """Train and evaluate a model as a recipe says, and report it.

    Args:
        recipe: what to do. verbose: show what is read, the split, progress, and the result.

    Returns:
        The run folder, evaluated and reported, and published where the recipe says so; a run that is finished is left
        as it is.

    Raises:
        InputError: the recipe does not fit the data, its run folder is taken, or it may not be published; nothing is
            written then.
    """
    outcome = train(recipe, verbose, _publishing(recipe))
    folder = outcome.folder
    if not outcome.writes:
        return folder
    if outcome.table is not None or not folder.report_file.is_file():
        table = None
        if recipe.embed_audio:
            table = outcome.table if outcome.table is not None else load_data(recipe.data, verbose)
        write_report(folder, table)
    elif verbose:
        print(f"{folder.path}: this run is finished; nothing to do")
    if verbose:
        print()
        print(format_rows(comparison_rows([*folder.baselines, folder]), "table"))
        print(f"\nrun: {folder.path}\nreport: {folder.report_file}", flush=True)
    if recipe.push_to_hub:
        _publish(folder, recipe.hub)
    return folder


def _publishing(recipe: Recipe) -> Callable[[datasets.Dataset, Split], None] | None:
    """Refuse before training what could not be published after it; the main process asks the Hub."""
    if not recipe.push_to_hub:
        return None
    from .data.licenses import check_accepted
    from .data.prepare import corpus_info
    from .evaluation.provenance import corpora_of_new_run
    from .hub import check_access

    if os.environ.get("RANK", "0") == "0":
        check_access(str(recipe.hub.model_id))

    def refuse(table: datasets.Dataset, split: Split) -> None:
        check_accepted(
            corpora_of_new_run(recipe.model.name, corpus_info(table), split.speakers), recipe.hub.accept_terms
        )

    return refuse


def _publish(folder: RunFolder, chosen: HubConfig) -> None:
    """Publish a finished run; where that fails, say that the run is there all the same."""
    from .hub import UploadError, push

    name = str(chosen.model_id)
    try:
        push(folder.path, name, private=chosen.private, overwrite=chosen.overwrite, accept_terms=chosen.accept_terms)
    except (InputError, UploadError) as error:
        flags = [
            f"--{flag.replace('_', '-')}" for flag in ("private", "accept_terms", "overwrite") if getattr(chosen, flag)
        ]
        again = shlex.join(["ser-ft", "push", str(folder.path), name, *flags])
        raise type(error)(f"{error}; the run itself is finished; publish it with: {again}") from error


def sweep(
    recipes: Sequence[str | Path],
    out: str | Path,
    seeds: Sequence[int] = (0,),
    folds: Sequence[int] | None = None,
    settings: Sequence[str] = (),
    variants: str | Path | None = None,
    jobs: int = 1,
    threads: int = 1,
    listed: bool = False,
) -> list[RunFolder]:
    """Make every run of a sweep that is not finished, and compare them: OUT/comparison.html.

    Args:
        recipes, out, seeds, folds, settings, variants: see `ser_ft.training.sweep.plan`.
        jobs, threads: see `ser_ft.training.sweep.run_cells`.
        listed: print the command of each run instead.

    Returns:
        The run folders; none where they are listed.

    Raises:
        InputError: a recipe does not fit (nothing is begun then), or a run failed.
    """
    cells = plan(recipes, out, seeds, folds, settings, variants, shown=not listed)
    if listed:
        print("\n".join(f"OMP_NUM_THREADS={threads} {cell.command}" for cell in cells))
        return []
    run_cells(cells, out, jobs, threads)
    found = [cell.folder for cell in cells]
    compared = compare([run.path for run in found])
    print(comparison_text(compared))
    print(f"\nruns: {out}\nreport: {write_comparison(compared, Path(out) / 'comparison.html')}")
    return found
