"""Image backbones (VGG and any other convolutional network of timm, and AlexNet) that look at log-mel spectrograms."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import nn
from transformers import AutoConfig, AutoFeatureExtractor, AutoModelForAudioClassification, PreTrainedConfig

from .classifier import FrameClassifier, check_sizes
from .features import SpectralFeatureExtractor

ALEXNET = "torchvision/alexnet"
# Of AlexNet's convolutions: channels of the last, and pixels of the spectrogram for one of its map.
_ALEXNET_WIDTH, _ALEXNET_REDUCTION = 256, 32
_LEAST = 64
_Count = TypeVar("_Count", int, torch.Tensor)


class SpectrogramConfig(PreTrainedConfig):
    """Configuration of `SpectrogramForAudioClassification`.

    Args:
        backbone: a convolutional network of timm by its name there, such as vgg16_bn.tv_in1k, or torchvision/alexnet.
        feature_size: mel bands.
        patch_frames: cut the spectrogram into patches of so many frames, each seen alone, as VGGish does with 96
            (Hershey et al. 2017); None: it is seen whole.
        head_dropout: before the last layer.
    """

    model_type = "ser_ft_spectrogram"

    def __init__(
        self,
        backbone: str = "vgg16_bn.tv_in1k",
        feature_size: int = 64,
        patch_frames: int | None = None,
        head_dropout: float = 0.2,
        **kwargs: Any,
    ) -> None:
        check_sizes(head_dropout=head_dropout, patch_frames=1 if patch_frames is None else patch_frames)
        self.backbone = backbone
        self.feature_size = feature_size
        self.patch_frames = patch_frames
        self.head_dropout = head_dropout
        super().__init__(**kwargs)


class SpectrogramForAudioClassification(FrameClassifier):
    """The convolutional stages of an image network on a log-mel spectrogram, mean over the real frames, a linear layer.

    The spectrogram is one channel. In evaluation each clip is seen with no more padding than to a whole frame of the
    network's map, whatever it shares a batch with: padding changes no answer.

    Args:
        config: of it.
        backbone: the convolutional stages, with the weights to start from; by default random ones.
    """

    config_class = SpectrogramConfig

    def __init__(self, config: SpectrogramConfig, backbone: nn.Module | None = None) -> None:
        super().__init__(config)
        if backbone is None:
            backbone = make_alexnet() if config.backbone == ALEXNET else make_timm(config.backbone)
        for module in backbone.modules():
            # transformers brings back as garbage what was not saved, such as the filters of a blurring pool.
            module._non_persistent_buffers_set.clear()
        self.backbone = backbone
        width, self.reduction = channels_and_reduction(backbone)
        self.finish(width, config.head_dropout)

    def encode(self, features: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        """Sum clips up: the mean of the map, each frame of it weighing what it holds of the clip."""
        patch = self.config.patch_frames
        if patch is not None:
            return self._patches(features, lengths, patch)
        if lengths is None:
            return self._mean(features, None, self.padded(features.shape[1]))
        whole = self.padded(lengths)
        if self.training or len(set(whole.tolist())) == 1:
            return self._mean(features, lengths, int(whole.max()))
        found: torch.Tensor | None = None
        for length in whole.unique().tolist():
            rows = whole == length
            made = self._mean(features[rows], lengths[rows], length)
            found = made.new_zeros(len(whole), made.shape[1]) if found is None else found
            found[rows] = made
        assert found is not None
        return found

    def padded(self, lengths: _Count) -> _Count:
        """Return how many frames clips of these lengths are seen as: whole frames of the map, and enough for one."""
        whole = (lengths + self.reduction - 1) // self.reduction * self.reduction
        return whole.clamp(min=_LEAST) if isinstance(whole, torch.Tensor) else max(whole, _LEAST)

    def _mean(self, features: torch.Tensor, lengths: torch.Tensor | None, frames: int) -> torch.Tensor:
        hidden = self._map(_fitted(features, frames))
        if lengths is None:
            lengths = torch.full((1,), features.shape[1], device=features.device)
        weights = self._weights(lengths, hidden.shape[2], frames)
        return ((hidden * weights[:, None]).sum(dim=2) / weights.sum(dim=1, keepdim=True)).to(hidden.dtype)

    def _patches(self, features: torch.Tensor, lengths: torch.Tensor | None, patch: int) -> torch.Tensor:
        """Look at patches alone; each weighs what it holds of the clip."""
        clips, size = features.shape[0], features.shape[2]
        count = (features.shape[1] + patch - 1) // patch
        starts = patch * torch.arange(count, device=features.device)
        ends = features.shape[1] if lengths is None else lengths[:, None]
        inside = (ends - starts).clamp(min=0, max=patch).expand(clips, count).flatten()
        patches, taken = _fitted(features, count * patch).reshape(clips * count, patch, size), inside > 0
        if lengths is not None:
            patches, inside = patches[taken], inside[taken]
        frames = self.padded(patch)
        hidden = self._map(_fitted(patches, frames))
        weights = self._weights(inside, hidden.shape[2], frames)
        sums, shares = (hidden * weights[:, None]).sum(dim=2), weights.sum(dim=1)
        if lengths is not None:
            sums, shares = _put_back(sums, taken), _put_back(shares, taken)
        whole = shares.reshape(clips, count).sum(dim=1, keepdim=True)
        return (sums.reshape(clips, count, -1).sum(dim=1) / whole).to(hidden.dtype)

    def _map(self, features: torch.Tensor) -> torch.Tensor:
        """Return the map of (clips, frames, mels) over time, the mean over frequency: (clips, channels, map frames)."""
        missing = max(0, _LEAST - features.shape[2])
        image = nn.functional.pad(features.transpose(1, 2)[:, None], (0, 0, 0, missing))
        return feature_map(self.backbone, image).mean(dim=2)

    def _weights(self, lengths: torch.Tensor, frames: int, seen: int) -> torch.Tensor:
        """Return the share of each of a map's frames that is the clip's, shape (clips, frames)."""
        under = seen / frames
        ends = lengths[:, None].float() / under - torch.arange(frames, device=lengths.device)
        return ends.clamp(min=0.0, max=1.0)


def _put_back(values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Return values of some rows at their places among all, the others zero."""
    found = values.new_zeros(len(places), *values.shape[1:])
    found[places] = values
    return found


