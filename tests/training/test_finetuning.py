"""Fine-tuning of speech encoders: which weights each mode trains and how fast, and that they learn."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ser_ft.config.parser import parse
from ser_ft.config.schema import AugmentConfig, ModelConfig, TuningConfig
from ser_ft.data.prepare import open_prepared
from ser_ft.evaluation.run_folder import RunFolder
from ser_ft.models import encoder_spec, encoders
from ser_ft.models.encoders import EncoderParts
from ser_ft.pipeline import train
from ser_ft.training.finetuning import find_encoder, prepare_encoder
from ser_ft.training.trainer import TrainableModel, create_optimizer
from ser_ft.utils.errors import InputError
from tests.helpers.tiny_encoders import FAMILIES
from tests.helpers.training import assert_same_run, changed_weights, interrupted_at, saved_weights

CLASSES = ("neutral", "calm", "happy", "sad", "angry", "fear", "disgust", "surprise")
MODES: dict[str, dict[str, Any]] = {"probe": {}, "partial": {"num_top_layers": 2}, "full": {}, "lora": {}}
DETERMINISTIC = ["--tuning.dropout=0", "--model.config_overrides={mask_time_prob: 0.0}"]
# The bias of the keys shifts all attention scores of a query equally and so has no effect.
NO_EFFECT = ("k_proj.bias", "key.bias", "linear_k.bias")
CPU = torch.device("cpu")


def run(table: Path, backbone: Path, out: Path, mode: str, *more: str) -> RunFolder:
    arguments = [
        f"--data.prepared={table}",
        f"--model.name={backbone}",
        f"--out={out}",
        "--split.kind=kfold",
        "--split.folds=2",
        "--split.validation=0",
        "--train.early_stopping_patience=null",
        "--baselines=[]",
        f"--tuning.mode={mode}",
        *[f"--tuning.{name}={value}" for name, value in MODES[mode].items()],
        *more,
    ]
    return train(parse(arguments, "test"), verbose=False).folder


def load(backbone: Path, tuning: TuningConfig, **settings: Any) -> tuple[Any, Any]:
    """Return an encoder with a head, and its feature extractor."""
    spec = find_encoder(ModelConfig(str(backbone), **settings), tuning, CLASSES)
    return encoders.load_encoder(spec), spec.extractor


def prepared(backbone: Path, table: Path, clips: int = 6, model: Any = None, **settings: Any) -> TrainableModel:
    """Prepare an encoder without dropout, on the first clips of a table."""
    torch.manual_seed(0)
    tuning = TuningConfig(dropout=0.0, **settings)
    loaded, extractor = load(backbone, tuning)
    clips_table = open_prepared(table).select(range(clips))
    return prepare_encoder(model or loaded, extractor, [clips_table], tuning, AugmentConfig(), 3e-3, CPU)


def backward(trainable: TrainableModel) -> None:
    rows = range(len(trainable.batch_source.lengths))
    trainable.model(**trainable.batch_source.collate(rows)).logits.square().sum().backward()


def weights_changed_by_two_steps(
    family: str, mode: str, get: Callable[[str], Path], table: Path, **tuning: Any
) -> set[str]:
    trainable = prepared(get(family), table, **MODES[mode], mode=mode, **tuning)
    before = {name: value.clone() for name, value in trainable.model.state_dict().items()}
    optimizer = create_optimizer([(values, 0.01) for values, _ in trainable.learning_rates], 0.01, CPU)
    trainable.model.train()
    for module in trainable.frozen_modules:
        module.training = False
    for _ in range(2):
        backward(trainable)
        optimizer.step()
        optimizer.zero_grad()
    return changed_weights(before, trainable.model.state_dict())


def trainable_weights(
    family: str, mode: str, get: Callable[[str], Path], train_feature_encoder: bool = False
) -> set[str]:
    """Return the names of the weights that a mode is expected to train."""
    torch.manual_seed(0)
    parts = EncoderParts.of(encoders.load_encoder(encoder_spec.find_encoder(str(get(family)), CLASSES)))
    members = {id(value) for value in parts.head}
    modules = {"partial": [*parts.layers[-2:], *parts.final_norms], "full": [parts.backbone]}[mode]
    members |= {id(value) for module in modules for value in (*module.parameters(), *module.buffers())}
    if parts.feature_encoder is not None and not train_feature_encoder:
        members -= {id(value) for value in parts.feature_encoder.parameters()}
    names = {name for name, value in parts.model.state_dict(keep_vars=True).items() if id(value) in members}
    # Whisper's positions are frozen sinusoids; the conformer has a convolution that it never calls.
    # The weight of a single layer has no effect, and the head's statistics are not trained.
    unused = ("embed_positions.weight", "layer_weights", *NO_EFFECT)
    return {name for name in names if not name.endswith(unused) and "conformer.encoder.pos_conv_embed" not in name}


@pytest.mark.parametrize("mode", ["partial", "full"])
@pytest.mark.parametrize(
    "family", ["wav2vec2-large", "hubert", "wavlm", "data2vec-audio", "wav2vec2-conformer", *FAMILIES[-4:]]
)
def test_each_family_trains_the_weights_of_its_mode(
    family: str, mode: str, tiny_encoder: Callable[[str], Path], ravdess_table: Path
) -> None:
    changed = weights_changed_by_two_steps(family, mode, tiny_encoder, ravdess_table)
    changed = {name for name in changed if not name.endswith(NO_EFFECT) and not name.startswith("norm.")}
    masks = {name for name in changed if name.endswith("masked_spec_embed")} if mode == "full" else set()
    expected = trainable_weights(family, mode, tiny_encoder)
    assert changed - masks == {name for name in expected if not name.endswith("masked_spec_embed")}


def test_the_feature_encoder_is_trained_on_request(tiny_encoder: Callable[[str], Path], ravdess_table: Path) -> None:
    changed = weights_changed_by_two_steps("hubert", "full", tiny_encoder, ravdess_table, train_feature_encoder=True)
    expected = trainable_weights("hubert", "full", tiny_encoder, train_feature_encoder=True)
    assert changed >= {name for name in expected if "masked" not in name}
    assert sum("feature_extractor" in name for name in changed) == 9


@pytest.mark.parametrize("mode", MODES)
def test_a_saved_model_differs_from_the_checkpoint_only_where_its_mode_trains(
    mode: str, tiny_encoder: Callable[[str], Path], ravdess_table: Path, tmp_path: Path
) -> None:
    rate = "--tuning.learning_rate=0.01"
    folder = run(ravdess_table, tiny_encoder("hubert"), tmp_path / "run", mode, "--train.max_steps=2", rate)
    checkpoint = load_file(tiny_encoder("hubert") / "model.safetensors")
    before = {f"hubert.{name}": value for name, value in checkpoint.items()}
    after = saved_weights(folder)
    assert before.keys() <= after.keys()
    changed = changed_weights(before, after)
    layers = range(4) if mode != "partial" else (2, 3)
    in_layers = {name for name in before if any(f"encoder.layers.{layer}." in name for layer in layers)}
    expected = {
        "probe": set(),
        "partial": in_layers,
        "full": {name for name in before if "feature_extractor" not in name},
        "lora": {name for name in in_layers if "attention" in name and name.endswith("proj.weight")},
    }
    assert changed == expected[mode]
    if mode == "probe":
        assert after["layer_weights"].unique().numel() > 1
    head = {f"{part}.{kind}" for part in ("projector", "classifier") for kind in ("weight", "bias")}
    assert (after.keys() - before.keys()) - {"layer_weights"} == head
    assert folder.metrics["trained_parameters"] < folder.metrics["parameters"]


def test_learning_rates_and_weight_decay(tiny_encoder: Callable[[str], Path], ravdess_table: Path) -> None:
    """Lower layers have lower rates, the head has its own; biases and normalization layers have no weight decay."""
    torch.manual_seed(0)
    tuning = TuningConfig(learning_rate=1e-4, layer_decay=0.5)
    model, extractor = load(tiny_encoder("hubert-large"), tuning)
    table = open_prepared(ravdess_table).select(range(2))
    trainable = prepare_encoder(model, extractor, [table], tuning, AugmentConfig(), 3e-3, CPU)
    groups = create_optimizer(trainable.learning_rates, 0.02, CPU).param_groups
    names = {id(value): name for name, value in model.named_parameters()}
    group_of = {names[id(value)]: group for group in groups for value in group["params"]}
    assert len(group_of) == sum(len(group["params"]) for group in groups), "a parameter is in two groups"
    assert group_of.keys() == {name for name, value in model.named_parameters() if value.requires_grad}
    for name, group in group_of.items():
        depth = next((3 - layer for layer in range(4) if f"encoder.layers.{layer}." in name), 4)
        depth = 0 if name.startswith("hubert.encoder.layer_norm") else depth
        rate = 1e-4 * 0.5**depth if name.startswith("hubert.") else 3e-3
        assert group["lr"] == pytest.approx(rate, rel=1e-12), name
        assert group["weight_decay"] == (0.02 if model.get_parameter(name).ndim > 1 else 0.0), name
    assert groups[0]["lr"] == 3e-3, "the history shows the learning rate of the head"


def test_layers_are_unfrozen_one_after_the_other(
    tiny_encoder: Callable[[str], Path], ravdess_table: Path, tmp_path: Path
) -> None:
    checkpoint = load_file(tiny_encoder("hubert") / "model.safetensors")
    before = {f"hubert.{name}": value for name, value in checkpoint.items()}
    for epochs, lowest in ((2, 4), (3, 3), (5, 2)):
        more = ("--tuning.unfreeze_every=2", "--tuning.learning_rate=0.01", f"--train.epochs={epochs}")
        folder = run(ravdess_table, tiny_encoder("hubert"), tmp_path / f"run{epochs}", "full", *more)
        unfrozen = {name for name in before for layer in range(lowest, 4) if f"encoder.layers.{layer}." in name}
        assert changed_weights(before, saved_weights(folder)) == unfrozen, f"after {epochs} epochs"


@pytest.mark.parametrize("targets", ["attention", "all"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_adapter_gets_a_gradient_and_is_merged_exactly(
    family: str, targets: str, tiny_encoder: Callable[[str], Path], ravdess_table: Path
) -> None:
    backbone = tiny_encoder(family)
    trainable = prepared(backbone, ravdess_table, mode="lora", lora_targets=targets)
    adapters = {name: value for name, value in trainable.model.named_parameters() if "lora_" in name}
    if targets == "attention":
        assert len(adapters) >= 4 * 2 * 4
    trainable.model.eval()
    batch = trainable.batch_source.collate([0, 1, 2])
    with torch.no_grad():
        without = trainable.model(**batch).logits
    for name, value in adapters.items():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.1)
    backward(trainable)
    unused = [name for name, value in adapters.items() if value.grad is None or not value.grad.any()]
    assert not unused, f"{len(unused)} of {len(adapters)} adapters get no gradient: {unused[:4]}"
    trained = {name for name, value in trainable.model.named_parameters() if value.requires_grad}
    head = ("classifier.", "projector.", "layer_weights")
    assert trained - adapters.keys() == {name for name in trained if name.startswith(head)}
    assert any(name.startswith("classifier.") for name in trained)
    with torch.no_grad():
        before = trainable.model(**batch).logits
        assert (before - without).abs().max() > 1e-3, "the adapters have no effect"
        merged = trainable.finish()
        assert not any("lora" in name for name in merged.state_dict())
        # `finish` removes the hooks that accept cached states: another model gets the weights, with hooks.
        plain, _ = load(backbone, TuningConfig(dropout=0.0))
        plain.load_state_dict(merged.state_dict())
        with_hooks = prepared(backbone, ravdess_table, model=plain)
        after = with_hooks.model.eval()(**batch).logits
    assert (after - before).abs().max() < 1e-5


def test_a_stock_whisper_sees_half_of_its_training_batches_as_the_pipeline_of_transformers_computes_them(
    tiny_encoder: Callable[[str], Path], ravdess_table: Path
) -> None:
    """That is padded to its fixed length of 4 s; it is evaluated at the clip's own length."""
    tuning, table = TuningConfig(mode="full"), open_prepared(ravdess_table).select(range(2))
    model, extractor = load(tiny_encoder("whisper"), tuning, head="stock")
    source = prepare_encoder(model, extractor, [table], tuning, AugmentConfig(), 3e-3, CPU).batch_source
    frames = [source.collate([0], epoch)["input_features"].shape[2] for epoch in range(40)]
    own = source.collate([0])["input_features"].shape[2]
    assert set(frames) == {own, 400}
    assert 10 < frames.count(400) < 30
    assert frames == [source.collate([0], epoch)["input_features"].shape[2] for epoch in range(40)], "after resuming"


