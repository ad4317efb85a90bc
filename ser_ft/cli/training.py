"""The commands of `ser-ft` that train: quickstart, sweep and probe; `train` itself is read by its own parser."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from .arguments import parse_integers


def add_quickstart(commands: argparse._SubParsersAction[Any]) -> None:
    """Add `ser-ft quickstart`."""
    about = "train and compare on ser_ft's own synthetic voices, in a few minutes, without data and without a network"
    parser = commands.add_parser("quickstart", help=about, description=about.capitalize() + ".")
    parser.add_argument("--out", default=None, help="the run folder (default: runs/quickstart)")
    parser.set_defaults(work=_quickstart)


def add_sweep(commands: argparse._SubParsersAction[Any]) -> None:
    """Add `ser-ft sweep`."""
    about = "train recipes on all folds, or corpora, and with several seeds; stopped, it goes on where it was"
    parser = commands.add_parser(
        "sweep",
        help=about,
        usage="ser-ft sweep RECIPE ... --out DIR [--jobs N] [--list] [--SETTING VALUE ...]",
        description=about.capitalize() + ". Each run is an ordinary run folder, DIR/RECIPE/fold0-seed0; a finished one "
        "is not made again. What is run follows from a recipe's split.kind: all folds of kfold or of a named split, "
        "each corpus of corpus (left out) and of cross-corpus (trained on alone), else one run for each seed. Every "
        "setting of a recipe can be given over all of them, as for `ser-ft train`: --train.epochs 10.",
    )
    parser.add_argument("recipes", nargs="+", metavar="RECIPE", help="recipes: YAML files")
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder of the sweep")
    parser.add_argument("--seeds", default="0", metavar="N,...", help="each run is made with each (default: 0)")
    parser.add_argument("--fold", metavar="N,...", help="these folds alone, counted from 0")
    parser.add_argument(
        "--variants", metavar="FILE.yaml", help="a mapping, name: settings; each recipe is run with each, over its own"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time (default: 1)")
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        metavar="N",
        help="CPU threads of each run (default: 1); another number changes the last digits of results, --jobs does not",
    )
    parser.add_argument(
        "--list", action="store_true", help="print each run as a command of its own, for a cluster's job array"
    )
    parser.set_defaults(work=_sweep, settings=[])


def add_probe(commands: argparse._SubParsersAction[Any]) -> None:
    """Add `ser-ft probe`."""
    from ..report.shared.tables import FORMATS

    about = "score every layer of pretrained encoders: which to fine-tune, and how deep"
    parser = commands.add_parser(
        "probe",
        help=about,
        description=about.capitalize() + ". Each clip goes through an encoder once; a linear classifier is fitted on "
        "the states of each layer, with folds by speaker, and its UAR on unheard speakers is printed. The states are "
        "kept: probing again, or with another split, takes seconds.",
    )
    parser.add_argument(
        "backbones",
        nargs="+",
        metavar="BACKBONE",
        help="a name on the Hub, such as facebook/wav2vec2-base, or a folder",
    )
    parser.add_argument("--data", required=True, metavar="PREPARED", help="a table that `ser-ft prepare` wrote")
    parser.add_argument("--pooling", default="mean", help="of the states over time: mean or mean+std (default: mean)")
    parser.add_argument("--folds", type=int, default=5, help="by speaker (default: 5)")
    parser.add_argument("--seed", type=int, default=0, help="of the folds' draw (default: 0)")
    parser.add_argument(
        "--split", metavar="FILE", help="a run's split.json, or a split file: probe its training speakers alone"
    )
    parser.add_argument(
        "--precision", default="auto", help="of the encoder: auto (the fastest here), no (float32) or bf16"
    )
    parser.add_argument("--format", default="table", choices=FORMATS, help="table, csv, json or jsonl")
    parser.add_argument("--figure", metavar="FILE.png", help="draw the layers' UAR there")
    parser.set_defaults(work=_probe)


def _quickstart(chosen: argparse.Namespace) -> None:
    from ..config.parser import parse

    given = ["--config", str(recipe_folder() / "quickstart.yaml"), *(["--out", chosen.out] if chosen.out else [])]
    recipe = parse(given, "ser-ft quickstart")
    from ..pipeline import run

    run(recipe)


def recipe_folder() -> Path:
    """Return the folder of the recipes: in the package where it is installed, beside it in a checkout."""
    here = Path(__file__).resolve().parents[1]
    return next(folder for folder in (here / "recipes", here.parent / "recipes") if folder.is_dir())


def _sweep(chosen: argparse.Namespace) -> None:
    from ..pipeline import sweep

    sweep(
        chosen.recipes,
        chosen.out,
        parse_integers(chosen.seeds, "--seeds"),
        None if chosen.fold is None else parse_integers(chosen.fold, "--fold"),
        chosen.settings,
        chosen.variants,
        chosen.jobs,
        chosen.threads,
        chosen.list,
    )


def _probe(chosen: argparse.Namespace) -> None:
    from ..report.run.figures import check_figure_file, write_layers
    from ..report.shared.tables import ALL_SEEN, format_rows, layer_rows, layer_text

    figure = check_figure_file(chosen.figure) if chosen.figure else None
    from ..evaluation.probe import probe

    found = probe(
        chosen.backbones,
        chosen.data,
        chosen.pooling,
        chosen.folds,
        chosen.seed,
        chosen.split,
        chosen.precision,
    )
    if chosen.format == "table":
        print(layer_text(found))
    else:
        print(format_rows(layer_rows(found), chosen.format))
        if chosen.split is None:
            print(f"note: {ALL_SEEN}", file=sys.stderr)
    if figure is not None:
        print(f"figure: {write_layers(found, figure)}", file=sys.stderr)
