"""A run from a prepared table to a report: repeatable, resumable to the bit, and consistent with its files."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ser_ft import audio
from ser_ft.cli import train as main
from ser_ft.config.parser import parse
from ser_ft.data.prepare import open_prepared
from ser_ft.evaluation.predict import metrics_per_part
from ser_ft.evaluation.run_folder import RunFolder
from ser_ft.pipeline import run
from ser_ft.training.trainer import Trainer
from ser_ft.utils.errors import InputError
from tests.helpers.training import RECIPES, assert_same_run, interrupted_at, kill_after_checkpoint, saved_weights, start

SETTINGS = [
    "--split.kind=kfold",
    "--split.folds=2",
    "--model.config_overrides={channels: [8, 8], dropout: 0.3}",
    "--train.epochs=4",
    "--train.batch_size=4",
    "--train.early_stopping_patience=null",
    "--train.gradient_accumulation_steps=2",
    "--train.save_steps=3",
]


def arguments(table: Path, out: Path, *more: str) -> list[str]:
    return [f"--data.prepared={table}", f"--out={out}", *SETTINGS, *more]


def train(table: Path, out: Path, *more: str) -> RunFolder:
    return run(parse(arguments(table, out, *more), "test"), verbose=False)


@pytest.fixture(scope="module")
def finished(miniature_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run with all baselines. Read-only."""
    return train(miniature_folder, tmp_path_factory.mktemp("run") / "whole")


def test_a_run_folder_holds_what_later_steps_need(finished: RunFolder, miniature_folder: Path) -> None:
    names = {path.name for path in finished.path.iterdir()}
    assert names >= {"config.yaml", "environment.json", "split.json", "history.jsonl", "checkpoints", "model"}
    assert names >= {"figures", "predictions.parquet", "metrics.json", "report.html", "baselines"}
    table, predictions = open_prepared(miniature_folder), finished.predictions
    assert sorted(predictions["id"]) == sorted(table["id"])
    classes = table.features["emotion"].names
    assert np.allclose(predictions[classes].sum(axis=1), 1.0)
    cremad = predictions[predictions["corpus"] == "cremad"]
    assert (cremad[["calm", "surprise"]] == 0).all(axis=None), "CREMA-D contains neither calm nor surprise"
    assert (predictions[predictions["corpus"] == "ravdess"][classes] > 0).all(axis=None)


def test_metrics_are_those_of_the_predictions(finished: RunFolder) -> None:
    assert finished.metrics["parts"] == metrics_per_part(finished.predictions, finished.metrics["classes"])
    split = json.loads(finished.split_file.read_text())
    for part in ("train", "validation", "test"):
        assert list(finished.predictions.query("part == @part")["id"]) == split["parts"][part]["clips"]


def test_the_weights_of_the_best_epoch_are_kept(finished: RunFolder) -> None:
    best = max(line["validation_uar"] for line in finished.history)
    assert finished.metrics["parts"]["validation"]["uar"] == pytest.approx(best)


def test_the_saved_model_gives_the_predictions(finished: RunFolder, miniature_folder: Path) -> None:
    from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

    model = AutoModelForAudioClassification.from_pretrained(finished.model).eval()
    extractor = AutoFeatureExtractor.from_pretrained(finished.model)
    row = next(row for row in open_prepared(miniature_folder) if row["corpus"] == "ravdess")
    inputs = extractor(audio.from_wav(row["audio"]["bytes"]), sampling_rate=16_000, return_tensors="pt")
    probabilities = model(**inputs).logits.softmax(dim=1)[0].detach().numpy()
    expected = finished.predictions.set_index("id").loc[row["id"], list(model.config.id2label.values())]
    assert np.allclose(probabilities, expected.to_numpy(dtype=float), atol=1e-4)


def test_the_same_seed_gives_the_same_run_and_another_seed_another(
    finished: RunFolder, miniature_folder: Path, tmp_path: Path
) -> None:
    assert_same_run(finished, train(miniature_folder, tmp_path / "again", "--baselines=[]"))
    other = train(miniature_folder, tmp_path / "other", "--seed=1", "--train.max_steps=2", "--baselines=[]")
    weights = saved_weights(finished)
    assert any(not torch.equal(weights[name], value) for name, value in saved_weights(other).items())


