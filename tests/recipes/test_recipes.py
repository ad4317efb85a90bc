"""Every recipe can be read, and those of each kind can be started, with tiny models instead of large ones."""

import shutil
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
import yaml

from ser_ft import pipeline
from ser_ft.cli import train
from ser_ft.cli.training import pretrain
from ser_ft.config.parser import parse, parse_as
from ser_ft.config.pretraining import PretrainRecipe
from ser_ft.config.schema import Recipe
from ser_ft.data.prepare import CORPUS_INFO_FILE, open_prepared
from ser_ft.evaluation.run_folder import RunFolder
from ser_ft.models import MODELS, SHIPPED
from ser_ft.models.registry import build_model
from tests.helpers.tiny_encoders import write_tiny_backbone

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
TRANSFER = sorted((ROOT / "recipes" / "transfer").rglob("*.yaml"))
PRETRAINING = sorted((ROOT / "recipes" / "pretraining").glob("*.yaml"))
TINY_WHISPER = {"d_model": 16, "encoder_layers": 4, "encoder_ffn_dim": 16, "max_source_positions": 1500}
TINY_ENCODERS = {
    "facebook/wav2vec2-base": ("wav2vec2", {}),
    "facebook/wav2vec2-large-robust": ("wav2vec2-large", {}),
    "facebook/wav2vec2-xls-r-300m": ("wav2vec2-large", {}),
    "facebook/hubert-large-ll60k": ("hubert-large", {}),
    "microsoft/wavlm-large": ("wavlm-large", {}),
    **{f"openai/whisper-{size}": ("whisper", TINY_WHISPER) for size in ("tiny", "base", "small", "medium")},
    "openai/whisper-large-v3": ("whisper", TINY_WHISPER | {"num_mel_bins": 128}),
    "runs/shipped_encoder/model": ("whisper", TINY_WHISPER),
}
# The smallest network of timm of each kind; VGG has no small one.
TINY_BACKBONES = {
    "torchvision/alexnet": "torchvision/alexnet",
    "timm/vgg11_bn.tv_in1k": "timm/test_resnet.r160_in1k",
    "timm/vgg16_bn.tv_in1k": "timm/test_resnet.r160_in1k",
    "timm/resnet50.a1_in1k": "timm/test_resnet.r160_in1k",
    "timm/densenet121.tv_in1k": "timm/test_resnet.r160_in1k",
    "timm/efficientnet_b0.ra_in1k": "timm/test_efficientnet.r160_in1k",
    "timm/tf_efficientnet_lite0.in1k": "timm/test_efficientnet.r160_in1k",
    "timm/convnext_tiny.fb_in1k": "timm/test_convnext.r160_in1k",
}
# One recipe of each kind: shipped model with a trained baseline, random split, augmented copies or spectrograms,
# image backbone with its own features, encoders that differ in how they are prepared, balanced batches.
STARTED = [
    "quickstart",
    "mfcc_cnn_ravdess_leaking",
    "plain_cnn_ravdess_augmented",
    "small",
    "vggish_ravdess",
    "wav2vec2_base_four_corpora",
]
# Recipes of one family, which differ in few settings: trained without the report.
LADDER = [*TRANSFER, *(file for file in RECIPES if file.stem.startswith("whisper_"))]


