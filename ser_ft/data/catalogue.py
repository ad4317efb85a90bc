"""From files to clips: which corpus each file belongs to, what its name says, and what is left out."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeAlias

from .. import audio
from ..emotions import LabelScheme, canonical
from ..errors import InputError
from .corpora import CORPORA, REASONS, Corpus, Skip, Utterance, cremad, ravdess
from .corpora.folder import folder_parser, own_corpus, read_manifest
from .scan import MANIFEST_FILE, SYNTHETIC, VOTE_TABLES, Found, Scan, scan

if TYPE_CHECKING:
    import datasets

Roots: TypeAlias = "str | Path | Sequence[str | Path] | Mapping[str, str | Path]"
CREMAD_LABELS = ("intended", "voice", "voice-soft")
_LOSSY = frozenset({".mp3", ".ogg", ".oga", ".opus", *audio.FFMPEG_SUFFIXES})


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
class Catalogue:
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
        """Return, for each corpus with clips: title, licence, terms, citation, note, and the classes it can hold."""
        seen: dict[str, set[str]] = {}
        for clip in self.clips:
            seen.setdefault(clip.corpus, set()).add(clip.label)
        about = {}
        for name, labels in seen.items():
            corpus = self.corpora[name]
            can_hold = {place for emotion in corpus.emotions if (place := self.scheme.place(emotion))} | labels
            note = self.notes.get(name, "")
            # What ser_ft makes itself has the corpus's names, and neither its sound nor its terms.
            made = {"licence": "Apache-2.0", "terms": "made by ser_ft", "citation": ""} if note == SYNTHETIC else {}
            about[name] = {
                "title": f"{corpus.title} (names only)" if made else corpus.title,
                "licence": corpus.licence,
                "terms": corpus.terms,
                "citation": corpus.citation,
                **made,
                "note": note,
                "classes": [label for label in self.scheme.classes if label in can_hold],
            }
        return about


@dataclass(frozen=True)
class Options:
    """How the files are read: see `ser_ft.load_corpora`."""

    include_song: bool = False
    cremad_labels: str = "intended"
    notes: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.cremad_labels not in CREMAD_LABELS:
            raise InputError(f"cremad_labels must be one of {', '.join(CREMAD_LABELS)}, not {self.cremad_labels!r}")


def catalogue(roots: Roots, scheme: LabelScheme, options: Options) -> Catalogue:
    """Find the clips under the roots.

    Args:
        roots: a mapping corpus -> folder, archive or manifest; or one or several folders, archives or manifests, in
            which the corpora are told by their file names.
        scheme: the label scheme. options: how files are read.

    Raises:
        InputError: a root does not exist, or no clip is left.
    """
    book = Catalogue(scheme)
    names = _Names(book, options)
    count = 0
    for name, root in _each_root(roots):
        found = Scan() if root.suffix.lower() == ".csv" else scan(root)
        count += len(found.sounds)
        names.seen(root, found)
        book.skipped += [Skipped(path, "", "unreadable", detail) for path, detail in found.broken]
        for path, corpus, utterance, read in _utterances(book, name, root, found, options):
            names.place(path, corpus, utterance, read, found.note(path))
    if not book.clips:
        raise InputError(_nothing_left(roots, count, book.skipped))
    names.vote()
    book.key = names.key()
    return book


def columns_of_table(table: datasets.Dataset, name: str, columns: Mapping[str, str], scheme: LabelScheme) -> Catalogue:
    """Find the clips of any `datasets` table by naming its columns.

    Args:
        table: the table. name: what to call the corpus.
        columns: our name -> the table's: audio and emotion must be named; speaker, gender, age, intensity, statement
            and language may be.
        scheme: the label scheme.

    Raises:
        InputError: a column is not in the table, or no clip is left.
    """
    import datasets

    columns = {"audio": "audio", "emotion": "emotion"} | dict(columns)
    wanted = {"audio", "emotion", "speaker", "gender", "age", "intensity", "statement", "language"}
    for ours, theirs in columns.items():
        if ours not in wanted:
            raise InputError(f"unknown column {ours!r}: name {', '.join(sorted(wanted))}")
        if theirs not in table.column_names:
            raise InputError(f"the table {name} has no column {theirs!r}; it has {', '.join(table.column_names)}")
    table = table.cast_column(columns["audio"], datasets.Audio(decode=False))
    label = table.features[columns["emotion"]]
    facts = table.select_columns([theirs for ours, theirs in columns.items() if ours != "audio"])
    book = Catalogue(scheme, corpora={name: own_corpus(name, lambda path: None)})
    book.key = _digest([table._fingerprint, name, sorted(columns.items()), scheme.classes, sorted(scheme.places.items())])
    names = _Names(book, Options())
    for at, row in enumerate(facts):
        value = row[columns["emotion"]]
        if value is None or (isinstance(label, datasets.ClassLabel) and value < 0):
            book.skipped.append(Skipped(f"{name}[{at}]", name, "no-place", "no label"))
            continue
        emotion = label.int2str(value) if isinstance(label, datasets.ClassLabel) else str(value)
        cell = {ours: row[theirs] for ours, theirs in columns.items() if ours != "audio"}
        speaker = cell.get("speaker")
        utterance = Utterance(
            id=f"{name}-{at:06d}",
            speaker=f"{name}-{'unknown' if speaker is None else speaker}",
            emotion=emotion,
            gender=cell.get("gender"),
            age=cell.get("age"),
            intensity=cell.get("intensity"),
            statement=cell.get("statement"),
            language=cell.get("language"),
        )
        names.place(f"{name}[{at}]", name, utterance, _row_reader(table, at, columns["audio"]), None)
    if not book.clips:
        raise InputError(_nothing_left(name, len(facts), book.skipped))
    return book


def _row_reader(table: datasets.Dataset, at: int, column: str) -> Callable[[], bytes]:
    def read() -> bytes:
        sound = table[at][column]
        if sound is None:
            raise audio.AudioError("empty", f"row {at} has no sound")
        return sound["bytes"] if sound["bytes"] is not None else audio.read_file(Path(sound["path"]))

    return read


def _each_root(roots: Roots) -> Iterator[tuple[str | None, Path]]:
    if isinstance(roots, Mapping):
        pairs: Iterable[tuple[str | None, str | Path]] = roots.items()
    else:
        pairs = [(None, root) for root in ([roots] if isinstance(roots, str | Path) else roots)]
    empty = True
    for name, root in pairs:
        if name is not None and (not name or not name.replace("-", "").replace("_", "").isalnum()):
            raise InputError(f"a corpus's name is made of letters, digits, - and _, not {name!r}")
        path = Path(root).expanduser()
        if not path.exists():
            raise InputError(f"{root}: no such folder or archive")
        empty = False
        yield name, path
    if empty:
        raise InputError("no folder was named: give one or more folders or .zip archives of recordings")


def _utterances(
    book: Catalogue, name: str | None, root: Path, found: Scan, options: Options
) -> Iterator[tuple[str, str, Utterance, Callable[[], bytes]]]:
    """Yield path, corpus, utterance and reader for each clip under a root, and list the rest as skipped."""
    manifest = root if root.suffix.lower() == ".csv" else None
    top = next((table for table in found.tables if str(table.inner) == MANIFEST_FILE), None)
    if manifest or (top and name not in CORPORA):
        yield from _from_manifest(book, name or _own_name(root), root, manifest, top, found)
        return
    corpora = _candidates(book, name, root)
    # Lossless copies first: CREMA-D comes as AudioMP3 and as AudioWAV.
    for file in sorted(found.sounds, key=lambda file: (file.inner.suffix.lower() in _LOSSY, file.path)):
        if file.inner.name.startswith("._"):
            book.skipped.append(Skipped(file.path, name or "", "resource-fork", REASONS["resource-fork"]))
            continue
        read = _parse(file, corpora, options)
        if isinstance(read, Skipped):
            book.skipped.append(read)
        else:
            corpus, utterance = read
            book.corpora.setdefault(corpus.name, corpus)
            yield file.path, corpus.name, utterance, file.read


def _parse(file: Found, corpora: list[Corpus], options: Options) -> tuple[Corpus, Utterance] | Skipped:
    for corpus in corpora:
        try:
            utterance = corpus.parse(file.inner)
        except Skip as skip:
            return Skipped(file.path, corpus.name, skip.reason, skip.detail)
        if utterance is None:
            continue
        if not options.include_song and ravdess.is_song(utterance):
            return Skipped(file.path, corpus.name, "song", REASONS["song"])
        return corpus, utterance
    return Skipped(file.path, corpora[0].name if len(corpora) == 1 else "", "unknown-name", REASONS["unknown-name"])


def _candidates(book: Catalogue, name: str | None, root: Path) -> list[Corpus]:
    def is_label(folder: str) -> bool:
        return canonical(folder) is not None or book.scheme.place(folder) is not None

    if name in CORPORA:
        return [CORPORA[name]]
    if name is not None:
        return [own_corpus(name, folder_parser(name, is_label))]
    own = _own_name(root)
    parse = folder_parser(own, is_label)

    def only_in_emotion_folders(path: PurePosixPath) -> Utterance | None:
        return parse(path) if any(map(is_label, path.parts[:-1])) else None

    return [*CORPORA.values(), own_corpus(own, only_in_emotion_folders)]


def _own_name(root: Path) -> str:
    stem = root.resolve().stem if root.suffix.lower() in (".zip", ".csv") else root.resolve().name
    if stem == Path(MANIFEST_FILE).stem:
        stem = root.resolve().parent.name
    name = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in stem) or "own"
    return f"{name}-own" if name in CORPORA else name


def _from_manifest(
    book: Catalogue, name: str, root: Path, manifest: Path | None, top: Found | None, found: Scan
) -> Iterator[tuple[str, str, Utterance, Callable[[], bytes]]]:
    content = manifest.read_bytes() if manifest else top.read() if top else b""
    by_inner = {str(file.inner): file for file in found.sounds}
    book.corpora.setdefault(name, own_corpus(name, lambda path: None))
    folder = manifest.parent if manifest else root
    for path, utterance in read_manifest(content, name, str(manifest or (top and top.path))):
        inside = by_inner.get(path.replace("\\", "/"))
        if inside is not None:
            yield inside.path, name, utterance, inside.read
        else:
            full = folder / path
            yield str(full), name, utterance, lambda full=full: audio.read_file(full)  # type: ignore[misc]


class _Names:
    """Gives each clip its class, keeps the first of a name, and sums up what the cache's key depends on."""

    def __init__(self, book: Catalogue, options: Options) -> None:
        self.book = book
        self.options = options
        self.taken: dict[str, str] = {}
        self.state: list[Any] = []
        self.vote_tables: list[Found] = []
        for name in options.notes:
            book.notes[name] = options.notes[name]

    def seen(self, root: Path, found: Scan) -> None:
        """Note what lies under a root."""
        status = root.stat()
        self.state.append((str(root.resolve()), (status.st_size, status.st_mtime_ns) if root.is_file() else ()))
        self.state += [(file.path, file.size, file.time) for file in (*found.sounds, *found.tables)]
        self.state += sorted(found.notes.items())
        self.vote_tables += [table for table in found.tables if table.inner.name.lower() in VOTE_TABLES]

    def place(self, path: str, corpus: str, utterance: Utterance, read: Callable[[], bytes], note: str | None) -> None:
        """Take a clip in, or list why it is left out."""
        book = self.book
        if utterance.id in self.taken:
            detail = f"the same clip as {self.taken[utterance.id]}"
            book.skipped.append(Skipped(path, corpus, "same-name", detail))
            return
        self.taken[utterance.id] = path
        label = book.scheme.place(utterance.emotion)
        # Under a vote, the listeners' label decides: it is looked up once all tables are known.
        if label is None and not (corpus == "cremad" and self.options.cremad_labels != "intended"):
            detail = f"{utterance.emotion!r} has no place in the scheme {book.scheme.name!r}"
            book.skipped.append(Skipped(path, corpus, "no-place", detail))
            return
        note = note or (cremad.provenance(PurePosixPath(path)) if corpus == "cremad" else None)
        if note:
            book.notes.setdefault(corpus, note)
        book.clips.append(Clip(utterance, corpus, label or "", path, read))

    def vote(self) -> None:
        """Put the listeners' labels in the place of CREMA-D's intended ones, where that is asked."""
        if self.options.cremad_labels == "intended" or not any(clip.corpus == "cremad" for clip in self.book.clips):
            return
        if not self.vote_tables:
            raise InputError(
                "cremad_labels needs CREMA-D's processedResults/tabulatedVotes.csv or summaryTable.csv under the roots: "
                "both come with https://github.com/CheyneyComputerScience/CREMA-D"
            )
        soft = self.options.cremad_labels == "voice-soft"
        table = min(self.vote_tables, key=lambda found: VOTE_TABLES.index(found.inner.name.lower()))
        votes = cremad.read_votes(table.read(), table.path)
        clips, self.book.clips = self.book.clips, []
        for clip in clips:
            voted = _voted(clip, votes.get(clip.utterance.id, {}), self.book.scheme, soft)
            (self.book.clips if isinstance(voted, Clip) else self.book.skipped).append(voted)  # type: ignore[arg-type]

    def key(self) -> str:
        """Return the key of the prepared table: a hash of files, options and the code that reads them."""
        scheme, options = self.book.scheme, self.options
        asked = [scheme.classes, sorted(scheme.places.items()), options.include_song, options.cremad_labels]
        return _digest([*asked, sorted(options.notes.items()), *sorted(map(repr, self.state)), _code()])