@pytest.mark.slow
def test_a_killed_run_ends_the_same(finished: RunFolder, miniature_folder: Path, tmp_path: Path) -> None:
    command = arguments(miniature_folder, tmp_path / "killed")
    kill_after_checkpoint(start("finetune", command), tmp_path / "killed", 3)
    assert not (tmp_path / "killed" / "metrics.json").exists(), "the run ended before it was killed"
    assert main([*command, "--resume"]) == 0
    resumed = RunFolder(tmp_path / "killed")
    assert_same_run(finished, resumed)
    assert len(resumed.history) == 4


@pytest.mark.parametrize("epoch", [1, 4])
def test_a_run_interrupted_in_its_first_or_last_epoch_ends_the_same(
    finished: RunFolder, miniature_folder: Path, tmp_path: Path, epoch: int
) -> None:
    step = finished.history[epoch - 1]["step"] - 1
    with interrupted_at(step):
        train(miniature_folder, tmp_path / "run", "--baselines=[]")
    assert_same_run(finished, train(miniature_folder, tmp_path / "run", "--baselines=[]", "--resume"))


def test_max_steps_ends_a_run_early_and_completely(miniature_folder: Path, tmp_path: Path) -> None:
    folder = train(miniature_folder, tmp_path / "run", "--train.max_steps=2", "--baselines=[]")
    assert [(line["epoch"], line["step"]) for line in folder.history] == [(1, 2)]
    assert folder.history[0]["learning_rate"] == pytest.approx(0.0, abs=1e-9), "the schedule ends with the last step"
    assert folder.metrics["parts"]["test"]["clips"] > 0
    before = folder.metrics_file.stat().st_mtime_ns
    train(miniature_folder, tmp_path / "run", "--train.max_steps=2", "--baselines=[]", "--resume")
    assert folder.metrics_file.stat().st_mtime_ns == before


def test_resuming_a_finished_run_changes_nothing(finished: RunFolder, miniature_folder: Path) -> None:
    before = finished.metrics_file.stat().st_mtime_ns
    train(miniature_folder, finished.path, "--resume")
    assert finished.metrics_file.stat().st_mtime_ns == before


def test_a_folder_with_other_content_is_refused_and_kept(
    finished: RunFolder, miniature_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="a run already exists"):
        train(miniature_folder, finished.path)
    with pytest.raises(InputError, match="another recipe"):
        train(miniature_folder, finished.path, "--resume", "--train.learning_rate=0.1")
    for name, content in (("thesis.txt", "dear"), ("config.yaml", "site: my blog")):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).write_text(content)
        for flag in ("--overwrite", "--resume"):
            with pytest.raises(InputError, match="not a run"):
                train(miniature_folder, folder, flag)
        assert (folder / name).read_text() == content


def test_a_run_on_data_that_changed_is_not_resumed(finished: RunFolder, miniature_folder: Path, tmp_path: Path) -> None:
    """With another table the split would differ, and speakers that were trained on could be tested on."""
    started = Path(shutil.copytree(finished.path, tmp_path / "started"))
    (started / "metrics.json").unlink()
    split = json.loads((started / "split.json").read_text())
    split["parts"]["test"]["clips"].pop()
    (started / "split.json").write_text(json.dumps(split))
    with pytest.raises(InputError, match="the data, and so its split, changed"):
        train(miniature_folder, started, "--resume")