def _fitted(features: torch.Tensor, frames: int) -> torch.Tensor:
    """Pad, or cut off, the end of (clips, frames, mels)."""
    return nn.functional.pad(features, (0, 0, 0, frames - features.shape[1]))


def make_timm(name: str, pretrained: bool = False) -> nn.Module:
    """Make the convolutional stages of a network of timm for one channel.

    Its first layer is adapted as timm does it: the weights of the three colours are added.

    Args:
        name: its name in timm, or hf-hub:... or local-dir:... . pretrained: read its weights too.
    """
    import timm

    made: nn.Module = timm.create_model(name, pretrained=pretrained, in_chans=1, features_only=True, out_indices=(-1,))
    return made


def make_alexnet(weights: dict[str, torch.Tensor] | None = None) -> nn.Module:
    """Make the convolutional stages of AlexNet, which timm lacks, for one channel.

    Args:
        weights: a state of torchvision's `alexnet`, of which the convolutions are taken.
    """
    from torchvision.models import alexnet

    stages: nn.Module = alexnet(weights=None).features
    first: Any = stages[0]  # type: ignore[index]
    one: Any = nn.Conv2d(1, first.out_channels, first.kernel_size, first.stride, first.padding)
    if weights is not None:
        stages.load_state_dict({k.removeprefix("features."): v for k, v in weights.items() if k.startswith("features")})
        with torch.no_grad():
            one.weight.copy_(first.weight.sum(dim=1, keepdim=True))
            one.bias.copy_(first.bias)
    stages[0] = one  # type: ignore[index,operator]
    return stages


def feature_map(backbone: nn.Module, image: torch.Tensor) -> torch.Tensor:
    """Return the last map of a backbone, shape (images, channels, height, width)."""
    found = backbone(image)
    last: torch.Tensor = found[-1] if isinstance(found, list | tuple) else found
    return last


def channels_and_reduction(backbone: nn.Module) -> tuple[int, int]:
    """Return the channels of a backbone's last map, and how many frames lie under one of its own."""
    about: Any = getattr(backbone, "feature_info", None)
    if about is None:
        return _ALEXNET_WIDTH, _ALEXNET_REDUCTION
    return about.channels()[-1], about.reduction()[-1]


def check_accepts_any_size(backbone: nn.Module) -> None:
    """Refuse a backbone that cannot look at a spectrogram of any length.

    Raises:
        ValueError: it sees images of one size alone, as most transformers do, or gives no map.
    """
    training = backbone.training
    try:
        with torch.no_grad():
            shapes = [
                feature_map(backbone.eval(), torch.zeros(1, 1, _LEAST, frames)).shape for frames in (_LEAST, 3 * _LEAST)
            ]
        fits = all(len(shape) == 4 and shape[1] == channels_and_reduction(backbone)[0] for shape in shapes)
    except (AssertionError, RuntimeError):
        fits = False
    backbone.train(training)
    if not fits:
        raise ValueError("it cannot look at images of any size: take a convolutional network, such as vgg16_bn.tv_in1k")


def parameters_by_stage(backbone: nn.Module) -> list[list[nn.Parameter]]:
    """Return a backbone's parameters by stage, the lowest first: all that makes maps of one size is a stage."""
    stages: list[list[nn.Parameter]] = [[]]
    widths: list[int] = []
    handles = []

    def note(module: nn.Module, _: Any, made: Any) -> None:
        # Of a square image, the same whether channels come first or, as inside ConvNeXt, last.
        width = made.shape[-2] if isinstance(made, torch.Tensor) and made.ndim == 4 else 1
        # What sees the whole image at once (squeeze and excitation) belongs to the stage that it serves.
        if width > 1 and (not widths or width < widths[-1]):
            widths.append(width)
            if stages[-1]:
                stages.append([])
        stages[-1].extend(module.parameters(recurse=False))

    for module in backbone.modules():
        if next(module.parameters(recurse=False), None) is not None:
            handles.append(module.register_forward_hook(note))
    training = backbone.training
    with torch.no_grad():
        example = next(backbone.parameters())
        feature_map(backbone.eval(), example.new_zeros(1, 1, 128, 128))
    backbone.train(training)
    for handle in handles:
        handle.remove()
    noted = {id(parameter) for stage in stages for parameter in stage}
    stages[0].extend(parameter for parameter in backbone.parameters() if id(parameter) not in noted)
    return stages


AutoConfig.register(SpectrogramConfig.model_type, SpectrogramConfig)
AutoModelForAudioClassification.register(SpectrogramConfig, SpectrogramForAudioClassification)
AutoFeatureExtractor.register(SpectrogramConfig, SpectralFeatureExtractor)
SpectrogramConfig.register_for_auto_class()
SpectrogramForAudioClassification.register_for_auto_class("AutoModelForAudioClassification")
