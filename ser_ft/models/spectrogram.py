"""Image backbones on log-mel spectrograms: convolutional networks of timm, such as VGG, and AlexNet."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import re
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import AutoConfig, AutoFeatureExtractor, AutoModelForAudioClassification

from .classifier import FrameClassifier, FrameClassifierConfig
from .features import SpectralFeatureExtractor

ALEXNET = "torchvision/alexnet"
# Channels of AlexNet's last feature map, and spectrogram frames per frame of the map.
_ALEXNET_CHANNELS, _ALEXNET_REDUCTION = 256, 32
# Smallest image that backbones take, in pixels.
_MIN_SIZE = 64
_Count = TypeVar("_Count", int, torch.Tensor)


class SpectrogramConfig(FrameClassifierConfig):
    """Configuration of `SpectrogramForAudioClassification`.

    Args:
        backbone: timm's name of a convolutional network, such as vgg16_bn.tv_in1k, or torchvision/alexnet.
        patch_frames: length in frames of the patches that the spectrogram is cut into, for example 96 as in VGGish
            (Hershey et al. 2017); None: the spectrogram is not cut.
        head_dropout: dropout rate before the last layer.
    """

    model_type = "ser_ft_spectrogram"
    backbone: str = "vgg16_bn.tv_in1k"
    feature_size: int = 64
    patch_frames: int | None = None
    head_dropout: float = 0.2

    def __post_init__(self, **kwargs: Any) -> None:
        # timm takes other names for addresses of folders and repositories.
        if self.backbone != ALEXNET and not re.fullmatch(r"[\w.-]+", self.backbone):
            raise ValueError(f"backbone must be the name of a network of timm, not {self.backbone!r}")
        super().__post_init__(**kwargs)


class SpectrogramForAudioClassification(FrameClassifier):
    """The convolutional stages of an image network on a log-mel spectrogram, mean over time, and a linear layer.

    The spectrogram is an image with one channel. In evaluation each clip is padded only to a whole frame of the feature
    map, so that predictions do not depend on the other clips of the batch. `backbone` has the convolutional stages with
    their initial weights; None: they are created with random weights.
    """

    config_class = SpectrogramConfig

    def __init__(self, config: SpectrogramConfig, backbone: nn.Module | None = None) -> None:
        super().__init__(config)
        if backbone is None:
            backbone = make_alexnet() if config.backbone == ALEXNET else make_timm(config.backbone)
        for module in backbone.modules():
            # transformers does not restore non-persistent buffers, such as the filters of a blur pool.
            module._non_persistent_buffers_set.clear()
        self.backbone = backbone
        channels, self.reduction = channels_and_reduction(backbone)
        self.add_head(channels, config.head_dropout)

    def encode(self, features: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        """Return the mean of the feature map over time, in which each frame has the weight of its part of the clip."""
        patch = self.config.patch_frames
        if patch is not None:
            return self._patches(features, lengths, patch)
        if lengths is None:
            return self._mean(features, None, self.padded_length(features.shape[1]))
        padded = self.padded_length(lengths)
        if self.training or len(set(padded.tolist())) == 1:
            return self._mean(features, lengths, int(padded.max()))
        vectors: torch.Tensor | None = None
        for length in padded.unique().tolist():
            rows = padded == length
            part = self._mean(features[rows], lengths[rows], length)
            vectors = part.new_zeros(len(padded), part.shape[1]) if vectors is None else vectors
            vectors[rows] = part
        assert vectors is not None
        return vectors

    def padded_length(self, lengths: _Count) -> _Count:
        """Return the length that clips are padded to: whole frames of the feature map, at least one."""
        padded = (lengths + self.reduction - 1) // self.reduction * self.reduction
        return padded.clamp(min=_MIN_SIZE) if isinstance(padded, torch.Tensor) else max(padded, _MIN_SIZE)

    def _mean(self, features: torch.Tensor, lengths: torch.Tensor | None, frames: int) -> torch.Tensor:
        hidden = self._map(_resize(features, frames))
        if lengths is None:
            lengths = torch.full((1,), features.shape[1], device=features.device)
        weights = self._weights(lengths, hidden.shape[2], frames)
        return ((hidden * weights[:, None]).sum(dim=2) / weights.sum(dim=1, keepdim=True)).to(hidden.dtype)

    def _patches(self, features: torch.Tensor, lengths: torch.Tensor | None, patch: int) -> torch.Tensor:
        clips, size = features.shape[0], features.shape[2]
        count = (features.shape[1] + patch - 1) // patch
        starts = patch * torch.arange(count, device=features.device)
        ends = features.shape[1] if lengths is None else lengths[:, None]
        inside = (ends - starts).clamp(min=0, max=patch).expand(clips, count).flatten()
        patches, nonempty = _resize(features, count * patch).reshape(clips * count, patch, size), inside > 0
        if lengths is not None:
            patches, inside = patches[nonempty], inside[nonempty]
        frames = self.padded_length(patch)
        hidden = self._map(_resize(patches, frames))
        weights = self._weights(inside, hidden.shape[2], frames)
        sums, totals = (hidden * weights[:, None]).sum(dim=2), weights.sum(dim=1)
        if lengths is not None:
            sums, totals = _scatter(sums, nonempty), _scatter(totals, nonempty)
        total = totals.reshape(clips, count).sum(dim=1, keepdim=True)
        return (sums.reshape(clips, count, -1).sum(dim=1) / total).to(hidden.dtype)

    def _map(self, features: torch.Tensor) -> torch.Tensor:
        """Return the feature map of (clips, frames, mels), averaged over frequency: (clips, channels, map frames)."""
        missing = max(0, _MIN_SIZE - features.shape[2])
        image = nn.functional.pad(features.transpose(1, 2)[:, None], (0, 0, 0, missing))
        return feature_map(self.backbone, image).mean(dim=2)

    def _weights(self, lengths: torch.Tensor, map_frames: int, frames: int) -> torch.Tensor:
        """Return the fraction of each frame of the feature map that the clip covers, shape (clips, map frames)."""
        ratio = frames / map_frames
        ends = lengths[:, None].float() / ratio - torch.arange(map_frames, device=lengths.device)
        return ends.clamp(min=0.0, max=1.0)


def _scatter(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    scattered = values.new_zeros(len(mask), *values.shape[1:])
    scattered[mask] = values
    return scattered


def _resize(features: torch.Tensor, frames: int) -> torch.Tensor:
    """Pad or cut (clips, frames, mels) to a number of frames."""
    return nn.functional.pad(features, (0, 0, 0, frames - features.shape[1]))


def make_timm(name: str, pretrained: bool = False) -> nn.Module:
    """Create the convolutional stages of a timm network (NAME, hf-hub:NAME or local-dir:FOLDER) for one channel.

    timm adds up the first layer's weights of the three color channels.
    """
    import timm

    stages: nn.Module = timm.create_model(name, pretrained, in_chans=1, features_only=True, out_indices=(-1,))
    return stages


def make_alexnet(weights: dict[str, torch.Tensor] | None = None) -> nn.Module:
    """Create the convolutional stages of AlexNet, which timm lacks, for images with one channel.

    `weights` is the state dict of torchvision's `alexnet`; None: random weights.
    """
    from torchvision.models import alexnet

    stages: nn.Module = alexnet(weights=None).features
    first: Any = stages[0]  # type: ignore[index]
    single_channel: Any = nn.Conv2d(1, first.out_channels, first.kernel_size, first.stride, first.padding)
    if weights is not None:
        stages.load_state_dict({k.removeprefix("features."): v for k, v in weights.items() if k.startswith("features")})
        with torch.no_grad():
            single_channel.weight.copy_(first.weight.sum(dim=1, keepdim=True))
            single_channel.bias.copy_(first.bias)
    stages[0] = single_channel  # type: ignore[index,operator]
    return stages


def feature_map(backbone: nn.Module, image: torch.Tensor) -> torch.Tensor:
    """Return the last feature map of a backbone, shape (images, channels, height, width)."""
    output = backbone(image)
    last: torch.Tensor = output[-1] if isinstance(output, list | tuple) else output
    return last


def channels_and_reduction(backbone: nn.Module) -> tuple[int, int]:
    """Return the channels of a backbone's last feature map, and the spectrogram frames per frame of the map."""
    info: Any = getattr(backbone, "feature_info", None)
    if info is None:
        return _ALEXNET_CHANNELS, _ALEXNET_REDUCTION
    return info.channels()[-1], info.reduction()[-1]


