"""The probe names the layer that holds the emotion, on speakers that were not heard, and computes states once."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ser_ft.cli import main
from ser_ft.data.prepare import open_prepared
from ser_ft.data.splits import make_split
from ser_ft.dataloading import hidden_states
from ser_ft.evaluation import probe
from tests.helpers.tiny_encoders import write_tiny_backbone

LAYERS, SIZE = 4, 12


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two encoders: of the first, the head is given what leaves the last layer; of the other, a normalised copy."""
    home = tmp_path_factory.mktemp("backbones")
    return [str(write_tiny_backbone(name, home / name)) for name in ("wav2vec2", "wavlm-large")]


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SER_FT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def split_file(miniature_folder: Path, tmp_path: Path) -> Path:
    made = make_split(open_prepared(miniature_folder), "kfold", fold=0, folds=4, validation=0.0)
    file = tmp_path / "split.json"
    file.write_text(json.dumps(made.content()))
    return file


class FakeStates:
    """States as a cache holds them: random numbers, of which one layer's say the class."""

    def __init__(self, labels: Sequence[int], planted: int) -> None:
        random = np.random.default_rng(0)
        self.values = random.normal(size=(len(labels), LAYERS + 2, SIZE)).astype(np.float32)
        self.values[np.arange(len(labels)), planted, list(labels)] += 8
        self.lengths = np.full(len(labels), LAYERS + 2)

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[row]


Plant = Callable[[int], FakeStates]


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch, miniature_folder: Path) -> Plant:
    """Put fake states, in which a layer says the class, in place of the encoder's."""
    labels = open_prepared(miniature_folder)["emotion"]

    def put(planted: int) -> FakeStates:
        fake = FakeStates(labels, planted)
        monkeypatch.setattr(probe, "_pooled_states", lambda *_: fake)
        return fake

    return put


def relabelled(folder: Path, speakers: Sequence[str], out: Path) -> Path:
    """Copy a prepared table, with wrong labels on the clips of some speakers."""
    table = open_prepared(folder)
    count = len(table.features["emotion"].names)
    own = zip(table["emotion"], table["speaker"], strict=True)
    labels = [(label + 1) % count if speaker in speakers else label for label, speaker in own]
    features = table.features
    fresh = table.remove_columns("emotion").add_column("emotion", labels).cast(features)
    fresh.info.description = table.info.description
    fresh.save_to_disk(out)
    shutil.copy(folder / "corpora.json", out)
    return out


