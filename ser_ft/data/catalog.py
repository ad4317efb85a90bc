"""The catalog of clips that a table is built from: their metadata and classes, skipped files, and a cache key."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeAlias, get_args

from ..audio import DecodedClip
from ..labels import LabelScheme
from ..utils.errors import InputError
from .corpora import REASONS, Corpus, Utterance, cremad, normalize_corpus_name
from .scan import MAX_TABLE_BYTES, SYNTHETIC_NOTE, VOTE_TABLES, ArchiveFile, Scan
from .skipped import NoClipsError, Skipped, skip_label

CremadLabels = Literal["intended", "voice", "voice-soft"]
Decode: TypeAlias = "Callable[[Callable[[], object]], DecodedClip]"
"""Decodes a clip. Its argument, which may wait, is called if it is long."""
_SYNTHETIC_INFO = {"license": "Apache-2.0", "terms": "made by ser_ft", "citation": ""}


@dataclass(frozen=True, slots=True)
class Clip:
    """A clip to decode."""

    utterance: Utterance
    corpus: str
    label: str  # its class in the label scheme
    path: str  # where it was found
    decode: Decode
    votes: tuple[float, ...] | None = None  # fraction of the listeners' votes for each class, or None


@dataclass
class Catalog:
    """The clips below the roots, the skipped files, and information on each corpus."""

    scheme: LabelScheme
    location: str = ""  # the roots, for messages
    key: str = ""  # changes when a file is added, removed or changed, or when the files are read in another way
    clips: list[Clip] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    corpora: dict[str, Corpus] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)  # corpus -> a note that must be shown with its results

    def skip(self, path: str, corpus: str, reason: str, detail: str | None = None) -> None:
        """Add a skipped file."""
        self.skipped.append(Skipped(path, corpus, reason, REASONS[reason] if detail is None else detail))

    def corpus_info(self) -> dict[str, dict[str, Any]]:
        """Return title, license, terms, citation, note and classes of each corpus that has clips."""
        labels: dict[str, set[str]] = {}
        for clip in self.clips:
            labels.setdefault(clip.corpus, set()).add(clip.label)
        info = {}
        for name, clip_labels in labels.items():
            corpus, note = self.corpora[name], self.notes.get(name, "")
            classes = {label for emotion in corpus.emotions if (label := self.scheme.class_of(emotion))} | clip_labels
            # Synthetic voices have the corpus's names, but neither its sound nor its terms.
            synthetic = SYNTHETIC_NOTE in note
            info[name] = {
                "title": f"{corpus.title} (names only)" if synthetic else corpus.title,
                **{key: getattr(corpus, key) for key in ("license", "terms", "citation")},
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


class CatalogBuilder:
    """Adds clips to a catalog: gives each its class, skips duplicate names, and computes the catalog's key."""

    def __init__(self, catalog: Catalog, options: CatalogOptions) -> None:
        self.catalog = catalog
        notes = {normalize_corpus_name(name): note for name, note in options.notes.items()}
        self.options = replace(options, notes=notes)
        self.state: list[Any] = []  # what the key depends on, in addition to the options and the code
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
        self, path: str, corpus: Corpus, utterance: Utterance, decode: Decode, note: str | None = None
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
            catalog.skip(path, name, *skip_label(utterance.emotion, catalog.scheme))
            return
        note = note or (cremad.provenance(PurePosixPath(path.split("::")[0])) if name == "cremad" else None)
        self._notes.setdefault(name, {})[note] = None
        catalog.corpora.setdefault(name, corpus)
        catalog.clips.append(Clip(utterance, name, label or "", path, decode))

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
        votes = cremad.read_votes(table.read(MAX_TABLE_BYTES), table.path)
        clips, catalog.clips = catalog.clips, []
        for clip in clips:
            fractions = votes.get(clip.utterance.id, {}) if clip.corpus == "cremad" else {clip.utterance.emotion: 1.0}
            voted = _apply_votes(clip, fractions, catalog.scheme, soft)
            if isinstance(voted, Clip):
                catalog.clips.append(voted)
            else:
                catalog.skipped.append(voted)

    def finish(self, location: str) -> None:
        """Check the clips, and set the corpora's notes and the key, a hash of files, options and the reading code.

        `location` names the data in messages.
        """
        catalog, options = self.catalog, self.options
        catalog.location = location
        if not catalog.clips:
            raise NoClipsError(location, catalog.skipped)
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
        reason, detail = skip_label(winners[0].removeprefix("?"), scheme)
        return Skipped(clip.path, clip.corpus, reason, f"the listeners' label {detail}")
    votes = None
    if soft:
        total = sum(totals[label] for label in scheme.classes)
        votes = tuple(totals[label] / total for label in scheme.classes)
    return replace(clip, label=clip.label if clip.label in in_scheme else in_scheme[0], votes=votes)


def _code_hash() -> str:
    """Hash the code that reads files and names: another version of it builds new tables."""
    data = Path(__file__).parent
    modules = ("scan", "roots", "manifest_files", "catalog", "skipped", "hub_import", "builder", "deduplication")
    files = [*sorted((data / "corpora").glob("*.py")), *(data / f"{name}.py" for name in modules)]
    files += [data.parent / "audio" / "io.py", data.parent / "labels.py"]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
