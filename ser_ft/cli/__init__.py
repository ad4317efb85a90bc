"""The `ser-ft` command. Each subcommand parses its options and calls the function that does the work."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ..utils.errors import InputError, run_command, strip_debug_flag
from .data import add_audit, add_augment, add_explore, add_prepare
from .demo import add_demo
from .evaluation import add_compare, add_evaluate, add_fuse, add_report
from .export import add_export
from .monitor import add_monitor
from .predict import add_predict
from .push import add_push
from .training import add_probe, add_quickstart, add_sweep

_DESCRIPTION = "Fine-tune pretrained speech models to recognize emotion in speech."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Returns:
        0 on success; 1 if some items failed, or if `audit` has findings; 2 for wrong input; 130 when interrupted.
    """
    words = strip_debug_flag(arguments)
    # The settings of a recipe have a parser of their own.
    if words[:1] == ["train"]:
        return train(words[1:], "ser-ft train")
    parser = make_parser()
    code = 0

    def work() -> None:
        nonlocal code
        options, rest = parser.parse_known_args(words or ["--help"])
        if rest and not hasattr(options, "settings"):
            raise InputError(f"unrecognized arguments: {' '.join(rest)} (see ser-ft {words[0]} --help)")
        options.settings = rest
        code = options.work(options) or 0

    return run_command(work) or code


def train(arguments: Sequence[str] | None = None, program: str = "finetune.py") -> int:
    """Parse a recipe and run it, for `ser-ft train` and `recipes/finetune.py`; return the exit code as `main` does."""
    words = strip_debug_flag(arguments)

    def work() -> None:
        from ..config.parser import parse

        recipe = parse(words, program)
        from ..pipeline import run

        run(recipe)

    return run_command(work)


class _Parser(argparse.ArgumentParser):
    """Reports an error in one line, without the usage text."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise InputError(f"{message} (see {self.prog} --help)")


def make_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="ser-ft", description=_DESCRIPTION, epilog="Each command has its own --help. --debug shows tracebacks."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    add_quickstart(commands)
    add_prepare(commands)
    add_audit(commands)
    add_explore(commands)
    add_augment(commands)
    commands.add_parser("train", help="train, evaluate and report a model by a recipe", add_help=False)
    add_sweep(commands)
    add_probe(commands)
    add_evaluate(commands)
    add_fuse(commands)
    add_compare(commands)
    add_report(commands)
    add_predict(commands)
    add_monitor(commands)
    add_export(commands)
    add_push(commands)
    add_demo(commands)
    return parser
