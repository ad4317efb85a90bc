"""Sounds, and sound files in memory."""

from __future__ import annotations

import io

import numpy as np
import soundfile


def encode(samples: np.ndarray, rate: int = 16_000, kind: str = "WAV", subtype: str | None = None) -> bytes:
    """Return a file of samples, shape (samples,) or (samples, channels)."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


def glide(samples: int = 20_000, seed: int = 0) -> np.ndarray:
    """A gliding tone in noise, louder and softer."""
    time = np.arange(samples) / 16_000
    noise = np.random.default_rng(seed).normal(size=samples)
    sound = np.sin(2 * np.pi * (150 + 40 * time) * time) + 0.1 * noise
    return (0.3 * sound * (0.6 + 0.4 * np.sin(9 * time))).astype(np.float32)


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=0.02 * (1 + seed % 5), size=samples).astype(np.float32)
