"""`push`: publish a run or a prepared table on the Hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from ..data.licenses import check_accepted
from ..evaluation.provenance import corpora_seen_in_training
from ..evaluation.run_folder import RunFolder
from ..utils.errors import InputError
from ..utils.files import check_output
from .client import Client
from .data import card_upload, card_upload_of_run, table_upload
from .files import model_upload
from .space import space_upload
from .upload import Upload


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
    log: Callable[[str], None] = print,
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
    client = None if dry_run or out is not None else Client()
    with TemporaryDirectory() as work:
        uploads = _collect(Path(source).expanduser(), name, private, dataset_card, space, accept_terms, Path(work))
        for upload in uploads:
            upload.check()
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
    """Check before a run that it can be published afterwards: the name is valid and the token may write to it.

    Raises:
        InputError: the name is not valid, or the token is missing or has no write access.
        ser_ft.hub.client.UploadError: the Hub cannot be reached.
    """
    check_name(name)
    Client().check_access(name)


def check_name(name: str) -> None:
    """Check the name of a repository.

    Raises:
        InputError: the name is not of the form user/name, or has characters that the Hub does not accept.
    """
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
    from ..data.prepare import CORPUS_INFO_FILE

    if not (source / "metrics.json").is_file() and (source / CORPUS_INFO_FILE).is_file():
        if space:
            raise InputError("--space needs a run: a table has no model for the demo")
        return [card_upload(source, name) if dataset_card else table_upload(source, name, accept_terms, work)]
    run = RunFolder.open(source)
    if space and private:
        raise InputError(
            "--space does not work with --private: a Space downloads ser_ft and the model, which needs a token if they "
            "are private"
        )
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
        sizes = upload.sizes
        log(f"{upload.kind} {upload.name}{' (private)' if private else ''}: {len(sizes)} files, one commit")
        for path, size in sorted(sizes.items()):
            log(f"  {size:>12,}  {path}")
    if out is not None:
        folder = check_output(out, what="this upload", is_part=lambda _: False)
        for upload in uploads:
            upload.write(folder / upload.kind if len(uploads) > 1 else folder)
        log(f"written: {folder}")
    log("nothing was sent")
