"""Finds runs, pools those that differ only in fold and seed into systems, and groups comparable systems.

One fold is not reliable: the predictions on all folds together are scored and compared, only with systems that have the
same test clips and classes.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..utils.errors import InputError
from ..utils.progress import progress_bar
from .run_folder import RunFolder, explain_read_errors, starts_from_pretrained
from .systems import CLIP_COLUMNS, Kind, Leaderboard, System, SystemRun, clips_fingerprint, split_family

if TYPE_CHECKING:
    import pandas as pd

BASELINE_MODEL = "mfcc-cnn"
# Settings that may differ between two runs of one system, and settings that do not describe the model.
_IGNORED_SETTINGS = (*("seed", "out", "overwrite", "resume"), *("embed_audio", "baselines", "push_to_hub", "hub"))
_IGNORED_SPLIT_SETTINGS = ("fold", "corpus", "seed")


def find_runs(paths: Sequence[str | Path]) -> list[RunFolder]:
    """Find evaluated runs, without baselines, in run folders and in folders that contain runs, such as a sweep's."""
    runs: dict[Path, RunFolder] = {}
    for path in paths:
        top = Path(path).expanduser()
        if not top.is_dir():
            raise InputError(f"{path}: no such folder: name run folders, or a folder of runs such as a sweep's")
        folders = [folder for folder in _subfolders(top) if (folder / "metrics.json").is_file()]
        if not folders:
            raise InputError(f"{path}: no evaluated run in it (a finished run has a metrics.json)")
        runs |= {folder.resolve(): RunFolder(folder) for folder in folders}
    return list(runs.values())


def pool_runs(
    runs: Sequence[RunFolder], names: Mapping[Path, str] | None = None, show_progress: bool = False
) -> list[System]:
    """Pool runs, and their baselines, into systems.

    Runs that differ only in fold, left-out corpus and seeds belong to one system. Classical baselines of the same name
    on the same clips are one system, no matter which runs they were fitted with; a network that was trained as a
    baseline is pooled like any run. `names` is resolved run folder -> name of its system, for systems named by the
    user.

    Raises:
        InputError: a run has no test part or lacks a file, or a clip was tested twice with the same seeds.
    """
    custom_names = names or {}
    members = [
        _read(run, custom_names.get(run.path.resolve()))
        for run in progress_bar(runs, desc="runs", show_progress=show_progress)
    ]
    # A network may have been trained as a baseline of several runs.
    networks: dict[Hashable, SystemRun] = {}
    for run in runs:
        for baseline in run.baselines:
            if baseline.config_file.is_file():
                network = _read(baseline)
                key = (_system_key(network), network.seeds, tuple(network.test_predictions["id"]))
                networks.setdefault(key, network)
    groups: dict[Hashable, list[SystemRun]] = {}
    for member in [*members, *networks.values()]:
        groups.setdefault(_system_key(member), []).append(member)
    models = [system for group in groups.values() for system in _pool(group, _kind(group[0]))]
    return [*_with_unique_names(models), *_baseline_systems(models)]


def leaderboards(systems: Sequence[System]) -> list[Leaderboard]:
    """Group systems by test set. Splits without leaks come first, then those with the most models and clips."""
    groups: dict[Hashable, list[System]] = {}
    for system in systems:
        groups.setdefault(system.test_set, []).append(system)
    boards = [Leaderboard(tuple(sorted(group, key=lambda system: -system.scores["uar"]))) for group in groups.values()]
    return sorted(
        boards,
        key=lambda board: (
            bool(board.best.leaking),
            board.is_cross_corpus,
            -len(board.models),
            -len(board.best.labels),
        ),
    )


def _subfolders(top: Path) -> Iterable[Path]:
    for folder, names, _ in os.walk(top):
        names[:] = sorted(name for name in names if name != "baselines" and not name.startswith("."))
        yield Path(folder)


def _read(run: RunFolder, custom_name: str | None = None) -> SystemRun:
    with explain_read_errors(run):
        metrics = run.metrics
        if "test" not in metrics["parts"]:
            raise InputError(f"{run.path}: has no test part: only tested runs can be compared")
        predictions = run.predictions
        config = run.config if run.config_file.is_file() else {}
        environment = run.environment if run.environment_file.is_file() else {}
    test = predictions[predictions["part"] == "test"].reset_index(drop=True)
    return SystemRun(run, metrics, config, environment, test, custom_name)


def _system_key(run: SystemRun) -> Hashable:
    metrics = run.metrics
    split = {key: value for key, value in run.config.get("split", {}).items() if key not in _IGNORED_SPLIT_SETTINGS}
    config = {key: value for key, value in run.config.items() if key not in _IGNORED_SETTINGS} | {"split": split}
    return (
        run.custom_name,
        metrics["model"],
        split_family(metrics),
        metrics["split"]["leaking"],
        tuple(metrics["classes"]),
        json.dumps(config, sort_keys=True, default=str),
    )


