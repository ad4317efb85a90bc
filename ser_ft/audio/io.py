"""Decoding of sound files to float32 mono at 16 kHz, and 16-bit WAV files in memory."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .errors import AudioError
from .filters import SAMPLE_RATE
from .mono import MonoConverter
from .reader import AudioReader, Source, open_audio, open_file
from .samples import from_pcm16, to_pcm16

MAX_SECONDS = 1800.0
"""Longer recordings are read in blocks only, not as a whole."""
MAX_BYTES = 128 * 1024**2
"""Larger files are not read into memory."""
HEADER_BYTES = 44
LONG_SECONDS = 120.0
"""Longer recordings are decoded one at a time, whatever the number of threads, to limit the memory."""
_long_decoding = threading.Lock()


def decode(source: Source, name: str | None = None) -> np.ndarray:
    """Decode a file, or the bytes of one, of up to half an hour to one channel at 16 kHz.

    The samples are those of `decode_blocks`, bit for bit.

    Returns:
        Float32 samples, shape (samples,), full scale at 1.0.

    Raises:
        AudioError: The file is missing, empty, cut short, too long or a git-LFS pointer, or cannot be decoded.
    """
    return decode_clip(source, name).samples


class DecodedClip(NamedTuple):
    """Samples as `decode` returns them, the file's own rate in Hz, and the part without digital silence at the ends."""

    samples: np.ndarray
    rate: int
    sound: slice


def decode_clip(
    source: Source, name: str | None = None, before_long: Callable[[], object] = lambda: None
) -> DecodedClip:
    """Decode as `decode` does, and return what was learned about the file as well.

    `before_long` is called, and may wait, when a recording proves to be longer than two minutes.
    """
    pieces: list[np.ndarray] = []
    with ExitStack() as stack:
        reader = stack.enter_context(open_audio(source, name))
        converter = MonoConverter(reader.rate, name=reader.name)
        samples, whole = 0, None
        for piece in _mono_blocks(reader, converter, 10.0):
            start, samples = samples, samples + len(piece)
            if samples > MAX_SECONDS * SAMPLE_RATE:
                limit = f"longer than {MAX_SECONDS / 60:.0f} minutes: cut it into shorter files"
                raise AudioError("too-large", f"{reader.name}: {limit}")
            if whole is None and samples > LONG_SECONDS * SAMPLE_RATE:
                before_long()
                stack.enter_context(_long_decoding)
                # Only what is written takes memory, and all of it is given back; of many pieces, threads keep some.
                whole = np.empty(int(MAX_SECONDS * SAMPLE_RATE), np.float32)
                whole[:start] = np.concatenate(pieces)
                pieces.clear()
            if whole is None:
                pieces.append(piece)
            else:
                whole[start:samples] = piece
        if whole is None:
            whole = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        return DecodedClip(whole[:samples], reader.rate, converter.sound)


def decode_blocks(
    source: Source, seconds: float = 10.0, channel: int | None = None, name: str | None = None
) -> Iterator[np.ndarray]:
    """Decode a file of any length, or the bytes of one, block by block in bounded memory.

    The formats are those of `open_audio`, and the conversion that of `MonoConverter`. If a later part of the file is
    damaged, the blocks before it are yielded first.

    Args:
        source: A path, or the bytes of a file.
        seconds: Approximate length of a block.
        channel: The channel that is used, from 0. None: the mean of all channels, or one of them if they cancel.
        name: The name of the file in messages, if bytes are passed.

    Yields:
        Float32 samples at 16 kHz, shape (samples,), full scale at 1.0.

    Raises:
        AudioError: As raised by `open_audio` and `AudioReader.blocks`, or the file does not have this channel.
    """
    with open_audio(source, name) as reader:
        yield from _mono_blocks(reader, MonoConverter(reader.rate, channel, reader.name), seconds)


def _mono_blocks(reader: AudioReader, converter: MonoConverter, seconds: float) -> Iterator[np.ndarray]:
    # A block is converted when the next one is known, so that a short file is converted in one piece.
    block = None
    try:
        for next_block in reader.blocks(seconds):
            if block is not None:
                yield converter.convert(block)
            block = next_block
    except AudioError:
        if block is not None:
            yield converter.convert(block)
        raise
    assert block is not None
    yield converter.convert(block, last=True)


def to_wav(samples: np.ndarray, rate: int = SAMPLE_RATE) -> bytes:
    """Return the bytes of a 16-bit WAV file with mono samples (float or int16), shape (samples,)."""
    pcm = samples.astype("<i2", copy=False) if samples.dtype.kind == "i" else to_pcm16(samples)
    return _header(pcm.nbytes, rate) + pcm.tobytes()


def _header(size: int, rate: int) -> bytes:
    return struct.pack(
        "<4sI8sIHHIIHH4sI", b"RIFF", 36 + size, b"WAVEfmt ", 16, 1, 1, rate, rate * 2, 2, 16, b"data", size
    )


def from_wav(wav: bytes) -> np.ndarray:
    """Read the bytes of a WAV file, such as those of a prepared table: float32 samples at 16 kHz, shape (samples,).

    What `to_wav` wrote is read as it is, without a decoder or filter; any other file is decoded by `decode`.
    """
    size = len(wav) - HEADER_BYTES
    if size <= 0 or size % 2 or wav[:HEADER_BYTES] != _header(size, SAMPLE_RATE):
        return decode(wav)
    return from_pcm16(np.frombuffer(wav, dtype="<i2", offset=HEADER_BYTES))


def read_file(path: Path) -> bytes:
    """Return the bytes of a regular file of up to 128 MiB; raise AudioError if that is not possible."""
    with open_file(path) as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise AudioError("too-large", f"{path}: larger than {MAX_BYTES / 2**20:.0f} MiB: cut it into shorter files")
    return content
