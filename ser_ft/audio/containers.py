"""Headers of sound files: which formats are decoded, and how much sound a file must have."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple

from .errors import AudioError

SUFFIXES = frozenset(
    {".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf"}
)
FFMPEG_SUFFIXES = frozenset({".m4a", ".mp4", ".aac", ".webm", ".wma", ".amr", ".3gp", ".mov", ".mkv"})
_LFS_HEADER = b"version https://git-lfs"
# WAV, RF64, AIFF, Sun/NeXT, W64, CAF, FLAC, Ogg, NIST SPHERE and MPEG. libsndfile decodes more formats, in which nobody
# records speech, and prints to stdout for some of them.
_FORMATS = re.compile(
    rb"(RIFF|RIFX|RF64)....WAVE|FORM....AIF[FC]|\.snd|dns\.|riff\x2e\x91\xcf\x11|caff|fLaC|OggS|NIST_1A|\xff[\xe0-\xff]",
    re.DOTALL,
)
_ID3_BYTES = 10  # of the header of a tag
_MAX_TAGS = 16
# Recorders that write to a pipe put this size or more into a header of 32 bits.
_UNKNOWN_SIZE = 0x7FFF0000
_CHUNK_NAME = re.compile(rb"[A-Za-z0-9_ .-]{4}")
_MAX_CHUNKS = 1000
_MAX_CONTENT_BYTES = 2**16
_WAV_CHUNKS = (b"data", b"fmt ", b"fact")
_W64_RIFF = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"
_W64_DATA = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"


class Chunk(NamedTuple):
    """A part of a file: its name, and the position and the declared length of its content."""

    name: bytes
    start: int
    length: int


def check_file(file: BinaryIO, name: str) -> BinaryIO:
    """Return the file to decode, at its start: the same one, or its samples with a header that libsndfile understands.

    Raises:
        AudioError: The file is empty, a git-LFS pointer or cut short; not all of it is read.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    if not size:
        raise AudioError("empty", f"{name}: the file is empty")
    head = file.read(len(_LFS_HEADER))
    if head == _LFS_HEADER:
        raise AudioError("lfs-pointer", f"{name}: a git-LFS pointer, not audio: run `git lfs pull` in its repository")
    if head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        file = _check_wav(file, size, head[:4], name) or file
    elif (data := _find_data(file, head, size)) is not None:
        _check_length(data, size, name)
    file.seek(0)
    return file


def is_decodable(file: BinaryIO) -> bool:
    """Return whether a file has one of the formats that are decoded by libsndfile, after tags of ID3 if it has any."""
    start = 0
    for _ in range(_MAX_TAGS):
        file.seek(start)
        head = file.read(12)
        if head[:3] != b"ID3" or len(head) < _ID3_BYTES:
            break
        footer = _ID3_BYTES if head[5] & 0x10 else 0
        start += (
            _ID3_BYTES
            + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
            + footer
        )
    file.seek(0)
    return _FORMATS.match(head) is not None


