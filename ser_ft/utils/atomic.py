"""Outputs that appear completely or not at all, and temporary folders of which a killed process leaves nothing."""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import InputError

try:
    import fcntl
except ImportError:  # Windows, where temporary folders of other processes are not deleted
    fcntl = None  # type: ignore[assignment]

_PARTIAL, _BACKUP = ".partial", ".old"
INSIDE = f".new{_PARTIAL}"
"""The hidden path of a folder that cannot be moved."""
_TEMP_PREFIX = "ser_ft-"
_CLAIM_SUFFIX = ".claim"
# Open claim files of this process: their locks last until the process ends, even if it is killed.
_claims: dict[Path, int] = {}
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_SPACE_BYTES = 64 * 1024
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def hidden_path(path: Path) -> Path:
    """Return where an output is written before it takes its place: beside it, hidden, with the same suffix.

    For a folder that cannot be moved (the mount point of a disk, the current folder, or one whose parent cannot be
    written) it is `INSIDE` the folder.
    """
    if _is_fixed(path):
        return path / INSIDE
    return path.with_name(f".{path.stem}{_PARTIAL}{path.suffix}")


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Write a file or a folder so that whatever ends the process leaves it complete, or as it was before.

    The hidden path to write to is yielded; there is nothing yet, even if a process was killed while it wrote there.
    At the end it takes the place of the output; if nothing was written, the output stays. After an error the hidden
    path is removed. Only one process may write an output at a time.

    Raises:
        OSError: among others, ENOSPC with the path of the output if the disk is full, whatever the library raised.
    """
    path = path.resolve()
    partial = hidden_path(path)
    _remove(partial)
    try:
        with explain_full_disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            if partial.exists():
                replace_atomically(partial, path)
    finally:
        _remove(partial)


def write_file(path: Path, content: str | bytes) -> Path:
    """Write a file completely or not at all; text is written in UTF-8."""
    with write_atomically(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@contextmanager
def explain_full_disk(path: Path) -> Iterator[None]:
    """Turn what libraries raise when the disk of a path is full into an OSError with ENOSPC and the path."""
    try:
        yield
    except Exception as error:
        if isinstance(error, InputError) or not _is_full(error, path):
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error


def replace_atomically(complete: Path, path: Path) -> None:
    """Move a complete file or folder to its final path, after the disk has it, and delete what was there.

    A folder is exchanged with its predecessor in one step where the system can do so. Elsewhere the predecessor is kept
    as a backup for a moment: see `recover`. The content of a folder that cannot be moved is replaced entry by entry.
    """
    _sync(complete)
    if complete.parent == path:
        new = {entry.name for entry in complete.iterdir()}
        for entry in [*path.iterdir()]:
            if not entry.name.startswith(".") and (entry.is_dir() or entry.name not in new):
                _remove(entry)
        for name in new:
            os.replace(complete / name, path / name)
        _remove(complete)
    elif not path.is_dir():
        if path.exists():
            shutil.copymode(path, complete)
        os.replace(complete, path)
    elif _exchange(complete, path):
        _remove(complete)
    else:
        backup = _backup_path(path)
        _remove(backup)
        os.replace(path, backup)
        os.replace(complete, path)
        _remove(backup)


def remove_folder(folder: Path) -> None:
    """Delete a folder; its name is free before its content is deleted."""
    if folder.exists():
        hidden = hidden_path(folder)
        _remove(hidden)
        os.replace(folder, hidden)
        _remove(hidden)


def recover(folder: Path) -> None:
    """Remove what a killed process was writing to a folder or below it, and restore what it was replacing."""
    hidden = [hidden_path(folder), _backup_path(folder), *folder.rglob(".*")]
    for backup in (path for path in hidden if path.name.endswith(_BACKUP) and path.exists()):
        path = backup.with_name(backup.name[1 : -len(_BACKUP)])
        if path.exists():
            _remove(backup)
        else:
            os.replace(backup, path)
    for path in hidden:
        if Path(path.name).suffix == _PARTIAL or Path(path.stem).suffix == _PARTIAL:
            _remove(path)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a new folder among the system's temporary files; it is deleted at the end."""
    folder = make_temp_dir()
    try:
        with explain_full_disk(folder):
            yield folder
    finally:
        release_folder(folder)


def make_temp_dir(parent: Path | None = None) -> Path:
    """Create and claim a temporary folder in `parent`, or the system's, and delete those of killed processes."""
    parent = parent or Path(tempfile.gettempdir())
    remove_abandoned(parent, f"{_TEMP_PREFIX}*")
    folder = parent / f"{_TEMP_PREFIX}{secrets.token_hex(6)}"
    claim_folder(folder)
    folder.mkdir(mode=0o700)
    return folder


def claim_folder(folder: Path) -> None:
    """Mark a folder, which need not exist, as the work of this process, until it is released or the process ends.

    The mark is a locked file beside it.
    """
    file = _claim_file(folder)
    while folder not in _claims:
        claim = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
        if fcntl is not None:
            fcntl.flock(claim, fcntl.LOCK_EX)
        # Another process may have deleted the file before it was locked.
        if file.exists() and os.path.samestat(file.stat(), os.fstat(claim)):
            _claims[folder] = claim
        else:
            os.close(claim)


def release_folder(folder: Path) -> None:
    """Delete a claimed folder, unless it was moved."""
    shutil.rmtree(folder, ignore_errors=True)
    _claim_file(folder).unlink(missing_ok=True)
    os.close(_claims.pop(folder))


def remove_abandoned(parent: Path, pattern: str) -> None:
    """Delete the claimed folders with a name that matches a pattern, if the process that claimed them has ended."""
    for file in parent.glob(f"{pattern}{_CLAIM_SUFFIX}") if fcntl is not None else ():
        try:
            if file.lstat().st_uid != os.getuid():
                continue
            claim = os.open(file, os.O_RDWR | os.O_NOFOLLOW)
        except OSError:
            continue
        with suppress(OSError):
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(file.with_name(file.name.removesuffix(_CLAIM_SUFFIX)), ignore_errors=True)
            file.unlink()
        os.close(claim)


def _claim_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}{_CLAIM_SUFFIX}")


def _is_fixed(path: Path) -> bool:
    return path.is_dir() and (os.path.ismount(path) or path.samefile(Path.cwd()) or not os.access(path.parent, os.W_OK))


def _backup_path(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}{_BACKUP}")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Wait until the disk has a file, or all files of a folder: a full disk may be noticed only then."""
    for file in [path] if path.is_file() else [entry for entry in path.rglob("*") if entry.is_file()]:
        descriptor = os.open(file, os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _exchange(first: Path, second: Path) -> bool:
    """Swap the names of two paths in one step; return False where the system cannot."""
    if sys.platform != "linux":
        return False
    with suppress(OSError, AttributeError):
        paths = os.fsencode(first), os.fsencode(second)
        renamed = ctypes.CDLL(None).renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE)
        return bool(renamed == 0)
    return False


def _is_full(error: Exception, path: Path) -> bool:
    if getattr(error, "errno", None) in _FULL or "no space left" in str(error).lower():
        return True
    existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    return shutil.disk_usage(existing).free < _NO_SPACE_BYTES
