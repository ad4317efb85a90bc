"""What is trained of a model, and at which rate: the head alone, the top layers, all of it, or low-rank adapters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel, SequenceFeatureExtractor

from ..config.schema import Recipe, TuningConfig
from ..dataloading.batches import BatchSource, HiddenStateBatches, PooledBatches, WaveformBatches
from ..dataloading.cache import JoinedCache
from ..dataloading.encoder_hooks import EncoderHooks, PooledHead
from ..dataloading.hidden_states import compute_hidden_states
from ..dataloading.online_augmentation import OnlineAugmentation
from ..models import encoders
from ..models.encoders import EncoderParts
from ..utils.errors import InputError

# Families whose layers see a clip at another frame rate than the model gives.
_RESAMPLING = ("sew", "sew-d")
# Seconds: trained on a CPU, attention over no longer clips takes a third of the time as plain products of matrices that
# it takes fused (sdpa); over longer ones they would take too much memory.
_SHORT = 12.0


@dataclass
class TrainableModel:
    """What the loop trains.

    Attributes:
        model: called with a batch, it gives an output with `logits`. feed: makes the batches.
        groups: of parameters, with their rates and weight decay, as optimisers of torch take them; the head's first.
        stages: what gradual unfreezing frees, one after the other, top first.
        still: frozen modules, which stay in evaluation mode.
        finish: puts the stock model together again, whole, to be saved; nothing can be trained after it.
    """

    model: nn.Module
    batch_source: BatchSource
    groups: list[dict[str, Any]]
    finish: Callable[[], PreTrainedModel]
    stages: list[list[nn.Parameter]] = field(default_factory=list)
    still: list[nn.Module] = field(default_factory=list)


def prepare_encoder(
    model: PreTrainedModel,
    extractor: SequenceFeatureExtractor,
    tables: Sequence[datasets.Dataset],
    recipe: Recipe,
    device: torch.device,
    shown: bool,
) -> TrainableModel:
    """Make a pretrained speech encoder ready: freeze, take the frozen states, put adapters in, choose the rates.

    Args:
        model: as `ser_ft.models.encoders.load_encoder` gives it. extractor: its own.
        tables: the prepared table; behind it, the augmented copies of training clips, where there are any. The feed's
            rows are those of all of them, one behind the other.
        recipe: `tuning`, `augment` and `train` are read. device: where frozen states are computed. shown: show bars.

    Raises:
        InputError: the settings do not fit the family, or the disk is too small for the states.
    """
    parts, tuning = EncoderParts.of(model), recipe.tuning
    _check(parts, tuning)
    _freeze(parts, tuning)
    trained: nn.Module = model
    rig: EncoderHooks | None = None
    feed: BatchSource
    first = _first_trained(parts, tuning)
    table = tables[0] if len(tables) == 1 else datasets.concatenate_datasets(list(tables))
    kept = tuning.cache and not recipe.augment.online

    def states(what: str | int) -> JoinedCache:
        return JoinedCache([compute_hidden_states(one, parts, extractor, what, shown, device) for one in tables])

    if kept and tuning.mode == "probe":
        feed, trained = PooledBatches(states("mean"), np.array(table["duration"])), PooledHead(parts)
    elif kept and first is not None and first > 0:
        feed, rig = (
            HiddenStateBatches(states(first), table, extractor, parts.input_spec),
            EncoderHooks(parts, layer=first),
        )
    elif kept and parts.feature_encoder is not None and not tuning.train_feature_encoder:
        feed, rig = (
            HiddenStateBatches(states("feature_encoder"), table, extractor, parts.input_spec),
            EncoderHooks(parts, skip_feature_encoder=True),
        )
    else:
        feed, rig = (
            WaveformBatches(
                table, extractor, parts.input_spec, OnlineAugmentation.from_config(table, recipe.augment, recipe.seed)
            ),
            EncoderHooks(parts),
        )
    restore = fast_attention(model, feed, device)
    adapted = _adapt(parts, tuning) if tuning.mode == "lora" else None
    if recipe.train.compile:
        for layer in parts.layers:
            layer.compile(dynamic=True)

    def finish() -> PreTrainedModel:
        if rig is not None:
            rig.remove()
        restore()
        return model if adapted is None else adapted.merge_and_unload()

    depths = _depths(parts)
    return TrainableModel(
        trained,
        feed,
        parameter_groups(_rates(parts, tuning, depths, recipe.train.learning_rate), recipe.train.weight_decay),
        finish,
        _stages(parts, depths) if tuning.unfreeze_every else [],
        _still(parts, tuning),
    )


def find_encoder(recipe: Recipe, classes: tuple[str, ...]) -> encoders.EncoderSpec:
    """Find the encoder that a recipe names, with the settings that its tuning asks for.

    Raises:
        InputError: as `ser_ft.models.encoders.find_encoder` does.
    """
    found = encoders.find_encoder(
        recipe.model.name,
        classes,
        recipe.model.config_overrides,
        dropout=recipe.tuning.dropout,
        weighted_layer_sum=recipe.tuning.mode == "probe",
        revision=recipe.model.revision,
    )
    if recipe.tuning.mode in ("probe", "partial") and hasattr(found.config, "mask_time_prob"):
        # Masks are drawn below the frozen layers, whose states are computed once.
        found.config.apply_spec_augment = False
    return found


def fast_attention(model: PreTrainedModel, feed: BatchSource, device: torch.device) -> Callable[[], None]:
    """Choose the attention that a device trains fastest with; return what puts the model's own back."""
    own = model.config._attn_implementation
    if device.type == "cpu" and own == "sdpa" and feed.seconds.max() <= _SHORT:
        model.set_attn_implementation("eager")
    return lambda: model.set_attn_implementation(own)


