"""Small run folders with all their files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ser_ft.data.splits import Leaking
from ser_ft.evaluation.run_folder import RunFolder
from ser_ft.labels import EMOTION_NAMES
from tests.helpers.runs import calibration, random_predictions, write_scores, write_split

SPEAKERS = {"train": 12, "validation": 4, "test": 6}
SKILL = {"train": 3.0, "validation": 1.5, "test": 1.3}
TERMS = {
    "ravdess": {
        "title": "Ryerson Audio-Visual Database of Emotional Speech and Song",
        "license": "CC-BY-NC-SA-4.0",
        "terms": "non-commercial; share alike; name the authors",
        "citation": "Livingstone SR, Russo FA (2018). RAVDESS. https://doi.org/10.1371/journal.pone.0196391",
    },
    "savee": {
        "title": "Surrey Audio-Visual Expressed Emotion",
        "license": "other",
        "terms": "research only",
        "citation": "Haq S, Jackson PJB (2009). Speaker-dependent audio-visual emotion recognition. AVSP.",
    },
}

MakeRun = Callable[..., RunFolder]


def predict(
    classes: Sequence[str], corpora: Sequence[str], missing: str | None, skill: dict[str, float]
) -> pd.DataFrame:
    """Return random predictions of all parts; the test part has no clips of the class `missing`."""
    tables, first = [], 1
    for part, count in SPEAKERS.items():
        speakers = [f"{corpora[number % len(corpora)]}-{number:02d}" for number in range(first, first + count)]
        first += count
        table = random_predictions(speakers, skill[part], first, classes, part=part, intensities=("normal", "strong"))
        tables.append(table[(table["label"] != missing) | (part != "test")])
    return pd.concat(tables, ignore_index=True)


def write_run(
    path: Path,
    classes: Sequence[str] = EMOTION_NAMES,
    corpora: Sequence[str] = ("ravdess",),
    notes: dict[str, str] | None = None,
    leaking: Leaking = False,
    validation: bool = True,
    missing: str | None = None,
    baselines: bool = True,
    model: str = "mfcc-cnn",
) -> RunFolder:
    """Write a run folder like that of a training run."""
    run = RunFolder(path)
    parts = [part for part in SPEAKERS if validation or part != "validation"]
    split = {"name": "random" if leaking else "speaker", "fold": None if leaking else 0, "seed": 0, "leaking": leaking}
    facts: dict[str, Any] = {"notes": notes or {}, "terms": {name: TERMS[name] for name in corpora}}
    facts["calibration"] = calibration(parts) if validation else None
    table = predict(classes, corpora, missing, SKILL)
    if leaking:
        table["speaker"] = [f"{corpora[0]}-{row % 9:02d}" for row in range(len(table))]
    table = table[table["part"].isin(parts)]
    write_scores(run, model, table, classes, split, **facts, parameters=412345)
    if baselines:
        for name, skill in (("majority", 0.0), ("svm", 0.8)):
            weak = predict(classes, corpora, missing, dict.fromkeys(SKILL, skill))
            weak = weak[weak["part"].isin(parts)]
            write_scores(RunFolder(path / "baselines" / name), name, weak, classes, split, **facts, parameters=None)
        for epoch in range(1, 13):
            run.append_history(_line(epoch, validation))
    write_split(run, table, parts)
    run.write_text(run.config_file, f"model: {model}\nseed: 0\nlabels: eight\ntrain:\n  epochs: 12\n  rate: 0.001\n")
    run.write_environment(device="cpu", precision="fp32")
    return run


def _line(epoch: int, validation: bool) -> dict[str, float]:
    line = {"epoch": epoch, "step": 12 * epoch, "learning_rate": 1e-3 * (1 - epoch / 13)}
    line |= {"train_loss": 2.1 * 0.84**epoch, "train_uar": 1 - 0.9 * 0.86**epoch}
    if validation:
        line |= {"validation_loss": 1.4 + 0.02 * (epoch - 7) ** 2, "validation_uar": 0.55 - 0.006 * (epoch - 8) ** 2}
    return line


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Write a run folder in the test's temporary folder: see `write_run`."""
    return lambda name="run", **options: write_run(tmp_path / name, **options)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A clean run, with baselines and without figures."""
    return write_run(tmp_path_factory.mktemp("runs") / "clean")


@pytest.fixture(scope="session")
def odd_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A leaking run on synthetic voices of two corpora, without validation, and with a class that test lacks."""
    note = "synthetic voices (ser_ft miniature), not recordings"
    return write_run(
        tmp_path_factory.mktemp("runs") / "odd",
        corpora=("ravdess", "savee"),
        notes={"ravdess": note, "savee": note},
        leaking=True,
        validation=False,
        missing="calm",
    )
