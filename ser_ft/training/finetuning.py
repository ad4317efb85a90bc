"""Prepares a pretrained speech encoder: what is trained (head, top layers, everything or adapters) and how fast."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import datasets
import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel, SequenceFeatureExtractor

from ..config.schema import AugmentConfig, ModelConfig, TuningConfig
from ..dataloading.batches import AlternatingBatches, BatchSource, HiddenStateBatches, PooledBatches, WaveformBatches
from ..dataloading.cache import JoinedCache
from ..dataloading.encoder_hooks import EncoderHooks, PooledHead
from ..dataloading.hidden_states import compute_hidden_states
from ..dataloading.online_augmentation import OnlineAugmentation
from ..models import encoder_spec
from ..models.encoders import EncoderParts, InputSpec
from ..models.speech_classifier import SpeechClassifier
from ..models.whisper import ClipLengthEncoder
from ..utils.errors import InputError
from .trainer import TrainableModel

# Share of training batches that are padded to the fixed length of a stock Whisper classifier, so that the saved model
# gives similar answers where transformers' pipeline pads all clips.
_PADDED_SHARE = 0.5
# Families whose layers work at another frame rate than the output of the model.
_RESAMPLING = ("sew", "sew-d")
# Longest clip in seconds for eager attention: in training on a CPU it takes a third of the time of fused attention
# (sdpa), but too much memory for longer clips.
_MAX_EAGER_SECONDS = 12.0


def find_encoder(
    model: ModelConfig, tuning: TuningConfig, classes: tuple[str, ...], max_seconds: float | None = None
) -> encoder_spec.EncoderSpec:
    """Find the encoder that a recipe names, with the settings that its tuning needs.

    `max_seconds` is the duration of the longest training clip.

    Raises:
        InputError: as `ser_ft.models.encoder_spec.find_encoder`.
    """
    spec = encoder_spec.find_encoder(
        model.name,
        classes,
        model.config_overrides,
        head=model.head,
        layers=model.layers or ("learned" if tuning.mode == "probe" else None),
        num_layers=model.num_layers,
        dropout=tuning.dropout,
        max_seconds=max_seconds,
        revision=model.revision,
        allow_pickle=model.allow_pickle,
    )
    config = encoder_spec.encoder_config(spec.config)
    if tuning.mode in ("probe", "partial") and hasattr(config, "mask_time_prob"):
        # SpecAugment masks the input of the frozen layers, whose output is computed once.
        config.apply_spec_augment = False
    return spec


def prepare_encoder(
    model: PreTrainedModel,
    extractor: SequenceFeatureExtractor,
    tables: Sequence[datasets.Dataset],
    tuning: TuningConfig,
    augment: AugmentConfig,
    head_learning_rate: float,
    device: torch.device,
    *,
    seed: int = 0,
    gradient_checkpointing: bool = False,
    compile_layers: bool = False,
    autocast: Callable[[], Any] | None = None,
    show_progress: bool = False,
) -> TrainableModel:
    """Prepare a pretrained speech encoder for training.

    Parameters are frozen, the output of frozen layers is cached, adapters are added, and learning rates are assigned.
    `tables` are the prepared table and, after it, the augmented copies of training clips, if any; row numbers
    count through all of them. `device` computes the output of frozen layers, in the context that `autocast` creates.

    Raises:
        InputError: the settings do not fit the family, or there is no disk space for the cached output.
    """
    parts = EncoderParts.of(model)
    _check(parts, tuning)
    _freeze(parts, tuning)
    trained: nn.Module = model
    hooks: EncoderHooks | None = None
    table = tables[0] if len(tables) == 1 else datasets.concatenate_datasets(list(tables))
    use_cache, first = tuning.cache and not augment.online, _first_trained_layer(parts, tuning)

    def batches(input_spec: InputSpec) -> BatchSource:
        def cached(what: str | int) -> JoinedCache:
            return JoinedCache(
                [
                    compute_hidden_states(
                        part, parts, extractor, what, show_progress, device, autocast, input_spec=input_spec
                    )
                    for part in tables
                ]
            )

        if pooling:
            return PooledBatches(cached(pooling), np.array(table["duration"]))
        if use_cache and (first or skip_feature_encoder):
            return HiddenStateBatches(cached(first or "feature_encoder"), table, extractor, input_spec)
        return WaveformBatches(table, extractor, input_spec, OnlineAugmentation.from_config(table, augment, seed))

    pooling = _cached_pooling(parts) if use_cache and tuning.mode == "probe" else None
    skip_feature_encoder = parts.feature_encoder is not None and not tuning.train_feature_encoder
    batch_source = batches(parts.input_spec)
    if parts.input_spec.kind == "log_mel" and not isinstance(model, SpeechClassifier):
        padded = batches(replace(parts.input_spec, kind="fixed_length"))
        batch_source = AlternatingBatches(batch_source, padded, _PADDED_SHARE, seed)
    if pooling:
        trained = PooledHead(parts)
    else:
        hooks = EncoderHooks(parts, first if use_cache else None, use_cache and not first and skip_feature_encoder)
    restore_attention = use_fast_attention(model, batch_source, device)
    adapted = _add_adapters(parts, tuning) if tuning.mode == "lora" else None
    if gradient_checkpointing:
        _checkpoint_layers(model)
    if compile_layers:
        for layer in parts.layers:
            layer.compile(dynamic=True)

    def finish() -> PreTrainedModel:
        if hooks is not None:
            hooks.remove()
        restore_attention()
        return model if adapted is None else adapted.merge_and_unload()

    depths = _depths(parts)
    return TrainableModel(
        trained,
        batch_source,
        [(parts.head, head_learning_rate), *_backbone_learning_rates(parts, tuning, depths)],
        finish,
        _stages(parts, depths) if tuning.unfreeze_every else [],
        _frozen_modules(parts, tuning),
    )


def use_fast_attention(model: PreTrainedModel, batch_source: BatchSource, device: torch.device) -> Callable[[], None]:
    """Select the attention implementation that trains fastest; return a function that restores the model's own."""
    backbone: Any = EncoderParts.of(model).backbone
    original = backbone.config._attn_implementation
    if device.type == "cpu" and original == "sdpa" and batch_source.seconds.max() <= _MAX_EAGER_SECONDS:
        backbone.set_attn_implementation("eager")
    return lambda: backbone.set_attn_implementation(original)


