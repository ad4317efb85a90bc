"""Many runs as one: recipes x variants x folds (or corpora) x seeds, each an ordinary run folder below the sweep's."""

from __future__ import annotations

import os
import queue
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ..config.parser import parse
from ..config.schema import Recipe, SplitConfig
from ..data.named_splits import NAMED_FOLDS
from ..data.splits import Split, make_split
from ..evaluation.run_folder import RunFolder
from ..utils.errors import InputError
from ..utils.files import exclusive_lock
from ..utils.progress import progress_bar
from .run import finished, load_data, split_content
from .run_guard import resumes

if TYPE_CHECKING:
    import datasets

PROGRAM = "ser-ft train"


@dataclass(frozen=True)
class SweepRun:
    """A run of a sweep.

    Attributes:
        name: its place below the sweep's folder, such as "mfcc_cnn_ravdess/fold0-seed1".
        arguments: of `ser-ft train`, that make it or go on with it. recipe: what they come to.
    """

    name: str
    arguments: tuple[str, ...]
    recipe: Recipe

    @property
    def folder(self) -> RunFolder:
        """Where it is, or will be."""
        return RunFolder(self.recipe.out)

    @property
    def done(self) -> bool:
        """Whether it is made, and reported."""
        return finished(self.recipe, self.folder) and self.folder.report_file.is_file()

    @property
    def command(self) -> str:
        """The command that makes it, as it is typed."""
        return f"{PROGRAM} {shlex.join(self.arguments)}"


def plan(
    recipes: Sequence[str | Path],
    out: str | Path,
    seeds: Sequence[int] = (0,),
    folds: Sequence[int] | None = None,
    settings: Sequence[str] = (),
    variants: str | Path | None = None,
    shown: bool = True,
) -> list[SweepRun]:
    """Lay out the runs of a sweep, and check each before any is begun.

    What is run of a recipe follows from its `split.kind`: all folds of kfold and of a named split (those whose test
    speakers the data has), each corpus of corpus and cross-corpus unless `split.corpus` names one, one run otherwise.

    Args:
        recipes: their files. out: the sweep's folder. seeds: each run is made with each. folds: these alone.
        settings: of `ser-ft train`, over each recipe: ["--train.epochs=2"].
        variants: a YAML file, name -> settings over each recipe, as in a recipe: `mixup: {augment: {mixup: 0.4}}`.
        shown: show what is read.

    Raises:
        InputError: a recipe or a setting is wrong, does not fit its data, or a run's folder holds something else, or a
            run of data that has changed since.
    """
    _check_given(list(map(Path, recipes)), settings)
    cells: list[SweepRun] = []
    tables: dict[str, datasets.Dataset] = {}
    read = {"": {}} if variants is None else _read_variants(Path(variants))
    for recipe in map(Path, recipes):
        for variant, changes in read.items():
            over = ["--config", str(recipe)]
            if changes:
                over += ["--config", yaml.safe_dump(dict(changes), default_flow_style=True, width=2**16).strip()]
            over += settings
            chosen = parse(over, "ser-ft sweep")
            if chosen.push_to_hub:
                raise InputError(
                    f"{recipe}: push_to_hub is of one run: publish the one that you choose, with ser-ft push"
                )
            if repr(chosen.data) not in tables:
                tables[repr(chosen.data)] = load_data(chosen.data, shown)
            name = "/".join(filter(None, (recipe.stem, variant)))
            cells += _cells(chosen, over, tables[repr(chosen.data)], Path(out), name, folds, seeds)
    return cells


def _cells(
    recipe: Recipe,
    arguments: Sequence[str],
    table: datasets.Dataset,
    home: Path,
    above: str,
    folds: Sequence[int] | None,
    seeds: Sequence[int],
) -> Iterator[SweepRun]:
    """Give the runs of a recipe, each checked against its data and against what its folder holds."""
    for part, place, drawn in _places(recipe.split, table, folds):
        content = split_content(recipe, drawn)
        for seed in seeds:
            name = f"{above}/{part}seed{seed}"
            out = str(home / name)
            own = [*(f"--split.{key}={value}" for key, value in place.items()), f"--seed={seed}"]
            given = (*arguments, *own, f"--out={out}", "--overwrite=false", "--resume=true")
            exact = replace(
                recipe, split=replace(recipe.split, **place), seed=seed, out=out, overwrite=False, resume=True
            )
            cell = SweepRun(name, given, exact)
            finished(exact, cell.folder)
            resumes(exact, cell.folder, content, "run")
            yield cell


def _check_given(recipes: Sequence[Path], settings: Sequence[str]) -> None:
    names = [recipe.stem for recipe in recipes]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise InputError(f"two recipes are called {min(twice)}: their runs would fall into one folder")
    for recipe in recipes:
        if not recipe.is_file():
            raise InputError(f"{recipe}: no such recipe (settings come after the recipes, or as --train.epochs=10)")
    for word in settings:
        if word.split("=")[0] in ("--seed", "--out", "--overwrite", "--resume", "--config"):
            raise InputError(f"{word.split('=')[0]}: a sweep gives each run its own")


def _read_variants(file: Path) -> dict[str, dict[str, Any]]:
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{file}: cannot be read ({error})") from error
    if not isinstance(found, dict) or not found or not all(isinstance(one or {}, dict) for one in found.values()):
        raise InputError(f"{file}: must be a mapping, name: settings, as mixup: {{augment: {{mixup: 0.4}}}}")
    for name in found:
        if not re.fullmatch(r"\w[\w.+-]*", str(name)):
            raise InputError(f"{file}: {name!r} names a folder: letters, digits and .+-_ alone")
    return {str(name): dict(settings or {}) for name, settings in found.items()}


