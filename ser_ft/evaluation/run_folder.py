"""The run folder: the files of a run, which are all that one step passes to the next."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..models import MODELS
from ..utils.atomic import explain_full_disk, write_atomically, write_file
from ..utils.errors import InputError, raise_machine_failure
from ..utils.files import check_output
from ..utils.readers import parse_json, read_json, read_text, read_yaml

if TYPE_CHECKING:
    import pandas as pd

PARTS = ("train", "validation", "test")
TABLE_COLUMNS = ("id", "path", "corpus", "speaker", "gender", "intensity", "duration")
PREDICTION_COLUMNS = (*TABLE_COLUMNS, "part", "fold", "seed", "label")
_REPORTED_PACKAGES = "ser_ft torch torchaudio transformers datasets accelerate scikit-learn numpy soxr".split()


class RunFolder:
    """A run on disk.

    It consists of `config.yaml`, `environment.json`, `split.json`, `history.jsonl`, `checkpoints/`, `model/`,
    `predictions.parquet`, `metrics.json`, `figures/` and `report.html`. `baselines/NAME/` are the run folders of the
    baselines that were fitted with it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self.config_file = self.path / "config.yaml"
        self.environment_file = self.path / "environment.json"
        self.split_file = self.path / "split.json"
        self.history_file = self.path / "history.jsonl"
        self.predictions_file = self.path / "predictions.parquet"
        self.metrics_file = self.path / "metrics.json"
        self.report_file = self.path / "report.html"
        self.checkpoints = self.path / "checkpoints"
        self.model = self.path / "model"
        self.figures = self.path / "figures"

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Open a finished run; an `InputError` is raised if there is none."""
        run = cls(path)
        if not run.path.is_dir():
            raise InputError(f"{path}: no such run folder")
        if not run.metrics_file.is_file():
            raise InputError(f"{path}: no evaluated run (metrics.json is missing): train it, or resume it, first")
        return run

    @property
    def baselines(self) -> list[RunFolder]:
        """The runs of the baselines on the same split: networks, which have a config.yaml, then the others, by name."""
        runs = [RunFolder(file.parent) for file in sorted(self.path.glob("baselines/*/metrics.json"))]
        return sorted(runs, key=lambda run: not run.config_file.is_file())

    def write_text(self, file: Path, text: str) -> None:
        """Write a file of the run atomically."""
        write_file(file, text)

    def write_json(self, file: Path, content: Any) -> None:
        """Write a JSON file of the run atomically; NaN is refused."""
        self.write_text(file, json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n")

    def write_environment(self, **extra: Any) -> None:
        """Write environment.json: versions, machine, commit and further entries."""
        self.write_json(self.environment_file, collect_environment() | extra)

    def write_predictions(self, table: pd.DataFrame) -> None:
        """Write predictions.parquet atomically: a row per evaluated clip, a probability per class."""
        with write_atomically(self.predictions_file) as partial:
            table.to_parquet(partial, index=False)

    def append_history(self, line: dict[str, Any]) -> None:
        """Append a line to history.jsonl."""
        with explain_full_disk(self.history_file), self.history_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")

    def truncate_history(self, epoch: int) -> None:
        """Remove the lines after an epoch from history.jsonl. A resumed run writes them again."""
        lines = [line for line in self.history if line["epoch"] <= epoch]
        self.write_text(self.history_file, "".join(json.dumps(line) + "\n" for line in lines))

    @property
    def config(self) -> dict[str, Any]:
        """The complete, resolved configuration."""
        return dict(read_yaml(self.config_file))

    @property
    def environment(self) -> dict[str, Any]:
        """Versions, machine and commit."""
        return dict(read_json(self.environment_file))

    @property
    def split(self) -> dict[str, Any]:
        """The clips and speakers of every part: see `ser_ft.data.splits.Split.to_dict`."""
        return dict(read_json(self.split_file))

    @property
    def history(self) -> list[dict[str, Any]]:
        """A dictionary per evaluation, without a last line that a crash left incomplete."""
        if not self.history_file.is_file():
            return []
        lines = read_text(self.history_file).split("\n")
        return [parse_json(line, str(self.history_file)) for line in lines[:-1] if line]

    @property
    def predictions(self) -> pd.DataFrame:
        """A row per evaluated clip: `PREDICTION_COLUMNS`, then one probability per class."""
        import pandas as pd

        table = pd.read_parquet(self.predictions_file)
        probabilities = table.drop(columns=[name for name in PREDICTION_COLUMNS if name in table])
        if not probabilities.apply(lambda values: values.between(0, 1 + 1e-6)).all(axis=None):
            raise InputError(f"{self.predictions_file}: holds values that are no probabilities: evaluate the run again")
        return table

    @property
    def metrics(self) -> dict[str, Any]:
        """The metrics of every part: see `ser_ft.evaluation.metrics.compute_metrics`."""
        return dict(read_json(self.metrics_file))


@contextmanager
def explain_read_errors(run: RunFolder) -> Iterator[None]:
    """Turn errors from reading a run's missing or damaged files into an `InputError` that names the run."""
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{run.path}: cannot be read ({type(error).__name__}: {error})") from error


def starts_from_pretrained(config: Mapping[str, Any]) -> bool | None:
    """Return whether a run's training started from pretrained weights, from its config.yaml; None: no recipe."""
    model = config.get("model", {})
    if "pretrained" not in model:
        return None
    return bool(model["pretrained"]) and model["name"] not in MODELS


def find_model_folder(path: Path) -> Path | None:
    """Return the folder of a model: that of a run, or the folder itself. None if the path is a name on the Hub."""
    if (path / "model").is_dir():
        return path / "model"
    run = RunFolder(path)
    if not (path / "config.json").is_file() and (run.config_file.is_file() or run.metrics_file.is_file()):
        raise InputError(f"{path}: no model in this run: train it, or resume it, first")
    if path.is_dir() and not (path / "config.json").is_file():
        raise InputError(
            f"{path}: contains neither a run nor a saved classifier (config.json); of a sweep, name one of its runs"
        )
    return path if path.is_dir() else None


def new_run_folder(path: str | Path, command: str, overwrite: bool = False) -> RunFolder:
    """Return the run folder that a command will write, if an earlier output of it there may be replaced.

    `command` is a key in the config.yaml of the runs that the command writes. Nothing is created.
    """
    folder = RunFolder(path)
    check_output(
        folder.path,
        what=f"an output of `ser-ft {command}`",
        is_ours=lambda _: _is_output_of(folder, command),
        overwrite=overwrite,
    )
    return folder


def _is_output_of(folder: RunFolder, command: str) -> bool:
    try:
        return command in folder.config
    except (OSError, TypeError, ValueError) as error:
        raise_machine_failure(error)
        return False


def collect_environment() -> dict[str, Any]:
    """Return the versions of the packages, the machine, the commit and the command."""
    versions = {}
    for package in _REPORTED_PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "jobs": int(os.environ.get("SER_FT_JOBS", "1")),
        "versions": versions,
        "commit": _git_commit(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def _git_commit() -> str | None:
    repository = Path(__file__).resolve().parents[2]
    if not (repository / ".git").exists():
        return None
    command = ["git", "rev-parse", "HEAD"]
    with suppress(OSError, subprocess.TimeoutExpired):
        result = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=10, check=False)
        return result.stdout.strip() or None
    return None
