"""WebM as browsers record it: its Opus packets put into Ogg, which libsndfile reads.

WebM is a Matroska of few elements (RFC 9559; its framing, EBML, is RFC 8794); Opus in Ogg is RFC 7845, Ogg RFC 3533.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence

MAGIC = b"\x1aE\xdf\xa3"
"""What EBML, and so Matroska and WebM, begins with."""
# Elements that hold the others that matter: all of them are gone into.
_SEGMENT, _CLUSTER, _TRACKS, _ENTRY, _GROUP = 0x18538067, 0x1F43B675, 0x1654AE6B, 0xAE, 0xA0
_HOLDERS = frozenset({_SEGMENT, _CLUSTER, _TRACKS, _ENTRY, _GROUP})
_NUMBER, _CODEC, _PRIVATE, _BLOCK, _SIMPLE_BLOCK = 0xD7, 0x86, 0x63A2, 0xA1, 0xA3
_LACED = 0x06  # of a block's flags: several packets in one
# Milliseconds of a frame, by the five high bits of a packet's first byte (RFC 6716, table 2).
_FRAMES = (*(10, 20, 40, 60) * 3, *(10, 20) * 2, *(2.5, 5, 10, 20) * 4)
_CLOCK = 48  # samples in a millisecond: Opus in Ogg counts at 48 kHz
_SEGMENTS = 255  # of a page, each of up to 255 bytes
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def as_ogg(content: bytes) -> bytes | None:
    """Put the first Opus track of a WebM file into Ogg.

    Args:
        content: the whole file; a recording that was broken off is taken as far as it goes.

    Returns:
        the bytes of an Ogg file; None where there is no such track, or none that is understood.
    """
    track: dict[int, bytes] = {}
    found: dict[int, bytes] | None = None
    packets: list[bytes] = []
    for kind, value in _elements(content):
        if kind == _ENTRY:
            track = {}
        elif kind in (_NUMBER, _CODEC, _PRIVATE):
            track[kind] = value
            whole = track.keys() >= {_NUMBER, _CODEC, _PRIVATE}
            if found is None and whole and track[_CODEC] == b"A_OPUS" and track[_PRIVATE][:8] == b"OpusHead":
                found = track
        elif kind in (_BLOCK, _SIMPLE_BLOCK) and found is not None:
            number, start = _vint(value, 0)
            if number != int.from_bytes(found[_NUMBER]) or len(value) < start + 4:
                continue
            if value[start + 2] & _LACED:
                return None
            packets.append(value[start + 3 :])
    return _ogg(found[_PRIVATE], packets) if found is not None and packets else None


def _elements(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the elements' numbers and values; of those that hold others the number alone, then what they hold."""
    at = 0
    while at < len(content):
        length = 9 - content[at].bit_length()
        kind = int.from_bytes(content[at : at + length])
        size, start = _vint(content, at + length)
        if length > 4 or size is None:
            return
        if kind in _HOLDERS:
            yield kind, b""
            at = start
            continue
        if start + size > len(content):
            return
        yield kind, content[start : start + size]
        at = start + size


def _vint(content: bytes, at: int) -> tuple[int | None, int]:
    """Read a number of variable length; return it, None where there is none, and where what follows begins."""
    if at >= len(content) or not content[at]:
        return None, at
    length = 9 - content[at].bit_length()
    number = int.from_bytes(content[at : at + length]) & ((1 << 7 * length) - 1)
    return number, at + length


def _ogg(head: bytes, packets: Sequence[bytes]) -> bytes:
    tags = b"OpusTags" + struct.pack("<I6sI", 6, b"ser_ft", 0)
    pages = [_page([head], 0, 0, 2), _page([tags], 0, 1, 0)]
    group: list[bytes] = []
    done, used = 0, 0
    for packet in packets:
        needed = len(packet) // 255 + 1
        if needed > _SEGMENTS:
            break
        if used + needed > _SEGMENTS:
            pages.append(_page(group, done, len(pages), 0))
            group, used = [], 0
        group.append(packet)
        used += needed
        done += _samples(packet)
    return b"".join([*pages, _page(group, done, len(pages), 4)])


def _samples(packet: bytes) -> int:
    """Return how many samples at 48 kHz a packet holds."""
    if not packet:
        return 0
    frames = (1, 2, 2)[packet[0] & 3] if packet[0] & 3 < 3 else packet[1] & 63 if len(packet) > 1 else 0
    return round(_FRAMES[packet[0] >> 3] * _CLOCK * frames)


def _page(packets: Sequence[bytes], granule: int, number: int, flags: int) -> bytes:
    """Make an Ogg page of whole packets; flags: 2 for the first page, 4 for the last."""
    lacing = b"".join(b"\xff" * (len(packet) // 255) + bytes([len(packet) % 255]) for packet in packets)
    head = struct.pack("<4sBBqIIIB", b"OggS", 0, flags, granule, 1, number, 0, len(lacing))
    page = b"".join([head, lacing, *packets])
    return page[:22] + struct.pack("<I", _checksum(page)) + page[26:]


def _checksum(page: bytes) -> int:
    """Return Ogg's checksum: zlib's, which takes the bits of each byte in the other order and starts from ones."""
    mirrored = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(bytes(_REVERSED[byte] for byte in mirrored.to_bytes(4, "little")))
