"""Small run folders of a sweep with random predictions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ser_ft.evaluation.predict import metrics_per_part
from ser_ft.evaluation.run_folder import RunFolder

CLASSES = ("neutral", "happy", "sad", "angry")
TERMS = {"title": "A corpus", "license": "CC-BY-NC-SA-4.0", "terms": "non-commercial", "citation": "Some One (2018)."}


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


def write_run(
    path: Path,
    model: str = "mfcc-cnn",
    fold: int | None = 0,
    seed: int = 0,
    speakers: Sequence[str] = ("ravdess-01", "ravdess-02"),
    skill: float = 1.0,
    split: str = "kfold",
    split_seed: int = 0,
    leaking: bool = False,
    baselines: Sequence[str] = (),
    classes: Sequence[str] = CLASSES,
    settings: dict[str, Any] | None = None,
    cost: dict[str, Any] | None = None,
    notes: dict[str, str] | None = None,
) -> RunFolder:
    """Write metrics.json, predictions.parquet, environment.json and config.yaml, and the first two of baselines."""
    table = random_predictions(speakers, skill, 1000 * seed + (fold or 0) + len(model), classes)
    common = {
        "seed": seed,
        "classes": list(classes),
        "split": {"name": split, "fold": fold, "seed": split_seed, "leaking": leaking},
        "notes": notes or {},
        "terms": dict.fromkeys(sorted(set(table["corpus"])), TERMS),
    }
    parts = [(RunFolder(path), model, table, {"parameters": 100_000, "trained_parameters": 90_000})]
    for name in baselines:
        baseline_table = random_predictions(speakers, 0.3, fold or 0, classes)
        parts.append((RunFolder(path / "baselines" / name), name, baseline_table, {"parameters": None}))
    for run, name, predictions, extra in parts:
        run.path.mkdir(parents=True)
        run.write_predictions(predictions.assign(fold=pd.Series([fold] * len(predictions), dtype="Int64"), seed=seed))
        run.write_json(
            run.metrics_file, {**common, "model": name, **extra, "parts": metrics_per_part(predictions, classes)}
        )
    run = RunFolder(path)
    kind = split.rpartition("-")[0] if "corpus-" in split else split
    lines = [f"model: {{name: {model.split(' ')[0]}}}", f"split: {{kind: {kind}, fold: {fold or 0}, folds: 2}}"]
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
