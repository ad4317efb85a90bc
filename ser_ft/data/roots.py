"""Finds the clips below the user's folders, archives and manifests, and the corpus of each."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeAlias

from .. import audio
from ..labels import LabelScheme, canonical_name
from ..utils.errors import InputError, raise_machine_failure
from ..utils.files import is_below
from ..utils.text import nfc
from .catalog import Catalog, CatalogBuilder, CatalogOptions
from .corpora import CORPORA, Corpus, Skip, Utterance, normalize_corpus_name, ravdess
from .corpora.folder import folder_parser, user_corpus
from .corpora.manifest import read_manifest
from .scan import MANIFEST_FILE, MAX_TABLE_BYTES, ArchiveFile, Scan, home_of, scan
from .skipped import NoClipsError

Roots: TypeAlias = "str | Path | Sequence[str | Path] | Mapping[str, str | Path]"
_LOSSY = frozenset({".mp3", ".ogg", ".oga", ".opus", *audio.FFMPEG_SUFFIXES})
# A smaller file is empty, a git-LFS pointer or only a header: any other copy of its clip is preferred.
_MIN_BYTES = 512


class _Entry(NamedTuple):
    """A file that is a clip of a corpus according to its name or a manifest."""

    file: ArchiveFile
    corpus: Corpus
    utterance: Utterance


def build_catalog(roots: Roots, scheme: LabelScheme, options: CatalogOptions) -> Catalog:
    """Find the clips below the roots; `roots` is explained in `ser_ft.load_corpora`."""
    catalog = Catalog(scheme)
    builder = CatalogBuilder(catalog, options)
    entries: list[tuple[_Entry, str | None]] = []
    named_roots = list(_named_roots(roots))
    for name, root, user_name in named_roots:
        num_skipped = len(catalog.skipped)
        files, manifest = _scan(catalog, root, name)
        if manifest is not None:
            root_entries = list(_entries_of_manifest(catalog, name or user_name, manifest, files))
        else:
            corpora = _candidate_corpora(scheme, name, user_name)
            root_entries = list(_entries_of_names(catalog, files.sounds, corpora, options))
        builder.add_root(name, root, files, [entry.file for entry in root_entries])
        if not root_entries:
            raise NoClipsError(str(root), catalog.skipped[num_skipped:])
        entries += [(entry, files.note_for(entry.file.path)) for entry in root_entries]
    # The first of several copies of a clip is used: whole ones first, then lossless ones (CREMA-D has MP3 and WAV).
    entries.sort(key=lambda pair: pair[0].file.relative_path.suffix.lower() in _LOSSY)
    entries.sort(key=lambda pair: pair[0].file.size < _MIN_BYTES)
    for (file, corpus, utterance), note in entries:
        builder.add_clip(file.path, corpus, utterance, file.read, note)
    builder.apply_votes()
    builder.finish(", ".join(str(root) for _, root, _ in named_roots))
    return catalog


def _scan(catalog: Catalog, root: Path, name: str | None) -> tuple[Scan, ArchiveFile | None]:
    """List the files below a root, and return them with the manifest that describes all of them, or None."""
    if root.suffix.lower() == ".csv" and root.is_file():
        status = root.stat()
        return Scan(), ArchiveFile(root.parent, str(root), PurePosixPath(root.name), status.st_size, status.st_mtime_ns)
    files = scan(root)
    manifests = [table for table in files.tables if table.relative_path.name.lower() == MANIFEST_FILE]
    usable = (
        table
        for table in sorted(manifests, key=lambda table: len(table.relative_path.parts))
        if name not in CORPORA
        and all(file.relative_path.is_relative_to(table.relative_path.parent) for file in files.sounds)
    )
    manifest = next(usable, None)
    for path, reason, detail in files.broken:
        catalog.skip(path, "", reason, detail)
    for table in manifests:
        if table is not manifest:
            catalog.skip(table.path, "", "unused-manifest")
    return files, manifest


def _named_roots(roots: Roots) -> Iterator[tuple[str | None, Path, str]]:
    """Yield each root: its corpus if it was named, its path, and a name for the user's own recordings in it."""
    if isinstance(roots, Mapping):
        pairs: Iterable[tuple[str | None, str | Path]] = roots.items()
    else:
        pairs = [(None, root) for root in ([roots] if isinstance(roots, str | Path) else roots)]
    counts: Counter[str] = Counter()
    for name, root in pairs:
        path, name = Path(root).expanduser(), name if name is None else normalize_corpus_name(name)
        if name is not None and not name.replace("-", "").replace("_", "").isalnum():
            raise InputError(f"the name of a corpus must consist of letters, digits, - and _, not {name!r}")
        if not path.exists():
            raise InputError(f"{root}: no such folder or archive")
        user_name = _user_corpus_name(path)
        counts[user_name] += 1
        number = counts[user_name]
        yield name, path, user_name + (f"-{number}" if number > 1 else "")
    if not counts:
        raise InputError("no folder was named: give one or more folders or .zip archives of recordings")


