"""The command `ser-ft push`: publish a run's model with its card on the Hub."""

from __future__ import annotations

import argparse
from typing import Any


def add_push(commands: argparse._SubParsersAction[Any]) -> None:
    """Add `ser-ft push`."""
    parser = commands.add_parser(
        "push",
        help="publish a trained model with its card on the Hub",
        description="Publish a trained model on the Hub in one commit: its weights, a card filled from the run, "
        "figures, metrics and the split. Recordings, local paths and tokens are never published with it. If a push "
        "fails, push again to complete it. The token is the one that `hf auth login` saved, or HF_TOKEN; HF_ENDPOINT "
        "names another Hub. A table that `ser-ft prepare` wrote is published as parquet if its terms allow it.",
    )
    parser.add_argument("source", metavar="RUN", help="an evaluated run folder, or a table that `ser-ft prepare` wrote")
    parser.add_argument("name", metavar="USER/NAME", help="the repository; it is created if it does not exist")
    parser.add_argument("--private", action="store_true", help="create a private repository")
    parser.add_argument(
        "--dataset-card",
        action="store_true",
        help="also publish the card of the run's data, as the data set USER/NAME; of a table, publish only the card",
    )
    parser.add_argument(
        "--space", action="store_true", help="also publish the demo with this model, as the Space USER/NAME"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="send nothing: list the files that would be sent, with their sizes"
    )
    parser.add_argument("--out", metavar="FOLDER", help="send nothing: write the files that would be sent to FOLDER")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace what the repository holds (its history keeps it)"
    )
    parser.add_argument(
        "--accept-terms",
        action="store_true",
        help="state that the terms of TESS, SAVEE or your own recordings allow this publication",
    )
    parser.set_defaults(work=_push)


def _push(args: argparse.Namespace) -> None:
    from ..hub import push

    push(
        args.source,
        args.name,
        private=args.private,
        dataset_card=args.dataset_card,
        space=args.space,
        accept_terms=args.accept_terms,
        overwrite=args.overwrite,
        dry_run=args.dry_run,
        out=args.out,
    )
