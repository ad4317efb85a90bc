"""The whole road: a recipe carried out, from recordings to a reported model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .report.compare import compare, text, write_comparison
from .report.html import write_report
from .report.tables import comparison, render
from .results.runs import RunFolder
from .training.config import Recipe
from .training.run import load_data, train
from .training.sweep import plan, run_cells


def run(recipe: Recipe, verbose: bool = True) -> RunFolder:
    """Train and evaluate a model as a recipe says, and report it.

    Args:
        recipe: what to do. verbose: show what is read, the split, progress, and the result.

    Returns:
        The run folder, evaluated and reported; a run that is finished is left as it is.

    Raises:
        InputError: the recipe does not fit the data, or its run folder is taken; nothing is written then.
    """
    outcome = train(recipe, verbose)
    folder = outcome.folder
    if not outcome.writes:
        return folder
    if outcome.table is not None or not folder.report_file.is_file():
        table = None
        if recipe.players:
            table = outcome.table if outcome.table is not None else load_data(recipe.data, verbose)
        write_report(folder, table)
    elif verbose:
        print(f"{folder.path}: this run is finished; nothing to do")
    if verbose:
        print()
        print(render(comparison([*folder.yardsticks, folder]), "table"))
        print(f"\nrun: {folder.path}\nreport: {folder.report_file}")
    return folder


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
    print(text(compared))
    print(f"\nruns: {out}\nreport: {write_comparison(compared, Path(out) / 'comparison.html')}")
    return found