def test_automatic_positions_are_those_of_the_longest_training_clip(
    tiny_encoder: Callable[[str], Path], ravdess_table: Path, tmp_path: Path
) -> None:
    """Other clips do not count, and the saved model has the fixed length."""
    options = ["--model.head=stock", "--model.config_overrides={max_source_positions: auto}", "--train.max_steps=1"]
    folder = run(ravdess_table, tiny_encoder("whisper"), tmp_path / "run", "probe", *options)
    durations = dict(zip(*(open_prepared(ravdess_table)[column] for column in ("id", "duration")), strict=True))
    longest = max(durations[clip] for clip in folder.split["parts"]["train"]["clips"])
    config = json.loads((folder.model / "config.json").read_text())
    assert config["max_source_positions"] == min(200, 50 * math.ceil(longest))
    assert json.loads((folder.model / "preprocessor_config.json").read_text())["chunk_length"] == math.ceil(longest)


def test_adapters_of_a_large_model_are_few(ravdess_table: Path) -> None:
    """wav2vec2-base in its true size, without weights: 0.83 % are trained, with the head."""
    from transformers import AutoModelForAudioClassification, Wav2Vec2Config, Wav2Vec2FeatureExtractor

    with torch.device("meta"):
        model = AutoModelForAudioClassification.from_config(Wav2Vec2Config(num_labels=8))
        tuning = TuningConfig(mode="lora", cache=False)
        tables = [open_prepared(ravdess_table).select(range(2))]
        device = torch.device("meta")
        trainable = prepare_encoder(model, Wav2Vec2FeatureExtractor(), tables, tuning, AugmentConfig(), 1e-3, device)
    parameters = sum(value.numel() for value in model.parameters())
    trained = sum(value.numel() for values, _ in trainable.learning_rates for value in values)
    assert parameters > 90e6
    assert trained == 12 * 4 * 2 * 8 * 768 + (768 + 1) * 256 + (256 + 1) * 8
    assert trained / parameters < 0.01


