"""Decoding of sound files to float32 mono at 16 kHz, and 16-bit WAV files in memory."""

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
# Below -60 dBFS there is no speech, only the noise of a 16-bit converter.
SILENCE_PEAK = 10 ** (-60 / 20)
LFS_HEADER = b"version https://git-lfs"
MAX_BYTES = 2 * 1024**3
HEADER_BYTES = 44
# A damaged header may name a rate to which resampling would fill the memory.
_VALID_RATES = range(1000, 1_000_001)
# Recorders that write to a pipe put this size or more into the header.
_UNKNOWN_SIZE = 0x7FFF0000

Source: TypeAlias = "str | Path | bytes"
AudioErrorReason = Literal["empty", "too-short", "unreadable", "cut-short", "silent", "lfs-pointer", "too-large"]


class AudioError(InputError):
    """Audio that cannot be used."""

    def __init__(self, reason: AudioErrorReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def decode(source: Source, rate: int = SAMPLE_RATE, name: str | None = None) -> np.ndarray:
    """Decode a file, or the bytes of one, average its channels and resample it to `rate` (Hz).

    WAV, AIFF (whatever the suffix), FLAC, Ogg, Opus, MP3 and Opus in WebM are decoded by libsndfile, other formats
    (m4a, AAC, ...) by ffmpeg if it is installed. `name` is the name of the file if bytes are passed.

    Returns:
        Float32 samples, shape (samples,), full scale at 1.0.

    Raises:
        AudioError: The file is missing, empty, cut short, too large or a git-LFS pointer, or cannot be decoded.
    """
    return decode_with_rate(source, rate, name)[0]


def decode_with_rate(source: Source, rate: int = SAMPLE_RATE, name: str | None = None) -> tuple[np.ndarray, int | None]:
    """Decode as `decode` does; return the samples and the file's own sampling rate in Hz, None if decoded by ffmpeg."""
    content = source if isinstance(source, bytes) else read_file(Path(source))
    name = name or ("sound" if isinstance(source, bytes) else str(source))
    check_file(io.BytesIO(content), name)
    try:
        samples, file_rate = _decode_libsndfile(remux_webm(content))
        known_rate: int | None = file_rate
    except soundfile.LibsndfileError as error:
        samples, file_rate = _decode_ffmpeg(content, name, rate, str(error))
        known_rate = None
    if not len(samples):
        raise AudioError("empty", f"{name}: no samples in the file")
    check_sampling_rate(file_rate, name)
    mono = mix_down(samples)
    if not np.isfinite(mono).all():
        raise AudioError("unreadable", f"{name}: contains samples that are not finite")
    return resample(mono, file_rate, rate), known_rate


def remux_webm(content: bytes) -> bytes:
    """Convert Opus in WebM, which browsers record, to Ogg, which libsndfile reads; return other content unchanged."""
    return (webm.as_ogg(content) if content[:4] == webm.MAGIC else None) or content


def _decode_libsndfile(content: bytes) -> tuple[np.ndarray, int]:
    with soundfile.SoundFile(io.BytesIO(content)) as file:
        # GSM 6.10 in WAV is not seekable, and -1 needs a seekable file.
        return read_frames(file, -1 if file.seekable() else file.frames), file.samplerate


def read_frames(file: soundfile.SoundFile, frames: int) -> np.ndarray:
    """Read the next frames of an open file (-1: all) as float32, shape (samples, channels)."""
    if file.subtype == "PCM_16":
        # The same values as from the conversion in libsndfile, in a third of the time.
        return from_pcm16(file.read(frames, dtype="int16", always_2d=True))
    samples: np.ndarray = file.read(frames, dtype="float32", always_2d=True)
    return samples


def mix_down(samples: np.ndarray) -> np.ndarray:
    """Average the channels: float32, shape (samples, channels) -> (samples,)."""
    mixed: np.ndarray = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1, dtype=np.float32)
    return mixed


def check_file(file: BinaryIO, name: str) -> None:
    """Raise AudioError if a file is empty, a git-LFS pointer or cut short; not all of it is read."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    if not size:
        raise AudioError("empty", f"{name}: the file is empty")
    if file.read(len(LFS_HEADER)) == LFS_HEADER:
        raise AudioError("lfs-pointer", f"{name}: a git-LFS pointer, not audio: run `git lfs pull` in its repository")
    if _is_cut_short(file, size):
        raise AudioError("cut-short", f"{name}: the file is cut short: download it again")
    file.seek(0)


def check_sampling_rate(rate: int, name: str) -> None:
    """Raise AudioError if a sampling rate in Hz is not plausible."""
    if rate not in _VALID_RATES:
        raise AudioError("unreadable", f"{name}: {rate} Hz is not a valid sampling rate")


def resample(samples: np.ndarray, from_rate: int, to_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Resample samples, shape (samples,), from one rate in Hz to another with the high-quality filter of soxr."""
    samples = np.ascontiguousarray(samples, dtype=np.float32)
    if from_rate == to_rate:
        return samples
    resampled: np.ndarray = soxr.resample(samples, from_rate, to_rate, quality="HQ")
    return resampled


