"""The `ser-ft` command. Each subcommand parses its options and calls the function that does the work."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ..utils.errors import InputError, run_command, strip_debug_flag
from .arguments import Parser
from .data import add_audit, add_augment, add_explore, add_prepare
from .demo import add_demo
from .evaluation import add_compare, add_evaluate, add_fuse, add_report
from .monitor import add_monitor
from .predict import add_predict
from .publishing import add_export, add_push
from .training import add_adapt, add_probe, add_quickstart, add_sweep


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

    def work() -> int | None:
        options, rest = parser.parse_known_args(words or ["--help"])
        if rest and not hasattr(options, "settings"):
            raise InputError(f"unrecognized arguments: {' '.join(rest)} (see ser-ft {words[0]} --help)")
        options.settings = rest
        code: int | None = options.work(options)
        return code

    return run_command(work)


def train(arguments: Sequence[str] | None = None, program: str = "finetune.py") -> int:
    """Parse a recipe and run it, for `ser-ft train` and `recipes/finetune.py`; return the exit code as `main` does."""
    words = strip_debug_flag(arguments)

    def work() -> None:
        from ..config.parser import parse

        recipe = parse(words, program)
        from ..pipeline import run

        run(recipe)

    return run_command(work)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands but `train`, whose options are the settings of a recipe."""
    description = "Fine-tune pretrained speech models to recognize emotion in speech."
    epilog = "Each command has its own --help. --debug shows tracebacks."
    parser = Parser(prog="ser-ft", description=description, epilog=epilog)
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    for add in (add_quickstart, add_prepare, add_audit, add_explore, add_augment):
        add(commands)
    commands.add_parser("train", help="train, evaluate and report a model by a recipe", add_help=False)
    for add in (add_sweep, add_probe, add_adapt, add_evaluate, add_fuse, add_compare, add_report):
        add(commands)
    for add in (add_predict, add_monitor, add_export, add_push, add_demo):
        add(commands)
    return parser
