"""The ONNX Runtime backend, for files of `ser-ft export`. It needs neither PyTorch nor transformers."""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...audio import SAMPLE_RATE
from ...models import shipped_file
from ...models.outputs import check_classes, to_probabilities
from ...utils.errors import InputError, raise_machine_failure
from ...utils.readers import parse_json
from .base import ModelInfo

KEY = "ser_ft"
"""The entry of the file's custom metadata that describes the model as a JSON object."""
FORMAT = 1
INPUT, OUTPUT = "waveform", "logits"
_SMALL_BYTES = 20_000_000
# The entry that names another file of weights, as protobuf encodes it: the key of a StringStringEntryProto, field 1.
# The tag and the length may be written in more bytes than they need.
_LOCATION = re.compile(rb"(?:\x0a|\x8a\x80*\x00)(?:\x08|\x88\x80*\x00)location")
# Longest clip that a model may need, in samples.
_MAX_SAMPLES = 60 * SAMPLE_RATE


class OnnxBackend:
    """A classifier in an ONNX file, from samples to logits.

    `threads` compute one batch. None: one per core, or a single one for files under 20 MB, which are computed before
    further threads could start. InputError is raised if the file does not exist, is damaged or was not written by
    ser_ft, or if onnxruntime is not installed.
    """

    def __init__(self, path: str | Path, threads: int | None = None) -> None:
        path = Path(path).expanduser()
        if not path.is_file():
            raise InputError(f"{path}: no such file; `ser-ft export RUN --out {path.name}` makes one")
        self._session = _open_session(path, threads)
        metadata = _read_metadata(path, self._session.get_modelmeta().custom_metadata_map)
        self.info = _model_info(path, metadata)
        # The scale of 8-bit products depends on the whole batch, but a clip's probabilities must not.
        self._clip_by_clip = bool(metadata.get("int8"))
        self._check_answer(path)

    def probabilities(self, waveforms: np.ndarray) -> np.ndarray:
        """Predict the class probabilities of clips of one length; see `Backend`."""
        missing = max(0, self.info.min_samples - waveforms.shape[1])
        padded = np.pad(waveforms, ((0, 0), (0, missing))) if missing else waveforms
        batches = np.split(padded, len(padded)) if self._clip_by_clip else [padded]
        outputs = [
            self._session.run([OUTPUT], {INPUT: np.ascontiguousarray(batch, dtype=np.float32)})[0] for batch in batches
        ]
        return to_probabilities(np.concatenate(outputs), (len(waveforms), len(self.info.classes)), name=self.info.name)

    def _check_answer(self, path: Path) -> None:
        """Classify noise, so that a file whose graph and metadata do not fit is noticed before recordings are read."""
        noise = np.random.default_rng(0).normal(0, 0.1, (1, self.info.min_samples))
        try:
            self.probabilities(noise.astype(np.float32))
        except InputError:
            raise
        except Exception as error:  # the errors of onnxruntime have no narrower class in common
            raise_machine_failure(error)
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{path}: does not compute what its metadata say ({reason}): export it again") from error


def _open_session(path: Path, threads: int | None) -> Any:
    # The default model has its weights in the file that PyTorch loads.
    is_shipped = path.resolve() == shipped_file()
    if path.stat().st_size and not is_shipped and _has_external_data(path):
        raise InputError(f"{path}: its weights are in other files, which are not read: `ser-ft export` writes one file")
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(f"{path}: an .onnx file needs onnxruntime ({error}): pip install onnxruntime") from error
    if os.environ.get("ORT_DISABLE_TELEMETRY") == "1":
        onnxruntime.disable_telemetry_events()  # it may have been imported before ser_ft set the variable
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    is_small = path.stat().st_size < _SMALL_BYTES and not is_shipped
    options.intra_op_num_threads = threads or (1 if is_small else 0)
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the errors of onnxruntime have no narrower class in common
        raise_machine_failure(error)
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: no .onnx file, or a damaged one ({reason}): fetch or export it again") from error


def _has_external_data(path: Path) -> bool:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return _LOCATION.search(content) is not None


def _read_metadata(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    if KEY not in metadata:
        raise InputError(f"{path}: not written by ser_ft, so its classes and input are unknown: use `ser-ft export`")
    try:
        return dict(parse_json(metadata[KEY], "the metadata"))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: its metadata cannot be read ({error!r}): export it again") from error


def _model_info(path: Path, metadata: Mapping[str, Any]) -> ModelInfo:
    try:
        if metadata["format"] != FORMAT:
            version = f"format {metadata['format']}"
            raise InputError(f"{path}: written by another version of ser_ft ({version}): export it again")
        if metadata["sampling_rate"] != SAMPLE_RATE:
            raise InputError(f"{path}: expects audio at {metadata['sampling_rate']} Hz, but ser_ft provides 16 kHz")
        threshold, max_seconds = metadata["threshold"], metadata["max_seconds"]
        min_samples = int(metadata["min_samples"])
        if not (threshold is None or 0 <= threshold <= 1) or not 1 <= min_samples <= _MAX_SAMPLES:
            raise ValueError(f"threshold {threshold}, min_samples {min_samples}")
        if not (max_seconds is None or min_samples <= max_seconds * SAMPLE_RATE < float("inf")):
            raise ValueError(f"max_seconds {max_seconds}")
        return ModelInfo(
            name=str(metadata["name"]),
            classes=check_classes(str(path), metadata["classes"]),
            threshold=None if threshold is None else float(threshold),
            min_samples=min_samples,
            max_seconds=None if max_seconds is None else float(max_seconds),
        )
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: its metadata cannot be read ({error!r}): export it again") from error
