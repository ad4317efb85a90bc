"""What a model was trained on: the ser_ft runs behind its weights, with their speakers and corpora."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from ..data.corpora import CORPORA
from ..data.licenses import OWN_LICENSE
from ..data.scan import SYNTHETIC_NOTE
from ..data.splits import Split, read_split
from ..models import IMAGE_PREFIXES, resolve_model_path
from ..utils.errors import InputError, raise_machine_failure
from ..utils.hub_offline import offline_if_unreachable
from .run_folder import RunFolder

PSEUDONYM_PREFIX = "own-"
"""Start of the names that replace the names of persons in a published run."""
_CORPUS_KEYS = ("title", "license", "terms", "citation")
_LEARNING_PARTS = ("train", "validation")


def is_pseudonym(speaker: str) -> bool:
    """Return whether a speaker's name was replaced before the run was published."""
    return speaker.startswith(f"{PSEUDONYM_PREFIX}speaker-")


def training_runs(model: str | Path) -> Iterator[RunFolder]:
    """Yield the ser_ft runs that produced a model's weights, the latest first, as far as they can be found.

    The run that trained the model is read from split.json and config.yaml in the model's folder or its parent, or, for
    a name on the Hub, downloaded if the Hub can be reached; then the run of the model it started from, and so on.
    """
    visited: set[Path] = set()
    run = _run_of_model(str(model))
    while run is not None and run.path not in visited:
        visited.add(run.path)
        yield run
        run = _run_of_model(str(run.config["model"]["name"]))


def speakers_seen_in_training(
    model: str | Path, parts: Sequence[str] = ("train",), synthetic: bool | None = None
) -> set[str]:
    """Return the speakers in parts of the runs behind a model's weights, as far as these are known (`training_runs`).

    `synthetic` says whether the speakers in question are the miniature's synthetic voices, which have the names of real
    speakers. Runs that are known to use the other kind of voices are then ignored. None: all runs count.
    """
    seen: set[str] = set()
    for run in training_runs(model):
        if synthetic is not None and run.metrics_file.is_file() and _is_synthetic(run) != synthetic:
            continue
        speakers = read_split(run.split_file).speakers
        seen.update(*(speakers[part] for part in parts), _speakers_seen_before(run))
    return seen


def check_no_seen_speakers(model: str | Path, split: Split, synthetic: bool | None = None) -> None:
    """Raise an `InputError` if the test part of a split has speakers that a model was trained on."""
    seen = speakers_seen_in_training(model, synthetic=synthetic) & set(split.speakers["test"])
    if seen:
        raise InputError(
            f"{model}: was trained on clips of {len(seen)} of this split's test speakers ({min(seen)} is the first): "
            "use the split, its fold and its seed that the model was pretrained on"
        )


def corpora_seen_in_training(model: str | Path) -> dict[str, dict[str, Any]]:
    """Return the corpora that a model, or a model it started from, was trained or validated on.

    If a run's metrics.json is missing, its corpora are recognized by the names of its speakers. The result is corpus ->
    title, license, terms, citation and note ("" if it has no note).
    """
    corpora: dict[str, dict[str, Any]] = {}
    seen: set[str] = set()
    described: set[str] = set()
    for run in training_runs(model):
        speakers = _learning_speakers(read_split(run.split_file).speakers)
        seen |= speakers | set(_speakers_seen_before(run))
        if run.metrics_file.is_file():
            described |= speakers
            metrics = run.metrics
            _add_corpora(corpora, _corpora_of(metrics.get("terms") or {}, metrics.get("notes") or {}, speakers))
    names = sorted({name for speaker in seen - described if (name := corpus_of_speaker(speaker, CORPORA))})
    _add_corpora(
        corpora, {name: {key: getattr(CORPORA[name], key) for key in _CORPUS_KEYS} | {"note": ""} for name in names}
    )
    return corpora


