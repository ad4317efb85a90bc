"""The commands that train: quickstart, sweep, probe and adapt of `ser-ft`, and `recipes/pretrain.py`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..report.shared.tables import ALL_SEEN, format_rows, layer_rows, layer_text
from ..utils.errors import run_command, strip_debug_flag
from ..utils.files import output_lock
from ..utils.text import print_text
from .arguments import Commands, add_allow_pickle, add_command, add_format, parse_integers

_PRETRAIN_DESCRIPTION = """Continue the pretraining of a wav2vec 2.0 encoder on the speech of a split's training
speakers, without labels. A recipe is a YAML file. Each setting below can be overridden on the command line, as
--pretrain.epochs 10. The result is fine-tuned as any encoder: --model.name OUT/model."""


def add_quickstart(commands: Commands) -> None:
    """Add `ser-ft quickstart`."""
    about = "fine-tune a pretrained model and compare it with an MFCC-CNN, on synthetic voices, without data or network"
    parser = add_command(commands, "quickstart", _quickstart, about)
    parser.add_argument("--out", default=None, help="the run folder (default: runs/quickstart)")


def add_sweep(commands: Commands) -> None:
    """Add `ser-ft sweep`."""
    about = "train recipes on all folds or corpora and with several seeds; an interrupted sweep can be continued"
    details = (
        "Each run is an ordinary run folder, DIR/RECIPE/fold0-seed0. Finished runs are not repeated. The runs follow "
        "from the recipe's split.kind: all folds of kfold or of a named split; each corpus for corpus (left out) and "
        "cross-corpus (the only one trained on); otherwise one run per seed. Each setting of a recipe can be "
        "overridden for all runs, as for `ser-ft train`: --train.epochs 10."
    )
    usage = "ser-ft sweep RECIPE ... --out DIR [--jobs N] [--list] [--SETTING VALUE ...]"
    parser = add_command(commands, "sweep", _sweep, about, details, usage=usage)
    parser.set_defaults(settings=[])
    add = parser.add_argument
    add("recipes", nargs="+", metavar="RECIPE", help="recipes: YAML files")
    add("--out", required=True, metavar="DIR", help="the folder of the sweep")
    add("--seeds", default="0", metavar="N,...", help="seeds of the runs (default: 0)")
    add("--fold", metavar="N,...", help="only these folds, counted from 0")
    variants = "a mapping, name: settings; each recipe is run with each of them"
    add("--variants", metavar="FILE.yaml", help=variants)
    add("--jobs", type=int, default=1, metavar="N", help="runs at a time (default: 1)")
    threads = "CPU threads of each run (default: 1); unlike --jobs, it affects the last digits of the results"
    add("--threads", type=int, default=1, metavar="N", help=threads)
    add("--list", action="store_true", help="print the command of each run, for a cluster's job array")


def add_probe(commands: Commands) -> None:
    """Add `ser-ft probe`."""
    about = "score every layer of pretrained encoders: which encoder to fine-tune, and how many layers"
    details = (
        "Each clip is passed through an encoder once. A linear classifier is fitted on the states of each layer, with "
        "folds by speaker, and its UAR on unseen speakers is printed. The states are cached: another probe takes "
        "seconds, also with another split."
    )
    parser = add_command(commands, "probe", _probe, about, details)
    add = parser.add_argument
    backbones = "a name on the Hub, such as facebook/wav2vec2-base, or a folder"
    add("backbones", nargs="+", metavar="BACKBONE", help=backbones)
    add("--data", required=True, metavar="PREPARED", help="a table that `ser-ft prepare` wrote")
    pooling = "pooling of the states over time: mean or mean+std (default: mean)"
    add("--pooling", default="mean", help=pooling)
    add("--folds", type=int, default=5, help="number of folds by speaker (default: 5)")
    add("--seed", type=int, default=0, help="seed of the folds (default: 0)")
    split = "a run's split.json, or a split file: use only its training speakers"
    add("--split", metavar="FILE", help=split)
    precision = "precision of the encoder: auto (the fastest), no (float32) or bf16"
    add("--precision", default="auto", help=precision)
    add("--figure", metavar="FILE.png", help="write a figure of the UAR of the layers")
    add_allow_pickle(parser)
    add_format(parser)


def add_adapt(commands: Commands) -> None:
    """Add `ser-ft adapt`."""
    about = "fit the last layer of a trained model to a few labelled clips of one's own"
    details = (
        "Some 20 to 200 clips of several speakers are enough. What to expect for further speakers is measured by "
        "cross-validation, beside the model as it came. The result is a run folder, which every command takes as a "
        "model. Clips of speakers that the model was trained on are left out."
    )
    parser = add_command(commands, "adapt", _adapt, about, details)
    add = parser.add_argument
    add(
        "model",
        metavar="MODEL",
        help="a run folder, a folder with a saved classifier, a name on the Hub, shipped or small",
    )
    add("--data", required=True, metavar="PREPARED", help="a table that `ser-ft prepare` wrote")
    add("--out", metavar="FOLDER", help="the folder to write (default: runs/adapted-to-DATA)")
    add("--overwrite", action="store_true", help="replace an earlier output in this folder")
    add_allow_pickle(parser)


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


def _adapt(options: argparse.Namespace) -> None:
    from ..training.head_adaptation import adapt_head, describe

    settings = {name: getattr(options, name) for name in ("allow_pickle", "overwrite")}
    print_text(describe(adapt_head(options.model, options.data, options.out, **settings)))


def _probe(options: argparse.Namespace) -> None:
    from ..report.run.figures import check_figure_file, write_layers

    with output_lock(options.figure):
        figure = check_figure_file(options.figure) if options.figure else None
        from ..evaluation.probe import probe

        names = ("pooling", "folds", "seed", "split", "precision", "allow_pickle")
        result = probe(options.backbones, options.data, **{name: getattr(options, name) for name in names})
        if options.format == "table":
            print_text(layer_text(result))
        else:
            print_text(format_rows(layer_rows(result), options.format))
            if options.split is None:
                print_text(f"note: {ALL_SEEN}", file=sys.stderr)
        if figure is not None:
            print_text(f"figure: {write_layers(result, figure)}", file=sys.stderr)
