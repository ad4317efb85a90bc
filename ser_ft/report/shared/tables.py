"""Tables of runs: rows made from run folders, and rows of any kind as plain text, CSV or JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from ...data.splits import Leaking
from ...evaluation.run_folder import PARTS, RunFolder, starts_from_pretrained
from ...utils.errors import InputError
from ...utils.text import count_text, csv_line, printable, score_text, text_table

Format = Literal["table", "csv", "json", "jsonl"]
FORMATS: tuple[Format, ...] = get_args(Format)
LEAKING = "leaking split: the test speakers were also in the training data"
UNVERIFIED = "unverified split: the speakers are not known, and the test speakers may also be in the training data"
ALL_SEEN = (
    "this choice used the clips of all speakers: a test on any of them would be too optimistic; "
    "--split FILE excludes the test speakers of a run's split.json"
)


def evaluated_part(metrics: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the part whose scores are a run's result, and these scores: test, or the last part that exists."""
    name = next(part for part in reversed(PARTS) if part in metrics["parts"])
    return name, metrics["parts"][name]


def describe_sample(metrics: Mapping[str, Any]) -> str:
    """Describe the clips that a run's result is computed on, for example "test: 96 clips of 6 unseen speakers"."""
    part, scores = evaluated_part(metrics)
    leaking = metrics["split"]["leaking"]
    unknown = "seen" in metrics and metrics["seen"] is None
    unseen = "" if part == "train" or leaking or unknown else "unseen "
    seen = " also seen in training" if leaking is True and part != "train" else ""
    speakers = count_text(scores["speakers"], f"{unseen}speaker")
    return f"{part}: {count_text(scores['clips'], 'clip')} of {speakers}{seen}"


def run_notes(metrics: Mapping[str, Any]) -> list[str]:
    """Return the reasons why a run's figures may not be taken at face value.

    A leaking or unverified split comes first, then what is unusual about the audio of corpora: "synthetic voices
    (ser_ft miniature), not recordings: ravdess, tess".
    """
    corpora: dict[str, list[str]] = {}
    for corpus, note in sorted((metrics.get("notes") or {}).items()):
        if note:
            corpora.setdefault(note, []).append(corpus)
    lines = [f"{note}: {', '.join(names)}" for note, names in corpora.items()]
    return [*split_notes(metrics["split"]["leaking"]), *lines]


def split_notes(leaking: Leaking) -> list[str]:
    """Return the note on a split that leaks or is not verified, by `leaking` of split.json; nothing for others."""
    return ([UNVERIFIED] if leaking == "unknown" else [LEAKING]) if leaking else []


def split_name(split: Mapping[str, Any]) -> str:
    """Return the name of a split of metrics.json or split.json: "speaker", "speaker fold 2"."""
    return str(split["name"]) if split.get("fold") is None else f"{split['name']} fold {split['fold']}"


def comparison_rows(runs: Sequence[RunFolder], part: str = "test") -> list[dict[str, Any]]:
    """Return one row per run: the weights that its training started from, its scores on a part, and its notes.

    Raises:
        InputError: a run was not evaluated on that part.
    """
    rows = []
    for run in runs:
        metrics = run.metrics
        if part not in metrics["parts"]:
            parts = ", ".join(metrics["parts"]) or "none"
            raise InputError(f"{run.path}: was not evaluated on the {part} part, only on: {parts}")
        scores = metrics["parts"][part]
        interval = scores.get("uar_interval") or {}
        row = {
            **{"run": run.path.resolve().name, "model": metrics["model"], "starts_from": _starts_from(run)},
            "split": split_name(metrics["split"]),
            **{key: scores[key] for key in ("clips", "speakers", "uar")},
            **{key: interval.get(key) for key in ("low", "high")},
            **{key: scores[key] for key in ("accuracy", "macro_f1")},
        }
        rows.append(row | {"notes": run_notes(metrics)})
    return rows


def _starts_from(run: RunFolder) -> str | None:
    """Return the weights that a run's training started from, in words; None for a classical baseline."""
    pretrained = starts_from_pretrained(run.config) if run.config_file.is_file() else None
    return None if pretrained is None else f"{'pretrained' if pretrained else 'random'} weights"


def layer_rows(probe: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the result of `ser_ft.evaluation.probe.probe` as one row per backbone and layer; split None: all clips."""
    split = None if probe["split"]["name"] is None else split_name(probe["split"])
    common = {key: probe[key] for key in ("chance", "clips", "speakers")} | {"split": split}
    common |= {key: probe[key] for key in ("pooling", "precision", "seed")}
    return [{**layer, **common, "notes": run_notes(probe)} for layer in probe["layers"]]


def layer_text(probe: Mapping[str, Any]) -> str:
    """Return the result of `ser_ft.evaluation.probe.probe` as a table for people, the best layers marked."""
    rows = [{**row, "best": "*" if row["best"] else ""} for row in probe["layers"]]
    folds = len(probe["layers"][0]["folds"])
    head = [
        f"UAR of a linear classifier on each layer's states ({pooling_text(probe)} over time), "
        f"mean of {folds} folds by speaker",
        f"{probe['clips']:,} clips of {probe['speakers']:,} speakers, chance {score_text(probe['chance'])}",
    ]
    table = text_table(rows, ["backbone", "layer", "state", "uar", "std", "best"])
    best = {row["backbone"]: max(1, row["layer"]) for row in probe["layers"] if row["best"]}
    hints = [
        f"to train on the best layer: --model.name {name} --model.layers [{layer}]" for name, layer in best.items()
    ]
    notes = [*([ALL_SEEN] if probe["split"]["name"] is None else []), *run_notes(probe)]
    return "\n".join(
        [*head, "", table, "", *map(printable, hints), *(f"note: {printable(note)}" for note in notes)]
    ).rstrip()


def pooling_text(probe: Mapping[str, Any]) -> str:
    """Return how a probe pools states over time, in words: "mean and deviation"."""
    return str(probe["pooling"]).replace("std", "deviation").replace("+", " and ")


def format_rows(rows: Sequence[Mapping[str, Any]], format: Format = "table") -> str:
    """Return rows as text, without a newline at the end.

    In a table, low and high become one interval, and notes are shortened in the rows and written in full below. In CSV,
    lists are joined by "; ".
    """
    plain = [{key: _to_json(value) for key, value in row.items()} for row in rows]
    if format == "json":
        return json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False)
    if format == "jsonl":
        return "\n".join(json.dumps(row, ensure_ascii=False, allow_nan=False) for row in plain)
    if not plain:
        return ""
    keys = list(dict.fromkeys(key for row in plain for key in row))
    if format == "csv":
        return _to_csv(plain, keys)
    hidden = {"notes", "high"} if "low" in keys else {"notes"}
    columns = ["interval" if key == "low" else key for key in keys if key not in hidden]
    notes = list(dict.fromkeys(note for row in plain for note in row.get("notes") or ()))
    if not notes:
        return text_table(plain, columns)
    return "\n".join([text_table(plain, [*columns, "notes"]), "", *(f"note: {printable(note)}" for note in notes)])


def _to_csv(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> str:
    lines = [csv_line(keys), *(csv_line([_csv_cell(row.get(key)) for key in keys]) for row in rows)]
    return "".join(lines).rstrip("\n")


def _csv_cell(value: Any) -> Any:
    if isinstance(value, list):
        return "; ".join(map(str, value))
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value


def _to_json(value: Any) -> Any:
    """Turn NumPy's scalars into Python's, and numbers that JSON lacks (nan, infinity) into None."""
    if isinstance(value, Mapping):
        return {str(key): _to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)