def _voted(clip: Clip, shares: Mapping[str, float], scheme: LabelScheme, soft: bool) -> Clip | Skipped:
    if clip.corpus != "cremad":
        votes = {clip.label: 1.0}
    else:
        votes = {}
        for emotion, share in shares.items():
            place = scheme.place(emotion)
            if place is not None:
                votes[place] = votes.get(place, 0.0) + share
    total = sum(votes.values())
    winners = [label for label, share in votes.items() if share == max(votes.values())]
    if not winners or (len(winners) > 1 and not soft):
        detail = f"a tie of {' and '.join(sorted(winners))}" if winners else "no vote on its voice in the scheme"
        return Skipped(clip.path, clip.corpus, "no-vote", detail)
    label = clip.label if clip.label in winners else winners[0]
    shares_of = tuple(votes.get(name, 0.0) / total for name in scheme.classes) if soft else None
    return Clip(clip.utterance, clip.corpus, label, clip.path, clip.read, shares_of)


def _nothing_left(roots: object, files: int, skipped: Sequence[Skipped]) -> str:
    where = ", ".join(map(str, roots)) if isinstance(roots, list | tuple) else str(roots)
    if not files and not skipped:
        return f"{where}: no sound files found there"
    reasons = Counter(skip.reason for skip in skipped)
    why = ", ".join(f"{count} {REASONS[reason]}" for reason, count in reasons.most_common())
    return f"{where}: none of the sound files found there can be used ({why})"


def _digest(content: list[Any]) -> str:
    return hashlib.sha256(repr(content).encode("utf-8", "surrogateescape")).hexdigest()[:20]


def _code() -> str:
    """Hash the code that reads files and names: a new version of it makes new tables."""
    here = Path(__file__).parent
    files = [*sorted((here / "corpora").glob("*.py")), *(here / f"{name}.py" for name in ("scan", "catalogue", "builder"))]
    files += [here.parent / "audio.py", here.parent / "emotions.py"]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
