"""Recorded calls of synthetic voices, and an engine that hears anger in what is loud."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from ser_ft import audio
from ser_ft.inference.backends import ModelInfo

CLASSES = ("neutral", "happy", "sad", "angry")
SOFT, LOUD = 0.08, 0.7
"""Peaks of a turn that sounds neutral, and of one that sounds angry."""
COMPLAINT = [(0, SOFT), (1, SOFT), (0, SOFT), (1, LOUD), (0, SOFT), (1, SOFT), (0, SOFT)]


class LoudIsAngry:
    """An engine whose answers are known beforehand."""

    def __init__(self, classes: Sequence[str] = CLASSES, threshold: float | None = 0.5) -> None:
        self.info = ModelInfo("made-up", tuple(classes), threshold, 160)

    def probabilities(self, waveforms: np.ndarray) -> np.ndarray:
        loud = np.abs(waveforms).max(axis=1) > 0.25
        answers = np.full((len(waveforms), len(self.info.classes)), 0.1 / (len(self.info.classes) - 1))
        answers[np.arange(len(waveforms)), np.where(loud, len(self.info.classes) - 1, 0)] = 0.9
        return answers


def make_call(
    tree: Path,
    file: Path,
    turns: Sequence[tuple[int, float]] = COMPLAINT,
    rate: int = 16_000,
    subtype: str = "PCM_16",
    channels: int = 2,
) -> Path:
    """Write a call: each turn is eight seconds of one voice, (its channel, its peak), after a pause of one second.

    Args:
        tree: the miniature's. file: to write. turns: in order. rate: in Hz. subtype: as soundfile names it.
        channels: of the file; turns of channels that it has not are heard in the last.
    """
    sources = sorted(tree.rglob("*.wav"))
    speakers = [sources[: len(sources) // 4], sources[-(len(sources) // 4) :]]
    sound = np.zeros((round(9.0 * len(turns) + 1) * audio.SAMPLE_RATE, channels), np.float32)
    for place, (channel, peak) in enumerate(turns):
        said = np.concatenate([audio.decode(clip) for clip in speakers[channel][place * 7 : place * 7 + 7]])
        said = said[: 8 * audio.SAMPLE_RATE] * (peak / np.abs(said[: 8 * audio.SAMPLE_RATE]).max())
        start = round((9.0 * place + 1) * audio.SAMPLE_RATE)
        sound[start : start + len(said), min(channel, channels - 1)] += said
    resampled = [audio.resample(sound[:, channel], audio.SAMPLE_RATE, rate) for channel in range(channels)]
    soundfile.write(file, np.stack(resampled, axis=1), rate, subtype=subtype)
    return file
