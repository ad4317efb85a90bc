"""The folder of a page's files, which goes with the page, or when the next one starts."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where nothing is deleted for others
    fcntl = None  # type: ignore[assignment]

_PREFIX = "ser_ft-demo-"
_PID = "pid"
# Open files, which hold the locks of this process's folders until it ends, however it does.
_held: list[int] = []


def make_home(temporary: Path | None = None) -> Path:
    """Make a folder, after those were deleted that pages left behind which were killed.

    Args:
        temporary: where; None: where the machine has its temporary files.
    """
    temporary = temporary or Path(tempfile.gettempdir())
    for folder in temporary.glob(f"{_PREFIX}*"):
        if _is_left(folder):
            shutil.rmtree(folder, ignore_errors=True)
    home = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=temporary))
    file = os.open(home / _PID, os.O_RDWR | os.O_CREAT, 0o600)
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX)
    # Written when it is locked: what is empty is not looked at.
    os.write(file, str(os.getpid()).encode())
    _held.append(file)
    return home


def _is_left(folder: Path) -> bool:
    """Say whether a folder is this user's, and its process lives no longer: the lock tells, where numbers return."""
    if fcntl is None:
        return False
    try:
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            return False
        file = os.open(folder / _PID, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        if not os.fstat(file).st_size:
            return False
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(file)
    return True
