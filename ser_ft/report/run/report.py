"""The HTML report of a run: a single file that loads nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...evaluation.run_folder import PARTS, RunFolder
from ...labels import label_color
from ...utils.files import output_lock
from ...utils.text import MISSING, short_note
from ..comparison.report import compare, transfer_lines
from ..shared.samples import MAX_SECONDS, check_same_clips, make_samples, voice_notes
from ..shared.tables import comparison_rows, describe_sample, evaluated_part, run_notes, split_name, split_notes
from ..shared.templates import embed_png, render_template
from .calibration_figures import group_scores
from .figures import selected_evaluation, write_figures

if TYPE_CHECKING:
    from datasets import Dataset

_INTERVAL_METHODS = {
    "t": "a Student t interval around the mean of the speakers' UARs",
    "jackknife-t": "a Student t interval over speakers with a jackknife standard error",
}
_SCORE_COLUMNS = ("uar", "interval", "accuracy", "macro_f1", "ece", "nll", "chance")


def write_report(run: RunFolder, data: Dataset | None = None, num_examples: int = 12) -> Path:
    """Write a run's figures and its report.html, which has no scripts and loads nothing, and return the file.

    With `data`, the prepared table that the run was evaluated on, the example clips can be played.

    Raises:
        InputError: the table does not hold the run's clips.
    """
    if data is not None:
        check_same_clips(run.predictions, data)
    with output_lock(run.path):
        pictures = {file.stem: file.read_bytes() for file in write_figures(run)}
        page = render_template("report/run/report.html.j2", _contents(run, pictures, data, num_examples))
        run.write_text(run.report_file, page)
        return run.report_file


def _contents(run: RunFolder, pictures: Mapping[str, bytes], data: Dataset | None, num_examples: int) -> dict[str, Any]:
    metrics = run.metrics
    part, scores = evaluated_part(metrics)
    split = _read_split(run)
    samples = []
    if num_examples and run.predictions_file.is_file():
        samples = make_samples(run.predictions, metrics["classes"], part, num_examples, data)
    rows = comparison_rows([run, *(other for other in run.baselines if part in other.metrics["parts"])], part)
    baselines, interval = rows[1:], scores.get("uar_interval")
    is_comparable = part == "test" and any(baseline.config_file.is_file() for baseline in run.baselines)
    return {
        "metrics": metrics,
        "part": part,
        "scores": scores,
        "leaking": metrics["split"]["leaking"],
        "methods": _INTERVAL_METHODS,
        "notes": run_notes(metrics)[bool(metrics["split"]["leaking"]) :],
        "split_note": short_note("".join(split_notes(metrics["split"]["leaking"]))),
        "row_notes": _row_notes(metrics),
        "corpora": list(scores.get("by_corpus") or metrics.get("terms") or ()),
        "sample": describe_sample(metrics),
        "split_name": split_name(metrics["split"]),
        "split": split,
        "num_seen_speakers": _num_seen_speakers(split, part),
        "comparison": rows,
        "better": [row["model"] for row in baselines if (row["uar"] or 0.0) >= (scores["uar"] or 0.0)],
        "inside": [
            row["model"]
            for row in baselines
            if interval and row["uar"] is not None and interval["low"] <= row["uar"] <= interval["high"]
        ],
        "transfer": transfer_lines(compare([run.path], show_progress=False)) if is_comparable else [],
        "selected": selected_evaluation(run.history),
        "score_columns": _SCORE_COLUMNS,
        "parts": {name: metrics["parts"][name] for name in PARTS if name in metrics["parts"]},
        "classes": [
            {"name": name, "color": label_color(name, index), "counts": scores["confusion"][index]}
            | {key: scores[key][name] for key in ("recall", "precision", "support")}
            for index, name in enumerate(metrics["classes"])
        ],
        "confusions": _most_frequent_confusions(metrics["classes"], scores),
        "calibration": metrics["calibration"],
        "groups": group_scores(scores),
        "speakers": dict(sorted(scores["by_speaker"].items(), key=lambda item: (item[1]["uar"], item[0]))),
        "samples": samples,
        "max_seconds": MAX_SECONDS,
        "voice_notes": voice_notes(samples, metrics),
        "pictures": {name: embed_png(content) for name, content in pictures.items()},
        "config": run.config_file.read_text(encoding="utf-8") if run.config_file.is_file() else "",
        "environment": _flatten(run.environment) if run.environment_file.is_file() else {},
        "terms": metrics.get("terms") or {},
    }


def _row_notes(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Return the short notes of each row of the score tables: part or corpus -> notes."""
    general = split_notes(metrics["split"]["leaking"])
    notes = dict.fromkeys(metrics["parts"], run_notes(metrics))
    for corpus in metrics.get("terms") or {}:
        notes[corpus] = general
    for corpus, note in (metrics.get("notes") or {}).items():
        notes[corpus] = [*general, note] if note else general
    return {row: "; ".join(map(short_note, lines)) for row, lines in notes.items() if lines}


def _most_frequent_confusions(names: list[str], scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the three confusions with the highest shares of their true class's clips."""
    confusions = [
        {"label": names[i], "prediction": names[j], "count": count, "total": sum(row)}
        for i, row in enumerate(scores["confusion"])
        for j, count in enumerate(row)
        if i != j and count
    ]
    return sorted(confusions, key=lambda item: -item["count"] / item["total"])[:3]


def _read_split(run: RunFolder) -> dict[str, Any]:
    """Return split.json, its parts in order, with the speakers in more than one part; empty without the file."""
    if not run.split_file.is_file():
        return {}
    split = run.split
    parts = {name: split["parts"][name] for name in PARTS if name in split["parts"]}
    counts = Counter(name for content in parts.values() for name in set(content["speakers"]))
    num_shared = sum(count > 1 for count in counts.values())
    return split | {"parts": parts, "num_shared": num_shared, "num_speakers": len(counts)}


def _num_seen_speakers(split: Mapping[str, Any], part: str) -> int | None:
    """Return the number of a part's speakers that are in the training part too, or None if it is unknown."""
    parts = split.get("parts", {})
    if part not in parts or "train" not in parts or part == "train":
        return None
    return len(set(parts[part]["speakers"]) & set(parts["train"]["speakers"]))


def _flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Flatten a nested mapping: {"versions": {"torch": "2.11"}} -> {"versions: torch": "2.11"}."""
    flat: dict[str, str] = {}
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{name}: ")
        elif isinstance(value, list):
            flat[name] = " ".join(map(str, value))
        else:
            flat[name] = MISSING if value is None else str(value)
    return flat
