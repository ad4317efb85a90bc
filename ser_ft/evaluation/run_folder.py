"""The run folder: the only thing that one step hands to the next."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..models import IMAGES, resolve_model_path
from ..utils.errors import InputError
from ..utils.files import check_writable
from ..utils.hub_offline import offline_where_unreachable

if TYPE_CHECKING:
    import pandas as pd

PARTS = ("train", "validation", "test")
STOOD_IN = "own-"
"""What the names begin with that stand for those of persons in what is published."""
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
        self.write_json(self.environment_file, environment() | extra)

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
        """The metrics of every part: see `ser_ft.evaluation.metrics.score`."""
        return dict(json.loads(self.metrics_file.read_text(encoding="utf-8")))


@contextmanager
def reading(run: RunFolder) -> Iterator[None]:
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


def model_folder(given: Path) -> Path | None:
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


def runs_behind(model: str | Path) -> Iterator[RunFolder]:
    """Yield the runs of ser_ft that made a model's weights, the last one first, as far as can be told.

    Args:
        model: a folder, "shipped", or a name on the Hub. In the folder or beside it lie a run's split.json and
            config.yaml, of a pretraining or of a fine-tuning; of a name on the Hub they are fetched, where the Hub has
            them and can be reached. The model that this run began with is followed, too.
    """
    seen: set[Path] = set()
    run = _run_of(str(model))
    while run is not None and run.path not in seen:
        seen.add(run.path)
        yield run
        run = _run_of(str(run.config["model"]["name"]))


def _run_of(model: str) -> RunFolder | None:
    """Return the run that made a model, where it is known."""
    folder = Path(resolve_model_path(model)).expanduser().resolve()
    if not folder.is_dir():
        return _run_on_hub(model)
    # As `push` lays a run out, the model is at its top: so it is in a download of one.
    places = [folder, folder.parent] if (folder / "config.json").is_file() else [folder.parent]
    runs = map(RunFolder, places)
    return next((run for run in runs if run.split_file.is_file() and run.config_file.is_file()), None)


def _run_on_hub(name: str) -> RunFolder | None:
    """Return what `push` told the Hub of a run, less the model; None where it has none of it, or is out of reach."""
    if name.count("/") != 1 or name.startswith(IMAGES):
        return None
    from huggingface_hub import constants, try_to_load_from_cache

    # What the Hub was asked once is not asked again: of a model that is here already nothing is, without a network.
    try:
        held = try_to_load_from_cache(name, "split.json")
    except ValueError:
        return None
    if isinstance(held, str) and RunFolder(Path(held).parent).config_file.is_file():
        return _pushed(Path(held).parent)
    return _fetched(name, str(constants.ENDPOINT)) if held is None or isinstance(held, str) else None


@cache
def _fetched(name: str, endpoint: str) -> RunFolder | None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import EntryNotFoundError

    fetch = HfApi(endpoint=endpoint).hf_hub_download
    try:
        with offline_where_unreachable(local=False):
            folder = Path(fetch(name, "split.json")).parent
            # What the corpora are, and whose their voices: of a pretraining there is none.
            with suppress(EntryNotFoundError):
                fetch(name, "metrics.json", revision=folder.name)
            fetch(name, "config.yaml", revision=folder.name)
    except (OSError, ValueError):
        return None
    return _pushed(folder)


def _pushed(folder: Path) -> RunFolder | None:
    """Return a run as it was pushed; None where the files of these names are another's."""
    import yaml

    run = RunFolder(folder)
    try:
        told = json.loads(run.split_file.read_text(encoding="utf-8"))
        ours = {"parts", "leaking"} <= set(told) and "name" in run.config["model"]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return None
    return run if ours else None


def is_pseudonym(speaker: str) -> bool:
    """Say whether a speaker's name was left out of what was published."""
    return speaker.startswith(f"{STOOD_IN}speaker-")


def to_write(path: str | Path, command: str, replace: bool = False) -> RunFolder:
    """Return the run folder that a command is to write.

    Args:
        path: where. command: which marks the configuration of what it writes with a key of its name.
        replace: whether what it wrote there before may go away.

    Raises:
        InputError: nothing can be written there, or something is there that is not to go away.
    """
    folder = RunFolder(path)
    check_writable(folder.path)
    if folder.path.exists() and any(folder.path.iterdir()):
        if not _marked(folder, command):
            raise InputError(f"{path}: holds something that `ser-ft {command}` did not write; name another --out")
        if not replace:
            raise InputError(f"{path}: is there already: give --if-exists replace, or another --out")
    return folder


def _marked(folder: RunFolder, command: str) -> bool:
    import yaml

    try:
        return command in folder.config
    except (OSError, TypeError, ValueError, yaml.YAMLError):
        return False


def environment() -> dict[str, Any]:
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
