"""Clips that are decoded in advance, and the extent of audio that arrives in blocks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import chain, islice
from typing import TypeVar

import numpy as np

from ..audio import SAMPLE_RATE, SILENCE_PEAK, AudioError
from .inputs import AudioInput

T = TypeVar("T")
MIN_SECONDS = 0.1
"""Clips that are shorter cannot be recognized."""
# Clips that are passed on together; twice as many are decoded in advance, which limits the memory. A batch waits for
# the next clip for `_WAIT` seconds.
_BATCH_SIZE = 32
_WAIT = 0.1


@dataclass
class Extent:
    """Number of samples, minimum and maximum of audio that arrives in blocks."""

    samples: int = 0
    low: float = np.inf
    high: float = -np.inf

    @property
    def seconds(self) -> float:
        """Duration of the samples at 16 kHz."""
        return self.samples / SAMPLE_RATE

    def add(self, block: np.ndarray) -> np.ndarray:
        """Count a block, and return it."""
        if len(block):
            self.samples += len(block)
            self.low, self.high = min(self.low, float(block.min())), max(self.high, float(block.max()))
        return block

    def check(self, name: str) -> None:
        """Raise AudioError if the audio, which `name` names, is silent or shorter than `MIN_SECONDS`."""
        if self.seconds < MIN_SECONDS:
            duration = f"{1000 * self.seconds:.1f} ms"
            raise AudioError("too-short", f"{name}: {duration} of audio is too short: the minimum is {MIN_SECONDS} s")
        if (self.high - self.low) / 2 < SILENCE_PEAK:
            raise AudioError("silent", f"{name}: silent: nothing in it is louder than -60 dBFS")


def decode_ahead(
    pool: ThreadPoolExecutor, decode: Callable[[AudioInput], T], sounds: Iterable[AudioInput]
) -> Iterator[list[T]]:
    """Yield decoded clips in order, up to `_BATCH_SIZE` at a time, while the next ones are decoded in a pool."""
    waiting: Iterator[AudioInput] = iter(sounds)
    first = list(islice(waiting, 2))
    if len(first) == 1:
        # A single clip is decoded here, without starting a thread.
        yield [decode(first[0])]
        return
    waiting, futures = chain(first, waiting), deque[Future[T]]()
    while True:
        futures += [pool.submit(decode, item) for item in islice(waiting, 2 * _BATCH_SIZE - len(futures))]
        if not futures:
            return
        ready = [futures.popleft().result()]
        while futures and len(ready) < _BATCH_SIZE and wait([futures[0]], _WAIT).done:
            if futures[0].exception() is not None:
                break  # it is raised when the clip is first in line
            ready.append(futures.popleft().result())
        yield ready
