"""A model of `ser-ft export`, computed by onnxruntime: one file, and neither torch nor transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...audio import SAMPLE_RATE
from ...utils.errors import InputError
from .base import ModelInfo

KEY = "ser_ft"
"""Of the file's custom metadata: a JSON object that says what the model is."""
FORMAT = 1
INPUT, OUTPUT = "waveform", "logits"
_SMALL = 20_000_000


class OnnxBackend:
    """A classifier in an .onnx file, from samples to logits.

    Args:
        path: the file. threads: that compute one batch; by default as many as the machine has cores, of a file under
            20 MB one, whose work is done before others could be woken.

    Raises:
        InputError: there is no such file, it is damaged, no model of ser_ft, or onnxruntime is not installed.
    """

    def __init__(self, path: str | Path, threads: int | None = None) -> None:
        path = Path(path).expanduser()
        if not path.is_file():
            raise InputError(f"{path}: no such file; `ser-ft export RUN --out {path.name}` makes one")
        self._session = _session(path, threads)
        said = _said(path, self._session.get_modelmeta().custom_metadata_map)
        self.info = _facts(path, said)
        # What 8-bit products are scaled by follows from all clips of a batch, and an answer must not.
        self._alone = bool(said.get("int8"))

    def probabilities(self, waveforms: np.ndarray) -> np.ndarray:
        """Answer clips of one length: see `Engine`."""
        missing = max(0, self.info.shortest - waveforms.shape[1])
        given = np.pad(waveforms, ((0, 0), (0, missing))) if missing else waveforms
        batches = np.split(given, len(given)) if self._alone else [given]
        found = [
            self._session.run([OUTPUT], {INPUT: np.ascontiguousarray(one, dtype=np.float32)})[0] for one in batches
        ]
        logits = np.concatenate(found).astype(np.float64)
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def _session(path: Path, threads: int | None) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(f"{path}: an .onnx file needs onnxruntime ({error}): pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads or (1 if path.stat().st_size < _SMALL else 0)
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        # onnxruntime's errors have no class in common but this one.
        said = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: no .onnx file, or a damaged one ({said}): fetch or export it anew") from error


def _said(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Read what a model says of itself."""
    if KEY not in metadata:
        raise InputError(f"{path}: an .onnx file of another make, which says neither classes nor input: export a run")
    try:
        return dict(json.loads(metadata[KEY]))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: what it says of itself cannot be read ({error!r}): export it anew") from error


def _facts(path: Path, said: Mapping[str, Any]) -> ModelInfo:
    try:
        if said["format"] != FORMAT:
            raise InputError(f"{path}: written by another version of ser_ft (format {said['format']}): export it anew")
        if said["sampling_rate"] != SAMPLE_RATE:
            raise InputError(f"{path}: hears sound at {said['sampling_rate']} Hz, and ser_ft gives it 16 kHz")
        threshold = said["threshold"]
        return ModelInfo(
            name=str(said["name"]),
            classes=tuple(str(name) for name in said["classes"]),
            threshold=None if threshold is None else float(threshold),
            shortest=int(said["shortest"]),
            longest=None if said.get("longest") is None else float(said["longest"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: what it says of itself cannot be read ({error!r}): export it anew") from error
