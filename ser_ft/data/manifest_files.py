"""Finds the files that a manifest names."""

from __future__ import annotations

import os
import posixpath
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath

from ..utils.errors import raise_machine_failure
from ..utils.files import is_below
from ..utils.text import fold, nfc
from .corpora import Skip
from .scan import ArchiveFile, Scan, archive_entries, home_of

_WINDOWS_PATH = re.compile(r"[A-Za-z]:[\\/]|\\\\")


class ManifestFiles:
    """The files that the lines of a manifest name: in its archive, or on disk relative to its folder.

    A name in another Unicode form or in another case is that of the file, unless it is that of several files.
    `files` are those below the root of the manifest; a manifest that the user passed itself has none.
    """

    def __init__(self, manifest: ArchiveFile, files: Scan) -> None:
        self._manifest = manifest
        # Only a manifest that the user passed itself may name files anywhere.
        self._home = home_of(manifest.root) if files.tables else None
        self._sounds = {_key(file): file for file in files.sounds}
        self._listed: set[str] = set()
        self._stems = _index(self._sounds, lambda path: PurePosixPath(path).stem)
        entries = archive_entries(manifest.archive) if manifest.archive else []
        self._entries = {entry.filename.replace("\\", "/"): entry for entry in entries if not entry.is_dir()}
        self._entry_names = _index(self._entries)
        self._is_inside: dict[Path, bool] = {}
        self._listings: dict[Path, dict[str, list[str]]] = {}

    def find(self, path: str) -> ArchiveFile:
        """Return the file that a line names, or raise `Skip`."""
        if os.name != "nt" and _WINDOWS_PATH.match(path):
            raise self._skip("not-found", path, "a path of a Windows computer")
        find = self._find_on_disk if self._manifest.archive is None else self._find_in_archive
        file = find(path.replace("\\", "/"))
        self._listed.add(_key(file))
        return self._sounds.get(_key(file), file)

    def unlisted(self) -> Iterator[ArchiveFile]:
        """Yield the sound files below the root that no line has named so far."""
        yield from (file for key, file in self._sounds.items() if key not in self._listed)

    def _find_on_disk(self, path: str) -> ArchiveFile:
        wanted = Path(self._manifest.path).parent / path
        try:
            self._check_home(wanted, path)
            file = self._existing(wanted)
            if file is None:
                raise self._skip("not-found", path, "no such file")
            if file != wanted:
                self._check_home(file, path)
            status = file.stat()
        except FileNotFoundError:
            raise self._skip("not-found", path, "a link to a file that does not exist") from None
        except OSError as error:
            raise_machine_failure(error)
            raise Skip("unreadable", f"cannot be read ({error.strerror})") from error
        return ArchiveFile(self._manifest.root, str(file), PurePosixPath(path), status.st_size, status.st_mtime_ns)

    def _find_in_archive(self, path: str) -> ArchiveFile:
        manifest = self._manifest
        inner = PurePosixPath(manifest.path.removeprefix("zip://").partition("::")[0].replace("\\", "/"))
        name = _match(self._entry_names, posixpath.normpath(inner.parent / path))
        if name is None:
            raise self._skip("not-found", path, "not in the archive")
        entry = self._entries[name]
        relative_path = PurePosixPath(*manifest.relative_path.parts[: -len(inner.parts)], name)
        url = f"zip://{entry.filename}::{manifest.archive}"
        return ArchiveFile(manifest.root, url, relative_path, entry.file_size, manifest.mtime_ns, manifest.archive)

    def _check_home(self, file: Path, path: str) -> None:
        if self._home is None:
            return
        folder = file.parent
        if folder not in self._is_inside:
            self._is_inside[folder] = is_below(folder, self._home)
        leads_elsewhere = file.name == ".." or file.is_symlink()
        if not self._is_inside[folder] or (leads_elsewhere and not is_below(file, self._home)):
            raise self._skip("outside", path, f"outside of {self._home}: pass the manifest itself as a root")

    def _existing(self, file: Path) -> Path | None:
        """Return the file or folder of a name, which may be written in another way on disk, or None."""
        try:
            os.lstat(file)
        except (FileNotFoundError, NotADirectoryError):
            folder = None if file.parent == file else self._existing(file.parent)
            if folder is None or not folder.is_dir():
                return None
            if folder not in self._listings:
                self._listings[folder] = _index(os.listdir(folder))
            name = _match(self._listings[folder], file.name)
            return None if name is None else folder / name
        return file

    def _skip(self, reason: str, path: str, detail: str) -> Skip:
        similar = self._stems.get(fold(PurePosixPath(path.replace("\\", "/")).stem), ())
        return Skip(reason, detail + (f"; a file of this name is {similar[0]}" if similar else ""))


def _key(file: ArchiveFile) -> str:
    return file.relative_path.as_posix() if file.archive else os.path.abspath(file.path)


def _index(names: Iterable[str], part: Callable[[str], str] = str) -> dict[str, list[str]]:
    """Return folded name -> names."""
    index = defaultdict(list)
    for name in names:
        index[fold(part(name))].append(name)
    return dict(index)


def _match(index: dict[str, list[str]], name: str) -> str | None:
    """Return the name in an index that is equal, or the only one that differs in its Unicode form or in case."""
    names = index.get(fold(name), [])
    if name in names:
        return name
    names = [other for other in names if nfc(other) == nfc(name)] or names
    return names[0] if len(names) == 1 else None
