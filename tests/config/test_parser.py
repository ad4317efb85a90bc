"""Reading a recipe: errors are one line, the command line overrides the file, and the text of a recipe is complete."""

from dataclasses import asdict
from pathlib import Path

import pytest

from ser_ft.cli import train as main
from ser_ft.config.parser import parse
from ser_ft.config.pretraining import PretrainConfig
from ser_ft.config.schema import AugmentConfig, DataConfig, ModelConfig, Recipe, SplitConfig, TuningConfig
from ser_ft.config.training_loop import TrainConfig
from ser_ft.utils.errors import InputError

IMAGE = "model: {name: timm/vgg16}"
SPEECH = "model: {name: a/b}"
WRONG = {
    "an unknown setting": ("train: {epoch: 3}", "epoch"),
    "an unknown section": ("training: {epochs: 3}", "training"),
    "a word for a number": ("train: {epochs: many}", "train.epochs.*many"),
    "a fraction for a count": ("train: {epochs: 2.5}", "train.epochs.*2.5"),
    "a count below 1": ("train: {batch_size: 0}", "train.batch_size must be 1 or more"),
    "not a number": ("train: {learning_rate: .nan}", "train.learning_rate"),
    "an infinite number": ("train: {learning_rate: .inf}", "train.learning_rate"),
    "a gradient norm of 0": ("train: {max_grad_norm: 0}", "train.max_grad_norm"),
    "a fraction above 1": ("train: {label_smoothing: 1.5}", "train.label_smoothing"),
    "an unknown precision": ("train: {mixed_precision: fp8}", "must be one of no, bf16, fp16, auto, not 'fp8'"),
    "an unknown mode": ("tuning: {mode: half}", "tuning.mode must be one of probe, partial, full, lora, not 'half'"),
    "an unknown split": ("split: {kind: magic}", "speaker, kfold"),
    "an unknown model": ("model: {name: mfcc-rnn}", "mfcc-cnn"),
    "an unknown baseline": ("baselines: [forest]", "majority, logistic, svm"),
    "tuning of a small network": ("tuning: {mode: probe}", "all of mfcc-cnn is trained"),
    "weights that do not exist": ("model: {name: lstm, pretrained: false}", "model.pretrained applies to image"),
    "a revision outside the Hub": ("model: {name: timm/vgg16, revision: main}", "model.revision applies to speech"),
    "features of an encoder": ("model: {name: a/b, feature_extractor: {n_mels: 40}}", "its own feature extractor"),
    "adapters in an image backbone": (f"{IMAGE}\ntuning: {{mode: lora}}", "by probe, partial or full"),
    "a feature encoder of images": (f"{IMAGE}\ntuning: {{train_feature_encoder: true}}", "train_feature_encoder"),
    "dropout of an image backbone": (f"{IMAGE}\ntuning: {{dropout: 0.1}}", "model.config_overrides.head_dropout"),
    "an unknown transform": ("augment: {transforms: {echo: {}}}", "no transform 'echo'; there are pitch"),
    "an unknown setting of a transform": ("augment: {transforms: {noise: {loud: 3}}}", "noise: no setting 'loud'"),
    "a transform out of range": ("augment: {transforms: {speed: {factor: [0, 9]}}}", "speed.factor"),
    "a list of transforms": ("augment: {transforms: [noise]}", "augment.transforms"),
    "copies without transforms": ("augment: {copies: 2}", "name the transforms"),
    "a negative number of copies": ("augment: {copies: -1}", "augment.copies must be 0 or more"),
    "a mixup parameter of 0": ("augment: {mixup: 0}", "augment.mixup must be a number above 0"),
    "a mixup parameter that is no number": ("augment: {mixup: .nan}", "augment.mixup"),
    "an unknown setting of masks": ("augment: {spec_augment: {masks: 2}}", "has the settings num_time_masks"),
    "masks wider than a clip": ("augment: {spec_augment: {time_mask_width: 2}}", "spec_augment.time_mask_width"),
    "masks of an encoder": (f"{SPEECH}\naugment: {{spec_augment: {{}}}}", "model.config_overrides.mask_time_prob"),
    "online augmentation of a frozen encoder": (
        f"{SPEECH}\ntuning: {{mode: probe}}\naugment: {{transforms: {{volume: {{}}}}}}",
        "a probe sees frozen states: give augment.copies",
    ),
    "masks of a frozen image backbone": (
        f"{IMAGE}\ntuning: {{mode: probe}}\naugment: {{spec_augment: {{}}}}",
        "a probe sees frozen states",
    ),
    "both flags": ("{overwrite: true, resume: true}", "overwrite and resume exclude each other"),
    "a flag that is no flag": ("overwrite: maybe", "overwrite: expected bool"),
    "compilation of a small network": ("train: {compile: true}", "train.compile applies to speech encoders"),
    "an unknown loss": ("train: {loss: hinge}", "train.loss"),
    "the exponent of another loss": ("train: {focal_gamma: 1}", "train.focal_gamma needs train.loss focal"),
    "priors of another loss": (
        "train: {loss: focal, logit_adjustment: 2}",
        "train.logit_adjustment needs train.loss logit-adjusted",
    ),
    "an exponent of 0": ("train: {loss: focal, focal_gamma: 0}", "train.focal_gamma must be above 0"),
    "priors and class weights": (
        "train: {loss: logit-adjusted, class_weights: true}",
        "train.class_weights and train.loss logit-adjusted both compensate for rare classes: choose one",
    ),
    "priors of balanced batches": ("train: {loss: logit-adjusted, balanced: true}", "both compensate"),
    "checkpointing of a small network": (
        "train: {gradient_checkpointing: true}",
        "train.gradient_checkpointing applies to speech encoders, not to mfcc-cnn",
    ),
    "checkpointing of an image backbone": (f"{IMAGE}\ntrain: {{gradient_checkpointing: true}}", "applies to speech"),
    "checkpointing of a frozen encoder": (
        f"{SPEECH}\ntuning: {{mode: probe}}\ntrain: {{gradient_checkpointing: true}}",
        "train.gradient_checkpointing: a probe",
    ),
    "a word for a section": ("train: fast", "train"),
    "broken YAML": ("train: {epochs: 3", "line 1"),
    "a list": ("- train\n- test", "mapping"),
    "an empty file": ("", "mapping"),
    "bytes that are not text": ("\udcff\udcfe", "UTF-8"),
}


