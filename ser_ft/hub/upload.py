"""The files sent to one repository, and the check of their content before anything is sent."""

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
from typing import Literal, TypeAlias

from ..utils.errors import InputError

Content: TypeAlias = "bytes | Path"

_AUDIO_SIGNATURES = (
    b"fLaC", b"OggS", b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2", b"FORM", b"\x1aE\xdf\xa3", b"MThd"
)  # fmt: skip
# Requires content after the comma: code that builds such addresses is not audio.
_EMBEDDED_AUDIO = re.compile(rb"data:audio/[^,\s\"'<>{}]{0,80},[A-Za-z0-9+/_%-]{16}")
_ZIP_SIGNATURE = b"PK\x03\x04"
_TOKEN = re.compile(rb"hf_[A-Za-z0-9]{30,}")
# Only searched in text: random bytes match by chance.
_LOCAL_PATH = re.compile(
    rb"(?<![\w.:/~-])(?:/(?:home|Users|root|tmp|mnt|media|srv|private|Volumes|scratch|workspace)/[^\s\"'<>|,;)]+"
    rb"|[A-Za-z]:\\{1,2}Users\\{1,2}[^\s\"'<>|,;)]+|file://[^\s\"'<>|,;)]+)"
)
_TEXT_SUFFIXES = frozenset(
    {".json", ".jsonl", ".yaml", ".md", ".txt", ".py", ".csv", ".cfg", ".toml", ".html", ".css", ".js"}
)


@dataclass(frozen=True)
class Upload:
    """The files for one repository.

    Attributes:
        name: of the repository, "user/name".
        files: path in the repository -> the file's bytes, or a local file.
        sdk: what runs a Space; None for other repositories.
        allow_audio: whether the files may contain recordings.
        package_files: whether the files belong to ser_ft itself, so that local paths in them are not the user's. Paths
            of the user's folders are refused in any case.
        private_paths: further local paths that must not occur in any file.
    """

    name: str
    kind: Literal["model", "dataset", "space"]
    files: Mapping[str, Content]
    summary: str
    sdk: str | None = None
    allow_audio: bool = False
    package_files: bool = False
    private_paths: frozenset[str] = field(default_factory=frozenset)

    def check(self) -> None:
        """Refuse audio, tokens and local paths in any file, or member of a zip archive, without quoting them."""
        private_strings = _private_strings(self.private_paths)
        for path, content in self.files.items():
            with _open_bytes(content) as data:
                self._check(path, data, private_strings)

    def _check(self, path: str, content: bytes | mmap.mmap, private_strings: Mapping[bytes, str]) -> None:
        start = bytes(content[:12])
        container = (start[:4] in (b"RIFF", b"RF64") and start[8:12] == b"WAVE") or start[4:8] == b"ftyp"
        if not self.allow_audio and (
            container or start.startswith(_AUDIO_SIGNATURES) or _EMBEDDED_AUDIO.search(content)
        ):
            raise InputError(f"{path}: contains audio, which is never sent")
        if _TOKEN.search(content):
            raise InputError(f"{path}: contains what looks like a token of the Hub: remove it")
        for string, description in private_strings.items():
            if content.find(string) >= 0:
                raise InputError(f"{path}: contains {description}: remove it from the file of the run")
        if start.startswith(_ZIP_SIGNATURE):
            self._check_archive(path, content, private_strings)
        is_text = Path(path).suffix.lower() in _TEXT_SUFFIXES
        if not self.package_files and is_text and (match := _LOCAL_PATH.search(content)):
            line = content[: match.start()].count(b"\n") + 1
            raise InputError(f"{path}: contains a local path (line {line}): remove it from the file of the run")

    def _check_archive(self, path: str, content: bytes | mmap.mmap, private_strings: Mapping[bytes, str]) -> None:
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                for member in archive.infolist():
                    self._check(f"{path}/{member.filename}", archive.read(member), private_strings)
        except (zipfile.BadZipFile, NotImplementedError, EOFError, zlib.error) as error:
            raise InputError(f"{path}: cannot be searched ({error})") from error

    def size(self, path: str) -> int:
        """Return the size of a file in bytes."""
        content = self.files[path]
        return len(content) if isinstance(content, bytes) else content.stat().st_size

    def write(self, folder: Path) -> None:
        """Write the files to a folder exactly as they would be sent."""
        for path, content in self.files.items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            with _open_bytes(content) as data:
                file.write_bytes(bytes(data))


def as_json(content: object) -> bytes:
    """Return JSON in the format of a run folder's files."""
    return (json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode()


def _private_strings(private_paths: frozenset[str]) -> dict[bytes, str]:
    """Return strings that no file may contain -> their description for the user."""
    from huggingface_hub import get_token

    strings: dict[bytes, str] = {}
    for folder in {str(Path.home()), os.getcwd(), *private_paths}:
        path = folder.rstrip("/\\")
        # A top-level folder such as /data may be part of an address: only a home folder is searched for.
        nested = len(Path(path).parts) > 2
        if Path(path).is_absolute() and (nested or path == str(Path.home())) and len(path) > 1:
            string = path if nested else f"{path}{os.sep}"
            strings[string.encode()] = strings[string.replace("\\", "\\\\").encode()] = "a local path"
    for token in (get_token(), os.environ.get("HF_TOKEN"), os.environ.get("HUGGING_FACE_HUB_TOKEN")):
        if token:
            strings[token.encode()] = "your token"
    return strings


@contextmanager
def _open_bytes(content: Content) -> Iterator[bytes | mmap.mmap]:
    """Open the bytes of a file without reading them all into memory."""
    if isinstance(content, bytes):
        yield content
        return
    with content.open("rb") as file:
        if not content.stat().st_size:
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data
