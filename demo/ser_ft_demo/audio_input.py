"""Reading of visitors' recordings within the page's limits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ser_ft.audio import SAMPLE_RATE, AudioError, is_silent, mix_down
from ser_ft.audio.streaming import blocks, open_audio
from ser_ft.inference.recognizer import MIN_SECONDS
from ser_ft.utils.errors import InputError

from .messages import duration_text


@dataclass(frozen=True)
class Clip:
    """A recording.

    Attributes:
        name: of the file.
        samples: float32 mono samples at 16 kHz, shape (samples,).
    """

    name: str
    samples: np.ndarray

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return len(self.samples) / SAMPLE_RATE


def read_clip(path: str | None, max_seconds: float, advice: str = "shorten it") -> Clip:
    """Read a recording, and no more of it than allowed.

    Args:
        path: of the file; None without a recording.
        max_seconds: longest allowed recording.
        advice: what to do with a longer one, for the error message.

    Raises:
        AudioError: the file cannot be read, is silent, or is shorter than 0.1 s.
        InputError: there is no recording, or it is too long.
    """
    if not path:
        raise InputError("add a recording first: speak, or drop a file")
    name = Path(path).name
    pieces: list[np.ndarray] = []
    for block in blocks(path, name=name):
        pieces.append(mix_down(block))
        if sum(map(len, pieces)) > max_seconds * SAMPLE_RATE:
            raise InputError(f"{name} is longer than {duration_text(max_seconds)}: {advice}")
    samples = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
    if len(samples) < MIN_SECONDS * SAMPLE_RATE:
        raise AudioError("too-short", f"{name}: too short")
    if is_silent(samples):
        raise AudioError("silent", f"{name}: silent")
    return Clip(name, samples)


def check_duration(path: str | None, max_seconds: float) -> str:
    """Decode a recording to check its length, since its header may be wrong, and return its path.

    Raises:
        AudioError: the file cannot be read.
        InputError: there is no recording, or it is too long.
    """
    if not path:
        raise InputError("add a recording first: drop a file")
    seconds = 0.0
    with open_audio(path) as sound:
        for block in sound.blocks():
            seconds += len(block) / sound.rate
            if seconds > max_seconds:
                raise InputError(f"{Path(path).name} is longer than {duration_text(max_seconds)}: shorten it")
    return path
