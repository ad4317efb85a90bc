"""Open files: read block by block, in bounded memory, by libsndfile and ffmpeg."""

from __future__ import annotations

import errno
import io
import os
import stat
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ser_ft.audio import AudioError, decode, decode_blocks, decode_clip, open_audio
from tests.helpers.sound_files import encode


def noise(rate: int, seconds: float = 1.3, channels: int = 1) -> np.ndarray:
    samples = 0.1 * np.random.default_rng(rate).normal(size=(round(rate * seconds), channels))
    return samples.astype(np.float32)


def read_all(source: bytes | Path, seconds: float = 0.3) -> np.ndarray:
    return np.concatenate(list(decode_blocks(source, seconds)))


def test_the_suffix_raw_is_ignored(tmp_path: Path) -> None:
    """soundfile expects samples without a header in such a file."""
    file = tmp_path / "clip.raw"
    file.write_bytes(encode(noise(16_000)))
    assert len(read_all(file)) == 20_800
    file.write_bytes(bytes(5_000))
    with pytest.raises(AudioError, match="not a sound file that can be decoded"):
        read_all(file)


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ENOSPC, errno.ENOMEM])
def test_a_failure_of_the_machine_is_not_the_file_s_fault(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A good clip would be listed as unreadable, and the next run would say that all is up to date."""

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "open", fail)
    for read in (decode, read_all):
        with pytest.raises(OSError, match=os.strerror(number)) as caught:
            read(Path(__file__))
        assert caught.value.errno == number


class BadDisk(io.BytesIO):
    """Ends in a bad sector."""

    def readinto(self, buffer: Any, /) -> int:
        if self.tell() + len(memoryview(buffer)) > 30_000:
            raise OSError(5, "Input/output error")
        return super().readinto(buffer)


@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
@pytest.mark.parametrize("read", [decode, read_all])
def test_a_disk_error_is_not_taken_for_the_end_of_the_file(
    kind: str, read: Callable[[Path], np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = encode(noise(16_000, 5.0), kind=kind)
    monkeypatch.setattr("ser_ft.audio.reader.open_file", lambda path: BadDisk(content))
    with pytest.raises(OSError, match="Input/output error"):
        read(Path("clip"))


@pytest.mark.parametrize(("rate", "channels"), [(192_000, 100), (900_000, 1_000)])
def test_a_damaged_header_does_not_fill_the_memory(rate: int, channels: int) -> None:
    content = encode(noise(16_000, 1.0))
    damaged = (
        content[:22] + struct.pack("<HIIH", channels, rate, rate * channels * 2 % 2**32, channels * 2) + content[34:]
    )
    tracemalloc.start()
    try:
        with open_audio(damaged) as sound:
            assert (sound.rate, sound.channels) == (rate, channels)
            assert sum(map(len, sound.blocks())) == 16_000 // channels
        assert tracemalloc.get_traced_memory()[1] < 40e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("read", [decode, read_all])
def test_a_lack_of_memory_is_not_the_file_s_fault(
    read: Callable[[bytes], np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    def raise_memory_error(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("ser_ft.audio.reader.from_pcm16", raise_memory_error)
    with pytest.raises(MemoryError):
        read(encode(noise(16_000)))


@pytest.mark.parametrize("declared", [20_000, 2**31, 2**36 - 1])
def test_a_flac_file_that_declares_more_than_it_has_is_cut_short(declared: int) -> None:
    content = bytearray(encode(noise(16_000, 1.0), kind="FLAC"))
    content[21:26] = (int.from_bytes(content[21:26]) & ~(2**36 - 1) | declared).to_bytes(5)
    with pytest.raises(AudioError, match="cut short") as caught:
        decode(bytes(content))
    assert caught.value.reason == "cut-short"


M4A = b"\x00\x00\x00\x20ftypM4A " + bytes(200)


@pytest.fixture
def ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fake ffmpeg that writes a second of stereo ramps as .au, and stores its arguments."""
    ramp = np.linspace(-1, 1, 8000, dtype=">f4")
    header = b".snd" + struct.pack(">5I", 32, 0xFFFFFFFF, 6, 8_000, 2) + b"madebyff"
    (tmp_path / "sound.au").write_bytes(header + np.stack([ramp, -ramp], 1).astype(">f4").tobytes())
    script = tmp_path / "ffmpeg"
    script.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/arguments\ncat {tmp_path}/sound.au\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr("shutil.which", lambda name: str(script))
    return script


def test_ffmpeg_is_read_through_a_pipe_with_its_channels(ffmpeg: Path, tmp_path: Path) -> None:
    (tmp_path / "-call.m4a").write_bytes(M4A)
    for source in (M4A, tmp_path / "-call.m4a"):
        with open_audio(source) as sound:
            assert (sound.rate, sound.channels) == (8_000, 2)
            actual = np.concatenate(list(sound.blocks(0.3)))
        assert np.array_equal(actual, np.stack([np.linspace(-1, 1, 8000, dtype=np.float32)] * 2, 1) * [1, -1])
        assert decode(source).shape == (16_000,)
        assert decode_clip(source).rate == 8_000
        arguments = (tmp_path / "arguments").read_text().splitlines()
        assert arguments[arguments.index("-protocol_whitelist") + 1] == "file,pipe"
        assert arguments[arguments.index("-i") + 1].startswith("file:/")
        # The file's own rate shows whether a call was recorded at 8 kHz.
        assert "-ar" not in arguments


def test_a_reader_that_stops_early_leaves_no_decoder_behind(ffmpeg: Path, tmp_path: Path) -> None:
    ffmpeg.write_text(ffmpeg.read_text() + f"echo $$ > {tmp_path}/pid\nexec sleep 60\n")
    started = time.monotonic()
    with open_audio(M4A) as sound:
        assert sound.read(100).shape == (100, 2)
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().endswith("\n"):
            time.sleep(0.01)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert time.monotonic() - started < 50


@pytest.mark.parametrize("output", ["", "head -c 4000 {folder}/sound.au\n"])
def test_errors_of_ffmpeg_are_reported(ffmpeg: Path, tmp_path: Path, output: str) -> None:
    failure = "echo 'pipe: Invalid data found' >&2\nexit 1\n"
    ffmpeg.write_text("#!/bin/sh\n" + output.format(folder=tmp_path) + failure)
    with pytest.raises(AudioError, match=r"not a sound file that can be decoded \(by ffmpeg: Invalid data found"):
        read_all(M4A)


@pytest.mark.parametrize("name", ["clip.wav", "clip.ogg", "clip", "clip.wma"])
def test_ffmpeg_is_asked_whatever_the_suffix(ffmpeg: Path, name: str) -> None:
    wma = b"\x30\x26\xb2\x75\x8e\x66\xcf\x11" + bytes(99)
    broken = encode(noise(16_000))[:20] + b"\xff" * 50
    for content in (wma, broken, b"no sound"):
        assert len(decode(content, name=name)) == 16_000


def test_ffmpeg_reads_no_playlists_which_name_other_files(ffmpeg: Path, tmp_path: Path) -> None:
    decode(b"#EXTM3U\nfile:///etc/passwd\n", name="clip.wav")
    arguments = (tmp_path / "arguments").read_text().splitlines()
    demuxers = arguments[arguments.index("-format_whitelist") + 1].split(",")
    assert not {"hls", "concat", "dash", "image2", "lavfi"} & set(demuxers)
    assert {"mov", "matroska", "asf", "aac", "wav", "ogg"} <= set(demuxers)


def test_a_hanging_ffmpeg_is_ended(ffmpeg: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ser_ft.audio.ffmpeg._TIMEOUT", 0.2)
    for script in ("exec sleep 60\n", ffmpeg.read_text().split("\n", 1)[1] + "exec sleep 60\n"):
        ffmpeg.write_text("#!/bin/sh\n" + script)
        with pytest.raises(AudioError, match="by ffmpeg: no output for"):
            decode(M4A)
