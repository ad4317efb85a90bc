from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ser_ft.evaluation.run_folder import RunFolder
from ser_ft.report.shared.tables import (
    ALL_SEEN,
    LEAKING,
    UNVERIFIED,
    comparison_rows,
    format_rows,
    layer_rows,
    layer_text,
)
from ser_ft.utils.errors import InputError
from tests.helpers.runs import write_run

MakeRun = Callable[..., RunFolder]

SYNTHETIC = "synthetic voices (ser_ft miniature), not recordings"
REBUILT = "CREMA-D, rebuilt audio"


def test_comparison_rows_have_the_runs_figures(run: RunFolder) -> None:
    rows = comparison_rows([run, *run.baselines])
    assert [row["model"] for row in rows] == ["mfcc-cnn", "majority", "svm"]
    first, scores = rows[0], run.metrics["parts"]["test"]
    assert first["split"] == "speaker fold 0"
    assert all(first[key] == scores[key] for key in ("clips", "speakers", "uar", "accuracy", "macro_f1"))
    assert (first["low"], first["high"]) == (scores["uar_interval"]["low"], scores["uar_interval"]["high"])
    assert first["notes"] == []


def test_rows_say_which_weights_a_model_started_from_and_networks_precede_classical_baselines(
    tmp_path: Path,
) -> None:
    run = write_run(tmp_path / "run", model="shipped (fine-tuned)", baselines=("logistic",))
    write_run(run.path / "baselines" / "mfcc-cnn")
    rows = comparison_rows([run, *run.baselines])
    assert [(row["model"], row["starts_from"]) for row in rows] == [
        ("shipped (fine-tuned)", "pretrained weights"),
        ("mfcc-cnn", "random weights"),
        ("logistic", None),
    ]


def test_a_missing_part_is_named(make_run: MakeRun) -> None:
    bare = make_run(validation=False, baselines=False)
    with pytest.raises(InputError, match="was not evaluated on the validation part, only on: train, test"):
        comparison_rows([bare], "validation")


def test_notes_are_short_in_the_rows_and_complete_below(make_run: MakeRun) -> None:
    clean = make_run("clean", baselines=False)
    corpora = ("ravdess", "savee")
    synthetic = make_run("made", corpora=corpora, notes=dict.fromkeys(corpora, SYNTHETIC), baselines=False)
    leaking = make_run("leaking", leaking=True, notes={"ravdess": REBUILT}, baselines=False)
    unverified = make_run("unverified", leaking="unknown", baselines=False)
    lines = format_rows(comparison_rows([clean, synthetic, leaking, unverified])).split("\n")
    assert lines[2].endswith("  -")
    assert lines[3].endswith("  synthetic voices")
    assert lines[4].endswith("  leaking split; CREMA-D, rebuilt audio")
    assert lines[5].endswith("  unverified split")
    notes = [f"{SYNTHETIC}: ravdess, savee", LEAKING, f"{REBUILT}: ravdess", UNVERIFIED]
    assert lines[6:] == ["", *(f"note: {note}" for note in notes)]
    assert "note" not in format_rows(comparison_rows([clean]))


def test_text_table_is_aligned() -> None:
    rows = [
        {"name": "a", "clips": 1440, "uar": 0.41249, "low": 0.412, "high": 0.53},
        {"name": "喜び", "clips": 7, "uar": None, "low": None, "high": None},
        {"name": "tab\there\x1b[31m", "clips": 12, "uar": 1.0, "low": 0.0, "high": 1.0},
    ]
    assert format_rows(rows).split("\n") == [
        "name                 clips    UAR        interval",
        "-------------------  -----  -----  --------------",
        "a                     1440  0.412  0.412 to 0.530",
        "喜び                     7      -               -",
        r"tab\there\u001b[31m     12  1.000  0.000 to 1.000",
    ]


def test_csv_and_json_can_be_read_back(run: RunFolder) -> None:
    rows = comparison_rows([run, *run.baselines])
    assert json.loads(format_rows(rows, "json")) == rows
    assert [json.loads(line) for line in format_rows(rows, "jsonl").split("\n")] == rows
    read = list(csv.DictReader(io.StringIO(format_rows(rows, "csv"))))
    assert [float(row["uar"]) for row in read] == [row["uar"] for row in rows]
    assert list(read[0]) == list(rows[0])


def test_unusual_values_are_written() -> None:
    rows = [{"file": "a,\n.wav", "score": np.float32(0.5), "none": float("nan"), "tags": ["x", "y"], "path": Path("p")}]
    expected = {"file": "a,\n.wav", "score": 0.5, "none": None, "tags": ["x", "y"], "path": "p"}
    assert json.loads(format_rows(rows, "json")) == [expected]
    row = next(csv.DictReader(io.StringIO(format_rows(rows, "csv"))))
    assert row == expected | {"file": r"a,\n.wav", "score": "0.5", "none": "", "tags": "x; y"}
    assert format_rows([], "json") == "[]"
    assert format_rows([]) == format_rows([], "csv") == ""


def test_layers_as_rows_and_as_text() -> None:
    first = {"backbone": "some/base", "layer": 0, "state": "input", "uar": 0.3, "std": 0.02, "best": False}
    second = first | {"layer": 1, "state": "output", "uar": 0.4, "std": 0.03, "best": True}
    facts = {"clips": 1199, "speakers": 20, "chance": 0.125, "pooling": "mean+std", "precision": "bf16", "seed": 0}
    layers = [row | {"folds": [0.3, 0.4]} for row in (first, second)]
    probe = {**facts, "split": {"name": None, "fold": None, "leaking": False}, "notes": {"ravdess": SYNTHETIC}}
    probe["layers"] = layers
    assert layer_rows(probe)[1] == layers[1] | facts | {"split": None, "notes": [f"{SYNTHETIC}: ravdess"]}
    assert layer_text(probe).split("\n") == [
        "UAR of a linear classifier on each layer's states (mean and deviation over time), mean of 2 folds by speaker",
        "1,199 clips of 20 speakers, chance 0.125",
        "",
        "backbone   layer  state     UAR    std  best",
        "---------  -----  ------  -----  -----  ----",
        "some/base      0  input   0.300  0.020",
        "some/base      1  output  0.400  0.030  *",
        "",
        "to train on the best layer: --model.name some/base --model.layers [1]",
        f"note: {ALL_SEEN}",
        f"note: {SYNTHETIC}: ravdess",
    ]
    part = probe | {"split": {"name": "kfold", "fold": 2, "leaking": True}}
    assert layer_rows(part)[0]["split"] == "kfold fold 2"
    assert ALL_SEEN not in layer_text(part)
    assert f"note: {LEAKING}" in layer_text(part)
