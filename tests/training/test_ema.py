"""The exponential mean of the weights: what it is by hand, and that a killed run goes on with it to the bit."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ser_ft.cli import train as main
from ser_ft.training.ema import EMA
from ser_ft.training.trainer import Trainer

ROOT = Path(__file__).parents[2]
LAYER = "classifier.weight"


def test_the_mean_by_hand_and_that_it_steps_aside() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    average = EMA(model, {"weight"}, decay=0.5)
    expected = model.weight.item()
    for step, value in enumerate((1.0, 2.0, 3.0, 4.0), start=1):
        model.weight.data.fill_(value)
        average.update()
        keep = min(0.5, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * value
    with average.used():
        assert model.weight.item() == pytest.approx(expected, rel=1e-6)
    assert model.weight.item() == 4.0


def test_what_is_not_trained_is_left_alone() -> None:
    model = torch.nn.BatchNorm1d(2)
    average = EMA(model, {"weight", "running_mean", "num_batches_tracked"}, decay=0.9)
    model.bias.data.fill_(7.0)
    model.num_batches_tracked.fill_(5)
    average.update()
    with average.used():
        assert model.bias.tolist() == [7.0, 7.0]
        assert int(model.num_batches_tracked) == 5


@pytest.mark.usefixtures("fast_reports")
def test_the_mean_is_what_is_judged_and_saved(
    miniature_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, judged = [], []
    update, judge = EMA.update, Trainer.probabilities

    def noted(average: EMA) -> None:
        if not steps:
            steps.append(average.values[LAYER].clone())
        steps.append(average.model.state_dict()[LAYER].clone())
        update(average)

    def watched(trainer: Trainer, *more: Any) -> Any:
        judged.append(trainer.setup.model.state_dict()[LAYER].clone())
        return judge(trainer, *more)

    monkeypatch.setattr(EMA, "update", noted)
    monkeypatch.setattr(Trainer, "probabilities", watched)
    monkeypatch.setattr("ser_ft.training.model.fold_temperature", lambda *_: None)
    given = ["--train.ema_decay=0.9", "--train.epochs=1", "--train.batch_size=8", "--baselines=[]"]
    model = ["--model.name=lstm", "--model.config_overrides={hidden_size: 8, dense_size: 8}"]
    assert main([f"--data.prepared={miniature_folder}", *model, *given, f"--out={tmp_path / 'run'}"]) == 0
    mean = steps[0]
    for step, value in enumerate(steps[1:], 1):
        keep = min(0.9, (1 + step) / (10 + step))
        mean = keep * mean + (1 - keep) * value
    saved = load_file(tmp_path / "run" / "model" / "model.safetensors")[LAYER]
    assert len(judged) > 1
    for found in (*judged, saved):
        torch.testing.assert_close(found, mean, rtol=1e-4, atol=1e-6)
    assert (mean - steps[-1]).abs().max() > 1e-4, "the last weights would have passed, too"


@pytest.mark.slow
@pytest.mark.usefixtures("fast_reports")
def test_killed_and_resumed_is_as_never_killed(miniature_folder: Path, tmp_path: Path) -> None:
    """SIGKILL in the second epoch of compact-cnn, heard through spectral augmentation, its weights averaged."""

    def recipe(out: Path) -> list[str]:
        return [
            f"--data.prepared={miniature_folder}",
            "--model.name=compact-cnn",
            "--model.config_overrides={channels: 16, num_blocks: 2}",
            "--augment.spectral={}",
            "--augment.spec_augment={num_time_masks: 1}",
            "--train.ema_decay=0.9",
            "--train.epochs=3",
            "--train.batch_size=8",
            "--train.save_steps=3",
            "--baselines=[]",
            f"--out={out}",
        ]

    assert main(recipe(tmp_path / "whole")) == 0
    out = tmp_path / "killed"
    command = [sys.executable, str(ROOT / "recipes" / "finetune.py"), *recipe(out)]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        steps = [int(folder.name.split("-")[1]) for folder in (out / "checkpoints").glob("step-*")]
        if steps and max(steps) >= 3:
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "metrics.json").exists(), "the run ended before it was killed: nothing was tested"
    assert main([*recipe(out), "--resume"]) == 0
    first, second = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert (tmp_path / "whole" / "metrics.json").read_text() == (out / "metrics.json").read_text()
