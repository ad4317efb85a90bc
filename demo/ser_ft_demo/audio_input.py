"""Sound as visitors give it: read within limits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ser_ft.audio import SAMPLE_RATE, AudioError, is_silent, mix_down
from ser_ft.audio.streaming import blocks, open_audio
from ser_ft.inference.recognizer import MIN_SECONDS
from ser_ft.utils.errors import InputError

from .messages import length


@dataclass(frozen=True)
class Clip:
    """A recording: its name, and float32 mono samples at 16 kHz, shape (samples,)."""

    name: str
    samples: np.ndarray

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.samples) / SAMPLE_RATE


def read(path: str | None, longest: float, instead: str = "cut it") -> Clip:
    """Read a recording, and no more of it than is allowed.

    Args:
        path: of the file; None: none was given. longest: seconds. instead: what to do with one that is longer.

    Raises:
        AudioError: it cannot be read, is silent, or shorter than 0.1 s.
        InputError: there is none, or it is longer.
    """
    if not path:
        raise InputError("give a recording first: speak, or drop a file")
    name = Path(path).name
    pieces: list[np.ndarray] = []
    for block in blocks(path, name=name):
        pieces.append(mix_down(block))
        if sum(map(len, pieces)) > longest * SAMPLE_RATE:
            raise InputError(f"{name} is longer than {length(longest)}: {instead}")
    samples = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
    if len(samples) < MIN_SECONDS * SAMPLE_RATE:
        raise AudioError("too-short", f"{name}: too short")
    if is_silent(samples):
        raise AudioError("silent", f"{name}: silent")
    return Clip(name, samples)


def check_length(path: str | None, longest: float) -> str:
    """Decode a recording to see that it is not too long, whatever its header says, and return its path.

    Raises:
        AudioError: it cannot be read. InputError: there is none, or it is longer than that many seconds.
    """
    if not path:
        raise InputError("give a recording first: drop a file")
    seconds = 0.0
    with open_audio(path) as sound:
        for block in sound.blocks():
            seconds += len(block) / sound.rate
            if seconds > longest:
                raise InputError(f"{Path(path).name} is longer than {length(longest)}: cut it")
    return path
