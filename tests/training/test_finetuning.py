"""What is trained of an encoder, and at which rate: that alone changes, it learns, and it goes on after a kill."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ser_ft.cli import train as main
from ser_ft.config.parser import parse
from ser_ft.config.schema import ModelConfig, Recipe, TrainConfig, TuningConfig
from ser_ft.data.prepare import open_prepared, prepare
from ser_ft.evaluation.run_folder import RunFolder
from ser_ft.models import encoders
from ser_ft.models.encoders import EncoderParts
from ser_ft.pipeline import train
from ser_ft.training.finetuning import TrainableModel, find_encoder, prepare_encoder
from ser_ft.utils.errors import InputError
from tests.helpers.tiny_encoders import FAMILIES, write_tiny_backbone

ROOT = Path(__file__).parents[2]
CLASSES = ("neutral", "calm", "happy", "sad", "angry", "fear", "disgust", "surprise")
MODES: dict[str, dict[str, Any]] = {"probe": {}, "partial": {"num_top_layers": 2}, "full": {}, "lora": {}}
PLAIN = ["--tuning.dropout=0", "--model.config_overrides={mask_time_prob: 0.0}"]
# Attention weighs keys against each other: what is added to all of them changes nothing.
_NO_EFFECT = "k_proj.bias", "key.bias", "linear_k.bias"


@pytest.fixture(scope="module")
def voices(miniature_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prepared table of RAVDESS's two synthetic speakers: 60 clips."""
    folder = tmp_path_factory.mktemp("voices") / "table"
    prepare(miniature_tree / "RAVDESS", folder, verbose=False)
    return folder


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("backbones")

    def get(family: str) -> Path:
        return folder / family if (folder / family).exists() else write_tiny_backbone(family, folder / family)

    return get


