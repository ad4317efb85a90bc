"""Finding one recording under two names, by what is heard and not by what the file is called."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from itertools import pairwise, product
from typing import Generic, TypeAlias, TypeVar

import numpy as np

T = TypeVar("T")
Signature: TypeAlias = "tuple[int, np.ndarray]"
Cell: TypeAlias = "tuple[int, ...]"

_BLOCKS = 32
# Relative distance below which two recordings of one length are one. Measured: the two copies of RAVDESS's twice-named
# recording, dithered anew, lie 0.005 apart; different recordings lie about 1.4 (the square root of two) apart.
_NEAR = 0.02
# Recordings are kept by the cell in which the numbers of their middle fall (ends are often silent): many cells, few of
# which a recording is near to. Cells are centred on zero, or what is nearly silent would be near to very many.
_CELL, _AXES = 0.2, slice(10, 22)


@functools.cache
def _signs() -> np.ndarray:
    return np.random.default_rng(0).choice(np.array([-1, 1], dtype=np.float32), size=1 << 20)


def signatures(pcm: np.ndarray) -> list[Signature]:
    """Reduce a recording to its length and 32 numbers, which dither hardly moves.

    Each number is the sum over a thirty-second of the samples, with random signs: a random projection, which keeps
    distances (Johnson & Lindenstrauss 1984; signs: Achlioptas 2003).

    Args:
        pcm: int16 samples, shape (samples,).

    Returns:
        The number of samples and the projection, shape (32,), of norm one; where there are zeros at the ends, a
        second pair for the samples without these.
    """
    heard = pcm != 0
    inner = pcm[heard.argmax() : len(pcm) - heard[::-1].argmax()]
    return [_mark(pcm)] if len(inner) == len(pcm) else [_mark(pcm), _mark(inner)]


def _mark(pcm: np.ndarray) -> Signature:
    length, sound = len(pcm), pcm.astype(np.float32)
    signs = _signs()[:length] if length <= len(_signs()) else np.resize(_signs(), length)
    edges = [length * block // _BLOCKS for block in range(_BLOCKS + 1)]
    sums = np.array([sound[start:end] @ signs[start:end] for start, end in pairwise(edges)], dtype=np.float64)
    return length, sums / max(float(np.linalg.norm(sums)), 1e-9)


class DuplicateIndex(Generic[T]):
    """Remembers recordings by their signatures, and finds the one that was there before."""

    def __init__(self) -> None:
        self._cells: dict[Cell, list[tuple[np.ndarray, T]]] = {}

    def find_or_add(self, marks: Iterable[Signature], owner: T) -> T | None:
        """Return the owner of the same recording if it was seen before; otherwise remember this one."""
        marks = list(marks)
        for length, numbers in marks:
            for cell in _cells(length, numbers):
                for other, known in self._cells.get(cell, ()):
                    if np.linalg.norm(numbers - other) < _NEAR:
                        return known
        for length, numbers in marks:
            home = next(_cells(length, numbers, within=0.0))
            self._cells.setdefault(home, []).append((numbers, owner))
        return None


def _cells(length: int, numbers: np.ndarray, within: float = _NEAR) -> Iterator[Cell]:
    """Give the cells that lie within a distance of a recording's numbers along each axis."""
    low = np.rint((numbers[_AXES] - within) / _CELL).astype(int)
    high = np.rint((numbers[_AXES] + within) / _CELL).astype(int)
    return product((length,), *({a, b} for a, b in zip(low.tolist(), high.tolist(), strict=True)))
