"""Decoding of Opus in WebM, as browsers record it, without ffmpeg."""

import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from ser_ft import audio
from ser_ft.audio import AudioError, decode_blocks, webm
from tests.helpers.sound_files import encode

UNKNOWN = b"\x01" + b"\xff" * 7


def opus(seconds: float = 2.0, rate: int = 48_000, channels: int = 1) -> tuple[bytes, list[bytes], np.ndarray]:
    """Encode a sweep; return the Opus header, the packets, and their samples as libsndfile decodes them."""
    time = np.arange(round(seconds * rate)) / rate
    sweep = np.sin(2 * np.pi * (200 + 300 * time) * time) / 2
    content = encode(np.stack([sweep] * channels, axis=1), rate, "OGG", "OPUS")
    packets, rest, position = [], b"", 0
    while position < len(content):
        lacing = content[position + 27 : position + 27 + content[position + 26]]
        position += 27 + len(lacing)
        for size in lacing:
            rest += content[position : position + size]
            position += size
            if size < 255:
                packets.append(rest)
                rest = b""
    return packets[0], packets[2:], audio.decode(content, name="sweep.ogg")


def element(kind: str, value: bytes, size: bytes | None = None) -> bytes:
    return bytes.fromhex(kind) + (struct.pack(">Q", len(value) | 1 << 56) if size is None else size) + value


def recorded(
    head: bytes, packets: Sequence[bytes], codec: bytes = b"A_OPUS", grouped: bool = False, flags: int = 0x80
) -> bytes:
    """Write WebM as browsers do: of unknown length, with other elements and a video track."""

    def block(packet: bytes, number: int = 1) -> bytes:
        value = bytes([0x80 | number, 0, 0, flags]) + packet
        return element("a0", element("a1", value)) if grouped else element("a3", value)

    pictures = element("ae", element("d7", b"\x02") + element("86", b"V_VP8"))
    sound = element(
        "ae", element("d7", b"\x01") + element("ec", b"junk") + element("86", codec) + element("63a2", head)
    )
    clusters = b"".join(
        element("1f43b675", element("e7", b"\0") + b"".join(map(block, packets[position : position + 20])), UNKNOWN)
        + block(b"a picture", 2)
        for position in range(0, len(packets), 20)
    )
    whole = element("1549a966", element("4d80", b"a recorder")) + element("1654ae6b", pictures + sound) + clusters
    return element("1a45dfa3", element("4282", b"webm")) + element("18538067", whole, UNKNOWN)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize(("rate", "channels"), [(48_000, 1), (16_000, 1), (48_000, 2)])
def test_decoded_samples_equal_those_of_the_same_packets_in_ogg(
    rate: int, channels: int, grouped: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    head, packets, expected = opus(rate=rate, channels=channels)
    content = recorded(head, packets, grouped=grouped)
    actual = audio.decode(content, name="recorded.webm")
    # The end differs by the final padding of the encoder.
    compared = min(len(actual), len(expected)) - 400
    assert abs(len(actual) - len(expected)) < 0.05 * audio.SAMPLE_RATE
    np.testing.assert_array_equal(actual[:compared], expected[:compared])
    (tmp_path / "recorded.webm").write_bytes(content)
    streamed = np.concatenate(list(decode_blocks(tmp_path / "recorded.webm", seconds=0.5)))
    np.testing.assert_allclose(streamed, actual, atol=1e-6)


def test_long_recordings_span_many_pages() -> None:
    head, packets, _ = opus(seconds=20)
    ogg = webm.as_ogg(recorded(head, packets))
    assert ogg is not None
    assert ogg.count(b"OggS") > 5
    assert audio.decode(ogg, name="long.ogg").shape[0] == pytest.approx(20 * audio.SAMPLE_RATE, abs=800)


def test_an_interrupted_recording_is_decoded_as_far_as_it_goes() -> None:
    head, packets, _ = opus()
    content = recorded(head, packets)
    half = audio.decode(content[: len(content) // 2], name="half.webm")
    assert 0.5 * audio.SAMPLE_RATE < len(half) < 1.5 * audio.SAMPLE_RATE


def test_unsupported_or_damaged_files_do_not_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    head, packets, _ = opus(seconds=0.5)
    monkeypatch.setattr("shutil.which", lambda _: None)
    random = np.random.default_rng(0)
    whole = recorded(head, packets)
    damaged = [bytes(np.where(random.random(len(whole)) < 0.02, 0, np.frombuffer(whole, np.uint8))) for _ in range(20)]
    for content in (
        recorded(head, packets, codec=b"A_VORBIS"),
        recorded(b"no head", packets),
        recorded(head, []),
        recorded(head, packets, flags=0x82),
        webm.MAGIC + bytes(500),
        webm.MAGIC,
        *damaged,
    ):
        with suppress(AudioError):
            assert len(audio.decode(content, name="odd.webm"))
    assert webm.as_ogg(recorded(head, packets, codec=b"A_VORBIS")) is None
    assert webm.as_ogg(recorded(head, packets, flags=0x82)) is None, "laced blocks"
    assert webm.as_ogg(b"") is None