def _places(
    split: SplitConfig, table: datasets.Dataset, folds: Sequence[int] | None
) -> Iterator[tuple[str, dict[str, Any], Split]]:
    """Give what a recipe's split stands for in a sweep: how its runs' folders begin, settings, and who is where."""
    folded = split.kind == "kfold" or split.kind in NAMED_FOLDS
    if folds is not None and not folded:
        raise InputError(f"--fold: the split {split.kind!r} has no folds")
    places: list[tuple[str, dict[str, Any]]] = [("", {})]
    if split.kind in ("corpus", "cross-corpus"):
        found = [split.corpus] if split.corpus else sorted(set(table["corpus"]))
        places = [(f"{corpus}-", {"corpus": corpus}) for corpus in found]
    elif folded:
        if folds is None:
            named, known = NAMED_FOLDS.get(split.kind), set(table["speaker"])
            folds = [at for at in range(len(named or range(split.folds))) if named is None or known & set(named[at])]
        places = [(f"fold{fold}-", {"fold": fold}) for fold in folds]
    for name, place in places:
        yield name, place, make_split(table, **vars(replace(split, **place)))


def run_cells(cells: Sequence[SweepRun], out: str | Path, jobs: int = 1, threads: int = 1, shown: bool = True) -> None:
    """Make the runs of a sweep that are not finished, each in a process of its own.

    What a run prints goes into a file NAME.log beside its folder. Where this process ends, however it does, the runs
    end too, to be gone on with later. With several GPUs each run gets one.

    Args:
        cells: of `plan`. out: the sweep's folder, where this process alone is at work. jobs: how many runs at a time.
        threads: of each on the CPU: their number, and not that of the jobs, has a part in the last digits of a result.
        shown: show progress.

    Raises:
        InputError: `jobs` or `threads` is under 1; another sweep is at work there; or a run failed: the others were
            made.
    """
    for name, value in (("--jobs", jobs), ("--threads", threads)):
        if value < 1:
            raise InputError(f"{name} must be 1 or more, not {value}")
    with exclusive_lock(Path(out).expanduser(), "sweep"):
        left = [cell for cell in cells if not cell.done]
        progress = progress_bar(
            total=len(cells), initial=len(cells) - len(left), desc="sweep", unit=" runs", shown=shown
        )
        with progress:
            failed = _make(left, _JobPool(jobs, threads), progress)
    if failed:
        told = "; ".join(failed)
        raise InputError(f"{len(failed)} of {len(cells)} runs failed; the log beside each tells more: {told}")


def _make(cells: Sequence[SweepRun], crew: _JobPool, progress: Any) -> list[str]:
    """Let a crew make runs; return which failed, and what each said."""
    failed: list[str] = []
    with ThreadPoolExecutor(crew.jobs) as pool:
        doing = {pool.submit(crew.run, cell): cell for cell in cells}
        try:
            for done in as_completed(doing):
                cell, said = doing[done], done.result()
                progress.update()
                if not cell.done:
                    failed.append(f"{cell.name} ({said})")
                elif not progress.disable:
                    progress.write(f"{cell.name}: {said}", file=sys.stderr)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            crew.stop()
            raise
    return failed


class _JobPool:
    """Processes at work, each on one run."""

    def __init__(self, jobs: int, threads: int) -> None:
        self.jobs, self.threads = jobs, threads
        self.devices: queue.Queue[str | None] = queue.Queue()
        for device in _devices(jobs):
            self.devices.put(device)
        self.working: set[subprocess.Popen[bytes]] = set()
        self.stopping = False
        self.turn = threading.Lock()

    def run(self, cell: SweepRun) -> str:
        """Make a run; return a line that says what came of it."""
        device = self.devices.get()
        try:
            return self._run(cell, device)
        finally:
            self.devices.put(device)

    def _run(self, cell: SweepRun, device: str | None) -> str:
        environment = os.environ | {"OMP_NUM_THREADS": str(self.threads), "PYTHONUNBUFFERED": "1"}
        environment["SER_FT_JOBS"] = str(self.jobs)
        if device is not None:
            environment["CUDA_VISIBLE_DEVICES"] = device
        log = cell.folder.path.with_name(f"{cell.folder.path.name}.log")
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "ser_ft.cli.sweep_worker", *cell.arguments]
        began = time.monotonic()
        with log.open("ab") as out:
            start = out.tell()
            with self.turn:
                if self.stopping:
                    return "not begun"
                # The run waits for the end of its standard input, which comes with that of this process: see `leashed`.
                process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=out, stderr=out)
                self.working.add(process)
            with process:
                process.wait()
            self.working.discard(process)
        if cell.done:
            test = cell.folder.metrics["parts"]["test"]
            return f"UAR {test['uar']:.3f} on {test['speakers']} speakers, {time.monotonic() - began:.0f} s"
        lines = log.read_bytes()[start:].decode(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else f"it said nothing, exit code {process.returncode}"

    def stop(self) -> None:
        """End what is at work, and begin nothing more."""
        with self.turn:
            self.stopping = True
            for process in self.working:
                process.terminate()


def _devices(jobs: int) -> list[str | None]:
    """Return what CUDA_VISIBLE_DEVICES is for each of the runs at a time; None: as it is here."""
    import torch

    count = torch.cuda.device_count()
    if jobs == 1 or count < 2:
        return [None] * jobs
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [name for name in named.split(",") if name] or [str(number) for number in range(count)]
    return [names[place % len(names)] for place in range(jobs)]
