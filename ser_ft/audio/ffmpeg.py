"""Decoding by ffmpeg, of what libsndfile does not decode."""

from __future__ import annotations

import os
import selectors
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..utils.atomic import temporary_folder
from .errors import AudioError, short_reason

# Containers of recordings. Others are not read: playlists, for example, name further files.
_DEMUXERS = "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,flac,flv,matroska,mov,mp3,mpeg,mpegts,ogg,tta,w64,wav,wv"
_TIMEOUT = 60.0
"""Seconds without output after which ffmpeg is ended."""
# ffmpeg writes Sun/NeXT .au, the simplest format whose header has the number of channels: six big-endian words.
_AU_HEADER_BYTES = 24


def find_ffmpeg(name: str, reason: str) -> str:
    """Return the path of ffmpeg, for a file that libsndfile refuses for a reason; raise AudioError if there is none."""
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        hint = "install ffmpeg, which reads more formats, or convert it to wav, flac, ogg or mp3"
        raise AudioError("unreadable", f"{name}: not a sound file that can be decoded ({short_reason(reason)}): {hint}")
    return ffmpeg


@contextmanager
def decode_by_ffmpeg(
    ffmpeg: str, source: bytes | Path, name: str
) -> Iterator[tuple[int, int, Callable[[int], np.ndarray]]]:
    """Decode a file, or the bytes of one, through a pipe at the file's own rate.

    Yields:
        The rate in Hz, the number of channels, and a function that returns the next n samples, fewer at the end:
        float32, shape (samples, channels).

    Raises:
        AudioError: ffmpeg cannot decode it, or writes nothing for a minute.
    """
    # Errors go to a file, because a second pipe could fill and block. The index of an m4a may be at its end, so that
    # ffmpeg cannot read bytes from a pipe.
    with temporary_folder() as folder, Path(folder, "errors").open("w+b") as errors:
        path = Path(folder, "sound") if isinstance(source, bytes) else source.absolute()
        if isinstance(source, bytes):
            path.write_bytes(source)
        # Other protocols are disabled, because a file may contain URLs.
        allowed = ["-protocol_whitelist", "file,pipe", "-format_whitelist", _DEMUXERS]
        command = [ffmpeg, "-nostdin", "-v", "error", *allowed, "-i", f"file:{path}", "-map", "0:a:0"]
        command += ["-c:a", "pcm_f32be", "-f", "au", "pipe:1"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors) as process:
            try:
                yield _Output(process, errors, name).open()
            finally:
                process.kill()


class _Output:
    """The sound that ffmpeg writes to a pipe, in the format .au."""

    def __init__(self, process: subprocess.Popen[bytes], errors: BinaryIO, name: str) -> None:
        assert process.stdout is not None
        self._process, self._pipe, self._errors, self._name = process, process.stdout.fileno(), errors, name
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._pipe, selectors.EVENT_READ)

    def open(self) -> tuple[int, int, Callable[[int], np.ndarray]]:
        """Read the header; return the rate, the number of channels, and the function that reads samples."""
        header = self._read(_AU_HEADER_BYTES)
        start, _, _, rate, channels = struct.unpack(">5I", header[4:]) if len(header) == _AU_HEADER_BYTES else [0] * 5
        if header[:4] != b".snd" or not channels:
            raise self._error(self._failure() or "no audio")
        self._read(start - _AU_HEADER_BYTES)

        def read(frames: int) -> np.ndarray:
            content = self._read(frames * channels * 4)
            if len(content) < frames * channels * 4 and (reason := self._failure()):
                raise self._error(reason)
            complete = len(content) // (channels * 4) * channels
            return np.frombuffer(content, ">f4", complete).astype(np.float32).reshape(-1, channels)

        return rate, channels, read

    def _read(self, size: int) -> bytearray:
        content = bytearray()
        while len(content) < size:
            if not self._selector.select(_TIMEOUT):
                self._process.kill()
                raise self._error(f"no output for {_TIMEOUT:.0f} s")
            piece = os.read(self._pipe, min(size - len(content), 2**20))
            if not piece:
                break
            content += piece
        return content

    def _failure(self) -> str | None:
        if self._process.wait() == 0:
            return None
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return short_reason(lines[-1]) if lines else "no audio"

    def _error(self, reason: str) -> AudioError:
        return AudioError("unreadable", f"{self._name}: not a sound file that can be decoded (by ffmpeg: {reason})")
