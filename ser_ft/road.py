"""The whole road: a recipe carried out, from recordings to a reported model."""

from __future__ import annotations

from .report.html import write_report
from .report.tables import comparison, render
from .results.runs import RunFolder
from .training.config import Recipe
from .training.run import load_data, train


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
