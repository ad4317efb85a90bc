"""An engine that needs no model: its answer is a plain function of the samples."""

from __future__ import annotations

import numpy as np

from ser_ft.inference.backends import ModelInfo

CLASSES = ("neutral", "happy", "sad", "angry")


class FakeEngine:
    """Answers by how loud, how bright and how uneven a clip is; keeps the shapes that it was asked with."""

    def __init__(self, threshold: float | None = None, min_samples: int = 400) -> None:
        self.info = ModelInfo("fake", CLASSES, threshold, min_samples)
        self.asked: list[tuple[int, ...]] = []

    def probabilities(self, waveforms: np.ndarray) -> np.ndarray:
        assert waveforms.dtype == np.float32
        self.asked.append(waveforms.shape)
        return np.stack([self._one(samples.astype(np.float64)) for samples in waveforms])

    def _one(self, samples: np.ndarray) -> np.ndarray:
        loud = np.log(np.mean(samples**2) + 1e-9)
        bright = np.log(np.mean(np.diff(samples) ** 2) + 1e-9) - loud
        uneven = np.abs(samples).max() / (np.sqrt(np.mean(samples**2)) + 1e-9)
        half = len(samples) // 2
        turn = np.log((np.mean(samples[:half] ** 2) + 1e-9) / (np.mean(samples[half:] ** 2) + 1e-9))
        logits = np.array([0.4 * turn, 0.5 * (loud + 6), bright + 1.5, 0.4 * (uneven - 4)])
        shares = np.exp(logits - logits.max())
        return np.asarray(shares / shares.sum())


class ToldEngine(FakeEngine):
    """Gives the answers that it was told, one after the other."""

    def __init__(self, answers: list[list[float]], threshold: float | None = None) -> None:
        super().__init__(threshold)
        self._left = iter(answers)

    def probabilities(self, waveforms: np.ndarray) -> np.ndarray:
        return np.array([next(self._left) for _ in waveforms])
