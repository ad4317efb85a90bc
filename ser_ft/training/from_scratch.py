"""Prepares our own networks and image backbones for training: their features, and which parameters are trained."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from accelerate import PartialState
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput

from ..config.schema import AugmentConfig, TuningConfig
from ..dataloading.batches import FrameBatches, PooledBatches
from ..dataloading.cache import FlatCache, JoinedCache, cache_folder, compute_frames, update_hash
from ..dataloading.online_augmentation import OnlineAugmentation
from ..dataloading.standardization import Standardizer
from ..models.features import SpectralFeatureExtractor
from ..models.spectrogram import SpectrogramForAudioClassification, parameters_by_stage
from ..utils.errors import InputError
from ..utils.progress import progress_bar
from .trainer import TrainableModel

if TYPE_CHECKING:
    import datasets

_BATCH = 16


def frame_batches(
    extractor: SpectralFeatureExtractor,
    tables: Sequence[datasets.Dataset],
    train_rows: np.ndarray,
    augment: AugmentConfig,
    *,
    seed: int = 0,
    show_progress: bool = False,
) -> FrameBatches:
    """Compute the features of all clips, fit their standardization, and set up their augmentation.

    `tables` are the prepared table and, after it, the augmented copies of training clips, if any; row numbers
    count through all of them.

    Raises:
        InputError: the augmentation does not fit the features.
    """
    if augment.spectral is not None and extractor.descriptors != ["log-mel"]:
        descriptors = ", ".join(extractor.descriptors)
        raise InputError(
            f"augment.spectral applies to log-mel spectrograms; this model's descriptors are {descriptors}"
        )
    if augment.spectral is not None and extractor.normalize in ("clip", "clip-mean"):
        raise InputError(f"augment.spectral: model.feature_extractor.normalize must be none, not {extractor.normalize}")
    frames = JoinedCache([compute_frames(table, extractor, show_progress) for table in tables])
    speakers = [name for table in tables for name in table["speaker"]]
    # Copies add nothing about a speaker: the statistics are those of the original clips.
    original = frames.parts[0]
    standardizer = Standardizer.fit(
        extractor, original, speakers[: len(original)], train_rows[train_rows < len(original)]
    )
    if standardizer is not None and len(tables) > 1:
        groups = dict(zip(speakers, standardizer.groups, strict=False))
        standardizer = Standardizer(
            standardizer.mean, standardizer.scale, np.array([groups[name] for name in speakers])
        )
    seconds = np.concatenate([np.array(table["duration"]) for table in tables])
    augmentation = OnlineAugmentation.from_config(tables[0], augment, seed)
    return FrameBatches(frames, seconds, extractor, standardizer, augmentation)


def prepare_image_backbone(
    model: SpectrogramForAudioClassification,
    batch_source: FrameBatches,
    tables: Sequence[datasets.Dataset],
    tuning: TuningConfig,
    head_learning_rate: float,
    device: torch.device,
    *,
    show_progress: bool = False,
) -> TrainableModel:
    """Prepare an image backbone: stages are frozen, the output of a frozen backbone is cached, rates are assigned.

    Raises:
        InputError: the backbone has fewer stages than the recipe asks for.
    """
    stages = parameters_by_stage(model.backbone)[::-1]
    num_trained = {"partial": tuning.num_top_layers or 0, "full": len(stages)}.get(tuning.mode, 0)
    if num_trained > len(stages):
        raise InputError(f"tuning.num_top_layers is {num_trained}, but the backbone has {len(stages)} stages")
    trained, frozen = stages[:num_trained], stages[num_trained:]
    for stage in frozen:
        for parameter in stage:
            parameter.requires_grad_(False)
    learning_rates = [
        (list(model.classifier.parameters()), head_learning_rate),
        *((stage, tuning.learning_rate * tuning.layer_decay**depth) for depth, stage in enumerate(trained)),
    ]
    if tuning.mode == "probe" and tuning.cache:
        _broadcast_weights(cast(nn.Module, model).to(device))
        pooled = JoinedCache(
            [_pooled_outputs(model, batch_source, tables, index, device, show_progress) for index in range(len(tables))]
        )
        cached_source = PooledBatches(pooled, batch_source.seconds)
        return TrainableModel(_PooledHead(model), cached_source, learning_rates, lambda: model)
    return TrainableModel(
        model,
        batch_source,
        learning_rates,
        lambda: model,
        trained if tuning.unfreeze_every else [],
        _frozen_modules(model, frozen) if tuning.mode != "full" else [],
    )


def _frozen_modules(model: SpectrogramForAudioClassification, frozen: Sequence[list[nn.Parameter]]) -> list[nn.Module]:
    """Return the modules of frozen stages: their normalization layers keep the statistics of the pretraining."""
    frozen_ids = {id(parameter) for stage in frozen for parameter in stage}
    modules = [(module, list(module.parameters())) for module in model.backbone.modules()]
    return [module for module, values in modules if values and all(id(value) in frozen_ids for value in values)]


def _broadcast_weights(model: nn.Module) -> None:
    """Give all processes the weights of the first: random weights differ between processes."""
    if PartialState().num_processes > 1:
        for value in model.state_dict().values():
            torch.distributed.broadcast(value, src=0)


def _pooled_outputs(
    model: SpectrogramForAudioClassification,
    batch_source: FrameBatches,
    tables: Sequence[datasets.Dataset],
    index: int,
    device: torch.device,
    show_progress: bool,
) -> FlatCache:
    """Return the pooled output of a frozen backbone for each clip of a table, shape (1, width), from the cache."""
    table, first_row = tables[index], sum(map(len, tables[:index]))
    # The folder's name is a hash of the table, and of the extractor's settings and code.
    frames = cast(JoinedCache, batch_source.frames).parts[index].folder.name
    digest = hashlib.sha256(repr((frames, model.config.backbone, model.config.patch_frames)).encode())
    if (standardizer := batch_source.standardizer) is not None:
        for values in (standardizer.mean, standardizer.scale, standardizer.groups):
            digest.update(values.tobytes())
    update_hash(digest, model.backbone.state_dict())

    def arrays(rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        model.eval()
        ordered = rows[np.argsort(batch_source.lengths[first_row + rows], kind="stable")]
        with (
            progress_bar(
                total=len(rows), desc=model.config.backbone, unit=" clips", show_progress=show_progress
            ) as progress,
            torch.no_grad(),
        ):
            for start in range(0, len(ordered), _BATCH):
                batch = ordered[start : start + _BATCH]
                inputs = batch_source.collate((first_row + batch).tolist())
                features, mask = inputs["input_features"].to(device), inputs["attention_mask"].to(device)
                pooled = model.encode(features, mask.sum(dim=1))
                yield from zip(batch.tolist(), pooled[:, None].float().cpu().numpy(), strict=True)
                progress.update(len(batch))

    return FlatCache.make(cache_folder(table, digest.hexdigest()), len(table), arrays)


class _PooledHead(nn.Module):
    """The head of a network, applied to the pooled output of its frozen backbone."""

    def __init__(self, model: SpectrogramForAudioClassification) -> None:
        super().__init__()
        self.dropout, self.classifier = model.head_dropout, model.classifier

    def forward(self, states: torch.Tensor) -> SequenceClassifierOutput:
        return SequenceClassifierOutput(logits=self.classifier(self.dropout(states[:, 0])))
