"""Late fusion: the mean of several systems' probabilities for the same clips, written as a run folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from ..data.splits import Leaking
from ..utils.atomic import write_atomically
from ..utils.errors import InputError
from ..utils.files import output_lock
from .pooling import find_runs
from .predict import metrics_per_part
from .run_folder import PARTS, RunFolder, explain_read_errors, new_run_folder

if TYPE_CHECKING:
    import pandas as pd

COMMAND = "fuse"


def fuse(
    paths: Sequence[str | Path], out: str | Path, weights: Sequence[float] | None = None, overwrite: bool = False
) -> list[RunFolder]:
    """Average the (calibrated) probabilities of runs for the same clips, optionally with weights.

    Nothing is fitted: the weights are given by the caller and equal by default. Kittler et al. 1998, "On combining
    classifiers" (the sum rule), IEEE Transactions on Pattern Analysis and Machine Intelligence 20(3).

    Args:
        paths: two or more runs; or folders of runs, such as a sweep's. The runs of several folders are matched by
            split, fold and seed. A fused run has the same path below `out` as the first folder's run below it.
        out: the folder to write.
        weights: a positive weight for each path.
        overwrite: replace earlier fused runs.

    Returns:
        The fused runs, without model and checkpoints. They contain the parts that all members have.

    Raises:
        InputError: the runs have different clips, classes or labels, a run has no counterpart, or a folder is in use.
    """
    normalized = _normalize_weights(weights, len(paths))
    settings = {"members": [str(path) for path in paths], "weights": None if weights is None else list(weights)}
    with output_lock(out):
        groups = [find_runs([path]) for path in paths]
        for run in (run for group in groups for run in group):
            with explain_read_errors(run):
                _ = run.metrics["classes"], run.predictions
        fused = []
        for relative_path, members in _match_runs(paths, groups).items():
            output = new_run_folder(Path(out) / relative_path, COMMAND, overwrite)
            predictions = _fuse_predictions(members, normalized)
            fused.append((output, members, predictions, _metrics(members, predictions, weights)))
        for output, members, predictions, metrics in fused:
            with write_atomically(output.path) as partial:
                new = RunFolder(partial)
                config = {COMMAND: settings, "seed": metrics["seed"]}
                new.write_text(new.config_file, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
                new.write_environment(**_cost(members))
                if (split := _common_split(members)) is not None:
                    new.write_json(new.split_file, split)
                new.write_predictions(predictions)
                new.write_json(new.metrics_file, metrics)
        return [output for output, *_ in fused]


def _normalize_weights(weights: Sequence[float] | None, members: int) -> np.ndarray:
    if members < 2:
        raise InputError("a fusion needs two runs or more, or two folders of runs")
    values = np.ones(members) if weights is None else np.array(weights, dtype=np.float64)
    if len(values) != members or not (np.isfinite(values) & (values > 0)).all():
        raise InputError(f"--weights takes a number above 0 for each of the {members} runs, such as 2,1")
    return np.asarray(values / values.sum())


def _match_runs(paths: Sequence[str | Path], groups: Sequence[Sequence[RunFolder]]) -> dict[Path, list[RunFolder]]:
    """Return path of each fused run, relative to the output -> its members, one from each path."""
    if all(len(group) == 1 for group in groups):
        return {Path(): [group[0] for group in groups]}
    keyed = [_by_split_and_seed(path, group) for path, group in zip(paths, groups, strict=True)]
    for path, runs in zip(paths, keyed, strict=True):
        for other_path, other_runs in zip(paths, keyed, strict=True):
            if missing := [run.path for key, run in other_runs.items() if key not in runs]:
                raise InputError(
                    f"{path}: has no run with the split, fold and seed of {missing[0]}, which {other_path} has"
                )
    top = Path(paths[0]).expanduser()
    return {run.path.relative_to(top): [runs[key] for runs in keyed] for key, run in keyed[0].items()}


def _by_split_and_seed(path: str | Path, runs: Sequence[RunFolder]) -> dict[Hashable, RunFolder]:
    keyed: dict[Hashable, RunFolder] = {}
    for run in runs:
        metrics = run.metrics
        key = (*(metrics["split"][name] for name in ("name", "fold", "seed")), metrics["seed"])
        if key in keyed:
            raise InputError(
                f"{path}: {keyed[key].path} and {run.path} have the same split, fold and seed: name the folder of one "
                "system's runs"
            )
        keyed[key] = run
    return keyed


def _fuse_predictions(members: Sequence[RunFolder], weights: np.ndarray) -> pd.DataFrame:
    """Return the weighted mean of the members' predictions, in the order of the first one's clips."""
    first_run, *other_runs = members
    classes = first_run.metrics["classes"]
    for run in other_runs:
        if run.metrics["classes"] != classes:
            raise InputError(
                f"{run.path}: has the classes {', '.join(run.metrics['classes'])}, but {first_run.path} has "
                f"{', '.join(classes)}"
            )
    tables = [run.predictions for run in members]
    parts = [part for part in PARTS if all((table["part"] == part).any() for table in tables)]
    if not parts:
        raise InputError(f"{first_run.path} and the others have no part in common: train, validation or test")
    fused, *others = (table[table["part"].isin(parts)].set_index(["part", "id"]) for table in tables)
    total = weights[0] * fused[classes]
    for run, table, weight in zip(other_runs, others, weights[1:], strict=True):
        if len(table) != len(fused) or not table.index.isin(fused.index).all():
            raise InputError(f"{run.path}: has other clips than {first_run.path}, or has them in other parts")
        if not table.loc[fused.index, "label"].equals(fused["label"]):
            raise InputError(f"{run.path}: has other labels than {first_run.path}")
        total += weight * table.loc[fused.index, classes]
    fused[classes] = total
    return fused.reset_index()[list(tables[0].columns)]


def _metrics(
    members: Sequence[RunFolder], predictions: pd.DataFrame, weights: Sequence[float] | None
) -> dict[str, Any]:
    by_member = [run.metrics for run in members]
    first = by_member[0]
    of_members = [metrics["split"]["leaking"] for metrics in by_member]
    leaking: Leaking = next((value for value in (True, "unknown") if value in of_members), False)
    seen_unknown = any("seen" in metrics and metrics["seen"] is None for metrics in by_member)
    excluded = {part: part_metrics.get("excluded", {}) for part, part_metrics in first["parts"].items()}
    return {
        "model": _fusion_name([str(metrics["model"]) for metrics in by_member], weights),
        "parameters": _sum(metrics.get("parameters") for metrics in by_member),
        "seed": first["seed"],
        "classes": first["classes"],
        "split": first["split"] | {"leaking": leaking},
        "calibration": None,
        **({"seen": None} if seen_unknown else {}),
        **{
            key: {name: value for metrics in by_member for name, value in (metrics.get(key) or {}).items()}
            for key in ("notes", "terms")
        },
        "parts": metrics_per_part(predictions, first["classes"], excluded),
    }


def _fusion_name(names: Sequence[str], weights: Sequence[float] | None) -> str:
    if weights is not None:
        members = [f"{name} ({weight:g})" for name, weight in zip(names, weights, strict=True)]
    else:
        members = [name if count == 1 else f"{count} x {name}" for name, count in Counter(names).items()]
    return f"fusion of {', '.join(members)}"


def _cost(members: Sequence[RunFolder]) -> dict[str, Any]:
    """Return entries of environment.json: the members, and the sums of their costs if all are known."""
    environments = [run.environment if run.environment_file.is_file() else {} for run in members]
    cost: dict[str, Any] = {"members": [str(run.path) for run in members]}
    if (seconds := _sum(environment.get("seconds") for environment in environments)) is not None:
        cost["seconds"] = seconds
    speeds = [environment.get("speed") or {} for environment in environments]
    factor = _sum(speed.get("real_time_factor") for speed in speeds)
    machine = ("device", "processor", "cores")
    machines = {tuple(environment.get(key) for key in machine) for environment in environments}
    if factor is not None and len(machines) == 1 and len({speed["threads"] for speed in speeds}) == 1:
        clips = min(speed["clips"] for speed in speeds)
        cost["speed"] = {"real_time_factor": factor, "clips": clips, "threads": speeds[0]["threads"]}
        cost |= {key: environments[0].get(key) for key in machine}
    return cost


def _sum(values: Iterable[float | None]) -> float | None:
    """Return the sum, None if a value is None."""
    numbers = list(values)
    return None if None in numbers else sum(number for number in numbers if number is not None)


def _common_split(members: Sequence[RunFolder]) -> dict[str, Any] | None:
    """Return the split.json of all members; None if one has none, or if their parts differ."""
    if not all(run.split_file.is_file() for run in members):
        return None
    splits: list[dict[str, Any]] = [run.split for run in members]
    return splits[0] if all(split["parts"] == splits[0]["parts"] for split in splits) else None
