"""Finds the clips below the roots: the corpus of each file, the metadata in its name, and the reasons for skipping."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from .. import audio
from ..labels import LabelScheme, canonical_name
from ..utils.errors import InputError
from .corpora import CORPORA, REASONS, Corpus, Skip, Utterance, cremad, ravdess
from .corpora.folder import folder_parser, read_manifest, user_corpus
from .scan import MANIFEST_FILE, SYNTHETIC_NOTE, VOTE_TABLES, ArchiveFile, Scan, scan

Roots: TypeAlias = "str | Path | Sequence[str | Path] | Mapping[str, str | Path]"
CremadLabels = Literal["intended", "voice", "voice-soft"]
_LOSSY = frozenset({".mp3", ".ogg", ".oga", ".opus", *audio.FFMPEG_SUFFIXES})
# A smaller file is empty, a git-LFS pointer or only a header: any other copy of its clip is preferred.
_MIN_BYTES = 512
_SYNTHETIC_INFO = {"license": "Apache-2.0", "terms": "made by ser_ft", "citation": ""}


@dataclass(frozen=True, slots=True)
class Clip:
    """A clip to decode.

    Attributes:
        utterance: its metadata.
        corpus: name of its corpus.
        label: its class in the label scheme.
        path: where it was found.
        read: returns its bytes.
        votes: fraction of the listeners' votes for each class, or None.
    """

    utterance: Utterance
    corpus: str
    label: str
    path: str
    read: Callable[[], bytes]
    votes: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that was skipped; `reason` is a key of `ser_ft.data.corpora.REASONS`."""

    path: str
    corpus: str
    reason: str
    detail: str


@dataclass
class Catalog:
    """The clips below the roots, the skipped files, and information on each corpus.

    Attributes:
        scheme: the label scheme.
        key: changes when a file is added, removed or changed, or when the files are read in another way.
        clips: clips to decode.
        skipped: files that were skipped.
        corpora: corpus -> its description.
        notes: corpus -> a note that must be shown with its results.
    """

    scheme: LabelScheme
    key: str = ""
    clips: list[Clip] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    corpora: dict[str, Corpus] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def skip(self, path: str, corpus: str, reason: str, detail: str | None = None) -> None:
        """Add a skipped file."""
        self.skipped.append(Skipped(path, corpus, reason, REASONS[reason] if detail is None else detail))

    def corpus_info(self) -> dict[str, dict[str, Any]]:
        """Return title, license, terms, citation, note and classes of each corpus that has clips."""
        labels: dict[str, set[str]] = {}
        for clip in self.clips:
            labels.setdefault(clip.corpus, set()).add(clip.label)
        info = {}
        for name, found_labels in labels.items():
            corpus, note = self.corpora[name], self.notes.get(name, "")
            classes = {label for emotion in corpus.emotions if (label := self.scheme.class_of(emotion))} | found_labels
            # Synthetic voices have the corpus's names, but neither its sound nor its terms.
            synthetic = SYNTHETIC_NOTE in note
            info[name] = {
                "title": f"{corpus.title} (names only)" if synthetic else corpus.title,
                "license": corpus.license,
                "terms": corpus.terms,
                "citation": corpus.citation,
                **(_SYNTHETIC_INFO if synthetic else {}),
                "note": note,
                "classes": [label for label in self.scheme.classes if label in classes],
            }
        return info


@dataclass(frozen=True)
class CatalogOptions:
    """How the files are read: see `ser_ft.load_corpora`."""

    include_song: bool = False
    cremad_labels: CremadLabels = "intended"
    notes: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        choices = get_args(CremadLabels)
        if self.cremad_labels not in choices:
            raise InputError(f"cremad_labels must be one of {', '.join(choices)}, not {self.cremad_labels!r}")


class _Entry(NamedTuple):
    """A file that is a clip of a corpus according to its name or a manifest."""

    file: ArchiveFile
    corpus: Corpus
    utterance: Utterance