def test_settings_that_do_not_fit_are_refused(tiny_encoder: Callable[[str], Path], ravdess_table: Path) -> None:
    with pytest.raises(InputError, match=r"tuning\.num_top_layers is 5, but the encoder has 4"):
        prepared(tiny_encoder("hubert"), ravdess_table, mode="partial", num_top_layers=5)
    with pytest.raises(InputError, match="no convolutional feature encoder"):
        prepared(tiny_encoder("whisper"), ravdess_table, mode="full", train_feature_encoder=True)


# Epochs, learning rate of the head, learning rate of the encoder.
OVERFITTING = {
    "probe": (50, 0.03, 0),
    "partial": (12, 0.01, 0.003),
    "full": (18, 0.01, 0.002),
    "lora": (16, 0.01, 0.01),
}


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_an_encoder_can_memorize_its_training_clips(
    mode: str, tiny_encoder: Callable[[str], Path], ravdess_table: Path, tmp_path: Path
) -> None:
    epochs, head_rate, encoder_rate = OVERFITTING[mode]
    more = [f"--train.epochs={epochs}", f"--train.learning_rate={head_rate}", f"--tuning.learning_rate={encoder_rate}"]
    more += [*DETERMINISTIC, "--train.label_smoothing=0", "--train.weight_decay=0", "--train.batch_size=4"]
    history = run(ravdess_table, tiny_encoder("wav2vec2-bert"), tmp_path / "run", mode, *more).history
    assert history[-1]["train_loss"] < 0.5 * history[0]["train_loss"]
    assert history[-1]["train_uar"] > 0.9


