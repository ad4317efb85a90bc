"""Commands and snippets in README.md and docs/ are ones that work."""

import ast
import glob
import importlib
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from ser_ft.audio import to_wav
from ser_ft.cli import make_parser
from ser_ft.config.parser import parse_as
from ser_ft.config.pretraining import PretrainRecipe
from ser_ft.config.schema import Recipe

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RECIPES = {"finetune.py": Recipe, "pretrain.py": PretrainRecipe}
# What other programs check: their own arguments.
OTHERS = {"hf", "pip", ".venv/bin/pip", "ruff", "mypy", "mkdocs", "pytest", "bash", "sed"}


def blocks(language: str) -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for name, text in BLOCK.findall(page.read_text(encoding="utf-8")):
            if name == language:
                yield page.name, text


def commands() -> Iterator[tuple[str, list[str]]]:
    for page, text in blocks("bash"):
        for line in text.splitlines():
            if line and not line.startswith("#"):
                for command in re.split(r" && | \| ", line):
                    words = shlex.split(command)
                    while re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                        words.pop(0)
                    yield page, words


def check_recipe(script: str, arguments: list[str]) -> None:
    parse_as(RECIPES[script], arguments, script, "")


def check_ser_ft(words: list[str]) -> None:
    if words[0] == "train":
        return check_recipe("finetune.py", words[1:])
    options, settings = make_parser().parse_known_args(words)
    for pattern in getattr(options, "recipes", []):
        recipes = glob.glob(pattern)
        assert recipes, pattern
        for recipe in recipes:
            check_recipe("finetune.py", ["--config", recipe, *settings])
    assert words[0] == "sweep" or not settings
    return None


def check_script(words: list[str]) -> None:
    """Look for the options of a script in its text: to start each would take a minute."""
    text = (ROOT / words[0]).read_text(encoding="utf-8")
    for word in words[1:]:
        assert not word.startswith("--") or f'"{word}"' in text, f"{words[0]} has no option {word}"


def check_launch(words: list[str]) -> None:
    place = next(index for index, word in enumerate(words) if word.startswith("recipes/") and word.endswith(".py"))
    assert all((ROOT / word).is_file() for word in words[:place] if word.endswith(".yaml"))
    check_recipe(Path(words[place]).name, words[place + 1 :])


CHECKS: dict[str, Callable[[list[str]], None]] = {
    "ser-ft": check_ser_ft,
    "accelerate": check_launch,
    ".venv/bin/accelerate": check_launch,
    "torchrun": check_launch,
    "python": check_script,
}


@pytest.mark.parametrize(("page", "words"), [pytest.param(*each, id=" ".join(each[1])[:60]) for each in commands()])
def test_a_command_that_a_page_shows_is_accepted(page: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    if words[0] in OTHERS or words[:2] == ["python3", "-m"] or words[:2] == [".venv/bin/python", "-m"]:
        return
    assert words[0] in CHECKS, f"{page}: {words[0]} is not a command that is known here"
    CHECKS[words[0]](words[1:])


@pytest.mark.parametrize(("page", "text"), list(blocks("python")))
def test_what_a_python_snippet_imports_from_ser_ft_is_there(page: str, text: str) -> None:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ser_ft"):
            module = importlib.import_module(str(node.module))
            assert all(hasattr(module, alias.name) for alias in node.names), page


@pytest.mark.parametrize(("page", "text"), list(blocks("yaml")))
def test_a_recipe_that_a_page_shows_is_accepted(
    page: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "noises").mkdir()
    (tmp_path / "noises" / "noise.wav").write_bytes(to_wav(np.zeros(1600)))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text.replace("base: base/", f"base: {ROOT}/recipes/base/"), encoding="utf-8")
    check_recipe("finetune.py", ["--config", str(recipe)])


def test_the_reference_of_settings_is_that_of_the_dataclasses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    module = importlib.import_module("configuration")
    assert module.FILE.read_text(encoding="utf-8") == module.reference(), "run python docs/configuration.py"
    sys.modules.pop("configuration")


def test_the_pages_build_and_load_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install -e '.[docs]'")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path)))
    for page in tmp_path.glob("*.html"):
        loaded = re.findall(
            r'<(?:script|img|iframe)[^>]*\ssrc="([^"]+)"|<link[^>]*\shref="([^"]+)"', page.read_text("utf-8")
        )
        assert not [address for pair in loaded for address in pair if "//" in address], page.name


def test_each_promise_in_the_security_page_names_tests_that_exist() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    defined = {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert set(re.findall(r"`(test_\w+)`", text)) <= defined
    scripts = set(re.findall(r"`(?:python )?(benchmarks/\w+\.py)", text))
    assert all((ROOT / script).is_file() for script in scripts), scripts
    promises = text.partition("\n## What is promised")[2].partition("\n## ")[0].split("\n- ")[1:]
    assert all("`test_" in promise for promise in promises), "a promise that no test holds"
