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
    "too-large": "the file is larger than 2 GiB",
    "same-name": "the same clip was found before, under the same name",
    "same-sound": "the same recording, with the same label, was found before under another name",
    "two-labels": "one recording under two labels",
    "known-bad": "known to be silent or wrongly labelled as distributed",
    "song": "sung, not spoken (kept with --include-song)",
    "other-recording": "not the audio-only recording of a spoken clip",
    "unknown-name": "the file's name fits no corpus",
    "not-listed": "not named in the manifest",
    "unused-manifest": "does not cover all recordings of its root: pass its folder as a separate root",
    "incomplete": "the manifest's line lacks the path or the emotion",
    "not-in-scheme": "its label is not in the label scheme",
    "no-vote": "listeners agreed on no label, or there are no votes",
    "resource-fork": "a macOS resource file, not sound",
}


@dataclass(frozen=True, slots=True)
class Utterance:
    """The metadata of a clip, from its name and its corpus's tables.

    Attributes:
        id: unique over all corpora, "ravdess-03-01-05-01-02-01-07".
        speaker: unique over all corpora, "ravdess-07".
        emotion: the corpus's label, as a name of `ser_ft.labels` if it is one of those emotions.
        gender: "female", "male" or None.
        age: in years, or None.
        intensity: "normal", "strong", "low", "medium", "high" or None.
        statement: the words, or the corpus's code for them.
        language: ISO 639-1 code.
    """

    id: str
    speaker: str
    emotion: str
    gender: str | None = None
    age: int | None = None
    intensity: str | None = None
    statement: str | None = None
    language: str | None = "en"


class Skip(Exception):
    """Raised by a parser for a clip that is excluded; `reason` is a key of `REASONS`."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(detail or REASONS[reason])
        self.reason = reason
        self.detail = detail or REASONS[reason]


@dataclass(frozen=True)
class Download:
    """A file to download.

    Attributes:
        url: its address.
        file: its path below the corpus's folder (POSIX).
        md5: its published checksum, or None.
        megabytes: its size; for a list of files, the size of all of them.
        parse_list: for a list of files, returns these files from its bytes, or raises `InputError`.
        sha256: checksum over all files of a list, as `sha256sum * | LC_ALL=C sort | sha256sum` prints it in their
            folder.
    """

    url: str
    file: str
    md5: str | None = None
    megabytes: int = 0
    parse_list: Callable[[bytes], tuple[Download, ...]] | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Corpus:
    """A corpus: its terms and source, and the parser of its file names.

    Attributes:
        name: short name, for example "ravdess".
        title: full name.
        emotions: emotions in the corpus, as names of `ser_ft.labels`.
        license: SPDX identifier, or "other".
        terms: the license's conditions in one line.
        citation: reference to cite.
        source: where to get the corpus.
        parse: path below the root (POSIX) -> Utterance; None if the name is not of this corpus; raises `Skip` for
            clips that are excluded.
        downloads: files that may be downloaded freely.
    """

    name: str
    title: str
    emotions: tuple[str, ...]
    license: str
    terms: str
    citation: str
    source: str
    parse: Callable[[PurePosixPath], Utterance | None]
    downloads: tuple[Download, ...] = ()
