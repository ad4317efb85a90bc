"""Opus in WebM, as browsers record it, read without ffmpeg."""

import io
import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ser_ft import audio
from ser_ft.audio import AudioError, webm
from ser_ft.audio.streaming import blocks

UNKNOWN = b"\x01" + b"\xff" * 7


def opus(seconds: float = 2.0, rate: int = 48_000, channels: int = 1) -> tuple[bytes, list[bytes], np.ndarray]:
    """Encode a sweep; return the Opus head, the packets, and what libsndfile itself decodes of them."""
    time = np.arange(round(seconds * rate)) / rate
    file = io.BytesIO()
    sweep = np.sin(2 * np.pi * (200 + 300 * time) * time) / 2
    soundfile.write(file, np.stack([sweep] * channels, axis=1), rate, format="OGG", subtype="OPUS")
    content, packets, rest, at = file.getvalue(), [], b"", 0
    while at < len(content):
        lacing = content[at + 27 : at + 27 + content[at + 26]]
        at += 27 + len(lacing)
        for size in lacing:
            rest += content[at : at + size]
            at += size
            if size < 255:
                packets.append(rest)
                rest = b""
    return packets[0], packets[2:], audio.decode(content, name="sweep.ogg")


def element(kind: str, value: bytes, size: bytes | None = None) -> bytes:
    return bytes.fromhex(kind) + (struct.pack(">Q", len(value) | 1 << 56) if size is None else size) + value


def recorded(
    head: bytes, packets: Sequence[bytes], codec: bytes = b"A_OPUS", grouped: bool = False, flags: int = 0x80
) -> bytes:
    """Write WebM as browsers do: of unknown length, with other elements between, and a track of pictures."""

    def block(packet: bytes, number: int = 1) -> bytes:
        value = bytes([0x80 | number, 0, 0, flags]) + packet
        return element("a0", element("a1", value)) if grouped else element("a3", value)

    pictures = element("ae", element("d7", b"\x02") + element("86", b"V_VP8"))
    sound = element(
        "ae", element("d7", b"\x01") + element("ec", b"junk") + element("86", codec) + element("63a2", head)
    )
    clusters = b"".join(
        element("1f43b675", element("e7", b"\0") + b"".join(map(block, packets[at : at + 20])), UNKNOWN)
        + block(b"a picture", 2)
        for at in range(0, len(packets), 20)
    )
    whole = element("1549a966", element("4d80", b"a recorder")) + element("1654ae6b", pictures + sound) + clusters
    return element("1a45dfa3", element("4282", b"webm")) + element("18538067", whole, UNKNOWN)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize(("rate", "channels"), [(48_000, 1), (16_000, 1), (48_000, 2)])
def test_the_sound_is_that_of_the_same_packets_in_ogg(
    rate: int, channels: int, grouped: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    head, packets, expected = opus(rate=rate, channels=channels)
    content = recorded(head, packets, grouped=grouped)
    found = audio.decode(content, name="recorded.webm")
    # Where one of them ends sooner, its resampling ends otherwise.
    shared = min(len(found), len(expected)) - 400
    assert abs(len(found) - len(expected)) < 0.05 * audio.SAMPLE_RATE, "only the encoder's last padding may be left"
    np.testing.assert_array_equal(found[:shared], expected[:shared])
    (tmp_path / "recorded.webm").write_bytes(content)
    streamed = np.concatenate(list(blocks(tmp_path / "recorded.webm", seconds=0.5))).mean(axis=1, dtype=np.float32)
    np.testing.assert_allclose(streamed, found, atol=1e-6)


def test_packets_longer_than_a_page_of_them_and_many_pages() -> None:
    head, packets, _ = opus(seconds=20)
    ogg = webm.as_ogg(recorded(head, packets))
    assert ogg is not None
    assert ogg.count(b"OggS") > 5
    assert audio.decode(ogg, name="long.ogg").shape[0] == pytest.approx(20 * audio.SAMPLE_RATE, abs=800)


def test_a_recording_that_was_broken_off_is_taken_as_far_as_it_goes() -> None:
    head, packets, _ = opus()
    content = recorded(head, packets)
    half = audio.decode(content[: len(content) // 2], name="half.webm")
    assert 0.5 * audio.SAMPLE_RATE < len(half) < 1.5 * audio.SAMPLE_RATE


def test_what_is_not_understood_is_left_to_ffmpeg(monkeypatch: pytest.MonkeyPatch) -> None:
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