def test_each_layer_is_printed_once(
    backbones: list[str], miniature_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figure = tmp_path / "new" / "layers.png"
    assert main(["probe", *backbones, "--data", str(miniature_folder), "--figure", str(figure)]) == 0
    printed = capsys.readouterr().out
    plain, normalised = ([line.split() for line in printed.splitlines() if line.startswith(name)] for name in backbones)
    hidden_states = [["0", "input"], *([str(layer), "output"] for layer in range(1, LAYERS + 1))]
    assert [words[1:3] for words in plain] == hidden_states
    assert [words[1:3] for words in normalised] == [*hidden_states, [str(LAYERS), "head"]]
    for lines in (plain, normalised):
        assert [words[-1] for words in lines].count("*") == 1
        uars = [float(words[3]) for words in lines]
        assert next(words for words in lines if words[-1] == "*")[3] == f"{max(uars):.3f}"
    assert "note: what is chosen here has seen all speakers" in printed
    assert "note: synthetic voices" in printed
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_a_second_run_is_the_same_and_no_clip_goes_through_the_encoder(
    backbones: list[str], miniature_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["probe", backbones[0], "--data", str(miniature_folder), "--pooling", "mean+std", "--format"]
    assert main([*given, "json"]) == 0
    out, err = capsys.readouterr()
    assert "has seen all speakers" in err
    rows = json.loads(out)
    assert [row["layer"] for row in rows] == list(range(LAYERS + 1))
    for row in rows:
        assert row["backbone"] == backbones[0]
        assert len(row["folds"]) == 5
        assert row["uar"] == pytest.approx(np.mean(row["folds"]))
        assert row["std"] == pytest.approx(np.std(row["folds"], ddof=1))
    monkeypatch.setattr(hidden_states, "_take", None)
    assert main([*given, "json"]) == 0
    assert capsys.readouterr().out == out
    assert main([*given, "jsonl"]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == rows
    assert main([*given, "csv"]) == 0
    back = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [float(row["uar"]) for row in back] == [row["uar"] for row in rows]
    assert [[float(fold) for fold in row["folds"].split("; ")] for row in back] == [row["folds"] for row in rows]


@pytest.mark.parametrize("planted", [0, 2, LAYERS + 1])
def test_the_layer_that_says_the_class_is_found(
    planted: int, backbones: list[str], miniature_folder: Path, plant: Plant
) -> None:
    plant(planted)
    found = probe.probe(backbones[:1], miniature_folder, verbose=False)
    layers = found["layers"]
    assert [place for place, row in enumerate(layers) if row["best"]] == [planted]
    assert layers[planted]["uar"] > 0.97
    assert layers[planted]["state"] == {0: "input", 2: "output", LAYERS + 1: "head"}[planted]
    # Chance is a little over one in eight: a corpus that lacks a class is not asked for it.
    assert all(row["uar"] < 0.25 for place, row in enumerate(layers) if place != planted)
    assert found["chance"] == 0.125


def test_held_back_speakers_are_not_looked_at(
    backbones: list[str],
    miniature_folder: Path,
    split_file: Path,
    plant: Plant,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    held = json.loads(split_file.read_text())["parts"]["test"]["speakers"]
    wrong = relabelled(miniature_folder, held, tmp_path / "wrong")
    fake = plant(3)
    given = ["probe", backbones[0], "--folds", "3", "--format", "json", "--data"]

    def printed(data: Path, *more: str) -> str:
        assert main([*given, str(data), *more]) == 0
        return capsys.readouterr().out

    before = printed(miniature_folder, "--split", str(split_file))
    rows = json.loads(before)
    assert (rows[0]["split"], rows[0]["speakers"]) == ("kfold fold 0", 8 - len(held))
    assert printed(wrong) != printed(miniature_folder), "without a split, all clips count"
    fake.values[[speaker in held for speaker in open_prepared(miniature_folder)["speaker"]]] = np.nan
    assert printed(wrong, "--split", str(split_file)) == before


def test_the_fit_is_a_logistic_regression() -> None:
    from sklearn.linear_model import LogisticRegression

    random = np.random.default_rng(0)
    labels = random.choice(4, size=200, p=(0.4, 0.3, 0.2, 0.1))
    values = random.normal(size=(200, 20)).astype(np.float32)
    values[:, :4] += np.eye(4)[labels]
    own = LogisticRegression(C=10 / 20, class_weight="balanced", tol=1e-8, max_iter=2000).fit(values, labels)
    weights = probe.fit_logistic_regression(values, labels, np.ones((200, 4), dtype=bool))
    logits = values @ weights[:-1] + weights[-1]
    np.testing.assert_allclose(logits - logits.mean(axis=1, keepdims=True), own.decision_function(values), atol=0.05)


def test_a_clip_is_not_asked_for_what_its_corpus_cannot_hold() -> None:
    """A corpus without a class, told apart by its sound, does not teach that its sound means "never that class"."""
    random = np.random.default_rng(0)
    corpus, labels = np.repeat([0, 1], 200), np.tile([0, 1], 200)
    labels[:200] = np.tile([0, 2], 100)  # the second corpus holds 0 and 1, the first 0 and 2
    values = random.normal(size=(400, 3)).astype(np.float32)
    values[:, 0] = 2 * corpus - 1
    values[labels == 2, 1] += 3
    allowed = np.ones((400, 3), dtype=bool)
    allowed[corpus == 1, 2] = False
    slope = [probe.fit_logistic_regression(values, labels, mask)[0, 2] for mask in (allowed, np.ones_like(allowed))]
    assert abs(slope[0]) < 0.5 < abs(slope[1])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["{backbone}", "--data", "{here}/none"], "no prepared table"),
        (["{here}/none", "--data", "{data}"], "not a folder, and no such model"),
        (["{here}", "--data", "{data}"], "cannot load a speech model"),
        (["mfcc-cnn", "--data", "{data}"], "mfcc-cnn: is no speech encoder"),
        (["{backbone}", "{backbone}", "--data", "{data}"], "is given twice"),
        (["{backbone}", "--data", "{data}", "--folds", "9"], "9 folds by speaker need 9 speakers or more"),
        (["{backbone}", "--data", "{data}", "--folds", "7", "--split", "{split}"], "the training part of"),
        (["{backbone}", "--data", "{data}", "--folds", "1"], "--folds must be 2 or more"),
        (["{backbone}", "--data", "{data}", "--seed", "-1"], "--seed must be"),
        (["{backbone}", "--data", "{data}", "--pooling", "max"], "--pooling is one of mean, mean+std"),
        (["{backbone}", "--data", "{data}", "--precision", "fp8"], "--precision is one of"),
        (["{backbone}", "--data", "{data}", "--format", "xml"], "--format"),
        (["{backbone}", "--data", "{data}", "--split", "{here}/none.json"], "no split file"),
        (["{backbone}", "--data", "{data}", "--figure", "{here}/layers.pdf"], "the name of a figure must end in .png"),
        (["{backbone}", "--data", "{data}", "--figure", "{split}/layers.png"], "is not a folder"),
        (["--data", "{data}"], "BACKBONE"),
    ],
)
def test_wrong_input_is_one_line_before_any_work(
    given: list[str],
    said: str,
    backbones: list[str],
    miniature_folder: Path,
    split_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(probe, "_pooled_states", None)
    places = {"backbone": backbones[0], "data": miniature_folder, "here": tmp_path, "split": split_file}
    assert main(["probe", *(word.format(**places) for word in given)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1


def test_states_beyond_all_bounds_are_refused(backbones: list[str], miniature_folder: Path, plant: Plant) -> None:
    plant(1).values[5, 2, 0] = np.inf
    with pytest.raises(probe.InputError, match="layer 2 gives infinite values"):
        probe.probe(backbones[:1], miniature_folder, verbose=False)


def test_an_extractor_of_torch_is_not_in_half_precision(tmp_path: Path, miniature_folder: Path) -> None:
    folder = write_tiny_backbone("ast", tmp_path / "ast")
    assert probe.probe([str(folder)], miniature_folder, precision="bf16", verbose=False)["layers"]