def test_wrong_input_is_one_line_and_nothing_is_written(
    miniature_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "never"
    wrong = {
        "--data.prepared=/nowhere": "no prepared table",
        "--model.name=resnet": "unknown model",
        "--model.config_overrides={layers: 3}": "no setting 'layers'",
        "--split.kind=emobox-ravdess": "emobox-ravdess",
        "--split.folds=50": "needs 50 speakers",
        "--split.fold=7": "split.fold is 7",
        "--train.report_to=[nonsense]": "unknown tracker",
        "--baselines=[oracle]": "baselines must be one of",
        "--seed=-1": "seed must be a whole number",
        "--data.labels=four": "data.labels has no effect together with data.prepared",
    }
    for setting, message in wrong.items():
        assert main(arguments(miniature_folder, out, setting)) == 2, setting
        error = capsys.readouterr().err.strip()
        assert message in error.splitlines()[-1], setting
        assert "Traceback" not in error
        assert not out.exists(), setting


@pytest.mark.parametrize(("step", "value"), [(0, None), (5, np.nan), (4, 3e38)], ids=["loss", "weights", "validation"])
def test_a_training_that_diverges_stops_in_one_line_and_keeps_its_checkpoints(
    step: int,
    value: float | None,
    miniature_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Too high a learning rate, weights that are lost in a step, and finite weights whose predictions are not."""
    take_step, more = Trainer._step, ["--baselines=[]"]
    if value is None:
        more += ["--train.learning_rate=1e30", "--train.max_grad_norm=1e30"]

    def spoil(self: Trainer, batches: list) -> None:
        take_step(self, batches)
        if value is not None and self.state.step >= step:
            with torch.no_grad():
                self.trainable.model.classifier.weight.fill_(value)

    monkeypatch.setattr(Trainer, "_step", spoil)
    assert main(arguments(miniature_folder, tmp_path / "run", *more)) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(r"training diverged: after step \d+, .*: lower train\.learning_rate \(.*keeps its", error), error
    checkpoints = list((tmp_path / "run" / "checkpoints").glob("step-*/trained.safetensors"))
    assert len(checkpoints) == (0 if value is None else 1 if step == 5 else len(checkpoints))
    for file in checkpoints:
        assert all(torch.isfinite(weights).all() for weights in load_file(file).values()), file


def test_without_validation_the_last_weights_are_kept(miniature_folder: Path, tmp_path: Path) -> None:
    more = ("--split.validation=0", "--train.early_stopping_patience=1", "--train.epochs=2", "--baselines=[]")
    folder = train(miniature_folder, tmp_path / "run", *more)
    assert len(folder.history) == 2
    assert "validation" not in folder.metrics["parts"]
    assert folder.report_file.is_file()


def test_a_leaking_split_is_marked_everywhere(
    miniature_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(arguments(miniature_folder, out, "--split.kind=random", "--train.max_steps=1")) == 0
    output = capsys.readouterr().out
    assert output.count("LEAKING") >= 1
    assert "leaking" in output.rsplit("run:", 1)[0].lower().split("accuracy")[-1], "also in the table of results"
    assert RunFolder(out).metrics["split"]["leaking"] is True
    assert "leak" in RunFolder(out).report_file.read_text().lower()


@pytest.mark.parametrize(
    "setting",
    [
        "--train.class_weights=true",
        "--train.balanced=true",
        "--train.mixed_precision=bf16",
        "--train.dataloader_num_workers=1",
    ],
)
def test_training_options_work(miniature_folder: Path, tmp_path: Path, setting: str) -> None:
    folder = train(miniature_folder, tmp_path / "run", setting, "--train.max_steps=2", "--baselines=[]")
    assert np.isfinite(folder.history[0]["train_loss"])


def test_priors_of_classes_change_training_only(miniature_folder: Path, tmp_path: Path) -> None:
    more = ("--train.learning_rate=0", "--train.max_steps=1", "--baselines=[]")
    plain = train(miniature_folder, tmp_path / "plain", *more)
    adjusted = train(miniature_folder, tmp_path / "adjusted", *more, "--train.loss=logit-adjusted")
    assert adjusted.history[0]["train_loss"] != plain.history[0]["train_loss"]
    assert adjusted.history[0]["validation_loss"] == plain.history[0]["validation_loss"]
    assert adjusted.predictions.equals(plain.predictions)


def test_tensorboard_gets_the_history(miniature_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    more = ("--train.report_to=[tensorboard]", "--train.epochs=2", "--baselines=[]")
    folder = train(miniature_folder, tmp_path / "run", *more)
    events = EventAccumulator(str(next(folder.path.rglob("events.out*")).parent))
    events.Reload()
    logged = [event.value for event in events.Scalars("validation_uar")]
    assert logged == pytest.approx([line["validation_uar"] for line in folder.history])


@pytest.mark.slow
def test_trackio_gets_the_history(miniature_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trackio", reason="needs trackio: pip install -e .[tracking]")
    import sqlite3

    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    more = ("--train.report_to=[trackio]", "--train.max_steps=1", "--baselines=[]")
    command = [sys.executable, str(RECIPES / "finetune.py"), *arguments(miniature_folder, tmp_path / "run", *more)]
    subprocess.run(command, check=True, capture_output=True)
    with sqlite3.connect(tmp_path / "trackio" / "ser_ft.db") as database:
        (logged,) = database.execute("select metrics from metrics").fetchone()
    assert json.loads(logged)["validation_uar"] == RunFolder(tmp_path / "run").history[0]["validation_uar"]


def test_a_run_folder_can_be_moved(finished: RunFolder, tmp_path: Path) -> None:
    moved = shutil.copytree(finished.path, tmp_path / "elsewhere")
    assert RunFolder.open(moved).metrics == finished.metrics
    assert str(finished.path.parent) not in (moved / "metrics.json").read_text()
