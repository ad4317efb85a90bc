"""Headers that are wrong, and files that are cut short."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest

from ser_ft.audio import AudioError, decode, decode_blocks
from tests.helpers.sound_files import encode, glide

SOUND = glide(16_000)
PLAIN = encode(SOUND)


def chunk(name: bytes, content: bytes, length: int | None = None) -> bytes:
    return struct.pack("<4sI", name, len(content) if length is None else length) + content


def riff(*chunks: bytes, size: int | None = None, kind: bytes = b"RIFF") -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return struct.pack("<4sI", kind, len(body) if size is None else size) + body


FORMAT, DATA = PLAIN[12:36], PLAIN[44:]
ODD = chunk(b"LIST", b"INFOINAM\x05\0\0\0hello")
SIZES = struct.pack("<QQQI", 36 + len(DATA), len(DATA), len(SOUND), 0)
RF64 = (chunk(b"ds64", SIZES), FORMAT, chunk(b"data", DATA, 0xFFFFFFFF))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(riff(FORMAT, chunk(b"data", DATA, 0), size=4088), id="data of size 0"),
        pytest.param(riff(FORMAT, chunk(b"data", DATA, 0), size=36), id="recording not closed"),
        pytest.param(riff(FORMAT, chunk(b"data", DATA, 0), size=0), id="both sizes 0"),
        pytest.param(riff(FORMAT, chunk(b"FLLR", bytes(4000)), chunk(b"data", DATA, 0)), id="size 0 after a filler"),
        pytest.param(riff(RF64[0], FORMAT, chunk(b"data", DATA, 0), kind=b"RF64"), id="RF64 of size 0"),
        pytest.param(riff(ODD, FORMAT, chunk(b"data", DATA)), id="odd LIST without pad byte before the format"),
        pytest.param(riff(FORMAT, ODD, chunk(b"data", DATA)), id="odd LIST without pad byte"),
        pytest.param(riff(FORMAT, ODD + b"\0", chunk(b"data", DATA)), id="odd LIST with pad byte"),
        pytest.param(riff(FORMAT, ODD, chunk(b"data", DATA, 0)), id="odd LIST and size 0"),
        pytest.param(riff(*RF64, kind=b"RF64", size=0xFFFFFFFF), id="RF64"),
        pytest.param(riff(*RF64, kind=b"BW64", size=0xFFFFFFFF), id="BW64"),
        pytest.param(riff(RF64[0], FORMAT, chunk(b"data", DATA), kind=b"BW64"), id="BW64 with a small data chunk"),
    ],
)  # fmt: skip
def test_all_sound_of_an_unusual_wav_file_is_read(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "clip.wav").write_bytes(content)
    for source in (content, tmp_path / "clip.wav"):
        assert np.array_equal(decode(source), decode(PLAIN))
        assert np.array_equal(np.concatenate(list(decode_blocks(source, 0.1))), decode(PLAIN))


@pytest.mark.parametrize("subtype", ["IMA_ADPCM", "MS_ADPCM", "ULAW", "GSM610", "PCM_24", "FLOAT"])
def test_recordings_that_were_not_closed_are_read_in_every_coding(subtype: str) -> None:
    content = encode(SOUND, subtype=subtype)
    start = content.index(b"data") + 4
    opened = content[:start] + bytes(4) + content[start + 4 :]
    assert abs(len(decode(opened)) - len(SOUND)) < 1024
    np.testing.assert_allclose(decode(opened)[:14_000], decode(content)[:14_000], atol=1e-6)


@pytest.mark.parametrize(
    "after", [b"", chunk(b"LIST", b"INFO"), ODD + b"\0", chunk(b"id3 ", bytes(7)) + b"\0" + chunk(b"bext", b"text")]
)
def test_an_empty_data_chunk_before_other_chunks_is_no_sound(after: bytes) -> None:
    with pytest.raises(AudioError, match="no samples in the file"):
        decode(riff(FORMAT, chunk(b"data", b""), after))


@pytest.mark.parametrize(
    ("content", "size"),
    [
        pytest.param(PLAIN, None, id="WAV"),
        pytest.param(riff(*RF64, kind=b"RF64", size=0xFFFFFFFF), None, id="RF64"),
        pytest.param(riff(*RF64, kind=b"BW64", size=0xFFFFFFFF), None, id="BW64"),
        pytest.param(riff(ODD, FORMAT, chunk(b"data", DATA)), None, id="odd LIST"),
        *(pytest.param(encode(SOUND, kind=kind), None, id=kind) for kind in ("AIFF", "W64", "CAF", "AU", "WAVEX")),
        pytest.param(encode(SOUND, kind="FLAC"), None, id="FLAC"),
    ],
)
def test_a_file_that_is_cut_in_half_is_refused(content: bytes, size: None) -> None:
    assert np.abs(decode(content) - decode(PLAIN)).max() < 1e-4
    for end in (len(content) // 2, len(content) * 4 // 5):
        with pytest.raises(AudioError) as caught:
            decode(content[:end], name="clip")
        assert caught.value.reason in (("cut-short", "unreadable") if content[:4] == b"fLaC" else ("cut-short",))


@pytest.mark.parametrize("position", range(0, 60, 3))
def test_wrong_numbers_in_a_header_do_not_fill_the_memory(position: int) -> None:
    for header in (
        PLAIN,
        riff(*RF64, kind=b"RF64"),
        riff(ODD, FORMAT, chunk(b"data", DATA)),
        encode(SOUND, kind="W64"),
    ):
        content = header[:position] + b"\xff\xff\xff\x7f" + header[position + 4 :]
        try:
            samples = decode(content)
        except AudioError:
            continue
        assert len(samples) < 20 * len(SOUND)
        assert np.isfinite(samples).all()


def test_tags_before_the_sound_are_skipped() -> None:
    tag = b"ID3\x04\0\0" + bytes([0, 0, 7, 104]) + bytes(1000)
    sound = encode(SOUND, kind="MP3", subtype="MPEG_LAYER_III")
    assert np.array_equal(decode(tag + tag + sound), decode(sound))
    assert io.BytesIO(sound).read(2)[0] == 0xFF
