from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ser_ft.errors import InputError
from ser_ft.report import tables
from ser_ft.results.runs import RunFolder

MakeRun = Callable[..., RunFolder]

SYNTHETIC = "synthetic voices (ser_ft miniature), not recordings"
REBUILT = "CREMA-D, rebuilt audio"


def test_comparison_holds_the_runs_own_figures(run: RunFolder) -> None:
    rows = tables.comparison([run, *run.yardsticks])
    assert [row["model"] for row in rows] == ["mfcc-cnn", "majority", "svm"]
    scores = run.metrics["parts"]["test"]
    first = rows[0]
    assert first["split"] == "speaker fold 0"
    assert all(first[key] == scores[key] for key in ("clips", "speakers", "uar", "accuracy", "macro_f1"))
    assert (first["low"], first["high"]) == (scores["uar_interval"]["low"], scores["uar_interval"]["high"])
    assert first["notes"] == []


def test_a_part_that_is_not_there_is_named(make_run: MakeRun) -> None:
    bare = make_run(validation=False, yardsticks=False)
    with pytest.raises(InputError, match="no validation part in it: it has train, test"):
        tables.comparison([bare], "validation")


def test_notes_stand_in_the_row_and_on_lines_of_their_own(make_run: MakeRun) -> None:
    clean = make_run("clean", yardsticks=False)
    corpora = ("ravdess", "savee")
    made = make_run("made", corpora=corpora, notes=dict.fromkeys(corpora, SYNTHETIC), yardsticks=False)
    leaking = make_run("leaking", leaking=True, notes={"ravdess": REBUILT}, yardsticks=False)
    lines = tables.render(tables.comparison([clean, made, leaking])).split("\n")
    assert lines[2].endswith("  -")
    assert lines[3].endswith("  synthetic voices")
    assert lines[4].endswith("  leaking split; CREMA-D, rebuilt audio")
    told = [f"{SYNTHETIC}: ravdess, savee", tables.LEAKING, f"{REBUILT}: ravdess"]
    assert lines[5:] == ["", *(f"note: {note}" for note in told)]
    assert "note" not in tables.render(tables.comparison([clean]))


def test_text_table_is_aligned() -> None:
    rows = [
        {"name": "a", "clips": 1440, "uar": 0.41249, "low": 0.412, "high": 0.53},
        {"name": "喜び", "clips": 7, "uar": None, "low": None, "high": None},
        {"name": "tab\there\x1b[31m", "clips": 12, "uar": 1.0, "low": 0.0, "high": 1.0},
    ]
    assert tables.render(rows).split("\n") == [
        "name           clips    UAR     interval",
        "-------------  -----  -----  -----------",
        "a               1440  0.412  0.412-0.530",
        "喜び               7      -            -",
        "tab here [31m     12  1.000  0.000-1.000",
    ]


def test_csv_and_json_come_back_as_they_were(run: RunFolder) -> None:
    rows = tables.comparison([run, *run.yardsticks])
    assert json.loads(tables.render(rows, "json")) == rows
    assert [json.loads(line) for line in tables.render(rows, "jsonl").split("\n")] == rows
    back = list(csv.DictReader(io.StringIO(tables.render(rows, "csv"))))
    assert [float(row["uar"]) for row in back] == [row["uar"] for row in rows]
    assert list(back[0]) == list(rows[0])


def test_odd_values_are_written_plainly() -> None:
    rows = [{"file": "a,\n.wav", "score": np.float32(0.5), "none": float("nan"), "tags": ["x", "y"], "path": Path("p")}]
    assert json.loads(tables.render(rows, "json")) == [
        {"file": "a,\n.wav", "score": 0.5, "none": None, "tags": ["x", "y"], "path": "p"}
    ]
    assert next(csv.DictReader(io.StringIO(tables.render(rows, "csv")))) == {
        "file": "a,\n.wav",
        "score": "0.5",
        "none": "",
        "tags": "x; y",
        "path": "p",
    }
    assert tables.render([], "json") == "[]"
    assert tables.render([]) == tables.render([], "csv") == ""


def test_unknown_format() -> None:
    with pytest.raises(InputError, match="unknown format 'xml': use one of table, csv, json, jsonl"):
        tables.render([], "xml")
