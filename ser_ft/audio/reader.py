"""Open sound files, which are read block by block in bounded memory."""

from __future__ import annotations

import io
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import soundfile

from ..utils.errors import raise_machine_failure
from . import webm
from .containers import check_file, is_decodable
from .errors import AudioError, short_reason
from .ffmpeg import decode_by_ffmpeg, find_ffmpeg
from .samples import check_samples, check_sampling_rate, from_pcm16

Source: TypeAlias = "str | Path | bytes"
# Samples in a block, of all channels: a damaged header may name a rate and channels that would fill the memory.
_MAX_BLOCK_SAMPLES = 2**22
# Larger WebM files are not read into memory; this is more than two hours of speech.
_MAX_WEBM_BYTES = 2**26
# Formats whose headers declare how many frames there are, beside those whose lengths are checked in bytes, and more
# frames than any file has, which libsndfile reports if it does not know their number.
_COUNTED_FORMATS = frozenset({"FLAC", "CAF"})
# Their last samples depend on the size of the blocks that are read.
_UNSTABLE_SUBTYPES = frozenset({"DWVW_12", "DWVW_16", "DWVW_24", "DWVW_N"})
_UNKNOWN_FRAMES = 2**48
_END_SAMPLES = 2**14


@dataclass(frozen=True)
class AudioReader:
    """An open file, with its rate in Hz and its number of channels.

    `read` returns the next n samples, fewer at the end: float32, shape (samples, channels). `length` is the number of
    samples that the file declares (0: not known), which may be wrong; if `is_counted`, missing ones are an error.
    """

    name: str
    rate: int
    channels: int
    read: Callable[[int], np.ndarray]
    length: int = 0
    is_counted: bool = False

    def blocks(self, seconds: float = 10.0) -> Iterator[np.ndarray]:
        """Read the file to its end in blocks of this length, shorter at the end and if there are many channels.

        Yields:
            Float32 samples at the rate of the file, full scale at 1.0, shape (samples, channels).

        Raises:
            AudioError: The file cannot be read or decoded further, has no samples or fewer than it declares, or has
                samples that are not audio.
        """
        size, done = max(1, min(round(seconds * self.rate), _MAX_BLOCK_SAMPLES // self.channels)), 0
        while len(block := self._next(size, done)):
            done += len(block)
            yield block
        if self.is_counted and self.length - done > min(1024, self.length // 10):
            raise AudioError("cut-short", f"{self.name}: the file is cut short: download it again")
        if not done:
            raise AudioError("empty", f"{self.name}: no samples in the file")

    def _next(self, size: int, done: int) -> np.ndarray:
        after = f"after {done / self.rate:.1f} s, it cannot be"
        with _readable_errors(self.name, f"{after} read"):
            try:
                return self.read(self._block_size(size, done))
            except soundfile.LibsndfileError as error:
                raise_machine_failure(error)
                raise AudioError("unreadable", f"{self.name}: {after} decoded ({short_reason(str(error))})") from error

    def _block_size(self, size: int, done: int) -> int:
        # libsndfile clears the whole block at the end of a file: the end is looked for with a small one.
        if not self.length:
            return size
        return min(size, self.length - done if done < self.length else _END_SAMPLES)


@contextmanager
def open_audio(source: Source, name: str | None = None) -> Iterator[AudioReader]:
    """Open a file of any size, or the bytes of one, to read it block by block.

    WAV, AIFF (whatever the suffix), FLAC, Ogg, Opus, MP3 and Opus in WebM are decoded by libsndfile, what it refuses
    (m4a, AAC, ...) by ffmpeg if it is installed. `name` is the name of the file in messages if bytes are passed.

    Raises:
        AudioError: The file is missing, empty, cut short or a git-LFS pointer, or cannot be decoded.
    """
    name = name or ("sound" if isinstance(source, bytes) else str(source))
    with ExitStack() as stack:
        with _readable_errors(name):
            reader = _open_reader(stack, source if isinstance(source, bytes) else Path(source), name)
        check_sampling_rate(reader.rate, name)
        yield reader


def open_file(path: Path) -> BinaryIO:
    """Open a regular file; raise AudioError if that is not possible."""
    with _readable_errors(str(path)):
        # Opening a pipe or a device may block, and reading it may never end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise AudioError("unreadable", f"{path}: cannot be read (a folder, a pipe or a device, not a file)")
        return path.open("rb")


@contextmanager
def _readable_errors(name: str, what: str = "cannot be read") -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise AudioError("not-found", f"{name}: no such file") from error
    except (OSError, TypeError) as error:
        raise_machine_failure(error)
        reason = short_reason(getattr(error, "strerror", None) or str(error) or type(error).__name__)
        raise AudioError("unreadable", f"{name}: {what} ({reason})") from error


def _open_reader(stack: ExitStack, source: bytes | Path, name: str) -> AudioReader:
    raw = stack.enter_context(io.BytesIO(source) if isinstance(source, bytes) else open_file(source))
    head = raw.read(4)
    if head == webm.MAGIC and raw.seek(0, io.SEEK_END) <= _MAX_WEBM_BYTES:
        raw.seek(0)
        raw = io.BytesIO(remux_webm(raw.read()))
    checked = check_file(raw, name)
    file = _LibsndfileInput(checked)
    try:
        if not is_decodable(checked):
            raise soundfile.LibsndfileError(1)  # unknown format
        decoder = stack.enter_context(soundfile.SoundFile(file))
        if decoder.subtype in _UNSTABLE_SUBTYPES:
            raise soundfile.LibsndfileError(1)
    except soundfile.LibsndfileError as error:
        file.check()
        raise_machine_failure(error)
        decoded = stack.enter_context(decode_by_ffmpeg(find_ffmpeg(name, error.error_string), source, name))
        return AudioReader(name, *decoded)
    # soundfile seeks after each read of a seekable file, which breaks the MP3 decoder.
    decoder.seekable = lambda: False
    is_pcm16 = decoder.subtype == "PCM_16"

    def read(frames: int) -> np.ndarray:
        # int16 is converted here: the same values as from libsndfile, in a third of the time.
        samples: np.ndarray = decoder.read(frames, dtype="int16" if is_pcm16 else "float32", always_2d=True)
        file.check()
        if is_pcm16:
            return from_pcm16(samples)
        check_samples(samples, name)
        return samples

    is_counted = decoder.format in _COUNTED_FORMATS and decoder.frames < _UNKNOWN_FRAMES
    return AudioReader(name, decoder.samplerate, decoder.channels, read, decoder.frames, is_counted)


def remux_webm(content: bytes) -> bytes:
    """Convert Opus in WebM, which browsers record, to Ogg, which libsndfile reads; return other content unchanged."""
    return webm.as_ogg(content) or content


class _LibsndfileInput:
    # soundfile expects samples without a header in files that have a name ending in .raw, prints exceptions of its
    # input, and libsndfile takes errors of the disk for the end of the file.
    def __init__(self, file: BinaryIO) -> None:
        self._file: Any = file
        self._error: Exception | None = None
        self.tell = file.tell

    def readinto(self, buffer: Any) -> int:
        return self._call(self._file.readinto, buffer)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._call(self._file.seek, offset, whence)

    def _call(self, method: Callable[..., int], *arguments: Any) -> int:
        try:
            return method(*arguments)
        except ValueError:  # a damaged header names a position before the start of the file
            return 0
        except Exception as error:
            self._error = error
            return 0

    def check(self) -> None:
        if self._error is not None:
            raise self._error
