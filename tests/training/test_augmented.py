"""Augmentation in a run: only training clips are augmented, repeatably, and the loss of mixed clips is exact."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch

from ser_ft.config.parser import parse
from ser_ft.config.schema import AugmentConfig
from ser_ft.config.training_loop import TrainConfig
from ser_ft.data.augmentation.batch import Mixup
from ser_ft.data.augmentation.waveform import Augment
from ser_ft.data.prepare import open_prepared
from ser_ft.dataloading.targets import ClipData
from ser_ft.evaluation.run_folder import RunFolder
from ser_ft.models.registry import build_model
from ser_ft.pipeline import train
from ser_ft.training import data as training_data
from ser_ft.training.classification import ClassificationJob, ClassificationTrainer
from ser_ft.training.from_scratch import frame_batches
from ser_ft.training.losses import clip_losses
from ser_ft.training.trainer import TrainableModel, Trainer, create_optimizer
from ser_ft.utils.accelerator import create_accelerator
from tests.helpers.training import assert_same_run, interrupted_at

TRANSFORMS = "--augment.transforms={noise: {p: 0.7}, speed: {}}"
MASKS = "--augment.spec_augment={num_time_masks: 2, num_freq_masks: 1}"
KINDS = {
    "copies": (TRANSFORMS, "--augment.copies=1"),
    "online": (TRANSFORMS,),
    "masks": (MASKS,),
    "mixup": ("--augment.mixup=0.4",),
}
COMBINED = {
    "copies": (*KINDS["copies"], MASKS, "--augment.mixup=0.4"),
    "online": (*KINDS["online"], MASKS, "--augment.mixup=0.4", "--train.gradient_accumulation_steps=2"),
}


def run(table: Path, out: Path, *more: str) -> RunFolder:
    settings = [
        "--model.name=lstm",
        "--model.config_overrides={hidden_size: 8, dense_size: 8, frames_per_step: 16}",
        "--split.kind=kfold",
        "--split.folds=2",
        "--train.epochs=1",
        "--train.early_stopping_patience=null",
        "--baselines=[]",
    ]
    return train(parse([f"--data.prepared={table}", f"--out={out}", *settings, *more], "test"), False).folder


@pytest.fixture(scope="module")
def not_augmented(miniature_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run with learning rates of zero: its training clips do not affect its predictions. Read-only."""
    return run(miniature_folder, tmp_path_factory.mktemp("plain") / "run", "--train.learning_rate=0")


@pytest.mark.parametrize("kind", KINDS)
def test_training_clips_are_augmented_and_evaluated_clips_never(
    kind: str, not_augmented: RunFolder, miniature_folder: Path, tmp_path: Path
) -> None:
    folder = run(miniature_folder, tmp_path / "run", "--train.learning_rate=0", *KINDS[kind])
    assert folder.predictions.equals(not_augmented.predictions), "a copy was evaluated, or a clip was augmented"
    line, plain_line = folder.history[0], not_augmented.history[0]
    assert line["validation_loss"] == plain_line["validation_loss"]
    assert abs(line["train_loss"] - plain_line["train_loss"]) > 1e-6
    assert np.isfinite(line["train_loss"])
    assert (line["step"] > 1.5 * plain_line["step"]) == (kind == "copies")


@pytest.mark.parametrize("kind", COMBINED)
def test_augmented_training_is_repeatable_and_resumable(kind: str, miniature_folder: Path, tmp_path: Path) -> None:
    """Also in the middle of an epoch and with other loader processes; another seed gives other augmentations."""
    more = (*COMBINED[kind], "--train.epochs=2", "--train.save_steps=3", "--train.batch_size=8")
    first = run(miniature_folder, tmp_path / "first", *more)
    with interrupted_at(first.history[0]["step"] + 4):
        run(miniature_folder, tmp_path / "again", *more, "--train.dataloader_num_workers=0")
    assert_same_run(first, run(miniature_folder, tmp_path / "again", *more, "--resume"))
    workers = run(miniature_folder, tmp_path / "workers", *more, "--train.dataloader_num_workers=1")
    assert_same_run(first, workers)
    other = run(miniature_folder, tmp_path / "other", *more, "--seed=1", "--train.max_steps=1")
    assert other.history[0]["train_loss"] != first.history[0]["train_loss"]


