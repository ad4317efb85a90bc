"""The HTML report: one file that holds everything and loads nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...evaluation.run_folder import PARTS, RunFolder
from ...labels import label_color
from ...utils.text import MISSING, short_note
from ..shared import samples
from ..shared.tables import LEAKING, comparison_rows, describe_sample, evaluated_part, run_notes, split_name
from ..shared.templates import embed_png, render_template
from .calibration_figures import told_apart
from .figures import chosen, write_figures

if TYPE_CHECKING:
    from datasets import Dataset

_CONFUSIONS_SHOWN = 3
_METHODS = {
    "t": "a t interval about the mean of the speakers' own UARs",
    "jackknife-t": "a t interval over the speakers, its error that of the jackknife",
}
_SCORES = {
    "uar": "UAR",
    "interval": "interval",
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "ece": "ECE",
    "nll": "NLL",
    "chance": "chance",
}


def write_report(run: RunFolder, data: Dataset | None = None, num_examples: int = 12) -> Path:
    """Write a run's report.html, and the figures that it holds.

    Args:
        run: an evaluated run.
        data: the prepared table that the run was evaluated on (columns id and audio; duration is compared where it
            is there): the sample predictions can be listened to. Without it they are shown without sound.
        num_examples: how many sample predictions are shown.

    Returns:
        the file: no script, and nothing that is loaded from elsewhere.

    Raises:
        InputError: the data is another one than the run's: its voices must not stand for those that were judged.
    """
    if data is not None:
        samples.check_same(run.predictions, data)
    pictures = {file.stem: file.read_bytes() for file in write_figures(run)}
    run.write_text(
        run.report_file, render_template("report/run/report.html.j2", _contents(run, pictures, data, num_examples))
    )
    return run.report_file


def _contents(run: RunFolder, pictures: Mapping[str, bytes], data: Dataset | None, num_examples: int) -> dict[str, Any]:
    """Gather what the template shows, all of it from the run's files."""
    metrics = run.metrics
    part, scores = evaluated_part(metrics)
    leaking = bool(metrics["split"]["leaking"])
    split = _split(run)
    shown = []
    if num_examples and run.predictions_file.is_file():
        shown = samples.samples(run.predictions, metrics["classes"], part, num_examples, data)
    rows = comparison_rows([run, *(y for y in run.baselines if part in y.metrics["parts"])], part)
    best = chosen(run.history)
    return {
        "metrics": metrics,
        "part": part,
        "scores": scores,
        "leaking": leaking,
        "methods": _METHODS,
        "notes": [note for note in run_notes(metrics) if note != LEAKING],
        "marks": _marks(metrics),
        "corpora": list(scores.get("by_corpus") or metrics.get("terms") or ()),
        "sample": describe_sample(metrics),
        "split_name": split_name(metrics["split"]),
        "split": split,
        "heard": _heard(split, part),
        "comparison": rows,
        "better": [row["model"] for row in rows[1:] if (row["uar"] or 0.0) >= (scores["uar"] or 0.0)],
        "close": [row["model"] for row in rows[1:] if _inside(row["uar"], scores.get("uar_interval"))],
        "chosen": best,
        "score_columns": _SCORES,
        "parts": {name: metrics["parts"][name] for name in PARTS if name in metrics["parts"]},
        "classes": _classes(metrics["classes"], scores),
        "confusions": _confusions(metrics["classes"], scores),
        "calibration": metrics["calibration"],
        "groups": told_apart(scores),
        "speakers": dict(sorted(scores["by_speaker"].items(), key=lambda pair: (pair[1]["uar"], pair[0]))),
        "samples": shown,
        "longest": samples.LONGEST,
        "voices": samples.voices(shown, metrics),
        "pictures": {name: embed_png(content) for name, content in pictures.items()},
        "config": run.config_file.read_text(encoding="utf-8") if run.config_file.is_file() else "",
        "environment": _flat(run.environment) if run.environment_file.is_file() else {},
        "terms": metrics.get("terms") or {},
    }


def _marks(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Name in short what goes beside each row of a table: all of the run's notes for a part, its own for a corpus."""
    general = [LEAKING] if metrics["split"]["leaking"] else []
    marks = dict.fromkeys(metrics["parts"], run_notes(metrics))
    for corpus in metrics.get("terms") or {}:
        marks[corpus] = general
    for corpus, note in (metrics.get("notes") or {}).items():
        marks[corpus] = [*general, note] if note else general
    return {row: "; ".join(map(short_note, told)) for row, told in marks.items() if told}


def _classes(names: list[str], scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "colour": label_color(name, place),
            "recall": scores["recall"][name],
            "precision": scores["precision"][name],
            "support": scores["support"][name],
            "counts": scores["confusion"][place],
        }
        for place, name in enumerate(names)
    ]


def _confusions(names: list[str], scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Find the commonest mistakes, by the share of the true class's clips."""
    found = [
        {"true": names[i], "taken": names[j], "count": count, "of": sum(row), "share": count / sum(row)}
        for i, row in enumerate(scores["confusion"])
        for j, count in enumerate(row)
        if i != j and count
    ]
    return sorted(found, key=lambda mistake: -mistake["share"])[:_CONFUSIONS_SHOWN]


def _split(run: RunFolder) -> dict[str, Any]:
    """Read split.json: who is in which part, and who is in more than one; empty where the run has none."""
    if not run.split_file.is_file():
        return {}
    split: dict[str, Any] = json.loads(run.split_file.read_text(encoding="utf-8"))
    parts = {name: split["parts"][name] for name in PARTS if name in split["parts"]}
    people = [set(content["speakers"]) for content in parts.values()]
    everyone = set().union(*people)
    shared = sorted(name for name in everyone if sum(name in group for group in people) > 1)
    return split | {"parts": parts, "shared": shared, "speakers": len(everyone)}


def _heard(split: Mapping[str, Any], part: str) -> int | None:
    """Count the speakers of a part that are in training too; None where that is not known."""
    known = split.get("parts", {})
    if part not in known or "train" not in known or part == "train":
        return None
    return len(set(known[part]["speakers"]) & set(known["train"]["speakers"]))


def _flat(content: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """Lay a nested mapping flat: {"versions": {"torch": "2.11"}} -> {"versions: torch": "2.11"}."""
    lines: dict[str, str] = {}
    for key, value in content.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping):
            lines |= _flat(value, f"{name}: ")
        elif isinstance(value, list):
            lines[name] = " ".join(map(str, value))
        else:
            lines[name] = MISSING if value is None else str(value)
    return lines


def _inside(uar: float | None, interval: Mapping[str, Any] | None) -> bool:
    return uar is not None and interval is not None and bool(interval["low"] <= uar <= interval["high"])