def recipe(table: Path, backbone: Path, out: Path, mode: str, *more: str) -> list[str]:
    return [
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


def run(*arguments: Any) -> RunFolder:
    return train(parse(recipe(*arguments), "test"), verbose=False).folder


def saved(folder: RunFolder) -> dict[str, torch.Tensor]:
    return load_file(folder.model / "model.safetensors")


def set_up(
    backbone: Path, voices: Path, network: Mapping[str, Any] | None = None, clips: int = 6, **tuning: Any
) -> TrainableModel:
    """What the loop would be given, without dropout; the stock model is in `Setup.model`."""
    torch.manual_seed(0)
    settings = Recipe(
        model=ModelConfig(name=str(backbone), config_overrides=dict(network or {})),
        tuning=TuningConfig(dropout=0.0, **tuning),
    )
    found = find_encoder(settings, CLASSES)
    model = encoders.load_encoder(found)
    table = open_prepared(voices).select(range(clips))
    return prepare_encoder(model, found.extractor, [table], settings, torch.device("cpu"), shown=False)


def backward(setup: TrainableModel) -> torch.Tensor:
    rows = range(len(setup.batch_source.lengths))
    loss = setup.model(**setup.batch_source.collate(rows)).logits.square().sum()
    loss.backward()
    return loss.detach()


def changed(family: str, mode: str, folder_of: Callable[[str], Path], voices: Path, **tuning: Any) -> set[str]:
    """Names of the stock model's weights that two steps change."""
    setup = set_up(folder_of(family), voices, **MODES[mode], mode=mode, **tuning)
    before = {name: value.clone() for name, value in setup.model.state_dict().items()}
    optimiser = torch.optim.AdamW(setup.groups, lr=1e-2)
    setup.model.train()
    for module in setup.still:
        module.training = False
    for _ in range(2):
        backward(setup)
        optimiser.step()
        optimiser.zero_grad()
    after = setup.model.state_dict()
    return {name for name, value in after.items() if not torch.equal(value, before[name])}


def expected(family: str, mode: str, folder_of: Callable[[str], Path], convolutions: bool = False) -> set[str]:
    torch.manual_seed(0)
    parts = EncoderParts.of(encoders.load_encoder(encoders.find_encoder(str(folder_of(family)), CLASSES)))
    wanted = {id(value) for value in parts.head}
    modules = {"partial": [*parts.layers[-2:], *parts.final_norms], "full": [parts.backbone]}[mode]
    wanted |= {id(value) for module in modules for value in (*module.parameters(), *module.buffers())}
    if parts.feature_encoder is not None and not convolutions:
        wanted -= {id(value) for value in parts.feature_encoder.parameters()}
    names = {name for name, value in parts.model.state_dict(keep_vars=True).items() if id(value) in wanted}
    # Whisper's positions are sines, and frozen by its makers; the conformer has a convolution that it never calls.
    idle = ("embed_positions.weight", *_NO_EFFECT)
    return {name for name in names if not name.endswith(idle) and "conformer.encoder.pos_conv_embed" not in name}


@pytest.mark.parametrize("mode", ["partial", "full"])
@pytest.mark.parametrize(
    "family", ["wav2vec2-large", "hubert", "wavlm", "data2vec-audio", "wav2vec2-conformer", *FAMILIES[-4:]]
)
def test_what_is_trained_in_each_family(family: str, mode: str, folder_of: Callable[[str], Path], voices: Path) -> None:
    """A layer forgotten learns nothing without a word; one too many is not what the report says was trained."""
    found = {name for name in changed(family, mode, folder_of, voices) if not name.endswith(_NO_EFFECT)}
    masks = {name for name in found if name.endswith("masked_spec_embed")} if mode == "full" else set()
    assert found - masks == {n for n in expected(family, mode, folder_of) if not n.endswith("masked_spec_embed")}


def test_convolutions_are_trained_when_asked_for(folder_of: Callable[[str], Path], voices: Path) -> None:
    found = changed("hubert", "full", folder_of, voices, train_feature_encoder=True)
    assert found >= {name for name in expected("hubert", "full", folder_of, True) if "masked" not in name}
    assert sum("feature_extractor" in name for name in found) == 9


@pytest.mark.parametrize("mode", MODES)
def test_a_run_changes_what_its_mode_trains(
    mode: str, folder_of: Callable[[str], Path], voices: Path, tmp_path: Path
) -> None:
    """In the model that is saved; all else is the checkpoint's, to the bit."""
    folder = run(voices, folder_of("hubert"), tmp_path / "run", mode, "--train.epochs=1", "--tuning.learning_rate=0.01")
    before = {f"hubert.{name}": value for name, value in load_file(folder_of("hubert") / "model.safetensors").items()}
    after = saved(folder)
    assert before.keys() <= after.keys()
    found = {name for name, value in before.items() if not torch.equal(after[name], value)}
    layers = range(4) if mode != "partial" else (2, 3)
    of_layers = {name for name in before if any(f"encoder.layers.{layer}." in name for layer in layers)}
    if mode == "probe":
        assert not found
        assert after["layer_weights"].unique().numel() > 1
    elif mode == "lora":
        assert found == {name for name in of_layers if "attention" in name and name.endswith("proj.weight")}
    elif mode == "partial":
        assert found == of_layers
    else:
        assert found == {name for name in before if "feature_extractor" not in name}
    heads = after.keys() - before.keys()
    assert heads - {"layer_weights"} == {
        f"{part}.{kind}" for part in ("projector", "classifier") for kind in ("weight", "bias")
    }
    assert folder.metrics["trained_parameters"] < folder.metrics["parameters"]


def test_rates_and_weight_decay(folder_of: Callable[[str], Path], voices: Path) -> None:
    """Lower layers at lower rates, the head at its own; no decay of biases and normalisation."""
    torch.manual_seed(0)
    settings = Recipe(
        model=ModelConfig(name=str(folder_of("hubert-large"))),
        tuning=TuningConfig(learning_rate=1e-4, layer_decay=0.5),
        train=TrainConfig(learning_rate=3e-3, weight_decay=0.02),
    )
    found = find_encoder(settings, CLASSES)
    model = encoders.load_encoder(found)
    setup = prepare_encoder(
        model, found.extractor, [open_prepared(voices).select(range(2))], settings, torch.device("cpu"), shown=False
    )
    names = {id(value): name for name, value in model.named_parameters()}
    seen = {names[id(value)]: group for group in setup.groups for value in group["params"]}
    assert len(seen) == sum(len(group["params"]) for group in setup.groups), "a parameter is in two groups"
    assert seen.keys() == {name for name, value in model.named_parameters() if value.requires_grad}
    for name, group in seen.items():
        value = model.get_parameter(name)
        depth = next((3 - layer for layer in range(4) if f"encoder.layers.{layer}." in name), 4)
        depth = 0 if name.startswith("hubert.encoder.layer_norm") else depth
        rate = 1e-4 * 0.5**depth if name.startswith("hubert.") else 3e-3
        assert group["lr"] == pytest.approx(rate, rel=1e-12), name
        assert group["weight_decay"] == (0.02 if value.ndim > 1 else 0.0), name
    assert setup.groups[0]["lr"] == 3e-3, "the history shows the first group's rate: the head's"


def test_layers_are_freed_one_after_the_other(folder_of: Callable[[str], Path], voices: Path, tmp_path: Path) -> None:
    before = {f"hubert.{name}": value for name, value in load_file(folder_of("hubert") / "model.safetensors").items()}
    for epochs, lowest in ((1, 4), (2, 4), (3, 3), (5, 2)):
        folder = run(
            voices,
            folder_of("hubert"),
            tmp_path / f"run{epochs}",
            "full",
            "--tuning.unfreeze_every=2",
            "--tuning.learning_rate=0.01",
            f"--train.epochs={epochs}",
        )
        after = saved(folder)
        found = {name for name, value in before.items() if not torch.equal(after[name], value)}
        freed = {name for name in before for layer in range(lowest, 4) if f"encoder.layers.{layer}." in name}
        assert found == freed, f"after {epochs} epochs"


@pytest.mark.parametrize("targets", ["attention", "all"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_adapter_learns_and_merges(
    family: str, targets: str, folder_of: Callable[[str], Path], voices: Path
) -> None:
    """An adapter that the forward pass goes round trains nothing; one that merges wrongly is another model."""
    setup = set_up(folder_of(family), voices, mode="lora", lora_targets=targets)
    adapters = {name: value for name, value in setup.model.named_parameters() if "lora_" in name}
    per_layer = {"attention": 4, "all": 6}[targets]
    if targets == "attention":
        assert len(adapters) >= 4 * 2 * per_layer
    for name, value in adapters.items():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.1)
    setup.model.eval()
    backward(setup)
    idle = [name for name, value in adapters.items() if value.grad is None or not value.grad.any()]
    assert not idle, f"{len(idle)} of {len(adapters)} adapters get no gradient: {idle[:4]}"
    trained = {name for name, value in setup.model.named_parameters() if value.requires_grad}
    assert trained == adapters.keys() | {n for n in trained if n.startswith(("classifier.", "projector."))}
    assert any(name.startswith("classifier.") for name in trained)
    batch = setup.batch_source.collate([0, 1, 2])
    with torch.no_grad():
        before = setup.model(**batch).logits
        model = setup.finish()
        assert not any("lora" in name for name in model.state_dict())
        # Both from sound: the rig that takes states is off now.
        merged = set_up(folder_of(family), voices, mode="lora", lora_targets=targets)
        plain = merged.finish()
        plain.load_state_dict(model.state_dict())
        rig_of_plain = set_up_like(plain, folder_of(family), voices)
        after = rig_of_plain.model.eval()(**batch).logits
    assert (after - before).abs().max() < 1e-5


def set_up_like(model: Any, backbone: Path, voices: Path) -> TrainableModel:
    """The same way in, for a model whose weights are there already."""
    settings = Recipe(model=ModelConfig(name=str(backbone)), tuning=TuningConfig(dropout=0.0))
    extractor = find_encoder(settings, CLASSES).extractor
    table = open_prepared(voices).select(range(6))
    return prepare_encoder(model, extractor, [table], settings, torch.device("cpu"), shown=False)


def test_adapters_of_a_large_model_are_few(voices: Path) -> None:
    """Of wav2vec2-base in its true size, counted without its weights: 0.83 % with the head."""
    from transformers import AutoModelForAudioClassification, Wav2Vec2Config, Wav2Vec2FeatureExtractor

    with torch.device("meta"):
        model = AutoModelForAudioClassification.from_config(Wav2Vec2Config(num_labels=8))
        settings = Recipe(model=ModelConfig(name="a/b"), tuning=TuningConfig(mode="lora", cache=False))
        table = open_prepared(voices).select(range(2))
        setup = prepare_encoder(model, Wav2Vec2FeatureExtractor(), [table], settings, torch.device("meta"), shown=False)
    whole = sum(value.numel() for value in model.parameters())
    trained = sum(value.numel() for group in setup.groups for value in group["params"])
    assert whole > 90e6
    assert trained == 12 * 4 * 2 * 8 * 768 + (768 + 1) * 256 + (256 + 1) * 8
    assert trained / whole < 0.01


def test_settings_that_do_not_fit_are_refused(folder_of: Callable[[str], Path], voices: Path) -> None:
    with pytest.raises(InputError, match=r"tuning\.layers is 5, but the encoder has 4"):
        set_up(folder_of("hubert"), voices, mode="partial", num_top_layers=5)
    with pytest.raises(InputError, match="no convolutional encoder"):
        set_up(folder_of("whisper"), voices, mode="full", train_feature_encoder=True)


@pytest.fixture(scope="module")
def sixty_four(voices: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two actors with 32 pairs of clips each: RAVDESS's own where they are, else synthetic ones."""
    try:
        shared = request.getfixturevalue("shared_data") / "RAVDESS"
    except pytest.skip.Exception:
        return voices
    folder = tmp_path_factory.mktemp("real")
    for actor in ("01", "02"):
        clips = sorted(path for path in shared.rglob(f"03-01-*-{actor}.*") if path.parent.name == f"Actor_{actor}")
        if len(clips) < 56:
            return voices
        for clip in clips[:64]:
            shutil.copy(clip, folder / clip.name)
    prepare(folder, folder / "table", verbose=False)
    return folder / "table"


# Epochs, the head's rate and the encoder's.
_OVERFIT = {"probe": (50, 0.03, 0), "partial": (12, 0.01, 0.003), "full": (18, 0.01, 0.002), "lora": (16, 0.01, 0.01)}


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_it_learns_what_it_hears(mode: str, folder_of: Callable[[str], Path], sixty_four: Path, tmp_path: Path) -> None:
    """Whatever cannot learn 64 clips by heart has a gradient cut somewhere."""
    epochs, head, encoder = _OVERFIT[mode]
    more = [f"--train.epochs={epochs}", f"--train.learning_rate={head}", f"--tuning.learning_rate={encoder}"]
    more += [*PLAIN, "--train.label_smoothing=0", "--train.weight_decay=0", "--train.batch_size=4"]
    history = run(sixty_four, folder_of("wav2vec2-bert"), tmp_path / "run", mode, *more).history
    assert history[-1]["train_loss"] < 0.5 * history[0]["train_loss"]
    assert history[-1]["train_uar"] > 0.9


@pytest.mark.parametrize("family", ["wav2vec2", "wavlm-large", "whisper", "wav2vec2-bert"])
@pytest.mark.parametrize("mode", ["probe", "partial", "full"])
def test_cached_is_as_uncached(
    mode: str, family: str, folder_of: Callable[[str], Path], voices: Path, tmp_path: Path
) -> None:
    """The cache may change the time alone: the losses are the same up to half precision."""
    plain = ["--tuning.dropout=0"] if family == "whisper" else PLAIN
    losses = []
    for cache in ("true", "false"):
        # One batch holds all clips, however they are sorted.
        more = [
            *plain,
            "--train.epochs=3",
            "--train.batch_size=64",
            "--train.warmup_ratio=0",
            f"--tuning.cache={cache}",
        ]
        folder = run(voices, folder_of(family), tmp_path / cache, mode, *more)
        losses.append([line["train_loss"] for line in folder.history])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_a_frozen_encoder_drops_nothing_out(folder_of: Callable[[str], Path], voices: Path, tmp_path: Path) -> None:
    """Dropout in what is not trained would make a probe without the cache another one than with it."""
    losses = []
    for cache in ("true", "false"):
        more = ["--tuning.dropout=0.5", "--train.epochs=2", "--train.batch_size=64", f"--tuning.cache={cache}"]
        folder = run(voices, folder_of("wav2vec2"), tmp_path / cache, "probe", *more)
        losses.append([line["train_loss"] for line in folder.history])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize(
    "setting",
    [
        "--train.mixed_precision=bf16",
        "--train.max_batch_seconds=6",
        "--train.dataloader_num_workers=1",
        "--train.balanced=true",
    ],
)
def test_options_of_training_run(setting: str, folder_of: Callable[[str], Path], voices: Path, tmp_path: Path) -> None:
    folder = run(voices, folder_of("wavlm"), tmp_path / "run", "full", setting, "--train.epochs=1")
    assert np.isfinite(folder.history[0]["train_loss"])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_trains_as_uncompiled(folder_of: Callable[[str], Path], voices: Path, tmp_path: Path) -> None:
    losses = []
    for compiled in ("true", "false"):
        more = [*PLAIN, "--tuning.num_top_layers=1", "--train.epochs=1", f"--train.compile={compiled}"]
        folder = run(voices, folder_of("hubert"), tmp_path / compiled, "partial", *more)
        losses.append(folder.history[0]["train_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["full", "lora"])
def test_killed_and_resumed_is_as_never_killed(
    mode: str, folder_of: Callable[[str], Path], voices: Path, tmp_path: Path
) -> None:
    """SIGKILL in the middle of an epoch, with dropout and SpecAugment on; then go on, to the bit."""
    more = [
        "--tuning.dropout=0.2",
        "--model.config_overrides={mask_time_prob: 0.3}",
        "--train.epochs=6",
        "--train.batch_size=4",
    ]
    more += ["--train.save_steps=3"]
    whole = run(voices, folder_of("wav2vec2-large"), tmp_path / "whole", mode, *more)
    out = tmp_path / "killed"
    arguments = recipe(voices, folder_of("wav2vec2-large"), out, mode, *more)
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "recipes" / "finetune.py"), *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if any(int(folder.name.split("-")[1]) >= 3 for folder in (out / "checkpoints").glob("step-*")):
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "metrics.json").exists(), "the run ended before it was killed: nothing was tested"
    assert main([*arguments, "--resume"]) == 0
    resumed = RunFolder(out)
    assert whole.metrics_file.read_bytes() == resumed.metrics_file.read_bytes()
    assert whole.history_file.read_bytes() == resumed.history_file.read_bytes()
    ours, theirs = saved(whole), saved(resumed)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
