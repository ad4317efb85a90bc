"""Every recipe in recipes/ can be read, and its model made."""

import tomllib
from pathlib import Path

import pytest
import yaml

from ser_ft.models.registry import build
from ser_ft.training.parsing import parse

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


def test_there_are_recipes() -> None:
    assert RECIPES


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_a_recipe_can_be_read_and_its_model_made(file: Path) -> None:
    recipe = parse(["--config", str(file)], "finetune.py")
    assert recipe.out == f"runs/{file.stem}", "a run is found under its recipe's name"
    extractor, model = build(recipe.model.name, ["neutral", "angry"], recipe.model.features, recipe.model.network)
    assert model.config.feature_size == extractor.feature_size


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_a_recipe_says_what_it_is_for(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert set(yaml.safe_load(text)) >= {"data", "split", "model", "out"}


def test_the_wheel_carries_every_recipe() -> None:
    carried = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert set(carried["force-include"]) == {f"recipes/{recipe.name}" for recipe in (ROOT / "recipes").glob("*.yaml")}
