"""The time that a model needs for a prediction on this machine."""

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
_TIME_LIMIT = 8.0  # seconds


def real_time_factor(
    model: PreTrainedModel, extractor: SequenceFeatureExtractor, clips: datasets.Dataset, device: torch.device
) -> dict[str, Any]:
    """Measure how long a model takes from samples in memory to probabilities, one clip at a time.

    Feature extraction is included; reading and decoding of files is not. After one unmeasured clip, the first
    `NUM_CLIPS` clips are measured, or fewer if they take longer than about 8 s together. The model is moved to the
    device; its mode is restored.

    Returns:
        The median seconds of computation per second of audio (`real_time_factor`), and the numbers of measured `clips`
        and of torch `threads`.
    """
    collate = make_collator(model, extractor)
    training = model.training
    cast(nn.Module, model).to(device).eval()
    clips = clips.select(range(min(NUM_CLIPS, len(clips))))
    waveforms = [audio.from_wav(recording["bytes"]) for recording in clips["audio"]]
    factors: list[float] = []
    deadline = time.monotonic() + _TIME_LIMIT
    with torch.no_grad():
        for index, waveform in enumerate((waveforms[0], *waveforms)):
            if factors and time.monotonic() > deadline:
                break
            start = time.perf_counter()
            inputs = {name: value.to(device) for name, value in collate([waveform]).items()}
            # Copying the result to the CPU waits until the device has finished.
            model(**inputs).logits.float().softmax(dim=-1).cpu()
            if index:
                factors.append((time.perf_counter() - start) * audio.SAMPLE_RATE / len(waveform))
    model.train(training)
    median = float(f"{np.median(factors):.3g}")
    return {"real_time_factor": median, "clips": len(factors), "threads": torch.get_num_threads()}
