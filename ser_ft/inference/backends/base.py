"""What answers: a model behind one small interface, whatever computes it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from ...models import SHIPPED
from ...utils.errors import InputError

SHIPPED_FILE = Path(__file__).resolve().parents[2] / "assets" / "model.onnx"
"""The model that ships in the package, which needs no torch."""


@dataclass(frozen=True)
class ModelInfo:
    """What a model says of itself.

    Attributes:
        name: what it is called. classes: in the order of their numbers.
        threshold: an answer whose top probability is under it is uncertain; None: none is.
        shortest: samples, at 16 kHz, of the shortest clip that it answers; shorter ones are padded with zeros.
        longest: seconds of a clip that it hears, of a longer one only a part; None: any length.
    """

    name: str
    classes: tuple[str, ...]
    threshold: float | None
    shortest: int
    longest: float | None = None


class Backend(Protocol):
    """A model that answers; several threads may ask it at once."""

    @property
    def facts(self) -> ModelInfo:
        """What the model says of itself."""

    def probabilities(self, waveforms: np.ndarray) -> np.ndarray:
        """Answer clips of one length; each as if it were alone, and padded with zeros where it is too short.

        Args:
            waveforms: float32 at 16 kHz, full scale at 1.0, shape (clips, samples).

        Returns:
            float64, shape (clips, classes); rows sum to one.
        """


def open_backend(model: str | Path | None = None, device: str | None = None, threads: int | None = None) -> Backend:
    """Open a model.

    Args:
        model: an .onnx file of `ser-ft export`; a run folder; a folder with a saved classifier; or a name on the Hub.
            By default, and by the name of "shipped", the model that ships in the package.
        device: that computes, as torch names it; by default a GPU where there is one. An .onnx file runs on "cpu".
        threads: that compute one batch; by default as many as the machine has cores, one where the model is small.

    Raises:
        InputError: there is no such model, or it does not run on that device.
    """
    if threads is not None and threads < 1:
        raise InputError(f"threads must be 1 or more, not {threads}")
    if model is None or str(model) == SHIPPED:
        model = SHIPPED_FILE
    if model is SHIPPED_FILE and not SHIPPED_FILE.is_file():
        raise InputError("no model ships in this copy of ser_ft: name one, such as a run folder or an .onnx file")
    path = Path(model).expanduser()
    if path.suffix.lower() == ".onnx":
        if device not in (None, "cpu"):
            raise InputError(f"{path}: an .onnx file runs on the processor (cpu), not on {device}")
        from .onnx import OnnxBackend

        return OnnxBackend(path, threads)
    from .torch import TorchBackend

    return TorchBackend(str(model), device, threads)
