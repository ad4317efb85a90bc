"""The command `ser-ft export`: a trained model as one .onnx file."""

from __future__ import annotations

import argparse
from typing import Any

from ..utils.errors import InputError


def add_export(commands: argparse._SubParsersAction[Any]) -> None:
    """Add `ser-ft export`."""
    about = "write a trained model as one .onnx file, which recognises without torch"
    parser = commands.add_parser(
        "export",
        help=about,
        description=about.capitalize() + ". The features are computed inside: what goes in is sound at 16 kHz, what "
        "comes out the logits of the classes. The file is asked about clips beside the model itself, and kept only if "
        "the probabilities are the same. `ser-ft predict --model FILE.onnx` recognises with it.",
    )
    parser.add_argument(
        "model", metavar="RUN_OR_MODEL", help="a run folder, a folder with a saved classifier, or a name on the Hub"
    )
    parser.add_argument(
        "--out", metavar="FILE.onnx", help="the file (default: NAME.onnx, or NAME-int8.onnx, in this folder)"
    )
    parser.add_argument(
        "--int8", action="store_true", help="weights as 8-bit integers: a smaller file, and a little less exact"
    )
    parser.add_argument(
        "--data",
        metavar="PREPARED_OR_FOLDER",
        help="clips to check it on: a table that `ser-ft prepare` wrote, or sound files (default: the table that the "
        "run was trained on where it is still there, else synthetic voices)",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="SHARE",
        help="how far a probability may be from the model's own (default: 0.0001; 0.1 with --int8)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    parser.set_defaults(work=_export)


def _export(chosen: argparse.Namespace) -> None:
    if chosen.tolerance is not None and not chosen.tolerance > 0:
        raise InputError(f"--tolerance is a share above 0, such as 0.001, not {chosen.tolerance:g}")
    from ..export.onnx import export_onnx

    made = export_onnx(
        chosen.model,
        chosen.out,
        int8=chosen.int8,
        data=chosen.data,
        tolerance=chosen.tolerance,
        overwrite=chosen.overwrite,
    )
    same = round(made.agreement * made.clips)
    print(f"written: {made.path} ({made.bytes / 1e6:.1f} MB)")
    print(f"checked on {made.clips} clips of {made.source}:")
    print(f"  largest difference of a probability: {made.difference:.1e}; the same answer for {same} of {made.clips}")
    print(
        f"  {made.seconds:.1f} s of sound take {1000 * made.took:.1f} ms; with torch, {1000 * made.torch_took:.1f} ms"
    )
