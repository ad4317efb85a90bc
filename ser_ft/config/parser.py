"""Reads a recipe: a YAML file, and settings on the command line that override it."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml

from ..utils.errors import InputError
from ..utils.readers import check_yaml, read_yaml
from .schema import Recipe

DESCRIPTION = """Train, evaluate and report a model as a recipe describes. A recipe is a YAML file, which may extend
another (base: FILE). Each setting below can be overridden on the command line, as --train.epochs 10."""

RecipeType = TypeVar("RecipeType")
# Bare flags on the command line. Each one replaces what a recipe file says about the other.
_FLAGS = {"--overwrite": "--resume", "--resume": "--overwrite"}


def parse(arguments: Sequence[str] | None, program: str) -> Recipe:
    """Read a training recipe from command-line arguments: see `parse_as`."""
    return parse_as(Recipe, arguments, program, DESCRIPTION)


def parse_as(
    recipe_type: type[RecipeType], arguments: Sequence[str] | None, program: str, description: str
) -> RecipeType:
    """Read a recipe of some type from command-line arguments.

    Args:
        recipe_type: a dataclass whose fields are the settings.
        arguments: the command line without the program's name; None: that of this process.
        program: name of the program in the help text.
        description: first paragraph of the help text.

    Raises:
        InputError: a file is missing, or a key or a value is wrong.
        SystemExit: the help text or the configuration was requested and has been printed.
    """
    from jsonargparse import ArgumentError

    parser = _make_parser(cast(Any, recipe_type), program, description)
    words = list(sys.argv[1:] if arguments is None else arguments)
    _check_nested_yaml(words, "the command line")
    _use_checked_loader()
    try:
        settings: Any = parser.instantiate(parser.parse_args(_with_flag_values(_with_bases(words))))
        return recipe_type(**{key: value for key, value in vars(settings).items() if key != "config"})
    except InputError:
        raise
    except UnicodeDecodeError as error:
        raise InputError("the recipe is not text in UTF-8") from error
    except (ArgumentError, TypeError, ValueError, OSError) as error:
        raise InputError(_one_line(str(error))) from error


@cache
def _make_parser(recipe_type: type, program: str, description: str) -> Any:
    from jsonargparse import ArgumentParser, set_parsing_settings

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    usage = f"{program} --config RECIPE.yaml [--SETTING VALUE ...]"
    parser = ArgumentParser(prog=program, usage=usage, description=description, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="A recipe: a YAML file.")
    parser.add_class_arguments(recipe_type)
    return parser


def _with_flag_values(words: list[str]) -> list[str]:
    """Write the bare flags --overwrite and --resume as settings with a value."""
    result: list[str] = []
    for word, following in zip(words, [*words[1:], ""], strict=False):
        if word in _FLAGS and following not in ("true", "false"):
            opposite = _FLAGS[word]
            result += [f"{word}=true"] if opposite in words else [f"{opposite}=false", f"{word}=true"]
        else:
            result.append(word)
    return result


def _with_bases(words: list[str]) -> list[str]:
    """Insert before each recipe the one that it extends, so that the recipe overrides it."""
    rest = list(words)
    result: list[str] = []
    while rest:
        word = rest.pop(0)
        if word == "--config" and rest:
            result += _with_base(Path(rest.pop(0)), ())
        elif word.startswith("--config="):
            result += _with_base(Path(word.removeprefix("--config=")), ())
        else:
            result.append(word)
    return result


def _with_base(file: Path, descendants: tuple[Path, ...]) -> list[str]:
    if file.resolve() in descendants:
        raise InputError(f"{file}: a recipe cannot extend itself (base)")
    try:
        content = read_yaml(file)
    except OSError:
        return ["--config", str(file)]  # the parser reports the error
    _check_nested_yaml(content, str(file))
    if not isinstance(content, dict) or "base" not in content:
        return ["--config", str(file)]
    base = content.pop("base")
    if not isinstance(base, str) or not (file.parent / base).is_file():
        raise InputError(f"{file}: base names no file: {base!r}, looked for in {file.parent}")
    own = ["--config", yaml.safe_dump(content)] if content else []
    return [*_with_base(file.parent / base, (*descendants, file.resolve())), *own]


def _check_nested_yaml(value: Any, source: str) -> None:
    """Check the text in values: where a setting is no text, the parser reads it as YAML."""
    if isinstance(value, dict):
        for item in value.values():
            _check_nested_yaml(item, source)
    elif isinstance(value, list):
        for item in value:
            _check_nested_yaml(item, source)
    elif isinstance(value, str):
        check_yaml(value.partition("=")[2] if value.startswith("--") else value, source)


@cache
def _use_checked_loader() -> None:
    """Let the parser check the YAML of each file that it reads."""
    import yaml
    from jsonargparse import get_loader, set_loader

    load = get_loader("yaml")

    def load_checked(text: str) -> Any:
        check_yaml(text, "the recipe")
        return load(text)

    set_loader("yaml", load_checked, exceptions=(yaml.YAMLError,))


def _one_line(message: str) -> str:
    """Shorten a message of the parser to one line without Python types."""
    lines = [line.strip(" -") for line in message.splitlines() if line.strip(" -")]
    text = re.sub(r'Parser key "([^"]+)"', r"\1", " ".join(lines))
    value = r"(?:.*Given value:|\. Got value:) (.+)"
    choices = re.search(r"^(\S+): .*?Expected a typing\.Literal\[([^]]+)\]" + value, text)
    if choices:
        return f"{choices[1]} must be one of {choices[2].replace(chr(39), '')}, not {choices[3]!r}"
    text = re.sub(r"Expected an? <class '(\w+)'>", r"expected \1", text)
    text = text.replace("Unexpected config:", "the recipe is no mapping of settings:").rstrip(": ")
    return text[:600] or "the recipe cannot be read"
