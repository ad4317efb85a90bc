"""Late fusion: the mean of what several systems answered on the same clips, as a run of its own."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from ..utils.errors import InputError
from ..utils.files import remove_folder
from .pooling import find_runs
from .predict import metrics_per_part
from .run_folder import PARTS, RunFolder, explain_read_errors, to_write

if TYPE_CHECKING:
    import pandas as pd

COMMAND = "fuse"


def fuse(
    paths: Sequence[str | Path], out: str | Path, weights: Sequence[float] | None = None, overwrite: bool = False
) -> list[RunFolder]:
    """Take the weighted mean of the (calibrated) probabilities that runs gave to the same clips.

    Nothing is fitted: the weights are the caller's, all alike by default. Kittler et al. 1998, "On combining
    classifiers" (the sum rule), IEEE Transactions on Pattern Analysis and Machine Intelligence 20(3).

    Args:
        paths: two or more runs; or folders of runs, such as a sweep's, whose runs are put together by split, fold and
            seed, each fused run below `out` where the first folder has its own.
        out: the folder to write. weights: of each path, above 0. overwrite: remove what was fused there before.

    Returns:
        The fused runs, less model and checkpoints: the parts that all members have.

    Raises:
        InputError: the runs are of other clips, classes or labels, one has no counterpart, or a folder is taken.
    """
    shares = _shares(weights, len(paths))
    groups = [find_runs([path]) for path in paths]
    for run in (run for group in groups for run in group):
        with explain_read_errors(run):
            _ = run.metrics["classes"], run.predictions
    settings = {"members": [str(path) for path in paths], "weights": None if weights is None else list(weights)}
    found = []
    for place, members in _matched(paths, groups).items():
        target = to_write(Path(out) / place, COMMAND, overwrite)
        predictions = _predictions(members, shares)
        found.append((target, members, predictions, _metrics(members, predictions, weights)))
    for target, members, predictions, metrics in found:
        remove_folder(target.path)
        target.path.mkdir(parents=True)
        config = {COMMAND: settings, "seed": metrics["seed"]}
        target.write_text(target.config_file, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
        target.write_environment(**_cost(members))
        if (split := _split(members)) is not None:
            target.write_json(target.split_file, split)
        target.write_predictions(predictions)
        target.write_json(target.metrics_file, metrics)
    return [target for target, *_ in found]


def _shares(weights: Sequence[float] | None, members: int) -> np.ndarray:
    """Return weights that add up to 1, shape (members,)."""
    if members < 2:
        raise InputError("a fusion needs two runs or more, or two folders of runs")
    given = np.ones(members) if weights is None else np.array(weights, dtype=np.float64)
    if len(given) != members or not all(math.isfinite(weight) and weight > 0 for weight in given):
        raise InputError(f"--weights takes a number above 0 for each of the {members} runs, such as 2,1")
    return np.asarray(given / given.sum())


def _matched(paths: Sequence[str | Path], groups: Sequence[Sequence[RunFolder]]) -> dict[Path, list[RunFolder]]:
    """Return where each fused run goes below the output -> its members, one of each path."""
    if all(len(group) == 1 for group in groups):
        return {Path(): [group[0] for group in groups]}
    keyed = [_by_key(path, group) for path, group in zip(paths, groups, strict=True)]
    for path, runs in zip(paths, keyed, strict=True):
        for other, theirs in zip(paths, keyed, strict=True):
            if lacking := [run for key, run in theirs.items() if key not in runs]:
                where = lacking[0].path
                raise InputError(f"{path}: has no run of the split, fold and seed of {where}, which {other} has")
    top = Path(paths[0]).expanduser()
    return {run.path.relative_to(top): [runs[key] for runs in keyed] for key, run in keyed[0].items()}


def _by_key(path: str | Path, runs: Sequence[RunFolder]) -> dict[Hashable, RunFolder]:
    found: dict[Hashable, RunFolder] = {}
    for run in runs:
        metrics = run.metrics
        key = (*(metrics["split"][name] for name in ("name", "fold", "seed")), metrics["seed"])
        if key in found:
            raise InputError(
                f"{path}: {found[key].path} and {run.path} are of one split, fold and seed: name the folder of one "
                "system's runs"
            )
        found[key] = run
    return found


def _predictions(members: Sequence[RunFolder], shares: np.ndarray) -> pd.DataFrame:
    """Return the mean of the members' predictions, in the order of the first one's clips."""
    classes = members[0].metrics["classes"]
    for run in members[1:]:
        if run.metrics["classes"] != classes:
            theirs = ", ".join(run.metrics["classes"])
            raise InputError(f"{run.path}: tells {theirs} apart, and {members[0].path} {', '.join(classes)}")
    tables = [run.predictions for run in members]
    parts = [part for part in PARTS if all((table["part"] == part).any() for table in tables)]
    if not parts:
        raise InputError(f"{members[0].path} and the others have no part in common: train, validation or test")
    first, *others = (table[table["part"].isin(parts)].set_index(["part", "id"]) for table in tables)
    total = shares[0] * first[classes]
    for run, table, share in zip(members[1:], others, shares[1:], strict=True):
        if len(table) != len(first) or not table.index.isin(first.index).all():
            raise InputError(f"{run.path}: is of other clips than {members[0].path}, or has them in other parts")
        if not table.loc[first.index, "label"].equals(first["label"]):
            raise InputError(f"{run.path}: has other labels than {members[0].path}")
        total += share * table.loc[first.index, classes]
    first[classes] = total
    fused: pd.DataFrame = first.reset_index()[list(tables[0].columns)]
    return fused


def _metrics(
    members: Sequence[RunFolder], predictions: pd.DataFrame, weights: Sequence[float] | None
) -> dict[str, Any]:
    said = [run.metrics for run in members]
    first = said[0]
    left_out = {part: scores.get("excluded", {}) for part, scores in first["parts"].items()}
    return {
        "model": _called([str(metrics["model"]) for metrics in said], weights),
        "parameters": _sum(metrics.get("parameters") for metrics in said),
        "seed": first["seed"],
        "classes": first["classes"],
        "split": first["split"] | {"leaking": any(metrics["split"]["leaking"] for metrics in said)},
        "calibration": None,
        **({"seen": None} if any("seen" in metrics and metrics["seen"] is None for metrics in said) else {}),
        **{key: _joined([metrics.get(key) or {} for metrics in said]) for key in ("notes", "terms")},
        "parts": metrics_per_part(predictions, first["classes"], left_out),
    }


def _called(names: Sequence[str], weights: Sequence[float] | None) -> str:
    if weights is not None:
        told = [f"{name} ({weight:g})" for name, weight in zip(names, weights, strict=True)]
    else:
        told = [name if count == 1 else f"{count} x {name}" for name, count in Counter(names).items()]
    return f"fusion of {', '.join(told)}"


def _joined(mappings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {key: value for mapping in mappings for key, value in mapping.items()}


def _cost(members: Sequence[RunFolder]) -> dict[str, Any]:
    """Return what environment.json says of the members, and what they cost together, where that is known of all."""
    known = [run.environment if run.environment_file.is_file() else {} for run in members]
    cost: dict[str, Any] = {"members": [str(run.path) for run in members]}
    if (seconds := _sum(each.get("seconds") for each in known)) is not None:
        cost["seconds"] = seconds
    speeds = [each.get("speed") or {} for each in known]
    factor = _sum(speed.get("real_time_factor") for speed in speeds)
    machines = {(each.get("device"), each.get("processor"), each.get("cores")) for each in known}
    if factor is not None and len(machines) == 1 and len({speed["threads"] for speed in speeds}) == 1:
        clips = min(speed["clips"] for speed in speeds)
        cost["speed"] = {"real_time_factor": factor, "clips": clips, "threads": speeds[0]["threads"]}
        cost |= {key: known[0].get(key) for key in ("device", "processor", "cores")}
    return cost


def _sum(values: Iterable[float | None]) -> float | None:
    """Return the sum; None where one is not known."""
    known = list(values)
    return None if any(value is None for value in known) else sum(value for value in known if value is not None)


def _split(members: Sequence[RunFolder]) -> dict[str, Any] | None:
    """Return the split.json that all members have; None where they have not, or differ in who is where."""
    if not all(run.split_file.is_file() for run in members):
        return None
    found: list[dict[str, Any]] = [json.loads(run.split_file.read_text(encoding="utf-8")) for run in members]
    return found[0] if all(each["parts"] == found[0]["parts"] for each in found) else None
