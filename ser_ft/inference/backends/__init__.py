"""Backends that compute a model: ONNX Runtime and PyTorch."""

from __future__ import annotations

from pathlib import Path

from ...models import SHIPPED, SHIPPED_MODELS, shipped_file
from ...utils.errors import InputError
from .base import Backend, ModelInfo

__all__ = ["Backend", "ModelInfo", "open_backend"]


def open_backend(
    model: str | Path | None = None,
    device: str | None = None,
    threads: int | None = None,
    allow_pickle: bool = False,
) -> Backend:
    """Open a model for inference.

    Args:
        model: An ONNX file of `ser-ft export`, a run folder, a folder with a saved classifier, or a name on the Hub.
            None or "shipped": the model that comes with ser_ft; "small": the small one.
        device: A PyTorch device. None: a GPU if there is one. An ONNX file runs on "cpu" only.
        threads: Threads that compute one batch. None: one per core, or a single one for a small ONNX model.
        allow_pickle: Also load pickled weights (pytorch_model.bin), with PyTorch's restricted unpickler.

    Raises InputError if the model does not exist, is not safe to load, or does not run on the device.
    """
    if threads is not None and threads < 1:
        raise InputError(f"threads must be 1 or more, not {threads}")
    model = SHIPPED if model is None else model
    if str(model) in SHIPPED_MODELS:
        model = shipped_file(str(model))
        if not model.is_file():
            raise InputError("this copy of ser_ft contains no model: name one, such as a run folder or an .onnx file")
    path = Path(model).expanduser()
    if path.suffix.lower() == ".onnx":
        if device not in (None, "cpu"):
            raise InputError(f"{path}: an .onnx file runs on the CPU, not on {device}")
        from .onnx import OnnxBackend

        return OnnxBackend(path, threads)
    from .torch import TorchBackend

    return TorchBackend(str(model), device, threads, allow_pickle)
