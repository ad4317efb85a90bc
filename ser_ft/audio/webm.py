"""Conversion of WebM, as browsers record it, to Ogg, which libsndfile reads; the Opus packets are not changed.

WebM is a subset of Matroska (RFC 9559; its framing, EBML, is RFC 8794). Opus in Ogg is RFC 7845, Ogg RFC 3533.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence

MAGIC = b"\x1aE\xdf\xa3"
"""The first bytes of EBML, and therefore of Matroska and WebM."""
# Elements that contain the relevant elements.
_SEGMENT, _CLUSTER, _TRACKS, _ENTRY, _GROUP = 0x18538067, 0x1F43B675, 0x1654AE6B, 0xAE, 0xA0
_CONTAINERS = frozenset({_SEGMENT, _CLUSTER, _TRACKS, _ENTRY, _GROUP})
_NUMBER, _CODEC, _PRIVATE, _BLOCK, _SIMPLE_BLOCK = 0xD7, 0x86, 0x63A2, 0xA1, 0xA3
_LACING = 0x06  # flags of a block with several packets
# Milliseconds of a frame, by the five high bits of a packet's first byte (RFC 6716, table 2).
_FRAME_MS = (*(10, 20, 40, 60) * 3, *(10, 20) * 2, *(2.5, 5, 10, 20) * 4)
_SAMPLES_PER_MS = 48  # Opus in Ogg counts at 48 kHz
_MAX_SEGMENTS = 255  # per page, of up to 255 bytes each
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def as_ogg(content: bytes) -> bytes | None:
    """Convert the first Opus track of a WebM file to Ogg. An interrupted recording is converted as far as it goes.

    Returns None if there is no Opus track, or one in a form that is not supported.
    """
    track: dict[int, bytes] = {}
    opus_track: dict[int, bytes] | None = None
    packets: list[bytes] = []
    for kind, value in _elements(content):
        if kind == _ENTRY:
            track = {}
        elif kind in (_NUMBER, _CODEC, _PRIVATE):
            track[kind] = value
            complete = track.keys() >= {_NUMBER, _CODEC, _PRIVATE}
            if opus_track is None and complete and track[_CODEC] == b"A_OPUS" and track[_PRIVATE][:8] == b"OpusHead":
                opus_track = track
        elif kind in (_BLOCK, _SIMPLE_BLOCK) and opus_track is not None:
            number, start = _vint(value, 0)
            if number != int.from_bytes(opus_track[_NUMBER]) or len(value) < start + 4:
                continue
            if value[start + 2] & _LACING:
                return None
            packets.append(value[start + 3 :])
    return _ogg(opus_track[_PRIVATE], packets) if opus_track is not None and packets else None


def _elements(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the IDs and values of the elements; a container is followed by its elements, and its value is empty."""
    position = 0
    while position < len(content):
        length = 9 - content[position].bit_length()
        kind = int.from_bytes(content[position : position + length])
        size, start = _vint(content, position + length)
        if length > 4 or size is None:
            return
        if kind in _CONTAINERS:
            yield kind, b""
            position = start
            continue
        if start + size > len(content):
            return
        yield kind, content[start : start + size]
        position = start + size


def _vint(content: bytes, position: int) -> tuple[int | None, int]:
    """Read an integer of variable length; return it (None if there is none) and the position after it."""
    if position >= len(content) or not content[position]:
        return None, position
    length = 9 - content[position].bit_length()
    number = int.from_bytes(content[position : position + length]) & ((1 << 7 * length) - 1)
    return number, position + length


def _ogg(head: bytes, packets: Sequence[bytes]) -> bytes:
    tags = b"OpusTags" + struct.pack("<I6sI", 6, b"ser_ft", 0)
    pages = [_page([head], 0, 0, 2), _page([tags], 0, 1, 0)]
    page_packets: list[bytes] = []
    samples, used = 0, 0
    for packet in packets:
        needed = len(packet) // 255 + 1
        if needed > _MAX_SEGMENTS:
            break
        if used + needed > _MAX_SEGMENTS:
            pages.append(_page(page_packets, samples, len(pages), 0))
            page_packets, used = [], 0
        page_packets.append(packet)
        used += needed
        samples += _count_samples(packet)
    return b"".join([*pages, _page(page_packets, samples, len(pages), 4)])


def _count_samples(packet: bytes) -> int:
    if not packet:
        return 0
    frames = (1, 2, 2)[packet[0] & 3] if packet[0] & 3 < 3 else packet[1] & 63 if len(packet) > 1 else 0
    return round(_FRAME_MS[packet[0] >> 3] * _SAMPLES_PER_MS * frames)


def _page(packets: Sequence[bytes], granule: int, number: int, flags: int) -> bytes:
    """Return an Ogg page of complete packets; flags: 2 for the first page, 4 for the last."""
    lacing = b"".join(b"\xff" * (len(packet) // 255) + bytes([len(packet) % 255]) for packet in packets)
    head = struct.pack("<4sBBqIIIB", b"OggS", 0, flags, granule, 1, number, 0, len(lacing))
    page = b"".join([head, lacing, *packets])
    return page[:22] + struct.pack("<I", _checksum(page)) + page[26:]


def _checksum(page: bytes) -> int:
    """Return the checksum of Ogg, from that of zlib, whose bits are reversed and whose start value is all ones."""
    mirrored = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(bytes(_REVERSED[byte] for byte in mirrored.to_bytes(4, "little")))