def _checkpoint_layers(model: PreTrainedModel) -> None:
    """Let layers compute their activations again in the backward pass; batch statistics are counted only once."""
    settings: dict[str, Any] = {"use_reentrant": False}
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d)]
    if norms:
        settings["context_fn"] = lambda: (nullcontext(), _without_updates(norms))
    model.activation_checkpointing_enable(settings)
    # The cache of Whisper's decoder, which a classifier lacks: checkpointing would warn that it turns it off.
    model.config.use_cache = False


@contextmanager
def _without_updates(norms: Sequence[nn.BatchNorm1d]) -> Iterator[None]:
    """Keep the running statistics of batch normalization unchanged."""
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count


def _check(parts: EncoderParts, tuning: TuningConfig) -> None:
    count = len(parts.layers)
    if tuning.num_top_layers is not None and tuning.num_top_layers > count:
        raise InputError(f"tuning.num_top_layers is {tuning.num_top_layers}, but the encoder has {count} layers")
    if tuning.train_feature_encoder and parts.feature_encoder is None:
        raise InputError("tuning.train_feature_encoder: this family has no convolutional feature encoder")


def _top_layers(parts: EncoderParts, tuning: TuningConfig) -> list[nn.Module]:
    return list(parts.layers[len(parts.layers) - (tuning.num_top_layers or 0) :])


def _freeze(parts: EncoderParts, tuning: TuningConfig) -> None:
    """Freeze all parameters that the mode does not train; parameters that the family freezes stay frozen."""
    trained: set[int] = set()
    freeze = getattr(parts.feature_encoder, "_freeze_parameters", None)
    if freeze is not None and not tuning.train_feature_encoder:
        freeze()  # otherwise the feature encoder needs gradients of the waveform
    if tuning.mode == "full":
        trained = {id(parameter) for parameter in parts.backbone.parameters()}
        if parts.feature_encoder is not None and not tuning.train_feature_encoder:
            trained -= {id(parameter) for parameter in parts.feature_encoder.parameters()}
    elif tuning.mode == "partial":
        modules = [*_top_layers(parts, tuning), *parts.final_norms]
        trained = {id(parameter) for module in modules for parameter in module.parameters()}
    for name, parameter in parts.backbone.named_parameters():
        unused = name.endswith("masked_spec_embed") and parts.input_spec.min_frames == 1
        # Whisper's positions are sinusoids; transformers 5.23 does not freeze them in a loaded model.
        sinusoids = parts.config.model_type == "whisper" and name == "embed_positions.weight"
        if id(parameter) not in trained or unused or sinusoids:
            parameter.requires_grad_(False)