def write(folder: Path, text: str) -> str:
    file = folder / "recipe.yaml"
    file.write_text(text, encoding="utf-8", errors="surrogateescape")
    return str(file)


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_recipe_is_refused_in_one_line(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, message = WRONG[case]
    arguments = ["--config", write(tmp_path, text), "--out", str(tmp_path / "run")]
    with pytest.raises(InputError, match=message) as error:
        parse(arguments, "finetune.py")
    assert "\n" not in str(error.value)
    assert "<class" not in str(error.value)
    assert "typing" not in str(error.value)
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert (output.out, output.err.count("\n"), output.err[:8]) == ("", 1, "ser-ft: ")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
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
        (["--overwrite", "--resume"], "overwrite and resume exclude each other"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert (output.out, output.err.count("\n")) == ("", 1)
    assert message in output.err


def test_the_command_line_overrides_the_file_and_the_file_the_defaults(tmp_path: Path) -> None:
    text = "train: {epochs: 7, batch_size: 4}\nmodel: {feature_extractor: {n_mels: 32, n_mfcc: 13}}\nseed: 3"
    arguments = ["--config", write(tmp_path, text), "--train.epochs", "9", "--model.feature_extractor.n_mels", "48"]
    recipe = parse(arguments, "finetune.py")
    assert (recipe.train.epochs, recipe.train.batch_size, recipe.seed) == (9, 4, 3)
    assert recipe.train.learning_rate == TrainConfig().learning_rate
    assert recipe.model.feature_extractor["n_mels"] == 48


def test_the_flags_overwrite_and_resume_need_no_value_and_replace_each_other(tmp_path: Path) -> None:
    file = ["--config", write(tmp_path, "overwrite: true")]
    for arguments, expected in (
        (["--overwrite"], (True, False)),
        (["--resume", "--seed", "1"], (False, True)),
        (["--overwrite=true"], (True, False)),
        (["--resume", "false"], (False, False)),
        (file, (True, False)),
        ([*file, "--resume"], (False, True)),
    ):
        recipe = parse(arguments, "finetune.py")
        assert (recipe.overwrite, recipe.resume) == expected, arguments


def test_without_arguments_a_recipe_has_the_defaults() -> None:
    assert parse([], "finetune.py") == Recipe()


ALL_SECTIONS = Recipe(
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
IMAGE_BACKBONE = Recipe(
    model=ModelConfig(name="timm/vgg16_bn.tv_in1k", pretrained=False, config_overrides={"patch_frames": 96}),
    tuning=TuningConfig(mode="partial", num_top_layers=2, cache=False),
)
LIST = Recipe(data=DataConfig(roots=["a", "b"]))
PREPARED = Recipe(data=DataConfig(prepared="7"))


@pytest.mark.parametrize("recipe", [Recipe(), ALL_SECTIONS, HUB, IMAGE_BACKBONE, LIST, PREPARED])
def test_the_text_of_a_recipe_is_read_as_the_same_recipe(recipe: Recipe, tmp_path: Path) -> None:
    assert parse(["--config", write(tmp_path, recipe.text())], "finetune.py") == recipe


def test_the_printed_configuration_is_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--train.epochs", "3", "--print_config"]) == 0
    text = capsys.readouterr().out
    assert parse(["--config", write(tmp_path, text)], "finetune.py") == Recipe(train=TrainConfig(epochs=3))


def test_help_explains_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for section, settings in asdict(Recipe()).items():
        names = [f"--{section}.{name}" for name in settings] if isinstance(settings, dict) else [f"--{section}"]
        for name in names:
            assert name in text
    assert "Clips per batch and process." in text, "also settings that fine-tuning and pretraining share"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *[("epochs", 0), ("batch_size", 0), ("mask_length", 1), ("negatives", 0), ("max_grad_norm", 0)],
        *[("warmup_ratio", 1), ("mask_prob", 0), ("mask_prob", 1.5), ("temperature", 0.1), ("temperature_decay", 0)],
        *[("diversity", -1), ("learning_rate", float("nan")), ("max_batch_seconds", 0), ("max_steps", 0)],
    ],
)
def test_wrong_settings_of_a_pretraining_are_refused(setting: str, value: float) -> None:
    with pytest.raises(InputError, match=f"pretrain.{setting}"):
        PretrainConfig(**{setting: value})
