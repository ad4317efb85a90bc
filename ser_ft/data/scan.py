"""Lists the files below the roots: in folders, and in zip archives, which are read without unpacking."""

from __future__ import annotations

import os
import threading
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from .. import audio
from ..audio.discovery import SOUND_SUFFIXES, find_sound_files
from ..utils.errors import InputError, raise_machine_failure

NOTE_FILE = "ser_ft_note.txt"
SYNTHETIC_NOTE = "synthetic voices (ser_ft miniature), not recordings"
MANIFEST_SUFFIXES = (".csv", ".tsv")
MANIFEST_FILES = ("manifest.csv", "manifest.tsv", "metadata.csv", "metadata.tsv")
_SPREADSHEETS = (".xlsx", ".xls", ".ods")
VOTE_TABLES = ("tabulatedvotes.csv", "summarytable.csv")
MAX_TABLE_BYTES = 64 * 1024**2
"""Size of the largest manifest."""
_TABLES = frozenset({*MANIFEST_FILES, *VOTE_TABLES})
# Speech is compressed two times, and digital silence a thousand times.
_MAX_RATIO, _MIN_BOMB_BYTES = 200, 1024**2
_LARGE_BYTES = 16 * 1024**2
_large_entry = threading.Lock()


@dataclass(frozen=True, slots=True)
class ArchiveFile:
    """A file on disk or in a zip archive."""

    root: Path  # root below which it lies
    path: str  # its path; `zip://INNER::ARCHIVE` in an archive
    relative_path: PurePosixPath  # its path below the root, from which parsers read its name
    size: int
    mtime_ns: int  # time of the last change, in ns; in an archive, that of the archive
    archive: Path | None = None

    def decode(self, before_long: Callable[[], object] = lambda: None) -> audio.DecodedClip:
        """Decode the file as `audio.decode_clip` does; `before_long` is also called before a large entry is read.

        Only one large entry of an archive is in memory at a time, whatever the number of threads.
        """
        name = self.relative_path.name
        if self.archive is None:
            return audio.decode_clip(Path(self.path), name, before_long)
        if self.size <= _LARGE_BYTES:
            return audio.decode_clip(self.read(), name, before_long)
        before_long()
        with _large_entry:
            return audio.decode_clip(self.read(), name, before_long)

    def read(self, limit: int = audio.MAX_BYTES) -> bytes:
        """Return the file's bytes; raise `AudioError` if it cannot be read or has more than `limit` bytes."""
        message = f"{self.path}: larger than {limit >> 20} MiB: cut it into shorter files"
        too_large = audio.AudioError("too-large", message)
        if self.size > limit:
            raise too_large
        if self.archive is None:
            return audio.read_file(Path(self.path))
        archive, name = _archives.open(self.archive), self.path.removeprefix("zip://").split("::", 1)[0]
        try:
            entry = archive.getinfo(name)
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                # zipfile decompresses other methods without a bound.
                raise zipfile.BadZipFile("compressed by another method than deflate: pack it again")
            if entry.file_size > limit:
                raise too_large
            if entry.file_size > max(_MIN_BOMB_BYTES, _MAX_RATIO * entry.compress_size):
                raise zipfile.BadZipFile(f"more than {_MAX_RATIO} times as large as in the archive: this is not sound")
            with archive.open(entry) as file:
                return file.read(entry.file_size)
        except (OSError, RuntimeError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise_machine_failure(error)
            raise audio.AudioError("unreadable", f"{self.path}: cannot be read ({error})") from error


@dataclass
class Scan:
    """The files below a root."""

    sounds: list[ArchiveFile] = field(default_factory=list)
    tables: list[ArchiveFile] = field(default_factory=list)  # manifests and tables of votes
    notes: dict[str, str] = field(default_factory=dict)  # folder -> the text of its note on the origin of the sound
    broken: list[tuple[str, str, str]] = field(default_factory=list)  # path, reason, detail of what cannot be read

    def note_for(self, path: str) -> str | None:
        """Return the note of the nearest folder above a path that has one."""
        location = _archive_first(path)
        folders = [folder for folder in self.notes if location.startswith(folder)]
        return self.notes[max(folders, key=len)] if folders else None


def _archive_first(path: str) -> str:
    """Rewrite `zip://INNER::ARCHIVE` so that it starts with the archive, as paths start with their folders."""
    inner, separator, archive = path.removeprefix("zip://").partition("::")
    return f"{archive}::{inner}" if separator and path.startswith("zip://") else path


def scan(root: Path) -> Scan:
    """List the files below a root: a folder, a zip archive, or a single sound file."""
    files = Scan()
    if root.is_dir():
        for file in find_sound_files([root], suffixes=("",), hidden_files=True, home=home_of(root)):
            path = Path(file.path)
            if file.error is not None:
                files.broken.append((file.path, "unreadable", file.error))
            elif file.outside:
                if path.is_dir() or _is_read(path):
                    files.broken.append((file.path, "outside", f"a link that leads out of {root}: pass it as a root"))
            elif "__MACOSX" not in path.relative_to(root).parts:
                _add_file(files, root, path)
    elif root.is_file() and root.suffix.lower() == ".zip":
        _add_archive(files, root, root, PurePosixPath())
        if files.broken and files.broken[0][0] == str(root):
            raise InputError(f"{root}: {files.broken[0][2]}")
    elif root.is_file() and root.suffix.lower() in SOUND_SUFFIXES:
        _add_file(files, root.parent, root)
    elif root.exists():
        advice = ": save it as CSV UTF-8" if root.suffix.lower() in _SPREADSHEETS else ""
        raise InputError(f"{root}: not a folder, a .zip archive, a manifest (.csv or .tsv) or a sound file{advice}")
    else:
        raise InputError(f"{root}: no such folder or archive")
    files.sounds.sort(key=lambda file: file.path)
    return files


def home_of(root: Path) -> Path:
    """Return the folder that links and manifests below a root may not leave.

    It is the root itself, except for a data set in the Hub's cache, whose files are links to its folder `blobs`.
    """
    repository = root.resolve().parent.parent
    return repository if root.resolve().parent.name == "snapshots" and (repository / "blobs").is_dir() else root


def _is_read(path: Path) -> bool:
    return path.suffix.lower() in (".zip", *SOUND_SUFFIXES) or path.name.lower() in (NOTE_FILE, *_TABLES)


def _add_file(files: Scan, root: Path, path: Path) -> None:
    name = path.name.lower()
    if not _is_read(path):
        return
    if path.suffix.lower() == ".zip":
        _add_archive(files, root, path, PurePosixPath(path.relative_to(root).with_suffix("").as_posix()))
        return
    try:
        status = path.stat()
        if name == NOTE_FILE:
            files.notes[f"{path.parent}{os.sep}"] = path.read_text(encoding="utf-8", errors="replace").strip()
            return
    except OSError as error:
        raise_machine_failure(error)
        reason = "not-found" if isinstance(error, FileNotFoundError) else "unreadable"
        files.broken.append((str(path), reason, f"cannot be read ({error.strerror})"))
        return
    relative_path = PurePosixPath(path.relative_to(root).as_posix())
    file = ArchiveFile(root, str(path), relative_path, status.st_size, status.st_mtime_ns)
    (files.tables if name in _TABLES else files.sounds).append(file)


def _add_archive(files: Scan, root: Path, archive: Path, folder: PurePosixPath) -> None:
    """Add an archive's files under `folder`, the path below the root that stands for the archive."""
    try:
        entries, mtime_ns = archive_entries(archive), archive.stat().st_mtime_ns
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        raise_machine_failure(error)
        files.broken.append((str(archive), "unreadable", f"not a zip archive that can be read ({error})"))
        return
    for entry in entries:
        # Archives made on Windows may use its separators.
        inner = PurePosixPath(entry.filename.replace("\\", "/"))
        suffix, name = inner.suffix.lower(), inner.name.lower()
        if entry.is_dir() or "__MACOSX" in inner.parts:
            continue
        path = f"zip://{entry.filename}::{archive}"
        file = ArchiveFile(root, path, folder / inner, entry.file_size, mtime_ns, archive)
        if name == NOTE_FILE:
            try:
                note = file.read(MAX_TABLE_BYTES).decode(errors="replace").strip()
            except audio.AudioError as error:
                files.broken.append((file.path, error.reason, str(error)))
            else:
                files.notes[_archive_first(file.path)[: -len(NOTE_FILE)]] = note
        elif name in _TABLES or suffix in SOUND_SUFFIXES:
            (files.tables if name in _TABLES else files.sounds).append(file)
        elif suffix == ".zip":
            files.broken.append((file.path, "unreadable", "an archive inside an archive: unpack the outer one"))


def archive_entries(archive: Path) -> list[zipfile.ZipInfo]:
    """Return the entries of an archive."""
    return _archives.open(archive).infolist()


class _Archives(threading.local):
    """Open archives, with one handle per thread, so that threads can read at the same time."""

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
