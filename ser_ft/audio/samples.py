"""The rules for samples: which numbers are audio, their full scale, silence, and conversion to 16 bits."""

from __future__ import annotations

from typing import Any

import numpy as np

from .errors import AudioError

SILENCE_PEAK = 10 ** (-60 / 20)
"""Below -60 dBFS there is no speech, only the noise of a 16-bit converter."""
MAX_AMPLITUDE = 256.0
"""Float samples beyond this cannot have full scale at 1.0."""
# A damaged header may name a rate to which resampling would fill the memory.
_VALID_RATES = range(1000, 1_000_001)


def check_sampling_rate(rate: int, name: str) -> None:
    """Raise AudioError if a sampling rate in Hz is not plausible."""
    if rate not in _VALID_RATES:
        raise AudioError("unreadable", f"{name}: {rate} Hz is not a valid sampling rate")


def as_float(samples: Any, name: str) -> np.ndarray:
    """Copy samples to float32 with full scale at 1.0, shape (samples, channels).

    `samples` are floats with full scale at 1.0, or int16, int32, int8 or uint8, of shape (samples,) or (samples,
    channels). AudioError is raised if they are not, or fail `check_samples`.
    """
    array = np.asarray(samples)
    if array.ndim not in (1, 2) or (array.ndim == 2 and not array.shape[1]):
        shapes = "(samples,) or (samples, channels)"
        raise AudioError("unreadable", f"{name}: the shape of samples is {shapes}, not {array.shape}")
    if array.dtype == np.int16:
        array = from_pcm16(array)
    elif array.dtype == np.uint8:  # the format of 8-bit WAV files
        array = (array.astype(np.float32) - 128) / np.float32(128)
    elif array.dtype in (np.int8, np.int32):
        array = array.astype(np.float32) / np.float32(-float(np.iinfo(array.dtype).min))
    elif array.dtype.kind == "f":
        check_samples(array, name)
        array = array.astype(np.float32)
    else:
        types = "floats with full scale at 1.0, int16, int32, int8 or uint8"
        raise AudioError("unreadable", f"{name}: samples are {types}, not {array.dtype}")
    return array[:, None] if array.ndim == 1 else array


def check_samples(samples: np.ndarray, name: str) -> None:
    """Raise AudioError if floats of any shape are not finite or beyond `MAX_AMPLITUDE`."""
    low, high = (float(samples.min()), float(samples.max())) if samples.size else (0.0, 0.0)
    if low >= -MAX_AMPLITUDE and high <= MAX_AMPLITUDE:
        return
    if not (np.isfinite(low) and np.isfinite(high)):
        raise AudioError("unreadable", f"{name}: contains samples that are not finite")
    scale = f"its samples reach {max(-low, high):.5g}, but full scale of floats is 1.0"
    raise AudioError("unreadable", f"{name}: {scale}: divide samples of 16 bits by 32768")


def is_silent(samples: np.ndarray) -> bool:
    """Return whether samples of any shape contain nothing above -60 dBFS, apart from a constant offset."""
    return len(samples) == 0 or float(np.ptp(samples)) / 2 < SILENCE_PEAK


def to_pcm16(samples: np.ndarray) -> np.ndarray:
    """Convert float samples with full scale at 1.0 to int16, with clipping."""
    scaled = samples * np.float32(32768)
    np.clip(np.rint(scaled, out=scaled), -32768, 32767, out=scaled)
    return scaled.astype("<i2")


def from_pcm16(samples: np.ndarray) -> np.ndarray:
    """Convert int16 samples of any shape to float32 with full scale at 1.0."""
    return samples * np.float32(1 / 32768)
