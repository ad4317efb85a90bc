"""The published files of a run, without local paths and without the names of people."""

from __future__ import annotations

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
from ..utils.readers import read_json
from .upload import Content, Upload, as_json

_MODEL_SUFFIXES = frozenset({".json", ".safetensors", ".py"})
_FIGURES = ("curves", "confusion", "recall", "parts", "reliability", "groups", "speakers")
_PATH_SETTINGS = ("roots", "prepared", "dataset", "file", "sounds_path", "out")
_LOCAL_SETTINGS = ("hub", "push_to_hub", "overwrite", "resume", "out")
_ABSOLUTE = re.compile(r"(?:/|~|\.{1,2}[/\\]|[A-Za-z]:[/\\]|\\\\|file:)")


class Pseudonymizer:
    """Replaces the names of speakers and clips in the user's own data, which may be names of people.

    Args:
        split: the content of split.json.
        corpora: names of the corpora of the run and of the runs before it, besides the known ones. They are needed
            because speakers of a corpus "savee-office" have names that begin like those of "savee".
    """

    def __init__(self, split: Mapping[str, Any], corpora: Iterable[str] = ()) -> None:
        parts, self._corpora = split["parts"].values(), frozenset({*CORPORA, *corpora})
        speakers = [name for part in parts for name in part["speakers"]]
        self.speakers = self._number([*speakers, *split.get("seen", [])], "speaker")
        self._clips = self._number([name for part in parts for name in part["clips"]], "clip")

    def in_split(self, split: Mapping[str, Any]) -> dict[str, Any]:
        """Return the content of split.json with pseudonyms."""
        parts = {}
        for part, content in split["parts"].items():
            speakers = [self.speakers.get(name, name) for name in content["speakers"]]
            clips = [self._clips.get(name, name) for name in content["clips"]]
            parts[part] = {**content, "speakers": speakers, "clips": clips}
        return {**split, "parts": parts, **self._seen(split)}

    def in_metrics(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Return the content of metrics.json with pseudonyms."""
        parts = {}
        for part, content in metrics["parts"].items():
            by_speaker = {self.speakers.get(name, name): row for name, row in content["by_speaker"].items()}
            parts[part] = {**content, "by_speaker": by_speaker}
        return {**metrics, "parts": parts, **self._seen(metrics)}

    def _seen(self, content: Mapping[str, Any]) -> dict[str, list[str]]:
        seen = content.get("seen")
        return {"seen": sorted(self.speakers.get(name, str(name)) for name in seen)} if seen else {}

    def _number(self, names: list[str], noun: str) -> dict[str, str]:
        private = sorted({name for name in names if self._is_private(name, noun)})
        return {name: f"{PSEUDONYM_PREFIX}{noun}-{number}" for number, name in enumerate(private, start=1)}

    def _is_private(self, name: str, noun: str) -> bool:
        # Names of speakers in the known corpora have one hyphen; more belong to a corpus that no run names.
        unknown_corpus = noun == "speaker" and name.count("-") > 1
        return unknown_corpus or corpus_of_speaker(name, self._corpora) not in CORPORA


def model_upload(run: RunFolder, name: str) -> Upload:
    """Collect the published files of a run: model, card, metrics, split, history, figures, settings, environment."""
    for file in (*run.path.glob("*"), *run.model.glob("*"), *run.figures.glob("*")):
        if file.is_file() and not file.resolve().is_relative_to(run.path.resolve()):
            raise InputError(f"{file}: links to a file outside of the run, which is not published: copy the file there")
    with explain_read_errors(run):
        files: dict[str, Content] = {path: _without_paths(file) for path, file in _model_files(run).items()}
        metrics, split = run.metrics, run.split
        if "test" not in metrics["parts"]:
            raise InputError(f"{run.path}: this run has no test results: models without them are not published")
        names = Pseudonymizer(split, {*(metrics.get("terms") or {}), *corpora_seen_in_training(run.model)})
        config = public_config(run.config, metrics)
        files["config.yaml"] = yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode()
        files["environment.json"] = as_json(public_environment(run.environment))
        # Without pseudonyms, the published files equal the run's byte for byte.
        files["metrics.json"] = as_json(names.in_metrics(metrics)) if names.speakers else run.metrics_file.read_bytes()
        files["split.json"] = as_json(names.in_split(split)) if names.speakers else run.split_file.read_bytes()
        if run.history_file.is_file():
            files["history.jsonl"] = run.history_file.read_bytes()
        for figure in _FIGURES:
            file = run.figures / f"{figure}.png"
            if file.is_file() and not (figure == "speakers" and names.speakers):
                files[f"figures/{figure}.png"] = file
        files["README.md"] = str(model_card(run, name, config)).encode()
    paths = frozenset({str(run.path.resolve()), *_paths_in(run.config)})
    return Upload(name, "model", files, f"{metrics['model']}: model, card and results, by ser_ft", private_paths=paths)


def public_environment(environment: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's environment without its command, and of the platform only the system, without the kernel."""
    system = str(environment.get("platform", "")).partition("-")[0]
    return {key: value for key, value in environment.items() if key != "command"} | {"platform": system}


def public_config(config: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's configuration without local settings, and with only the last part of each path."""
    model = dict(config["model"])
    name = str(model["name"])
    if base_model(config, metrics) is None and ("/" in name or "\\" in name):
        is_image_model = name.startswith(("timm/", "torchvision/")) and not Path(name).exists()
        model["name"] = model["name"] if is_image_model else _last_part(name)
    public = {key: value for key, value in config.items() if key not in _LOCAL_SETTINGS}
    return dict(_shorten_paths({**public, "model": model}))


def _model_files(run: RunFolder) -> dict[str, Path]:
    """Return the files of the saved model; transformers expects them at the top of the repository."""
    files = {
        file.name: file
        for file in sorted(run.model.glob("*"))
        if file.is_file() and file.suffix in _MODEL_SUFFIXES and not file.name.startswith(".")
    }
    if "config.json" not in files or not any(name.endswith(".safetensors") for name in files):
        raise InputError(f"{run.path}: no model in this run (config.json and model.safetensors in model/)")
    return files


def _without_paths(file: Path) -> Content:
    """Remove paths from a JSON file of a model; other files, and those without paths, are returned unchanged."""
    if file.suffix != ".json":
        return file
    content = read_json(file)
    public = _shorten_paths(content, settings=())
    return file if public == content else as_json(public)


def _shorten_paths(value: Any, key: str = "", settings: tuple[str, ...] = _PATH_SETTINGS) -> Any:
    if isinstance(value, Mapping):
        # The entries of `roots` are corpus: folder.
        keys = {name: key if key == "roots" else str(name) for name in value}
        return {name: _shorten_paths(item, keys[name], settings) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_shorten_paths(item, key, settings) for item in value]
    if isinstance(value, str) and (_ABSOLUTE.match(value) or (key in settings and ("/" in value or "\\" in value))):
        return _last_part(value)
    return value


def _last_part(path: str) -> str:
    """Return the last part of a path; for RUN/model, the run's name."""
    parts = [part for part in re.split(r"[/\\]", path.removeprefix("file:")) if part not in ("", ".", "..", "~")]
    if len(parts) > 1 and parts[-1] == "model":
        parts.pop()
    return parts[-1] if parts else "local"


def _paths_in(value: Any, key: str = "") -> set[str]:
    """Return the folders and files that a configuration names."""
    if isinstance(value, Mapping):
        items = [(item, key if key == "roots" else str(name)) for name, item in value.items()]
    elif isinstance(value, list | tuple):
        items = [(item, key) for item in value]
    elif isinstance(value, str) and (_ABSOLUTE.match(value) or key in _PATH_SETTINGS):
        return {str(Path(value).expanduser())}
    else:
        return set()
    return {path for item, item_key in items for path in _paths_in(item, item_key)}
