"""From files to clips: which corpus each file belongs to, what its name says, and what is left out."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeAlias

from .. import audio
from ..labels import LabelScheme, canonical_name
from ..utils.errors import InputError
from .corpora import CORPORA, REASONS, Corpus, Skip, Utterance, cremad, ravdess
from .corpora.folder import folder_parser, own_corpus, read_manifest
from .scan import MANIFEST_FILE, SYNTHETIC_NOTE, VOTE_TABLES, ArchiveFile, Scan, scan

Roots: TypeAlias = "str | Path | Sequence[str | Path] | Mapping[str, str | Path]"
CREMAD_LABELS = ("intended", "voice", "voice-soft")
_LOSSY = frozenset({".mp3", ".ogg", ".oga", ".opus", *audio.FFMPEG_SUFFIXES})
# A file smaller than this is empty, a git-LFS pointer or a header: any other copy of its clip comes first.
_STUB = 512


@dataclass(frozen=True, slots=True)
class Clip:
    """A clip to be decoded: where it is, whose it is, and its class in the scheme."""

    utterance: Utterance
    corpus: str
    label: str
    path: str
    read: Callable[[], bytes]
    votes: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that was left out: `reason` is a key of `ser_ft.data.corpora.REASONS`."""

    path: str
    corpus: str
    reason: str
    detail: str


@dataclass
class Catalog:
    """The clips under the roots, what was left out, and what is to be known of each corpus.

    Attributes:
        key: changes when a file is added, taken away or changed, or when it is read in another way.
    """

    scheme: LabelScheme
    key: str = ""
    clips: list[Clip] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    corpora: dict[str, Corpus] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def about(self) -> dict[str, dict[str, Any]]:
        """Return, for each corpus with clips: title, license, terms, citation, note, and the classes it can hold."""
        seen: dict[str, set[str]] = {}
        for clip in self.clips:
            seen.setdefault(clip.corpus, set()).add(clip.label)
        about = {}
        for name, labels in seen.items():
            corpus = self.corpora[name]
            can_hold = {place for emotion in corpus.emotions if (place := self.scheme.class_of(emotion))} | labels
            note = self.notes.get(name, "")
            # What ser_ft makes itself has the corpus's names, and neither its sound nor its terms.
            made = (
                {"license": "Apache-2.0", "terms": "made by ser_ft", "citation": ""} if SYNTHETIC_NOTE in note else {}
            )
            about[name] = {
                "title": f"{corpus.title} (names only)" if made else corpus.title,
                "license": corpus.license,
                "terms": corpus.terms,
                "citation": corpus.citation,
                **made,
                "note": note,
                "classes": [label for label in self.scheme.classes if label in can_hold],
            }
        return about


@dataclass(frozen=True)
class CatalogOptions:
    """How the files are read: see `ser_ft.load_corpora`."""

    include_song: bool = False
    cremad_labels: str = "intended"
    notes: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.cremad_labels not in CREMAD_LABELS:
            raise InputError(f"cremad_labels must be one of {', '.join(CREMAD_LABELS)}, not {self.cremad_labels!r}")


class _Entry(NamedTuple):
    """A file that is a clip of a corpus, by its name or by a manifest."""

    file: ArchiveFile
    corpus: Corpus
    utterance: Utterance


def build_catalog(roots: Roots, scheme: LabelScheme, options: CatalogOptions) -> Catalog:
    """Find the clips under the roots.

    Args:
        roots: a mapping corpus -> folder, archive or manifest; or one or several folders, archives or manifests, in
            which the corpora are told by their file names.
        scheme: the label scheme. options: how files are read.

    Raises:
        InputError: a root does not exist or holds no clip, no clip is left, or a note is of no corpus that is there.
    """
    book = Catalog(scheme)
    names = CatalogBuilder(book, options)
    entries: list[tuple[_Entry, str | None]] = []
    for name, root, own in _each_root(roots):
        before = len(book.skipped)
        found, manifest = _scan(book, root, name)
        if manifest is not None:
            here = list(_from_manifest(book, name or own, manifest, found))
        else:
            here = list(_from_names(book, found.sounds, _candidates(book.scheme, name, own), options))
        names.seen(name, root, found, [entry.file for entry in here])
        if not here:
            raise InputError(no_clips_message(root, book.skipped[before:]))
        entries += [(entry, found.note(entry.file.path)) for entry in here]
    # Of a clip's copies the first is kept: whole ones first, then lossless ones (CREMA-D has AudioMP3 and AudioWAV).
    entries.sort(key=lambda pair: (pair[0].file.size < _STUB, pair[0].file.inner.suffix.lower() in _LOSSY))
    for (file, corpus, utterance), note in entries:
        names.place(file.path, corpus, utterance, file.read, note)
    names.vote()
    names.finish(roots)
    return book


