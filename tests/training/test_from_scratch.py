"""Our own networks and image backbones: which stages are trained and how fast, and what a run saves."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

from ser_ft import audio
from ser_ft.config.parser import parse
from ser_ft.config.schema import AugmentConfig, TuningConfig
from ser_ft.data.prepare import open_prepared
from ser_ft.evaluation.run_folder import RunFolder
from ser_ft.models.pretrained import PretrainedClassifier
from ser_ft.models.registry import build_model
from ser_ft.models.spectrogram import SpectrogramForAudioClassification, parameters_by_stage
from ser_ft.pipeline import train
from ser_ft.training.from_scratch import frame_batches, prepare_image_backbone
from ser_ft.training.trainer import TrainableModel, create_optimizer
from ser_ft.utils.errors import InputError
from tests.helpers.training import changed_weights, saved_weights
from tests.helpers.without_ser_ft import answers

CLASSES = ("neutral", "calm", "happy", "sad", "angry", "fear", "disgust", "surprise")
RESNET, EFFICIENT, CONVNEXT = "timm/test_resnet.r160_in1k", "timm/test_efficientnet.r160_in1k", "timm/test_convnext"
ALEXNET = "torchvision/alexnet"
MODES: dict[str, dict[str, Any]] = {"probe": {}, "partial": {"num_top_layers": 2}, "full": {}}
NUM_TRAINED_STAGES = {"probe": 0, "partial": 2, "full": 9}
HEAD = {"classifier.weight", "classifier.bias"}
TRAIN_ROWS = np.arange(8)
CPU = torch.device("cpu")
LSTM = ("--model.name=lstm", "--model.config_overrides={hidden_size: 8, dense_size: 8, dropout: 0}")


def randomize_norms(model: torch.nn.Module) -> torch.nn.Module:
    """Replace weights that timm initializes with zero, so that the layers before them learn in the first step."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    return model


def build(
    name: str,
    tables: list[Any],
    train_rows: np.ndarray = TRAIN_ROWS,
    features: dict[str, Any] | None = None,
    overrides: dict[str, Any] | None = None,
    **tuning: Any,
) -> tuple[TrainableModel, Any, Any]:
    """Prepare an image backbone with random weights; return it with its network and extractor."""
    extractor, model = build_model(name, CLASSES, features or {}, overrides or {}, pretrained=False)
    assert isinstance(model, SpectrogramForAudioClassification)
    randomize_norms(model)
    batch_source = frame_batches(extractor, tables, train_rows, AugmentConfig())
    trainable = prepare_image_backbone(model, batch_source, tables, TuningConfig(**tuning), 3e-3, CPU)
    return trainable, model, extractor


def weights_of_stages(model: Any, count: int) -> set[str]:
    """Return the names of the weights and statistics of the top stages."""
    members = {id(value) for stage in parameters_by_stage(model.backbone)[::-1][:count] for value in stage}
    names = {name for name, value in model.named_parameters() if id(value) in members}
    owners = {name.rpartition(".")[0] for name in names}
    return names | {name for name, _ in model.named_buffers() if name.rpartition(".")[0] in owners}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [RESNET, EFFICIENT, CONVNEXT, ALEXNET])
def test_each_mode_trains_its_stages_only(name: str, mode: str, miniature_folder: Path) -> None:
    """Frozen stages stay unchanged to the bit, with their running statistics."""
    torch.manual_seed(0)
    table = open_prepared(miniature_folder).select(range(10))
    overrides = {"head_dropout": 0.0}
    trainable, model, _ = build(
        name, [table], overrides=overrides, mode=mode, cache=False, learning_rate=0.01, **MODES[mode]
    )
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = create_optimizer([(values, 0.01) for values, _ in trainable.learning_rates], 0.01, CPU)
    for _ in range(2):
        model.train()
        for module in trainable.frozen_modules:
            module.training = False
        model(**trainable.batch_source.collate(TRAIN_ROWS.tolist(), 0)).logits.square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    expected = HEAD | weights_of_stages(model, NUM_TRAINED_STAGES[mode])
    assert changed_weights(before, model.state_dict()) == expected
    trained = {id(value) for group in optimizer.param_groups for value in group["params"]}
    with_gradient = {id(value) for value in model.parameters() if value.requires_grad}
    assert trained == with_gradient, "a gradient is computed in vain, or a weight never changes"


