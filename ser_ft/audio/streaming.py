"""Sound piece by piece: files from the disk and chunks from a microphone, in bounded memory."""

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
"""Samples beyond this are not full scale at 1.0: integers that nothing divided, or what is no sound at all."""
# Numbers in a block: what a damaged header claims of rate and channels would fill the memory.
_MOST_NUMBERS = 2**22
# Bytes of a WebM file that is taken into memory: two hours and more of speech.
_LARGEST_WEBM = 2**26
# Sun/NeXT .au, the plainest header that says how many channels there are: six big-endian words.
_AU_HEADER = 24


@dataclass(frozen=True)
class AudioReader:
    """An open file.

    Attributes:
        name: of the file. rate: sampling rate in Hz. channels: how many.
        read: the next so many samples, fewer at the end: float32, shape (samples, channels).
    """

    name: str
    rate: int
    channels: int
    read: Callable[[int], np.ndarray]

    def blocks(self, seconds: float = 10.0) -> Iterator[np.ndarray]:
        """Read on to the end.

        Args:
            seconds: length of a block; the last one is shorter, and so are all where there are many channels.

        Yields:
            float32 samples at the file's own rate, full scale at 1.0, shape (samples, channels).

        Raises:
            AudioError: the file cannot be read or decoded any further, or holds no samples, or some that are no sound.
        """
        size, done = max(1, min(round(seconds * self.rate), _MOST_NUMBERS // self.channels)), 0
        while len(block := self._next(size, done)):
            done += len(block)
            check_samples(block, self.name)
            yield block
        if not done:
            raise AudioError("empty", f"{self.name}: no samples in the file")

    def _next(self, size: int, done: int) -> np.ndarray:
        after = f"after {done / self.rate:.1f} s, it cannot be"
        with _explained(self.name, f"{after} read"):
            try:
                return self.read(size)
            except soundfile.LibsndfileError as error:
                raise AudioError("unreadable", f"{self.name}: {after} decoded ({short_reason(str(error))})") from error


def check_samples(samples: np.ndarray, name: str) -> None:
    """Refuse floats, of any shape, that are no samples of sound with full scale at 1.0.

    Raises:
        AudioError: some are no numbers, or beyond `MAX_AMPLITUDE`.
    """
    low, high = (float(samples.min()), float(samples.max())) if samples.size else (0.0, 0.0)
    if low >= -MAX_AMPLITUDE and high <= MAX_AMPLITUDE:
        return
    if not (np.isfinite(low) and np.isfinite(high)):
        raise AudioError("unreadable", f"{name}: holds samples that are no numbers")
    raise AudioError("unreadable", f"{name}: its samples reach {max(-low, high):.5g}: full scale of floats is 1.0")


@contextmanager
def open_audio(source: Source, name: str | None = None) -> Iterator[AudioReader]:
    """Open a file to read it block by block; of any size, and otherwise what `audio.decode` reads.

    Args:
        source: a path, or the bytes of a whole file.
        name: the file's name where bytes are given, for errors and to tell what kind of file it was meant to be.

    Raises:
        AudioError: the file is missing, empty, cut short, a git-LFS pointer, or not to be decoded.
    """
    name = name or ("sound" if isinstance(source, bytes) else str(source))
    with ExitStack() as stack:
        with _explained(name):
            sound = _opened(stack, source, name)
        check_sampling_rate(sound.rate, name)
        yield sound


def blocks(
    source: Source, seconds: float = 10.0, rate: int = SAMPLE_RATE, name: str | None = None
) -> Iterator[np.ndarray]:
    """Decode a file block by block, in bounded memory, and resample it.

    One channel comes out bit for bit as `audio.decode` has it (mp3: within 1e-7).

    Args:
        source: a path, or the bytes of a whole file.
        seconds: length of a block, about.
        rate: sampling rate of the answer, in Hz.
        name: the file's name where bytes are given.

    Yields:
        float32 samples, full scale at 1.0, shape (samples, channels).

    Raises:
        AudioError: as `open_audio`, and where the file cannot be decoded to its end.
    """
    with open_audio(source, name) as sound:
        resampler = Resampler(sound.rate, rate, sound.channels)
        for block in sound.blocks(seconds):
            if len(resampled := resampler.feed(block)):
                yield resampled
        if len(rest := resampler.finish()):
            yield rest


class Resampler:
    """`audio.resample` for chunks of any size: the same comes out, bit for bit, 0.12 s late at most (from 8 kHz on)."""

    def __init__(self, from_rate: int, to_rate: int = SAMPLE_RATE, channels: int = 1) -> None:
        same = from_rate == to_rate
        self._channels = channels
        self._stream = None if same else soxr.ResampleStream(from_rate, to_rate, channels, "float32", "HQ")

    def feed(self, samples: np.ndarray) -> np.ndarray:
        """Take float32 samples, shape (samples, channels), and return what is ready, of the same shape."""
        return self._resample(samples, last=False)

    def finish(self) -> np.ndarray:
        """Return the rest; nothing can be fed after it."""
        return self._resample(np.zeros((0, self._channels), np.float32), last=True)

    def _resample(self, samples: np.ndarray, last: bool) -> np.ndarray:
        if self._stream is None:
            return samples
        # soxr takes one channel as a flat array only.
        given = np.ascontiguousarray(samples[:, 0] if self._channels == 1 else samples)
        resampled: np.ndarray = self._stream.resample_chunk(given, last=last)
        return resampled.reshape(-1, self._channels)


class MonoResampler:
    """Turns chunks of any size into mono at 16 kHz: what comes out is what `audio.decode` makes of the whole."""

    def __init__(self, rate: int, channel: int | None = None) -> None:
        """Set it up.

        Args:
            rate: sampling rate of the chunks, in Hz.
            channel: the one that is kept, from 0; None mixes all of them.
        """
        check_sampling_rate(rate, "the stream")
        self._channel = channel
        self._resampler = Resampler(rate)

    def feed(self, chunk: np.ndarray) -> np.ndarray:
        """Take a chunk and return the samples that are ready.

        Args:
            chunk: float with full scale at 1.0, or int16; shape (samples,) or (samples, channels).

        Returns:
            float32 at 16 kHz, shape (samples,).

        Raises:
            InputError: it is of another type or shape, has no such channel, or holds what is no sound.
        """
        samples = np.asarray(chunk)
        if samples.ndim not in (1, 2) or (samples.ndim == 2 and not samples.shape[1]):
            raise InputError(f"a chunk has the shape (samples,) or (samples, channels), not {samples.shape}")
        if samples.dtype == np.int16:
            samples = from_pcm16(samples)
        elif samples.dtype.kind != "f":
            raise InputError(f"the samples of a chunk are int16, or float with full scale at 1.0, not {samples.dtype}")
        check_samples(samples, "a chunk")
        samples = samples.astype(np.float32, copy=False).reshape(len(samples), -1 if samples.size else 1)
        return self._resampler.feed(self._pick(samples)[:, None])[:, 0]

    def finish(self) -> np.ndarray:
        """Return the rest of the samples, shape (samples,)."""
        return self._resampler.finish()[:, 0]

    def _pick(self, samples: np.ndarray) -> np.ndarray:
        if self._channel is None or not len(samples):
            return mix_down(samples)
        if self._channel not in range(samples.shape[1]):
            raise InputError(f"there is no channel {self._channel}: the sound has {samples.shape[1]}, from 0")
        return samples[:, self._channel]


@contextmanager
def _explained(name: str, what: str = "cannot be read") -> Iterator[None]:
    """Turn what goes wrong with a disk, the memory or a decoder's arguments into one line on the file."""
    try:
        yield
    except (OSError, TypeError, MemoryError) as error:
        why = "it takes more memory than there is" if isinstance(error, MemoryError) else str(error)
        said = short_reason(getattr(error, "strerror", None) or why or type(error).__name__)
        raise AudioError("unreadable", f"{name}: {what} ({said})") from error


def _opened(stack: ExitStack, source: Source, name: str) -> AudioReader:
    raw = stack.enter_context(io.BytesIO(source) if isinstance(source, bytes) else _open(Path(source)))
    check_file(raw, name)
    head = raw.read(12)
    raw.seek(0)
    if head[:4] == MAGIC and raw.seek(0, io.SEEK_END) <= _LARGEST_WEBM:
        raw.seek(0)
        raw = io.BytesIO(remux_webm(raw.read()))
    raw.seek(0)
    given = _Given(raw)
    try:
        file = stack.enter_context(soundfile.SoundFile(given))
    except soundfile.LibsndfileError as error:
        given.check()
        return stack.enter_context(_through_ffmpeg(find_ffmpeg(head, name, str(error)), source, name))
    # soundfile seeks after each read where it can, over which an mp3 decoder stumbles.
    file.seekable = lambda: False

    def read(frames: int) -> np.ndarray:
        samples = read_frames(file, frames)
        given.check()
        return samples

    return AudioReader(name, file.samplerate, file.channels, read)


def _open(path: Path) -> BinaryIO:
    if not path.exists():
        raise AudioError("unreadable", f"{path}: no such file")
    if not path.is_file():
        raise AudioError("unreadable", f"{path}: cannot be read (no regular file)")
    return path.open("rb")


class _Given:
    """A file as soundfile is handed it.

    It has no name, since soundfile takes what is called .raw for samples without a header. An error of the disk, which
    libsndfile would take for the file's end, is kept.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file: Any = file
        self._error: OSError | None = None
        self.seek, self.tell = file.seek, file.tell

    def readinto(self, buffer: Any) -> int:
        """Read, as files do."""
        try:
            return int(self._file.readinto(buffer))
        except OSError as error:
            self._error = error
            return 0

    def check(self) -> None:
        """Raise the error that there was."""
        if self._error is not None:
            raise self._error


@contextmanager
def _through_ffmpeg(ffmpeg: str, source: Source, name: str) -> Iterator[AudioReader]:
    """Decode through a pipe, at the file's own rate; what ffmpeg complains of goes to a file: a full pipe blocks."""
    with tempfile.TemporaryDirectory() as folder, Path(folder, "errors").open("w+b") as errors:
        path = Path(folder, "sound") if isinstance(source, bytes) else Path(source).absolute()
        if isinstance(source, bytes):
            path.write_bytes(source)
        # From files only, since what they hold may name addresses.
        given = ["-protocol_whitelist", "file,pipe", "-i", f"file:{path}", "-map", "0:a:0"]
        wanted = ["-c:a", "pcm_f32be", "-f", "au", "pipe:1"]
        command = [ffmpeg, "-nostdin", "-v", "error", *given, *wanted]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors) as process:
            assert process.stdout is not None
            try:
                yield _read_au(process.stdout, name, lambda: _complaint(process, errors))
            finally:
                process.kill()


def _complaint(process: subprocess.Popen[bytes], errors: BinaryIO) -> str | None:
    """Wait for a decoder whose output has ended; return what it says went wrong, None where nothing did."""
    if process.wait() == 0:
        return None
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines()
    return short_reason(lines[-1] if lines else "no sound")


def _read_au(pipe: IO[bytes], name: str, complaint: Callable[[], str | None]) -> AudioReader:
    header = pipe.read(_AU_HEADER)
    if len(header) < _AU_HEADER or header[:4] != b".snd":
        raise AudioError("unreadable", f"{name}: ffmpeg cannot decode it ({complaint() or 'no sound'})")
    start, _, _, rate, count = struct.unpack(">5I", header[4:])
    pipe.read(start - _AU_HEADER)

    def read(frames: int) -> np.ndarray:
        content = pipe.read(frames * count * 4)
        if len(content) < frames * count * 4 and (why := complaint()):
            raise AudioError("unreadable", f"{name}: ffmpeg cannot decode it ({why})")
        whole = len(content) // (count * 4) * count
        return np.frombuffer(content, ">f4", whole).astype(np.float32).reshape(-1, count)

    return AudioReader(name, rate, count, read)
