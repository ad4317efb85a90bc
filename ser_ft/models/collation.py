"""From sound at 16 kHz to what a model is called with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, SequenceFeatureExtractor

from ..audio import SAMPLE_RATE
from .encoders import EncoderParts, InputSpec
from .features import SpectralFeatureExtractor


def collate_waveforms(
    clips: Sequence[np.ndarray], extractor: SequenceFeatureExtractor, input_spec: InputSpec, padded: bool = True
) -> dict[str, torch.Tensor]:
    """Make a model's inputs of samples at 16 kHz, float32, each of shape (samples,).

    A clip that is too short for one frame is padded with silence; a batch too, for SpecAugment's spans, if `padded`.
    """
    framed: Any = extractor  # which transformers does not declare callable
    whole = [np.pad(clip, (0, max(0, input_spec.min_samples - len(clip)))) for clip in clips]
    if input_spec.kind == "fixed_length":
        found = framed(whole, sampling_rate=SAMPLE_RATE, return_tensors="pt")
        return {name: found[name] for name in framed.model_input_names if name != "attention_mask"}
    if input_spec.kind == "frames":
        found = framed(whole, sampling_rate=SAMPLE_RATE, return_tensors="pt")
        short = max(0, input_spec.min_frames - found["input_features"].shape[1]) if padded else 0
        return {
            "input_features": torch.nn.functional.pad(found["input_features"], (0, 0, 0, short)),
            "attention_mask": torch.nn.functional.pad(found["attention_mask"], (0, short)),
        }
    longest = max(input_spec.num_samples(input_spec.min_frames if padded else 1), *map(len, whole))
    made = framed(
        whole,
        sampling_rate=SAMPLE_RATE,
        padding="max_length",
        max_length=longest,
        return_attention_mask=True,
        return_tensors="pt",
    )
    batch = {"input_values": made["input_values"]}
    if min(map(len, whole)) < longest:
        batch["attention_mask"] = made["attention_mask"].long()
    return batch


def make_collator(
    model: PreTrainedModel, extractor: SequenceFeatureExtractor
) -> Callable[[Sequence[np.ndarray]], dict[str, torch.Tensor]]:
    """Return what makes a saved model's inputs of clips of one length, float32 at 16 kHz, each of shape (samples,).

    What it makes of a clip is the same alone and beside others.
    """
    if not isinstance(extractor, SpectralFeatureExtractor):
        input_spec = EncoderParts.of(model).input_spec
        return lambda clips: collate_waveforms(clips, extractor, input_spec, padded=False)
    ours = extractor

    def frames(clips: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        # The clips of a call are taken to be one speaker's, and these need not be.
        calls = [[clip] for clip in clips] if ours.normalize == "speaker" else [list(clips)]
        made = [ours(call, sampling_rate=SAMPLE_RATE, return_tensors="pt") for call in calls]
        return {name: torch.cat([each[name] for each in made]) for name in ours.model_input_names}

    return frames
