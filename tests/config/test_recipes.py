"""A recipe: what is wrong with it is said in one line, the command line beats the file, and its text is itself."""

from dataclasses import asdict
from pathlib import Path

import pytest

from ser_ft.cli import train as main
from ser_ft.config.parser import parse
from ser_ft.config.pretraining import PretrainConfig
from ser_ft.config.schema import AugmentConfig, DataConfig, ModelConfig, Recipe, SplitConfig, TrainConfig, TuningConfig
from ser_ft.utils.errors import InputError

WRONG = {
    "an unknown key": ("train: {epoch: 3}", "epoch"),
    "an unknown group": ("training: {epochs: 3}", "training"),
    "a word for a number": ("train: {epochs: many}", "train.epochs.*many"),
    "a fraction for a count": ("train: {epochs: 2.5}", "train.epochs.*2.5"),
    "a count of nothing": ("train: {batch_size: 0}", "train.batch_size must be 1 or more"),
    "no number": ("train: {learning_rate: .nan}", "train.learning_rate"),
    "an endless number": ("train: {learning_rate: .inf}", "train.learning_rate"),
    "a gradient clipped to nothing": ("train: {max_grad_norm: 0}", "train.max_grad_norm"),
    "more than a share": ("train: {label_smoothing: 1.5}", "train.label_smoothing"),
    "a precision that is none": ("train: {mixed_precision: fp8}", "no, bf16, fp16"),
    "a split that is none": ("split: {kind: magic}", "speaker, kfold"),
    "a model that is none": ("model: {name: mfcc-rnn}", "mfcc-cnn"),
    "a baseline that is none": ("baselines: [forest]", "majority, logistic, svm"),
    "all of a classic network, and a part of it": ("tuning: {mode: probe}", "all of mfcc-cnn is trained"),
    "weights that nobody pretrained": ("model: {name: lstm, pretrained: false}", "model.pretrained applies to image"),
    "a commit of what is not on the Hub": (
        "model: {name: timm/vgg16, revision: main}",
        "model.revision applies to speech",
    ),
    "features of an encoder": (
        "model: {name: a/b, feature_extractor: {n_mels: 40}}",
        "brings its own feature extractor",
    ),
    "adapters in images": ("model: {name: timm/vgg16}\ntuning: {mode: lora}", "by probe, partial or full"),
    "wave convolutions of images": (
        "model: {name: timm/vgg16}\ntuning: {train_feature_encoder: true}",
        "tuning.train_feature_encoder",
    ),
    "dropout all over images": (
        "model: {name: timm/vgg16}\ntuning: {dropout: 0.1}",
        "model.config_overrides.head_dropout",
    ),
    "a transform that is none": ("augment: {transforms: {echo: {}}}", "no transform 'echo'; there are pitch"),
    "a transform's setting that is none": ("augment: {transforms: {noise: {loud: 3}}}", "noise: no setting 'loud'"),
    "a transform out of its range": (
        "augment: {transforms: {speed: {factor: [0, 9]}}}",
        "speed.factor must be a number or",
    ),
    "transforms as words": ("augment: {transforms: [noise]}", "augment.transforms"),
    "copies by nothing": ("augment: {copies: 2}", "name the transforms"),
    "less than no copies": ("augment: {copies: -1}", "augment.copies must be 0 or more"),
    "clips mixed by no share": ("augment: {mixup: 0}", "augment.mixup must be a number above 0"),
    "clips mixed by no number": ("augment: {mixup: .nan}", "augment.mixup"),
    "a mask's setting that is none": ("augment: {spec_augment: {masks: 2}}", "has the settings num_time_masks"),
    "masks wider than a clip": (
        "augment: {spec_augment: {time_mask_width: 2}}",
        "spec_augment.time_mask_width must be a number",
    ),
    "masks over states": ("model: {name: a/b}\naugment: {spec_augment: {}}", "model.config_overrides.mask_time_prob"),
    "a frozen encoder that hears anew": (
        "model: {name: a/b}\ntuning: {mode: probe}\naugment: {transforms: {volume: {}}}",
        "a probe sees frozen states: give augment.copies",
    ),
    "frozen images that are masked": (
        "model: {name: timm/vgg16}\ntuning: {mode: probe}\naugment: {spec_augment: {}}",
        "a probe sees frozen states",
    ),
    "both flags": ("{overwrite: true, resume: true}", "overwrite and resume exclude each other"),
    "a flag that is no flag": ("overwrite: maybe", "overwrite: expected bool"),
    "compiling what gains nothing": ("train: {compile: true}", "train.compile applies to speech encoders"),
    "a group that is a word": ("train: fast", "train"),
    "broken YAML": ("train: {epochs: 3", "line 1"),
    "a list": ("- train\n- test", "mapping"),
    "nothing": ("", "mapping"),
    "no text": ("\udcff\udcfe", "UTF-8"),
}


