"""Linear probes: the best layer is found, on unseen speakers, and hidden states are computed only once."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

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
    """Two encoders. The first one's head receives the last layer's output, the other one's a normalized copy of it."""
    folder = tmp_path_factory.mktemp("backbones")
    return [str(write_tiny_backbone(name, folder / name)) for name in ("wav2vec2", "wavlm-large")]


@pytest.fixture(scope="module", autouse=True)
def _empty_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SER_FT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def split_file(miniature_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    split = make_split(open_prepared(miniature_folder), "kfold", fold=0, folds=4, validation=0.0)
    file = tmp_path_factory.mktemp("split") / "split.json"
    file.write_text(json.dumps(split.to_dict()))
    return file


class FakeStates:
    """Cached states of random numbers, in which one layer encodes the class."""

    def __init__(self, labels: Sequence[int], best_layer: int) -> None:
        random = np.random.default_rng(0)
        self.values = random.normal(size=(len(labels), LAYERS + 2, SIZE)).astype(np.float32)
        self.values[np.arange(len(labels)), best_layer, list(labels)] += 8
        self.lengths = np.full(len(labels), LAYERS + 2)

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[row]


UseFakeStates = Callable[[int], FakeStates]


@pytest.fixture
def use_fake_states(monkeypatch: pytest.MonkeyPatch, miniature_folder: Path) -> UseFakeStates:
    labels = open_prepared(miniature_folder)["emotion"]

    def use(best_layer: int) -> FakeStates:
        states = FakeStates(labels, best_layer)
        monkeypatch.setattr(probe, "_pooled_states", lambda *_: states)
        return states

    return use


def relabel(folder: Path, speakers: Sequence[str], out: Path) -> Path:
    """Copy a prepared table, with wrong labels for some speakers."""
    table = open_prepared(folder)
    count = len(table.features["emotion"].names)
    clips = zip(table["emotion"], table["speaker"], strict=True)
    labels = [(label + 1) % count if speaker in speakers else label for label, speaker in clips]
    relabeled = table.remove_columns("emotion").add_column("emotion", labels).cast(table.features)
    relabeled.info.description = table.info.description
    relabeled.save_to_disk(out)
    shutil.copy(folder / "corpora.json", out)
    return out


def test_the_command_prints_each_layer_once(
    backbones: list[str], miniature_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figure = tmp_path / "new" / "layers.png"
    assert main(["probe", *backbones, "--data", str(miniature_folder), "--figure", str(figure)]) == 0
    printed = capsys.readouterr().out
    plain, normalized = ([line.split() for line in printed.splitlines() if line.startswith(name)] for name in backbones)
    layers = [["0", "input"], *([str(layer), "output"] for layer in range(1, LAYERS + 1))]
    assert [words[1:3] for words in plain] == layers
    assert [words[1:3] for words in normalized] == [*layers, [str(LAYERS), "head"]]
    for lines in (plain, normalized):
        assert [words[-1] for words in lines].count("*") == 1
        uars = [float(words[3]) for words in lines]
        assert next(words for words in lines if words[-1] == "*")[3] == f"{max(uars):.3f}"
    assert "note: this choice used the clips of all speakers" in printed
    assert "note: synthetic voices" in printed
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_a_second_probe_gives_the_same_result_without_running_the_encoder(
    backbones: list[str], miniature_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["probe", backbones[0], "--data", str(miniature_folder), "--pooling", "mean+std", "--format"]
    assert main([*command, "json"]) == 0
    out, err = capsys.readouterr()
    assert "used the clips of all speakers" in err
    rows = json.loads(out)
    assert [row["layer"] for row in rows] == list(range(LAYERS + 1))
    for row in rows:
        assert row["backbone"] == backbones[0]
        assert len(row["folds"]) == 5
        assert row["uar"] == pytest.approx(np.mean(row["folds"]))
        assert row["std"] == pytest.approx(np.std(row["folds"], ddof=1))
    monkeypatch.setattr(hidden_states, "_compute_batch", None)
    assert main([*command, "jsonl"]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == rows
    assert main([*command, "csv"]) == 0
    csv_rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [float(row["uar"]) for row in csv_rows] == [row["uar"] for row in rows]
    assert [[float(fold) for fold in row["folds"].split("; ")] for row in csv_rows] == [row["folds"] for row in rows]


@pytest.mark.parametrize(("best", "state"), [(0, "input"), (2, "output"), (LAYERS + 1, "head")])
def test_the_layer_that_encodes_the_class_is_found(
    best: int, state: str, backbones: list[str], miniature_folder: Path, use_fake_states: UseFakeStates
) -> None:
    use_fake_states(best)
    result = probe.probe(backbones[:1], miniature_folder, verbose=False)
    layers = result["layers"]
    assert [index for index, row in enumerate(layers) if row["best"]] == [best]
    assert layers[best]["uar"] > 0.97
    assert layers[best]["state"] == state
    # Slightly above one in eight: classes that a clip's corpus does not contain are never predicted.
    assert all(row["uar"] < 0.25 for index, row in enumerate(layers) if index != best)
    assert result["chance"] == 0.125


def test_test_speakers_of_a_split_do_not_affect_the_probe(
    backbones: list[str],
    miniature_folder: Path,
    split_file: Path,
    use_fake_states: UseFakeStates,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    test_speakers = json.loads(split_file.read_text())["parts"]["test"]["speakers"]
    wrong_labels = relabel(miniature_folder, test_speakers, tmp_path / "wrong")
    states = use_fake_states(3)

    def probe_output(data: Path, *options: str) -> str:
        assert main(["probe", backbones[0], "--folds", "3", "--format", "json", "--data", str(data), *options]) == 0
        return capsys.readouterr().out

    before = probe_output(miniature_folder, "--split", str(split_file))
    rows = json.loads(before)
    assert (rows[0]["split"], rows[0]["speakers"]) == ("kfold fold 0", 8 - len(test_speakers))
    assert probe_output(wrong_labels) != probe_output(miniature_folder), "without a split, all clips count"
    states.values[[speaker in test_speakers for speaker in open_prepared(miniature_folder)["speaker"]]] = np.nan
    assert probe_output(wrong_labels, "--split", str(split_file)) == before


def test_the_fit_agrees_with_logistic_regression_of_sklearn() -> None:
    from sklearn.linear_model import LogisticRegression

    random = np.random.default_rng(0)
    labels = random.choice(4, size=200, p=(0.4, 0.3, 0.2, 0.1))
    values = random.normal(size=(200, 20)).astype(np.float32)
    values[:, :4] += np.eye(4)[labels]
    reference = LogisticRegression(C=10 / 20, class_weight="balanced", tol=1e-8, max_iter=2000).fit(values, labels)
    weights = probe.fit_logistic_regression(values, labels, np.ones((200, 4), dtype=bool))
    logits = values @ weights[:-1] + weights[-1]
    expected = reference.decision_function(values)
    np.testing.assert_allclose(logits - logits.mean(axis=1, keepdims=True), expected, atol=0.05)


def test_groups_of_clips_have_the_same_weight_in_each_class() -> None:
    from sklearn.linear_model import LogisticRegression

    random = np.random.default_rng(0)
    groups = np.repeat([0, 1], (150, 50))
    labels = np.where(groups == 0, random.choice(3, size=200), random.choice(2, size=200))
    values = random.normal(size=(200, 20)).astype(np.float32)
    values[:, :3] += np.eye(3)[labels] * (1 + groups[:, None])
    weights = np.array([200 / 3 / (2 if label < 2 else 1) for label in labels])
    weights /= [np.sum((labels == label) & (groups == group)) for label, group in zip(labels, groups, strict=True)]
    reference = LogisticRegression(C=10 / 20, tol=1e-8, max_iter=2000).fit(values, labels, sample_weight=weights)
    fitted = probe.fit_logistic_regression(values, labels, np.ones((200, 3), dtype=bool), groups=groups)
    logits = values @ fitted[:-1] + fitted[-1]
    expected = reference.decision_function(values)
    np.testing.assert_allclose(logits - logits.mean(axis=1, keepdims=True), expected, atol=0.05)


def test_clips_do_not_count_against_classes_that_their_corpus_lacks() -> None:
    """The sound of a corpus that lacks a class is not evidence against the class."""
    random = np.random.default_rng(0)
    corpus, labels = np.repeat([0, 1], 200), np.tile([0, 1], 200)
    labels[:200] = np.tile([0, 2], 100)  # the first corpus contains 0 and 2, the second 0 and 1
    values = random.normal(size=(400, 3)).astype(np.float32)
    values[:, 0] = 2 * corpus - 1
    values[labels == 2, 1] += 3
    allowed = np.ones((400, 3), dtype=bool)
    allowed[corpus == 1, 2] = False
    masked, unmasked = (
        probe.fit_logistic_regression(values, labels, mask)[0, 2] for mask in (allowed, np.ones_like(allowed))
    )
    assert abs(masked) < 0.5 < abs(unmasked)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{backbone}", "--data", "{folder}/none"], "no prepared table"),
        (["{folder}/none", "--data", "{data}"], "{folder}/none"),
        (["{folder}", "--data", "{data}"], "{folder}"),
        (["mfcc-cnn", "--data", "{data}"], "mfcc-cnn: is not a speech encoder"),
        (["{backbone}", "{backbone}", "--data", "{data}"], "is given twice"),
        (["{backbone}", "--data", "{data}", "--folds", "9"], "9 folds by speaker need 9 speakers or more"),
        (["{backbone}", "--data", "{data}", "--folds", "7", "--split", "{split}"], "the training part of"),
        (["{backbone}", "--data", "{data}", "--folds", "1"], "--folds must be 2 or more"),
        (["{backbone}", "--data", "{data}", "--seed", "-1"], "--seed must be"),
        (["{backbone}", "--data", "{data}", "--pooling", "max"], "--pooling must be one of mean, mean+std"),
        (["{backbone}", "--data", "{data}", "--precision", "fp8"], "--precision must be one of"),
        (["{backbone}", "--data", "{data}", "--format", "xml"], "--format"),
        (["{backbone}", "--data", "{data}", "--split", "{folder}/none.json"], "none.json"),
        (["{backbone}", "--data", "{data}", "--figure", "{folder}/layers.pdf"], "must end in .png"),
        (["{backbone}", "--data", "{data}", "--figure", "{split}/layers.png"], "is not a folder"),
        (["--data", "{data}"], "BACKBONE"),
    ],
)
def test_wrong_input_is_refused_in_one_line_before_any_work(
    arguments: list[str],
    message: str,
    backbones: list[str],
    miniature_folder: Path,
    split_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(probe, "_pooled_states", None)
    values = {"backbone": backbones[0], "data": miniature_folder, "folder": tmp_path, "split": split_file}
    assert main(["probe", *(word.format(**values) for word in arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message.format(**values) in err
    assert err.count("\n") == 1


def test_infinite_states_are_refused(
    backbones: list[str], miniature_folder: Path, use_fake_states: UseFakeStates
) -> None:
    use_fake_states(1).values[5, 2, 0] = np.inf
    with pytest.raises(probe.InputError, match="layer 2 gives infinite values"):
        probe.probe(backbones[:1], miniature_folder, verbose=False)


def test_a_feature_extractor_in_torch_does_not_run_in_half_precision(tmp_path: Path, miniature_folder: Path) -> None:
    backbone, data = write_tiny_backbone("ast", tmp_path / "ast"), tmp_path / "data"
    table = open_prepared(miniature_folder)
    table.select(range(0, len(table), 8)).save_to_disk(data)
    shutil.copy(miniature_folder / "corpora.json", data)
    assert probe.probe([str(backbone)], data, folds=2, precision="bf16", verbose=False)["layers"]
