"""Hidden states of the frozen part of a model, computed once per clip and cached."""

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
from ..models.speech_classifier import frame_lengths, mean_and_deviation, mean_over_time
from ..models.whisper import ClipLengthEncoder
from .batches import clip_lengths, input_seconds
from .cache import FlatCache, cache_folder, iter_waveforms, make_room, update_hash
from .encoder_hooks import EncoderHooks

if TYPE_CHECKING:
    import datasets
    from transformers import SequenceFeatureExtractor

_BATCH_SECONDS, _BATCH_CLIPS = 60.0, 32  # limits of a batch
_STATES_PER_SECOND = 50
# Settings that do not change the output of a frozen backbone.
_ONLY_TRAINING = re.compile("drop|mask_|spec_augment|label|layer_sum|classifier|_name|version|archit|problem|return_")
POOLINGS = ("mean", "mean+std")


class _LayerReachedError(Exception):
    """Ends a forward pass at a layer."""


def compute_hidden_states(
    table: datasets.Dataset,
    parts: EncoderParts,
    extractor: SequenceFeatureExtractor,
    output: str | int,
    show_progress: bool = True,
    device: torch.device | str = "cpu",
    autocast: Callable[[], Any] | None = None,
    *,
    input_spec: InputSpec | None = None,
) -> FlatCache:
    """Return the hidden states of a frozen model for each clip of a prepared table, computed once and cached.

    Args:
        parts: parts of the model, which is moved to the device and set to evaluation mode.
        output: "feature_encoder" for the output of the convolutions, the number of a layer for its input, or a pooling
            from `POOLINGS` for the inputs of all layers, the output of the last one and the input of the head, pooled
            over time: shape (layers + 2, size).
        autocast: creates the autocast context to compute in; None: float32.
        input_spec: inputs that differ from those of `parts`, such as Whisper's spectrum of a fixed length.

    Returns:
        The states without padding, in half precision (pooled states in float32).

    Raises:
        InputError: the disk is too small for the states.
    """
    kind = output if isinstance(output, str) else f"layer {output}"
    with nullcontext() if autocast is None else autocast():
        device_type = torch.device(device).type
        uses_autocast = torch.is_autocast_enabled(device_type)
        precision = str(torch.get_autocast_dtype(device_type)) if uses_autocast else "float32"
    is_convolution = output == "feature_encoder" and parts.feature_encoder is not None
    frozen = cast(nn.Module, parts.feature_encoder) if is_convolution else parts.backbone
    input_spec, config = input_spec or parts.input_spec, parts.config
    folder = cache_folder(
        table, extractor.to_json_string(), fingerprint(parts, frozen), kind, precision, input_spec.kind
    )
    label, samples, pooled = f"{config.model_type}, {kind}", clip_lengths(table), output in POOLINGS
    if not pooled:
        width = config.conv_dim[-1] if output == "feature_encoder" else config.hidden_size
        make_room(folder, 2.0 * width * _STATES_PER_SECOND * float(input_seconds(table, extractor, input_spec).sum()))

    def arrays(rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        cast(nn.Module, parts.model).to(device).eval()
        hooks = EncoderHooks(parts)
        try:
            with torch.no_grad():
                for batch, clips in iter_waveforms(
                    table, _batches(rows, samples, input_spec), len(rows), label, show_progress
                ):
                    inputs = collate_waveforms(clips, extractor, input_spec, pad_batch=False)
                    # The feature extractor stays in float32.
                    with nullcontext() if autocast is None else autocast():
                        inputs = {name: value.to(device) for name, value in inputs.items()}
                        outputs = _compute_batch(hooks, output, inputs)
                    for row, states in zip(batch, outputs, strict=True):
                        yield int(row), states.float().cpu().numpy()
        finally:
            hooks.remove()

    return FlatCache.make(folder, len(table), arrays, "float32" if pooled else "float16")


def fingerprint(parts: EncoderParts, frozen: nn.Module) -> str:
    """Return a hash of everything that the output of a frozen part depends on: its weights and configuration."""
    settings = parts.config.to_dict()
    relevant = {key: value for key, value in sorted(settings.items()) if not _ONLY_TRAINING.search(key)}
    digest = hashlib.sha256(repr(relevant).encode())
    update_hash(digest, {name: weight for name, weight in frozen.state_dict().items() if name != "masked_spec_embed"})
    return digest.hexdigest()


def _batches(rows: np.ndarray, samples: np.ndarray, input_spec: InputSpec) -> Iterator[np.ndarray]:
    """Yield batches of clips of similar length (one length if the model requires it), the longest first."""
    ordered = rows[np.argsort(samples[rows], kind="stable")[::-1]]
    max_samples = _BATCH_SECONDS * audio.SAMPLE_RATE
    start = 0
    for end in range(1, len(ordered) + 1):
        full = (end - start + 1) * samples[ordered[start]] > max_samples or end - start >= _BATCH_CLIPS
        is_last = end == len(ordered)
        equal_lengths = is_last or samples[ordered[end]] == samples[ordered[start]]
        if is_last or full or (input_spec.requires_equal_lengths and not equal_lengths):
            yield ordered[start:end]
            start = end


def _compute_batch(hooks: EncoderHooks, output: str | int, inputs: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    """Return the states of each clip of a batch without padding, each of shape (frames, size)."""
    parts, input_spec = hooks.parts, hooks.parts.input_spec
    mask = inputs.get("attention_mask")
    hooks.set_mask(mask)
    if output == "feature_encoder":
        assert parts.feature_encoder is not None
        states = parts.feature_encoder(inputs["input_values"]).transpose(1, 2)
    elif isinstance(output, int):
        states = _layer_input(parts, output, inputs)
    else:
        return _pool_layers(parts, inputs, with_std=output == "mean+std")
    lengths = None if input_spec.requires_equal_lengths else frame_lengths(parts.backbone, states.shape[1], mask)
    if lengths is None:
        return list(states)
    return [clip[:length] for clip, length in zip(states, lengths.tolist(), strict=True)]


def _layer_input(parts: EncoderParts, layer: int, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the input of a layer, shape (clips, frames, size), without computing the layers above."""
    states: list[torch.Tensor] = []

    def record(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states.append(args[0] if args else kwargs["hidden_states"])
        raise _LayerReachedError

    handle = parts.layers[layer].register_forward_pre_hook(record, with_kwargs=True)
    with suppress(_LayerReachedError):
        parts.backbone(**inputs)
    handle.remove()
    return states[0]


def _pool_layers(parts: EncoderParts, inputs: Mapping[str, torch.Tensor], with_std: bool) -> list[torch.Tensor]:
    """Return the states of all layers and the last state, pooled over each clip's frames: shape (layers + 2, size)."""
    outputs: Any
    if isinstance(parts.backbone, ClipLengthEncoder):
        outputs, _ = parts.backbone.encode(inputs["input_features"], inputs.get("attention_mask"))
    else:
        outputs = parts.backbone(**inputs, output_hidden_states=True)
    last, mask = outputs.last_hidden_state, inputs.get("attention_mask")
    pooled = []
    for states in (*outputs.hidden_states, last):
        lengths = None if mask is None else frame_lengths(parts.backbone, states.shape[1], mask)
        pooled.append((mean_and_deviation if with_std else mean_over_time)(states, lengths))
    # The input of AST's head is made of two special tokens, not of the mean over time.
    pooler = getattr(outputs, "pooler_output", None)
    if pooler is not None and not with_std:
        pooled[-1] = pooler.float()
    return list(torch.stack(pooled, dim=1))
