"""The command `ser-ft export`: writes a trained model as one ONNX file."""

from __future__ import annotations

import argparse
from typing import Any

from ..utils.errors import InputError


def add_export(commands: argparse._SubParsersAction[Any]) -> None:
    """Add `ser-ft export`."""
    about = "write a trained model as one .onnx file that runs without PyTorch"
    parser = commands.add_parser(
        "export",
        help=about,
        description=about.capitalize() + ". The features are part of the graph: its input is audio at 16 kHz, its "
        "output the logits of the classes. The file is compared with the model on some clips, and kept only if the "
        "probabilities agree. `ser-ft predict --model FILE.onnx` recognizes with it.",
    )
    parser.add_argument(
        "model", metavar="RUN_OR_MODEL", help="a run folder, a folder with a saved classifier, or a name on the Hub"
    )
    parser.add_argument(
        "--out", metavar="FILE.onnx", help="the file (default: NAME.onnx or NAME-int8.onnx in the current folder)"
    )
    parser.add_argument(
        "--int8", action="store_true", help="store weights as 8-bit integers: a smaller and slightly less exact file"
    )
    parser.add_argument(
        "--data",
        metavar="PREPARED_OR_FOLDER",
        help="clips for the comparison: a table that `ser-ft prepare` wrote, or sound files (default: the table that "
        "the model was trained on if it still exists, else synthetic voices)",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="DIFFERENCE",
        help="largest accepted difference of a probability (default: 0.0001; 0.1 with --int8)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    parser.set_defaults(work=_export)


def _export(options: argparse.Namespace) -> None:
    if options.tolerance is not None and not options.tolerance > 0:
        raise InputError(f"--tolerance must be above 0, such as 0.001, not {options.tolerance:g}")
    from ..export.onnx import export_onnx

    result = export_onnx(
        options.model,
        options.out,
        int8=options.int8,
        data=options.data,
        tolerance=options.tolerance,
        overwrite=options.overwrite,
    )
    same = round(result.agreement * result.clips)
    print(f"written: {result.path} ({result.bytes / 1e6:.1f} MB)")
    print(f"compared on {result.clips} clips of {result.source}:")
    print(f"  largest difference of a probability: {result.difference:.1e}; same class: {same} of {result.clips} clips")
    times = f"{1000 * result.onnx_seconds:.1f} ms; with PyTorch: {1000 * result.torch_seconds:.1f} ms"
    print(f"  time for a clip of {result.clip_seconds:.1f} s: {times}")