def _user_corpus_name(root: Path) -> str:
    stem = root.resolve().stem if root.suffix.lower() in (".zip", ".csv") else root.resolve().name
    if stem == Path(MANIFEST_FILE).stem:
        stem = root.resolve().parent.name
    name = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in nfc(stem)) or "own"
    return f"{name}-own" if normalize_corpus_name(name) in CORPORA else name


def _candidate_corpora(scheme: LabelScheme, name: str | None, user_name: str) -> list[Corpus]:
    def is_label(folder: str) -> bool:
        return canonical_name(folder) is not None or scheme.class_of(folder) is not None

    if name in CORPORA:
        return [CORPORA[name]]
    if name is not None:
        return [user_corpus(name, folder_parser(name, is_label))]
    parse = folder_parser(user_name, is_label)

    def parse_in_emotion_folder(path: PurePosixPath) -> Utterance | None:
        return parse(path) if any(map(is_label, path.parts[:-1])) else None

    return [*CORPORA.values(), user_corpus(user_name, parse_in_emotion_folder)]


def _entries_of_names(
    catalog: Catalog, sounds: Sequence[ArchiveFile], corpora: list[Corpus], options: CatalogOptions
) -> Iterator[_Entry]:
    """Yield the files whose names a corpus recognizes, and list the others as skipped."""
    name = corpora[0].name if len(corpora) == 1 else ""
    for file in sounds:
        if file.relative_path.name.startswith("._"):
            catalog.skip(file.path, name, "resource-fork")
            continue
        for corpus in corpora:
            try:
                utterance = corpus.parse(file.relative_path)
            except Skip as skip:
                catalog.skip(file.path, corpus.name, skip.reason, skip.detail)
                break
            if utterance is None:
                continue
            if not options.include_song and ravdess.is_song(utterance):
                catalog.skip(file.path, corpus.name, "song")
            else:
                yield _Entry(file, corpus, utterance)
            break
        else:
            catalog.skip(file.path, name, "unknown-name")


def _entries_of_manifest(catalog: Catalog, name: str, manifest: ArchiveFile, files: Scan) -> Iterator[_Entry]:
    """Yield the files in a manifest, and list its invalid lines and the recordings that it lacks as skipped."""
    corpus = CORPORA.get(name) or user_corpus(name)
    sounds = {_file_key(file): file for file in files.sounds}
    # Only a manifest that the user named may name files anywhere.
    home = home_of(manifest.root) if files.tables else None
    for line, path, row in read_manifest(manifest.read(MAX_TABLE_BYTES), name, manifest.path):
        if isinstance(row, Skip):
            catalog.skip(f"{manifest.path}, line {line}", name, row.reason, row.detail)
            continue
        posix_path = PurePosixPath(path.replace("\\", "/"))
        location = Path(manifest.path).parent / posix_path
        if home is not None and manifest.archive is None and not is_below(location, home):
            catalog.skip(path, name, "outside", f"outside of {home}: pass the manifest itself as a root")
            continue
        file = _file_of_manifest(manifest, posix_path)
        yield _Entry(sounds.pop(_file_key(file), file), corpus, row)
    for file in sounds.values():
        catalog.skip(file.path, name, "not-listed")


def _file_key(file: ArchiveFile) -> str:
    return file.relative_path.as_posix() if file.archive else os.path.abspath(file.path)


def _file_of_manifest(manifest: ArchiveFile, path: PurePosixPath) -> ArchiveFile:
    """Return a file that a manifest names: in its archive, or on disk relative to its folder."""
    if manifest.archive is not None:
        relative_path = manifest.relative_path.parent / path
        inner = PurePosixPath(manifest.path.removeprefix("zip://").partition("::")[0]).parent / path
        url = f"zip://{inner}::{manifest.archive}"
        return ArchiveFile(manifest.root, url, relative_path, 0, manifest.mtime_ns, manifest.archive)
    file = Path(manifest.path).parent / path
    try:
        status = file.stat()
    except OSError as error:
        raise_machine_failure(error)
        return ArchiveFile(manifest.root, str(file), path, 0, 0)
    return ArchiveFile(manifest.root, str(file), path, status.st_size, status.st_mtime_ns)
