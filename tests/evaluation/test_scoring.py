"""Metrics of a run and its baselines: calibration, classes without training clips, and provenance."""

import io
import json
import re
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ser_ft.config.parser import parse
from ser_ft.data.prepare import open_prepared
from ser_ft.data.splits import read_split
from ser_ft.evaluation.calibration import fit_temperature
from ser_ft.evaluation.provenance import speakers_seen_in_training
from ser_ft.evaluation.run_folder import RunFolder
from ser_ft.models import read_model_config
from ser_ft.models.pretrained import fold_temperature
from ser_ft.pipeline import run
from ser_ft.utils.errors import InputError

SIX = ["neutral", "happy", "sad", "angry", "fear", "disgust"]
TINY = "--model.config_overrides={channels: [8], dropout: 0.0}"


@pytest.fixture(scope="module")
def cross_corpus_run(miniature_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A model trained on CREMA-D, which has neither calm nor surprise, and tested on all corpora."""
    out = tmp_path_factory.mktemp("cross") / "run"
    settings = ["--split.kind=cross-corpus", "--split.corpus=cremad", TINY, "--train.epochs=1"]
    with redirect_stdout(io.StringIO()) as printed:
        folder = run(parse([f"--data.prepared={miniature_folder}", f"--out={out}", *settings], "test"))
    (out.parent / "printed.txt").write_text(printed.getvalue())
    return folder


@pytest.fixture(scope="module")
def underconfident_run(miniature_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A model that is underconfident because its labels are smoothed."""
    out = tmp_path_factory.mktemp("underconfident") / "run"
    settings = ["--split.kind=kfold", "--split.folds=2", "--train.epochs=8", "--train.label_smoothing=0.6", TINY]
    return run(parse([f"--data.prepared={miniature_folder}", f"--out={out}", *settings], "test"), verbose=False)


def test_a_model_only_has_classes_with_training_clips(cross_corpus_run: RunFolder) -> None:
    assert cross_corpus_run.metrics["classes"] == SIX
    assert 0 < cross_corpus_run.environment["speed"]["real_time_factor"] < 10
    assert list(read_model_config(str(cross_corpus_run.model))["id2label"].values()) == SIX
    for folder in (cross_corpus_run, *cross_corpus_run.baselines):
        assert list(folder.predictions.columns[-6:]) == SIX
        assert np.allclose(folder.predictions[SIX].sum(axis=1), 1.0)
        assert set(folder.predictions["label"]) <= set(SIX)


def test_clips_of_classes_without_training_clips_are_excluded_counted_and_printed(
    cross_corpus_run: RunFolder, miniature_folder: Path
) -> None:
    table = open_prepared(miniature_folder)
    names = table.features["emotion"].names
    emotions = [names[number] for number in table["emotion"]]
    test = cross_corpus_run.metrics["parts"]["test"]
    assert test["excluded"] == {name: emotions.count(name) for name in ("calm", "surprise")}
    assert cross_corpus_run.metrics["parts"]["train"]["excluded"] == {}
    assert set(test["by_corpus"]) >= {"ravdess", "savee", "tess"}
    printed = (cross_corpus_run.path.parent / "printed.txt").read_text()
    assert re.search(r"^  test: .* calm", printed, re.MULTILINE)
    assert sum(test["support"].values()) == test["clips"] == len(cross_corpus_run.predictions.query("part == 'test'"))


def test_predictions_are_calibrated_on_validation(underconfident_run: RunFolder) -> None:
    classes = underconfident_run.metrics["classes"]
    for folder in (underconfident_run, *underconfident_run.baselines):
        calibration = folder.metrics["calibration"]
        validation = folder.predictions.query("part == 'validation'")
        assert calibration["clips"] == len(validation)
        labels = validation["label"].map(classes.index).to_numpy()
        temperature = fit_temperature(labels, validation[classes].to_numpy())
        assert temperature == pytest.approx(1.0, abs=1e-4) or calibration["temperature"] in (0.25, 20.0)
        nll_before = calibration["parts"]["validation"]["nll_before"]
        assert folder.metrics["parts"]["validation"]["nll"] <= nll_before + 1e-12
    assert underconfident_run.metrics["calibration"]["temperature"] < 0.9


def test_nothing_is_calibrated_without_validation(cross_corpus_run: RunFolder) -> None:
    assert "validation" not in cross_corpus_run.metrics["parts"]
    folders = (cross_corpus_run, *cross_corpus_run.baselines)
    assert [folder.metrics["calibration"] for folder in folders] == [None] * 4


@pytest.mark.parametrize("head", [nn.Linear(4, 3), nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 3))])
def test_a_folded_temperature_divides_the_logits(head: nn.Module) -> None:
    model = nn.Module()
    model.classifier = head
    inputs = torch.randn(5, 4)
    before = head(inputs).detach()
    fold_temperature(model, 2.5)
    assert torch.allclose(head(inputs), before / 2.5, atol=1e-6)


def test_speakers_of_the_first_training_are_known_after_a_second_one_and_a_move(
    cross_corpus_run: RunFolder, miniature_folder: Path, tmp_path: Path
) -> None:
    data = [f"--data.prepared={miniature_folder}", f"--out={tmp_path / 'second'}"]
    model = ["--train.epochs=1", f"--model.name={cross_corpus_run.model}", "--baselines=[]"]
    with pytest.raises(InputError, match="was trained on clips of"):
        run(parse([*data, *model, "--split.kind=cross-corpus", "--split.corpus=ravdess"], "test"), verbose=False)
    first_split = read_split(cross_corpus_run.split_file).speakers
    train = [name for name in first_split["test"] if name.startswith("ravdess")]
    (tmp_path / "split.json").write_text(json.dumps({"train": train, "test": ["tess-OAF", "savee-DC"]}))
    split = ["--split.kind=file", f"--split.file={tmp_path / 'split.json'}"]
    second = run(parse([*data, *model, *split], "test"), verbose=False)
    moved = second.path.rename(tmp_path / "elsewhere")
    assert speakers_seen_in_training(moved / "model") >= {*train, *first_split["train"]}