@pytest.mark.parametrize(
    ("mode", "family"),
    [
        *[("probe", family) for family in ("wav2vec2", "whisper", "wav2vec2-bert")],
        ("full", "wav2vec2"),  # its convolutions are frozen; the other families have nothing to cache
        *[("partial", family) for family in ("wav2vec2", "wavlm-large", "whisper", "wav2vec2-bert")],
        ("probe with dropout", "wav2vec2"),
        ("partial with chosen layers", "hubert"),
        ("partial with stock head", "whisper"),
    ],
)
def test_training_with_cache_is_training_without(
    mode: str, family: str, tiny_encoder: Callable[[str], Path], ravdess_table: Path, tmp_path: Path
) -> None:
    """The losses are equal up to half precision. Frozen layers have no dropout, cached or not."""
    mode, _, option = mode.partition(" with ")
    settings = ["--tuning.dropout=0"] if family == "whisper" else DETERMINISTIC
    settings = ["--tuning.dropout=0.5"] if option == "dropout" else settings
    settings = [*settings, "--model.head=stock"] if option == "stock head" else settings
    if option == "chosen layers":
        settings = [*settings, "--model.head=statistics", "--model.layers=[2, 4]"]
    losses = []
    for cache in ("true", "false"):
        # One batch holds all clips, whatever their order.
        more = ["--train.epochs=2", "--train.batch_size=64", "--train.warmup_ratio=0", f"--tuning.cache={cache}"]
        folder = run(ravdess_table, tiny_encoder(family), tmp_path / cache, mode, *settings, *more)
        losses.append([line["train_loss"] for line in folder.history])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize(
    "setting", ["mixed_precision=bf16", "max_batch_seconds=6", "dataloader_num_workers=1", "balanced=true"]
)
def test_training_options_work(
    setting: str, tiny_encoder: Callable[[str], Path], ravdess_table: Path, tmp_path: Path
) -> None:
    more = (f"--train.{setting}", "--train.max_steps=1")
    folder = run(ravdess_table, tiny_encoder("wavlm"), tmp_path / "run", "full", *more)
    assert np.isfinite(folder.history[0]["train_loss"])