def check_accepts_any_size(backbone: nn.Module) -> None:
    """Refuse a backbone that takes images of one size only, as most transformers do, or returns no feature map."""
    training = backbone.training
    try:
        with torch.no_grad():
            images = [torch.zeros(1, 1, _MIN_SIZE, frames) for frames in (_MIN_SIZE, 3 * _MIN_SIZE)]
            shapes = [feature_map(backbone.eval(), image).shape for image in images]
        fits = all(len(shape) == 4 and shape[1] == channels_and_reduction(backbone)[0] for shape in shapes)
    except (AssertionError, RuntimeError):
        fits = False
    backbone.train(training)
    if not fits:
        raise ValueError(
            "the backbone does not take images of any size: use a convolutional network, such as vgg16_bn.tv_in1k"
        )


def parameters_by_stage(backbone: nn.Module) -> list[list[nn.Parameter]]:
    """Return a backbone's parameters by stage, the lowest first; layers with feature maps of one size are a stage."""
    stages: list[list[nn.Parameter]] = [[]]
    widths: list[int] = []
    handles = []

    def record(module: nn.Module, _: Any, output: Any) -> None:
        # The image is square, so that this is its width even where channels come last, as inside ConvNeXt.
        width = output.shape[-2] if isinstance(output, torch.Tensor) and output.ndim == 4 else 1
        # Squeeze and excitation, which pools the whole image, belongs to the stage around it.
        if width > 1 and (not widths or width < widths[-1]):
            widths.append(width)
            if stages[-1]:
                stages.append([])
        stages[-1].extend(module.parameters(recurse=False))

    for module in backbone.modules():
        if next(module.parameters(recurse=False), None) is not None:
            handles.append(module.register_forward_hook(record))
    training = backbone.training
    with torch.no_grad():
        example = next(backbone.parameters())
        feature_map(backbone.eval(), example.new_zeros(1, 1, 128, 128))
    backbone.train(training)
    for handle in handles:
        handle.remove()
    recorded = {id(parameter) for stage in stages for parameter in stage}
    stages[0].extend(parameter for parameter in backbone.parameters() if id(parameter) not in recorded)
    return stages


AutoConfig.register(SpectrogramConfig.model_type, SpectrogramConfig)
AutoModelForAudioClassification.register(SpectrogramConfig, SpectrogramForAudioClassification)
AutoFeatureExtractor.register(SpectrogramConfig, SpectralFeatureExtractor)
SpectrogramConfig.register_for_auto_class()
SpectrogramForAudioClassification.register_for_auto_class("AutoModelForAudioClassification")
