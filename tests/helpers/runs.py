"""Small run folders of a sweep: made-up answers, and the files that are kept of a run."""

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


def answers(
    speakers: Sequence[str], skill: float, draw: int, classes: Sequence[str] = CLASSES, takes: int = 2
) -> pd.DataFrame:
    """Make up test predictions: `takes` clips of each class from each speaker, the true class favoured by `skill`."""
    random = np.random.default_rng(draw)
    rows = []
    for speaker in speakers:
        for place, label in enumerate(classes):
            for take in range(takes):
                logits = random.normal(size=len(classes))
                logits[place] += skill
                shares = np.exp(logits) / np.exp(logits).sum()
                corpus, _, number = speaker.partition("-")
                clip = f"{speaker}-{place}-{take}"
                row = {"id": clip, "path": f"{clip}.wav", "corpus": corpus, "speaker": speaker, "intensity": "normal"}
                row |= {"gender": "male" if int(number) % 2 else "female", "duration": 0.5, "part": "test"}
                rows.append({**row, "label": label, **dict(zip(classes, shares, strict=True))})
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
    """Write metrics.json, predictions.parquet, environment.json and config.yaml, and the baselines' first two."""
    table = answers(speakers, skill, 1000 * seed + (fold or 0) + len(model), classes)
    facts = {
        "seed": seed,
        "classes": list(classes),
        "split": {"name": split, "fold": fold, "seed": split_seed, "leaking": leaking},
        "notes": notes or {},
        "terms": dict.fromkeys(sorted(set(table["corpus"])), TERMS),
    }
    parts = [(RunFolder(path), model, table, {"parameters": 100_000, "trained_parameters": 90_000})]
    for name in baselines:
        weak = answers(speakers, 0.3, fold or 0, classes)
        parts.append((RunFolder(path / "baselines" / name), name, weak, {"parameters": None}))
    for run, name, found, own in parts:
        run.path.mkdir(parents=True)
        run.write_predictions(found.assign(fold=pd.Series([fold] * len(found), dtype="Int64"), seed=seed))
        run.write_json(run.metrics_file, {**facts, "model": name, **own, "parts": metrics_per_part(found, classes)})
    run = RunFolder(path)
    kind = split.rpartition("-")[0] if "corpus-" in split else split
    lines = [f"model: {{name: {model.split(' ')[0]}}}", f"split: {{kind: {kind}, fold: {fold or 0}, folds: 2}}"]
    lines += [f"train: {settings or {'epochs': 3}}", f"seed: {seed}", f"out: {path}", "baselines: []"]
    run.write_text(run.config_file, "\n".join(lines) + "\n")
    run.write_environment(**({"device": "cpu", "seconds": 90.0 + (fold or 0)} | (cost or {})))
    return run


def write_folds(folder: Path, seeds: Sequence[int] = (0,), folds: int = 2, people: int = 8, **options: Any) -> Path:
    """Write the runs of a system: fold0-seed0, ..., its people shared out over the folds."""
    for seed in seeds:
        for fold in range(folds):
            own = [f"ravdess-{number:02d}" for number in range(1, people + 1) if number % folds == fold]
            write_run(folder / f"fold{fold}-seed{seed}", fold=fold, seed=seed, speakers=own, **options)
    return folder