def _scan(book: Catalog, root: Path, name: str | None) -> tuple[Scan, ArchiveFile | None]:
    """Scan a root, and find the manifest by which it is read, if there is one; list what cannot be read."""
    if root.suffix.lower() == ".csv" and root.is_file():
        status = root.stat()
        return Scan(), ArchiveFile(root.parent, str(root), PurePosixPath(root.name), status.st_size, status.st_mtime_ns)
    found = scan(root)
    manifests = [table for table in found.tables if table.inner.name.lower() == MANIFEST_FILE]
    chosen = None
    for table in sorted(manifests, key=lambda table: len(table.inner.parts)):
        if name not in CORPORA and all(file.inner.is_relative_to(table.inner.parent) for file in found.sounds):
            chosen = table
            break
    book.skipped += [Skipped(path, "", "unreadable", detail) for path, detail in found.broken]
    unused = [table for table in manifests if table is not chosen]
    book.skipped += [Skipped(table.path, "", "unused-manifest", REASONS["unused-manifest"]) for table in unused]
    return found, chosen


def _each_root(roots: Roots) -> Iterator[tuple[str | None, Path, str]]:
    """Yield each root: its corpus where that is named, its path, and what data of the user's own in it is called."""
    if isinstance(roots, Mapping):
        pairs: Iterable[tuple[str | None, str | Path]] = roots.items()
    else:
        pairs = [(None, root) for root in ([roots] if isinstance(roots, str | Path) else roots)]
    taken: Counter[str] = Counter()
    for name, root in pairs:
        path = Path(root).expanduser()
        if name is not None and (not name or not name.replace("-", "").replace("_", "").isalnum()):
            raise InputError(f"a corpus's name is made of letters, digits, - and _, not {name!r}")
        if not path.exists():
            raise InputError(f"{root}: no such folder or archive")
        own = _own_name(path)
        taken[own] += 1
        yield normalize_corpus_name(name) if name else None, path, own if taken[own] == 1 else f"{own}-{taken[own]}"
    if not taken:
        raise InputError("no folder was named: give one or more folders or .zip archives of recordings")


def normalize_corpus_name(name: str) -> str:
    """Return a corpus's name as it is written here: "CREMA-D" -> "cremad"; other names as they are."""
    plain = name.lower().replace("-", "").replace("_", "")
    return plain if plain in CORPORA else name


def _own_name(root: Path) -> str:
    stem = root.resolve().stem if root.suffix.lower() in (".zip", ".csv") else root.resolve().name
    if stem == Path(MANIFEST_FILE).stem:
        stem = root.resolve().parent.name
    name = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in stem) or "own"
    return f"{name}-own" if normalize_corpus_name(name) in CORPORA else name


def _candidates(scheme: LabelScheme, name: str | None, own: str) -> list[Corpus]:
    def is_label(folder: str) -> bool:
        return canonical_name(folder) is not None or scheme.class_of(folder) is not None

    if name in CORPORA:
        return [CORPORA[name]]
    if name is not None:
        return [own_corpus(name, folder_parser(name, is_label))]
    parse = folder_parser(own, is_label)

    def only_in_emotion_folders(path: PurePosixPath) -> Utterance | None:
        return parse(path) if any(map(is_label, path.parts[:-1])) else None

    return [*CORPORA.values(), own_corpus(own, only_in_emotion_folders)]


def _from_names(
    book: Catalog, sounds: Sequence[ArchiveFile], corpora: list[Corpus], options: CatalogOptions
) -> Iterator[_Entry]:
    """Yield the clips that files' names tell of, and list the rest as skipped."""
    for file in sounds:
        read = _parse(file, corpora, options)
        if isinstance(read, Skipped):
            book.skipped.append(read)
        else:
            yield read


def _parse(file: ArchiveFile, corpora: list[Corpus], options: CatalogOptions) -> _Entry | Skipped:
    name, reason = corpora[0].name if len(corpora) == 1 else "", "unknown-name"
    if file.inner.name.startswith("._"):
        return Skipped(file.path, name, "resource-fork", REASONS["resource-fork"])
    for corpus in corpora:
        try:
            utterance = corpus.parse(file.inner)
        except Skip as skip:
            return Skipped(file.path, corpus.name, skip.reason, skip.detail)
        if utterance is None:
            continue
        if not options.include_song and ravdess.is_song(utterance):
            return Skipped(file.path, corpus.name, "song", REASONS["song"])
        return _Entry(file, corpus, utterance)
    return Skipped(file.path, name, reason, REASONS[reason])


