"""Reading a recipe: YAML, and settings given on the command line over it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ..errors import InputError
from .config import Recipe

DESCRIPTION = """Train and evaluate a model as a recipe says, and report it. A recipe is a YAML file; every setting
below can be given on the command line over it, as --train.epochs 10."""


def parse(arguments: Sequence[str] | None, program: str) -> Recipe:
    """Read a recipe from command-line arguments.

    Raises:
        InputError: a file is missing, or a key or a value is wrong.
        SystemExit: help, or the configuration, was asked for and has been printed.
    """
    from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    usage = f"{program} --config RECIPE.yaml [--SETTING VALUE ...]"
    parser = ArgumentParser(prog=program, usage=usage, description=DESCRIPTION, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="A recipe: a YAML file.")
    parser.add_class_arguments(Recipe)
    try:
        found: Any = parser.instantiate(parser.parse_args(arguments))
        return Recipe(**{key: value for key, value in vars(found).items() if key != "config"})
    except InputError:
        raise
    except UnicodeDecodeError as error:
        raise InputError("the recipe is not text in UTF-8") from error
    except (ArgumentError, TypeError, ValueError, OSError) as error:
        raise InputError(_one_line(str(error))) from error


def _one_line(message: str) -> str:
    """Say in one line what a parser says in many."""
    lines = [line.strip(" -") for line in message.splitlines() if line.strip(" -")]
    text = re.sub(r'Parser key "([^"]+)"', r"\1", " ".join(lines))
    text = re.sub(r"Expected an? <class '(\w+)'>", r"expected \1", text)
    text = text.replace("Unexpected config:", "the recipe is no mapping of settings:").rstrip(": ")
    return text[:600] or "the recipe cannot be read"
