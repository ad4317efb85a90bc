"""Sweeps: recipes x variants x folds (or corpora) x seeds, each an ordinary run folder inside the sweep's folder."""

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
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ..config.parser import parse
from ..config.schema import Recipe, SplitConfig
from ..data.named_splits import NAMED_FOLDS
from ..data.splits import Split, make_split
from ..evaluation.run_folder import RunFolder
from ..utils.atomic import explain_full_disk
from ..utils.errors import WRONG_INPUT, InputError
from ..utils.progress import progress_bar
from ..utils.readers import read_yaml
from ..utils.text import file_name, printable
from .data import check_sources, load_data, split_content
from .run_guard import is_finished, resumes

if TYPE_CHECKING:
    import datasets

PROGRAM = "ser-ft train"


@dataclass(frozen=True)
class SweepRun:
    """A run of a sweep."""

    name: str  # its path inside the sweep's folder, such as "mfcc_cnn_ravdess/fold0-seed1"
    arguments: tuple[str, ...]  # arguments of `ser-ft train` that start or resume it
    recipe: Recipe

    @property
    def folder(self) -> RunFolder:
        """The run folder; it need not exist."""
        return RunFolder(self.recipe.out)

    @property
    def is_done(self) -> bool:
        """Whether the run is finished and reported."""
        return is_finished(self.recipe, self.folder, self.recipe.baselines) and self.folder.report_file.is_file()

    @property
    def command(self) -> str:
        """The command that starts or resumes the run."""
        return f"{PROGRAM} {shlex.join(self.arguments)}"


def plan(
    recipes: Sequence[str | Path],
    out: str | Path,
    seeds: Sequence[int] = (0,),
    folds: Sequence[int] | None = None,
    settings: Sequence[str] = (),
    variants: str | Path | None = None,
    show_progress: bool = True,
) -> list[SweepRun]:
    """List the runs of a sweep, and check each of them before any is started.

    The runs of a recipe follow from its `split.kind`: all folds of kfold and of a named split (those with test speakers
    in the data), each corpus of corpus and cross-corpus unless `split.corpus` names one, and one run otherwise.

    Args:
        out: the sweep's folder.
        seeds: each run is repeated with each seed.
        folds: only these folds; None: all.
        settings: arguments of `ser-ft train` that override each recipe: ["--train.epochs=2"].
        variants: a YAML file, name -> settings that override each recipe: `mixup: {augment: {mixup: 0.4}}`.

    Raises:
        InputError: a recipe or a setting is wrong or does not fit its data, or the folder of a run holds something else
            or a run on data that changed since.
    """
    _check_arguments(list(map(Path, recipes)), settings)
    overrides_by_variant = {"": {}} if variants is None else _read_variants(Path(variants))
    runs: list[SweepRun] = []
    tables: dict[str, datasets.Dataset] = {}
    for file in map(Path, recipes):
        for variant, overrides in overrides_by_variant.items():
            arguments = ["--config", str(file)]
            if overrides:
                arguments += ["--config", yaml.safe_dump(overrides, default_flow_style=True, width=2**16).strip()]
            arguments += settings
            recipe = parse(arguments, "ser-ft sweep")
            if recipe.push_to_hub:
                raise InputError(f"{file}: a sweep cannot use push_to_hub: publish one of its runs with ser-ft push")
            check_sources(recipe.data, recipe.split)
            data = repr(recipe.data)
            if data not in tables:
                tables[data] = load_data(recipe.data, show_progress)
            name = "/".join(filter(None, (file.stem, variant)))
            runs += _runs_of_recipe(recipe, arguments, tables[data], Path(out), name, folds, seeds)
    return runs