def written(folder: Path, text: str) -> str:
    file = folder / "recipe.yaml"
    file.write_text(text, encoding="utf-8", errors="surrogateescape")
    return str(file)


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_recipe_is_refused_in_one_line(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, says = WRONG[what]
    given = ["--config", written(tmp_path, text), "--out", str(tmp_path / "run")]
    with pytest.raises(InputError, match=says) as refused:
        parse(given, "finetune.py")
    assert "\n" not in str(refused.value)
    assert "<class" not in str(refused.value)
    assert main(given) == 2
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n"), shown.err[:8]) == ("", 1, "ser-ft: ")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--config", "."], "not a file"),
        (["--config"], "config"),
        (["--train.epochs"], "train.epochs"),
        (["--train.epoch", "3"], "train.epoch"),
        (["--train.epochs", "-1"], "train.epochs"),
        (["--epochs", "3"], "--epochs"),
        (["recipe.yaml"], "recipe.yaml"),
        (["--model.feature_extractor", "40"], "model.feature_extractor"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(
    given: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(given) == 2
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert says in shown.err


def test_the_command_line_beats_the_file_and_the_file_the_defaults(tmp_path: Path) -> None:
    text = "train: {epochs: 7, batch_size: 4}\nmodel: {feature_extractor: {n_mels: 32, n_mfcc: 13}}\nseed: 3"
    file = written(tmp_path, text)
    recipe = parse(["--config", file, "--train.epochs", "9", "--model.feature_extractor.n_mels", "48"], "finetune.py")
    assert (recipe.train.epochs, recipe.train.batch_size, recipe.seed) == (9, 4, 3)
    assert recipe.train.learning_rate == TrainConfig().learning_rate
    assert recipe.model.feature_extractor["n_mels"] == 48


def test_no_arguments_are_the_defaults() -> None:
    assert parse([], "finetune.py") == Recipe()


FULL = Recipe(
    data=DataConfig(
        roots={"ravdess": "/data/a b", "tess": "C:\\tess"},
        labels={"happy": "yes", "sad": "no", "angry": "1"},
        calm="neutral",
        include_song=True,
        notes={"cremad": "rebuilt: «audio»\n# from parts", "tess": "null"},
    ),
    split=SplitConfig(kind="corpus", seed=2, corpus="tess", test=0.25, file="0123"),
    model=ModelConfig(
        feature_extractor={"descriptors": ["log-mel"], "n_mels": 40},
        config_overrides={"channels": [8, 16], "dropout": 0.0},
    ),
    augment=AugmentConfig(
        transforms={"noise": {"p": 0.5, "snr_db": [5, 30]}, "speed": {}},
        copies=2,
        spec_augment={"num_time_masks": 1, "time_mask_width": 0.2},
        mixup=0.4,
    ),
    train=TrainConfig(
        learning_rate=1e-5, early_stopping_patience=None, save_steps=50, report_to=["tensorboard"], balanced=True
    ),
    baselines=[],
    seed=11,
    out="runs/2024-01-01",
    resume=True,
    embed_audio=True,
)


HUB = Recipe(data=DataConfig(dataset="someone/voices", columns={"audio": "file", "emotion": "label"}))
IMAGE = Recipe(
    model=ModelConfig(name="timm/vgg16_bn.tv_in1k", pretrained=False, config_overrides={"patch_frames": 96}),
    tuning=TuningConfig(mode="partial", num_top_layers=2, cache=False),
)


@pytest.mark.parametrize(
    "recipe",
    [Recipe(), FULL, HUB, IMAGE, Recipe(data=DataConfig(roots=["a", "b"])), Recipe(data=DataConfig(prepared="7"))],
)
def test_a_recipes_text_reads_back_as_itself(recipe: Recipe, tmp_path: Path) -> None:
    assert parse(["--config", written(tmp_path, recipe.text())], "finetune.py") == recipe


def test_the_printed_recipe_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--train.epochs", "3", "--print_config"])
    assert left.value.code in (0, None)
    text = capsys.readouterr().out
    assert parse(["--config", written(tmp_path, text)], "finetune.py") == Recipe(train=TrainConfig(epochs=3))


def test_help_explains_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code in (0, None)
    text = capsys.readouterr().out
    for group, settings in asdict(Recipe()).items():
        names = [f"--{group}.{name}" for name in settings] if isinstance(settings, dict) else [f"--{group}"]
        for name in names:
            assert name in text
    assert "Clips per batch and process." in text


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *[
            ("epochs", 0),
            ("batch_size", 0),
            ("mask_length", 1),
            ("negatives", 0),
            ("max_grad_norm", 0),
            ("warmup_ratio", 1),
        ],
        *[("mask_prob", 0), ("mask_prob", 1.5), ("temperature", 0.1), ("temperature_decay", 0), ("diversity", -1)],
        *[("learning_rate", float("nan")), ("max_batch_seconds", 0), ("max_steps", 0)],
    ],
)
def test_wrong_settings_of_a_pretraining_are_refused(setting: str, value: float | str) -> None:
    with pytest.raises(InputError, match=f"pretrain.{setting}"):
        PretrainConfig(**{setting: value})
