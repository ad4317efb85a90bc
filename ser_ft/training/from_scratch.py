"""Our own networks and image backbones made ready to be trained: their frames, and what of them is trained."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from accelerate import PartialState
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from ..config.schema import Recipe, TuningConfig
from ..dataloading.batches import FrameBatches, PooledBatches
from ..dataloading.cache import FlatCache, JoinedCache, cache_folder, compute_frames, update_hash
from ..dataloading.online_augmentation import OnlineAugmentation
from ..dataloading.standardization import Standardizer
from ..models.compact import CompactCnnForAudioClassification
from ..models.features import SpectralFeatureExtractor
from ..models.spectrogram import SpectrogramForAudioClassification, parameters_by_stage
from ..utils.errors import InputError
from ..utils.progress import progress_bar
from .finetuning import TrainableModel, parameter_groups

if TYPE_CHECKING:
    import datasets

_BATCH = 16


def prepare_network(
    model: PreTrainedModel,
    extractor: SpectralFeatureExtractor,
    tables: Sequence[datasets.Dataset],
    train: np.ndarray,
    recipe: Recipe,
    shown: bool,
) -> TrainableModel:
    """Make one of our own networks ready: all of it is trained, on frames that its extractor made once.

    Args:
        model, extractor: as `ser_ft.models.registry.build_model` gives them; what the extractor fits, it fits here.
        tables: the prepared table; behind it, the augmented copies of training clips, where there are any.
        train: rows of the clips that are trained on, of all tables one behind the other.
        recipe: `train` and `augment` are read. shown: show progress.

    Raises:
        InputError: the augmentation does not fit the network or its features.
    """
    if recipe.augment.mixup is not None and isinstance(model, CompactCnnForAudioClassification):
        raise InputError("augment.mixup would mix levels before compact-cnn has measured them: leave it out")
    feed = frame_feed(extractor, tables, train, recipe, shown)
    groups = parameter_groups([(list(model.parameters()), recipe.train.learning_rate)], recipe.train.weight_decay)
    return TrainableModel(model, feed, groups, lambda: model)


def prepare_image_backbone(
    model: SpectrogramForAudioClassification,
    extractor: SpectralFeatureExtractor,
    tables: Sequence[datasets.Dataset],
    train: np.ndarray,
    recipe: Recipe,
    device: torch.device,
    shown: bool,
) -> TrainableModel:
    """Make an image backbone ready: freeze, sum frozen clips up once, choose the rates by stage.

    Args:
        device: where frozen clips are summed up; for the others see `prepare_network`.

    Raises:
        InputError: more stages are asked for than there are.
    """
    tuning, feed = recipe.tuning, frame_feed(extractor, tables, train, recipe, shown)
    stages = parameters_by_stage(model.backbone)[::-1]
    trained = _trained_stages(tuning, stages)
    for stage in stages[trained:]:
        for parameter in stage:
            parameter.requires_grad_(False)
    rates = [(list(model.classifier.parameters()), recipe.train.learning_rate)]
    for depth, stage in enumerate(stages[:trained]):
        rates.append((stage, tuning.learning_rate * tuning.layer_decay**depth))
    groups = parameter_groups(rates, recipe.train.weight_decay)
    if tuning.mode == "probe" and tuning.cache:
        _made_alike(cast(nn.Module, model).to(device))
        sums = JoinedCache([_sums_of(model, feed, tables, place, device, shown) for place in range(len(tables))])
        return TrainableModel(_Head(model), PooledBatches(sums, feed.seconds), groups, lambda: model)
    return TrainableModel(
        model,
        feed,
        groups,
        lambda: model,
        stages[:trained] if tuning.unfreeze_every else [],
        _still(model, stages[trained:], tuning),
    )


def frame_feed(
    extractor: SpectralFeatureExtractor,
    tables: Sequence[datasets.Dataset],
    train: np.ndarray,
    recipe: Recipe,
    shown: bool,
) -> FrameBatches:
    """Take the frames of all clips, standardise them as the extractor asks, draw anew what the recipe asks."""
    if recipe.augment.spectral is not None and extractor.descriptors != ["log-mel"]:
        raise InputError(
            f"augment.spectral is of log-mel spectrograms: {recipe.model.name} hears {', '.join(extractor.descriptors)}"
        )
    if recipe.augment.spectral is not None and extractor.normalize in ("clip", "clip-mean"):
        raise InputError(f"augment.spectral: model.feature_extractor.normalize must be none, not {extractor.normalize}")
    frames = JoinedCache([compute_frames(table, extractor, shown) for table in tables])
    speakers = [name for table in tables for name in table["speaker"]]
    # Copies say no more of a speaker than the clips do that they were made of.
    own = frames.parts[0]
    fitted = Standardizer.fit(extractor, own, speakers[: len(own)], train[train < len(own)])
    if fitted is not None and len(tables) > 1:
        groups = dict(zip(speakers, fitted.groups, strict=False))
        fitted = Standardizer(fitted.mean, fitted.scale, np.array([groups[name] for name in speakers]))
    seconds = np.concatenate([np.array(table["duration"]) for table in tables])
    return FrameBatches(
        frames, seconds, extractor, fitted, OnlineAugmentation.from_config(tables[0], recipe.augment, recipe.seed)
    )


def _trained_stages(tuning: TuningConfig, stages: list[list[nn.Parameter]]) -> int:
    if tuning.mode == "partial":
        wanted = tuning.num_top_layers or 0
        if wanted > len(stages):
            raise InputError(f"tuning.num_top_layers is {wanted}, but the backbone has {len(stages)} stages")
        return wanted
    return len(stages) if tuning.mode == "full" else 0


def _still(model: SpectrogramForAudioClassification, frozen: list[list[nn.Parameter]], tuning: TuningConfig) -> Any:
    """Return the modules of frozen stages: their normalisation keeps the statistics that it was pretrained with."""
    if tuning.mode == "full":
        return []
    members = {id(parameter) for stage in frozen for parameter in stage}
    inside = [one for one in model.backbone.modules() if next(one.parameters(), None) is not None]
    return [one for one in inside if all(id(parameter) in members for parameter in one.parameters())]


def _made_alike(model: nn.Module) -> None:
    """Give all processes the first one's weights: random ones are each process's own."""
    if PartialState().num_processes > 1:
        for value in model.state_dict().values():
            torch.distributed.broadcast(value, src=0)


def _sums_of(
    model: SpectrogramForAudioClassification,
    feed: FrameBatches,
    tables: Sequence[datasets.Dataset],
    place: int,
    device: torch.device,
    shown: bool,
) -> FlatCache:
    """Return what a frozen backbone sums each clip of a table up to, shape (1, width), computed once and kept."""
    table, first = tables[place], sum(len(table) for table in tables[:place])
    # Frames are kept under a name that tells their table, settings and code.
    frames = cast(JoinedCache, feed.frames).parts[place].folder.name
    found = hashlib.sha256(repr((frames, model.config.backbone, model.config.patch_frames)).encode())
    if (standard := feed.standardizer) is not None:
        for values in (standard.mean, standard.scale, standard.groups):
            found.update(values.tobytes())
    update_hash(found, model.backbone.state_dict())

    def arrays(rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        model.eval()
        ordered = rows[np.argsort(feed.lengths[first + rows], kind="stable")]
        with (
            progress_bar(total=len(rows), desc=model.config.backbone, unit=" clips", shown=shown) as progress,
            torch.no_grad(),
        ):
            for start in range(0, len(ordered), _BATCH):
                batch = ordered[start : start + _BATCH]
                inputs = {name: value.to(device) for name, value in feed.collate((first + batch).tolist()).items()}
                sums = model.encode(inputs["input_features"], inputs["attention_mask"].sum(dim=1))
                yield from zip(batch.tolist(), sums[:, None].float().cpu().numpy(), strict=True)
                progress.update(len(batch))

    return FlatCache.make(cache_folder(table, found.hexdigest()), len(table), arrays)


class _Head(nn.Module):
    """The head of a network, on clips that its frozen backbone has summed up."""

    def __init__(self, model: SpectrogramForAudioClassification) -> None:
        super().__init__()
        self.dropout, self.classifier = model.head_dropout, model.classifier

    def forward(self, states: torch.Tensor) -> SequenceClassifierOutput:
        return SequenceClassifierOutput(logits=self.classifier(self.dropout(states[:, 0])))
