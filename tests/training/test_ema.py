"""The moving average of the weights: its values, and that it is what is validated and saved."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ser_ft.cli import train as main
from ser_ft.config.parser import parse
from ser_ft.pipeline import run
from ser_ft.training.classification import ClassificationTrainer
from ser_ft.training.ema import EMA
from tests.helpers.training import assert_same_run, interrupted_at

LAYER = "classifier.weight"


def test_the_average_equals_its_definition_and_is_applied_only_temporarily() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    ema = EMA(model, {"weight"}, decay=0.5)
    expected = model.weight.item()
    for step, value in enumerate((1.0, 2.0, 3.0, 4.0), start=1):
        model.weight.data.fill_(value)
        ema.update()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    with ema.applied():
        assert model.weight.item() == pytest.approx(expected, rel=1e-6)
    assert model.weight.item() == 4.0


def test_weights_that_are_not_trained_are_not_averaged() -> None:
    model = torch.nn.BatchNorm1d(2)
    ema = EMA(model, {"weight", "running_mean", "num_batches_tracked"}, decay=0.9)
    model.bias.data.fill_(7.0)
    model.num_batches_tracked.fill_(5)
    ema.update()
    with ema.applied():
        assert model.bias.tolist() == [7.0, 7.0]
        assert int(model.num_batches_tracked) == 5


def test_the_average_is_validated_and_saved(
    miniature_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, evaluated = [], []
    update, probabilities = EMA.update, ClassificationTrainer.probabilities

    def record_update(ema: EMA) -> None:
        if not steps:
            steps.append(ema.values[LAYER].clone())
        steps.append(ema.model.state_dict()[LAYER].clone())
        update(ema)

    def record_evaluation(trainer: ClassificationTrainer, *arguments: Any) -> Any:
        evaluated.append(trainer.trainable.model.state_dict()[LAYER].clone())
        return probabilities(trainer, *arguments)

    monkeypatch.setattr(EMA, "update", record_update)
    monkeypatch.setattr(ClassificationTrainer, "probabilities", record_evaluation)
    monkeypatch.setattr("ser_ft.training.model.fold_temperature", lambda *_: None)
    settings = ["--train.ema_decay=0.9", "--train.epochs=1", "--train.batch_size=8", "--baselines=[]"]
    model = ["--model.name=lstm", "--model.config_overrides={hidden_size: 8, dense_size: 8}"]
    assert main([f"--data.prepared={miniature_folder}", *model, *settings, f"--out={tmp_path / 'run'}"]) == 0
    average = steps[0]
    for step, value in enumerate(steps[1:], 1):
        decay = min(0.9, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * value
    saved = load_file(tmp_path / "run" / "model" / "model.safetensors")[LAYER]
    assert len(evaluated) > 1
    for value in (*evaluated, saved):
        torch.testing.assert_close(value, average, rtol=1e-4, atol=1e-6)
    assert (average - steps[-1]).abs().max() > 1e-4, "the last weights would pass this test, too"


def test_an_interrupted_run_with_average_and_spectral_augmentation_ends_the_same(
    miniature_folder: Path, tmp_path: Path
) -> None:
    def arguments(name: str) -> list[str]:
        return [
            f"--data.prepared={miniature_folder}",
            "--model.name=compact-cnn",
            "--model.config_overrides={channels: 16, num_blocks: 2}",
            "--augment.spectral={}",
            "--augment.spec_augment={num_time_masks: 1}",
            "--train.ema_decay=0.9",
            "--train.max_steps=8",
            "--train.batch_size=16",
            "--train.save_steps=3",
            "--baselines=[]",
            f"--out={tmp_path / name}",
        ]

    whole = run(parse(arguments("whole"), "test"), verbose=False)
    with interrupted_at(7):
        run(parse(arguments("interrupted"), "test"), verbose=False)
    assert_same_run(whole, run(parse([*arguments("interrupted"), "--resume"], "test"), verbose=False))