def build_catalog(roots: Roots, scheme: LabelScheme, options: CatalogOptions) -> Catalog:
    """Find the clips below the roots.

    Args:
        roots: a mapping corpus -> folder, archive or manifest; or one or several folders, archives or manifests, whose
            corpora are recognized by the file names.
        scheme: the label scheme.
        options: how files are read.

    Raises:
        InputError: a root does not exist or has no clips, no clip is left, or a note is of a corpus without clips.
    """
    catalog = Catalog(scheme)
    builder = CatalogBuilder(catalog, options)
    entries: list[tuple[_Entry, str | None]] = []
    for name, root, user_name in _named_roots(roots):
        num_skipped = len(catalog.skipped)
        files, manifest = _scan(catalog, root, name)
        if manifest is not None:
            root_entries = list(_entries_of_manifest(catalog, name or user_name, manifest, files))
        else:
            corpora = _candidate_corpora(scheme, name, user_name)
            root_entries = list(_entries_of_names(catalog, files.sounds, corpora, options))
        builder.add_root(name, root, files, [entry.file for entry in root_entries])
        if not root_entries:
            raise InputError(no_clips_message(root, catalog.skipped[num_skipped:]))
        entries += [(entry, files.note_for(entry.file.path)) for entry in root_entries]
    # The first of several copies of a clip is used: whole ones first, then lossless ones (CREMA-D has MP3 and WAV).
    entries.sort(key=lambda pair: (pair[0].file.size < _MIN_BYTES, _suffix(pair[0].file) in _LOSSY))
    for (file, corpus, utterance), note in entries:
        builder.add_clip(file.path, corpus, utterance, file.read, note)
    builder.apply_votes()
    builder.finish(roots)
    return catalog


def _suffix(file: ArchiveFile) -> str:
    return file.relative_path.suffix.lower()


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
    for path, detail in files.broken:
        catalog.skip(path, "", "unreadable", detail)
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
        path = Path(root).expanduser()
        if name is not None and (not name or not name.replace("-", "").replace("_", "").isalnum()):
            raise InputError(f"the name of a corpus must consist of letters, digits, - and _, not {name!r}")
        if not path.exists():
            raise InputError(f"{root}: no such folder or archive")
        user_name = _user_corpus_name(path)
        counts[user_name] += 1
        number = counts[user_name]
        yield normalize_corpus_name(name) if name else None, path, user_name + (f"-{number}" if number > 1 else "")
    if not counts:
        raise InputError("no folder was named: give one or more folders or .zip archives of recordings")


def normalize_corpus_name(name: str) -> str:
    """Return the name of a known corpus in its usual spelling ("CREMA-D" -> "cremad"), and other names unchanged."""
    plain = name.lower().replace("-", "").replace("_", "")
    return plain if plain in CORPORA else name


def _user_corpus_name(root: Path) -> str:
    stem = root.resolve().stem if root.suffix.lower() in (".zip", ".csv") else root.resolve().name
    if stem == Path(MANIFEST_FILE).stem:
        stem = root.resolve().parent.name
    name = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in stem) or "own"
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
    for path, row in read_manifest(manifest.read(), name, manifest.path):
        if isinstance(row, Skip):
            catalog.skip(path, name, row.reason, row.detail)
            continue
        file = _file_of_manifest(manifest, PurePosixPath(path.replace("\\", "/")))
        yield _Entry(sounds.pop(_file_key(file), file), corpus, row)
    for file in sounds.values():
        catalog.skip(file.path, name, "not-listed")


def _file_key(file: ArchiveFile) -> str:
    return file.relative_path.as_posix() if file.archive else os.path.abspath(file.path)


