"""Augmentation in a run: of training clips alone, repeatable, gone on with to the bit, and the loss exact."""

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ser_ft.config.parser import parse
from ser_ft.config.schema import Recipe, TrainConfig
from ser_ft.data.augmentation.batch import Mixup
from ser_ft.data.augmentation.waveform import Augment
from ser_ft.data.prepare import open_prepared, prepare
from ser_ft.dataloading.targets import ClipData
from ser_ft.evaluation.run_folder import RunFolder
from ser_ft.models.registry import build_model
from ser_ft.pipeline import train
from ser_ft.training import run as running
from ser_ft.training.from_scratch import prepare_network
from ser_ft.training.losses import clip_losses
from ser_ft.training.trainer import Trainer
from ser_ft.utils.accelerator import create_accelerator
from tests.helpers.tiny_encoders import write_tiny_backbone

TRANSFORMS = "--augment.transforms={noise: {p: 0.7}, speed: {}}"
MASKS = "--augment.spec_augment={num_time_masks: 2, num_freq_masks: 1}"
WAYS = {
    "copies": (TRANSFORMS, "--augment.copies=1"),
    "live": (TRANSFORMS,),
    "masks": (MASKS,),
    "mixup": ("--augment.mixup=0.4",),
}
TOGETHER = {
    "copies": (*WAYS["copies"], MASKS, "--augment.mixup=0.4"),
    "live": (*WAYS["live"], MASKS, "--augment.mixup=0.4", "--train.gradient_accumulation_steps=2"),
}
PLAIN = ("--model.name=lstm", "--model.config_overrides={hidden_size: 8, dense_size: 8, frames_per_step: 16}")


def run(table: Path, out: Path, *more: str) -> RunFolder:
    fixed = [
        "--split.kind=kfold",
        "--split.folds=2",
        "--train.epochs=1",
        "--train.early_stopping_patience=null",
        "--baselines=[]",
    ]
    return train(parse([f"--data.prepared={table}", f"--out={out}", *fixed, *PLAIN, *more], "test"), False).folder


def same(one: RunFolder, other: RunFolder) -> bool:
    ours, theirs = (load_file(folder.model / "model.safetensors") for folder in (one, other))
    return (
        one.metrics_file.read_bytes() == other.metrics_file.read_bytes()
        and one.history_file.read_bytes() == other.history_file.read_bytes()
        and all(torch.equal(ours[name], theirs[name]) for name in ours)
    )


