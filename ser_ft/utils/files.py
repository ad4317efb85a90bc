"""Output paths: the check before writing, locks, and the folder of the demo."""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from .atomic import INSIDE
from .errors import InputError

MODEL_FILE = "model.txt"
"""A file next to the demo's app.py that names the model of a Space, instead of the one that is part of ser_ft."""

LOCK_FILE = ".lock"
"""The file of `output_lock` inside a folder whose parent cannot be written."""
_IGNORED_FILES = (".DS_Store", LOCK_FILE, INSIDE)
_lock_owners: dict[Path, int] = {}
"""The outputs that this process has locked -> the thread."""


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


def check_inputs(paths: Iterable[str | Path]) -> None:
    """Raise InputError if one of the paths does not exist: call this before any of them is read."""
    for path in paths:
        try:
            os.stat(path)
        except OSError as error:
            # What exists, but cannot be read, is reported where it is read.
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
                raise InputError(f"{str(path) or repr(path)}: no such file or folder") from None


def check_path_or_hub_name(name: str | Path) -> None:
    """Raise InputError if a name is a path that does not exist, and is written as no name on the Hub can be."""
    if str(name).startswith((".", "~", os.sep)) or str(name).count("/") > 1:
        check_inputs([name])


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
        entries = [entry for entry in entries if entry.name not in _IGNORED_FILES]
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


@contextmanager
def output_lock(output: str | Path | None) -> Iterator[None]:
    """Keep other commands from writing an output until the context or the process ends, however it ends.

    Everything that writes holds it from its first check of the output on; the same thread may enter it again. Where no
    file can be created, there is no lock. Of a distributed run, the first process holds it. None: nothing is locked.

    Raises:
        InputError: another process, or another thread, holds the lock.
    """
    path, thread = Path(output or "").expanduser().resolve(), threading.get_ident()
    busy = f"{output}: another ser-ft command is writing here: wait until it ends, or choose another output"
    owner = _lock_owners.get(path)
    if output is None or owner == thread or os.environ.get("RANK", "0") != "0":
        yield
        return
    if owner is not None:
        raise InputError(busy)
    missing = [parent for parent in path.parents if not parent.exists()]
    with suppress(OSError):  # `check_output` reports it
        path.parent.mkdir(parents=True, exist_ok=True)
    # A folder may be replaced as a whole, so the file is next to it, except where only the folder itself is writable.
    is_next_to = os.access(path.parent, os.W_OK) or not path.is_dir()
    file = path.with_name(f".{path.name}.lock") if is_next_to else path / LOCK_FILE
    try:
        descriptor = _lock_file(file)
    except BlockingIOError:
        raise InputError(busy) from None
    except OSError:
        descriptor = None
    _lock_owners[path] = thread
    try:
        yield
    finally:
        del _lock_owners[path]
        if descriptor is not None:
            with suppress(OSError):
                file.unlink()
            os.close(descriptor)
        for parent in missing:  # remains of a command that has written nothing
            with suppress(OSError):
                parent.rmdir()


def _lock_file(file: Path) -> int:
    """Lock a file, which is created, and return its descriptor. The lock ends when the descriptor is closed."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT)
        try:
            _lock_descriptor(descriptor)
            # The last owner may have deleted the file after it was opened here.
            if file.exists() and os.path.samestat(os.fstat(descriptor), file.stat()):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock_descriptor(descriptor: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError from error
    else:
        import fcntl

        # Unlike that of flock, this lock is not inherited by child processes, which may outlive this one.
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
