"""The one door for sound: decode, check, mix down, resample to float32 mono at 16 kHz."""

from __future__ import annotations

import io
import shutil
import stat
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import BinaryIO, Literal, TypeAlias

import numpy as np
import soundfile
import soxr

from ..utils.errors import InputError
from . import webm

SAMPLE_RATE = 16_000
SUFFIXES = frozenset(
    {".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf"}
)
FFMPEG_SUFFIXES = frozenset({".m4a", ".mp4", ".aac", ".webm", ".wma", ".amr", ".3gp", ".mov", ".mkv"})
# Digital silence and the noise of a 16-bit converter: a peak below -60 dBFS holds no speech.
SILENCE_PEAK = 10 ** (-60 / 20)
LFS_HEADER = b"version https://git-lfs"
MAX_BYTES = 2 * 1024**3
HEADER_BYTES = 44
# What a broken header claims outside of this would fill the memory when it is resampled.
_RATES = range(1000, 1_000_001)
# Recorders that write to a pipe leave this size or more in the header.
_UNKNOWN_SIZE = 0x7FFF0000

Source: TypeAlias = "str | Path | bytes"


class AudioError(InputError):
    """Sound that cannot be used.

    `reason` is one of: empty, too-short, unreadable, cut-short, silent, lfs-pointer, too-large.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def decode(source: Source, rate: int = SAMPLE_RATE, name: str | None = None) -> np.ndarray:
    """Decode a file's path or its bytes, mix it down to one channel and resample it.

    wav, aiff (also when it is named .wav), flac, ogg, opus, mp3 and Opus in WebM are read by libsndfile; the rest (m4a,
    AAC, ...) through ffmpeg where one is installed.

    Args:
        source: a path, or the bytes of a whole file.
        rate: sampling rate of the answer, in Hz.
        name: the file's name where bytes are given, for errors and to tell what kind of file it was meant to be.

    Returns:
        float32 samples, shape (samples,), full scale at 1.0.

    Raises:
        AudioError: the file is missing, empty, cut short, too large, a git-LFS pointer, or not to be decoded.
    """
    return decode_with_rate(source, rate, name)[0]


def decode_with_rate(source: Source, rate: int = SAMPLE_RATE, name: str | None = None) -> tuple[np.ndarray, int | None]:
    """Decode as `decode`; return the samples, and the sampling rate (Hz) of the file itself, None through ffmpeg."""
    content = source if isinstance(source, bytes) else read_file(Path(source))
    name = name or ("sound" if isinstance(source, bytes) else str(source))
    check_file(io.BytesIO(content), name)
    try:
        samples, own_rate = _read_samples(remux_webm(content))
        found: int | None = own_rate
    except soundfile.LibsndfileError as error:
        samples, own_rate = _through_ffmpeg(content, name, rate, str(error))
        found = None
    if not len(samples):
        raise AudioError("empty", f"{name}: no samples in the file")
    check_sampling_rate(own_rate, name)
    mono = mix_down(samples)
    if not np.isfinite(mono).all():
        raise AudioError("unreadable", f"{name}: holds samples that are no numbers")
    return resample(mono, own_rate, rate), found


def remux_webm(content: bytes) -> bytes:
    """Return a file as libsndfile reads it: Opus in WebM, which browsers record, in Ogg; all else as it is."""
    return (webm.as_ogg(content) if content[:4] == webm.MAGIC else None) or content


def _read_samples(content: bytes) -> tuple[np.ndarray, int]:
    with soundfile.SoundFile(io.BytesIO(content)) as file:
        # GSM 6.10 in WAV cannot be sought in, and is then read by the number of its frames.
        return read_frames(file, -1 if file.seekable() else file.frames), file.samplerate


def read_frames(file: soundfile.SoundFile, frames: int) -> np.ndarray:
    """Read on in an open file, to its end where `frames` is -1: float32, shape (samples, channels)."""
    if file.subtype == "PCM_16":
        # The same numbers as libsndfile's own conversion to float, in a third of its time.
        return from_pcm16(file.read(frames, dtype="int16", always_2d=True))
    samples: np.ndarray = file.read(frames, dtype="float32", always_2d=True)
    return samples


def mix_down(samples: np.ndarray) -> np.ndarray:
    """Return the mean of the channels: float32, shape (samples, channels) -> (samples,)."""
    mixed: np.ndarray = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1, dtype=np.float32)
    return mixed


def check_file(file: BinaryIO, name: str) -> None:
    """Look at a file before it is decoded, without reading all of it.

    Raises:
        AudioError: it is empty, a git-LFS pointer, or ends before its sound does.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    if not size:
        raise AudioError("empty", f"{name}: the file is empty")
    if file.read(len(LFS_HEADER)) == LFS_HEADER:
        raise AudioError("lfs-pointer", f"{name}: a git-LFS pointer, not sound: run `git lfs pull` where it came from")
    if _is_cut_short(file, size):
        raise AudioError("cut-short", f"{name}: the file ends before its sound does: fetch it again")
    file.seek(0)


