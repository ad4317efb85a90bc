"""Which corpora a model's weights were made from: its run's, and those of the runs that it began with."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.corpora import CORPORA
from ..data.licenses import OWN
from ..data.splits import read_split
from .run_folder import runs_behind

_SAID = ("title", "license", "terms", "citation")
_LEARNED = ("train", "validation")


def corpora_heard(model: str | Path) -> dict[str, dict[str, Any]]:
    """Return the corpora that a model was trained or validated on, and those of the models that it was begun from.

    Of a model whose run is no longer there, the corpora are told by the names of its speakers.

    Args:
        model: as in `ser_ft.evaluation.run_folder.runs_behind`, such as a run's `model/`.

    Returns:
        corpus -> title, license, terms, citation and note ("" where there is none).
    """
    found: dict[str, dict[str, Any]] = {}
    heard: set[str] = set()
    known: set[str] = set()
    for run in runs_behind(model):
        speakers = _learned_from(read_split(run.split_file).speakers)
        heard |= speakers | set(json.loads(run.split_file.read_text(encoding="utf-8")).get("seen", ()))
        if run.metrics_file.is_file():
            known |= speakers
            metrics = run.metrics
            _add(found, _of(metrics.get("terms") or {}, metrics.get("notes") or {}, speakers))
    names = sorted({name for speaker in heard - known if (name := corpus_of(speaker, CORPORA))})
    _add(found, {name: {key: getattr(CORPORA[name], key) for key in _SAID} | {"note": ""} for name in names})
    return found


def corpora_to_hear(
    model: str | Path, facts: Mapping[str, Mapping[str, Any]], split: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, Any]]:
    """Return what `corpora_heard` will of a run that is not made yet.

    Args:
        model: that it begins with. facts: of the table, as `ser_ft.data.prepare.about` gives them. split: part ->
            speakers.
    """
    found = corpora_heard(model)
    _add(found, _of(facts, {name: fact["note"] for name, fact in facts.items()}, _learned_from(split)))
    return found


def corpus_of(speaker: str, names: Collection[str]) -> str | None:
    """Return which corpus a speaker is of: "ravdess-01" is of "ravdess"; None where of none of those named."""
    return max((name for name in names if speaker.startswith(f"{name}-")), key=len, default=None)


def _learned_from(split: Mapping[str, Sequence[str]]) -> set[str]:
    return {speaker for part in _LEARNED for speaker in split.get(part, ())}


def _of(
    facts: Mapping[str, Mapping[str, Any]], notes: Mapping[str, str], speakers: Collection[str]
) -> dict[str, dict[str, Any]]:
    """Return what is said of the corpora that speakers are of."""
    there = {corpus_of(speaker, facts) for speaker in speakers}
    return {
        name: {key: fact[key] for key in _SAID} | {"note": notes.get(name, "")}
        for name, fact in facts.items()
        if name in there
    }


def _add(found: dict[str, dict[str, Any]], more: dict[str, dict[str, Any]]) -> None:
    """Put corpora to those found; recordings outweigh synthetic voices that bear their names."""
    for name, fact in more.items():
        if name not in found or found[name]["license"] == OWN:
            found[name] = fact
