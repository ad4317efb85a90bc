"""Systems: runs that differ in fold and seed alone, with their test answers pooled, and what they can be compared on.

One fold says little: it is the answers on all folds together, each speaker tested once for each seed, that are scored
and compared. Systems are compared on the same test clips alone, under the same classes.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..models import MODELS
from ..utils.errors import InputError
from ..utils.progress import progress_bar
from .run_folder import RunFolder, explain_read_errors
from .systems import CLIP_COLUMNS, Leaderboard, System, SystemRun, clips_fingerprint, split_family

if TYPE_CHECKING:
    import pandas as pd

BASELINE_MODEL = "mfcc-cnn"
# What may differ between two runs of one system, and what says nothing of the model.
_FREE = ("seed", "out", "overwrite", "resume", "embed_audio", "baselines", "push_to_hub", "hub")
_FREE_OF_SPLIT = ("fold", "corpus", "seed")
_TUNED = re.compile(r" \((probe|partial|full|lora)\)$")


def find_runs(paths: Sequence[str | Path]) -> list[RunFolder]:
    """Find evaluated runs: a path is a run folder, or a folder below which there are some, such as a sweep's.

    The baselines of a run are not found on their own.

    Raises:
        InputError: there is no such folder, or no evaluated run in it.
    """
    found: dict[Path, RunFolder] = {}
    for path in paths:
        top = Path(path).expanduser()
        if not top.is_dir():
            raise InputError(f"{path}: no such folder: name run folders, or a folder of runs such as a sweep's")
        here = [folder for folder in _below(top) if (folder / "metrics.json").is_file()]
        if not here:
            raise InputError(f"{path}: no evaluated run in it (a run has metrics.json when it is finished)")
        found |= {folder.resolve(): RunFolder(folder) for folder in here}
    return list(found.values())


def pool_runs(runs: Sequence[RunFolder], names: Mapping[Path, str] | None = None, shown: bool = False) -> list[System]:
    """Put runs together into systems, and their baselines likewise.

    Runs belong together that differ in fold, corpus left out and seeds alone. Baselines of one name on the same
    clips are one system, whichever runs they stood beside.

    Args:
        runs: evaluated runs. names: resolved run folder -> what its system is to be called.
        shown: show a bar while they are read.

    Raises:
        InputError: a run has no test part or lacks a file, or one clip was tested twice with the same seeds.
    """
    given = names or {}
    members = [_read(run, given.get(run.path.resolve())) for run in progress_bar(runs, desc="runs", shown=shown)]
    groups: dict[Hashable, list[SystemRun]] = {}
    for member in members:
        groups.setdefault(_key(member), []).append(member)
    models = [system for group in groups.values() for system in _pooled(group, _kind(group[0]))]
    return [*_named(models), *_baselines(models)]


def leaderboards(found: Sequence[System]) -> list[Leaderboard]:
    """Group systems by what they were tested on: honest splits first, then those with most models and clips."""
    groups: dict[Hashable, list[System]] = {}
    for system in found:
        groups.setdefault(system.tested, []).append(system)
    sets = [Leaderboard(tuple(sorted(group, key=lambda one: -one.scores["uar"]))) for group in groups.values()]
    return sorted(
        sets, key=lambda one: (one.best.leaking, one.is_cross_corpus, -len(one.models), -len(one.best.labels))
    )


def _below(top: Path) -> Iterable[Path]:
    for folder, inner, _ in os.walk(top):
        inner[:] = sorted(name for name in inner if name != "baselines" and not name.startswith("."))
        yield Path(folder)


def _read(run: RunFolder, given: str | None = None) -> SystemRun:
    with explain_read_errors(run):
        facts = run.metrics
        if "test" not in facts["parts"]:
            raise InputError(f"{run.path}: no test part in it: only tested runs can be compared")
        table = run.predictions
        config = run.config if run.config_file.is_file() else {}
        environment = run.environment if run.environment_file.is_file() else {}
    test = table[table["part"] == "test"].reset_index(drop=True)
    return SystemRun(run, facts, config, environment, test, given)


def _key(member: SystemRun) -> Hashable:
    facts = member.metrics
    split = {key: value for key, value in member.config.get("split", {}).items() if key not in _FREE_OF_SPLIT}
    config = {key: value for key, value in member.config.items() if key not in _FREE} | {"split": split}
    return (
        member.custom_name,
        facts["model"],
        split_family(facts),
        facts["split"]["leaking"],
        tuple(facts["classes"]),
        json.dumps(config, sort_keys=True, default=str),
    )


def _kind(member: SystemRun) -> str:
    model = str(member.metrics["model"])
    if model.startswith("fusion of "):
        return "fusion"
    if model == BASELINE_MODEL:
        return "baseline"
    if model in MODELS or "random weights" in model:
        return "from-scratch"
    if _TUNED.search(model):
        return "transfer"
    # A network of ours that was trained before goes by its folder's name.
    return "from-scratch" if "train" in member.config else "other"


def _pooled(members: Sequence[SystemRun], kind: str) -> list[System]:
    """Pool the runs of a system; where its repetitions hold other clips, each set of clips is a system."""
    import pandas as pd

    repetitions: dict[tuple[int, int], list[SystemRun]] = {}
    for member in members:
        repetitions.setdefault(member.seeds, []).append(member)
    groups: dict[str, list[tuple[list[SystemRun], pd.DataFrame]]] = {}
    for group in repetitions.values():
        _check_once(group)
        table = pd.concat([member.test_predictions for member in group]).sort_values("id", ignore_index=True)
        groups.setdefault(clips_fingerprint(table), []).append((group, table))
    classes = list(members[0].metrics["classes"])
    places = {name: place for place, name in enumerate(classes)}
    made = []
    for pieces in groups.values():
        clips = pieces[0][1]
        shares = np.stack([table[classes].to_numpy(dtype=np.float64) for _, table in pieces])
        labels = clips["label"].map(places).to_numpy(dtype=np.int64)
        runs = tuple(member for group, _ in pieces for member in group)
        model = str(runs[0].metrics["model"])
        made.append(System(runs[0].custom_name or model, kind, runs, clips[list(CLIP_COLUMNS)], labels, shares))
    return made


def _check_once(members: Sequence[SystemRun]) -> None:
    seen: dict[str, SystemRun] = {}
    for member in members:
        for name in member.test_predictions["id"]:
            if name in seen:
                raise InputError(
                    f"{seen[name].folder.path} and {member.folder.path} are runs of one system and both test {name}: "
                    "leave one out, or name it (NAME=PATH)"
                )
            seen[name] = member


def _baselines(models: Sequence[System]) -> list[System]:
    found: dict[tuple[str, Hashable], System] = {}
    for system in models:
        aside: dict[str, list[SystemRun]] = {}
        for member in system.runs:
            for run in member.folder.baselines:
                aside.setdefault(run.path.name, []).append(_read(run))
        for name, members in aside.items():
            for baseline in _pooled(members, "classical"):
                key = (name, baseline.tested)
                known = found.get(key)
                if known is None or len(known.runs) < len(baseline.runs):
                    found[key] = baseline
    tested = {system.tested for system in models}
    return [system for (_, what), system in found.items() if what in tested]


def _named(models: Sequence[System]) -> list[System]:
    """Tell apart models of one name: by the folders that hold their runs, then by their seeds or numbers."""

    def recipe(system: System) -> Hashable:
        kept = {key: value for key, value in system.runs[0].config.items() if key not in (*_FREE, "data", "split")}
        return json.dumps(kept, sort_keys=True, default=str)

    def told_apart(found: Sequence[System], label: Callable[[System, Sequence[System]], str]) -> list[System]:
        made = []
        for system in found:
            alike = [one for one in found if one.name == system.name]
            clash = [one for one in alike if one is not system and one.tested == system.tested]
            clashes = bool(clash) or len({recipe(one) for one in alike}) > 1
            if clashes and system.runs[0].custom_name:
                raise InputError(f"{system.name}=...: stands for runs of different models: give each a name of its own")
            made.append(replace(system, name=label(system, alike)) if clashes else system)
        return made

    named = told_apart(models, _folder_name)
    return told_apart(named, lambda system, alike: f"{system.name}, {1 + alike.index(system)}")


def _folder_name(system: System, alike: Sequence[System]) -> str:
    """Name a system by the folder that holds its runs: "plain-cnn, mixup", or "plain_cnn_ravdess", which says both."""
    homes = [Path(os.path.commonpath([m.folder.path.resolve().parent for m in one.runs])) for one in alike]
    home = homes[alike.index(system)]
    top = Path(os.path.commonpath(homes))
    folder = str(home.relative_to(top)) if home != top else home.name
    if homes.count(home) > 1:
        folder = system.runs[0].folder.path.resolve().name
    return folder if folder.replace("_", "-").startswith(system.name) else f"{system.name}, {folder}"