def _check(parts: EncoderParts, tuning: TuningConfig) -> None:
    count = len(parts.layers)
    if tuning.num_top_layers is not None and tuning.num_top_layers > count:
        raise InputError(f"tuning.num_top_layers is {tuning.num_top_layers}, but the encoder has {count} layers")
    if tuning.train_feature_encoder and parts.feature_encoder is None:
        raise InputError("tuning.train_feature_encoder: this family has no convolutional encoder over the wave")


def _freeze(parts: EncoderParts, tuning: TuningConfig) -> None:
    """Let gradients reach what the mode trains, and nothing else; what the family itself freezes stays frozen."""
    kept: set[int] = set()
    freeze = getattr(parts.feature_encoder, "_freeze_parameters", None)
    if freeze is not None and not tuning.train_feature_encoder:
        freeze()  # without it they ask for gradients of the sound
    if tuning.mode == "full":
        kept = {id(parameter) for parameter in parts.backbone.parameters()}
        if parts.feature_encoder is not None and not tuning.train_feature_encoder:
            kept -= {id(parameter) for parameter in parts.feature_encoder.parameters()}
    elif tuning.mode == "partial":
        trained = [*parts.layers[len(parts.layers) - (tuning.num_top_layers or 0) :], *parts.final_norms]
        kept = {id(parameter) for module in trained for parameter in module.parameters()}
    for name, parameter in parts.backbone.named_parameters():
        unused = name.endswith("masked_spec_embed") and parts.input_spec.min_frames == 1
        # Whisper's positions are sines, which transformers 5.23 forgets to freeze in what it loads.
        sines = parts.model.config.model_type == "whisper" and name == "embed_positions.weight"
        if id(parameter) not in kept or unused or sines:
            parameter.requires_grad_(False)


def _first_trained(parts: EncoderParts, tuning: TuningConfig) -> int | None:
    """Return the lowest layer that is trained, if what enters it is all that the rest needs."""
    if tuning.mode != "partial" or parts.uses_weighted_layer_sum or parts.model.config.model_type in _RESAMPLING:
        return None
    return len(parts.layers) - (tuning.num_top_layers or 0)