def _file_of_manifest(manifest: ArchiveFile, path: PurePosixPath) -> ArchiveFile:
    """Return a file that a manifest names: in its archive, or on disk relative to its folder."""
    if manifest.archive is not None:
        relative_path = manifest.relative_path.parent / path
        url = f"zip://{path}::{manifest.archive}"
        return ArchiveFile(manifest.root, url, relative_path, 0, manifest.mtime_ns, manifest.archive)
    file = Path(manifest.path).parent / path
    try:
        status = file.stat()
    except OSError:
        return ArchiveFile(manifest.root, str(file), path, 0, 0)
    return ArchiveFile(manifest.root, str(file), path, status.st_size, status.st_mtime_ns)


class CatalogBuilder:
    """Adds clips to a catalog: gives each its class, skips duplicate names, and computes the catalog's key."""

    def __init__(self, catalog: Catalog, options: CatalogOptions) -> None:
        self.catalog = catalog
        notes = {normalize_corpus_name(name): note for name, note in options.notes.items()}
        self.options = replace(options, notes=notes)
        self.state: list[Any] = []
        """What the key depends on, beside the options and the code."""
        self._paths: dict[str, str] = {}
        self._vote_tables: list[ArchiveFile] = []
        self._notes: dict[str, dict[str | None, None]] = {}

    def add_root(self, name: str | None, root: Path, files: Scan, used: Sequence[ArchiveFile] = ()) -> None:
        """Add the state of a root's files to the key, and remember its tables of votes."""
        status = root.stat()
        self.state.append((name, str(root.resolve()), (status.st_size, status.st_mtime_ns) if root.is_file() else ()))
        unique_files = dict.fromkeys((*files.sounds, *files.tables, *used))
        self.state += [(file.path, file.size, file.mtime_ns) for file in unique_files]
        self.state += sorted(files.notes.items())
        self._vote_tables += [table for table in files.tables if table.relative_path.name.lower() in VOTE_TABLES]

    def add_clip(
        self, path: str, corpus: Corpus, utterance: Utterance, read: Callable[[], bytes], note: str | None = None
    ) -> None:
        """Add a clip, or list it as skipped."""
        catalog, name = self.catalog, corpus.name
        if utterance.id in self._paths:
            catalog.skip(path, name, "same-name", f"the same clip as {self._paths[utterance.id]}")
            return
        self._paths[utterance.id] = path
        label = catalog.scheme.class_of(utterance.emotion)
        # The listeners' labels are looked up later, when all tables of votes are known.
        if label is None and not (name == "cremad" and self.options.cremad_labels != "intended"):
            catalog.skip(path, name, "not-in-scheme", _not_in_scheme(utterance.emotion, catalog.scheme))
            return
        note = note or (cremad.provenance(PurePosixPath(path.split("::")[0])) if name == "cremad" else None)
        self._notes.setdefault(name, {})[note] = None
        catalog.corpora.setdefault(name, corpus)
        catalog.clips.append(Clip(utterance, name, label or "", path, read))

    def apply_votes(self) -> None:
        """Replace CREMA-D's intended labels by the listeners' labels, if the options ask for it."""
        catalog = self.catalog
        if self.options.cremad_labels == "intended" or not any(clip.corpus == "cremad" for clip in catalog.clips):
            return
        if not self._vote_tables:
            raise InputError(
                "cremad_labels needs CREMA-D's processedResults/tabulatedVotes.csv or summaryTable.csv "
                "under the roots; they come with https://github.com/CheyneyComputerScience/CREMA-D"
            )
        soft = self.options.cremad_labels == "voice-soft"
        table = min(self._vote_tables, key=lambda table: VOTE_TABLES.index(table.relative_path.name.lower()))
        votes = cremad.read_votes(table.read(), table.path)
        clips, catalog.clips = catalog.clips, []
        for clip in clips:
            fractions = votes.get(clip.utterance.id, {}) if clip.corpus == "cremad" else {clip.utterance.emotion: 1.0}
            voted = _apply_votes(clip, fractions, catalog.scheme, soft)
            if isinstance(voted, Clip):
                catalog.clips.append(voted)
            else:
                catalog.skipped.append(voted)

    def finish(self, roots: object) -> None:
        """Set the corpora's notes and the key, a hash of files, options and the code that reads them.

        Raises:
            InputError: no clip is left, a note is of a corpus without clips, or synthetic voices and recordings are
                mixed.
        """
        catalog, options = self.catalog, self.options
        if not catalog.clips:
            raise InputError(no_clips_message(roots, catalog.skipped))
        corpora = sorted({clip.corpus for clip in catalog.clips})
        for name in options.notes:
            if name not in corpora:
                raise InputError(f"a note is given for {name!r}, and the data holds {', '.join(corpora)}")
        for name, notes in self._notes.items():
            if SYNTHETIC_NOTE in notes and len(notes) > 1:
                raise InputError(f"{name}: synthetic voices and recordings are mixed under one corpus's names")
            # The user's note is added to the others and does not replace them.
            unique_notes = dict.fromkeys(note for note in (*notes, options.notes.get(name)) if note)
            if unique_notes:
                catalog.notes[name] = "; ".join(unique_notes)
        scheme = catalog.scheme
        settings = [scheme.classes, sorted(scheme.class_by_label.items()), options.include_song, options.cremad_labels]
        content = repr([*settings, sorted(options.notes.items()), *self.state, _code_hash()])
        catalog.key = hashlib.sha256(content.encode("utf-8", "surrogateescape")).hexdigest()[:20]


