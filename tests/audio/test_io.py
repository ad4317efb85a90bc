"""Decoding of sound files, and WAV files in memory."""

from __future__ import annotations

import io
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ser_ft.audio import (
    AudioError,
    MonoConverter,
    decode,
    decode_blocks,
    from_wav,
    is_silent,
    read_file,
    resample,
    to_pcm16,
    to_wav,
)
from tests.helpers.sound_files import encode

M4A = b"\x00\x00\x00\x20ftypM4A " + bytes(200)
WEBM = b"\x1aE\xdf\xa3" + bytes(200)


def tone(rate: int, seconds: float = 0.5, hertz: float = 440.0) -> np.ndarray:
    return 0.4 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate).astype(np.float32)


def read_blocks(source: bytes | Path, name: str | None = None) -> np.ndarray:
    return np.concatenate(list(decode_blocks(source, 0.05, name=name)))


def filtered(samples: np.ndarray) -> np.ndarray:
    return MonoConverter(16_000).feed(samples, last=True)


def pitch(samples: np.ndarray, rate: int = 16_000) -> float:
    spectrum = np.fft.rfft(samples * np.hanning(len(samples)), 1 << 17)
    return float(np.abs(spectrum).argmax() * rate / (1 << 17))


@pytest.fixture
def no_ffmpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 24_414, 44_100, 48_000, 96_000])
def test_resampling_keeps_length_pitch_and_level(rate: int) -> None:
    samples = decode(encode(tone(rate), rate, subtype="FLOAT"))
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    assert abs(len(samples) - 8_000) <= 1
    assert abs(pitch(samples) - 440) < 0.5
    assert abs(np.abs(samples[1000:-1000]).max() - 0.4) < 0.005


def test_resampling_removes_frequencies_above_the_new_nyquist() -> None:
    assert np.abs(decode(encode(tone(48_000, hertz=11_000), 48_000))[500:-500]).max() < 1e-3
    assert np.array_equal(resample(tone(16_000), 16_000), tone(16_000))


@pytest.mark.parametrize(
    ("kind", "subtype", "tolerance"),
    [
        ("WAV", "PCM_16", 1e-4),
        ("WAV", "PCM_24", 1e-6),
        ("WAV", "PCM_U8", 1e-2),
        ("WAV", "FLOAT", 1e-6),
        ("WAV", "ALAW", 0.02),
        ("WAV", "ULAW", 0.02),
        ("AIFF", "PCM_16", 1e-4),
        ("WAV", "GSM610", 0.1),
        ("FLAC", "PCM_16", 1e-4),
        ("OGG", "VORBIS", 0.05),
        ("OGG", "OPUS", 0.05),
        ("MP3", "MPEG_LAYER_III", 0.05),
    ],
)
def test_formats_are_read_whatever_the_suffix(tmp_path: Path, kind: str, subtype: str, tolerance: float) -> None:
    file = tmp_path / "clip.wav"
    file.write_bytes(encode(tone(16_000), 16_000, kind, subtype))
    samples = decode(file)
    assert np.abs(samples[2000:6000] - filtered(tone(16_000))[2000:6000]).max() < tolerance
    assert np.array_equal(samples, decode(file.read_bytes()))
    np.testing.assert_allclose(read_blocks(file), samples, rtol=0, atol=1e-6 if kind == "MP3" else 0)


def test_channels_are_averaged() -> None:
    left, right = tone(16_000), np.zeros(8_000, np.float32)
    assert np.abs(decode(encode(np.stack([left, right], axis=1), subtype="FLOAT")) - filtered(left / 2)).max() < 1e-6


@pytest.mark.parametrize("size", [0x7FFFFFFF, 0xFFFFFFFF, 16_002])
def test_an_unknown_or_slightly_wrong_size_in_the_header_is_accepted(size: int) -> None:
    """As recorders write a WAV file to a pipe, before its size is known."""
    file = encode(tone(16_000))[:40] + struct.pack("<I", size) + to_pcm16(tone(16_000)).tobytes()
    assert len(decode(file)) == 8_000


