"""Which files lie under the roots: in folders, and in zip archives, which are read where they are."""

from __future__ import annotations

import os
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from .. import audio
from ..errors import InputError

NOTE_FILE = "ser_ft_note.txt"
SYNTHETIC = "synthetic voices (ser_ft miniature), not recordings"
MANIFEST_FILE = "manifest.csv"
VOTE_TABLES = ("tabulatedvotes.csv", "summarytable.csv")
_ASIDE = frozenset({MANIFEST_FILE, *VOTE_TABLES})
_SOUND = audio.SUFFIXES | audio.FFMPEG_SUFFIXES


@dataclass(frozen=True, slots=True)
class Found:
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
        try:
            if self.archive is None:
                return Path(self.path).read_bytes()
            return _archives.open(self.archive).read(self.path.removeprefix("zip://").split("::", 1)[0])
        except (OSError, RuntimeError, NotImplementedError, zipfile.BadZipFile, KeyError) as error:
            raise audio.AudioError("unreadable", f"{self.path}: cannot be read ({error})") from error


@dataclass
class Scan:
    """What lies under the roots: sound files, tables beside them, and notes on where the sound is from."""

    sounds: list[Found] = field(default_factory=list)
    tables: list[Found] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    broken: list[tuple[str, str]] = field(default_factory=list)

    def note(self, path: str) -> str | None:
        """Return the note of the nearest folder above a path that has one."""
        above = [folder for folder in self.notes if path.startswith(folder)]
        return self.notes[max(above, key=len)] if above else None


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
        if found.broken:
            raise InputError(f"{root}: not a zip archive that can be read ({found.broken[0][1]})")
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
    if name == NOTE_FILE:
        found.notes[f"{path.parent}{os.sep}"] = path.read_text(encoding="utf-8", errors="replace").strip()
    if suffix == ".zip":
        _add_archive(found, root, path, PurePosixPath(path.relative_to(root).with_suffix("").as_posix()))
    if suffix not in _SOUND and name not in _ASIDE:
        return
    try:
        status = path.stat()
    except OSError as error:
        found.broken.append((str(path), f"cannot be read ({error.strerror})"))
        return
    inner = PurePosixPath(path.relative_to(root).as_posix())
    file = Found(root, str(path), inner, status.st_size, status.st_mtime_ns)
    (found.tables if name in _ASIDE else found.sounds).append(file)


def _add_archive(found: Scan, root: Path, archive: Path, above: PurePosixPath) -> None:
    try:
        entries = _archives.open(archive).infolist()
        time = archive.stat().st_mtime_ns
    except (OSError, zipfile.BadZipFile) as error:
        found.broken.append((str(archive), f"not a zip archive that can be read ({error})"))
        return
    for entry in entries:
        inner = PurePosixPath(entry.filename)
        suffix, name = inner.suffix.lower(), inner.name.lower()
        if entry.is_dir() or "__MACOSX" in inner.parts:
            continue
        path = f"zip://{entry.filename}::{archive}"
        if name == NOTE_FILE:
            found.notes["zip://" + entry.filename[: -len(NOTE_FILE)]] = _archives.open(archive).read(entry).decode(errors="replace").strip()
        elif name in _ASIDE or suffix in _SOUND:
            file = Found(root, path, above / inner, entry.file_size, time, archive)
            (found.tables if name in _ASIDE else found.sounds).append(file)
        elif suffix == ".zip":
            found.broken.append((path, "an archive inside an archive: unpack the outer one"))


class _Archives(threading.local):
    """Open archives, one handle per thread, so that threads read side by side."""

    def __init__(self) -> None:
        self._open: dict[Path, zipfile.ZipFile] = {}

    def open(self, path: Path) -> zipfile.ZipFile:
        archive = self._open.get(path)
        if archive is None:
            if len(self._open) >= 8:
                self._open.pop(next(iter(self._open))).close()
            archive = self._open[path] = zipfile.ZipFile(path)
        return archive


_archives = _Archives()