def _runs_of_recipe(
    recipe: Recipe,
    arguments: Sequence[str],
    table: datasets.Dataset,
    out: Path,
    name: str,
    folds: Sequence[int] | None,
    seeds: Sequence[int],
) -> Iterator[SweepRun]:
    """Yield the runs of a recipe; each is checked against its data and against its folder."""
    for prefix, split_settings, split in _splits(recipe.split, table, folds):
        content = split_content(split, recipe.model.name)
        for seed in seeds:
            run_name = f"{name}/{prefix}seed{seed}"
            folder = str(out / run_name)
            changes = [*(f"--split.{key}={value}" for key, value in split_settings.items()), f"--seed={seed}"]
            run = SweepRun(
                run_name,
                (*arguments, *changes, f"--out={folder}", "--overwrite=false", "--resume=true"),
                replace(
                    recipe,
                    split=replace(recipe.split, **split_settings),
                    seed=seed,
                    out=folder,
                    overwrite=False,
                    resume=True,
                ),
            )
            is_finished(run.recipe, run.folder, recipe.baselines)
            resumes(run.recipe, run.folder, content, "run")
            yield run


def _check_arguments(recipes: Sequence[Path], settings: Sequence[str]) -> None:
    names = [recipe.stem for recipe in recipes]
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise InputError(f"two recipes are named {min(repeated)}: their runs would use the same folders")
    for recipe in recipes:
        if not recipe.is_file():
            raise InputError(f"{recipe}: no such recipe (settings come after the recipes, or as --train.epochs=10)")
    for word in settings:
        if word.split("=")[0] in ("--seed", "--out", "--overwrite", "--resume", "--config"):
            raise InputError(f"{word.split('=')[0]}: a sweep sets this for each run itself")


def _read_variants(file: Path) -> dict[str, dict[str, Any]]:
    try:
        content = read_yaml(file)
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error})") from error
    if not isinstance(content, dict) or not content or not all(isinstance(v or {}, dict) for v in content.values()):
        raise InputError(f"{file}: must be a mapping, name: settings, as mixup: {{augment: {{mixup: 0.4}}}}")
    for name in content:
        if not re.fullmatch(r"\w[\w.+-]*", str(name)):
            raise InputError(f"{file}: {name!r} is the name of a folder: use only letters, digits and .+-_")
    return {str(name): dict(settings or {}) for name, settings in content.items()}


def _splits(
    config: SplitConfig, table: datasets.Dataset, folds: Sequence[int] | None
) -> Iterator[tuple[str, dict[str, Any], Split]]:
    """Yield the splits of a recipe in a sweep: prefix of the folder names, settings of `split`, and the split."""
    has_folds = config.kind == "kfold" or config.kind in NAMED_FOLDS
    if folds is not None and not has_folds:
        raise InputError(f"--fold: the split {config.kind!r} has no folds")
    variations: list[tuple[str, dict[str, Any]]] = [("", {})]
    if config.kind in ("corpus", "cross-corpus"):
        corpora = [config.corpus] if config.corpus else sorted(set(table["corpus"]))
        variations = [(f"{file_name(corpus)}-", {"corpus": corpus}) for corpus in corpora]
    elif has_folds:
        if folds is None:
            named_folds = NAMED_FOLDS.get(config.kind)
            speakers = set(table["speaker"])
            folds = range(config.folds)
            if named_folds is not None:
                folds = [fold for fold, members in enumerate(named_folds) if speakers & set(members)]
        variations = [(f"fold{fold}-", {"fold": fold}) for fold in folds]
    for prefix, settings in variations:
        yield prefix, settings, make_split(table, **asdict(replace(config, **settings)))


