"""Audio in blocks: files and chunks of any size, decoded and resampled in bounded memory."""

from __future__ import annotations

import io
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
import soundfile
import soxr

from ..utils.errors import InputError
from .io import (
    SAMPLE_RATE,
    AudioError,
    Source,
    check_file,
    check_sampling_rate,
    find_ffmpeg,
    from_pcm16,
    mix_down,
    read_frames,
    remux_webm,
    short_reason,
)
from .webm import MAGIC

MAX_AMPLITUDE = 256.0
"""Float samples beyond this cannot have full scale at 1.0."""
# Samples in a block, of all channels: a damaged header may name a rate and channels that would fill the memory.
_MAX_BLOCK_SAMPLES = 2**22
# Larger WebM files are not read into memory; this is more than two hours of speech.
_MAX_WEBM_BYTES = 2**26
# ffmpeg writes Sun/NeXT .au, the simplest format whose header has the number of channels: six big-endian words.
_AU_HEADER_BYTES = 24


@dataclass(frozen=True)
class AudioReader:
    """An open file, with its rate in Hz.

    `read` returns the next n samples, fewer at the end: float32, shape (samples, channels).
    """

    name: str
    rate: int
    channels: int
    read: Callable[[int], np.ndarray]

    def blocks(self, seconds: float = 10.0) -> Iterator[np.ndarray]:
        """Read the file to its end in blocks of this length, shorter at the end and if there are many channels.

        Yields:
            Float32 samples at the rate of the file, full scale at 1.0, shape (samples, channels).

        Raises:
            AudioError: The file cannot be read or decoded further, has no samples, or has samples that are not audio.
        """
        size, done = max(1, min(round(seconds * self.rate), _MAX_BLOCK_SAMPLES // self.channels)), 0
        while len(block := self._next(size, done)):
            done += len(block)
            check_samples(block, self.name)
            yield block
        if not done:
            raise AudioError("empty", f"{self.name}: no samples in the file")

    def _next(self, size: int, done: int) -> np.ndarray:
        after = f"after {done / self.rate:.1f} s, it cannot be"
        with _readable_errors(self.name, f"{after} read"):
            try:
                return self.read(size)
            except soundfile.LibsndfileError as error:
                raise AudioError("unreadable", f"{self.name}: {after} decoded ({short_reason(str(error))})") from error


def check_samples(samples: np.ndarray, name: str) -> None:
    """Raise AudioError if floats of any shape are not finite or beyond `MAX_AMPLITUDE`."""
    low, high = (float(samples.min()), float(samples.max())) if samples.size else (0.0, 0.0)
    if low >= -MAX_AMPLITUDE and high <= MAX_AMPLITUDE:
        return
    if not (np.isfinite(low) and np.isfinite(high)):
        raise AudioError("unreadable", f"{name}: contains samples that are not finite")
    raise AudioError("unreadable", f"{name}: its samples reach {max(-low, high):.5g}, but full scale of floats is 1.0")


@contextmanager
def open_audio(source: Source, name: str | None = None) -> Iterator[AudioReader]:
    """Open a file of any size, or the bytes of one, in the formats of `audio.decode`, to read it block by block.

    `name` is the name of the file if bytes are passed. AudioError is raised if the file is missing, empty, cut short or
    a git-LFS pointer, or cannot be decoded.
    """
    name = name or ("sound" if isinstance(source, bytes) else str(source))
    with ExitStack() as stack:
        with _readable_errors(name):
            reader = _open_reader(stack, source, name)
        check_sampling_rate(reader.rate, name)
        yield reader


def blocks(
    source: Source, seconds: float = 10.0, rate: int = SAMPLE_RATE, name: str | None = None
) -> Iterator[np.ndarray]:
    """Decode a file block by block (each of about `seconds`), in bounded memory, and resample it to `rate` (Hz).

    The samples of one channel are bit for bit those of `audio.decode` (MP3: within 1e-7). Blocks are float32 with full
    scale at 1.0, shape (samples, channels). AudioError is raised as by `open_audio` and `AudioReader.blocks`.
    """
    with open_audio(source, name) as reader:
        resampler = Resampler(reader.rate, rate, reader.channels)
        for block in reader.blocks(seconds):
            if len(resampled := resampler.feed(block)):
                yield resampled
        if len(rest := resampler.finish()):
            yield rest


class Resampler:
    """`audio.resample` for chunks of any size, bit for bit, with a delay of at most 0.12 s (from 8 kHz on)."""

    def __init__(self, from_rate: int, to_rate: int = SAMPLE_RATE, channels: int = 1) -> None:
        same = from_rate == to_rate
        self._channels = channels
        self._stream = None if same else soxr.ResampleStream(from_rate, to_rate, channels, "float32", "HQ")

    def feed(self, samples: np.ndarray) -> np.ndarray:
        """Take float32 samples, shape (samples, channels), and return those that are ready, in the same shape."""
        return self._resample(samples, last=False)

    def finish(self) -> np.ndarray:
        """Return the remaining samples. Nothing can be fed afterwards."""
        return self._resample(np.zeros((0, self._channels), np.float32), last=True)

    def _resample(self, samples: np.ndarray, last: bool) -> np.ndarray:
        if self._stream is None:
            return samples
        # soxr accepts a single channel only as a one-dimensional array.
        chunk = np.ascontiguousarray(samples[:, 0] if self._channels == 1 else samples)
        resampled: np.ndarray = self._stream.resample_chunk(chunk, last=last)
        return resampled.reshape(-1, self._channels)


class MonoResampler:
    """Converts chunks of any size, at `rate` Hz, to mono at 16 kHz, with the result of `audio.decode` for the whole.

    `channel` is the channel that is used, from 0. None: the mean of all channels.
    """

    def __init__(self, rate: int, channel: int | None = None) -> None:
        check_sampling_rate(rate, "the stream")
        self._channel = channel
        self._resampler = Resampler(rate)

    def feed(self, chunk: np.ndarray) -> np.ndarray:
        """Take a chunk and return the samples that are ready: float32 at 16 kHz, shape (samples,).

        A chunk has shape (samples,) or (samples, channels), of int16 or floats with full scale at 1.0. InputError is
        raised if it has another type or shape, lacks the channel, or has samples that are not audio.
        """
        samples = np.asarray(chunk)
        if samples.ndim not in (1, 2) or (samples.ndim == 2 and not samples.shape[1]):
            raise InputError(f"the shape of a chunk is (samples,) or (samples, channels), not {samples.shape}")
        if samples.dtype == np.int16:
            samples = from_pcm16(samples)
        elif samples.dtype.kind != "f":
            raise InputError(f"the samples of a chunk are int16, or floats with full scale at 1.0, not {samples.dtype}")
        check_samples(samples, "a chunk")
        samples = samples.astype(np.float32, copy=False).reshape(len(samples), -1 if samples.size else 1)
        if self._channel is None or not len(samples):
            mono = mix_down(samples)
        elif self._channel in range(samples.shape[1]):
            mono = samples[:, self._channel]
        else:
            raise InputError(f"there is no channel {self._channel}: the audio has {samples.shape[1]} channels, from 0")
        return self._resampler.feed(mono[:, None])[:, 0]

    def finish(self) -> np.ndarray:
        """Return the remaining samples, shape (samples,)."""
        return self._resampler.finish()[:, 0]


@contextmanager
def _readable_errors(name: str, what: str = "cannot be read") -> Iterator[None]:
    try:
        yield
    except (OSError, TypeError, MemoryError) as error:
        message = "not enough memory" if isinstance(error, MemoryError) else str(error)
        reason = short_reason(getattr(error, "strerror", None) or message or type(error).__name__)
        raise AudioError("unreadable", f"{name}: {what} ({reason})") from error


def _open_reader(stack: ExitStack, source: Source, name: str) -> AudioReader:
    raw = stack.enter_context(io.BytesIO(source) if isinstance(source, bytes) else _open_file(Path(source)))
    check_file(raw, name)
    head = raw.read(12)
    is_small_webm = head[:4] == MAGIC and raw.seek(0, io.SEEK_END) <= _MAX_WEBM_BYTES
    raw.seek(0)
    if is_small_webm:
        raw = io.BytesIO(remux_webm(raw.read()))
    file = _NamelessFile(raw)
    try:
        decoder = stack.enter_context(soundfile.SoundFile(file))
    except soundfile.LibsndfileError as error:
        file.check()
        return stack.enter_context(_decode_ffmpeg(find_ffmpeg(head, name, str(error)), source, name))
    # soundfile seeks after each read of a seekable file, which breaks the MP3 decoder.
    decoder.seekable = lambda: False

    def read(frames: int) -> np.ndarray:
        samples = read_frames(decoder, frames)
        file.check()
        return samples

    return AudioReader(name, decoder.samplerate, decoder.channels, read)


def _open_file(path: Path) -> BinaryIO:
    if not path.exists():
        raise AudioError("unreadable", f"{path}: no such file")
    if not path.is_file():
        raise AudioError("unreadable", f"{path}: cannot be read (not a regular file)")
    return path.open("rb")


class _NamelessFile:
    # soundfile expects samples without a header in files named .raw, and libsndfile takes errors of the disk for the
    # end of the file.
    def __init__(self, file: BinaryIO) -> None:
        self._file: Any = file
        self._error: OSError | None = None
        self.seek, self.tell = file.seek, file.tell

    def readinto(self, buffer: Any) -> int:
        try:
            return int(self._file.readinto(buffer))
        except OSError as error:
            self._error = error
            return 0

    def check(self) -> None:
        if self._error is not None:
            raise self._error


@contextmanager
def _decode_ffmpeg(ffmpeg: str, source: Source, name: str) -> Iterator[AudioReader]:
    # Through a pipe at the file's own rate. Errors go to a file, because a second pipe could fill and block.
    with tempfile.TemporaryDirectory() as folder, Path(folder, "errors").open("w+b") as errors:
        path = Path(folder, "sound") if isinstance(source, bytes) else Path(source).absolute()
        if isinstance(source, bytes):
            path.write_bytes(source)
        # Other protocols are disabled, because a file may contain URLs.
        source_options = ["-protocol_whitelist", "file,pipe", "-i", f"file:{path}", "-map", "0:a:0"]
        command = [ffmpeg, "-nostdin", "-v", "error", *source_options, "-c:a", "pcm_f32be", "-f", "au", "pipe:1"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors) as process:
            assert process.stdout is not None
            try:
                yield _read_au(process.stdout, name, lambda: _error_of(process, errors))
            finally:
                process.kill()


def _error_of(process: subprocess.Popen[bytes], errors: BinaryIO) -> str | None:
    if process.wait() == 0:
        return None
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines()
    return short_reason(lines[-1] if lines else "no audio")


def _read_au(pipe: IO[bytes], name: str, get_error: Callable[[], str | None]) -> AudioReader:
    header = pipe.read(_AU_HEADER_BYTES)
    if len(header) < _AU_HEADER_BYTES or header[:4] != b".snd":
        raise AudioError("unreadable", f"{name}: ffmpeg cannot decode it ({get_error() or 'no audio'})")
    start, _, _, rate, channels = struct.unpack(">5I", header[4:])
    pipe.read(start - _AU_HEADER_BYTES)

    def read(frames: int) -> np.ndarray:
        content = pipe.read(frames * channels * 4)
        if len(content) < frames * channels * 4 and (reason := get_error()):
            raise AudioError("unreadable", f"{name}: ffmpeg cannot decode it ({reason})")
        complete = len(content) // (channels * 4) * channels
        return np.frombuffer(content, ">f4", complete).astype(np.float32).reshape(-1, channels)

    return AudioReader(name, rate, channels, read)
