"""States of a frozen part of a model: taken once for every clip, and kept."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn

from .. import audio
from ..models.collation import collate_waveforms
from ..models.encoders import EncoderParts, InputSpec
from .batches import clip_lengths, input_seconds
from .cache import FlatCache, cache_folder, iter_waveforms, make_room, update_hash
from .encoder_hooks import EncoderHooks

if TYPE_CHECKING:
    import datasets
    from transformers import SequenceFeatureExtractor

# Sound that goes through a model at once while states are taken, and clips.
_SECONDS = 60.0
_CLIPS = 32
_STATES_PER_SECOND = 50
# Settings that change nothing in what a frozen backbone answers.
_ONLY_TRAINING = re.compile("drop|mask_|spec_augment|label|layer_sum|classifier|_name|version|archit|problem|return_")
POOLINGS = ("mean", "mean+std")


class _Reached(Exception):
    """A layer was reached: what lies above it need not be computed."""


def compute_hidden_states(
    table: datasets.Dataset,
    parts: EncoderParts,
    extractor: SequenceFeatureExtractor,
    what: str | int,
    shown: bool = True,
    device: torch.device | str = "cpu",
    autocast: Callable[[], Any] | None = None,
) -> FlatCache:
    """Return the states that a frozen model has for each clip of a prepared table, computed once and kept.

    Args:
        table: prepared. parts: of the model; it is put on the device, in evaluation mode. extractor: the model's own.
        what: "feature_encoder"; a layer's number, for what enters it; or a pooling of `POOLINGS` for all layers'
            entrances, the last one's exit, and what the head is given, pooled over time: shape (layers + 2, size).
        shown: show progress. device: where to compute. autocast: makes a context to compute in; by default float32.

    Returns:
        The states, in half precision (float32 where pooled); unpadded.

    Raises:
        InputError: the disk is too small for them.
    """
    kind = what if isinstance(what, str) else f"layer {what}"
    with nullcontext() if autocast is None else autocast():
        place = torch.device(device).type
        precision = str(torch.get_autocast_dtype(place)) if torch.is_autocast_enabled(place) else "float32"
    frozen = (
        parts.feature_encoder if what == "feature_encoder" and parts.feature_encoder is not None else parts.backbone
    )
    folder = cache_folder(table, extractor.to_json_string(), fingerprint(parts, frozen), kind, precision)
    input_spec, config = parts.input_spec, parts.model.config
    label = f"{config.model_type}, {kind}"
    samples = clip_lengths(table)
    pooled = what in POOLINGS
    if not pooled:
        width = config.conv_dim[-1] if what == "feature_encoder" else config.hidden_size
        make_room(folder, 2.0 * width * _STATES_PER_SECOND * float(input_seconds(table, extractor, input_spec).sum()))

    def arrays(rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        cast(nn.Module, parts.model).to(device).eval()
        rig = EncoderHooks(parts)
        try:
            with torch.no_grad():
                for batch, clips in iter_waveforms(table, _batches(rows, samples, input_spec), len(rows), label, shown):
                    inputs = collate_waveforms(clips, extractor, input_spec, pad_batch=False)
                    # The extractor's own transforms stay in float32.
                    with nullcontext() if autocast is None else autocast():
                        taken = _take(rig, what, {name: value.to(device) for name, value in inputs.items()})
                    for row, states in zip(batch, taken, strict=True):
                        yield int(row), states.float().cpu().numpy()
        finally:
            rig.remove()

    return FlatCache.make(folder, len(table), arrays, "float32" if pooled else "float16")


def fingerprint(parts: EncoderParts, frozen: nn.Module) -> str:
    """Return a hash of what a frozen part's answers follow from: its weights, and the configuration that runs them."""
    settings = parts.model.config.to_dict()
    kept = {key: value for key, value in sorted(settings.items()) if not _ONLY_TRAINING.search(key)}
    found = hashlib.sha256(repr(kept).encode())
    update_hash(found, {name: weight for name, weight in frozen.state_dict().items() if name != "masked_spec_embed"})
    return found.hexdigest()


def _batches(rows: np.ndarray, samples: np.ndarray, input_spec: InputSpec) -> Iterator[np.ndarray]:
    """Cut rows into batches of like length, longest first, of at most so many seconds; of one length where need be."""
    ordered = rows[np.argsort(samples[rows], kind="stable")[::-1]]
    most = _SECONDS * audio.SAMPLE_RATE
    start = 0
    for end in range(1, len(ordered) + 1):
        full = (end - start + 1) * samples[ordered[start]] > most or end - start >= _CLIPS
        if (
            end == len(ordered)
            or full
            or (input_spec.requires_equal_lengths and samples[ordered[end]] != samples[ordered[start]])
        ):
            yield ordered[start:end]
            start = end


def _take(rig: EncoderHooks, what: str | int, inputs: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    """Return the states of each clip of a batch, unpadded, shape (frames, size)."""
    parts, input_spec = rig.parts, rig.parts.input_spec
    mask = inputs.get("attention_mask")
    rig.set_mask(mask)
    if what == "feature_encoder":
        assert parts.feature_encoder is not None
        states = parts.feature_encoder(inputs["input_values"]).transpose(1, 2)
    elif isinstance(what, int):
        states = _entering(parts, what, inputs)
    else:
        return _pooled(parts, inputs, deviation=what == "mean+std")
    return [clip[:length] for clip, length in zip(states, _lengths(states, mask, input_spec), strict=True)]


def _lengths(states: torch.Tensor, mask: torch.Tensor | None, input_spec: InputSpec) -> list[int]:
    if mask is None or input_spec.requires_equal_lengths:
        return [states.shape[1]] * len(states)
    own = mask.sum(dim=1)
    return [int(length) for length in (input_spec.num_frames(own) if input_spec.kind == "waveform" else own)]


def _entering(parts: EncoderParts, layer: int, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return what enters a layer, shape (clips, frames, size), without going further."""
    found: list[torch.Tensor] = []

    def keep(_: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> None:
        found.append(args[0] if args else given["hidden_states"])
        raise _Reached

    handle = parts.layers[layer].register_forward_pre_hook(keep, with_kwargs=True)
    with suppress(_Reached):
        parts.backbone(**inputs)
    handle.remove()
    return found[0]


def _pooled(parts: EncoderParts, inputs: Mapping[str, torch.Tensor], deviation: bool) -> list[torch.Tensor]:
    """Return each clip's states of all layers, and the last, pooled over its frames: shape (layers + 2, size)."""
    outputs = parts.backbone(**inputs, output_hidden_states=True)
    last = outputs.last_hidden_state
    found = []
    for states in (*outputs.hidden_states, last):
        lengths = torch.tensor(_lengths(states, inputs.get("attention_mask"), parts.input_spec), device=states.device)
        real = (torch.arange(states.shape[1], device=states.device) < lengths[:, None])[..., None].float()
        values, count = states.float(), lengths[:, None].float()
        mean = (values * real).sum(dim=1) / count
        if deviation:
            variance = ((values - mean[:, None]).square() * real).sum(dim=1) / count
            mean = torch.cat((mean, variance.sqrt()), dim=1)
        found.append(mean)
    # AST's head is given two special tokens instead of the mean over time.
    pooler = getattr(outputs, "pooler_output", None)
    if pooler is not None and not deviation:
        found[-1] = pooler.float()
    return list(torch.stack(found, dim=1))
