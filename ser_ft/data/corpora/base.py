"""Corpora and utterances: the description of a corpus, and the metadata that a clip's name gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath

# The reasons in skipped.csv.
REASONS: dict[str, str] = {
    "empty": "no samples in the file",
    "silent": "nothing above -60 dBFS",
    "unreadable": "no sound that can be decoded",
    "cut-short": "the file ends before its sound does",
    "lfs-pointer": "a git-LFS pointer instead of the sound",
    "too-large": "longer than half an hour, or larger than 128 MiB in an archive",
    "outside": "lies outside of its root, where only links and manifests that are passed themselves may lead",
    "same-name": "the same clip was found before, under the same name",
    "same-sound": "the same recording, with the same label, was found before under another name",
    "two-labels": "one recording under two labels",
    "known-bad": "known to be silent or wrongly labelled as distributed",
    "song": "sung, not spoken (kept with --include-song)",
    "other-recording": "not the audio-only recording of a spoken clip",
    "not-found": "there is no such file",
    "unknown-name": "its name fits no corpus, and no folder above it is named after an emotion",
    "not-listed": "not named in the manifest",
    "unused-manifest": "a table that is not used as the manifest of its root",
    "incomplete": "a line of the manifest without path or emotion, or with too many cells",
    "not-in-scheme": "its label is not in the label scheme",
    "unknown-label": "its label is no known emotion",
    "no-vote": "listeners agreed on no label, or there are no votes",
    "resource-fork": "a macOS resource file, not sound",
}


@dataclass(frozen=True, slots=True)
class Utterance:
    """The metadata of a clip, from its name and its corpus's tables."""

    id: str  # unique over all corpora, "ravdess-03-01-05-01-02-01-07"
    speaker: str  # unique over all corpora, "ravdess-07"
    emotion: str  # the corpus's label, as a name of `ser_ft.labels` if it is one of those emotions
    gender: str | None = None  # "female", "male" or None
    age: int | None = None  # in years, or None
    intensity: str | None = None  # "normal", "strong", "low", "medium", "high" or None
    statement: str | None = None  # the words, or the corpus's code for them
    language: str | None = "en"  # ISO 639-1 code


class Skip(Exception):
    """Raised by a parser for a clip that is excluded; `reason` is a key of `REASONS`."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(detail or REASONS[reason])
        self.reason = reason
        self.detail = detail or REASONS[reason]


@dataclass(frozen=True)
class Download:
    """A file to download."""

    url: str
    file: str  # its path below the corpus's folder (POSIX)
    md5: str | None = None
    megabytes: int = 0  # its size; for a list of files, the size of all of them
    # For a list of files, returns these files from its bytes, or raises `InputError`.
    parse_list: Callable[[bytes], tuple[Download, ...]] | None = None
    # Checksum over all files of a list, as `sha256sum * | LC_ALL=C sort | sha256sum` prints it in their folder.
    sha256: str | None = None


@dataclass(frozen=True)
class Corpus:
    """A corpus: its terms and source, and the parser of its file names."""

    name: str  # short name, for example "ravdess"
    title: str
    emotions: tuple[str, ...]  # emotions in the corpus, as names of `ser_ft.labels`
    license: str  # SPDX identifier, or "other"
    terms: str  # the license's conditions in one line
    citation: str
    source: str
    # Path below the root (POSIX) -> Utterance; None if the name is not of this corpus; raises `Skip` for clips that are
    # excluded.
    parse: Callable[[PurePosixPath], Utterance | None]
    downloads: tuple[Download, ...] = ()  # files that may be downloaded freely
