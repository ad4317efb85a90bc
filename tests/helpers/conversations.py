"""Recorded conversations of synthetic voices, and a model that predicts the last class for loud sound."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from ser_ft import audio
from ser_ft.inference.backends import ModelInfo

CLASSES = ("neutral", "happy", "sad", "angry")
SOFT, LOUD = 0.08, 0.7
"""Peaks of a turn that is predicted as neutral, and of one that is predicted as angry."""
ANGRY_TURN = [(0, SOFT), (1, SOFT), (0, SOFT), (1, LOUD), (0, SOFT), (1, SOFT), (0, SOFT)]
"""Turns of two speakers; the second becomes angry once."""


class LoudIsAngry:
    """A backend that predicts the last class for loud sound and the first one otherwise."""

    def __init__(self, classes: Sequence[str] = CLASSES, threshold: float | None = 0.5) -> None:
        self.info = ModelInfo("loud-is-angry", tuple(classes), threshold, 160)

    def probabilities(self, waveforms: np.ndarray) -> np.ndarray:
        loud = np.abs(waveforms).max(axis=1) > 0.25
        num_classes = len(self.info.classes)
        probabilities = np.full((len(waveforms), num_classes), 0.1 / (num_classes - 1))
        probabilities[np.arange(len(waveforms)), np.where(loud, num_classes - 1, 0)] = 0.9
        return probabilities


def write_conversation(
    tree: Path,
    file: Path,
    turns: Sequence[tuple[int, float]] = ANGRY_TURN,
    rate: int = 16_000,
    subtype: str = "PCM_16",
    channels: int = 2,
) -> Path:
    """Write a conversation from clips of the miniature corpora.

    Each turn, a channel and a peak, is eight seconds of one speaker, after a pause of one second. Turns of channels
    that do not exist go to the last one.
    """
    clips = sorted(tree.rglob("*.wav"))
    speakers = [clips[: len(clips) // 4], clips[-(len(clips) // 4) :]]
    mixed = np.zeros((round(9.0 * len(turns) + 1) * audio.SAMPLE_RATE, channels), np.float32)
    for index, (channel, peak) in enumerate(turns):
        turn = np.concatenate([audio.decode(clip) for clip in speakers[channel][index * 7 : index * 7 + 7]])
        turn = turn[: 8 * audio.SAMPLE_RATE]
        start = round((9.0 * index + 1) * audio.SAMPLE_RATE)
        mixed[start : start + len(turn), min(channel, channels - 1)] += turn * (peak / np.abs(turn).max())
    resampled = [audio.resample(mixed[:, channel], audio.SAMPLE_RATE, rate) for channel in range(channels)]
    soundfile.write(file, np.stack(resampled, axis=1), rate, subtype=subtype)
    return file