def _from_manifest(book: Catalog, name: str, manifest: ArchiveFile, found: Scan) -> Iterator[_Entry]:
    """Yield the clips that a manifest names, and list its faulty lines and the recordings that it does not name."""
    corpus = CORPORA.get(name) or own_corpus(name)
    sounds = {_key(file): file for file in found.sounds}
    for path, row in read_manifest(manifest.read(), name, manifest.path):
        if isinstance(row, Skip):
            book.skipped.append(Skipped(path, name, row.reason, row.detail))
            continue
        file = _beside(manifest, PurePosixPath(path.replace("\\", "/")))
        yield _Entry(sounds.pop(_key(file), file), corpus, row)
    book.skipped += [Skipped(file.path, name, "not-listed", REASONS["not-listed"]) for file in sounds.values()]


def _key(file: ArchiveFile) -> str:
    return file.inner.as_posix() if file.archive else os.path.abspath(file.path)


def _beside(manifest: ArchiveFile, place: PurePosixPath) -> ArchiveFile:
    """Return the file that a manifest means: in its own archive, or beside it or anywhere on disk."""
    if manifest.archive is not None:
        path = f"zip://{place}::{manifest.archive}"
        return ArchiveFile(manifest.root, path, manifest.inner.parent / place, 0, manifest.time, manifest.archive)
    file = Path(manifest.path).parent / place
    try:
        status = file.stat()
    except OSError:
        return ArchiveFile(manifest.root, str(file), place, 0, 0)
    return ArchiveFile(manifest.root, str(file), place, status.st_size, status.st_mtime_ns)


class CatalogBuilder:
    """Gives each clip its class, keeps the first of a name, and sums up what the cache's key depends on."""

    def __init__(self, book: Catalog, options: CatalogOptions) -> None:
        self.book = book
        self.options = replace(
            options, notes={normalize_corpus_name(name): note for name, note in options.notes.items()}
        )
        self.taken: dict[str, str] = {}
        self.state: list[Any] = []
        self.vote_tables: list[ArchiveFile] = []
        self.said: dict[str, dict[str | None, None]] = {}

    def seen(self, name: str | None, root: Path, found: Scan, used: Sequence[ArchiveFile] = ()) -> None:
        """Note what lies under a root, and what is used of it."""
        status = root.stat()
        self.state.append((name, str(root.resolve()), (status.st_size, status.st_mtime_ns) if root.is_file() else ()))
        files = dict.fromkeys((*found.sounds, *found.tables, *used))
        self.state += [(file.path, file.size, file.time) for file in files]
        self.state += sorted(found.notes.items())
        self.vote_tables += [table for table in found.tables if table.inner.name.lower() in VOTE_TABLES]

    def place(
        self, path: str, corpus: Corpus, utterance: Utterance, read: Callable[[], bytes], note: str | None = None
    ) -> None:
        """Take a clip in, or list why it is left out."""
        book, name = self.book, corpus.name
        if utterance.id in self.taken:
            book.skipped.append(Skipped(path, name, "same-name", f"the same clip as {self.taken[utterance.id]}"))
            return
        self.taken[utterance.id] = path
        label = book.scheme.class_of(utterance.emotion)
        # Under a vote, the listeners' label decides: it is looked up once all tables are known.
        if label is None and not (name == "cremad" and self.options.cremad_labels != "intended"):
            book.skipped.append(Skipped(path, name, "no-place", _no_place(utterance.emotion, book.scheme)))
            return
        note = note or (cremad.provenance(PurePosixPath(path.split("::")[0])) if name == "cremad" else None)
        self.said.setdefault(name, {})[note] = None
        book.corpora.setdefault(name, corpus)
        book.clips.append(Clip(utterance, name, label or "", path, read))

    def vote(self) -> None:
        """Put the listeners' labels in the place of CREMA-D's intended ones, where that is asked."""
        if self.options.cremad_labels == "intended" or not any(clip.corpus == "cremad" for clip in self.book.clips):
            return
        if not self.vote_tables:
            raise InputError(
                "cremad_labels needs CREMA-D's processedResults/tabulatedVotes.csv or summaryTable.csv "
                "under the roots; they come with https://github.com/CheyneyComputerScience/CREMA-D"
            )
        soft = self.options.cremad_labels == "voice-soft"
        table = min(self.vote_tables, key=lambda found: VOTE_TABLES.index(found.inner.name.lower()))
        votes = cremad.read_votes(table.read(), table.path)
        clips, self.book.clips = self.book.clips, []
        for clip in clips:
            voted = _voted(clip, votes.get(clip.utterance.id, {}), self.book.scheme, soft)
            if isinstance(voted, Clip):
                self.book.clips.append(voted)
            else:
                self.book.skipped.append(voted)

    def finish(self, roots: object) -> None:
        """Set the corpora's notes, and the key: a hash of files, options and the code that reads them.

        Raises:
            InputError: no clip is left, a note is of a corpus that is not there, or synthetic voices are mixed in.
        """
        book, options = self.book, self.options
        if not book.clips:
            raise InputError(no_clips_message(roots, book.skipped))
        there = sorted({clip.corpus for clip in book.clips})
        for name in options.notes:
            if name not in there:
                raise InputError(f"a note is given for {name!r}, and the data holds {', '.join(there)}")
        for name, notes in self.said.items():
            if SYNTHETIC_NOTE in notes and len(notes) > 1:
                raise InputError(f"{name}: synthetic voices and recordings are mixed under one corpus's names")
            # What is given is said too, never instead.
            told = dict.fromkeys(note for note in (*notes, options.notes.get(name)) if note)
            book.notes |= {name: "; ".join(told)} if told else {}
        asked = [
            book.scheme.classes,
            sorted(book.scheme.class_by_label.items()),
            options.include_song,
            options.cremad_labels,
        ]
        content = repr([*asked, sorted(options.notes.items()), *self.state, _code()])
        book.key = hashlib.sha256(content.encode("utf-8", "surrogateescape")).hexdigest()[:20]


