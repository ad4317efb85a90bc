"""The `ser-ft` commands that give a trained model to others: export and push."""

from __future__ import annotations

import argparse

from ..utils.errors import InputError
from ..utils.text import print_text
from .arguments import Commands, add_allow_pickle, add_command, add_model


def add_export(commands: Commands) -> None:
    """Add `ser-ft export`."""
    about = "write a trained model as one .onnx file that runs without PyTorch"
    details = (
        "The features are part of the graph: its input is audio at 16 kHz, its output the logits of the classes. The "
        "file is compared with the model on some clips, and kept only if the probabilities agree. `ser-ft predict "
        "--model FILE.onnx` recognizes with it."
    )
    parser = add_command(commands, "export", _export, about, details)
    add_model(parser)
    out = "the file (default: NAME.onnx or NAME-int8.onnx in the current folder)"
    parser.add_argument("--out", metavar="FILE.onnx", help=out)
    int8 = "store weights as 8-bit integers: a smaller and slightly less exact file"
    parser.add_argument("--int8", action="store_true", help=int8)
    data = (
        "clips for the comparison: a table that `ser-ft prepare` wrote, or sound files (default: the table that the "
        "model was trained on if it still exists, else synthetic voices)"
    )
    parser.add_argument("--data", metavar="PREPARED_OR_FOLDER", help=data)
    tolerance = "largest accepted difference of a probability (default: 0.0001; 0.1 with --int8)"
    parser.add_argument("--tolerance", type=float, metavar="DIFFERENCE", help=tolerance)
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    add_allow_pickle(parser)


def add_push(commands: Commands) -> None:
    """Add `ser-ft push`."""
    about = "publish a trained model with its card on the Hub"
    details = (
        "One commit holds its weights, a card filled from the run, figures, metrics and the split. Recordings, local "
        "paths and tokens are never published with it. If a push fails, push again to complete it. The token is the "
        "one that `hf auth login` saved, or HF_TOKEN; HF_ENDPOINT names another Hub. A table that `ser-ft prepare` "
        "wrote is published as parquet if its terms allow it."
    )
    add = add_command(commands, "push", _push, about, details).add_argument
    add("source", metavar="RUN", help="an evaluated run folder, or a table that `ser-ft prepare` wrote")
    add("name", metavar="USER/NAME", help="the repository; it is created if it does not exist")
    add("--private", action="store_true", help="create a private repository")
    card = "also publish the card of the run's data, as the data set USER/NAME; of a table, publish only the card"
    add("--dataset-card", action="store_true", help=card)
    add("--space", action="store_true", help="also publish the demo with this model, as the Space USER/NAME")
    dry_run = "send nothing: list the files that would be sent, with their sizes"
    add("--dry-run", action="store_true", help=dry_run)
    add("--out", metavar="FOLDER", help="send nothing: write the files that would be sent to FOLDER")
    add("--overwrite", action="store_true", help="replace what the repository holds (its history keeps it)")
    terms = "state that the terms of TESS, SAVEE or your own recordings allow this publication"
    add("--accept-terms", action="store_true", help=terms)


def _export(options: argparse.Namespace) -> None:
    if options.tolerance is not None and not options.tolerance > 0:
        raise InputError(f"--tolerance must be above 0, such as 0.001, not {options.tolerance:g}")
    from ..export.onnx import export_onnx

    settings = {name: getattr(options, name) for name in ("int8", "data", "tolerance", "overwrite", "allow_pickle")}
    result = export_onnx(options.model, options.out, **settings)
    same = round(result.agreement * result.clips)
    print_text(f"written: {result.path} ({result.bytes / 1e6:.1f} MB)")
    print_text(f"compared on {result.clips} clips of {result.source}:")
    print_text(
        f"  largest difference of a probability: {result.difference:.1e}; same class: {same} of {result.clips} clips"
    )
    times = f"{1000 * result.onnx_seconds:.1f} ms; with PyTorch: {1000 * result.torch_seconds:.1f} ms"
    print_text(f"  time for a clip of {result.clip_seconds:.1f} s: {times}")


def _push(options: argparse.Namespace) -> None:
    from ..hub import push

    names = ("private", "dataset_card", "space", "accept_terms", "overwrite", "dry_run", "out")
    push(options.source, options.name, **{name: getattr(options, name) for name in names})
