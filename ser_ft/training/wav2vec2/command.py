"""Continued pretraining on unlabelled sound before fine-tuning: its recipe, its command, and whom a model has heard.

TAPT, task-adaptive pretraining: Chen & Rudnicky 2021, "Exploring wav2vec 2.0 fine-tuning for improved speech emotion
recognition" (arXiv:2110.06309), with the task of Baevski et al. 2020, "wav2vec 2.0" (arXiv:2006.11477).
"""

from __future__ import annotations

from collections.abc import Sequence

from ...config.pretraining import PretrainRecipe
from ...utils.errors import run_command, strip_debug_flag

DESCRIPTION = """Continue the pretraining of a wav2vec 2.0 encoder, without labels, on the sound of a split's training
speakers alone. A recipe is a YAML file; every setting below can be given on the command line over it, as
--pretrain.epochs 10. What it writes is fine-tuned as any encoder is: --model.name OUT/model."""


def main(arguments: Sequence[str] | None = None, program: str = "pretrain.py") -> int:
    """Read a recipe and carry it out: `recipes/pretrain.py`; return the exit code as `ser_ft.cli.main` does."""
    given = strip_debug_flag(arguments)

    def work() -> None:
        from ...config.parser import parse_as

        recipe = parse_as(PretrainRecipe, given, program, DESCRIPTION)
        from .run import pretrain

        pretrain(recipe)

    return run_command(work)
