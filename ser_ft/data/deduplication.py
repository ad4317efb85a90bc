"""Recognizes a recording under two names by its samples."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from itertools import pairwise, product
from typing import Generic, TypeAlias, TypeVar

import numpy as np

T = TypeVar("T")
Signature: TypeAlias = "tuple[int, np.ndarray]"
_Cell: TypeAlias = "tuple[int, ...]"

_NUM_BLOCKS = 32
# Relative distance under which two recordings of one length are the same. Measured: the two copies of RAVDESS's
# duplicate, dithered independently, are 0.005 apart; different recordings about 1.4 (the square root of two).
_MAX_DISTANCE = 0.02
# Recordings are stored by the grid cell of the projection's middle numbers (the ends are often silent). There are many
# cells, and a recording is near to few. Cells are centered on zero, or almost silent ones would be near to many.
_CELL_SIZE, _CELL_AXES = 0.2, slice(10, 22)


@functools.cache
def _signs() -> np.ndarray:
    return np.random.default_rng(0).choice(np.array([-1, 1], dtype=np.float32), size=1 << 20)


def signatures(pcm: np.ndarray, sound: slice | None = None) -> list[Signature]:
    """Reduce a recording to its length and 32 numbers that dither hardly changes.

    Each number is the sum over a thirty-second of the samples with random signs: a random projection, which preserves
    distances (Johnson & Lindenstrauss 1984; signs: Achlioptas 2003).

    `sound` is the part without digital silence at the ends. None: without zeros.

    Returns the number of samples and the projection, shape (32,), with norm 1; for a recording with silent ends, a
    second pair for the samples without them.
    """
    if sound is None:
        nonzero = pcm != 0
        sound = slice(int(nonzero.argmax()), len(pcm) - int(nonzero[::-1].argmax()))
    trimmed = pcm[sound]
    return [_signature(pcm)] if len(trimmed) == len(pcm) else [_signature(pcm), _signature(trimmed)]


def _signature(pcm: np.ndarray) -> Signature:
    length = len(pcm)
    edges = [length * block // _NUM_BLOCKS for block in range(_NUM_BLOCKS + 1)]
    # Block by block, since the floats of a long recording would take four times its memory.
    sums = np.array([_sum(pcm, start, end) for start, end in pairwise(edges)], dtype=np.float64)
    return length, sums / max(float(np.linalg.norm(sums)), 1e-9)


def _sum(pcm: np.ndarray, start: int, end: int) -> float:
    signs, size, first = _signs(), end - start, start % len(_signs())
    repeated = signs[first : first + size] if first + size <= len(signs) else np.resize(np.roll(signs, -first), size)
    return float(pcm[start:end].astype(np.float32) @ repeated)


class DuplicateIndex(Generic[T]):
    """Stores recordings by their signatures, and finds earlier copies of a recording."""

    def __init__(self) -> None:
        self._cells: dict[_Cell, list[tuple[np.ndarray, T]]] = {}

    def find_or_add(self, signatures: Iterable[Signature], owner: T) -> T | None:
        """Return the owner of an earlier copy of the recording; if there is none, store the recording."""
        signatures = list(signatures)
        for length, projection in signatures:
            for cell in _cells(length, projection):
                for other, other_owner in self._cells.get(cell, ()):
                    if np.linalg.norm(projection - other) < _MAX_DISTANCE:
                        return other_owner
        for length, projection in signatures:
            cell = next(_cells(length, projection, distance=0.0))
            self._cells.setdefault(cell, []).append((projection, owner))
        return None


def _cells(length: int, projection: np.ndarray, distance: float = _MAX_DISTANCE) -> Iterator[_Cell]:
    """Yield the cells within a distance of a projection along each axis."""
    low = np.rint((projection[_CELL_AXES] - distance) / _CELL_SIZE).astype(int)
    high = np.rint((projection[_CELL_AXES] + distance) / _CELL_SIZE).astype(int)
    return product((length,), *({a, b} for a, b in zip(low.tolist(), high.tolist(), strict=True)))