@pytest.mark.parametrize("read", [decode, read_blocks])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b"", "empty", id="no bytes"),
        pytest.param(to_wav(np.zeros(0, np.int16)), "empty", id="no samples"),
        pytest.param(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n", "lfs-pointer", id="lfs"),
        pytest.param(b"<html>Not found</html>" * 9, "unreadable", id="html"),
        pytest.param(np.random.default_rng(0).bytes(4000), "unreadable", id="garbage"),
        pytest.param(encode(tone(16_000))[:30], "unreadable", id="wav cut in its header"),
        pytest.param(encode(tone(16_000))[:8000], "cut-short", id="wav cut in half"),
        pytest.param(encode(tone(16_000, 0.05))[:900], "cut-short", id="short wav cut in half"),
        pytest.param(encode(tone(16_000), kind="AIFF")[:8000], "cut-short", id="aiff cut in half"),
        pytest.param(encode(tone(16_000), kind="FLAC")[:4000], "unreadable", id="flac cut in half"),
        pytest.param(to_wav(to_pcm16(tone(16_000)), rate=1), "unreadable", id="1 Hz"),
        pytest.param(encode(np.array([0, np.nan, 0.1]), subtype="FLOAT"), "unreadable", id="not finite"),
        pytest.param(encode(np.array([0, np.inf, 0.1]), subtype="FLOAT"), "unreadable", id="infinite"),
    ],
)
def test_unusable_files_raise_a_one_line_error(
    no_ffmpeg: None, content: bytes, reason: str, read: Callable[..., np.ndarray]
) -> None:
    with pytest.raises(AudioError) as caught:
        read(content, name="clip.wav")
    assert caught.value.reason == reason
    assert str(caught.value).startswith("clip.wav: ")
    assert "\n" not in str(caught.value)
    assert "0x" not in str(caught.value)


@pytest.mark.parametrize("read", [decode, read_blocks])
def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path, read: Callable[..., np.ndarray]) -> None:
    with pytest.raises(AudioError, match="no such file"):
        read(tmp_path / "none.wav")
    with pytest.raises(AudioError, match="cannot be read"):
        read(tmp_path)


def test_files_that_are_too_large_are_not_read_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ser_ft.audio.io.MAX_BYTES", 10)
    (tmp_path / "long.wav").write_bytes(to_wav(tone(16_000)))
    with pytest.raises(AudioError, match="cut it into shorter") as caught:
        read_file(tmp_path / "long.wav")
    assert caught.value.reason == "too-large"
    assert len(read_blocks(tmp_path / "long.wav")) == 8_000


