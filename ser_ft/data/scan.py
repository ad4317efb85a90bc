"""Which files lie under the roots: in folders, and in zip archives, which are read where they are."""

from __future__ import annotations

import os
import threading
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from .. import audio
from ..utils.errors import InputError

NOTE_FILE = "ser_ft_note.txt"
SYNTHETIC_NOTE = "synthetic voices (ser_ft miniature), not recordings"
MANIFEST_FILE = "manifest.csv"
VOTE_TABLES = ("tabulatedvotes.csv", "summarytable.csv")
_ASIDE = frozenset({MANIFEST_FILE, *VOTE_TABLES})
_SOUND = audio.SUFFIXES | audio.FFMPEG_SUFFIXES


@dataclass(frozen=True, slots=True)
class ArchiveFile:
    """A file: where it was found, and its path below the root, by which parsers read its name.

    Attributes:
        root: the root under which it lies. path: as found; `zip://INNER::ARCHIVE` inside an archive.
        inner: the path below the root. size: in bytes. time: of the last change, in ns (of the archive's, inside one).
    """

    root: Path
    path: str
    inner: PurePosixPath
    size: int
    time: int
    archive: Path | None = None

    def read(self) -> bytes:
        """Return the file's bytes.

        Raises:
            AudioError: it cannot be read, or is larger than 2 GiB.
        """
        if self.size > audio.MAX_BYTES:
            raise audio.AudioError("too-large", f"{self.path}: larger than 2 GiB: cut it into shorter files")
        if self.archive is None:
            return audio.read_file(Path(self.path))
        try:
            return _archives.open(self.archive).read(self.path.removeprefix("zip://").split("::", 1)[0])
        except (OSError, RuntimeError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise audio.AudioError("unreadable", f"{self.path}: cannot be read ({error})") from error


@dataclass
class Scan:
    """What lies under the roots: sound files, tables beside them, and notes on where the sound is from."""

    sounds: list[ArchiveFile] = field(default_factory=list)
    tables: list[ArchiveFile] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    broken: list[tuple[str, str]] = field(default_factory=list)

    def note(self, path: str) -> str | None:
        """Return the note of the nearest folder above a path that has one."""
        place = _place(path)
        above = [folder for folder in self.notes if place.startswith(folder)]
        return self.notes[max(above, key=len)] if above else None


def _place(path: str) -> str:
    """Turn `zip://INNER::ARCHIVE` round, so that what lies above comes first."""
    inner, inside, archive = path.removeprefix("zip://").partition("::")
    return f"{archive}::{inner}" if inside and path.startswith("zip://") else path


def scan(root: Path) -> Scan:
    """List what lies under a root: a folder, a zip archive, or a single sound file.

    Raises:
        InputError: the root does not exist, or is neither.
    """
    found = Scan()
    if root.is_dir():
        for path in _walk(root, found):
            _add_file(found, root, path)
    elif root.is_file() and root.suffix.lower() == ".zip":
        _add_archive(found, root, root, PurePosixPath())
        if found.broken and found.broken[0][0] == str(root):
            raise InputError(f"{root}: {found.broken[0][1]}")
    elif root.is_file() and root.suffix.lower() in _SOUND:
        _add_file(found, root.parent, root)
    elif root.exists():
        raise InputError(f"{root}: not a folder, a .zip archive, a manifest (.csv) or a sound file")
    else:
        raise InputError(f"{root}: no such folder or archive")
    found.sounds.sort(key=lambda file: file.path)
    return found


def _walk(root: Path, found: Scan) -> Iterator[Path]:
    seen: set[str] = set()

    def fail(error: OSError) -> None:
        found.broken.append((str(error.filename), f"cannot be read ({error.strerror})"))

    for folder, folders, names in os.walk(root, followlinks=True, onerror=fail):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if name != "__MACOSX" and not name.startswith("."))
        for name in sorted(names):
            yield Path(folder, name)


def _add_file(found: Scan, root: Path, path: Path) -> None:
    suffix, name = path.suffix.lower(), path.name.lower()
    if suffix == ".zip":
        _add_archive(found, root, path, PurePosixPath(path.relative_to(root).with_suffix("").as_posix()))
    if suffix not in _SOUND and name not in _ASIDE and name != NOTE_FILE:
        return
    try:
        status = path.stat()
        if name == NOTE_FILE:
            found.notes[f"{path.parent}{os.sep}"] = path.read_text(encoding="utf-8", errors="replace").strip()
            return
    except OSError as error:
        found.broken.append((str(path), f"cannot be read ({error.strerror})"))
        return
    inner = PurePosixPath(path.relative_to(root).as_posix())
    file = ArchiveFile(root, str(path), inner, status.st_size, status.st_mtime_ns)
    (found.tables if name in _ASIDE else found.sounds).append(file)


def _add_archive(found: Scan, root: Path, archive: Path, above: PurePosixPath) -> None:
    try:
        opened = _archives.open(archive)
        entries, time = opened.infolist(), archive.stat().st_mtime_ns
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        found.broken.append((str(archive), f"not a zip archive that can be read ({error})"))
        return
    for entry in entries:
        # Archives made on Windows may hold its separators.
        inner = PurePosixPath(entry.filename.replace("\\", "/"))
        suffix, name = inner.suffix.lower(), inner.name.lower()
        if entry.is_dir() or "__MACOSX" in inner.parts:
            continue
        file = ArchiveFile(root, f"zip://{entry.filename}::{archive}", above / inner, entry.file_size, time, archive)
        if name == NOTE_FILE:
            try:
                note = file.read().decode(errors="replace").strip()
            except audio.AudioError as error:
                found.broken.append((file.path, str(error)))
            else:
                found.notes[_place(file.path)[: -len(NOTE_FILE)]] = note
        elif name in _ASIDE or suffix in _SOUND:
            (found.tables if name in _ASIDE else found.sounds).append(file)
        elif suffix == ".zip":
            found.broken.append((file.path, "an archive inside an archive: unpack the outer one"))


class _Archives(threading.local):
    """Open archives, one handle per thread, so that threads read side by side."""

    def __init__(self) -> None:
        self._open: dict[tuple[Path, int], zipfile.ZipFile] = {}

    def open(self, path: Path) -> zipfile.ZipFile:
        key = path, path.stat().st_mtime_ns
        archive = self._open.get(key)
        if archive is None:
            if len(self._open) >= 8:
                self._open.pop(next(iter(self._open))).close()
            archive = self._open[key] = zipfile.ZipFile(path)
        return archive


_archives = _Archives()