def _check_length(data: Chunk, size: int, name: str) -> None:
    """Raise AudioError if more than a tenth, or 1024 bytes, of the samples are missing at the end of a file."""
    missing = data.start + data.length - size
    if missing > min(1024, data.length // 10):
        raise AudioError("cut-short", f"{name}: the file is cut short: download it again")


def _find_data(file: BinaryIO, head: bytes, size: int) -> Chunk | None:
    """Return the samples of a file, None if its header does not declare how many bytes they are."""
    if head[:4] == b"RIFX" or (head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC")):
        chunks: Iterable[Chunk] = _chunks(file, 12, size, ">4sI")
    elif head[:4] == b"caff":
        chunks = _chunks(file, 8, size, ">4sq", padding=1)
    elif head[:16] == _W64_RIFF:
        chunks = _chunks(file, 40, size, "<16sq", padding=8, counts_header=True)
    elif head[:4] in (b".snd", b"dns.") and len(head) >= 12:
        chunks = [Chunk(b"data", *struct.unpack(">II" if head[:1] == b"." else "<II", head[4:12]))]
    else:
        return None
    data = next((chunk for chunk in chunks if chunk.name in (b"data", b"SSND", _W64_DATA)), None)
    has_64_bits = head[:4] in (b"caff", b"riff")
    return data if data and (has_64_bits or data.length < _UNKNOWN_SIZE) else None


def _chunks(
    file: BinaryIO, position: int, size: int, header: str, padding: int = 2, counts_header: bool = False
) -> Iterator[Chunk]:
    """Yield the chunks from a position on; their contents are padded to a multiple of `padding` bytes."""
    width = struct.calcsize(header)
    for _ in range(_MAX_CHUNKS):
        file.seek(position)
        head = file.read(width)
        if len(head) < width:
            return
        name, length = struct.unpack(header, head)
        length -= width if counts_header else 0
        if length < 0:  # -1: not known
            return
        yield Chunk(name, position + width, length)
        position += width + length + -length % padding
        if position >= size:
            return


def _check_wav(file: BinaryIO, size: int, kind: bytes, name: str) -> BinaryIO | None:
    """Check the length of a WAV file, and return its sound with a new header if libsndfile would not find all of it.

    That is the case if the file was not closed, so that its header declares no samples; if a chunk of odd length is not
    padded; and if it is a BW64 file (ITU-R BS.2088), which has the chunks of RF64.
    """
    chunks, is_padded = _wav_chunks(file, size)
    data, sizes = chunks.get(b"data"), chunks.get(b"ds64")
    if data is None:
        return None
    declared = data.length
    if kind != b"RIFF" and sizes is not None and declared == 0xFFFFFFFF:
        declared = int.from_bytes(_content(file, sizes)[8:16], "little")
    is_open = declared == 0 and not _is_tiled(file, data.start, size)
    if declared < _UNKNOWN_SIZE or kind != b"RIFF":
        _check_length(Chunk(data.name, data.start, declared), size, name)
    if b"fmt " not in chunks or not (is_open or not is_padded or kind == b"BW64"):
        return None
    length = size - data.start if is_open else min(declared, size - data.start)
    parts = [(part, _content(file, chunks[part])) for part in (b"fmt ", b"fact") if part in chunks]
    header = b"".join(
        struct.pack("<4sI", part, len(content)) + content + bytes(len(content) % 2) for part, content in parts
    )
    total = 4 + len(header) + 8 + length
    if total >= 2**32:
        raise AudioError("too-large", f"{name}: a BW64 file of more than 4 GiB: cut it into shorter files")
    header = struct.pack("<4sI4s", b"RIFF", total, b"WAVE") + header + struct.pack("<4sI", b"data", length)
    return _Rewrapped(header, file, data.start, length)  # type: ignore[return-value]


def _wav_chunks(file: BinaryIO, size: int) -> tuple[dict[bytes, Chunk], bool]:
    """Return the chunks up to the samples by their names, and whether those of odd length are padded."""
    chunks: dict[bytes, Chunk] = {}
    position, is_padded = 12, True
    while position < size and len(chunks) < _MAX_CHUNKS:
        chunk = next(_chunks(file, position, size, "<4sI"), None)
        if chunk is None:
            break
        chunks.setdefault(chunk.name, chunk)
        if chunk.name == b"data":
            break
        position = chunk.start + chunk.length
        if chunk.length % 2:
            file.seek(position)
            following = file.read(5)
            is_next = following[:4] in _WAV_CHUNKS and following[1:] not in _WAV_CHUNKS
            is_padded = is_padded and not is_next
            position += not is_next
    return chunks, is_padded


def _content(file: BinaryIO, chunk: Chunk) -> bytes:
    file.seek(chunk.start)
    return file.read(min(chunk.length, _MAX_CONTENT_BYTES))


def _is_tiled(file: BinaryIO, position: int, size: int) -> bool:
    """Return whether the rest of a WAV file, which may be empty, consists of chunks."""
    while size - position > 1:
        chunk = next(_chunks(file, position, size, "<4sI"), None)
        if chunk is None or not _CHUNK_NAME.fullmatch(chunk.name):
            return False
        position = chunk.start + chunk.length + chunk.length % 2
    return position <= size + 1


class _Rewrapped:
    """A file that consists of a header and a part of another file."""

    def __init__(self, header: bytes, file: BinaryIO, start: int, length: int) -> None:
        self._header, self._file, self._start = header, file, start
        self._size = len(header) + length
        self._position = 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, length: int = -1) -> bytes:
        content = bytearray(max(0, min(self._size - self._position, length if length >= 0 else self._size)))
        return bytes(content[: self.readinto(content)])

    def readinto(self, buffer: Any) -> int:
        wanted = memoryview(buffer)[: max(0, self._size - self._position)]
        part = self._header[self._position : self._position + len(wanted)]
        wanted[: len(part)] = part
        count = len(part)
        if count < len(wanted):
            self._file.seek(self._start + self._position + count - len(self._header))
            count += self._file.readinto(wanted[count:])  # type: ignore[attr-defined]
        self._position += count
        return count
