"""Audio in blocks: the samples of the whole file, in bounded memory."""

from __future__ import annotations

import io
import os
import stat
import struct
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ser_ft.audio import AudioError, decode, to_pcm16
from ser_ft.audio.streaming import MonoResampler, Resampler, blocks, open_audio
from ser_ft.utils.errors import InputError
from tests.helpers.sound_files import encode


def noise(rate: int, seconds: float = 1.3, channels: int = 1) -> np.ndarray:
    samples = 0.1 * np.random.default_rng(rate).normal(size=(round(rate * seconds), channels))
    return samples.astype(np.float32)


def read_all(source: bytes | Path, seconds: float = 0.3) -> np.ndarray:
    return np.concatenate(list(blocks(source, seconds)))


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 24_414, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("seconds", [0.01, 0.3, 60.0])
def test_blocks_join_to_the_result_of_decode(rate: int, seconds: float) -> None:
    file = encode(noise(rate), rate)
    assert np.array_equal(read_all(file, seconds)[:, 0], decode(file))


def test_each_channel_is_resampled_by_itself() -> None:
    stereo = noise(44_100, channels=2)
    file = encode(stereo, 44_100, subtype="FLOAT")
    actual = read_all(file)
    assert actual.shape[1] == 2
    for channel in range(2):
        assert np.array_equal(actual[:, channel], decode(encode(stereo[:, channel], 44_100, subtype="FLOAT")))


def test_the_suffix_raw_is_ignored(tmp_path: Path) -> None:
    """soundfile expects samples without a header in such a file."""
    file = tmp_path / "clip.raw"
    file.write_bytes(encode(noise(16_000)))
    assert len(read_all(file)) == 20_800
    file.write_bytes(bytes(5_000))
    with pytest.raises(AudioError, match="not a sound file that can be decoded"):
        read_all(file)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no /proc here")
def test_an_unreadable_file_is_reported() -> None:
    with pytest.raises(AudioError, match=r"/proc/self/mem: cannot be read \("):
        read_all(Path("/proc/self/mem"))


class BadDisk(io.BytesIO):
    """Ends in a bad sector."""

    def readinto(self, buffer: Any, /) -> int:
        if self.tell() > 30_000:
            raise OSError(5, "Input/output error")
        return super().readinto(buffer)


@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_a_disk_error_is_not_taken_for_the_end_of_the_file(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = encode(noise(16_000, 5.0), kind=kind)
    monkeypatch.setattr("ser_ft.audio.streaming._open_file", lambda path: BadDisk(content))
    received = []
    with pytest.raises(AudioError, match=r"clip: after [01]\.\d s, it cannot be read \(Input/output error\)"):
        received.extend(blocks("clip", 0.3))
    assert received


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


def test_a_lack_of_memory_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_memory_error(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("ser_ft.audio.streaming.read_frames", raise_memory_error)
    with pytest.raises(AudioError, match=r"clip: after 0.0 s, it cannot be read \(not enough memory\)"):
        list(blocks(encode(noise(16_000)), name="clip"))


@pytest.mark.parametrize("value", [1e25, -1e25, 300.0])
def test_samples_far_beyond_full_scale_are_refused(value: float) -> None:
    """Their squares would turn every prediction into NaN."""
    stereo = noise(16_000, channels=2)
    stereo[9_000, 1] = value
    with pytest.raises(AudioError, match=r"clip: its samples reach .*, but full scale of floats is 1.0"):
        list(blocks(encode(stereo, subtype="DOUBLE"), name="clip"))
    with pytest.raises(InputError, match="a chunk: its samples reach"):
        MonoResampler(16_000).feed(stereo)


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
        assert read_all(source).shape == (16_000, 2)
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
    with pytest.raises(AudioError, match=r"ffmpeg cannot decode it .Invalid data found"):
        read_all(M4A)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_chunks_of_any_size_give_the_result_of_decode(rate: int) -> None:
    stereo = to_pcm16(noise(rate, channels=2))
    sizes = np.random.default_rng(3).integers(0, 2000, 500)
    resampler, position, received = MonoResampler(rate), 0, []
    for size in sizes:
        received.append(resampler.feed(stereo[position : position + size]))
        position += size
    assert position > len(stereo)
    assert np.array_equal(np.concatenate([*received, resampler.finish()]), decode(encode(stereo, rate)))


def test_one_channel_of_a_stream_can_be_selected() -> None:
    stereo = noise(16_000, channels=2)
    assert np.array_equal(MonoResampler(16_000, channel=1).feed(stereo), stereo[:, 1])
    with pytest.raises(InputError, match="no channel 2"):
        MonoResampler(16_000, channel=2).feed(stereo)


@pytest.mark.parametrize("rate", [8_000, 11_025, 24_414, 48_000])
def test_resampling_lags_by_less_than_an_eighth_of_a_second(rate: int) -> None:
    resampler, fed, ready = Resampler(rate), 0, 0
    for _ in range(100):
        fed += rate // 50
        ready += len(resampler.feed(noise(rate, 0.02)))
        assert fed / rate - ready / 16_000 < 0.12


@pytest.mark.parametrize(
    "chunk", [np.zeros((2, 2, 2), np.float32), np.zeros(9, np.int32), np.array([np.nan]), np.zeros((3, 0))]
)
def test_invalid_chunks_are_refused(chunk: np.ndarray) -> None:
    with pytest.raises(InputError, match="chunk"):
        MonoResampler(16_000).feed(chunk)
