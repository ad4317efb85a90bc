"""Model inputs from waveforms at 16 kHz."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, SequenceFeatureExtractor

from ..audio import SAMPLE_RATE
from .encoders import EncoderParts, InputSpec
from .features import SpectralFeatureExtractor
from .whisper import log_mel


def collate_waveforms(
    clips: Sequence[np.ndarray], extractor: SequenceFeatureExtractor, input_spec: InputSpec, pad_batch: bool = True
) -> dict[str, torch.Tensor]:
    """Compute the keyword arguments of a pretrained model for a batch, with an attention mask if clips are padded.

    `clips` are waveforms at 16 kHz, each float32 of shape (samples,). A clip that is too short for one frame is padded
    with silence, and with `pad_batch` the batch to `input_spec.min_frames`, as training with SpecAugment requires.
    """
    extract: Any = extractor  # transformers does not declare it callable
    clips = [np.pad(clip, (0, max(0, input_spec.min_samples - len(clip)))) for clip in clips]
    if input_spec.kind != "waveform":
        if input_spec.kind == "log_mel":
            return log_mel(extract, clips)
        inputs = extract(clips, sampling_rate=SAMPLE_RATE, return_tensors="pt")
        if input_spec.kind == "fixed_length":
            return {name: inputs[name] for name in extract.model_input_names if name != "attention_mask"}
        missing = max(0, input_spec.min_frames - inputs["input_features"].shape[1]) if pad_batch else 0
        return {
            "input_features": torch.nn.functional.pad(inputs["input_features"], (0, 0, 0, missing)),
            "attention_mask": torch.nn.functional.pad(inputs["attention_mask"], (0, missing)),
        }
    length = max(input_spec.num_samples(input_spec.min_frames if pad_batch else 1), *map(len, clips))
    padding = {"padding": "max_length", "max_length": length, "return_attention_mask": True}
    inputs = extract(clips, sampling_rate=SAMPLE_RATE, return_tensors="pt", **padding)
    batch = {"input_values": inputs["input_values"]}
    if min(map(len, clips)) < length:
        batch["attention_mask"] = inputs["attention_mask"].long()
    return batch


def make_collator(
    model: PreTrainedModel, extractor: SequenceFeatureExtractor
) -> Callable[[Sequence[np.ndarray]], dict[str, torch.Tensor]]:
    """Return a function that computes a saved model's inputs for waveforms at 16 kHz of one length, as float32.

    The inputs of a clip do not depend on the other clips of the batch.
    """
    if not isinstance(extractor, SpectralFeatureExtractor):
        input_spec = EncoderParts.of(model).input_spec
        return lambda clips: collate_waveforms(clips, extractor, input_spec, pad_batch=False)
    spectral = extractor

    def collate(clips: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        # With normalize="speaker", the extractor takes all clips of a call for one speaker's.
        calls = [[clip] for clip in clips] if spectral.normalize == "speaker" else [list(clips)]
        inputs = [spectral(call, sampling_rate=SAMPLE_RATE, return_tensors="pt") for call in calls]
        return {name: torch.cat([part[name] for part in inputs]) for name in spectral.model_input_names}

    return collate
