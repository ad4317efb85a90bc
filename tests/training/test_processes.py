"""Several processes give what one gives: the same losses, each clip evaluated once, and an end that can be resumed."""

import json
import os
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
from ser_ft.evaluation.run_folder import RunFolder
from ser_ft.pipeline import run
from tests.helpers.tiny_encoders import write_tiny_backbone

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_backbone("wav2vec2", tmp_path_factory.mktemp("backbone") / "tiny")


def recipe(table: Path, backbone: Path, out: Path, *more: str) -> list[str]:
    return [
        f"--data.prepared={table}",
        f"--model.name={backbone}",
        f"--out={out}",
        "--split.kind=kfold",
        "--split.folds=2",
        "--train.epochs=3",
        "--train.batch_size=4",
        "--train.early_stopping_patience=null",
        "--baselines=[]",
        *more,
    ]


def start(processes: int, arguments: list[str]) -> subprocess.Popen[str]:
    """Start a recipe as a user does on a machine without a GPU."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    return subprocess.Popen(
        [sys.executable, *launcher, str(ROOT / "recipes" / "finetune.py"), *arguments],
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> None:
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said[-3000:]


PLAIN = ("--tuning.dropout=0", "--model.config_overrides={mask_time_prob: 0.0}")


@pytest.mark.parametrize("more", [(), ("--tuning.unfreeze_every=1",)], ids=["at once", "layer by layer"])
def test_two_processes_train_as_one_with_the_same_global_batch(
    miniature_folder: Path, backbone: Path, tmp_path: Path, more: tuple[str, ...]
) -> None:
    """Losses agree to 1e-4 of their size: sums of float32 numbers, taken in another order."""
    alone = run(
        parse(
            recipe(
                miniature_folder, backbone, tmp_path / "one", *PLAIN, *more, "--train.gradient_accumulation_steps=2"
            ),
            "test",
        ),
        verbose=False,
    )
    finish(start(2, recipe(miniature_folder, backbone, tmp_path / "two", *PLAIN, *more)))
    both = RunFolder(tmp_path / "two")
    assert both.environment["processes"] == 2
    for name in ("train_loss", "validation_loss"):
        ours, theirs = ([line[name] for line in folder.history] for folder in (alone, both))
        np.testing.assert_allclose(theirs, ours, rtol=1e-4)
    assert [line["step"] for line in both.history] == [line["step"] for line in alone.history]


def test_what_two_processes_gather_is_what_one_computes(miniature_folder: Path, backbone: Path, tmp_path: Path) -> None:
    """The weights that two trained, asked by one: each clip once, and every digit of every number the same."""
    # Without validation there is no temperature, which would be in the weights that the second run begins with.
    once = ("--train.epochs=1", "--split.validation=0")
    finish(start(2, recipe(miniature_folder, backbone, tmp_path / "two", *once)))
    both = RunFolder(tmp_path / "two")
    assert both.predictions["id"].is_unique
    # The same recipe from those weights, with rates of zero, changes nothing and is evaluated by one process.
    still = (*once, "--train.learning_rate=0", "--tuning.learning_rate=0")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    one = run(parse(recipe(miniature_folder, both.model, tmp_path / "one", *still), "test"), False)
    torch.set_num_threads(threads)
    assert one.predictions.drop(columns="path").equals(both.predictions.drop(columns="path"))
    assert one.metrics["parts"] == both.metrics["parts"]


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_killed_and_resumed_on_two_processes(miniature_folder: Path, backbone: Path, tmp_path: Path, mode: str) -> None:
    """SIGKILL to both in the middle of an epoch, dropout and masks on; resumed, it ends as a whole run does."""
    settings = (f"--tuning.mode={mode}", "--train.save_steps=2", "--train.learning_rate=0.01")
    finish(start(2, recipe(miniature_folder, backbone, tmp_path / "whole", *settings)))
    out = tmp_path / "killed"
    process = start(2, recipe(miniature_folder, backbone, out, *settings))
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if any(int(folder.name.split("-")[1]) >= 4 for folder in (out / "checkpoints").glob("step-*")):
            break
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "metrics.json").exists(), "the run ended before it was killed: nothing was tested"
    finish(start(2, [*recipe(miniature_folder, backbone, out, *settings), "--resume"]))
    ours, theirs = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert RunFolder(out).metrics_file.read_bytes() == RunFolder(tmp_path / "whole").metrics_file.read_bytes()


def test_a_run_is_not_resumed_on_another_number_of_processes(
    miniature_folder: Path, backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(start(2, recipe(miniature_folder, backbone, tmp_path / "two", "--train.epochs=1")))
    (tmp_path / "two" / "metrics.json").unlink()
    again = [*recipe(miniature_folder, backbone, tmp_path / "two", "--train.epochs=1"), "--resume"]
    assert main(again) == 2
    assert "started on 2 processes" in capsys.readouterr().err


def test_two_asked_for_and_one_started_is_said(miniature_folder: Path, backbone: Path, tmp_path: Path) -> None:
    """`accelerate launch --cpu --num_processes 2` starts one process without a word where there is no mpirun."""
    arguments = recipe(miniature_folder, backbone, tmp_path / "run")
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes=2"]
    done = subprocess.run(
        [sys.executable, *launch, str(ROOT / "recipes" / "finetune.py"), *arguments], capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "several processes were asked for and one was started" in done.stderr
    assert not (tmp_path / "run").exists()
    assert json.dumps("torchrun")[1:-1] in done.stderr


@pytest.mark.parametrize(
    "more",
    [
        ("--model.name=conv1d", "--model.config_overrides={channels: [8], dense_size: 8}", "--augment.copies=1"),
        ("--model.name=timm/test_resnet", "--model.pretrained=false", "--tuning.mode=probe"),
    ],
    ids=["copies", "frozen random weights"],
)
def test_two_processes_hear_one_table(more: tuple[str, ...], miniature_folder: Path, tmp_path: Path) -> None:
    """Copies are made once, and weights that each would draw for itself are one's: else frozen sums are of two."""
    copies = ("--augment.transforms.noise.p=1.0",) if "--augment.copies=1" in more else ()
    finish(start(2, recipe(miniature_folder, Path("unused"), tmp_path / "two", *more, *copies, "--train.epochs=1")))
    both = RunFolder(tmp_path / "two")
    assert both.environment["processes"] == 2
    table = open_prepared(miniature_folder)
    assert sorted(both.predictions["id"]) == sorted(table["id"])
    assert np.allclose(both.predictions[table.features["emotion"].names].sum(axis=1), 1)