@pytest.fixture(scope="module")
def few_clips(miniature_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A third of the miniature's clips, of all speakers. Read-only."""
    folder = tmp_path_factory.mktemp("prepared") / "few"
    table = open_prepared(miniature_folder)
    table.select(range(0, len(table), 3)).save_to_disk(folder)
    shutil.copy(miniature_folder / CORPUS_INFO_FILE, folder)
    return folder


@pytest.fixture(scope="module")
def two_classes(miniature_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips of each of the miniature's speakers, a sad and an angry one. Read-only."""
    folder = tmp_path_factory.mktemp("prepared") / "two"
    table = open_prepared(miniature_folder)
    names = table.features["emotion"].names
    clips = zip(table["speaker"], [names[number] for number in table["emotion"]], strict=True)
    rows = {clip: row for row, clip in enumerate(clips) if clip[1] in ("sad", "angry")}
    table.select(sorted(rows.values())).save_to_disk(folder)
    shutil.copy(miniature_folder / CORPUS_INFO_FILE, folder)
    return folder


@cache
def read(file: Path) -> Recipe:
    return parse(["--config", str(file)], "finetune.py")


def test_the_recipes_cover_all_models() -> None:
    names = {read(file).model.name for file in (*RECIPES, *TRANSFER)}
    assert names == {*MODELS, *TINY_BACKBONES, *TINY_ENCODERS, SHIPPED}


@pytest.mark.parametrize("file", [*RECIPES, *TRANSFER], ids=lambda file: file.stem)
def test_a_recipe_is_short_valid_and_described(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert set(yaml.safe_load(text)) >= ({"out"} if file in TRANSFER else {"data", "model", "out"})
    assert sum(not line.startswith("#") for line in text.splitlines()) <= 20
    recipe = read(file)
    name = file.relative_to(ROOT / "recipes").with_suffix("").as_posix()
    assert recipe.out == f"runs/{name}", "the run folder has the recipe's name"
    model = recipe.model
    if model.kind != "speech":
        name = TINY_BACKBONES.get(model.name, model.name)
        classes = ["neutral", "angry"]
        extractor, network = build_model(name, classes, model.feature_extractor, model.config_overrides, False)
        assert network.config.feature_size == extractor.feature_size


def one_step(file: Path, table: Path, folder: Path) -> list[str]:
    """Return arguments that run a recipe for one step, on a small table and a tiny model of the same class."""
    recipe = read(file)
    arguments = ["--config", str(file), f"--out={folder / 'run'}", "--train.max_steps=1"]
    if recipe.data.prepared is not None:
        arguments.append(f"--data.prepared={table}")
    if recipe.model.name in TINY_ENCODERS:
        family, settings = TINY_ENCODERS[recipe.model.name]
        arguments.append(f"--model.name={write_tiny_backbone(family, folder / 'backbone', **settings)}")
    if recipe.model.kind == "image":
        arguments += [f"--model.name={TINY_BACKBONES[recipe.model.name]}", "--model.pretrained=false"]
    return arguments


@pytest.mark.slow
@pytest.mark.parametrize("name", STARTED)
def test_a_recipe_can_be_started(name: str, few_clips: Path, tmp_path: Path) -> None:
    assert train(one_step(ROOT / "recipes" / f"{name}.yaml", few_clips, tmp_path)) == 0
    assert RunFolder(tmp_path / "run").report_file.is_file()


@pytest.mark.slow
@pytest.mark.parametrize("file", LADDER, ids=lambda file: file.stem)
def test_a_recipe_of_the_ladder_can_be_started(file: Path, two_classes: Path, tmp_path: Path) -> None:
    recipe = parse([*one_step(file, two_classes, tmp_path), "--baselines=[]"], "finetune.py")
    folder = pipeline.train(recipe, verbose=False).folder
    assert folder.metrics["parts"]["test"]["clips"]
    assert (folder.model / "model.safetensors").is_file()


@pytest.mark.slow
def test_accelerate_launches_a_recipe(few_clips: Path, tmp_path: Path) -> None:
    """In its own process, as the README says."""
    arguments = one_step(ROOT / "recipes" / "conv1d_ravdess.yaml", few_clips, tmp_path)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes=1"]
    command = [*launch, str(ROOT / "recipes" / "finetune.py"), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    assert RunFolder(tmp_path / "run").report_file.is_file()


@pytest.mark.slow
@pytest.mark.parametrize("file", PRETRAINING, ids=lambda file: file.stem)
def test_a_pretraining_can_be_started(file: Path, few_clips: Path, tmp_path: Path) -> None:
    assert file.read_text(encoding="utf-8").startswith("# ")
    recipe = parse_as(PretrainRecipe, ["--config", str(file)], "pretrain.py", "")
    assert recipe.out == f"runs/{file.stem}", "the run folder has the recipe's name"
    backbone = write_tiny_backbone(TINY_ENCODERS[recipe.model.name][0], tmp_path / "backbone")
    settings = [f"--data.prepared={few_clips}", f"--model.name={backbone}", f"--out={tmp_path / 'run'}"]
    assert pretrain(["--config", str(file), *settings, "--pretrain.max_steps=1"]) == 0


def test_a_recipe_overrides_its_base_and_the_command_line_overrides_both(tmp_path: Path) -> None:
    (tmp_path / "ground.yaml").write_text("train: {epochs: 7, batch_size: 3}\ntuning: {layer_decay: 0.5}\n")
    (tmp_path / "middle.yaml").write_text("base: ground.yaml\ntrain: {epochs: 8}\n")
    (tmp_path / "recipe.yaml").write_text("base: middle.yaml\nmodel: {name: a/b}\ntrain: {save_steps: 2}\n")
    recipe = parse(["--config", str(tmp_path / "recipe.yaml"), "--train.batch_size=5"], "finetune.py")
    train_config = recipe.train
    assert (train_config.epochs, train_config.batch_size, train_config.save_steps) == (8, 5, 2)
    assert recipe.tuning.layer_decay == 0.5


@pytest.mark.parametrize(
    ("base", "message"), [("nowhere.yaml", "base names no file"), ("recipe.yaml", "cannot extend itself")]
)
def test_a_wrong_base_is_one_line(base: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "recipe.yaml").write_text(f"base: {base}\n")
    assert train(["--config", str(tmp_path / "recipe.yaml")]) == 2
    assert message in capsys.readouterr().err


def test_the_wheel_contains_the_recipes() -> None:
    targets = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    assert targets["wheel"]["force-include"]["recipes"] == "ser_ft/recipes"


@pytest.mark.parametrize("file", sorted((ROOT / "recipes" / "machines").glob("*.yaml")), ids=lambda file: file.stem)
def test_accelerate_reads_the_machine_configurations(file: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(file))
    assert config.num_processes == int(file.stem.removesuffix("gpu"))
    assert config.mixed_precision == "bf16"
