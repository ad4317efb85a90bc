"""Training on two processes gives the results of one, evaluates each clip once, and can be resumed."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ser_ft.cli import train as main
from ser_ft.config.parser import parse
from ser_ft.data.prepare import open_prepared
from ser_ft.evaluation.run_folder import RunFolder
from ser_ft.pipeline import run
from tests.helpers.training import RECIPES, assert_same_run, finish, kill_after_checkpoint, start

pytestmark = pytest.mark.slow
# Without validation, no temperature is folded into the weights.
SETTINGS = ("--train.learning_rate=0.01", "--train.epochs=2", "--train.save_steps=2", "--split.validation=0")


@pytest.fixture(scope="module")
def backbone(tiny_encoder: Callable[[str], Path]) -> Path:
    return tiny_encoder("wav2vec2")


def arguments(table: Path, model: Path, out: Path, *more: str) -> list[str]:
    return [
        f"--data.prepared={table}",
        f"--model.name={model}",
        f"--out={out}",
        "--split.kind=kfold",
        "--split.folds=2",
        "--train.batch_size=8",
        "--train.early_stopping_patience=null",
        "--baselines=[]",
        *more,
    ]


@pytest.fixture(scope="module")
def two_process_run(miniature_folder: Path, backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """An encoder trained on two processes, with dropout and SpecAugment. Read-only."""
    out = tmp_path_factory.mktemp("two") / "whole"
    output = finish(start("finetune", arguments(miniature_folder, backbone, out, *SETTINGS), processes=2))
    assert output.count("report:") == 1, "only one process writes and prints"
    return RunFolder(out)


def test_two_processes_train_as_one_with_the_same_global_batch(
    miniature_folder: Path, backbone: Path, tmp_path: Path
) -> None:
    """Losses agree to 1e-4: sums in float32 are computed in another order. One layer is unfrozen after the other."""
    settings = ("--tuning.dropout=0", "--model.config_overrides={mask_time_prob: 0.0}", "--tuning.unfreeze_every=1")
    more = (*settings, "--train.epochs=2")
    accumulated = arguments(
        miniature_folder, backbone, tmp_path / "one", *more, "--train.gradient_accumulation_steps=2"
    )
    one = run(parse(accumulated, "test"), verbose=False)
    finish(start("finetune", arguments(miniature_folder, backbone, tmp_path / "two", *more), processes=2))
    two = RunFolder(tmp_path / "two")
    assert two.environment["processes"] == 2
    for name in ("train_loss", "validation_loss"):
        values, other_values = ([line[name] for line in folder.history] for folder in (one, two))
        np.testing.assert_allclose(other_values, values, rtol=1e-4)
    assert [line["step"] for line in two.history] == [line["step"] for line in one.history]


def test_predictions_of_two_processes_are_those_of_one(
    two_process_run: RunFolder, miniature_folder: Path, tmp_path: Path
) -> None:
    """One process evaluates the weights that two have trained: each clip once, with the same digits."""
    assert two_process_run.predictions["id"].is_unique
    unchanged = ("--split.validation=0", "--train.epochs=1", "--train.learning_rate=0", "--tuning.learning_rate=0")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    one = run(parse(arguments(miniature_folder, two_process_run.model, tmp_path / "one", *unchanged), "test"), False)
    torch.set_num_threads(threads)
    assert one.predictions.drop(columns="path").equals(two_process_run.predictions.drop(columns="path"))
    assert one.metrics["parts"] == two_process_run.metrics["parts"]


def test_a_killed_run_of_two_processes_ends_the_same(
    two_process_run: RunFolder,
    miniature_folder: Path,
    backbone: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "killed"
    command = arguments(miniature_folder, backbone, out, *SETTINGS)
    kill_after_checkpoint(start("finetune", command, processes=2), out, 4)
    assert not (out / "metrics.json").exists(), "the run ended before it was killed"
    assert main([*command, "--resume"]) == 2
    assert "was started with 2 processes" in capsys.readouterr().err
    finish(start("finetune", [*command, "--resume"], processes=2))
    assert_same_run(two_process_run, RunFolder(out))


def test_accelerate_launch_that_starts_one_process_instead_of_two_is_refused(
    miniature_folder: Path, backbone: Path, tmp_path: Path
) -> None:
    """`accelerate launch --cpu --num_processes 2` starts one process if there is no mpirun."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes=2"]
    command = [*launch, str(RECIPES / "finetune.py"), *arguments(miniature_folder, backbone, tmp_path / "run")]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    assert result.returncode != 0
    assert "several processes and started one" in result.stderr
    assert "torchrun" in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "settings",
    [
        (
            "--model.name=conv1d",
            "--model.config_overrides={channels: [8], dense_size: 8}",
            "--augment.copies=1",
            "--augment.transforms.noise.p=1.0",
        ),
        ("--model.name=timm/test_resnet", "--model.pretrained=false", "--tuning.mode=probe"),
    ],
    ids=["augmented copies", "frozen random weights"],
)
def test_two_processes_use_the_same_copies_and_the_same_random_weights(
    settings: tuple[str, ...], miniature_folder: Path, tmp_path: Path
) -> None:
    command = arguments(miniature_folder, Path("unused"), tmp_path / "two", *settings, "--train.max_steps=1")
    finish(start("finetune", command, processes=2))
    folder, table = RunFolder(tmp_path / "two"), open_prepared(miniature_folder)
    assert folder.environment["processes"] == 2
    assert sorted(folder.predictions["id"]) == sorted(table["id"])
    assert np.allclose(folder.predictions[table.features["emotion"].names].sum(axis=1), 1)
