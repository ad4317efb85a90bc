"""Folders: those that are there whole or not at all, and the demo's."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import InputError

MODEL_FILE = "model.txt"
"""Beside the demo's app.py: a model that is opened instead of the one that ships, as the Space of a model has it."""


def demo_folder() -> Path:
    """Return the demo's folder: in the package where that was installed, beside it in a checkout.

    Raises:
        InputError: in neither.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "demo", package.parent / "demo"):
        if (folder / "app.py").is_file():
            return folder
    raise InputError("the page is not part of this copy of ser_ft: install it anew, or run demo/app.py of a checkout")


def nearest_existing(folder: Path) -> Path:
    """Return the folder, or the nearest above it that is there."""
    return next(place for place in (folder, *folder.parents) if place.exists())


def check_writable(path: Path, instead: str = "name another --out") -> None:
    """Refuse a folder that cannot be made or written to.

    Args:
        path: the folder; it need not be there. instead: what to do about it.

    Raises:
        InputError: the nearest that is there is no folder, or may not be written to.
    """
    here = nearest_existing(path.absolute())
    if not here.is_dir() or not os.access(here, os.W_OK):
        raise InputError(f"{path}: cannot be written, for {here} is no folder that can be written to; {instead}")


def backup_path(folder: Path) -> Path:
    """Return where a folder waits while another takes its place."""
    return folder.with_name(f".{folder.name}.old")


def replace_atomically(whole: Path, folder: Path) -> None:
    """Put a finished folder in its place; what was there goes away."""
    _move_aside(folder)
    os.replace(whole, folder)
    shutil.rmtree(backup_path(folder), ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Take a folder away: its name is free before its content goes."""
    _move_aside(folder)
    shutil.rmtree(backup_path(folder), ignore_errors=True)


def _move_aside(folder: Path) -> None:
    shutil.rmtree(backup_path(folder), ignore_errors=True)
    if folder.exists():
        os.replace(folder, backup_path(folder))


@contextmanager
def exclusive_lock(folder: Path, what: str) -> Iterator[None]:
    """Keep a second process of a kind out of a folder, for as long as this one lives at most.

    Args:
        folder: made where it is not there. what: is at work in it, for the message.

    Raises:
        InputError: another such process is at work.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / f".{what}.lock", timeout=0):
            yield
    except Timeout:
        raise InputError(f"{folder}: another {what} is at work here: wait for its end, or stop it") from None