def test_learning_rates_and_weight_decay_by_stage(miniature_folder: Path) -> None:
    table = open_prepared(miniature_folder).select(range(2))
    tuning = {"mode": "full", "learning_rate": 1e-4, "layer_decay": 0.5}
    trainable, model, _ = build(RESNET, [table], **tuning)
    groups = create_optimizer(trainable.learning_rates, 0.02, CPU).param_groups
    names = {id(value): name for name, value in model.named_parameters()}
    group_of = {names[id(value)]: group for group in groups for value in group["params"]}
    assert len(group_of) == sum(len(group["params"]) for group in groups), "a parameter is in two groups"
    assert group_of.keys() == {name for name, _ in model.named_parameters()}
    stages = parameters_by_stage(model.backbone)[::-1]
    depths = {names[id(value)]: depth for depth, stage in enumerate(stages) for value in stage}
    assert set(depths.values()) == {0, 1, 2, 3, 4}
    for name, group in group_of.items():
        rate = 1e-4 * 0.5 ** depths[name] if name in depths else 3e-3
        assert group["lr"] == pytest.approx(rate, rel=1e-12), name
        assert group["weight_decay"] == (0.02 if model.get_parameter(name).ndim > 1 else 0.0), name
    assert groups[0]["lr"] == 3e-3, "the history shows the learning rate of the head"


def test_more_stages_than_the_backbone_has_are_refused(miniature_folder: Path) -> None:
    table = open_prepared(miniature_folder).select(range(2))
    with pytest.raises(InputError, match=r"tuning\.num_top_layers is 6, but the backbone has 5 stages"):
        build(RESNET, [table], mode="partial", num_top_layers=6)


@pytest.mark.parametrize("overrides", [{}, {"patch_frames": 96}])
def test_cached_outputs_of_a_frozen_backbone_give_the_models_logits(
    overrides: dict[str, Any], miniature_folder: Path
) -> None:
    """Otherwise the saved model would differ from the one that was trained."""
    torch.manual_seed(0)
    table = open_prepared(miniature_folder).select(range(40))
    tables = [table.select(range(40)), table.select(range(8, 20))]
    trainable, model, extractor = build(RESNET, tables, overrides=overrides, mode="probe")
    trainable.model.eval()
    assert trainable.finish() is model
    with torch.inference_mode():
        logits = trainable.model(**trainable.batch_source.collate(range(52))).logits
        for row, source in ((0, 0), (7, 7), (31, 31), (39, 39), (40, 8), (51, 19)):
            waveform = audio.from_wav(table[source]["audio"]["bytes"])
            expected = model(**extractor(waveform, return_tensors="pt")).logits[0]
            torch.testing.assert_close(logits[row], expected, atol=1e-4, rtol=1e-4)
    assert logits.std(dim=0).min() > 1e-4, "all clips have the same logits: the test would show nothing"