def _first_trained_layer(parts: EncoderParts, tuning: TuningConfig) -> int | None:
    """Return the lowest trained layer, if that layer's input is enough for the layers and the head above it."""
    first = len(parts.layers) - (tuning.num_top_layers or 0)
    # Only Whisper's encoder returns the states that it starts from.
    lowest = first if isinstance(parts.backbone, ClipLengthEncoder) else first + 1
    if tuning.mode != "partial" or parts.lowest_pooled_state < lowest or parts.config.model_type in _RESAMPLING:
        return None
    return first


def _cached_pooling(parts: EncoderParts) -> str | None:
    """Return how the states of a frozen encoder are pooled before they are cached; None: the head needs all frames."""
    if not isinstance(parts.model, SpeechClassifier):
        return "mean"
    return "mean+std" if parts.model.config.pooling == "statistics" else None


def _frozen_modules(parts: EncoderParts, tuning: TuningConfig) -> list[nn.Module]:
    """Return the modules without trained parameters; their dropout is turned off."""
    if tuning.mode == "probe":
        return list(parts.backbone.modules())
    if tuning.mode == "partial":
        trained = {id(module) for layer in _top_layers(parts, tuning) for module in layer.modules()}
        return [
            module for module in parts.backbone.modules() if id(module) not in trained and module is not parts.backbone
        ]
    if parts.feature_encoder is None or tuning.train_feature_encoder:
        return []
    return list(parts.feature_encoder.modules())


def _depths(parts: EncoderParts) -> dict[int, int]:
    """Return the depth of each parameter of the backbone, by its id; the top layer has depth 0."""
    count = len(parts.layers)
    depths = {id(parameter): count for parameter in parts.backbone.parameters()}
    for index, layer in enumerate(parts.layers):
        depths |= {id(parameter): count - 1 - index for parameter in layer.parameters()}
    return depths | {id(parameter): 0 for module in parts.final_norms for parameter in module.parameters()}


def _backbone_learning_rates(
    parts: EncoderParts, tuning: TuningConfig, depths: dict[int, int]
) -> list[tuple[list[nn.Parameter], float]]:
    """Return the trained parameters of the backbone by depth, with their learning rates."""
    by_depth: dict[int, list[nn.Parameter]] = {}
    for parameter in parts.backbone.parameters():
        if parameter.requires_grad:
            by_depth.setdefault(depths[id(parameter)], []).append(parameter)
    return [(by_depth[depth], tuning.learning_rate * tuning.layer_decay**depth) for depth in sorted(by_depth)]


def _stages(parts: EncoderParts, depths: dict[int, int]) -> list[list[nn.Parameter]]:
    stages: list[list[nn.Parameter]] = [[] for _ in range(max(depths.values()) + 1)]
    for parameter in parts.backbone.parameters():
        if parameter.requires_grad:
            stages[depths[id(parameter)]].append(parameter)
    return [stage for stage in stages if stage]


def _add_adapters(parts: EncoderParts, tuning: TuningConfig) -> Any:
    """Add low-rank adapters to the layers, in place."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise InputError("tuning.mode lora needs peft: pip install peft") from error
    names = {id(module): name for name, module in parts.model.named_modules()}
    targets = [
        names[id(module)]
        for layer in parts.layers
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear)
        and (tuning.lora_targets == "all" or "attention" in name.lower() or "attn" in name.lower())
    ]
    config = LoraConfig(
        r=tuning.lora_rank, lora_alpha=tuning.lora_alpha, lora_dropout=tuning.lora_dropout, target_modules=targets
    )
    head = parts.head
    adapted = get_peft_model(parts.model, config)
    for parameter in head:
        parameter.requires_grad_(True)
    return adapted
