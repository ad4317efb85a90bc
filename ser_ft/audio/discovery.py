"""The sound files of folders."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .io import FFMPEG_SUFFIXES, SUFFIXES

SOUND_SUFFIXES = tuple(sorted(SUFFIXES | FFMPEG_SUFFIXES))
"""How names of sound files end, in small letters."""


@dataclass(frozen=True)
class SoundFile:
    """A file, or a folder that cannot be looked into.

    Attributes:
        path: as it was named, or the named folder's with what lies below. error: why a folder cannot be looked into.
    """

    path: str
    error: str | None = None


def find_sound_files(paths: Iterable[str | Path], suffixes: tuple[str, ...] = SOUND_SUFFIXES) -> Iterator[SoundFile]:
    """Find sound files, or others, always in the same order: a folder's own by name, then those of its folders.

    Folders are searched with all that lies below, links followed, each once, so that links in a ring have an end.
    What is hidden (its name begins with a dot) is passed over, and so is what has none of the suffixes, or is a pipe
    or a device.

    Args:
        paths: of folders, and of files, which are all taken, whatever they are called. suffixes: in small letters.
    """
    seen: set[tuple[int, int]] = set()
    for path in map(str, paths):
        if os.path.isdir(path):
            yield from _below(path, seen, suffixes)
        else:
            yield SoundFile(path)


def _below(top: str, seen: set[tuple[int, int]], suffixes: tuple[str, ...]) -> Iterator[SoundFile]:
    folders = [top]
    while folders:
        folder = folders.pop()
        try:
            about = os.stat(folder)
            if (about.st_dev, about.st_ino) in seen:
                continue
            seen.add((about.st_dev, about.st_ino))
            files, below = _inside(folder, suffixes)
        except OSError as error:
            yield SoundFile(folder, f"cannot be looked into ({error.strerror})")
            continue
        yield from (SoundFile(os.path.join(folder, name)) for name in files)
        folders += [os.path.join(folder, name) for name in reversed(below)]


def _inside(folder: str, suffixes: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Return the names of a folder's files with the suffixes, and of its folders, both sorted."""
    files, folders = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            # A link that leads nowhere, or to no file, is told of when it is read; os.path says no where entries raise.
            if os.path.isdir(entry) if entry.is_symlink() else entry.is_dir():
                folders.append(entry.name)
            elif entry.name.lower().endswith(suffixes) and (entry.is_symlink() or entry.is_file()):
                files.append(entry.name)
    return sorted(files), sorted(folders)