def _kind(run: SystemRun) -> Kind:
    model = str(run.metrics["model"])
    if model.startswith("fusion of "):
        return "fusion"
    if model == BASELINE_MODEL:
        return "baseline"
    pretrained = starts_from_pretrained(run.config)
    return "other" if pretrained is None else "transfer" if pretrained else "from-scratch"


def _pool(runs: Sequence[SystemRun], kind: Kind) -> list[System]:
    """Pool the runs of a system. If its repetitions contain different clips, each set of clips is a system."""
    import pandas as pd

    repetitions: dict[tuple[int, int], list[SystemRun]] = {}
    for run in runs:
        repetitions.setdefault(run.seeds, []).append(run)
    groups: dict[str, list[tuple[list[SystemRun], pd.DataFrame]]] = {}
    for repetition in repetitions.values():
        _check_tested_once(repetition)
        table = pd.concat([run.test_predictions for run in repetition]).sort_values("id", ignore_index=True)
        groups.setdefault(clips_fingerprint(table), []).append((repetition, table))
    classes = list(runs[0].metrics["classes"])
    numbers = {name: number for number, name in enumerate(classes)}
    systems = []
    for group in groups.values():
        clips = group[0][1]
        probabilities = np.stack([table[classes].to_numpy(dtype=np.float64) for _, table in group])
        labels = clips["label"].map(numbers).to_numpy(dtype=np.int64)
        members = tuple(run for repetition, _ in group for run in repetition)
        name = members[0].custom_name or str(members[0].metrics["model"])
        systems.append(System(name, kind, members, clips[list(CLIP_COLUMNS)], labels, probabilities))
    return systems


def _check_tested_once(runs: Sequence[SystemRun]) -> None:
    tested: dict[str, SystemRun] = {}
    for run in runs:
        for clip in run.test_predictions["id"]:
            if clip in tested:
                raise InputError(
                    f"{tested[clip].folder.path} and {run.folder.path} are runs of one system and both test {clip}: "
                    "leave one out, or name it (NAME=PATH)"
                )
            tested[clip] = run


def _baseline_systems(models: Sequence[System]) -> list[System]:
    """Return the classical baselines of the models' runs, on their test sets, one system per name and test set."""
    systems: dict[tuple[str, Hashable], System] = {}
    for model in models:
        by_name: dict[str, list[SystemRun]] = {}
        for run in model.runs:
            for baseline in run.folder.baselines:
                if baseline.config_file.is_file():
                    continue
                by_name.setdefault(baseline.path.name, []).append(_read(baseline))
        for name, runs in by_name.items():
            for system in _pool(runs, "classical"):
                known = systems.get((name, system.test_set))
                if known is None or len(known.runs) < len(system.runs):
                    systems[name, system.test_set] = system
    test_sets = {model.test_set for model in models}
    return [system for (_, test_set), system in systems.items() if test_set in test_sets]


def _with_unique_names(models: Sequence[System]) -> list[System]:
    """Give models of the same name different names: by the folders of their runs, then by numbers."""
    named = _rename_duplicates(models, _folder_name)
    return _rename_duplicates(named, lambda system, namesakes: f"{system.name}, {1 + namesakes.index(system)}")


def _rename_duplicates(systems: Sequence[System], new_name: Callable[[System, Sequence[System]], str]) -> list[System]:
    renamed = []
    for system in systems:
        namesakes = [other for other in systems if other.name == system.name]
        same_test_set = any(other is not system and other.test_set == system.test_set for other in namesakes)
        ambiguous = same_test_set or len({_recipe_key(other) for other in namesakes}) > 1
        if ambiguous and system.runs[0].custom_name:
            raise InputError(f"{system.name}=...: names runs of different models: give each model its own name")
        renamed.append(replace(system, name=new_name(system, namesakes)) if ambiguous else system)
    return renamed


def _recipe_key(system: System) -> Hashable:
    config = system.runs[0].config
    settings = {key: value for key, value in config.items() if key not in (*_IGNORED_SETTINGS, "data", "split")}
    return json.dumps(settings, sort_keys=True, default=str)


def _folder_name(system: System, namesakes: Sequence[System]) -> str:
    """Return a name with what the folder of the runs has more than those of the namesakes: "plain-cnn, mixup"."""
    parents = [Path(os.path.commonpath([run.folder.path.resolve().parent for run in s.runs])) for s in namesakes]
    parent = parents[namesakes.index(system)]
    if parents.count(parent) > 1:
        return f"{system.name}, {system.runs[0].folder.path.resolve().name}"
    words = [re.split(r"[_/]", str(parent)) for parent in parents]
    common = sum(1 for _ in itertools.takewhile(lambda column: len(set(column)) == 1, zip(*words, strict=False)))
    suffix = " ".join(words[namesakes.index(system)][common:])
    return f"{system.name}, {suffix}" if suffix else system.name