@pytest.fixture(scope="module")
def plain(miniature_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Without augmentation, and with rates of zero: what is seen does not change what is answered."""
    return run(miniature_folder, tmp_path_factory.mktemp("plain") / "run", "--train.learning_rate=0")


@pytest.mark.parametrize("way", WAYS)
def test_training_is_augmented_and_evaluation_never(
    way: str, plain: RunFolder, miniature_folder: Path, tmp_path: Path
) -> None:
    """With rates of zero the training loss is another, and each answer to each clip is the same."""
    folder = run(miniature_folder, tmp_path / "run", "--train.learning_rate=0", *WAYS[way])
    assert folder.predictions["id"].tolist() == plain.predictions["id"].tolist(), "a copy was evaluated, or a clip lost"
    assert folder.predictions.equals(plain.predictions)
    ours, theirs = folder.history[0], plain.history[0]
    assert ours["validation_loss"] == theirs["validation_loss"]
    assert abs(ours["train_loss"] - theirs["train_loss"]) > 1e-6
    assert np.isfinite(ours["train_loss"])
    assert (ours["step"] > 1.5 * theirs["step"]) == (way == "copies")


@pytest.mark.parametrize("ways", TOGETHER)
def test_all_of_it_together_is_repeatable(ways: str, miniature_folder: Path, tmp_path: Path) -> None:
    """By one seed, and whoever loads the batches; another seed draws others."""
    first = run(miniature_folder, tmp_path / "first", *TOGETHER[ways])
    assert same(first, run(miniature_folder, tmp_path / "again", *TOGETHER[ways], "--train.dataloader_num_workers=1"))
    other = run(miniature_folder, tmp_path / "other", *TOGETHER[ways], "--seed=1", "--train.learning_rate=0")
    assert other.history[0]["train_loss"] != first.history[0]["train_loss"]


class Stopped(Exception):
    """Stands for a machine that is switched off."""


@pytest.mark.parametrize("ways", TOGETHER)
def test_stopped_and_resumed_is_as_never_stopped(
    ways: str, miniature_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of the second epoch: what is drawn follows from the epoch and the step, not from what was drawn."""
    more = (*TOGETHER[ways], "--train.epochs=2", "--train.save_steps=3", "--train.batch_size=8")
    whole = run(miniature_folder, tmp_path / "whole", *more)
    half = whole.history[0]["step"] + 3
    save = Trainer._save

    def stop(self: Trainer) -> None:
        save(self)
        if self.state.step >= half and self.state.batch:
            raise Stopped

    monkeypatch.setattr(Trainer, "_save", stop)
    with pytest.raises(Stopped):
        run(miniature_folder, tmp_path / "stopped", *more)
    monkeypatch.undo()
    resumed = run(miniature_folder, tmp_path / "stopped", *more, "--resume")
    assert same(resumed, whole)


def test_copies_are_of_training_clips_alone_and_are_trained_on(
    miniature_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of a test speaker's clip in training would be the leak that splits by speaker are there to prevent."""
    made: list[datasets.Dataset] = []
    heard: list[np.ndarray] = []
    augmented, init = running.augmented, Trainer.__init__

    def augment(clips: datasets.Dataset, by: Augment, **options: Any) -> datasets.Dataset:
        made.append(augmented(clips, by, **options))
        return made[-1]

    def begin(self: Trainer, accelerator: Any, setup: Any, inputs: Any, train: np.ndarray, *rest: Any) -> None:
        heard.append(train)
        init(self, accelerator, setup, inputs, train, *rest)

    monkeypatch.setattr(running, "augmented", augment)
    monkeypatch.setattr(Trainer, "__init__", begin)
    folder = run(miniature_folder, tmp_path / "run", TRANSFORMS, "--augment.copies=2")
    parts = {part: set(about["clips"]) for part, about in json.loads(folder.split_file.read_text())["parts"].items()}
    assert set(made[0]["source"]) == parts["train"]
    assert len(made[0]) == 2 * len(parts["train"])
    clips = len(open_prepared(miniature_folder))
    assert len(heard[0]) == 3 * len(parts["train"])
    assert sorted(heard[0])[len(parts["train"]) :] == list(range(clips, clips + len(made[0])))
    assert set(folder.predictions["id"]) == set().union(*parts.values())


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_backbone("hubert", tmp_path_factory.mktemp("backbone") / "tiny")


@pytest.fixture(scope="module")
def voices(miniature_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prepared table of RAVDESS's two synthetic speakers: 60 clips, half of them to train on."""
    folder = tmp_path_factory.mktemp("voices") / "table"
    prepare(miniature_tree / "RAVDESS", folder, verbose=False)
    return folder


def tuned(table: Path, backbone: Path, out: Path, mode: str, *more: str) -> RunFolder:
    """Without dropout and masks, the clips of an epoch in one batch, however they are sorted."""
    layers = ["--tuning.num_top_layers=1"] if mode == "partial" else []
    network = "{}" if mode == "probe" else "{mask_time_prob: 0.0}"
    fixed = (
        f"--model.name={backbone}",
        f"--model.config_overrides={network}",
        f"--tuning.mode={mode}",
        "--tuning.dropout=0",
    )
    whole = ("--split.validation=0", "--train.batch_size=60", "--train.epochs=2", "--train.warmup_ratio=0")
    return run(table, out, *fixed, *layers, *whole, *more)


@pytest.mark.parametrize("mode", ["probe", "partial", "full"])
def test_an_encoder_hears_copies_from_states_as_from_sound(
    mode: str, backbone: Path, voices: Path, tmp_path: Path
) -> None:
    """Copies have frozen states of their own; were they the clips' again, the losses would not be one."""
    losses = []
    for cache in ("true", "false"):
        folder = tuned(voices, backbone, tmp_path / cache, mode, *WAYS["copies"], f"--tuning.cache={cache}")
        losses.append([line["train_loss"] for line in folder.history])
        assert len(folder.predictions) == 60
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    plain = tuned(voices, backbone, tmp_path / "plain", mode).history
    assert abs(plain[0]["train_loss"] - losses[0][0]) > 2e-3


@pytest.mark.parametrize("way", ["live", "mixup"])
def test_an_encoder_is_augmented_in_each_epoch(way: str, backbone: Path, voices: Path, tmp_path: Path) -> None:
    """With rates of zero, what the second epoch hears differs from the first, and the answers are a plain run's."""
    still = ("--train.learning_rate=0", "--tuning.learning_rate=0")
    folder = tuned(voices, backbone, tmp_path / "run", "partial", *WAYS[way], *still)
    first, second = (line["train_loss"] for line in folder.history)
    assert abs(first - second) > 1e-4
    plain = tuned(voices, backbone, tmp_path / "plain", "partial", *still)
    classes = plain.metrics["classes"]
    assert plain.history[0]["train_loss"] == pytest.approx(plain.history[1]["train_loss"], abs=1e-5)
    np.testing.assert_allclose(folder.predictions[classes], plain.predictions[classes], atol=1e-3)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_loss_of_a_mixed_step_by_hand(accumulation: int, miniature_folder: Path, tmp_path: Path) -> None:
    """Targets, classes and weights of both clips; divided by the weights of all clips of the step."""
    table = open_prepared(miniature_folder)
    rows = np.arange(0, len(table), 8)[:32]
    assert {"cremad", "ravdess"} <= {table["corpus"][row] for row in rows.tolist()}
    settings = TrainConfig(
        epochs=1,
        batch_size=16,
        gradient_accumulation_steps=accumulation,
        learning_rate=0.0,
        class_weights=True,
        label_smoothing=0.1,
    )
    accelerator = create_accelerator("no", 5)
    extractor, model = build_model("conv1d", table.features["emotion"].names, {}, {"channels": [8], "dense_size": 8})
    for each in model.modules():
        if isinstance(each, torch.nn.Dropout | torch.nn.Dropout1d):
            each.p = 0.0
    setup = prepare_network(model, extractor, [table], rows, Recipe(train=settings), shown=False)
    inputs = ClipData.from_table(table, setup.batch_source, table.features["emotion"].names)
    out = RunFolder(tmp_path / "run")
    trainer = Trainer(accelerator, setup, inputs, rows, np.arange(0), settings, out, 5, None, 0.3)
    batches = [rows[places] for places in trainer._batches(0)]
    trainer.fit(shown=False)
    model.train()
    lost, weight = 0.0, 0.0
    for place, batch in enumerate(batches):
        step, within = divmod(place, accumulation)
        mix = Mixup.sample(0.3, len(batch), (5, step, within, 0))
        given = setup.batch_source.collate(batch.tolist())
        features = mix.weight * given["input_features"] + (1 - mix.weight) * given["input_features"][mix.partners]
        mask = torch.maximum(given["attention_mask"], given["attention_mask"][mix.partners])
        own = torch.from_numpy(trainer.weights[batch])
        weights = mix.weight * own + (1 - mix.weight) * own[mix.partners]
        allowed = torch.from_numpy(inputs.allowed[batch])
        targets = torch.from_numpy(inputs.targets[batch])
        targets = mix.weight * targets + (1 - mix.weight) * targets[mix.partners]
        with torch.no_grad():
            logits = model(features, mask).logits
        lost += float((clip_losses(logits, targets, allowed | allowed[mix.partners], 0.1) * weights).sum())
        weight += float(own.sum())
    assert trainer.weights[rows].std() > 0, "the weights are all one: nothing is tested"
    assert out.history[0]["train_loss"] == pytest.approx(lost / weight, rel=1e-5)
