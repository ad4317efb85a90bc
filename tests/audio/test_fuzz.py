"""Random damage to sound files: each is decoded, or refused in one line."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ser_ft.audio import AudioError, decode, decode_blocks, webm
from tests.audio.test_webm import opus, recorded
from tests.helpers.sound_files import encode, glide

SOUND = glide(1600)
FORMATS = [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAV", "IMA_ADPCM"), ("RF64", "PCM_16"), ("W64", "PCM_24")]
FORMATS += [("AIFF", "PCM_16"), ("CAF", "ALAC_16"), ("AU", "ULAW"), ("FLAC", "PCM_16"), ("OGG", "VORBIS")]
FORMATS += [("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"), ("SDS", "PCM_16"), ("NIST", "PCM_16")]
HEAD, PACKETS, _ = opus(0.1)
FILES = [encode(SOUND, 16_000, *kind) for kind in FORMATS] + [recorded(HEAD, PACKETS)]
NUMBERS = st.sampled_from([0, 1, 0x7FFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**36 - 1, 2**63 - 1]) | st.integers(0, 2**64 - 1)
CHANGES = st.lists(st.tuples(st.integers(0, 300), st.sampled_from([1, 2, 4, 8]), NUMBERS), min_size=1, max_size=6)
SETTINGS = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def check(content: bytes) -> None:
    started = time.monotonic()
    samples, message = read(decode, content)
    blocks, _ = read(lambda content, name: np.concatenate(list(decode_blocks(content, 0.05, name=name))), content)
    if samples is None:
        assert blocks is None
        assert message.startswith("clip: ")
        assert message.isprintable()
    else:
        assert np.abs(samples).max(initial=0.0) <= 1
        np.testing.assert_allclose(blocks, samples, rtol=0, atol=1e-5)
    assert time.monotonic() - started < 10


def read(function: Callable[..., np.ndarray], content: bytes) -> tuple[np.ndarray | None, str]:
    try:
        return function(content, name="clip"), ""
    except AudioError as error:
        return None, str(error)


pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def _without_ffmpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)


@SETTINGS
@given(st.sampled_from(FILES), CHANGES, st.none() | st.integers(0, 4000), st.booleans())
def test_damaged_files_are_decoded_or_refused_in_one_line(
    content: bytes, changes: list[tuple[int, int, int]], end: int | None, big_endian: bool
) -> None:
    damaged = bytearray(content)
    for position, width, number in changes:
        size = max(0, min(width, len(damaged) - position))
        damaged[position : position + size] = (number % 2 ** (8 * width)).to_bytes(
            width, "big" if big_endian else "little"
        )[:size]
    check(bytes(damaged[:end]))


@SETTINGS
@given(st.lists(st.sampled_from(FILES), min_size=2, max_size=3), st.lists(st.integers(0, 500), min_size=3, max_size=3))
def test_parts_of_several_files_are_decoded_or_refused_in_one_line(files: list[bytes], cuts: list[int]) -> None:
    check(
        b"".join(
            content[: 200 + cut] if index == 0 else content[cut:]
            for index, (content, cut) in enumerate(zip(files, cuts, strict=False))
        )
    )


@SETTINGS
@given(st.binary(max_size=300), st.sampled_from([b"", *(content[:40] for content in FILES)]))
def test_random_bytes_are_decoded_or_refused_in_one_line(content: bytes, start: bytes) -> None:
    check(start + content)


@SETTINGS
@given(st.binary(max_size=200), CHANGES)
def test_damaged_webm_is_converted_as_far_as_it_goes(content: bytes, changes: list[tuple[int, int, int]]) -> None:
    damaged = bytearray(recorded(HEAD, PACKETS))
    for position, width, number in changes:
        damaged[position : position + width] = struct.pack("<Q", number)[:width]
    for file in (bytes(damaged), webm.MAGIC + content, bytes(damaged[: len(content)]), bytes(damaged) + content):
        converted = webm.as_ogg(file)
        assert converted is None or converted.startswith(b"OggS")