def _voted(clip: Clip, shares: Mapping[str, float], scheme: LabelScheme, soft: bool) -> Clip | Skipped:
    """Give a clip the class that most listeners heard; what they heard may be a class of no place in the scheme."""
    if clip.corpus != "cremad":
        shares = {clip.utterance.emotion: 1.0}
    heard = dict.fromkeys(scheme.classes, 0.0)
    for emotion, share in shares.items():
        place = scheme.class_of(emotion) or f"?{emotion}"
        heard[place] = heard.get(place, 0.0) + share
    most = max(heard.values())
    winners = sorted(label for label, share in heard.items() if share > most - 1e-9)
    placed = [label for label in winners if label in scheme.classes]
    if not most:
        return Skipped(clip.path, clip.corpus, "no-vote", "no vote on its voice")
    if len(winners) > 1 and not soft:
        tied = " and ".join(label.removeprefix("?") for label in winners)
        return Skipped(clip.path, clip.corpus, "no-vote", f"a tie of {tied}")
    if not placed:
        detail = _no_place(winners[0].removeprefix("?"), scheme)
        return Skipped(clip.path, clip.corpus, "no-place", f"heard as {detail}")
    total = sum(heard[label] for label in scheme.classes)
    votes = tuple(heard[label] / total for label in scheme.classes) if soft else None
    return replace(clip, label=clip.label if clip.label in placed else placed[0], votes=votes)


def _no_place(emotion: str, scheme: LabelScheme) -> str:
    return f"{emotion!r} has no place in the scheme {scheme.name!r}"


def no_clips_message(roots: object, skipped: Sequence[Skipped]) -> str:
    """Say, in one line, that no clip is left under the roots, and why."""
    roots = list(roots.values()) if isinstance(roots, Mapping) else roots
    where = ", ".join(map(str, roots)) if isinstance(roots, list | tuple) else str(roots)
    if not skipped:
        return f"{where}: no sound files found there"
    reasons = Counter(skip.reason for skip in skipped)
    why = "; ".join(f"{REASONS[reason]}: {count}" for reason, count in reasons.most_common())
    return f"{where}: none of the recordings found there can be used ({why})"


def _code() -> str:
    """Hash the code that reads files and names: a new version of it makes new tables."""
    here = Path(__file__).parent
    modules = ("scan", "catalog", "hub_import", "builder", "deduplication")
    files = [*sorted((here / "corpora").glob("*.py")), *(here / f"{name}.py" for name in modules)]
    files += [here.parent / "audio" / "io.py", here.parent / "labels.py"]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