def corpora_of_new_run(
    model: str | Path, facts: Mapping[str, Mapping[str, Any]], split: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, Any]]:
    """Return what `corpora_seen_in_training` will return for a run that does not exist yet, but starts from a model.

    `facts` are those of `ser_ft.data.prepare.corpus_info`; `split` is part -> speakers.
    """
    corpora = corpora_seen_in_training(model)
    notes = {name: fact["note"] for name, fact in facts.items()}
    _add_corpora(corpora, _corpora_of(facts, notes, _learning_speakers(split)))
    return corpora


def corpus_of_speaker(speaker: str, corpora: Collection[str]) -> str | None:
    """Return the one of some corpora that a speaker belongs to ("ravdess" for "ravdess-01"), or None."""
    return max((name for name in corpora if speaker.startswith(f"{name}-")), key=len, default=None)


def _is_synthetic(run: RunFolder) -> bool:
    return any(SYNTHETIC_NOTE in note for note in run.metrics["notes"].values())


def _speakers_seen_before(run: RunFolder) -> list[str]:
    """Return the speakers in a run's split.json that the model it started from had seen."""
    return list(run.split.get("seen", ()))


def _learning_speakers(split: Mapping[str, Sequence[str]]) -> set[str]:
    return {speaker for part in _LEARNING_PARTS for speaker in split.get(part, ())}


def _corpora_of(
    facts: Mapping[str, Mapping[str, Any]], notes: Mapping[str, str], speakers: Collection[str]
) -> dict[str, dict[str, Any]]:
    present = {corpus_of_speaker(speaker, facts) for speaker in speakers}
    return {
        name: {key: fact[key] for key in _CORPUS_KEYS} | {"note": notes.get(name, "")}
        for name, fact in facts.items()
        if name in present
    }


def _add_corpora(corpora: dict[str, dict[str, Any]], more: dict[str, dict[str, Any]]) -> None:
    """Add corpora in place; recorded speech has priority over synthetic voices of the same name."""
    for name, fact in more.items():
        if name not in corpora or corpora[name]["license"] == OWN_LICENSE:
            corpora[name] = fact


def _run_of_model(model: str) -> RunFolder | None:
    folder = Path(resolve_model_path(model)).expanduser().resolve()
    if not folder.is_dir():
        return _run_on_hub(model)
    # `push` puts the model at the top of the repository, so a download has it next to split.json.
    parents = [folder, folder.parent] if (folder / "config.json").is_file() else [folder.parent]
    runs = map(RunFolder, parents)
    return next((run for run in runs if run.split_file.is_file() and run.config_file.is_file()), None)


def _run_on_hub(name: str) -> RunFolder | None:
    """Return the run files that `push` uploaded with a model, or None if it has none or the Hub is unreachable."""
    if name.count("/") != 1 or name.startswith(IMAGE_PREFIXES):
        return None
    from huggingface_hub import constants, try_to_load_from_cache

    # What is in the cache, a recorded absence included, is not requested again.
    try:
        cached = try_to_load_from_cache(name, "split.json")
    except ValueError:
        return None
    if isinstance(cached, str) and RunFolder(Path(cached).parent).config_file.is_file():
        return _pushed_run(Path(cached).parent)
    return _download_run(name, str(constants.ENDPOINT)) if cached is None or isinstance(cached, str) else None


@cache
def _download_run(name: str, endpoint: str) -> RunFolder | None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import EntryNotFoundError

    download = HfApi(endpoint=endpoint).hf_hub_download
    try:
        with offline_if_unreachable(local=False):
            folder = Path(download(name, "split.json")).parent
            # A pretraining run has no metrics.json.
            with suppress(EntryNotFoundError):
                download(name, "metrics.json", revision=folder.name)
            download(name, "config.yaml", revision=folder.name)
    except (OSError, ValueError):
        return None
    return _pushed_run(folder)


def _pushed_run(folder: Path) -> RunFolder | None:
    """Return the run in a downloaded repository, or None if its files were not written by ser_ft."""
    run = RunFolder(folder)
    try:
        from_ser_ft = {"parts", "leaking"} <= set(run.split) and "name" in run.config["model"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise_machine_failure(error)
        return None
    return run if from_ser_ft else None
