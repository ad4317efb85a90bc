"""What a corpus is, and what is known of a clip from its name alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath

# What a user may meet in skipped.csv, and why.
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
    "unused-manifest": "not above all recordings of its root: name its folder as a root of its own",
    "incomplete": "the manifest's line lacks the path or the emotion",
    "no-place": "its label has no place in the label scheme",
    "no-vote": "listeners agreed on no label, or were not asked",
    "resource-fork": "a macOS resource file, not sound",
}


@dataclass(frozen=True, slots=True)
class Utterance:
    """A clip, as its name (and its corpus's tables) describe it.

    Attributes:
        id: unique over all corpora, "ravdess-03-01-05-01-02-01-07".
        speaker: unique over all corpora, "ravdess-07".
        emotion: the label as the corpus means it, in the words of `ser_ft.labels` where it is one of them.
        gender: "female", "male" or None. age: in years, or None.
        intensity: "normal", "strong", "low", "medium", "high" or None.
        statement: what is said, or the corpus's code for it. language: ISO 639-1.
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
    """A clip that the corpus knows and leaves out: `reason` is a key of `REASONS`."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(detail or REASONS[reason])
        self.reason = reason
        self.detail = detail or REASONS[reason]


@dataclass(frozen=True)
class Download:
    """A file to fetch.

    Attributes:
        url: its address. file: where it goes below the corpus's folder (POSIX).
        md5: its checksum as published. megabytes: its size; of a list, with all that the list names.
        read: where the file is a list, reads from its bytes what is to be fetched next; raises `InputError` where
            it is no such list.
        sha256: of all that a list names, as `sha256sum * | LC_ALL=C sort | sha256sum` prints it where they lie.
    """

    url: str
    file: str
    md5: str | None = None
    megabytes: int = 0
    read: Callable[[bytes], tuple[Download, ...]] | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Corpus:
    """A corpus: its name, terms and source, and how its file names are read.

    Attributes:
        parse: path (POSIX, as found below its root) -> Utterance; None where the name is not this corpus's;
            raises `Skip` for a clip that is this corpus's but is left out.
        emotions: the emotions that the corpus can hold, of `ser_ft.labels`.
        license: SPDX identifier, or "other". terms: one line on what the license asks.
        get: where the corpus is had, for people. downloads: what may be fetched freely, by file.
    """

    name: str
    title: str
    emotions: tuple[str, ...]
    license: str
    terms: str
    citation: str
    get: str
    parse: Callable[[PurePosixPath], Utterance | None]
    downloads: tuple[Download, ...] = ()
