"""`push`: a run, or a prepared table, on the Hub."""

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
    tell: Callable[[str], None] = print,
) -> list[str]:
    """Publish a run's model with its card, or a prepared table, on the Hub.

    Everything is looked through for sound, tokens and local paths before anything is sent. Each repository gets one
    commit; what was sent whole before is not sent again.

    Args:
        source: an evaluated run folder, or a table that `ser-ft prepare` wrote (published as parquet where its terms
            let it be).
        name: of the repositories, "user/name". private: make them private.
        dataset_card: beside a model, publish the card of its data in the data set of that name; of a table, publish
            the card alone. space: beside a model, publish the demo with it in the Space of that name.
        accept_terms: the terms of TESS, SAVEE or one's own recordings let this be published.
        overwrite: replace what a repository holds, where that is something else.
        dry_run: send nothing, and tell what would be sent. out: the same, and write it to this folder.
        tell: is given each line for the user.

    Returns:
        The addresses of the repositories; none of a dry run.

    Raises:
        InputError: the source is none, was not tested or may not be published, or the Hub refuses it.
        ser_ft.hub.client.UploadError: the connection broke; what is there already is not sent again.
    """
    check_name(name)
    client = None if dry_run or out is not None else Client()
    with TemporaryDirectory() as work:
        uploads = _uploads(Path(source).expanduser(), name, private, dataset_card, space, accept_terms, Path(work))
        for upload in uploads:
            upload.check()
        if client is None:
            _show(uploads, private, out, tell)
            return []
        client.check(name)
        addresses = []
        for upload in uploads:
            addresses.append(client.send(upload, private, overwrite))
            tell(f"published: {addresses[-1]}")
    return addresses


def check(name: str) -> None:
    """Refuse, before a run, what would keep it from being published after: no token, or one that may not write.

    Raises:
        InputError: as `push`. ser_ft.hub.client.UploadError: the Hub cannot be reached.
    """
    check_name(name)
    Client().check(name)


def check_name(name: str) -> None:
    """Refuse what is no name of a repository.

    Raises:
        InputError: it is not of the form user/name, or has signs that the Hub does not take.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise InputError(f"{name}: no name for a repository ({' '.join(str(error).split())[:200]})") from error
    if name.count("/") != 1:
        raise InputError(f"a repository is named USER/NAME, not {name!r}")


def _uploads(
    source: Path, name: str, private: bool, dataset_card: bool, space: bool, accept_terms: bool, work: Path
) -> list[Upload]:
    if not (source / "metrics.json").is_file() and _is_table(source):
        if space:
            raise InputError("--space goes with a run: a table is no model to be tried")
        return [card_upload(source, name) if dataset_card else table_upload(source, name, accept_terms, work)]
    run = RunFolder.open(source)
    if space and private:
        raise InputError(
            "--space does not go with --private: a Space installs ser_ft from its own address and fetches the model, "
            "and neither can be had without a token where they are private"
        )
    model = model_upload(run, name)
    check_accepted(corpora_seen_in_training(run.model), accept_terms)
    found = [model]
    if dataset_card:
        found.append(card_upload_of_run(run, name))
    if space:
        found.append(space_upload(name))
    return found


def _is_table(folder: Path) -> bool:
    from ..data.prepare import CORPUS_INFO_FILE

    return (folder / CORPUS_INFO_FILE).is_file()


def _show(uploads: list[Upload], private: bool, out: str | Path | None, tell: Callable[[str], None]) -> None:
    """Tell what would be sent, file by file, and write it to a folder where one is named."""
    for upload in uploads:
        sizes = upload.sizes
        tell(f"{upload.kind} {upload.name}{' (private)' if private else ''}: {len(sizes)} files, one commit")
        for path, size in sorted(sizes.items()):
            tell(f"  {size:>12,}  {path}")
    if out is not None:
        folder = check_output(out, what="this upload", is_part=lambda _: False)
        for upload in uploads:
            upload.write(folder / upload.kind if len(uploads) > 1 else folder)
        tell(f"written: {folder}")
    tell("nothing was sent")
