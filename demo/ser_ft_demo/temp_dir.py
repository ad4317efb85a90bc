"""The size of the page's temporary files, and the deletion of old ones."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path


def used_bytes(folder: Path) -> int:
    """Return the size of all files in a folder."""
    return sum(_time_and_size(file)[1] for file in folder.rglob("*"))


def delete_old(folder: Path, max_age: float) -> None:
    """Delete the files in a folder that are older than `max_age` seconds, and old subfolders that become empty."""
    # Listed first, because deleting a file changes the time of its folder.
    old = [entry for entry in folder.rglob("*") if time.time() - _time_and_size(entry)[0] > max_age]
    for entry in sorted(old, key=lambda path: -len(path.parts)):
        try:
            entry.rmdir() if entry.is_dir() else entry.unlink()
        except OSError:
            continue


def _time_and_size(path: Path) -> tuple[float, int]:
    """Return modification time and size of a file, which other threads may delete at any time."""
    try:
        status = path.lstat()
    except OSError:
        return time.time(), 0
    return status.st_mtime, 0 if path.is_dir() else status.st_size


def touch_files(folder: Path, paths: Iterable[str]) -> None:
    """Update the modification times of files in a folder; paths outside it, which visitors may send, are ignored."""
    resolved = folder.resolve()
    for path in paths:
        try:
            if Path(path).resolve().is_relative_to(resolved):
                os.utime(path)
        except (OSError, ValueError):
            continue


def start_cleanup(
    folder: Path,
    max_age: float,
    paths_in_use: Callable[[], Iterable[str]] = lambda: (),
    on_deleted: Callable[[], None] = lambda: None,
) -> Callable[[], None]:
    """Start a thread that deletes files older than `max_age` seconds that are not in use, then calls `on_deleted`.

    Returns:
        A function that stops the thread and deletes the folder.
    """
    stopped = threading.Event()

    def run() -> None:
        while not stopped.wait(min(60.0, max_age / 4)):
            touch_files(folder, paths_in_use())
            delete_old(folder, max_age)
            on_deleted()

    thread = threading.Thread(target=run, daemon=True, name="cleanup")
    thread.start()

    def stop() -> None:
        stopped.set()
        thread.join(timeout=5)
        shutil.rmtree(folder, ignore_errors=True)

    return stop
