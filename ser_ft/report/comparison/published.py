"""What others published, and how well people do: the one table of figures that are not computed from runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

_MEASURES = ("uar", "accuracy", "macro_f1")


@dataclass(frozen=True)
class Published:
    """A figure of others.

    Attributes:
        corpora: what was tested on. classes: their number, None where the source's is not known.
        uar, accuracy, macro_f1: shares, None where not published. leaking: test speakers were heard in training.
        trained_on: a corpus, where it is another one than the one tested on.
    """

    system: str
    corpora: tuple[str, ...]
    classes: int | None
    uar: float | None
    accuracy: float | None
    macro_f1: float | None
    protocol: str
    leaking: bool
    source: str
    trained_on: str | None = None


@dataclass(frozen=True)
class People:
    """How well people recognise the emotions of a corpus from the voice: a share, and what it is the share of."""

    corpus: str
    share: float
    measures: str
    source: str


@cache
def published() -> tuple[Published, ...]:
    """Return all figures of others, those on unseen speakers first, then by corpus."""
    said = _said()
    rows = [dict(row) for row in said["results"]]
    for name, systems in said["tables"].items():
        for system, figures in systems.items():
            rows.append({**said["protocols"][name], "system": system, **dict(zip(_MEASURES, figures, strict=False))})
    made = [_made(row, said["sources"]) for row in rows]
    return tuple(sorted(made, key=lambda one: (one.leaking, one.corpora, one.trained_on or "")))


def people(corpora: Collection[str]) -> People | None:
    """Return how well people do, where the clips are of one corpus alone and it is known."""
    said = _said()
    for row in said["people"]:
        if set(corpora) == {row["corpus"]}:
            return People(row["corpus"], row["shown"] / 100, row["measures"], said["sources"][row["source"]])
    return None


def _made(row: Mapping[str, Any], sources: Mapping[str, str]) -> Published:
    shares = {name: row[name] / 100 if name in row else None for name in _MEASURES}
    return Published(
        system=row["system"],
        corpora=tuple(row["corpus"].split(" + ")),
        classes=row.get("classes"),
        protocol=row["protocol"],
        leaking={"seen": True, "unseen": False}[row["speakers"]],
        source=sources[row["source"]],
        trained_on=row.get("trained_on"),
        **shares,
    )


@cache
def _said() -> dict[str, Any]:
    text = resources.files("ser_ft").joinpath("report", "comparison", "published.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))
