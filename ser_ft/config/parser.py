"""Reading a recipe: YAML, and settings given on the command line over it."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from ..utils.errors import InputError
from .schema import Recipe

DESCRIPTION = """Train and evaluate a model as a recipe says, and report it. A recipe is a YAML file, which may name
another to start from (base: FILE); every setting below can be given on the command line over it, as
--train.epochs 10."""

Kind = TypeVar("Kind")


def parse(arguments: Sequence[str] | None, program: str) -> Recipe:
    """Read a recipe from command-line arguments: see `parse_as`."""
    return parse_as(Recipe, arguments, program, DESCRIPTION)


def parse_as(kind: type[Kind], arguments: Sequence[str] | None, program: str, description: str) -> Kind:
    """Read a recipe of some kind from command-line arguments.

    Args:
        kind: a dataclass whose fields are the settings. arguments: by default the program's.
        program, description: for the help text.

    Raises:
        InputError: a file is missing, or a key or a value is wrong.
        SystemExit: help, or the configuration, was asked for and has been printed.
    """
    from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    usage = f"{program} --config RECIPE.yaml [--SETTING VALUE ...]"
    parser = ArgumentParser(prog=program, usage=usage, description=description, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="A recipe: a YAML file.")
    parser.add_class_arguments(kind)
    try:
        found: Any = parser.instantiate(parser.parse_args(_with_bases(arguments)))
        return kind(**{key: value for key, value in vars(found).items() if key != "config"})
    except InputError:
        raise
    except UnicodeDecodeError as error:
        raise InputError("the recipe is not text in UTF-8") from error
    except (ArgumentError, TypeError, ValueError, OSError) as error:
        raise InputError(_one_line(str(error))) from error


def _with_bases(arguments: Sequence[str] | None) -> list[str]:
    """Put before each recipe the one it starts from: what is read later is read over it."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    found: list[str] = []
    while given:
        word = given.pop(0)
        if word == "--config" and given:
            found += _chain(Path(given.pop(0)), ())
        elif word.startswith("--config="):
            found += _chain(Path(word.removeprefix("--config=")), ())
        else:
            found.append(word)
    return found


def _chain(file: Path, above: tuple[Path, ...]) -> list[str]:
    if file.resolve() in above:
        raise InputError(f"{file}: a recipe cannot start from itself (base)")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return ["--config", str(file)]  # which the parser has its own words for
    if not isinstance(content, dict) or "base" not in content:
        return ["--config", str(file)]
    base = content.pop("base")
    if not isinstance(base, str) or not (file.parent / base).is_file():
        raise InputError(f"{file}: base names no file: {base!r}, looked for in {file.parent}")
    own = ["--config", yaml.safe_dump(content)] if content else []
    return [*_chain(file.parent / base, (*above, file.resolve())), *own]


def _one_line(message: str) -> str:
    """Say in one line what a parser says in many."""
    lines = [line.strip(" -") for line in message.splitlines() if line.strip(" -")]
    text = re.sub(r'Parser key "([^"]+)"', r"\1", " ".join(lines))
    text = re.sub(r"Expected an? <class '(\w+)'>", r"expected \1", text)
    text = text.replace("Unexpected config:", "the recipe is no mapping of settings:").rstrip(": ")
    return text[:600] or "the recipe cannot be read"