def test_compiled_layers_train_as_others(
    tiny_encoder: Callable[[str], Path], ravdess_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a backend that runs the traced graph without generating code, which takes a minute."""
    compiled: list[torch.nn.Module] = []
    compile_module = torch.nn.Module.compile

    def compile_without_code(module: torch.nn.Module, **options: Any) -> None:
        compiled.append(module)
        compile_module(module, backend="eager", **options)

    monkeypatch.setattr(torch.nn.Module, "compile", compile_without_code)
    losses = []
    for value in ("true", "false"):
        more = [*DETERMINISTIC, "--tuning.num_top_layers=1", "--train.max_steps=1", f"--train.compile={value}"]
        folder = run(ravdess_table, tiny_encoder("hubert"), tmp_path / value, "partial", *more)
        losses.append(folder.history[0]["train_loss"])
    assert len(compiled) == 4
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_an_interrupted_run_with_dropout_and_masks_ends_the_same(
    mode: str, tiny_encoder: Callable[[str], Path], ravdess_table: Path, tmp_path: Path
) -> None:
    more = ["--tuning.dropout=0.2", "--model.config_overrides={mask_time_prob: 0.3}", "--train.save_steps=3"]
    more += ["--train.epochs=2", "--train.batch_size=8"]
    backbone = tiny_encoder("wav2vec2-large")
    whole = run(ravdess_table, backbone, tmp_path / "whole", mode, *more)
    with interrupted_at(whole.history[-1]["step"] - 1):
        run(ravdess_table, backbone, tmp_path / "interrupted", mode, *more)
    assert_same_run(whole, run(ravdess_table, backbone, tmp_path / "interrupted", mode, *more, "--resume"))