def test_outputs_are_cached_once_for_the_same_weights_and_features(
    miniature_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another fold has another standardization, another checkpoint other weights: stale outputs would be wrong."""
    counts: list[int] = []
    encode = SpectrogramForAudioClassification.encode

    def count(self: Any, features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        counts.append(len(features))
        return encode(self, features, lengths)

    monkeypatch.setattr(SpectrogramForAudioClassification, "encode", count)
    table = open_prepared(miniature_folder).select(range(12))

    def computed(seed: int = 0, train_rows: np.ndarray = TRAIN_ROWS, f_min: float = 20.0, **overrides: Any) -> int:
        counts.clear()
        torch.manual_seed(seed)
        build(RESNET, [table], train_rows, {"f_min": f_min}, overrides, mode="probe")
        return sum(counts)

    assert computed() in (0, 12), "another test may have computed them"
    assert computed() == 0
    assert computed(head_dropout=0.5) == 0, "the cached outputs do not depend on the head"
    for change in ({"seed": 1}, {"train_rows": np.arange(5)}, {"patch_frames": 64}, {"f_min": 50.0}):
        assert computed(**change) == 12, change
    # Another version of the code may compute other frames with the same settings.
    monkeypatch.setattr("ser_ft.dataloading.cache.get_relative_import_files", lambda file: [file])
    assert computed() == 12


def run(table: Path, out: Path, *more: str) -> RunFolder:
    split = ["--split.kind=kfold", "--split.folds=2", "--split.validation=0"]
    settings = ["--train.epochs=1", "--train.early_stopping_patience=null", "--baselines=[]"]
    return train(parse([f"--data.prepared={table}", f"--out={out}", *split, *settings, *more], "test"), False).folder


IMAGE = (f"--model.name={RESNET}", "--model.pretrained=false", "--train.batch_size=32")


def test_a_probe_with_cache_trains_as_one_without(ravdess_table: Path, tmp_path: Path) -> None:
    """The cache groups clips by duration, and rounding differs."""
    more = (*IMAGE, "--tuning.mode=probe", "--model.config_overrides={head_dropout: 0.0}", "--train.epochs=2")
    cached, uncached = (
        run(ravdess_table, tmp_path / value, *more, f"--tuning.cache={value}") for value in ("true", "false")
    )
    losses, other_losses = ([line["train_loss"] for line in folder.history] for folder in (cached, uncached))
    assert losses == pytest.approx(other_losses, rel=1e-3)
    classes = list(CLASSES)
    np.testing.assert_allclose(
        cached.predictions[classes].to_numpy(), uncached.predictions[classes].to_numpy(), atol=1e-3
    )


@pytest.fixture(scope="module")
def timm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights saved by timm, of a network whose running statistics are not the initial ones."""
    torch.manual_seed(1)
    network = randomize_norms(timm.create_model("test_resnet"))
    network(torch.randn(8, 3, 64, 64))
    folder = tmp_path_factory.mktemp("timm") / "pretrained"
    timm.models.save_for_hf(network, str(folder), safe_serialization=True)
    return folder


@pytest.mark.parametrize("mode", MODES)
def test_a_saved_model_differs_from_the_pretrained_one_only_where_its_mode_trains(
    mode: str, timm_folder: Path, ravdess_table: Path, tmp_path: Path
) -> None:
    layers = [f"--tuning.{name}={value}" for name, value in MODES[mode].items()]
    more = (f"--model.name={timm_folder}", "--train.batch_size=32", f"--tuning.mode={mode}", *layers)
    folder = run(ravdess_table, tmp_path / "run", *more, "--tuning.learning_rate=0.01")
    _, model = build_model(str(timm_folder), CLASSES, {}, {})
    before, after = model.state_dict(), saved_weights(folder)
    assert after.keys() == before.keys()
    expected = HEAD | weights_of_stages(model, NUM_TRAINED_STAGES[mode])
    assert changed_weights(before, after) == expected
    parameters = sum(value.numel() for value in model.parameters())
    trained = sum(value.numel() for name, value in model.named_parameters() if name in expected)
    assert (folder.metrics["parameters"], folder.metrics["trained_parameters"]) == (parameters, trained)
    assert folder.metrics["model"] == f"pretrained ({mode})"


def test_stages_are_unfrozen_one_after_the_other(timm_folder: Path, ravdess_table: Path, tmp_path: Path) -> None:
    _, model = build_model(str(timm_folder), CLASSES, {}, {})
    before = dict(model.named_parameters())
    for epochs, unfrozen in ((1, 0), (3, 2)):
        more = (f"--model.name={timm_folder}", "--train.batch_size=32", "--tuning.unfreeze_every=1")
        rates = ("--tuning.learning_rate=0.01", f"--train.epochs={epochs}")
        folder = run(ravdess_table, tmp_path / f"run{epochs}", *more, *rates)
        expected = HEAD | (weights_of_stages(model, unfrozen) & before.keys())
        assert changed_weights(before, saved_weights(folder)) == expected, f"after {epochs} epochs"


@pytest.mark.parametrize("setting", ["mixed_precision=bf16", "dataloader_num_workers=1", "max_batch_seconds=20"])
@pytest.mark.parametrize("name", ["lstm", "image", "patches"])
def test_training_options_work(name: str, setting: str, ravdess_table: Path, tmp_path: Path) -> None:
    patches = (*IMAGE, "--model.config_overrides.patch_frames=96")
    model = {"lstm": LSTM, "image": IMAGE, "patches": patches}[name]
    folder = run(ravdess_table, tmp_path / "run", *model, f"--train.{setting}", "--train.max_steps=2")
    assert np.isfinite(folder.history[0]["train_loss"])
    if name == "image":
        label = f"{RESNET}, random weights (full)"
        assert folder.metrics["model"] == label, "tables must not show random weights as transfer learning"


def test_a_run_with_standardization_by_speaker_works(ravdess_table: Path, tmp_path: Path) -> None:
    more = (
        "--model.name=conv1d",
        "--model.config_overrides={channels: [8], dense_size: 8}",
        "--model.feature_extractor.normalize=speaker",
        "--train.max_steps=1",
    )
    folder = run(ravdess_table, tmp_path / "run", *more)
    assert np.isfinite(folder.predictions[list(CLASSES)].to_numpy()).all()


def test_a_run_can_start_from_the_network_of_another_run(ravdess_table: Path, tmp_path: Path) -> None:
    """With learning rates of zero, it predicts the same; a threshold that no longer fits is removed."""
    first = run(ravdess_table, tmp_path / "first", *LSTM)
    assert PretrainedClassifier.load(first.model).threshold is None
    config = json.loads((first.model / "config.json").read_text())
    (first.model / "config.json").write_text(json.dumps(config | {"uncertain_below": 0.47}))
    assert PretrainedClassifier.load(first.model).threshold == 0.47
    second = run(ravdess_table, tmp_path / "second", f"--model.name={first.model}", "--train.learning_rate=0")
    predictions, other_predictions = (folder.predictions[list(CLASSES)].to_numpy() for folder in (first, second))
    np.testing.assert_allclose(predictions, other_predictions, atol=1e-6)
    assert second.metrics["model"] == "first", "the model is named after its run folder"
    assert PretrainedClassifier.load(second.model).threshold is None


@pytest.mark.slow
def test_saved_models_give_the_predictions_of_their_run_without_ser_ft(ravdess_table: Path, tmp_path: Path) -> None:
    models = {
        "stacked": ("--model.name=wide-cnn", "--model.config_overrides={channels: [8, 8]}"),
        "image": IMAGE,
        "probe": (*IMAGE, "--tuning.mode=probe"),
    }
    folders = [run(ravdess_table, tmp_path / name, *more) for name, more in models.items()]
    table = open_prepared(ravdess_table)
    rows = range(0, 60, 7)  # RAVDESS contains all classes: none is masked
    waveforms = [audio.from_wav(table[row]["audio"]["bytes"]) for row in rows]
    results = answers([folder.model for folder in folders], waveforms, tmp_path)
    for folder, scores in zip(folders, results, strict=True):
        predictions = folder.predictions.set_index("id")
        for row, clip_scores in zip(rows, scores, strict=True):
            expected = predictions.loc[table[row]["id"], list(CLASSES)].astype(float).to_dict()
            assert clip_scores == pytest.approx(expected, abs=1e-4), folder.path.name
        assert predictions[list(CLASSES)].to_numpy().std(axis=0).max() > 1e-3
