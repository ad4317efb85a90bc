"""A run, from a prepared table to a report: repeatable, resumable to the bit, and true to what it says."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ser_ft.cli import train as main
from ser_ft.config.parser import parse
from ser_ft.data.prepare import open_prepared
from ser_ft.evaluation.predict import metrics_per_part
from ser_ft.evaluation.run_folder import RunFolder
from ser_ft.pipeline import run
from ser_ft.utils.errors import InputError

ROOT = Path(__file__).parents[2]
SMALL = [
    "--split.kind=kfold",
    "--split.folds=2",
    "--model.config_overrides={channels: [8, 8], dropout: 0.3}",
    "--train.epochs=4",
    "--train.batch_size=4",
    "--train.early_stopping_patience=null",
    "--train.gradient_accumulation_steps=2",
    "--train.save_steps=3",
]


def recipe(table: Path, out: Path, *more: str) -> list[str]:
    return [f"--data.prepared={table}", f"--out={out}", *SMALL, *more]


def train(table: Path, out: Path, *more: str) -> RunFolder:
    return run(parse(recipe(table, out, *more), "test"), verbose=False)


def weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    return load_file(folder.model / "model.safetensors")


def assert_same(one: RunFolder, other: RunFolder) -> None:
    assert one.metrics_file.read_bytes() == other.metrics_file.read_bytes()
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert one.history_file.read_bytes() == other.history_file.read_bytes()


@pytest.fixture(scope="module")
def finished(miniature_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return train(miniature_folder, tmp_path_factory.mktemp("run") / "whole")


def test_a_run_folder_holds_what_later_steps_need(finished: RunFolder, miniature_folder: Path) -> None:
    names = {path.name for path in finished.path.iterdir()}
    assert names >= {
        "config.yaml",
        "environment.json",
        "split.json",
        "history.jsonl",
        "checkpoints",
        "model",
        "figures",
    }
    assert names >= {"predictions.parquet", "metrics.json", "report.html", "baselines"}
    table, predictions = open_prepared(miniature_folder), finished.predictions
    assert sorted(predictions["id"]) == sorted(table["id"])
    classes = table.features["emotion"].names
    assert np.allclose(predictions[classes].sum(axis=1), 1.0)
    cremad = predictions[predictions["corpus"] == "cremad"]
    assert (cremad[["calm", "surprise"]] == 0).all(axis=None), "CREMA-D can hold neither calm nor surprise"
    assert (predictions[predictions["corpus"] == "ravdess"][classes] > 0).all(axis=None)
    assert not any(key.startswith("second") for key in finished.metrics)


def test_metrics_are_those_of_the_predictions(finished: RunFolder) -> None:
    assert finished.metrics["parts"] == metrics_per_part(finished.predictions, finished.metrics["classes"])
    split = json.loads(finished.split_file.read_text())
    for part in ("train", "validation", "test"):
        ids = finished.predictions.query("part == @part")["id"]
        assert list(ids) == split["parts"][part]["clips"]


def test_the_best_epoch_is_what_is_kept(finished: RunFolder) -> None:
    best = max(line["validation_uar"] for line in finished.history)
    assert finished.metrics["parts"]["validation"]["uar"] == pytest.approx(best)


def test_the_saved_model_gives_the_predictions(finished: RunFolder, miniature_folder: Path) -> None:
    from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

    from ser_ft import audio

    model = AutoModelForAudioClassification.from_pretrained(finished.model).eval()
    extractor = AutoFeatureExtractor.from_pretrained(finished.model)
    row = next(row for row in open_prepared(miniature_folder) if row["corpus"] == "ravdess")
    inputs = extractor(audio.from_wav(row["audio"]["bytes"]), sampling_rate=16_000, return_tensors="pt")
    shares = model(**inputs).logits.softmax(dim=1)[0].detach().numpy()
    told = finished.predictions.set_index("id").loc[row["id"], list(model.config.id2label.values())]
    assert np.allclose(shares, told.to_numpy(dtype=float), atol=1e-4)


def test_one_seed_gives_one_result_and_another_another(
    finished: RunFolder, miniature_folder: Path, tmp_path: Path
) -> None:
    assert_same(finished, train(miniature_folder, tmp_path / "again"))
    other = train(miniature_folder, tmp_path / "other", "--seed=1")
    assert any(not torch.equal(weights(finished)[name], value) for name, value in weights(other).items())


@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 3, 10])
def test_killed_and_resumed_is_as_never_killed(
    finished: RunFolder, miniature_folder: Path, tmp_path: Path, after: int
) -> None:
    """SIGKILL in the middle of an epoch, once a checkpoint of so many steps is there (1: any); then go on."""
    out = tmp_path / "killed"
    command = [sys.executable, str(ROOT / "recipes" / "finetune.py"), *recipe(miniature_folder, out)]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if any(int(folder.name.split("-")[1]) >= after for folder in (out / "checkpoints").glob("step-*")):
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "metrics.json").exists(), "the run ended before it was killed: nothing was tested"
    assert main([*recipe(miniature_folder, out), "--resume"]) == 0
    resumed = RunFolder(out)
    assert_same(finished, resumed)
    assert len(resumed.history) == 4


def test_a_finished_run_is_left_alone_when_resumed(finished: RunFolder, miniature_folder: Path) -> None:
    before = finished.metrics_file.stat().st_mtime_ns
    train(miniature_folder, finished.path, "--resume")
    assert finished.metrics_file.stat().st_mtime_ns == before


def test_a_taken_folder_is_refused_and_kept(finished: RunFolder, miniature_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a run already exists"):
        train(miniature_folder, finished.path)
    with pytest.raises(InputError, match="another recipe"):
        train(miniature_folder, finished.path, "--resume", "--train.learning_rate=0.1")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("dear")
    with pytest.raises(InputError, match="not a run"):
        train(miniature_folder, foreign, "--overwrite")
    assert (foreign / "thesis.txt").read_text() == "dear"


def test_wrong_input_is_one_line_code_2_and_nothing_written(
    miniature_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "never"
    wrong = {
        "--data.prepared=/nowhere": "no prepared table",
        "--model.name=resnet": "unknown model",
        "--model.config_overrides={layers: 3}": "no setting 'layers'",
        "--split.kind=emobox-ravdess": "the split emobox-ravdess is of ravdess alone",
        "--split.folds=50": "needs 50 speakers",
        "--split.fold=7": "split.fold is 7",
        "--train.report_to=[nonsense]": "unknown tracker",
        "--baselines=[oracle]": "baselines must be one of",
        "--seed=-1": "seed must be a whole number",
        "--data.labels=four": "data.labels has no effect together with data.prepared",
    }
    for setting, said in wrong.items():
        assert main(recipe(miniature_folder, out, setting)) == 2, setting
        error = capsys.readouterr().err.strip()
        assert said in error.splitlines()[-1], setting
        assert "Traceback" not in error
        assert not out.exists(), setting


def test_a_folder_that_only_looks_like_a_run_is_not_replaced(miniature_folder: Path, tmp_path: Path) -> None:
    blog = tmp_path / "blog"
    blog.mkdir()
    (blog / "config.yaml").write_text("site: my blog")
    for choice in ("overwrite", "resume"):
        with pytest.raises(InputError, match="not a run"):
            train(miniature_folder, blog, f"--{choice}")
    assert (blog / "config.yaml").read_text() == "site: my blog"


def test_a_run_is_not_gone_on_with_over_other_data(finished: RunFolder, miniature_folder: Path, tmp_path: Path) -> None:
    """A clip less, and the split would be drawn anew: speakers who were trained on could be tested on."""
    begun = Path(shutil.copytree(finished.path, tmp_path / "begun"))
    (begun / "metrics.json").unlink()
    split = json.loads((begun / "split.json").read_text())
    split["parts"]["test"]["clips"].pop()
    (begun / "split.json").write_text(json.dumps(split))
    with pytest.raises(InputError, match="the data, and so its split, changed"):
        train(miniature_folder, begun, "--resume")


def test_a_loss_that_diverges_stops_the_run(miniature_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"lower train\.learning_rate"):
        train(miniature_folder, tmp_path / "run", "--train.learning_rate=1e30", "--train.max_grad_norm=1e30")


def test_without_a_validation_speaker_the_last_weights_are_kept(miniature_folder: Path, tmp_path: Path) -> None:
    folder = train(miniature_folder, tmp_path / "run", "--split.validation=0", "--train.early_stopping_patience=1")
    assert len(folder.history) == 4
    assert "validation" not in folder.metrics["parts"]
    assert folder.report_file.is_file()


def test_a_leaking_split_says_so_everywhere(
    miniature_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(recipe(miniature_folder, out, "--split.kind=random")) == 0
    said = capsys.readouterr().out
    assert said.count("LEAKING") >= 1
    assert "leaking" in said.rsplit("run:", 1)[0].lower().split("accuracy")[-1], "the result table says it too"
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
def test_options_of_training_run(miniature_folder: Path, tmp_path: Path, setting: str) -> None:
    folder = train(miniature_folder, tmp_path / "run", setting, "--train.epochs=1")
    assert np.isfinite(folder.history[0]["train_loss"])


def test_tensorboard_gets_the_history(miniature_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = train(miniature_folder, tmp_path / "run", "--train.report_to=[tensorboard]", "--train.epochs=2")
    events = EventAccumulator(str(next(folder.path.rglob("events.out*")).parent))
    events.Reload()
    seen = [event.value for event in events.Scalars("validation_uar")]
    assert seen == pytest.approx([line["validation_uar"] for line in folder.history])


@pytest.mark.slow
def test_trackio_gets_the_history(miniature_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trackio", reason="needs trackio: pip install -e .[tracking]")
    import sqlite3

    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    command = [sys.executable, str(ROOT / "recipes" / "finetune.py"), *recipe(miniature_folder, tmp_path / "run")]
    subprocess.run([*command, "--train.report_to=[trackio]", "--train.epochs=1"], check=True, capture_output=True)
    with sqlite3.connect(tmp_path / "trackio" / "ser_ft.db") as database:
        (logged,) = database.execute("select metrics from metrics").fetchone()
    assert json.loads(logged)["validation_uar"] == RunFolder(tmp_path / "run").history[0]["validation_uar"]


@pytest.mark.slow
def test_two_processes_train_as_one_that_takes_both_batches(miniature_folder: Path, tmp_path: Path) -> None:
    """Two processes with one batch a step each are one process with two: the same loss, and one writer."""
    plain = [
        "--train.save_steps=null",
        "--train.epochs=1",
        "--model.config_overrides={channels: [8], dropout: 0, head_dropout: 0}",
    ]
    alone = train(miniature_folder, tmp_path / "alone", *plain, "--train.gradient_accumulation_steps=2")
    out = tmp_path / "both"
    script = str(ROOT / "recipes" / "finetune.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", script]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *recipe(miniature_folder, out, *plain, "--train.gradient_accumulation_steps=1")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    both = RunFolder(out)
    assert both.environment["processes"] == 2
    assert sorted(both.predictions["id"]) == sorted(alone.predictions["id"])
    assert done.stdout.count("report:") == 1
    # Batch normalisation sees each process's clips alone, in both cases: the two runs are one up to rounding.
    assert both.history[0]["train_loss"] == pytest.approx(alone.history[0]["train_loss"], rel=0.02)


def test_run_folders_move(finished: RunFolder, tmp_path: Path) -> None:
    moved = shutil.copytree(finished.path, tmp_path / "elsewhere")
    assert RunFolder.open(moved).metrics == finished.metrics
    assert str(finished.path.parent) not in (moved / "metrics.json").read_text()
