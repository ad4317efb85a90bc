"""Published results of others and human performance: the only figures that are not computed from runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

import yaml

_MEASURES = ("uar", "accuracy", "macro_f1")


@dataclass(frozen=True)
class PublishedResult:
    """A published result. Scores are fractions; what was not published is None.

    Attributes:
        corpora: the corpora tested on.
        trained_on: a corpus, if it is not the one tested on.
        is_direction_unclear: whether the sources contradict each other on which of `corpora` and `trained_on` was
            tested on.
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
    is_direction_unclear: bool = False

    @property
    def possible_corpora(self) -> tuple[str, ...]:
        """The corpora that may have been tested on."""
        return (*self.corpora, self.trained_on) if self.is_direction_unclear and self.trained_on else self.corpora


class HumanPerformance(NamedTuple):
    """How well people recognize the emotions of a corpus from the voice: a fraction, and what it is a fraction of."""

    score: float
    measure: str
    source: str


@cache
def published_results() -> tuple[PublishedResult, ...]:
    """Return all published results, those on unseen speakers first, then by corpus."""
    content = _read_yaml()
    rows = [dict(row) for row in content["results"]]
    for name, systems in content["tables"].items():
        for system, figures in systems.items():
            rows.append({**content["protocols"][name], "system": system, **dict(zip(_MEASURES, figures, strict=False))})
    results = [_result(row, content["sources"]) for row in rows]
    return tuple(sorted(results, key=lambda result: (result.leaking, result.corpora, result.trained_on or "")))


def human_performance(corpora: Collection[str]) -> HumanPerformance | None:
    """Return the human performance on the only corpus of the clips, or None if there are several or it is unknown."""
    content = _read_yaml()
    for row in content["people"]:
        if set(corpora) == {row["corpus"]}:
            return HumanPerformance(row["score"] / 100, row["measure"], content["sources"][row["source"]])
    return None


def _result(row: Mapping[str, Any], sources: Mapping[str, str]) -> PublishedResult:
    scores = {name: row[name] / 100 if name in row else None for name in _MEASURES}
    return PublishedResult(
        system=row["system"],
        corpora=tuple(row["corpus"].split(" + ")),
        classes=row.get("classes"),
        protocol=row["protocol"],
        leaking={"seen": True, "unseen": False}[row["speakers"]],
        source=sources[row["source"]],
        trained_on=row.get("trained_on"),
        is_direction_unclear=row.get("direction") == "unclear",
        **scores,
    )


@cache
def _read_yaml() -> dict[str, Any]:
    text = resources.files("ser_ft").joinpath("report", "comparison", "published.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))
