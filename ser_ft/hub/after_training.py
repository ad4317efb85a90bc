"""Publishing as the last step of a run: what is checked before training, and the upload afterwards."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..config.schema import HubConfig
from ..data.licenses import check_accepted
from ..data.prepare import corpus_info
from ..evaluation.provenance import corpora_of_new_run
from ..evaluation.run_folder import RunFolder
from ..utils.errors import InputError
from . import publish
from .client import UploadError

if TYPE_CHECKING:
    import datasets

    from ..data.splits import Split


def publication_check(config: HubConfig, model: str) -> Callable[[datasets.Dataset, Split], None]:
    """Check that the access token may write, and return a check of the license terms of a run's data.

    Only the main process asks the Hub.

    Args:
        config: the recipe's section `hub`.
        model: the model that training starts from.

    Raises:
        InputError: the model could not be published.
    """
    if os.environ.get("RANK", "0") == "0":
        publish.check_access(str(config.model_id))

    def check(table: datasets.Dataset, split: Split) -> None:
        check_accepted(corpora_of_new_run(model, corpus_info(table), split.speakers), config.accept_terms)

    return check


def publish_run(folder: RunFolder, config: HubConfig) -> None:
    """Publish a finished run.

    Raises:
        InputError, UploadError: the run was not published; the message has the command that publishes it.
    """
    name = str(config.model_id)
    try:
        publish.push(
            folder.path, name, private=config.private, overwrite=config.overwrite, accept_terms=config.accept_terms
        )
    except (InputError, UploadError) as error:
        flags = [
            f"--{flag.replace('_', '-')}" for flag in ("private", "accept_terms", "overwrite") if getattr(config, flag)
        ]
        command = shlex.join(["ser-ft", "push", str(folder.path), name, *flags])
        raise type(error)(f"{error}; the run itself is finished; publish it with: {command}") from error
