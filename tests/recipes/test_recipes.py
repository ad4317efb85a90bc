"""Every recipe in recipes/ can be read and started: with tiny models of the same classes where it names a large one."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from ser_ft.cli import train
from ser_ft.cli.training import pretrain
from ser_ft.config.parser import parse, parse_as
from ser_ft.config.pretraining import PretrainRecipe
from ser_ft.data.prepare import CORPUS_INFO_FILE, open_prepared
from ser_ft.evaluation.run_folder import RunFolder
from ser_ft.models import MODELS, SHIPPED
from ser_ft.models.registry import build_model
from tests.helpers.tiny_encoders import write_tiny_backbone

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
PRETRAINING = sorted((ROOT / "recipes" / "pretraining").glob("*.yaml"))
TINY = {
    "facebook/wav2vec2-base": ("wav2vec2", {}),
    "facebook/wav2vec2-large-robust": ("wav2vec2-large", {}),
    "facebook/wav2vec2-xls-r-300m": ("wav2vec2-large", {}),
    "facebook/hubert-large-ll60k": ("hubert-large", {}),
    "microsoft/wavlm-large": ("wavlm-large", {}),
    "openai/whisper-medium": ("whisper", {"max_source_positions": 600}),
}
# Of each kind the smallest that timm has; VGG has no small one.
IMAGES = {
    "torchvision/alexnet": "torchvision/alexnet",
    "timm/vgg11_bn.tv_in1k": "timm/test_resnet.r160_in1k",
    "timm/vgg16_bn.tv_in1k": "timm/test_resnet.r160_in1k",
    "timm/resnet50.a1_in1k": "timm/test_resnet.r160_in1k",
    "timm/densenet121.tv_in1k": "timm/test_resnet.r160_in1k",
    "timm/efficientnet_b0.ra_in1k": "timm/test_efficientnet.r160_in1k",
    "timm/convnext_tiny.fb_in1k": "timm/test_convnext.r160_in1k",
}


@pytest.fixture(scope="module")
def few_clips(miniature_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A third of the miniature, of all its speakers: enough for a step of every recipe. To be read, never changed."""
    folder = tmp_path_factory.mktemp("prepared") / "few"
    table = open_prepared(miniature_folder)
    table.select(range(0, len(table), 3)).save_to_disk(folder)
    shutil.copy(miniature_folder / CORPUS_INFO_FILE, folder)
    return folder


def test_there_are_recipes() -> None:
    names = {parse(["--config", str(file)], "finetune.py").model.name for file in RECIPES}
    assert names == {*MODELS, *IMAGES, *TINY, SHIPPED}
    assert PRETRAINING


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_a_recipe_can_be_read(file: Path) -> None:
    recipe = parse(["--config", str(file)], "finetune.py")
    assert recipe.out == f"runs/{file.stem}", "a run is found under its recipe's name"
    if recipe.model.kind != "speech":
        name = IMAGES.get(recipe.model.name, recipe.model.name)
        extractor, model = build_model(
            name, ["neutral", "angry"], recipe.model.feature_extractor, recipe.model.config_overrides, pretrained=False
        )
        assert model.config.feature_size == extractor.feature_size


@pytest.mark.slow
@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_a_recipe_can_be_started(file: Path, few_clips: Path, tmp_path: Path) -> None:
    assert train(small(file, few_clips, tmp_path)) == 0
    assert RunFolder(tmp_path / "run").report_file.is_file()


def small(file: Path, table: Path, folder: Path) -> list[str]:
    """Arguments that carry a recipe out in one epoch, on a small table and a tiny model of the same class."""
    recipe = parse(["--config", str(file)], "finetune.py")
    changed = ["--config", str(file), f"--out={folder / 'run'}", "--train.epochs=1"]
    if recipe.data.prepared is not None:
        changed.append(f"--data.prepared={table}")
    if recipe.model.kind == "speech":
        family, settings = TINY[recipe.model.name]
        changed.append(f"--model.name={write_tiny_backbone(family, folder / 'backbone', **settings)}")
    if recipe.model.kind == "image":
        changed += [f"--model.name={IMAGES[recipe.model.name]}", "--model.pretrained=false"]
    return changed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["conv1d_ravdess", "vggish_ravdess"])
def test_accelerate_launches_a_recipe(name: str, few_clips: Path, tmp_path: Path) -> None:
    """As the README says, in a process of its own."""
    arguments = small(ROOT / "recipes" / f"{name}.yaml", few_clips, tmp_path)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes=1"]
    command = [*launch, str(ROOT / "recipes" / "finetune.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    folder = RunFolder(tmp_path / "run")
    assert folder.report_file.is_file()
    assert folder.metrics["parts"]["test"]["uar"] >= 0


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_a_recipe_is_short_and_says_what_it_is_for(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert set(yaml.safe_load(text)) >= {"data", "model", "out"}
    assert sum(not line.startswith("#") for line in text.splitlines()) <= 20


def test_a_recipe_starts_from_its_base_and_the_command_line_comes_last(tmp_path: Path) -> None:
    (tmp_path / "ground.yaml").write_text("train: {epochs: 7, batch_size: 3}\ntuning: {layer_decay: 0.5}\n")
    (tmp_path / "middle.yaml").write_text("base: ground.yaml\ntrain: {epochs: 8}\n")
    (tmp_path / "recipe.yaml").write_text(
        "base: middle.yaml\nmodel: {name: a/b}\ntrain: {gradient_accumulation_steps: 2}\n"
    )
    recipe = parse(["--config", str(tmp_path / "recipe.yaml"), "--train.batch_size=5"], "finetune.py")
    found = (
        recipe.train.epochs,
        recipe.train.batch_size,
        recipe.train.gradient_accumulation_steps,
        recipe.tuning.layer_decay,
    )
    assert found == (8, 5, 2, 0.5)


@pytest.mark.parametrize(
    ("base", "said"), [("nowhere.yaml", "base names no file"), ("recipe.yaml", "cannot extend itself")]
)
def test_a_wrong_base_is_one_line(base: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "recipe.yaml").write_text(f"base: {base}\n")
    assert train(["--config", str(tmp_path / "recipe.yaml")]) == 2
    assert said in capsys.readouterr().err


def test_the_wheel_carries_the_recipes() -> None:
    carried = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert carried["force-include"]["recipes"] == "ser_ft/recipes"


@pytest.mark.parametrize("file", sorted((ROOT / "recipes" / "machines").glob("*.yaml")), ids=lambda file: file.stem)
def test_accelerate_knows_the_configs_of_machines(file: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(file))
    assert config.num_processes == int(file.stem.removesuffix("gpu"))
    assert config.mixed_precision == "bf16"


@pytest.mark.slow
@pytest.mark.parametrize("file", PRETRAINING, ids=lambda file: file.stem)
def test_a_pretraining_can_be_started(file: Path, few_clips: Path, tmp_path: Path) -> None:
    assert file.read_text(encoding="utf-8").startswith("# ")
    recipe = parse_as(PretrainRecipe, ["--config", str(file)], "pretrain.py", "")
    assert recipe.out == f"runs/{file.stem}", "it is found under its recipe's name"
    backbone = write_tiny_backbone(TINY[recipe.model.name][0], tmp_path / "backbone")
    small = [f"--data.prepared={few_clips}", f"--model.name={backbone}", f"--out={tmp_path / 'run'}"]
    assert pretrain(["--config", str(file), *small, "--pretrain.epochs=1"]) == 0
