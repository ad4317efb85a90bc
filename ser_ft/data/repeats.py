"""Finding one recording under two names, by what is heard and not by what the file is called."""

from __future__ import annotations

import functools
from itertools import product
from typing import Generic, TypeVar

import numpy as np

T = TypeVar("T")

_BLOCKS = 32
_CELL = 0.05
# Relative distance below which two recordings of one length are one. Measured: the two copies of RAVDESS's twice-named
# recording, dithered anew, lie 0.003 apart; different recordings lie about 1.4 (the square root of two) apart.
_NEAR = 0.02


@functools.cache
def _signs() -> np.ndarray:
    return np.random.default_rng(0).choice(np.array([-1, 1], dtype=np.int8), size=1 << 20)


def signature(pcm: np.ndarray) -> tuple[int, np.ndarray]:
    """Reduce a recording to its length and 32 numbers, unmoved by dither and by zeros at its ends.

    Each number is the sum over a thirty-second of the samples, with random signs: a random projection, which keeps
    distances (Johnson & Lindenstrauss 1984; signs: Achlioptas 2003).

    Args:
        pcm: int16 samples, shape (samples,).

    Returns:
        The number of samples without zeros at the ends, and the projection, shape (32,), of norm one.
    """
    sound = np.trim_zeros(pcm)
    signed = sound * np.resize(_signs(), len(sound))
    edges = np.linspace(0, len(sound), _BLOCKS + 1).astype(int)[:-1]
    sums = np.add.reduceat(signed, edges, dtype=np.float64) if len(sound) >= _BLOCKS else np.resize(signed, _BLOCKS) * 1.0
    return len(sound), sums / max(float(np.linalg.norm(sums)), 1e-9)


class Repeats(Generic[T]):
    """Remembers recordings by their signatures, and finds the one that was there before."""

    def __init__(self) -> None:
        self._cells: dict[tuple[int, int, int], list[tuple[np.ndarray, T]]] = {}

    def find_or_add(self, mark: tuple[int, np.ndarray], owner: T) -> T | None:
        """Return the owner of the same recording if it was seen before; otherwise remember this one."""
        length, numbers = mark
        x, y = (int(np.floor(number / _CELL)) for number in numbers[:2])
        for i, j in product((-1, 0, 1), repeat=2):
            for other, known in self._cells.get((length, x + i, y + j), ()):
                if np.linalg.norm(numbers - other) < _NEAR:
                    return known
        self._cells.setdefault((length, x, y), []).append((numbers, owner))
        return None
