"""What is trained of an image backbone: its stages, their rates, their statistics; and what a run of ours saves."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

from ser_ft import audio
from ser_ft.config.parser import parse
from ser_ft.config.schema import ModelConfig, Recipe, TrainConfig, TuningConfig
from ser_ft.data.prepare import open_prepared, prepare
from ser_ft.evaluation.run_folder import RunFolder
from ser_ft.models.pretrained import PretrainedClassifier
from ser_ft.models.registry import build_model
from ser_ft.models.spectrogram import SpectrogramForAudioClassification, parameters_by_stage
from ser_ft.pipeline import train
from ser_ft.training.finetuning import TrainableModel
from ser_ft.training.from_scratch import prepare_image_backbone, prepare_network
from ser_ft.utils.errors import InputError
from tests.helpers.without_ser_ft import answers

CLASSES = ("neutral", "calm", "happy", "sad", "angry", "fear", "disgust", "surprise")
RESNET, EFFICIENT, CONVNEXT = "timm/test_resnet.r160_in1k", "timm/test_efficientnet.r160_in1k", "timm/test_convnext"
ALEXNET = "torchvision/alexnet"
MODES: dict[str, dict[str, Any]] = {"probe": {}, "partial": {"num_top_layers": 2}, "full": {}}
TRAIN = np.arange(8)


def without_zeros(model: torch.nn.Module) -> torch.nn.Module:
    """Set what timm begins with zeros, so that what lies before it would learn nothing in the first step."""
    for each in model.modules():
        if isinstance(each, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(each.weight, 0.5, 1.5)
    return model


def set_up(
    name: str, folder: Path, clips: int = 10, settings: TrainConfig | None = None, **tuning: Any
) -> TrainableModel:
    """What the loop would be given for clips of the miniature; without dropout."""
    torch.manual_seed(0)
    recipe = Recipe(
        model=ModelConfig(name=name, pretrained=False, config_overrides={"head_dropout": 0.0}),
        tuning=TuningConfig(**tuning),
        train=settings or TrainConfig(),
    )
    chosen = recipe.model
    extractor, model = build_model(name, CLASSES, {}, chosen.config_overrides, chosen.pretrained)
    assert isinstance(model, SpectrogramForAudioClassification)
    without_zeros(model)
    table = open_prepared(folder).select(range(clips))
    return prepare_image_backbone(model, extractor, [table], TRAIN, recipe, torch.device("cpu"), shown=False)


def step(setup: TrainableModel, optimiser: torch.optim.Optimizer) -> None:
    """One as the loop takes it."""
    setup.model.train()
    for module in setup.still:
        module.training = False
    setup.model(**setup.batch_source.collate(TRAIN.tolist(), 0)).logits.square().sum().backward()
    optimiser.step()
    optimiser.zero_grad()


def of_stages(model: Any, count: int) -> set[str]:
    """Names of the weights and statistics of the top stages."""
    members = {id(each) for stage in parameters_by_stage(model.backbone)[::-1][:count] for each in stage}
    names = {name for name, each in model.named_parameters() if id(each) in members}
    owners = {name.rpartition(".")[0] for name in names}
    return names | {name for name, _ in model.named_buffers() if name.rpartition(".")[0] in owners}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [RESNET, EFFICIENT, CONVNEXT, ALEXNET])
def test_what_is_trained_in_each_mode(name: str, mode: str, miniature_folder: Path) -> None:
    """What is frozen stays as it was to the bit, its running statistics too; all else learns."""
    setup = set_up(name, miniature_folder, mode=mode, cache=False, learning_rate=0.01, **MODES[mode])
    before = {key: value.clone() for key, value in setup.model.state_dict().items()}
    optimiser = torch.optim.AdamW(setup.groups, lr=1e-2)
    for _ in range(2):
        step(setup, optimiser)
    changed = {key for key, value in setup.model.state_dict().items() if not torch.equal(value, before[key])}
    count = {"probe": 0, "partial": 2, "full": 9}[mode]
    assert changed == {"classifier.weight", "classifier.bias"} | of_stages(setup.model, count)
    trained = {id(each) for group in setup.groups for each in group["params"]}
    asking = {id(each) for each in setup.model.parameters() if each.requires_grad}
    assert trained == asking, "a gradient is computed for nothing, or a weight never changes"


def test_rates_and_weight_decay_by_stage(miniature_folder: Path) -> None:
    settings = TrainConfig(learning_rate=3e-3, weight_decay=0.02)
    tuning = {"mode": "full", "learning_rate": 1e-4, "layer_decay": 0.5}
    setup = set_up(RESNET, miniature_folder, 2, settings, **tuning)
    names = {id(each): name for name, each in setup.model.named_parameters()}
    seen = {names[id(each)]: group for group in setup.groups for each in group["params"]}
    assert len(seen) == sum(len(group["params"]) for group in setup.groups), "a parameter is in two groups"
    assert seen.keys() == {name for name, _ in setup.model.named_parameters()}
    depths = {
        names[id(each)]: place
        for place, stage in enumerate(parameters_by_stage(setup.model.backbone)[::-1])
        for each in stage
    }
    assert set(depths.values()) == {0, 1, 2, 3, 4}
    for name, group in seen.items():
        rate = 1e-4 * 0.5 ** depths[name] if name in depths else 3e-3
        assert group["lr"] == pytest.approx(rate, rel=1e-12), name
        assert group["weight_decay"] == (0.02 if setup.model.get_parameter(name).ndim > 1 else 0.0), name
    assert setup.groups[0]["lr"] == 3e-3, "the history shows the first group's rate: the head's"


def test_more_stages_than_there_are_is_one_line(miniature_folder: Path) -> None:
    with pytest.raises(InputError, match=r"tuning\.layers is 6, but the backbone has 5 stages"):
        set_up(RESNET, miniature_folder, 2, mode="partial", num_top_layers=6)


@pytest.mark.parametrize("network", [{}, {"patch_frames": 96}])
def test_sums_of_a_frozen_backbone_give_the_whole_models_answers(
    network: dict[str, Any], miniature_folder: Path
) -> None:
    """Else a probe would be another model when it is saved."""
    torch.manual_seed(0)
    recipe = Recipe(model=ModelConfig(name=RESNET, pretrained=False), tuning=TuningConfig(mode="probe"))
    extractor, model = build_model(RESNET, CLASSES, {}, network, pretrained=False)
    table = open_prepared(miniature_folder).select(range(40))
    tables = [table.select(range(40)), table.select(range(8, 20))]
    setup = prepare_image_backbone(model, extractor, tables, TRAIN, recipe, torch.device("cpu"), shown=False)
    setup.model.eval()
    assert setup.finish() is model
    with torch.inference_mode():
        found = setup.model(**setup.batch_source.collate(range(52))).logits
        for row, source in ((0, 0), (7, 7), (31, 31), (39, 39), (40, 8), (51, 19)):
            sound = audio.from_wav(table[source]["audio"]["bytes"])
            alone = model(**extractor(sound, return_tensors="pt")).logits[0]
            torch.testing.assert_close(found[row], alone, atol=1e-4, rtol=1e-4)
    assert found.std(dim=0).min() > 1e-4, "the clips cannot be told apart: nothing is tested"


def test_sums_are_computed_once_and_are_not_those_of_others(
    miniature_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another fold fits another mean, another checkpoint has other weights: stale sums would be used without a word."""
    found: list[int] = []
    encode = SpectrogramForAudioClassification.encode

    def counted(self: Any, features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        found.append(len(features))
        return encode(self, features, lengths)

    monkeypatch.setattr(SpectrogramForAudioClassification, "encode", counted)

    def computed(seed: int = 0, train: np.ndarray = TRAIN, f_min: float = 20.0, **network: Any) -> int:
        found.clear()
        torch.manual_seed(seed)
        recipe = Recipe(model=ModelConfig(name=RESNET, pretrained=False), tuning=TuningConfig(mode="probe"))
        extractor, model = build_model(RESNET, CLASSES, {"f_min": f_min}, network, pretrained=False)
        table = open_prepared(miniature_folder).select(range(12))
        prepare_image_backbone(model, extractor, [table], train, recipe, torch.device("cpu"), shown=False)
        return sum(found)

    first = computed()
    assert first in (0, 12), "another test may have computed them"
    assert computed() == 0
    assert computed(head_dropout=0.5) == 0, "the head is none of their business"
    for changed in ({"seed": 1}, {"train": np.arange(5)}, {"patch_frames": 64}, {"f_min": 50.0}):
        assert computed(**changed) == 12, changed
    # Frames of a corrected version are others under the same settings.
    monkeypatch.setattr("ser_ft.dataloading.cache.get_relative_import_files", lambda file: [file])
    assert computed() == 12


@pytest.fixture(scope="module")
def voices(miniature_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prepared table of RAVDESS's two synthetic speakers: 60 clips, one speaker to train on."""
    folder = tmp_path_factory.mktemp("voices") / "table"
    prepare(miniature_tree / "RAVDESS", folder, verbose=False)
    return folder


def run(table: Path, out: Path, *more: str) -> RunFolder:
    split = ["--split.kind=kfold", "--split.folds=2", "--split.validation=0"]
    fixed = ["--train.epochs=1", "--train.early_stopping_patience=null", "--baselines=[]"]
    return train(parse([f"--data.prepared={table}", f"--out={out}", *split, *fixed, *more], "test"), False).folder


IMAGE = (f"--model.name={RESNET}", "--model.pretrained=false", "--train.batch_size=32")


def test_a_cached_probe_trains_as_an_uncached_one(voices: Path, tmp_path: Path) -> None:
    more = (*IMAGE, "--tuning.mode=probe", "--model.config_overrides={head_dropout: 0.0}", "--train.epochs=2")
    folders = [run(voices, tmp_path / cache, *more, f"--tuning.cache={cache}") for cache in ("true", "false")]
    losses, shares = zip(
        *[
            ([line["train_loss"] for line in folder.history], folder.predictions[list(CLASSES)].to_numpy())
            for folder in folders
        ],
        strict=True,
    )
    # Clips of like length share a batch, by seconds; rounding alone is another.
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    np.testing.assert_allclose(shares[0], shares[1], atol=1e-3)


@pytest.fixture(scope="module")
def timm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights as timm saves them: of a network that has seen a little, so that its statistics are its own."""
    torch.manual_seed(1)
    network = without_zeros(timm.create_model("test_resnet"))
    network(torch.randn(8, 3, 64, 64))
    folder = tmp_path_factory.mktemp("timm") / "pretrained"
    timm.models.save_for_hf(network, str(folder), safe_serialization=True)
    return folder


@pytest.mark.parametrize("mode", MODES)
def test_a_run_changes_what_its_mode_trains(mode: str, timm_folder: Path, voices: Path, tmp_path: Path) -> None:
    """In the model that is saved; all else is the pretrained network's, to the bit, its statistics too."""
    layers = [f"--tuning.num_top_layers={MODES[mode]['num_top_layers']}"] if MODES[mode] else []
    more = (f"--model.name={timm_folder}", "--train.batch_size=32", f"--tuning.mode={mode}", *layers)
    folder = run(voices, tmp_path / "run", *more, "--tuning.learning_rate=0.01")
    after = load_file(folder.model / "model.safetensors")
    _, model = build_model(str(timm_folder), CLASSES, {}, {})
    before = model.state_dict()
    assert after.keys() == before.keys()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    count = {"probe": 0, "partial": 2, "full": 9}[mode]
    expected = {"classifier.weight", "classifier.bias"} | of_stages(model, count)
    assert changed == expected
    whole = sum(each.numel() for each in model.parameters())
    trained = sum(each.numel() for name, each in model.named_parameters() if name in expected)
    assert (folder.metrics["parameters"], folder.metrics["trained_parameters"]) == (whole, trained)
    assert folder.metrics["model"] == f"pretrained ({mode})"


def test_stages_are_freed_one_after_the_other(timm_folder: Path, voices: Path, tmp_path: Path) -> None:
    _, model = build_model(str(timm_folder), CLASSES, {}, {})
    before = dict(model.named_parameters())
    for epochs, freed in ((1, 0), (3, 2)):
        more = (f"--model.name={timm_folder}", "--train.batch_size=32", "--tuning.unfreeze_every=1")
        rates = ("--tuning.learning_rate=0.01", f"--train.epochs={epochs}")
        folder = run(voices, tmp_path / f"run{epochs}", *more, *rates)
        after = load_file(folder.model / "model.safetensors")
        changed = {key for key in before if not torch.equal(before[key], after[key])}
        expected = {"classifier.weight", "classifier.bias"} | (of_stages(model, freed) & before.keys())
        assert changed == expected, f"after {epochs} epochs"


def test_random_weights_are_called_so(voices: Path, tmp_path: Path) -> None:
    """A table must not show them as transfer learning."""
    folder = run(voices, tmp_path / "run", *IMAGE)
    assert folder.metrics["model"] == f"{RESNET}, random weights, not transfer (full)"


@pytest.mark.parametrize(
    "setting", ["--train.mixed_precision=bf16", "--train.dataloader_num_workers=1", "--train.max_batch_seconds=20"]
)
@pytest.mark.parametrize("name", ["lstm", "image", "patches"])
def test_options_of_training_run(name: str, setting: str, voices: Path, tmp_path: Path) -> None:
    models = {"lstm": ("--model.name=lstm", "--model.config_overrides={hidden_size: 8, dense_size: 8}"), "image": IMAGE}
    model = models.get(name, (*IMAGE, "--model.config_overrides.patch_frames=96"))
    folder = run(voices, tmp_path / "run", *model, setting)
    assert np.isfinite(folder.history[0]["train_loss"])


def test_each_speaker_by_their_own_clips_in_a_run(voices: Path, tmp_path: Path) -> None:
    more = (
        "--model.name=conv1d",
        "--model.config_overrides={channels: [8], dense_size: 8}",
        "--model.feature_extractor.normalize=speaker",
    )
    folder = run(voices, tmp_path / "run", *more)
    assert np.isfinite(folder.predictions[list(CLASSES)].to_numpy()).all()


def test_a_run_goes_on_from_another_runs_network(voices: Path, tmp_path: Path) -> None:
    """From its weights: with rates of zero it gives the answers that the other gave, on the same split."""
    model = ("--model.name=lstm", "--model.config_overrides={hidden_size: 8, dense_size: 8, dropout: 0}")
    first = run(voices, tmp_path / "first", *model)
    still = (f"--model.name={first.model}", "--train.learning_rate=0")
    second = run(voices, tmp_path / "second", *still)
    ours, theirs = (folder.predictions[list(CLASSES)].to_numpy() for folder in (first, second))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    # A run's "model" folder is called by its run.
    assert second.metrics["model"] == "first"


def test_a_threshold_is_of_the_run_that_fitted_it(voices: Path, tmp_path: Path) -> None:
    """Trained further without validation, a model's answers are others: what they may be trusted from is not known."""
    first = run(
        voices, tmp_path / "first", "--model.name=lstm", "--model.config_overrides={hidden_size: 8, dense_size: 8}"
    )
    assert PretrainedClassifier.load(first.model).threshold is None
    config = json.loads((first.model / "config.json").read_text())
    (first.model / "config.json").write_text(json.dumps(config | {"uncertain_below": 0.47}))
    assert PretrainedClassifier.load(first.model).threshold == 0.47
    second = run(voices, tmp_path / "second", f"--model.name={first.model}")
    assert PretrainedClassifier.load(second.model).threshold is None


@pytest.mark.slow
def test_strangers_give_the_runs_own_predictions(voices: Path, tmp_path: Path) -> None:
    """From raw sound, without ser_ft: with the mean and scale that were fitted on the training speakers."""
    models = {
        "stacked": ("--model.name=wide-cnn", "--model.config_overrides={channels: [8, 8]}"),
        "image": IMAGE,
        "probe": (*IMAGE, "--tuning.mode=probe"),
    }
    folders = [run(voices, tmp_path / name, *more) for name, more in models.items()]
    table = open_prepared(voices)
    rows = range(0, 60, 7)  # RAVDESS can hold all classes: nothing is masked
    sounds = [audio.from_wav(table[row]["audio"]["bytes"]) for row in rows]
    said = answers([folder.model for folder in folders], sounds, tmp_path)
    for folder, shares in zip(folders, said, strict=True):
        told = folder.predictions.set_index("id")
        for row, found in zip(rows, shares, strict=True):
            expected = told.loc[table[row]["id"], list(CLASSES)].astype(float).to_dict()
            assert found == pytest.approx(expected, abs=1e-4), folder.path.name
    assert told[list(CLASSES)].to_numpy().std(axis=0).max() > 1e-3


def test_all_of_a_classic_network_is_trained(miniature_table: Any) -> None:
    recipe_of = Recipe(train=TrainConfig(learning_rate=2e-3, weight_decay=0.1))
    extractor, model = build_model("residual-cnn", CLASSES, {}, {"channels": [8, 8]})
    setup = prepare_network(model, extractor, [miniature_table.select(range(4))], np.arange(3), recipe_of, shown=False)
    members = [id(each) for group in setup.groups for each in group["params"]]
    assert sorted(members) == sorted(id(each) for each in model.parameters())
    assert {group["lr"] for group in setup.groups} == {2e-3}
    for group in setup.groups:
        assert all((each.ndim > 1) == (group["weight_decay"] == 0.1) for each in group["params"])
