"""Reading audio: decoding, resampling, streaming, voice activity detection and listing of files."""

from __future__ import annotations

from .io import (
    FFMPEG_SUFFIXES,
    HEADER_BYTES,
    MAX_BYTES,
    SAMPLE_RATE,
    SILENCE_PEAK,
    SUFFIXES,
    AudioError,
    Source,
    check_sampling_rate,
    decode,
    decode_with_rate,
    from_pcm16,
    from_wav,
    is_silent,
    mix_down,
    read_file,
    resample,
    to_pcm16,
    to_wav,
)

__all__ = [
    "FFMPEG_SUFFIXES",
    "HEADER_BYTES",
    "MAX_BYTES",
    "SAMPLE_RATE",
    "SILENCE_PEAK",
    "SUFFIXES",
    "AudioError",
    "Source",
    "check_sampling_rate",
    "decode",
    "decode_with_rate",
    "from_pcm16",
    "from_wav",
    "is_silent",
    "mix_down",
    "read_file",
    "resample",
    "to_pcm16",
    "to_wav",
]