def flac_of_constant_frames(frames: int) -> bytes:
    """Write a FLAC file of 65,535 samples, but 14 bytes, per frame; its header does not tell their number."""

    def checksum(content: bytes, polynomial: int, bits: int) -> bytes:
        value = 0
        for byte in content:
            value ^= byte << (bits - 8)
            for _ in range(8):
                value = (value << 1 ^ (polynomial if value >> (bits - 1) else 0)) & ((1 << bits) - 1)
        return value.to_bytes(bits // 8)

    information = struct.pack(">HH6xQ16x", 65_535, 65_535, 16_000 << 44 | 15 << 36)
    content = b"fLaC\x80" + len(information).to_bytes(3) + information
    for frame in range(frames):
        head = b"\xff\xf8\x70\x08" + chr(frame).encode() + b"\xff\xfe"
        body = head + checksum(head, 0x07, 8) + b"\0" + struct.pack(">h", 0x1000 * (-1) ** frame)
        content += body + checksum(body, 0x8005, 16)
    return content


def test_a_small_file_of_many_hours_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ser_ft.audio.io.MAX_SECONDS", 60.0)
    content = flac_of_constant_frames(60)  # four minutes in a kilobyte
    tracemalloc.start()
    try:
        with pytest.raises(AudioError, match="clip: longer than 1 minutes: cut it into shorter files") as caught:
            decode(content, name="clip")
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
    assert caught.value.reason == "too-large"
    assert sum(map(len, decode_blocks(content))) == 60 * 65_535


@pytest.mark.parametrize("content", [WEBM, M4A, b"\x30\x26\xb2\x75" + bytes(99), b"text", encode(tone(16_000))[:30]])
def test_without_ffmpeg_one_line_says_what_to_do(no_ffmpeg: None, content: bytes) -> None:
    for name in ("clip.wav", "clip.wma", "clip"):
        with pytest.raises(
            AudioError, match="install ffmpeg, which reads more formats, or convert it to wav, flac, ogg"
        ):
            decode(content, name=name)


def test_chatty_formats_are_not_opened(no_ffmpeg: None, capfd: pytest.CaptureFixture[str]) -> None:
    """libsndfile prints to stdout for MIDI sample dumps, which would break the output of `--format json`."""
    for kind in ("SDS", "MAT4", "MAT5", "PVF", "HTK", "XI", "AVR", "IRCAM", "VOC", "SVX", "PAF"):
        content = bytearray(
            encode(tone(16_000), 44_100 if kind == "XI" else 16_000, kind, "DPCM_16" if kind == "XI" else "PCM_16")
        )
        content[200:] = content[:199:-1]
        for start in (b"", b"ID3\x04\0\0\0\0\0\x08" + bytes(8)):
            with pytest.raises(AudioError, match="not a sound file that can be decoded"):
                decode(start + content)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("samples", "silent"),
    [
        (np.zeros(800), True),
        (np.full(800, 0.3), True),
        (np.zeros(0), True),
        (tone(16_000) * 0.002, True),
        (tone(16_000) * 0.004, False),
        (tone(16_000), False),
    ],
)
def test_silence(samples: np.ndarray, silent: bool) -> None:
    assert is_silent(samples) == silent


def test_values_above_full_scale_are_clipped() -> None:
    assert to_pcm16(np.array([2.0, -2.0, 0.5, 1.0, -1.0])).tolist() == [32767, -32768, 16384, 32767, -32768]


def test_a_wav_round_trip_is_lossless() -> None:
    all_values = np.arange(-32768, 32768).astype(np.int16)
    wav = to_wav(all_values)
    info = soundfile.info(io.BytesIO(wav))
    assert (info.samplerate, info.channels, info.subtype, info.frames) == (16_000, 1, "PCM_16", 65_536)
    assert np.array_equal(soundfile.read(io.BytesIO(wav), dtype="int16")[0], all_values)
    assert from_wav(wav).dtype == np.float32
    assert to_wav(from_wav(wav)) == wav


def test_a_prepared_clip_is_filtered_once() -> None:
    clip = decode(encode(tone(16_000) + 0.3, subtype="FLOAT"))
    assert np.abs(from_wav(to_wav(clip)) - clip).max() < 2e-5
    assert np.abs(decode(to_wav(clip)) - clip).max() > 1e-3


@pytest.mark.parametrize(
    "wav",
    [
        pytest.param(to_wav(tone(8_000), 8_000), id="other rate"),
        pytest.param(encode(np.stack([tone(16_000)] * 2, axis=1)), id="stereo"),
        pytest.param(encode(tone(16_000), kind="FLAC"), id="flac"),
        pytest.param(
            to_wav(tone(16_000)) + b"LIST" + struct.pack("<I", 400) + b"\x7f" * 400, id="text after the sound"
        ),
    ],
)
def test_other_files_in_a_table_are_decoded(wav: bytes) -> None:
    samples = from_wav(wav)
    assert len(samples) == 8_000
    assert np.abs(samples[1000:-1000] - filtered(tone(16_000))[1000:-1000]).max() < 2e-3
