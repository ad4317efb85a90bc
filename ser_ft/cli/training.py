"""The commands that train: quickstart, sweep and probe of `ser-ft`, and `recipes/pretrain.py`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..utils.errors import run_command, strip_debug_flag
from .arguments import parse_integers

_PRETRAIN_DESCRIPTION = """Continue the pretraining of a wav2vec 2.0 encoder on the speech of a split's training
speakers, without labels. A recipe is a YAML file. Each setting below can be overridden on the command line, as
--pretrain.epochs 10. The result is fine-tuned as any encoder: --model.name OUT/model."""


def add_quickstart(commands: argparse._SubParsersAction[Any]) -> None:
    """Add `ser-ft quickstart`."""
    about = "train and compare models on synthetic voices, in a few minutes, without data and without a network"
    parser = commands.add_parser("quickstart", help=about, description=about.capitalize() + ".")
    parser.add_argument("--out", default=None, help="the run folder (default: runs/quickstart)")
    parser.set_defaults(work=_quickstart)


def add_sweep(commands: argparse._SubParsersAction[Any]) -> None:
    """Add `ser-ft sweep`."""
    about = "train recipes on all folds or corpora and with several seeds; an interrupted sweep can be continued"
    parser = commands.add_parser(
        "sweep",
        help=about,
        usage="ser-ft sweep RECIPE ... --out DIR [--jobs N] [--list] [--SETTING VALUE ...]",
        description=about.capitalize() + ". Each run is an ordinary run folder, DIR/RECIPE/fold0-seed0. Finished runs "
        "are not repeated. The runs follow from the recipe's split.kind: all folds of kfold or of a named split; each "
        "corpus for corpus (left out) and cross-corpus (the only one trained on); otherwise one run per seed. Each "
        "setting of a recipe can be overridden for all runs, as for `ser-ft train`: --train.epochs 10.",
    )
    parser.add_argument("recipes", nargs="+", metavar="RECIPE", help="recipes: YAML files")
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder of the sweep")
    parser.add_argument("--seeds", default="0", metavar="N,...", help="seeds of the runs (default: 0)")
    parser.add_argument("--fold", metavar="N,...", help="only these folds, counted from 0")
    parser.add_argument(
        "--variants", metavar="FILE.yaml", help="a mapping, name: settings; each recipe is run with each of them"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time (default: 1)")
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        metavar="N",
        help="CPU threads of each run (default: 1); unlike --jobs, it affects the last digits of the results",
    )
    parser.add_argument("--list", action="store_true", help="print the command of each run, for a cluster's job array")
    parser.set_defaults(work=_sweep, settings=[])


def add_probe(commands: argparse._SubParsersAction[Any]) -> None:
    """Add `ser-ft probe`."""
    from ..report.shared.tables import FORMATS

    about = "score every layer of pretrained encoders: which encoder to fine-tune, and how many layers"
    parser = commands.add_parser(
        "probe",
        help=about,
        description=about.capitalize() + ". Each clip is passed through an encoder once. A linear classifier is fitted "
        "on the states of each layer, with folds by speaker, and its UAR on unseen speakers is printed. The states are "
        "cached: another probe takes seconds, also with another split.",
    )
    parser.add_argument(
        "backbones",
        nargs="+",
        metavar="BACKBONE",
        help="a name on the Hub, such as facebook/wav2vec2-base, or a folder",
    )
    parser.add_argument("--data", required=True, metavar="PREPARED", help="a table that `ser-ft prepare` wrote")
    parser.add_argument(
        "--pooling", default="mean", help="pooling of the states over time: mean or mean+std (default: mean)"
    )
    parser.add_argument("--folds", type=int, default=5, help="number of folds by speaker (default: 5)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the folds (default: 0)")
    parser.add_argument(
        "--split", metavar="FILE", help="a run's split.json, or a split file: use only its training speakers"
    )
    parser.add_argument(
        "--precision", default="auto", help="precision of the encoder: auto (the fastest), no (float32) or bf16"
    )
    parser.add_argument("--format", default="table", choices=FORMATS, help="table, csv, json or jsonl")
    parser.add_argument("--figure", metavar="FILE.png", help="write a figure of the UAR of the layers")
    parser.set_defaults(work=_probe)


def recipe_folder() -> Path:
    """Return the folder of the recipes: inside an installed package, next to it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    return next(folder for folder in (package / "recipes", package.parent / "recipes") if folder.is_dir())


def pretrain(arguments: Sequence[str] | None = None, program: str = "pretrain.py") -> int:
    """Read a recipe and continue a pretraining: `recipes/pretrain.py`; return the exit code as `ser_ft.cli.main`."""
    words = strip_debug_flag(arguments)

    def work() -> None:
        from ..config.parser import parse_as
        from ..config.pretraining import PretrainRecipe

        recipe = parse_as(PretrainRecipe, words, program, _PRETRAIN_DESCRIPTION)
        from ..training.wav2vec2.run import pretrain

        pretrain(recipe)

    return run_command(work)


def _quickstart(options: argparse.Namespace) -> None:
    from ..config.parser import parse

    out = ["--out", options.out] if options.out else []
    recipe = parse(["--config", str(recipe_folder() / "quickstart.yaml"), *out], "ser-ft quickstart")
    from ..pipeline import run

    run(recipe)


def _sweep(options: argparse.Namespace) -> None:
    from ..pipeline import sweep

    sweep(
        options.recipes,
        options.out,
        parse_integers(options.seeds, "--seeds"),
        None if options.fold is None else parse_integers(options.fold, "--fold"),
        options.settings,
        options.variants,
        options.jobs,
        options.threads,
        options.list,
    )


def _probe(options: argparse.Namespace) -> None:
    from ..report.run.figures import check_figure_file, write_layers
    from ..report.shared.tables import ALL_SEEN, format_rows, layer_rows, layer_text

    figure = check_figure_file(options.figure) if options.figure else None
    from ..evaluation.probe import probe

    result = probe(
        options.backbones,
        options.data,
        options.pooling,
        options.folds,
        options.seed,
        options.split,
        options.precision,
    )
    if options.format == "table":
        print(layer_text(result))
    else:
        print(format_rows(layer_rows(result), options.format))
        if options.split is None:
            print(f"note: {ALL_SEEN}", file=sys.stderr)
    if figure is not None:
        print(f"figure: {write_layers(result, figure)}", file=sys.stderr)
