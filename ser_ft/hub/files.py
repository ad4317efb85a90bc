"""The files of a run that are published, less what is of this machine and of persons."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ..data.corpora import CORPORA
from ..evaluation.provenance import PSEUDONYM_PREFIX, corpora_seen_in_training, corpus_of_speaker
from ..evaluation.run_folder import RunFolder, explain_read_errors
from ..report.cards.model_card import base_model, model_card
from ..utils.errors import InputError
from .upload import Content, Upload, as_json

_MODEL_FILES = frozenset({".json", ".safetensors", ".py"})
_FIGURES = ("curves", "confusion", "recall", "parts", "reliability", "groups", "speakers")
# Settings that name a file or a folder; of a path, what others are told is its last part.
_PATHS = ("roots", "prepared", "dataset", "file", "sounds_path", "out")
_ABSOLUTE = re.compile(r"(?:/|~|\.{1,2}[/\\]|[A-Za-z]:[/\\]|\\\\|file:)")


class Pseudonymizer:
    """Stands in for the names of speakers and clips in data of one's own, which may be those of persons.

    Args:
        split: as split.json holds it. corpora: of the run and of those before it, beside the known ones: speakers of
            "savee-office" are not of "savee", though their names begin with it.
    """

    def __init__(self, split: Mapping[str, Any], corpora: Iterable[str] = ()) -> None:
        parts, self._corpora = split["parts"].values(), frozenset({*CORPORA, *corpora})
        self.speakers = self._numbered([*(name for part in parts for name in part["speakers"]), *split.get("seen", [])])
        self._clips = self._numbered([name for part in parts for name in part["clips"]], "clip")

    @property
    def any(self) -> bool:
        """Whether there are such names."""
        return bool(self.speakers)

    def in_split(self, split: Mapping[str, Any]) -> dict[str, Any]:
        """Return a split with these names stood in for."""
        parts = {
            kind: {
                **part,
                "speakers": [self.speakers.get(name, name) for name in part["speakers"]],
                "clips": [self._clips.get(name, name) for name in part["clips"]],
            }
            for kind, part in split["parts"].items()
        }
        return {**split, "parts": parts, **self._heard(split)}

    def in_metrics(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Return metrics with these names stood in for."""
        parts = {
            kind: {
                **part,
                "by_speaker": {self.speakers.get(name, name): own for name, own in part["by_speaker"].items()},
            }
            for kind, part in metrics["parts"].items()
        }
        return {**metrics, "parts": parts, **self._heard(metrics)}

    def _heard(self, content: Mapping[str, Any]) -> dict[str, list[str]]:
        heard = content.get("seen")
        return {"seen": sorted(self.speakers.get(name, str(name)) for name in heard)} if heard else {}

    def _numbered(self, names: list[str], what: str = "speaker") -> dict[str, str]:
        own = sorted(
            {name for name in names if corpus_of_speaker(name, self._corpora) not in CORPORA or _of_two(name, what)}
        )
        return {name: f"{PSEUDONYM_PREFIX}{what}-{number}" for number, name in enumerate(own, start=1)}


def _of_two(name: str, what: str) -> bool:
    """Say whether a speaker's name has more in it than a known corpus and a number: a corpus that no run tells of."""
    return what == "speaker" and name.count("-") > 1


def model_upload(run: RunFolder, name: str) -> Upload:
    """Gather what is published of a run: model, card, metrics, split, history, figures, settings and environment.

    Args:
        run: evaluated. name: of the repository.

    Raises:
        InputError: there is no model in it, it was not tested, or one of its files is damaged.
    """
    with explain_read_errors(run):
        files: dict[str, Content] = {path: _stripped(file) for path, file in _model(run).items()}
        metrics, split = run.metrics, json.loads(run.split_file.read_text(encoding="utf-8"))
        if "test" not in metrics["parts"]:
            raise InputError(f"{run.path}: nothing was tested in this run: what is not known to work is not published")
        names = Pseudonymizer(split, {*(metrics.get("terms") or {}), *corpora_seen_in_training(run.model)})
        config = public_config(run.config, metrics)
        files["config.yaml"] = yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode()
        files["environment.json"] = as_json({key: v for key, v in run.environment.items() if key != "command"})
        # As they are, where nothing has to be stood in for: byte for byte the run's.
        files["metrics.json"] = as_json(names.in_metrics(metrics)) if names.any else run.metrics_file.read_bytes()
        files["split.json"] = as_json(names.in_split(split)) if names.any else run.split_file.read_bytes()
        if run.history_file.is_file():
            files["history.jsonl"] = run.history_file.read_bytes()
        for kind in _FIGURES:
            picture = run.figures / f"{kind}.png"
            if picture.is_file() and not (kind == "speakers" and names.any):
                files[f"figures/{kind}.png"] = picture
        files["README.md"] = str(model_card(run, name, config)).encode()
    hidden = frozenset({str(run.path.resolve()), *_places(run.config)})
    return Upload(name, "model", files, f"{metrics['model']}: model, card and results, by ser_ft", hidden=hidden)


def public_config(config: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's configuration as others may see it: of every file and folder its last part alone."""
    model = dict(config["model"])
    if base_model(config, metrics) is None and ("/" in str(model["name"]) or "\\" in str(model["name"])):
        image = str(model["name"]).startswith(("timm/", "torchvision/")) and not Path(str(model["name"])).exists()
        model["name"] = model["name"] if image else _last(str(model["name"]))
    shown = {
        key: value for key, value in config.items() if key not in ("hub", "push_to_hub", "overwrite", "resume", "out")
    }
    return dict(_public({**shown, "model": model}))


def _model(run: RunFolder) -> dict[str, Path]:
    """Return the files of a saved model: at the top of the repository, where transformers looks for them."""
    found = {
        file.name: file
        for file in sorted(run.model.glob("*"))
        if file.is_file() and file.suffix in _MODEL_FILES and not file.name.startswith(".")
    }
    if "config.json" not in found or not any(name.endswith(".safetensors") for name in found):
        raise InputError(f"{run.path}: no model in this run (config.json and model.safetensors in model/)")
    return found


def _stripped(file: Path) -> Content:
    """Take paths out of a model's JSON file; one without any stays as it is."""
    if file.suffix != ".json":
        return file
    said = json.loads(file.read_text(encoding="utf-8"))
    public = _public(said, paths=())
    return file if public == said else as_json(public)


def _public(value: Any, key: str = "", paths: tuple[str, ...] = _PATHS) -> Any:
    if isinstance(value, Mapping):
        # Of roots, corpus: folder.
        return {name: _public(item, key if key == "roots" else str(name), paths) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_public(item, key, paths) for item in value]
    if isinstance(value, str) and (_ABSOLUTE.match(value) or (key in paths and ("/" in value or "\\" in value))):
        return _last(value)
    return value


def _last(path: str) -> str:
    """Return the last part of a path, of a run's model the run's."""
    parts = [part for part in re.split(r"[/\\]", path.removeprefix("file:")) if part not in ("", ".", "..", "~")]
    if len(parts) > 1 and parts[-1] == "model":
        parts.pop()
    return parts[-1] if parts else "local"


def _places(value: Any, key: str = "") -> set[str]:
    """Return the folders and files that a configuration names."""
    if isinstance(value, Mapping):
        return {place for name, item in value.items() for place in _places(item, key if key == "roots" else str(name))}
    if isinstance(value, list | tuple):
        return {place for item in value for place in _places(item, key)}
    if isinstance(value, str) and (_ABSOLUTE.match(value) or key in _PATHS):
        return {str(Path(value).expanduser())}
    return set()
