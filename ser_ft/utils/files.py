"""Output paths: the check before writing, atomic replacement, locks, and the folder of the demo."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from .errors import InputError

MODEL_FILE = "model.txt"
"""A file next to the demo's app.py that names the model of a Space, instead of the one that is part of ser_ft."""


def demo_folder() -> Path:
    """Return the demo's folder: inside the installed package, or next to it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "demo", package.parent / "demo"):
        if (folder / "app.py").is_file():
            return folder
    raise InputError("this copy of ser_ft has no demo: install it again, or run demo/app.py of a checkout")


def nearest_existing(folder: Path) -> Path:
    """Return the folder, or its nearest parent that exists."""
    return next(parent for parent in (folder, *folder.parents) if parent.exists())


def is_below(path: str | Path, folder: str | Path) -> bool:
    """Return whether a path lies below a folder, or is the folder, after all links are followed; neither need exist."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def check_output(
    path: str | Path,
    *,
    kind: Literal["folder", "file"] = "folder",
    what: str = "the output",
    option: str = "--out",
    suffixes: Sequence[str] = (),
    is_ours: Callable[[Path], bool] | None = None,
    is_part: Callable[[Path], bool] | None = None,
    overwrite: bool | None = True,
    resume: bool | None = None,
) -> Path:
    """Check that an output may be written, before anything is read or computed. Nothing is created.

    A folder with content passes only if it is recognized as an earlier output of the same kind. Neither the home
    folder nor the current folder, nor a folder that contains it, is ever replaced.

    Args:
        path: The output; it need not exist.
        kind: Whether the output is a folder or a file.
        what: The output in messages, with its article, for example "a report".
        option: The command-line option that names the output, for messages.
        suffixes: The suffixes that a file's name may have, in lower case; empty: any.
        is_ours: Whether an existing folder is an earlier output. None: decided by `is_part` alone.
        is_part: Whether an entry of an existing folder can be part of such an output. None: any entry can.
            If both are None, the folder may hold anything, and nothing in it is replaced.
        overwrite: Whether an existing output may be replaced. None: it may not, and the command has no such option.
        resume: Whether an existing output is continued. None: the command has no such option.

    Returns the path, with the user's home folder expanded; raises InputError if the output may not be written.
    """
    output = Path(path).expanduser()
    instead = f"choose another {option}"
    if suffixes and output.suffix.lower() not in suffixes:
        raise InputError(f"{path}: the name of {what} must end in {' or '.join(suffixes)}")
    folder = output.parent if kind == "file" else output
    existing = nearest_existing(folder.absolute())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise InputError(f"{path}: cannot be written: {existing} is not a folder that can be written to; {instead}")
    if kind == "file":
        if output.is_dir():
            raise InputError(f"{path}: is a folder, not a file; {instead}")
        occupied = output.exists()
        if occupied and not os.access(output, os.W_OK):
            raise InputError(f"{path}: cannot be written to; {instead}")
    else:
        entries = sorted(output.iterdir()) if output.is_dir() else []
        entries = [entry for entry in entries if entry.name != ".DS_Store"]
        occupied = bool(entries) and (is_ours is not None or is_part is not None)
        foreign = next((entry for entry in entries if is_part is not None and not is_part(entry)), None)
        if foreign is not None:
            raise InputError(f"{path}: contains {foreign.name}, which is not part of {what}; {instead}")
        if entries and is_ours is not None and not is_ours(output):
            raise InputError(f"{path}: contains something that is not {what}; {instead}")
        if occupied and output.resolve() in (Path.home(), Path.cwd(), *Path.cwd().parents):
            raise InputError(f"{path}: the home folder and the current folder are never replaced; {instead}")
    if occupied and not overwrite and not resume:
        options = [("--resume", resume), ("--overwrite", overwrite)]
        offered = "".join(f"pass {name}, or " for name, value in options if value is not None)
        raise InputError(f"{path}: {what} already exists; {offered}{instead}")
    return output


def backup_path(folder: Path) -> Path:
    """Return where a folder is kept while another one takes its place."""
    return folder.with_name(f".{folder.name}.old")


def replace_atomically(complete: Path, folder: Path) -> None:
    """Move a complete folder to its final path, and delete what was there."""
    _move_to_backup(folder)
    os.replace(complete, folder)
    shutil.rmtree(backup_path(folder), ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Delete a folder; its name is free before its content is deleted."""
    _move_to_backup(folder)
    shutil.rmtree(backup_path(folder), ignore_errors=True)


def _move_to_backup(folder: Path) -> None:
    shutil.rmtree(backup_path(folder), ignore_errors=True)
    if folder.exists():
        os.replace(folder, backup_path(folder))


@contextmanager
def exclusive_lock(folder: Path, job: str) -> Iterator[None]:
    """Keep other processes with the same job out of a folder, which is created, until the context or process ends."""
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / f".{job}.lock", timeout=0):
            yield
    except Timeout:
        raise InputError(f"{folder}: another {job} is running here: wait until it ends, or stop it") from None
