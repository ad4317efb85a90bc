"""Finds the clips below the user's folders, archives and manifests, and the corpus of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeAlias

from .. import audio
from ..labels import LabelScheme, canonical_name, same_emotion
from ..utils.errors import InputError
from ..utils.text import nfc
from .catalog import Catalog, CatalogBuilder, CatalogOptions
from .corpora import CORPORA, Corpus, Skip, Utterance, normalize_corpus_name, ravdess
from .corpora.folder import folder_parser, user_corpus
from .corpora.manifest import check_manifest, read_manifest
from .manifest_files import ManifestFiles
from .scan import MANIFEST_FILES, MANIFEST_SUFFIXES, MAX_TABLE_BYTES, ArchiveFile, Scan, scan
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
        files, manifests = _scan(catalog, root, name)
        root_entries: list[_Entry] = []
        for manifest, manifest_files in manifests:
            folder = str(manifest.relative_path.parent) if len(manifests) > 1 else ""
            root_entries += _entries_of_manifest(catalog, name or user_name, manifest, manifest_files, folder)
        if not manifests:
            corpora = _candidate_corpora(scheme, name, user_name)
            root_entries = list(_entries_of_names(catalog, files.sounds, corpora, options))
        builder.add_root(name, root, files, [entry.file for entry in root_entries])
        if not root_entries:
            raise NoClipsError(str(root), catalog.skipped[num_skipped:])
        entries += [(entry, files.note_for(entry.file.path)) for entry in _with_distinct_ids(root_entries)]
    # The first of several copies of a clip is used: whole ones first, then lossless ones (CREMA-D has MP3 and WAV).
    entries.sort(key=lambda pair: pair[0].file.relative_path.suffix.lower() in _LOSSY)
    entries.sort(key=lambda pair: pair[0].file.size < _MIN_BYTES)
    for (file, corpus, utterance), note in entries:
        builder.add_clip(file.path, corpus, utterance, file.decode, note)
    builder.apply_votes()
    builder.finish(", ".join(str(root) for _, root, _ in named_roots))
    return catalog


def _scan(catalog: Catalog, root: Path, name: str | None) -> tuple[Scan, list[tuple[ArchiveFile, Scan]]]:
    """List the files below a root.

    Returns them, and the manifests that describe all of them, if there are any, each with the files below its folder.
    """
    if root.suffix.lower() in MANIFEST_SUFFIXES and root.is_file():
        status = root.stat()
        relative_path = PurePosixPath(root.name)
        table = ArchiveFile(root.parent, str(root), relative_path, status.st_size, status.st_mtime_ns)
        return Scan(), [(table, Scan())]
    files = scan(root)
    for path, reason, detail in files.broken:
        catalog.skip(path, "", reason, detail)
    tables = [table for table in files.tables if table.relative_path.name.lower() in MANIFEST_FILES]
    tables.sort(key=lambda table: MANIFEST_FILES.index(table.relative_path.name.lower()))
    tables.sort(key=lambda table: len(table.relative_path.parts))
    manifests: dict[PurePosixPath, ArchiveFile] = {}  # folder -> its manifest
    unused: list[tuple[ArchiveFile, str]] = []
    for table in tables:
        other = _manifest_above(table, manifests)
        problem = f"{other.path} is used" if other else _why_unusable(table, files, name)
        if problem is None:
            manifests[table.relative_path.parent] = table
        else:
            unused.append((table, problem))
    if not all(_manifest_above(file, manifests) for file in files.sounds):
        problem = "does not cover all recordings of its root: pass its folder as a separate root"
        unused += [(table, problem) for table in manifests.values()]
        manifests = {}
    for table, problem in unused:
        catalog.skip(table.path, "", "unused-manifest", problem)
    sounds: dict[str, list[ArchiveFile]] = {table.path: [] for table in manifests.values()}
    for file in files.sounds:
        if manifest := _manifest_above(file, manifests):
            sounds[manifest.path].append(file)
    return files, [(table, replace(files, sounds=sounds[table.path])) for table in manifests.values()]


def _manifest_above(file: ArchiveFile, manifests: Mapping[PurePosixPath, ArchiveFile]) -> ArchiveFile | None:
    """Return the manifest of a folder above a file, or None."""
    return next((manifests[folder] for folder in file.relative_path.parents if folder in manifests), None)


def _why_unusable(table: ArchiveFile, files: Scan, name: str | None) -> str | None:
    """Return why a table cannot be a manifest, or None if it can."""
    is_metadata = table.relative_path.stem.lower() == "metadata"  # other tools write files of this name too
    if name in CORPORA or (is_metadata and any(map(_is_in_corpus, files.sounds))):
        return "the names of the recordings are those of a corpus"
    try:
        if is_metadata:
            check_manifest(table.read(MAX_TABLE_BYTES), table.path)
    except (InputError, audio.AudioError) as error:
        return str(error).removeprefix(f"{table.path}: ")
    return None


def _is_in_corpus(file: ArchiveFile) -> bool:
    try:
        return any(corpus.parse(file.relative_path) is not None for corpus in CORPORA.values())
    except Skip:
        return True


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
    stem = root.resolve().stem if root.suffix.lower() in (".zip", *MANIFEST_SUFFIXES) else root.resolve().name
    if stem.lower() in ("manifest", "metadata"):
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


def _entries_of_manifest(
    catalog: Catalog, name: str, manifest: ArchiveFile, files: Scan, folder: str
) -> Iterator[_Entry]:
    """Yield the files in a manifest, and list its invalid lines and the recordings that it lacks as skipped.

    `folder` is put before the paths in the ids of clips.
    """
    corpus = CORPORA.get(name) or user_corpus(name)
    manifest_files = ManifestFiles(manifest, files)
    clips: dict[str, list[tuple[int, _Entry]]] = {}
    for line, path, clip in read_manifest(manifest.read(MAX_TABLE_BYTES), name, manifest.path, folder):
        try:
            file = manifest_files.find(path) if path else manifest
            if isinstance(clip, Skip):
                raise clip
        except Skip as skip:
            catalog.skip(path or f"{manifest.path}, line {line}", name, skip.reason, f"line {line}: {skip.detail}")
        else:
            clips.setdefault(file.path, []).append((line, _Entry(file, corpus, clip)))
    for path, lines in clips.items():
        (first_line, first), *others = lines
        emotion = first.utterance.emotion
        if all(same_emotion(emotion, entry.utterance.emotion) for _, entry in others):
            yield first
            for _ in others:
                catalog.skip(path, name, "same-name", f"the clip of line {first_line}")
        else:
            detail = ", ".join(f"{entry.utterance.emotion} in line {line}" for line, entry in lines)
            catalog.skip(path, name, "two-labels", detail)
    for file in manifest_files.unlisted():
        catalog.skip(file.path, name, "not-listed")


def _with_distinct_ids(entries: Sequence[_Entry]) -> Iterator[_Entry]:
    """Add the suffixes of files to the ids of the user's clips that would be the same without them."""
    names: dict[str, set[str]] = {}
    for file, _, utterance in entries:
        names.setdefault(utterance.id, set()).add(file.relative_path.name)
    for file, corpus, utterance in entries:
        if corpus.name not in CORPORA and len(names[utterance.id]) > 1:
            utterance = replace(utterance, id=utterance.id + nfc(file.relative_path.suffix))
        yield _Entry(file, corpus, utterance)
