"""How fast a model answers on the machine at hand."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel, SequenceFeatureExtractor

from .. import audio
from ..models.features import SpectralFeatureExtractor
from ..models.speech import Parts
from .feeds import waves_to_inputs

if TYPE_CHECKING:
    import datasets

SPEED_CLIPS = 10
_SECONDS = 8.0


def real_time_factor(
    model: PreTrainedModel, extractor: SequenceFeatureExtractor, clips: datasets.Dataset, device: torch.device
) -> dict[str, Any]:
    """Measure how long a model takes from samples in memory to probabilities, one clip at a time.

    Feature extraction is counted in; reading and decoding files is not. One clip goes first, unmeasured; the answer is
    the median over them all, or over fewer where they take longer than some 8 s together.

    Args:
        model: whole, as it is saved; it is put on the device, and back into its mode. extractor: its own.
        clips: rows of a prepared table, one or more; `SPEED_CLIPS` of them say enough. device: where to compute.

    Returns:
        real_time_factor: seconds of computing per second of sound. clips: how many were measured. threads: of torch.
    """
    prepared = _preparation(model, extractor)
    training = model.training
    cast(nn.Module, model).to(device).eval()
    sounds = [audio.from_wav(sound["bytes"]) for sound in clips["audio"]]
    found: list[float] = []
    began = time.monotonic()
    with torch.no_grad():
        for place, sound in enumerate((sounds[0], *sounds)):
            if found and time.monotonic() - began > _SECONDS:
                break
            start = time.perf_counter()
            inputs = {name: value.to(device) for name, value in prepared(sound).items()}
            # To bring the answer back is to wait for it.
            model(**inputs).logits.float().softmax(dim=-1).cpu()
            if place:
                found.append((time.perf_counter() - start) * audio.SAMPLE_RATE / len(sound))
    model.train(training)
    factor = float(f"{np.median(found):.3g}")
    return {"real_time_factor": factor, "clips": len(found), "threads": torch.get_num_threads()}


def _preparation(
    model: PreTrainedModel, extractor: SequenceFeatureExtractor
) -> Callable[[np.ndarray], dict[str, torch.Tensor]]:
    """Return what makes a model's inputs of a clip."""
    if isinstance(extractor, SpectralFeatureExtractor):
        ours = extractor
        return lambda sound: dict(ours(sound, sampling_rate=audio.SAMPLE_RATE, return_tensors="pt"))
    hearing = Parts.of(model).hearing
    return lambda sound: waves_to_inputs([sound], extractor, hearing, padded=False)
