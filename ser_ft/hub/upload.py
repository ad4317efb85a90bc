"""What is sent to one repository, looked through before anything leaves the machine."""

from __future__ import annotations

import io
import json
import mmap
import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from ..utils.errors import InputError

Content: TypeAlias = "bytes | Path"

_AUDIO = (b"fLaC", b"OggS", b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2", b"FORM", b"\x1aE\xdf\xa3", b"MThd")
# With what it holds: code that writes such an address is no sound.
_EMBEDDED_AUDIO = re.compile(rb"data:audio/[^,\s\"'<>{}]{0,80},[A-Za-z0-9+/_%-]{16}")
_ZIP = b"PK\x03\x04"
_TOKEN = re.compile(rb"hf_[A-Za-z0-9]{30,}")
# In text alone: among random bytes anything occurs.
_LOCAL = re.compile(
    rb"(?<![\w.:/~-])(?:/(?:home|Users|root|tmp|mnt|media|srv|private|Volumes|scratch|workspace)/[^\s\"'<>|,;)]+"
    rb"|[A-Za-z]:\\{1,2}Users\\{1,2}[^\s\"'<>|,;)]+|file://[^\s\"'<>|,;)]+)"
)
_TEXT = frozenset({".json", ".jsonl", ".yaml", ".md", ".txt", ".py", ".csv", ".cfg", ".toml", ".html", ".css", ".js"})


@dataclass(frozen=True)
class Upload:
    """What one repository is to hold.

    Attributes:
        name: "user/name". kind: model, dataset or space. files: path in the repository -> its bytes, or a file.
        summary: of the commit. sdk: of a space, what runs it. sound: whether recordings may be among the files.
        ours: whether the files are ser_ft's own, and no path in them is this machine's, but those of its user.
        hidden: paths of this machine, beside its folders, that must not be in any file.
    """

    name: str
    kind: str
    files: Mapping[str, Content]
    summary: str
    sdk: str | None = None
    sound: bool = False
    ours: bool = False
    hidden: frozenset[str] = field(default_factory=frozenset)

    def check(self) -> None:
        """Look through every file, and what is packed in it, for what must not leave the machine.

        Raises:
            InputError: there is sound, a token or a local path in one of them; the text says which, not what.
        """
        words = _private_words(self.hidden)
        for path, content in self.files.items():
            with _bytes(content) as found:
                self._check(path, found, words)

    def _check(self, path: str, content: bytes | mmap.mmap, words: Mapping[bytes, str]) -> None:
        start = bytes(content[:12])
        boxed = (start[:4] in (b"RIFF", b"RF64") and start[8:12] == b"WAVE") or start[4:8] == b"ftyp"
        if not self.sound and (boxed or start.startswith(_AUDIO) or _EMBEDDED_AUDIO.search(content)):
            raise InputError(f"{path}: holds sound, which is never sent")
        if _TOKEN.search(content):
            raise InputError(f"{path}: holds what looks like a token of the Hub: take it out")
        for word, what in words.items():
            if content.find(word) >= 0:
                raise InputError(f"{path}: holds {what}: take it out of the run's file that it comes from")
        if start.startswith(_ZIP):
            self._check_packed(path, content, words)
        if not self.ours and Path(path).suffix.lower() in _TEXT and (match := _LOCAL.search(content)):
            line = content[: match.start()].count(b"\n") + 1
            raise InputError(f"{path}: holds a path of this machine (line {line}): take it out of the file it is from")

    def _check_packed(self, path: str, content: bytes | mmap.mmap, words: Mapping[bytes, str]) -> None:
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as packed:
                for member in packed.infolist():
                    self._check(f"{path}/{member.filename}", packed.read(member), words)
        except (zipfile.BadZipFile, NotImplementedError, EOFError, zlib.error) as error:
            raise InputError(f"{path}: cannot be looked through ({error})") from error

    @property
    def sizes(self) -> dict[str, int]:
        """The bytes of each file, by its path in the repository."""
        return {
            path: len(content) if isinstance(content, bytes) else content.stat().st_size
            for path, content in self.files.items()
        }

    def write(self, folder: Path) -> None:
        """Write the files to a folder, just as they would be sent."""
        for path, content in self.files.items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            with _bytes(content) as found:
                file.write_bytes(bytes(found))


def as_json(content: object) -> bytes:
    """Write JSON as a run folder holds it."""
    return (json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode()


def _private_words(hidden: frozenset[str]) -> dict[bytes, str]:
    """Return what must be in no file -> what it is called to the user."""
    from huggingface_hub import get_token

    words: dict[bytes, str] = {}
    for place in {str(Path.home()), os.getcwd(), *hidden}:
        plain = place.rstrip("/\\")
        # A folder at the top, such as /data, may be a part of an address too: only the user's own is looked for.
        deep = len(Path(plain).parts) > 2
        if Path(plain).is_absolute() and (deep or plain == str(Path.home())) and len(plain) > 1:
            found = plain if deep else f"{plain}{os.sep}"
            words[found.encode()] = words[found.replace("\\", "\\\\").encode()] = "a path of this machine"
    for token in (get_token(), os.environ.get("HF_TOKEN"), os.environ.get("HUGGING_FACE_HUB_TOKEN")):
        if token:
            words[token.encode()] = "your token"
    return words


@contextmanager
def _bytes(content: Content) -> Iterator[bytes | mmap.mmap]:
    """Open a file's bytes without reading them all at once."""
    if isinstance(content, bytes):
        yield content
        return
    with content.open("rb") as file:
        if not content.stat().st_size:
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as found:
            yield found
