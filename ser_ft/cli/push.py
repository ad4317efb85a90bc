"""The command `ser-ft push`: a run's model and its card on the Hub."""

from __future__ import annotations

import argparse
from typing import Any


def add_push(commands: argparse._SubParsersAction[Any]) -> None:
    """Add `ser-ft push`."""
    about = "publish a trained model with its card on the Hub"
    parser = commands.add_parser(
        "push",
        help=about,
        description=about[:1].upper()
        + about[1:]
        + ": its weights, a card that fills itself from the run, figures, metrics and "
        "the split, in one commit; never a recording, a path of this machine or a token. A push that broke off is "
        "finished by another. The token is the one that `hf auth login` keeps, or HF_TOKEN; HF_ENDPOINT names another "
        "Hub. A table that `ser-ft prepare` wrote is published as parquet, where its terms let it be.",
    )
    parser.add_argument("source", metavar="RUN", help="an evaluated run folder, or a table that `ser-ft prepare` wrote")
    parser.add_argument("name", metavar="USER/NAME", help="the repository; it is made where there is none")
    parser.add_argument("--private", action="store_true", help="make the repository private")
    parser.add_argument(
        "--dataset-card",
        action="store_true",
        help="publish the card of the run's data too, as the data set USER/NAME; of a table, its card alone",
    )
    parser.add_argument(
        "--space", action="store_true", help="publish a page where the model can be tried too, as the Space USER/NAME"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="send nothing: list what would be sent, file by file, with its bytes"
    )
    parser.add_argument("--out", metavar="FOLDER", help="send nothing: write what would be sent to this folder")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace what the repository holds (its history keeps it)"
    )
    parser.add_argument(
        "--accept-terms",
        action="store_true",
        help="the terms of TESS or SAVEE, or of recordings of your own, let you publish this",
    )
    parser.set_defaults(work=_push)


def _push(chosen: argparse.Namespace) -> None:
    from ..hub import push

    push(
        chosen.source,
        chosen.name,
        private=chosen.private,
        dataset_card=chosen.dataset_card,
        space=chosen.space,
        accept_terms=chosen.accept_terms,
        overwrite=chosen.overwrite,
        dry_run=chosen.dry_run,
        out=chosen.out,
    )
