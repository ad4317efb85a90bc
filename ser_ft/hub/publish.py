"""`push`: publish a run or a prepared table on the Hub, by itself or as the last step of a run."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.licenses import check_accepted
from ..data.prepare import CORPUS_INFO_FILE, corpus_info
from ..evaluation.provenance import corpora_of_new_run, corpora_seen_in_training
from ..evaluation.run_folder import RunFolder
from ..utils.atomic import temporary_folder, write_atomically
from ..utils.errors import InputError
from ..utils.files import check_output, output_lock
from ..utils.text import print_text
from .client import Client, UploadError
from .data import card_upload, card_upload_of_run, table_upload
from .files import model_upload
from .space import space_upload
from .upload import Upload

if TYPE_CHECKING:
    import datasets

    from ..config.schema import HubConfig
    from ..data.splits import Split


def push(
    source: str | Path,
    name: str,
    *,
    private: bool = False,
    dataset_card: bool = False,
    space: bool = False,
    accept_terms: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    out: str | Path | None = None,
    log: Callable[[str], None] = print_text,
) -> list[str]:
    """Publish a run's model with its card, or a prepared table, on the Hub.

    All files are searched for audio, tokens and local paths before anything is sent. Each repository gets one commit,
    and files that it already holds are not sent again.

    Args:
        source: an evaluated run folder, or a table that `ser-ft prepare` wrote (published as parquet if its terms
            allow it).
        name: of the repositories, "user/name".
        private: create private repositories.
        dataset_card: also publish the card of the run's data, as the data set of that name; of a table, publish only
            the card.
        space: also publish the demo with the run's model, as the Space of that name.
        accept_terms: state that the terms of TESS, SAVEE or your own recordings allow publication.
        overwrite: replace what a repository holds.
        dry_run: send nothing, and list what would be sent.
        out: send nothing, and write what would be sent to this folder.
        log: is called with each line for the user.

    Returns:
        The addresses of the repositories; none if nothing is sent.

    Raises:
        InputError: the source is neither a run nor a table, has no test results or may not be published, or the Hub
            refuses it.
        ser_ft.hub.client.UploadError: the connection failed.
    """
    check_name(name)
    with output_lock(out if dry_run or out is not None else source):
        client = None if dry_run or out is not None else Client()
        with temporary_folder() as work:
            uploads = _collect(Path(source).expanduser(), name, private, dataset_card, space, accept_terms, work)
            for upload in uploads:
                upload.check()
            if uploads[0].kind == "model":
                from ..models.pretrained import PretrainedClassifier

                # Raises an InputError for a model that would be refused after its download.
                PretrainedClassifier.load(str(RunFolder(source).model))
            if client is None:
                _show(uploads, private, out, log)
                return []
            client.check_access(name)
            addresses = []
            for upload in uploads:
                addresses.append(client.send(upload, private, overwrite))
                log(f"published: {addresses[-1]}")
        return addresses


def check_access(name: str) -> None:
    """Check that the name of a repository is valid and that the token may write to it."""
    check_name(name)
    Client().check_access(name)


def check_name(name: str) -> None:
    """Check that the name of a repository is of the form USER/NAME, with characters that the Hub accepts."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise InputError(f"{name}: not a valid name for a repository ({' '.join(str(error).split())[:200]})") from error
    if name.count("/") != 1:
        raise InputError(f"a repository is named USER/NAME, not {name!r}")


def _collect(
    source: Path, name: str, private: bool, dataset_card: bool, space: bool, accept_terms: bool, work: Path
) -> list[Upload]:
    if not (source / "metrics.json").is_file() and (source / CORPUS_INFO_FILE).is_file():
        if space:
            raise InputError("--space needs a run: a table has no model for the demo")
        return [card_upload(source, name) if dataset_card else table_upload(source, name, accept_terms, work)]
    run = RunFolder.open(source)
    if space and private:
        reason = "a Space downloads ser_ft and the model, which needs a token if they are private"
        raise InputError(f"--space does not work with --private: {reason}")
    uploads = [model_upload(run, name)]
    check_accepted(corpora_seen_in_training(run.model), accept_terms)
    if dataset_card:
        uploads.append(card_upload_of_run(run, name))
    if space:
        uploads.append(space_upload(name))
    return uploads


def _show(uploads: list[Upload], private: bool, out: str | Path | None, log: Callable[[str], None]) -> None:
    """List what would be sent, and write it to a folder if one is named."""
    for upload in uploads:
        log(f"{upload.kind} {upload.name}{' (private)' if private else ''}: {len(upload.files)} files, one commit")
        for path in sorted(upload.files):
            log(f"  {upload.size(path):>12,}  {path}")
    if out is not None:
        folder = check_output(out, what="this upload", is_part=lambda _: False)
        with write_atomically(folder) as partial:
            for upload in uploads:
                upload.write(partial / upload.kind if len(uploads) > 1 else partial)
        log(f"written: {folder}")
    log("nothing was sent")


def publication_check(config: HubConfig, model: str) -> Callable[[datasets.Dataset, Split], None]:
    """Check that the access token may write, and return a check of the license terms of a run's data.

    Only the main process asks the Hub. `model` is the one that training starts from.
    """
    if os.environ.get("RANK", "0") == "0":
        check_access(str(config.model_id))

    def check(table: datasets.Dataset, split: Split) -> None:
        check_accepted(corpora_of_new_run(model, corpus_info(table), split.speakers), config.accept_terms)

    return check


def publish_run(folder: RunFolder, config: HubConfig) -> None:
    """Publish a finished run; the message of an error has the command that publishes it."""
    name = str(config.model_id)
    options = {option: getattr(config, option) for option in ("private", "accept_terms", "overwrite")}
    try:
        push(folder.path, name, **options)
    except (InputError, UploadError) as error:
        flags = [f"--{option.replace('_', '-')}" for option, value in options.items() if value]
        command = shlex.join(["ser-ft", "push", str(folder.path), name, *flags])
        raise type(error)(f"{error}; the run itself is finished; publish it with: {command}") from error
