"""The PyTorch backend, for any saved classifier, in float32."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from threading import Lock
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from ...evaluation.run_folder import find_model_folder
from ...models.collation import make_collator
from ...models.encoders import EncoderParts
from ...models.features import SpectralFeatureExtractor
from ...models.outputs import to_probabilities
from ...models.pretrained import PretrainedClassifier
from ...models.whisper import MAX_POSITIONS, POSITIONS_PER_SECOND
from ...utils.errors import InputError
from .base import ModelInfo


class TorchBackend:
    """A classifier of a run folder, of another folder, or of the Hub.

    `device` None: a GPU if there is one. `threads` are PyTorch threads of the whole process; None: unchanged.
    `allow_pickle`: also load pickled weights. InputError is raised if the model or the device does not exist, or if the
    model is not safe to load.
    """

    def __init__(
        self, model: str, device: str | None = None, threads: int | None = None, allow_pickle: bool = False
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.device = _find_device(device)
        saved = PretrainedClassifier.load(str(find_model_folder(Path(model).expanduser()) or model), allow_pickle)
        self._network = cast(nn.Module, saved.model).to(self.device)
        self._collate = make_collator(saved.model, saved.extractor)
        self.info = ModelInfo(
            saved.display_name, saved.classes, saved.threshold, saved.min_samples, _max_seconds(saved)
        )
        # A GPU gains nothing from two batches at once, and the precision flags are global.
        self._lock: AbstractContextManager[Any] = nullcontext() if self.device.type == "cpu" else Lock()

    def probabilities(self, waveforms: np.ndarray) -> np.ndarray:
        """Predict the class probabilities of clips of one length; see `Backend`."""
        missing = max(0, self.info.min_samples - waveforms.shape[1])
        inputs = self._collate(list(np.pad(waveforms, ((0, 0), (0, missing)))))
        with self._lock, torch.inference_mode(), _full_precision(self.device):
            logits = self._network(**{name: value.to(self.device) for name, value in inputs.items()}).logits
        return to_probabilities(logits.cpu().numpy(), (len(waveforms), len(self.info.classes)), name=self.info.name)


def _max_seconds(saved: PretrainedClassifier) -> float | None:
    extractor: Any = saved.extractor
    if isinstance(extractor, SpectralFeatureExtractor):
        frames = extractor.max_frames
        return None if frames is None else frames * extractor.hop_length / extractor.sampling_rate
    kind = EncoderParts.of(saved.model).input_spec.kind
    if kind == "log_mel":
        return MAX_POSITIONS / POSITIONS_PER_SECOND
    if kind != "fixed_length":
        return None
    if hasattr(extractor, "chunk_length"):
        return float(extractor.chunk_length)
    return float(extractor.max_length) / 100  # AST's frames are 10 ms apart


def _full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Keep convolutions on a GPU in float32: with TF32, a clip's probabilities would depend on its batch."""
    if device.type != "cuda":
        return nullcontext()
    flags: AbstractContextManager[Any] = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    return flags


def _find_device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(f"device {name}: not available on this machine ({reason}); cpu always is") from error
    return device