def _apply_votes(clip: Clip, fractions: Mapping[str, float], scheme: LabelScheme, soft: bool) -> Clip | Skipped:
    """Give a clip the class with most votes. Emotions outside the scheme count too, as "?emotion"."""
    totals = dict.fromkeys(scheme.classes, 0.0)
    for emotion, fraction in fractions.items():
        label = scheme.class_of(emotion) or f"?{emotion}"
        totals[label] = totals.get(label, 0.0) + fraction
    highest = max(totals.values())
    winners = sorted(label for label, total in totals.items() if total > highest - 1e-9)
    in_scheme = [label for label in winners if label in scheme.classes]
    if not highest:
        return Skipped(clip.path, clip.corpus, "no-vote", "no vote on its voice")
    if len(winners) > 1 and not soft:
        tied = " and ".join(label.removeprefix("?") for label in winners)
        return Skipped(clip.path, clip.corpus, "no-vote", f"a tie of {tied}")
    if not in_scheme:
        detail = f"the listeners' label {_not_in_scheme(winners[0].removeprefix('?'), scheme)}"
        return Skipped(clip.path, clip.corpus, "not-in-scheme", detail)
    votes = None
    if soft:
        total = sum(totals[label] for label in scheme.classes)
        votes = tuple(totals[label] / total for label in scheme.classes)
    return replace(clip, label=clip.label if clip.label in in_scheme else in_scheme[0], votes=votes)


def _not_in_scheme(emotion: str, scheme: LabelScheme) -> str:
    return f"{emotion!r} is not in the label scheme {scheme.name!r}"


def no_clips_message(roots: object, skipped: Sequence[Skipped]) -> str:
    """Return a line saying that no clip is left below the roots, and why."""
    roots = list(roots.values()) if isinstance(roots, Mapping) else roots
    location = ", ".join(map(str, roots)) if isinstance(roots, list | tuple) else str(roots)
    if not skipped:
        return f"{location}: no sound files found there"
    counts = Counter(skip.reason for skip in skipped)
    reasons = "; ".join(f"{REASONS[reason]}: {count}" for reason, count in counts.most_common())
    return f"{location}: none of the recordings found there can be used ({reasons})"


def _code_hash() -> str:
    """Hash the code that reads files and names: another version of it builds new tables."""
    data = Path(__file__).parent
    modules = ("scan", "catalog", "hub_import", "builder", "deduplication")
    files = [*sorted((data / "corpora").glob("*.py")), *(data / f"{name}.py" for name in modules)]
    files += [data.parent / "audio" / "io.py", data.parent / "labels.py"]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
