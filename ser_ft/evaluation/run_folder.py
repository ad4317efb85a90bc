"""The run folder: the only thing that one step hands to the next."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..utils.errors import InputError
from ..utils.files import check_output

if TYPE_CHECKING:
    import pandas as pd

PARTS = ("train", "validation", "test")
PREDICTION_COLUMNS = (
    *("id", "path", "corpus", "speaker", "gender", "intensity", "duration"),
    *("part", "fold", "seed", "label"),
)
_REPORTED_PACKAGES = (
    "ser_ft",
    "torch",
    "torchaudio",
    "transformers",
    "datasets",
    "accelerate",
    "scikit-learn",
    "numpy",
    "soxr",
)


class RunFolder:
    """A run on disk.

    `config.yaml`, `environment.json`, `split.json`, `history.jsonl`, `checkpoints/`, `model/`, `predictions.parquet`,
    `metrics.json`, `figures/`, `report.html`; `baselines/NAME/` holds the run of each system trained beside it.
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
        """Open a finished run.

        Raises:
            InputError: there is no such folder, or no evaluated run in it.
        """
        run = cls(path)
        if not run.path.is_dir():
            raise InputError(f"{path}: no such run folder")
        if not run.metrics_file.is_file():
            raise InputError(f"{path}: no evaluated run (metrics.json is missing): train it, or resume it, first")
        return run

    @property
    def baselines(self) -> list[RunFolder]:
        """The runs of the systems trained beside this one, on the same split, by name."""
        return [RunFolder(file.parent) for file in sorted(self.path.glob("baselines/*/metrics.json"))]

    def write_text(self, file: Path, text: str) -> None:
        """Write a file of the run whole or not at all."""
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f".{file.name}.partial")
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, file)

    def write_json(self, file: Path, content: Any) -> None:
        """Write a JSON file of the run, whole or not at all; NaN is refused."""
        self.write_text(file, json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n")

    def write_environment(self, **extra: Any) -> None:
        """Write the versions, the machine and the commit that this run was made with."""
        self.write_json(self.environment_file, collect_environment() | extra)

    def write_predictions(self, table: pd.DataFrame) -> None:
        """Write predictions.parquet: a row per evaluated clip, a probability per class."""
        partial = self.predictions_file.with_name(".predictions.parquet.partial")
        table.to_parquet(partial, index=False)
        os.replace(partial, self.predictions_file)

    def append_history(self, line: dict[str, Any]) -> None:
        """Add a line to history.jsonl."""
        with self.history_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")

    def cut_history(self, epoch: int) -> None:
        """Take the lines after an epoch off history.jsonl: a resumed run writes them anew."""
        kept = [line for line in self.history if line["epoch"] <= epoch]
        self.write_text(self.history_file, "".join(json.dumps(line) + "\n" for line in kept))

    @property
    def config(self) -> dict[str, Any]:
        """The whole, resolved configuration."""
        import yaml

        return dict(yaml.safe_load(self.config_file.read_text(encoding="utf-8")))

    @property
    def environment(self) -> dict[str, Any]:
        """Versions, machine, commit."""
        return dict(json.loads(self.environment_file.read_text(encoding="utf-8")))

    @property
    def history(self) -> list[dict[str, Any]]:
        """A dictionary per evaluation; a last line cut short by a crash is left out."""
        if not self.history_file.is_file():
            return []
        lines = self.history_file.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines[:-1] if line]

    @property
    def predictions(self) -> pd.DataFrame:
        """A row per evaluated clip: `PREDICTION_COLUMNS`, then one probability per class."""
        import pandas as pd

        return pd.read_parquet(self.predictions_file)

    @property
    def metrics(self) -> dict[str, Any]:
        """The metrics of every part: see `ser_ft.evaluation.metrics.compute_metrics`."""
        return dict(json.loads(self.metrics_file.read_text(encoding="utf-8")))


@contextmanager
def explain_read_errors(run: RunFolder) -> Iterator[None]:
    """Say in one line which run cannot be read.

    Raises:
        InputError: one of its files is missing or damaged.
    """
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{run.path}: cannot be read ({type(error).__name__}: {error})") from error


def find_model_folder(given: Path) -> Path | None:
    """Return the folder of a model, which may be a run's; None where a name on the Hub is meant.

    Raises:
        InputError: the run holds no model, or the folder neither run nor model.
    """
    if (given / "model").is_dir():
        return given / "model"
    run = RunFolder(given)
    if not (given / "config.json").is_file() and (run.config_file.is_file() or run.metrics_file.is_file()):
        raise InputError(f"{given}: no model in this run: train it, or resume it, first")
    if given.is_dir() and not (given / "config.json").is_file():
        raise InputError(
            f"{given}: no run and no saved classifier (config.json) there; of a sweep, name one of its runs"
        )
    return given if given.is_dir() else None


def to_write(path: str | Path, command: str, overwrite: bool = False) -> RunFolder:
    """Return the run folder that a command is to write.

    Args:
        path: where. command: which marks the configuration of what it writes with a key of its name.
        overwrite: whether what it wrote there before may go away.

    Raises:
        InputError: nothing can be written there, or something is there that is not to go away.
    """
    folder = RunFolder(path)
    check_output(
        folder.path,
        what=f"an output of `ser-ft {command}`",
        is_ours=lambda _: _marked(folder, command),
        overwrite=overwrite,
    )
    return folder


def _marked(folder: RunFolder, command: str) -> bool:
    import yaml

    try:
        return command in folder.config
    except (OSError, TypeError, ValueError, yaml.YAMLError):
        return False


def collect_environment() -> dict[str, Any]:
    """Name the versions, the machine and the commit at hand."""
    versions = {}
    for package in _REPORTED_PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "jobs": int(os.environ.get("SER_FT_JOBS", "1")),
        "versions": versions,
        "commit": _commit(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def _commit() -> str | None:
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