def check_sampling_rate(rate: int, name: str) -> None:
    """Raise AudioError where a file's sampling rate, in Hz, cannot be true."""
    if rate not in _RATES:
        raise AudioError("unreadable", f"{name}: its header claims a sampling rate of {rate} Hz")


def resample(samples: np.ndarray, from_rate: int, to_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Resample float samples, shape (samples,), from one rate (Hz) to another with soxr's high quality filter."""
    if from_rate == to_rate:
        return np.ascontiguousarray(samples, dtype=np.float32)
    resampled: np.ndarray = soxr.resample(
        np.ascontiguousarray(samples, dtype=np.float32), from_rate, to_rate, quality="HQ"
    )
    return resampled


def is_silent(samples: np.ndarray) -> bool:
    """Say whether the samples, of any shape, hold nothing above -60 dBFS once a constant offset is taken off."""
    return len(samples) == 0 or float(np.ptp(samples)) / 2 < SILENCE_PEAK


def to_pcm16(samples: np.ndarray) -> np.ndarray:
    """Round float samples, full scale at 1.0, to int16; what is above full scale is clipped."""
    scaled = samples * np.float32(32768)
    np.clip(np.rint(scaled, out=scaled), -32768, 32767, out=scaled)
    return scaled.astype("<i2")


def from_pcm16(samples: np.ndarray) -> np.ndarray:
    """Turn int16 samples, of any shape, into float32 with full scale at 1.0."""
    return samples * np.float32(1 / 32768)


def to_wav(samples: np.ndarray, rate: int = SAMPLE_RATE) -> bytes:
    """Write mono samples (float, or int16 as they are), shape (samples,), as the bytes of a 16-bit WAV file."""
    pcm = samples.astype("<i2", copy=False) if samples.dtype.kind == "i" else to_pcm16(samples)
    return _header(pcm.nbytes, rate) + pcm.tobytes()


def _header(size: int, rate: int) -> bytes:
    """Write the header of a 16-bit mono WAV file with `size` bytes of samples."""
    return struct.pack(
        "<4sI8sIHHIIHH4sI", b"RIFF", 36 + size, b"WAVEfmt ", 16, 1, 1, rate, rate * 2, 2, 16, b"data", size
    )


def from_wav(wav: bytes) -> np.ndarray:
    """Read the prepared table's WAV bytes back: float32 samples at 16 kHz, shape (samples,).

    Bytes that `to_wav` wrote are read straight from memory; any other file goes through `decode`.
    """
    size = len(wav) - HEADER_BYTES
    if size <= 0 or size % 2 or wav[:HEADER_BYTES] != _header(size, SAMPLE_RATE):
        return decode(wav)
    samples = np.frombuffer(wav, dtype="<i2", offset=HEADER_BYTES).astype(np.float32)
    samples *= np.float32(1 / 32768)
    return samples


def read_file(path: Path) -> bytes:
    """Return a file's bytes.

    Raises:
        AudioError: there is no such file, it is a folder, a pipe or a device, cannot be read, or is larger than 2 GiB.
    """
    try:
        about = path.stat()
        # A pipe or a device may keep whoever opens it waiting, or never end.
        if not stat.S_ISREG(about.st_mode):
            raise AudioError("unreadable", f"{path}: cannot be read (not a file, but a folder, a pipe or a device)")
        if about.st_size > MAX_BYTES:
            raise AudioError("too-large", f"{path}: larger than 2 GiB: cut it into shorter files")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise AudioError("unreadable", f"{path}: no such file") from error
    except OSError as error:
        raise AudioError("unreadable", f"{path}: cannot be read ({error.strerror})") from error


def _through_ffmpeg(content: bytes, name: str, rate: int, why: str) -> tuple[np.ndarray, int]:
    ffmpeg = find_ffmpeg(content[:12], name, why)
    # From a file, since an m4a's index may lie at its end; and from files only, since what it holds may name addresses.
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "sound")
        file.write_bytes(content)
        given = ["-protocol_whitelist", "file,pipe", "-i", str(file), "-map", "0:a:0"]
        wanted = ["-ac", "1", "-ar", str(rate), "-f", "f32le", "pipe:1"]
        try:
            done = subprocess.run(
                [ffmpeg, "-nostdin", "-v", "error", *given, *wanted], capture_output=True, timeout=600, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise AudioError("unreadable", f"{name}: ffmpeg did not finish in 10 minutes") from error
    if done.returncode != 0 or not done.stdout:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise AudioError(
            "unreadable", f"{name}: ffmpeg cannot decode it ({short_reason(lines[-1] if lines else 'no sound')})"
        )
    return np.frombuffer(done.stdout, dtype="<f4")[:, None], rate


def find_ffmpeg(head: bytes, name: str, why: str) -> str:
    """Return the ffmpeg that is to decode what libsndfile cannot.

    Args:
        head: the first bytes of the file, 12 or more. name: of the file. why: what libsndfile said.

    Raises:
        AudioError: none is installed, or the file is of a kind that libsndfile reads when it is whole.
    """
    ffmpeg = shutil.which("ffmpeg")
    suffix = Path(name).suffix.lower()
    if ffmpeg is None or (suffix in SUFFIXES and not _is_foreign_container(head)):
        hint = ""
        if suffix in FFMPEG_SUFFIXES or _is_foreign_container(head):
            hint = ": install ffmpeg, or convert it to wav, flac, ogg or mp3"
        raise AudioError("unreadable", f"{name}: not a sound file that can be decoded ({short_reason(why)}){hint}")
    return ffmpeg


def _is_cut_short(file: BinaryIO, size: int) -> bool:
    """Say whether a WAV or AIFF file lacks samples that its header promises, which libsndfile passes over.

    A little may lack without harm. Most other formats do not decode by themselves when they are cut.
    """
    file.seek(0)
    head = file.read(12)
    if head[:4] not in (b"RIFF", b"FORM") or head[8:] not in (b"WAVE", b"AIFF", b"AIFC"):
        return False
    order: Literal["little", "big"] = "little" if head[:4] == b"RIFF" else "big"
    start = 12
    while start + 8 <= size:
        file.seek(start)
        kind, length = file.read(4), int.from_bytes(file.read(4), order)
        if kind in (b"data", b"SSND"):
            missing = start + 8 + length - size
            return length < _UNKNOWN_SIZE and missing > min(1024, length // 10)
        start += 8 + length + length % 2
    return False


def _is_foreign_container(head: bytes) -> bool:
    """Say whether the bytes begin as MP4/M4A (ftyp) or as Matroska/WebM (EBML)."""
    return head[4:8] == b"ftyp" or head[:4] == webm.MAGIC


def short_reason(message: str) -> str:
    """Shorten what a decoder said to its last part, on one line."""
    return message.replace("\n", " ").split(": ", 1)[-1].rstrip(". ")
