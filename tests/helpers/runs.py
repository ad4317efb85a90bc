"""Small run folders with random predictions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ser_ft.data.splits import Leaking
from ser_ft.evaluation.predict import metrics_per_part
from ser_ft.evaluation.run_folder import RunFolder

CLASSES = ("neutral", "happy", "sad", "angry")
_TERMS = {"title": "A corpus", "license": "CC-BY-NC-SA-4.0", "terms": "non-commercial", "citation": "Some One (2018)."}


def random_predictions(
    speakers: Sequence[str],
    skill: float,
    seed: int,
    classes: Sequence[str] = CLASSES,
    takes: int = 2,
    part: str = "test",
    intensities: Sequence[str | None] = ("normal",),
) -> pd.DataFrame:
    """Return random predictions that favor the true class by `skill`: `takes` clips per class and speaker."""
    random = np.random.default_rng(seed)
    rows = []
    for speaker in speakers:
        for index, label in enumerate(classes):
            for take in range(takes):
                logits = random.normal(size=len(classes))
                logits[index] += skill
                probabilities = np.exp(logits) / np.exp(logits).sum()
                corpus, _, number = speaker.partition("-")
                clip = f"{speaker}-{index}-{take}"
                row = {"id": clip, "path": f"/voices/{clip}.wav", "corpus": corpus, "speaker": speaker, "label": label}
                row |= {"gender": "male" if int(number) % 2 else "female", "duration": 0.5, "part": part}
                row |= {"intensity": intensities[take % len(intensities)], "fold": 0, "seed": 0}
                rows.append(row | dict(zip(classes, probabilities, strict=True)))
    return pd.DataFrame(rows)


def write_scores(
    run: RunFolder, model: str, table: pd.DataFrame, classes: Sequence[str], split: Any, **facts: Any
) -> None:
    """Write predictions.parquet and metrics.json."""
    run.path.mkdir(parents=True, exist_ok=True)
    run.write_predictions(table)
    facts = {"model": model, "seed": 0, "classes": list(classes), "split": split} | facts
    run.write_json(run.metrics_file, facts | {"parts": metrics_per_part(table, classes)})


def write_split(run: RunFolder, table: pd.DataFrame, parts: Iterable[str]) -> None:
    """Write split.json for a table of predictions."""
    tables = {part: table[table["part"] == part] for part in parts}
    content = {name: {"speakers": sorted(set(t["speaker"])), "clips": list(t["id"])} for name, t in tables.items()}
    run.write_json(run.split_file, run.metrics["split"] | {"parts": content})


def calibration(parts: Iterable[str]) -> dict[str, Any]:
    """Return the calibration of metrics.json."""
    scores = {"ece_before": 0.2345, "nll_before": 2.3456, "uncertain": 0.25, "certain_accuracy": 0.789}
    return {"temperature": 1.25, "threshold": 0.42, "clips": 64, "parts": dict.fromkeys(parts, scores)}


def write_run(
    path: Path,
    model: str = "mfcc-cnn",
    fold: int | None = 0,
    seed: int = 0,
    speakers: Sequence[str] = ("ravdess-01", "ravdess-02"),
    skill: float = 1.0,
    split: str = "kfold",
    split_seed: int = 0,
    leaking: Leaking = False,
    baselines: Sequence[str] = (),
    classes: Sequence[str] = CLASSES,
    settings: dict[str, Any] | None = None,
    cost: dict[str, Any] | None = None,
    notes: dict[str, str] | None = None,
) -> RunFolder:
    """Write a run of a sweep, with the metrics.json and predictions.parquet of its baselines."""
    run = RunFolder(path)
    table = random_predictions(speakers, skill, 1000 * seed + (fold or 0) + len(model), classes)
    tables: dict[str, tuple[RunFolder, pd.DataFrame, dict[str, Any]]]
    tables = {model: (run, table, {"parameters": 100_000, "trained_parameters": 90_000})}
    for name in baselines:
        baseline_table = random_predictions(speakers, 0.3, fold or 0, classes)
        tables[name] = (RunFolder(path / "baselines" / name), baseline_table, {"parameters": None})
    split_facts = {"name": split, "fold": fold, "seed": split_seed, "leaking": leaking}
    terms = dict.fromkeys(sorted(set(table["corpus"])), _TERMS)
    for name, (folder, predictions, extra) in tables.items():
        predictions = predictions.assign(fold=pd.Series([fold] * len(predictions), dtype="Int64"), seed=seed)
        facts = {"seed": seed, "notes": notes or {}, "terms": terms} | extra
        write_scores(folder, name, predictions, classes, split_facts, **facts)
    kind = split.rpartition("-")[0] if "corpus-" in split else split
    pretrained = str("random weights" not in model).lower()
    lines = [f"model: {{name: '{model.split(' ')[0]}', pretrained: {pretrained}}}"]
    lines += [f"split: {{kind: {kind}, fold: {fold or 0}, folds: 2}}"]
    lines += [f"train: {settings or {'epochs': 3}}", f"seed: {seed}", f"out: {path}", "baselines: []"]
    run.write_text(run.config_file, "\n".join(lines) + "\n")
    run.write_environment(**({"device": "cpu", "seconds": 90.0 + (fold or 0)} | (cost or {})))
    return run


def write_folds(
    folder: Path, seeds: Sequence[int] = (0,), folds: int = 2, num_speakers: int = 8, **options: Any
) -> Path:
    """Write the runs of a system, fold0-seed0 and so on; its speakers are distributed over the folds."""
    for seed in seeds:
        for fold in range(folds):
            fold_speakers = [f"ravdess-{number:02d}" for number in range(1, num_speakers + 1) if number % folds == fold]
            write_run(folder / f"fold{fold}-seed{seed}", fold=fold, seed=seed, speakers=fold_speakers, **options)
    return folder
