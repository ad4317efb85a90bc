"""What a run says of its model: calibrated, and only of classes that the model learned."""

import json
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


@pytest.fixture(scope="module")
def crossed(miniature_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A model of CREMA-D alone, tested on all corpora; its clips know neither calm nor surprise."""
    given = [
        *(f"--data.prepared={miniature_folder}", f"--out={tmp_path_factory.mktemp('crossed') / 'run'}"),
        *("--split.kind=cross-corpus", "--split.corpus=cremad"),
        *("--model.config_overrides={channels: [8], dropout: 0.0}", "--train.epochs=3"),
    ]
    return run(parse(given, "test"), verbose=False)


@pytest.fixture(scope="module")
def modest(miniature_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A model that smoothed labels keep from being sure of anything."""
    given = [
        *(f"--data.prepared={miniature_folder}", f"--out={tmp_path_factory.mktemp('modest') / 'run'}"),
        *("--split.kind=kfold", "--split.folds=2", "--train.epochs=8", "--train.label_smoothing=0.6"),
        "--model.config_overrides={channels: [8], dropout: 0.0}",
    ]
    return run(parse(given, "test"), verbose=False)


def test_a_model_knows_the_classes_that_it_learned_and_no_others(crossed: RunFolder) -> None:
    assert crossed.metrics["classes"] == SIX
    assert list(read_model_config(str(crossed.model))["id2label"].values()) == SIX
    for one in (crossed, *crossed.baselines):
        assert list(one.predictions.columns[-6:]) == SIX
        assert np.allclose(one.predictions[SIX].sum(axis=1), 1.0)
        assert set(one.predictions["label"]) <= set(SIX)


def test_clips_of_classes_never_learned_are_counted_and_not_judged(crossed: RunFolder, miniature_folder: Path) -> None:
    table = open_prepared(miniature_folder)
    names = table.features["emotion"].names
    emotions = [names[place] for place in table["emotion"]]
    there = {name: emotions.count(name) for name in ("calm", "surprise")}
    test = crossed.metrics["parts"]["test"]
    assert test["excluded"] == there
    assert crossed.metrics["parts"]["train"]["excluded"] == {}
    assert set(test["by_corpus"]) >= {"ravdess", "savee", "tess"}
    assert sum(test["support"].values()) == test["clips"] == len(crossed.predictions.query("part == 'test'"))


def test_left_out_clips_are_told(miniature_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [
        *(f"--data.prepared={miniature_folder}", f"--out={tmp_path / 'run'}", "--split.kind=cross-corpus"),
        *("--split.corpus=cremad", "--train.epochs=1", "--model.config_overrides={channels: [4]}", "--baselines=[]"),
    ]
    run(parse(given, "test"))
    said = capsys.readouterr().out
    assert "test: not judged, for no training clip is of their class:" in said
    assert " calm" in said


def test_answers_are_calibrated_on_validation(modest: RunFolder) -> None:
    classes = modest.metrics["classes"]
    for one in (modest, *modest.baselines):
        fitted = one.metrics["calibration"]
        validation = one.predictions.query("part == 'validation'")
        assert fitted["clips"] == len(validation)
        labels = validation["label"].map(classes.index).to_numpy()
        again = fit_temperature(labels, validation[classes].to_numpy())
        assert again == pytest.approx(1.0, abs=1e-4) or fitted["temperature"] in (0.25, 20.0)
        assert one.metrics["parts"]["validation"]["nll"] <= fitted["parts"]["validation"]["nll_before"] + 1e-12
    assert modest.metrics["calibration"]["temperature"] < 0.9


def test_without_validation_nothing_is_fitted(crossed: RunFolder) -> None:
    assert "validation" not in crossed.metrics["parts"]
    assert [one.metrics["calibration"] for one in (crossed, *crossed.baselines)] == [None] * 4


@pytest.mark.parametrize("head", [nn.Linear(4, 3), nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 3))])
def test_a_folded_temperature_divides_the_logits(head: nn.Module) -> None:
    model = nn.Module()
    model.classifier = head
    inputs = torch.randn(5, 4)
    before = head(inputs).detach()
    fold_temperature(model, 2.5)
    assert torch.allclose(head(inputs), before / 2.5, atol=1e-6)


def test_a_run_says_how_fast_its_model_answers(crossed: RunFolder) -> None:
    speed = crossed.environment["speed"]
    assert 0 < speed["real_time_factor"] < 10
    assert speed["clips"] == 2


def test_whom_the_first_model_heard_is_known_wherever_the_second_goes(
    crossed: RunFolder, miniature_folder: Path, tmp_path: Path
) -> None:
    given = [
        *(f"--data.prepared={miniature_folder}", f"--out={tmp_path / 'second'}", "--split.kind=cross-corpus"),
        *("--split.corpus=ravdess", "--train.epochs=1", f"--model.name={crossed.model}", "--baselines=[]"),
    ]
    with pytest.raises(InputError, match="was trained on clips of"):
        run(parse(given, "test"), verbose=False)
    test = read_split(crossed.split_file).speakers["test"]
    ours = {"train": [name for name in test if name.startswith("ravdess")], "test": ["tess-OAF", "savee-DC"]}
    (tmp_path / "split.json").write_text(json.dumps(ours))
    kept = [one for one in given if not one.startswith("--split")]
    second = run(parse([*kept, "--split.kind=file", f"--split.file={tmp_path / 'split.json'}"], "test"), verbose=False)
    moved = tmp_path / "elsewhere"
    second.path.rename(moved)
    heard = speakers_seen_in_training(moved / "model")
    assert heard >= {*ours["train"], *read_split(crossed.split_file).speakers["train"]}