def test_copies_are_made_of_training_clips_and_trained_on(
    miniature_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of a test speaker's clip in training would be a leak."""
    copies: list[datasets.Dataset] = []
    train_rows: list[np.ndarray] = []
    augment_table, init = training_data.augment_table, Trainer.__init__

    def record_copies(clips: datasets.Dataset, augment: Augment, **options: Any) -> datasets.Dataset:
        copies.append(augment_table(clips, augment, **options))
        return copies[-1]

    def record_rows(self: Trainer, accelerator: Any, job: Any, *rest: Any) -> None:
        train_rows.append(job.train_rows)
        init(self, accelerator, job, *rest)

    monkeypatch.setattr(training_data, "augment_table", record_copies)
    monkeypatch.setattr(Trainer, "__init__", record_rows)
    folder = run(miniature_folder, tmp_path / "run", TRANSFORMS, "--augment.copies=2", "--train.max_steps=1")
    content = json.loads(folder.split_file.read_text())["parts"]
    parts = {part: set(entry["clips"]) for part, entry in content.items()}
    assert set(copies[0]["source"]) == parts["train"]
    assert len(copies[0]) == 2 * len(parts["train"])
    clips = len(open_prepared(miniature_folder))
    assert len(train_rows[0]) == 3 * len(parts["train"])
    assert sorted(train_rows[0])[len(parts["train"]) :] == list(range(clips, clips + len(copies[0])))
    assert set(folder.predictions["id"]) == set().union(*parts.values())


@pytest.fixture(scope="module")
def backbone(tiny_encoder: Callable[[str], Path]) -> Path:
    return tiny_encoder("hubert")


def finetune(table: Path, backbone: Path, out: Path, mode: str, *more: str) -> RunFolder:
    """Fine-tune without dropout and masks; all clips of an epoch are in one batch, whatever their order."""
    layers = ["--tuning.num_top_layers=1"] if mode == "partial" else []
    overrides = "{}" if mode == "probe" else "{mask_time_prob: 0.0}"
    return run(
        table,
        out,
        f"--model.name={backbone}",
        f"--model.config_overrides={overrides}",
        f"--tuning.mode={mode}",
        "--tuning.dropout=0",
        *layers,
        "--split.validation=0",
        "--train.batch_size=60",
        "--train.epochs=2",
        "--train.warmup_ratio=0",
        *more,
    )


@pytest.mark.parametrize("mode", ["probe", "partial", "full"])
def test_copies_have_their_own_cached_states(mode: str, backbone: Path, ravdess_table: Path, tmp_path: Path) -> None:
    losses = []
    for cache in ("true", "false"):
        more = (*KINDS["copies"], f"--tuning.cache={cache}")
        folder = finetune(ravdess_table, backbone, tmp_path / cache, mode, *more)
        losses.append([line["train_loss"] for line in folder.history])
        assert len(folder.predictions) == 60
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    plain = finetune(ravdess_table, backbone, tmp_path / "plain", mode, "--train.max_steps=1").history
    assert abs(plain[0]["train_loss"] - losses[0][0]) > 2e-3


@pytest.mark.parametrize("kind", ["online", "mixup"])
def test_an_encoder_gets_other_versions_in_each_epoch(
    kind: str, backbone: Path, ravdess_table: Path, tmp_path: Path
) -> None:
    rates = ("--train.learning_rate=0", "--tuning.learning_rate=0")
    folder = finetune(ravdess_table, backbone, tmp_path / "run", "partial", *KINDS[kind], *rates)
    first, second = (line["train_loss"] for line in folder.history)
    assert abs(first - second) > 1e-4
    plain = finetune(ravdess_table, backbone, tmp_path / "plain", "partial", *rates)
    classes = plain.metrics["classes"]
    assert plain.history[0]["train_loss"] == pytest.approx(plain.history[1]["train_loss"], abs=1e-5)
    np.testing.assert_allclose(folder.predictions[classes], plain.predictions[classes], atol=1e-3)


@pytest.mark.parametrize(
    ("accumulation", "settings"),
    [(1, {"class_weights": True}), (2, {"class_weights": True}), (2, {"loss": "logit-adjusted"})],
)
def test_the_loss_of_mixed_clips_computed_by_hand(
    accumulation: int, settings: dict[str, Any], miniature_folder: Path, tmp_path: Path
) -> None:
    """Targets, classes, weights and priors of both clips are mixed; the sum is divided by the weights of the clips."""
    table = open_prepared(miniature_folder)
    rows = np.arange(0, len(table), 8)[:32]
    assert {"cremad", "ravdess"} <= {table["corpus"][row] for row in rows.tolist()}
    config = TrainConfig(
        epochs=1,
        batch_size=16,
        gradient_accumulation_steps=accumulation,
        learning_rate=0.0,
        label_smoothing=0.1,
        **settings,
    )
    accelerator = create_accelerator("no", 5)
    classes = table.features["emotion"].names
    extractor, model = build_model("conv1d", classes, {}, {"channels": [8], "dense_size": 8})
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout | torch.nn.Dropout1d):
            module.p = 0.0
    batch_source = frame_batches(extractor, [table], rows, AugmentConfig())
    trainable = TrainableModel(model, batch_source, [(list(model.parameters()), 0.0)], lambda: model)
    clips = ClipData.from_table(table, batch_source, classes)
    optimizer = create_optimizer(trainable.learning_rates, config.weight_decay, accelerator.device)
    job = ClassificationJob(trainable, optimizer, rows, clips, np.arange(0), mixup=0.3)
    out = RunFolder(tmp_path / "run")
    trainer = ClassificationTrainer(accelerator, job, config, out, 5)
    batches = [rows[indices] for indices in trainer._batches(0)]
    trainer.fit(show_progress=False)
    model.train()
    total_loss, total_weight = 0.0, 0.0
    for index, batch in enumerate(batches):
        step, position = divmod(index, accumulation)
        mixup = Mixup.sample(0.3, len(batch), (5, step, position, 0))
        inputs = batch_source.collate(batch.tolist())

        def mix(values: torch.Tensor, mixup: Mixup = mixup) -> torch.Tensor:
            return mixup.weight * values + (1 - mixup.weight) * values[mixup.partners]

        mask = torch.maximum(inputs["attention_mask"], inputs["attention_mask"][mixup.partners])
        weights, allowed = torch.from_numpy(trainer.clip_weights[batch]), torch.from_numpy(clips.allowed[batch])
        with torch.no_grad():
            logits = model(mix(inputs["input_features"]), mask).logits
        targets = mix(torch.from_numpy(clips.targets[batch]))
        if trainer.class_priors is not None:
            logits += mix(torch.from_numpy(trainer.class_priors[batch])).log()
        losses = clip_losses(logits, targets, allowed | allowed[mixup.partners], 0.1)
        total_loss += float((losses * mix(weights)).sum())
        total_weight += float(weights.sum())
    values = trainer.clip_weights if trainer.class_priors is None else trainer.class_priors
    assert values[rows].std(axis=0).max() > 0, "all clips are alike: the test would show nothing"
    assert out.history[0]["train_loss"] == pytest.approx(total_loss / total_weight, rel=1e-5)
