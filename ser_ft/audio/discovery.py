"""Listing of sound files in folders."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..utils.errors import raise_machine_failure
from ..utils.files import is_below
from .containers import FFMPEG_SUFFIXES, SUFFIXES

SOUND_SUFFIXES = tuple(sorted(SUFFIXES | FFMPEG_SUFFIXES))
"""The suffixes of sound files, in lower case."""


@dataclass(frozen=True)
class SoundFile:
    """A file, or a folder that cannot be read, with the reason; the path begins as the one that was passed.

    `outside`: whether it is a link that leads out of its folder.
    """

    path: str
    error: str | None = None
    outside: bool = False


def find_sound_files(
    paths: Iterable[str | Path],
    suffixes: tuple[str, ...] = SOUND_SUFFIXES,
    hidden_files: bool = False,
    home: Path | None = None,
) -> Iterator[SoundFile]:
    """Find files by their suffixes, in a reproducible order: a folder's own files by name, then its subfolders.

    Folders are searched recursively; passed files are returned whatever their suffix. Links are followed, but each
    folder is searched once, so that circular links end. Hidden entries (whose names begin with a dot), pipes and
    devices are ignored; with `hidden_files`, only hidden folders are. Suffixes are in lower case; ("",): every file.
    With `home`, links that lead out of this folder are not followed, and are returned as `outside`.
    """
    searched: set[tuple[int, int]] = set()
    for path in map(str, paths):
        if os.path.isdir(path):
            yield from _search(path, searched, suffixes, hidden_files, home)
        else:
            yield SoundFile(path)


def is_hidden(path: str) -> bool:
    """Return whether any part of a relative path is hidden."""
    return any(part.startswith(".") for part in path.split("/"))


def _search(
    top: str, searched: set[tuple[int, int]], suffixes: tuple[str, ...], hidden_files: bool, home: Path | None
) -> Iterator[SoundFile]:
    folders = [top]
    while folders:
        folder = folders.pop()
        try:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in searched:
                continue
            searched.add((status.st_dev, status.st_ino))
            files, subfolders = _list_folder(folder, suffixes, hidden_files)
            links = {name for name in (*files, *subfolders) if home and _leads_out(os.path.join(folder, name), home)}
        except OSError as error:
            raise_machine_failure(error)
            yield SoundFile(folder, f"cannot be read ({error.strerror})")
            continue
        for name in files:
            yield SoundFile(os.path.join(folder, name), outside=name in links)
        for name in reversed(subfolders):
            if name in links:
                yield SoundFile(os.path.join(folder, name), outside=True)
            else:
                folders.append(os.path.join(folder, name))


def _leads_out(path: str, home: Path) -> bool:
    return os.path.islink(path) and not is_below(path, home)


def _list_folder(folder: str, suffixes: tuple[str, ...], hidden_files: bool) -> tuple[list[str], list[str]]:
    files, subfolders = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            hidden = entry.name.startswith(".")
            # A broken link is reported when it is read; os.path.isdir returns False where entry.is_dir raises.
            if os.path.isdir(entry) if entry.is_symlink() else entry.is_dir():
                subfolders += [] if hidden else [entry.name]
            elif hidden and not hidden_files:
                continue
            elif entry.name.lower().endswith(suffixes) and (entry.is_symlink() or entry.is_file()):
                files.append(entry.name)
    return sorted(files), sorted(subfolders)