def run_all(runs: Sequence[SweepRun], jobs: int = 1, threads: int = 1, show_progress: bool = True) -> None:
    """Run all runs of a sweep that are not finished, each in its own process.

    The output of a run is written to the file NAME.log next to its folder. When this process ends, for whatever reason,
    its runs end too and can be resumed later. With several GPUs each run uses one of them.

    Args:
        jobs: number of runs at a time.
        threads: CPU threads of each run. Unlike the number of jobs, it affects the last digits of the results.

    Raises:
        InputError: `jobs` or `threads` is below 1, or wrong input made runs fail (all others are run).
        RuntimeError: runs failed for another reason.
    """
    for name, value in (("--jobs", jobs), ("--threads", threads)):
        if value < 1:
            raise InputError(f"{name} must be 1 or more, not {value}")
    unfinished = [run for run in runs if not run.is_done]
    with progress_bar(
        total=len(runs), initial=len(runs) - len(unfinished), desc="sweep", unit=" runs", show_progress=show_progress
    ) as progress:
        pool = JobPool(jobs, threads)
        failures = _run_in_pool(unfinished, pool, progress)
    if failures:
        message = f"{len(failures)} of {len(runs)} runs failed; see the log file of each run: {'; '.join(failures)}"
        with explain_full_disk(runs[0].folder.path):
            raise InputError(message) if pool.failure_codes == {WRONG_INPUT} else RuntimeError(message)


def _run_in_pool(runs: Sequence[SweepRun], job_pool: JobPool, progress: Any) -> list[str]:
    """Run the runs; return the names of those that failed, with their last line of output."""
    failures: list[str] = []
    with ThreadPoolExecutor(job_pool.jobs) as executor:
        futures = {executor.submit(job_pool.run, run): run for run in runs}
        try:
            for future in as_completed(futures):
                run, result = futures[future], future.result()
                progress.update()
                if not run.is_done:
                    failures.append(f"{run.name} ({result})")
                elif not progress.disable:
                    progress.write(printable(f"{run.name}: {result}"), file=sys.stderr)
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            job_pool.stop()
            raise
    return failures


class JobPool:
    """The processes of a sweep, each working on one run.

    Args:
        jobs: number of processes at a time.
        threads: CPU threads of each process.
    """

    def __init__(self, jobs: int, threads: int) -> None:
        self.jobs, self.threads = jobs, threads
        self.devices: queue.Queue[str | None] = queue.Queue()
        for device in _visible_devices(jobs):
            self.devices.put(device)
        self.processes: set[subprocess.Popen[bytes]] = set()
        self.failure_codes: set[int] = set()
        self.stopping = False
        self.lock = threading.Lock()

    def run(self, run: SweepRun) -> str:
        """Run a run; return a line that describes its result."""
        device = self.devices.get()
        try:
            return self._run(run, device)
        finally:
            self.devices.put(device)

    def _run(self, run: SweepRun, device: str | None) -> str:
        environment = os.environ | {"OMP_NUM_THREADS": str(self.threads), "PYTHONUNBUFFERED": "1"}
        environment["SER_FT_JOBS"] = str(self.jobs)
        if device is not None:
            environment["CUDA_VISIBLE_DEVICES"] = device
        log = run.folder.path.with_name(f"{run.folder.path.name}.log")
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "ser_ft.cli.sweep_worker", *run.arguments]
        start_time = time.monotonic()
        with log.open("ab") as output:
            start = output.tell()
            with self.lock:
                if self.stopping:
                    return "not started"
                # The worker ends when its standard input is closed, which happens when this process ends.
                process = subprocess.Popen(
                    command, env=environment, stdin=subprocess.PIPE, stdout=output, stderr=output
                )
                self.processes.add(process)
            with process:
                process.wait()
            self.processes.discard(process)
        if run.is_done:
            test = run.folder.metrics["parts"]["test"]
            return f"UAR {test['uar']:.3f} on {test['speakers']} speakers, {time.monotonic() - start_time:.0f} s"
        self.failure_codes.add(process.returncode)
        lines = log.read_bytes()[start:].decode(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else f"no output, exit code {process.returncode}"

    def stop(self) -> None:
        """Terminate the running processes, and start no more."""
        with self.lock:
            self.stopping = True
            for process in self.processes:
                process.terminate()


def _visible_devices(jobs: int) -> list[str | None]:
    """Return CUDA_VISIBLE_DEVICES for each of the simultaneous runs; None: unchanged."""
    import torch

    count = torch.cuda.device_count()
    if jobs == 1 or count < 2:
        return [None] * jobs
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [name for name in visible.split(",") if name] or [str(number) for number in range(count)]
    return [names[index % len(names)] for index in range(jobs)]