def _still(parts: EncoderParts, tuning: TuningConfig) -> list[nn.Module]:
    """Return the modules whose dropout is off, for nothing in them is trained."""
    if tuning.mode == "probe":
        return list(parts.backbone.modules())
    if tuning.mode == "partial":
        top = {
            id(one)
            for layer in parts.layers[len(parts.layers) - (tuning.num_top_layers or 0) :]
            for one in layer.modules()
        }
        return [one for one in parts.backbone.modules() if id(one) not in top and one is not parts.backbone]
    return (
        [] if parts.feature_encoder is None or tuning.train_feature_encoder else list(parts.feature_encoder.modules())
    )


def _depths(parts: EncoderParts) -> dict[int, int]:
    """Return how deep below the top each of the backbone's parameters lies, by its id: the top layer's are at 0."""
    count = len(parts.layers)
    depths = {id(parameter): count for parameter in parts.backbone.parameters()}
    for place, layer in enumerate(parts.layers):
        depths |= {id(parameter): count - 1 - place for parameter in layer.parameters()}
    return depths | {id(parameter): 0 for module in parts.final_norms for parameter in module.parameters()}


def _rates(
    parts: EncoderParts, tuning: TuningConfig, depths: dict[int, int], head_rate: float
) -> list[tuple[list[nn.Parameter], float]]:
    """Return the trained parameters and their rates, the head's first; lower layers get lower ones."""
    by_depth: dict[int, list[nn.Parameter]] = {}
    for parameter in parts.backbone.parameters():
        if parameter.requires_grad:
            by_depth.setdefault(depths[id(parameter)], []).append(parameter)
    rates = [(members, tuning.learning_rate * tuning.layer_decay**depth) for depth, members in sorted(by_depth.items())]
    return [(parts.head, head_rate), *rates]


def parameter_groups(rates: list[tuple[list[nn.Parameter], float]], decay: float) -> list[dict[str, Any]]:
    """Leave biases and normalisation out of weight decay."""
    groups = []
    for members, rate in rates:
        for matrices in (True, False):
            chosen = [one for one in members if one.requires_grad and (one.ndim > 1) == matrices]
            if chosen:
                groups.append({"params": chosen, "lr": rate, "weight_decay": decay if matrices else 0.0})
    return groups


def _stages(parts: EncoderParts, depths: dict[int, int]) -> list[list[nn.Parameter]]:
    stages: list[list[nn.Parameter]] = [[] for _ in range(max(depths.values()) + 1)]
    for parameter in parts.backbone.parameters():
        if parameter.requires_grad:
            stages[depths[id(parameter)]].append(parameter)
    return [stage for stage in stages if stage]


def _adapt(parts: EncoderParts, tuning: TuningConfig) -> Any:
    """Put low-rank adapters into the layers, in place."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise InputError("tuning.mode lora needs peft: pip install peft") from error
    names = _adapted(parts, tuning)
    settings = LoraConfig(
        r=tuning.lora_rank, lora_alpha=tuning.lora_alpha, lora_dropout=tuning.lora_dropout, target_modules=names
    )
    head = parts.head
    adapted = get_peft_model(parts.model, settings)
    for parameter in head:
        parameter.requires_grad_(True)
    return adapted


def _adapted(parts: EncoderParts, tuning: TuningConfig) -> list[str]:
    """Return the names of the linear layers that get adapters."""
    places = {id(module): name for name, module in parts.model.named_modules()}
    chosen = []
    for layer in parts.layers:
        for name, module in layer.named_modules():
            inside = "attention" in name.lower() or "attn" in name.lower()
            if isinstance(module, nn.Linear) and (inside or tuning.lora_targets == "all"):
                chosen.append(places[id(module)])
    return chosen
