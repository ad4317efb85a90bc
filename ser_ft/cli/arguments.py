"""What the commands share: parsers that report errors in one line, common options, and values such as NAME=VALUE."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NoReturn, TypeAlias

from ..report.shared.tables import FORMATS
from ..utils.errors import InputError

Commands: TypeAlias = "argparse._SubParsersAction[Any]"


class Parser(argparse.ArgumentParser):
    """Reports an error in one line, without the usage text."""

    def error(self, message: str) -> NoReturn:  # noqa: D102
        raise InputError(f"{message} (see {self.prog} --help)")


def add_command(
    commands: Commands,
    name: str,
    work: Callable[[argparse.Namespace], int | None],
    about: str,
    details: str = "",
    **settings: Any,
) -> argparse.ArgumentParser:
    """Add a command that calls `work`; `about` is its line in the list of commands, `details` what its help adds."""
    description = f"{about[0].upper()}{about[1:]}. {details}".strip()
    parser: argparse.ArgumentParser = commands.add_parser(name, help=about, description=description, **settings)
    parser.set_defaults(work=work)
    return parser


def add_format(parser: argparse.ArgumentParser) -> None:
    """Add --format for what a command prints."""
    parser.add_argument("--format", default="table", choices=FORMATS, help="table, csv, json or jsonl")


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the argument that names a saved model."""
    parser.add_argument(
        "model", metavar="RUN_OR_MODEL", help="a run folder, a folder with a saved classifier, or a name on the Hub"
    )


def add_allow_pickle(parser: argparse.ArgumentParser) -> None:
    """Add --allow-pickle for commands that load models."""
    help = (
        "also load pickled weights (pytorch_model.bin), which can hold code; PyTorch's restricted unpickler reads them"
    )
    parser.add_argument("--allow-pickle", action="store_true", help=help)


def parse_pairs(text: str, option: str) -> dict[str, str]:
    """Parse NAME=VALUE,NAME=VALUE."""
    return parse_mapping([word for word in text.split(",") if word.strip()], option)


def parse_mapping(words: list[str], option: str) -> dict[str, str]:
    """Parse a list of NAME=VALUE with different names."""
    values: dict[str, str] = {}
    for word in words:
        name, _, value = (part.strip() for part in word.partition("="))
        if not name or not value:
            raise InputError(f"{option} is written NAME=VALUE, not {word!r}")
        if name in values:
            raise InputError(f"{option}: {name} is given twice")
        values[name] = value
    return values


def parse_integers(text: str, option: str) -> list[int]:
    """Parse different non-negative integers, 0,1,2."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdigit() for word in words) or len(set(words)) < len(words):
        raise InputError(f"{option} takes different whole numbers, such as 0,1,2, not {text!r}")
    return [int(word) for word in words]
