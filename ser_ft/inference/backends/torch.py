"""Any saved classifier, computed by torch in float32."""

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
from ...models.pretrained import PretrainedClassifier
from ...utils.errors import InputError
from .base import ModelInfo


class TorchBackend:
    """A classifier of a run folder, of a folder, or of the Hub.

    Args:
        model: the folder, or the name on the Hub. device: by default a GPU where there is one.
        threads: of torch, in the whole process; by default as it is set.

    Raises:
        InputError: there is no such model, or no such device.
    """

    def __init__(self, model: str, device: str | None = None, threads: int | None = None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.device = _device(device)
        saved = PretrainedClassifier.load(str(find_model_folder(Path(model).expanduser()) or model))
        self._network = cast(nn.Module, saved.model).to(self.device)
        self._inputs = make_collator(saved.model, saved.extractor)
        self.info = ModelInfo(saved.display_name, saved.classes, saved.threshold, saved.min_samples, _longest(saved))
        # A GPU gains nothing from two batches at once, and its settings are the process's.
        self._turn: AbstractContextManager[Any] = nullcontext() if self.device.type == "cpu" else Lock()

    def probabilities(self, waveforms: np.ndarray) -> np.ndarray:
        """Answer clips of one length: see `Engine`."""
        missing = max(0, self.info.shortest - waveforms.shape[1])
        inputs = self._inputs(list(np.pad(waveforms, ((0, 0), (0, missing)))))
        with self._turn, torch.inference_mode(), _exact(self.device):
            logits = self._network(**{name: value.to(self.device) for name, value in inputs.items()}).logits
            return np.asarray(logits.double().softmax(dim=-1).cpu().numpy())


def _longest(saved: PretrainedClassifier) -> float | None:
    """Return the seconds that a classifier hears of a clip; None: all."""
    extractor: Any = saved.extractor
    if isinstance(extractor, SpectralFeatureExtractor):
        most = extractor.max_frames
        return None if most is None else most * extractor.hop_length / extractor.sampling_rate
    if EncoderParts.of(saved.model).input_spec.kind != "fixed_length":
        return None
    if hasattr(extractor, "chunk_length"):
        return float(extractor.chunk_length)
    return float(extractor.max_length) / 100  # AST's frames are 10 ms apart


def _exact(device: torch.device) -> AbstractContextManager[Any]:
    """Keep a GPU's convolutions in float32: rounded to TF32, a clip's answer would change with its batch."""
    if device.type != "cuda":
        return nullcontext()
    flags: AbstractContextManager[Any] = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    return flags


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"device {name}: not to be had on this machine ({said}); cpu always is") from error
    return device