def is_silent(samples: np.ndarray) -> bool:
    """Return whether samples of any shape contain nothing above -60 dBFS, apart from a constant offset."""
    return len(samples) == 0 or float(np.ptp(samples)) / 2 < SILENCE_PEAK


def to_pcm16(samples: np.ndarray) -> np.ndarray:
    """Convert float samples with full scale at 1.0 to int16, with clipping."""
    scaled = samples * np.float32(32768)
    np.clip(np.rint(scaled, out=scaled), -32768, 32767, out=scaled)
    return scaled.astype("<i2")


def from_pcm16(samples: np.ndarray) -> np.ndarray:
    """Convert int16 samples of any shape to float32 with full scale at 1.0."""
    return samples * np.float32(1 / 32768)


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

    What `to_wav` wrote is read without a decoder; any other file is decoded by `decode`.
    """
    size = len(wav) - HEADER_BYTES
    if size <= 0 or size % 2 or wav[:HEADER_BYTES] != _header(size, SAMPLE_RATE):
        return decode(wav)
    return from_pcm16(np.frombuffer(wav, dtype="<i2", offset=HEADER_BYTES))


def read_file(path: Path) -> bytes:
    """Return the bytes of a regular file of up to 2 GiB; raise AudioError if that is not possible."""
    try:
        status = path.stat()
        # Opening a pipe or a device may block, and reading it may never end.
        if not stat.S_ISREG(status.st_mode):
            raise AudioError("unreadable", f"{path}: cannot be read (a folder, a pipe or a device, not a file)")
        if status.st_size > MAX_BYTES:
            raise AudioError("too-large", f"{path}: larger than 2 GiB: cut it into shorter files")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise AudioError("unreadable", f"{path}: no such file") from error
    except OSError as error:
        raise AudioError("unreadable", f"{path}: cannot be read ({error.strerror})") from error


def _decode_ffmpeg(content: bytes, name: str, rate: int, reason: str) -> tuple[np.ndarray, int]:
    ffmpeg = find_ffmpeg(content[:12], name, reason)
    # From a file, since the index of an m4a may be at its end; and without other protocols, since it may contain URLs.
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "sound")
        file.write_bytes(content)
        source = ["-protocol_whitelist", "file,pipe", "-i", str(file), "-map", "0:a:0"]
        command = [ffmpeg, "-nostdin", "-v", "error", *source, "-ac", "1", "-ar", str(rate), "-f", "f32le", "pipe:1"]
        try:
            process = subprocess.run(command, capture_output=True, timeout=600, check=False)
        except subprocess.TimeoutExpired as error:
            raise AudioError("unreadable", f"{name}: ffmpeg did not finish in 10 minutes") from error
    if process.returncode != 0 or not process.stdout:
        lines = process.stderr.decode(errors="replace").strip().splitlines()
        error_text = short_reason(lines[-1] if lines else "no audio")
        raise AudioError("unreadable", f"{name}: ffmpeg cannot decode it ({error_text})")
    return np.frombuffer(process.stdout, dtype="<f4")[:, None], rate


def find_ffmpeg(head: bytes, name: str, reason: str) -> str:
    """Return the path of ffmpeg, for a file that libsndfile refused for a reason; `head`: its first 12 bytes or more.

    Raises:
        AudioError: ffmpeg is not installed, or libsndfile would decode this format if the file were intact.
    """
    ffmpeg = shutil.which("ffmpeg")
    suffix = Path(name).suffix.lower()
    if ffmpeg is None or (suffix in SUFFIXES and not _is_foreign_container(head)):
        hint = ""
        if suffix in FFMPEG_SUFFIXES or _is_foreign_container(head):
            hint = ": install ffmpeg, or convert it to wav, flac, ogg or mp3"
        raise AudioError("unreadable", f"{name}: not a sound file that can be decoded ({short_reason(reason)}){hint}")
    return ffmpeg


def _is_cut_short(file: BinaryIO, size: int) -> bool:
    # libsndfile ignores that a WAV or AIFF file has fewer samples than its header says; most others fail to decode.
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
    # MP4/M4A or Matroska/WebM.
    return head[4:8] == b"ftyp" or head[:4] == webm.MAGIC


def short_reason(message: str) -> str:
    """Return the last part of a decoder's message, on one line."""
    return message.replace("\n", " ").split(": ", 1)[-1].rstrip(". ")
