"""How fast a model answers on the machine at hand."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel, SequenceFeatureExtractor

from .. import audio
from ..models.collation import make_collator

if TYPE_CHECKING:
    import datasets

NUM_CLIPS = 10
_SECONDS = 8.0


def real_time_factor(
    model: PreTrainedModel, extractor: SequenceFeatureExtractor, clips: datasets.Dataset, device: torch.device
) -> dict[str, Any]:
    """Measure how long a model takes from samples in memory to probabilities, one clip at a time.

    Feature extraction is counted in; reading and decoding files is not. One clip goes first, unmeasured; the answer is
    the median over them all, or over fewer where they take longer than some 8 s together.

    Args:
        model: whole, as it is saved; it is put on the device, and back into its mode. extractor: its own.
        clips: rows of a prepared table, one or more; `NUM_CLIPS` of them say enough. device: where to compute.

    Returns:
        real_time_factor: seconds of computing per second of sound. clips: how many were measured. threads: of torch.
    """
    prepared = make_collator(model, extractor)
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
            inputs = {name: value.to(device) for name, value in prepared([sound]).items()}
            # To bring the answer back is to wait for it.
            model(**inputs).logits.float().softmax(dim=-1).cpu()
            if place:
                found.append((time.perf_counter() - start) * audio.SAMPLE_RATE / len(sound))
    model.train(training)
    factor = float(f"{np.median(found):.3g}")
    return {"real_time_factor": factor, "clips": len(found), "threads": torch.get_num_threads()}
