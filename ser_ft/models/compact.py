"""A small network on log-mel spectrograms that hears how something is said, whatever the level and the microphone.

Each clip is measured by itself before it is heard: what lies too far below its loudest frame is cut off, and from each
band its mean is taken while somebody speaks (cepstral mean subtraction: Atal 1974), so that neither a gain nor a filter
in the path changes anything but what is cut off. Residual blocks over time (He et al. 2016) with squeeze and excitation
(Hu et al. 2018) follow, and statistics pooling (Snyder et al. 2018), in all of which frames weigh as much as they are
speech, so that the silence around it counts as little as padding does: not at all. A few such networks, each trained
for itself, answer together (deep ensembles: Lakshminarayanan et al. 2017).
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoFeatureExtractor, AutoModelForAudioClassification, PreTrainedConfig

from .classifier import FrameClassifier, check_sizes, mask_padding
from .features import SpectralFeatureExtractor

_DECIBELS = 10 / math.log(10)
# Decibels over which a frame passes from pause to speech.
_SOFTNESS = 3.0
_SILENT = -1000.0
# What levels are divided by, in dB, so that they vary by about 1.
_SCALE = 12.0


class CompactCnnConfig(PreTrainedConfig):
    """Configuration of `CompactCnnForAudioClassification`.

    Args:
        feature_size: mel bands of the log-mel spectrogram, natural logarithms of energies.
        dynamic_range: decibels below the loudest frame under which a frame is no speech, and nothing is told apart.
        members: networks whose answers are averaged. stride: in frames, of their first convolution; 1, 2, 4 or 8.
        channels: of every block. kernel: over time, odd. blocks: how many; after each two, the frame rate is halved.
        squeeze: by how much fewer numbers the channels are weighted.
        dropout: of whole channels, in each block. head_dropout: before the last layer.
    """

    model_type = "ser_ft_compact_cnn"

    def __init__(
        self,
        feature_size: int = 80,
        dynamic_range: float = 25.0,
        members: int = 2,
        stride: int = 4,
        channels: int = 80,
        kernel: int = 5,
        blocks: int = 5,
        squeeze: int = 8,
        dropout: float = 0.05,
        head_dropout: float = 0.2,
        **kwargs: Any,
    ) -> None:
        check_sizes(members=members, channels=channels, kernel=kernel, blocks=blocks, squeeze=squeeze)
        check_sizes(dropout=dropout, head_dropout=head_dropout)
        if dynamic_range <= 0:
            raise ValueError(f"dynamic_range must be above 0 dB, not {dynamic_range:g}")
        if stride not in (1, 2, 4, 8):
            raise ValueError(f"stride must be 1, 2, 4 or 8 frames, not {stride}")
        if squeeze > channels:
            raise ValueError(f"squeeze must be at most channels: {squeeze} of {channels}")
        self.feature_size = feature_size
        self.dynamic_range = dynamic_range
        self.members = members
        self.stride = stride
        self.channels = channels
        self.kernel = kernel
        self.blocks = blocks
        self.squeeze = squeeze
        self.dropout = dropout
        self.head_dropout = head_dropout
        super().__init__(**kwargs)


class CompactCnnForAudioClassification(FrameClassifier):
    """Levels measured by the clip's own speech; members, whose answers are averaged; a linear layer for each."""

    config_class = CompactCnnConfig

    def __init__(self, config: CompactCnnConfig) -> None:
        super().__init__(config)
        self.members = config.members
        self.networks = nn.ModuleList(_Member(config) for _ in range(config.members))
        # Two are left at the end: normalisation over a batch of one clip takes no fewer.
        self.min_frames = 2 * config.stride * 2 ** ((config.blocks - 1) // 2)
        self.finish(2 * config.channels * config.members, config.head_dropout)

    def encode(self, features: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        """Sum clips up: mean and deviation of each channel of each member while somebody speaks."""
        levels, spoken = self.levelled(features, lengths)
        levels = mask_padding(levels.transpose(1, 2), lengths)
        summed = [network(levels, spoken) for network in self.networks]
        return torch.cat(summed, dim=1).to(self.classifier.weight.dtype)

    def levelled(self, features: torch.Tensor, lengths: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Measure log-mel levels by the clip's own speech.

        Args:
            features: natural logarithms of energies, shape (clips, frames, bands). lengths: frames of each clip.

        Returns:
            the levels less each band's mean, of the same shape, in units of 12 dB; and how far each frame is speech,
            from 0 to 1, shape (clips, 1, frames), 0 beyond a clip's end.
        """
        levels = features.float() * _DECIBELS
        energies = torch.logsumexp(features.float(), dim=2) * _DECIBELS
        if lengths is not None:
            beyond = torch.arange(features.shape[1], device=features.device)[None] >= lengths[:, None]
            energies = energies.masked_fill(beyond, _SILENT)
        loudest = energies.amax(dim=1, keepdim=True)
        spoken = torch.sigmoid((energies - loudest + self.config.dynamic_range) / _SOFTNESS)
        lowest = loudest - self.config.dynamic_range - 10 * math.log10(self.config.feature_size)
        levels = torch.maximum(levels, lowest[..., None])
        means = (levels * (spoken / spoken.sum(dim=1, keepdim=True))[..., None]).sum(dim=1, keepdim=True)
        return ((levels - means) / _SCALE).to(features.dtype), spoken[:, None]


def _halved_weights(weights: torch.Tensor) -> torch.Tensor:
    """Return the mean weights of steps of two frames; a clip's end is followed by nothing."""
    return (weights[..., ::2] + nn.functional.pad(weights, (0, 1))[..., 1::2]) / 2


class _Member(nn.Module):
    """Residual blocks over time, mean and deviation."""

    def __init__(self, config: CompactCnnConfig) -> None:
        super().__init__()
        width, self.stride = config.channels, config.stride
        self.stem = nn.Conv1d(
            config.feature_size, width, 2 * self.stride + 1, stride=self.stride, padding=self.stride, bias=False
        )
        self.stem_norm = nn.BatchNorm1d(width)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.blocks))

    def forward(self, levels: torch.Tensor, spoken: torch.Tensor) -> torch.Tensor:
        for _ in range(self.stride.bit_length() - 1):
            spoken = _halved_weights(spoken)
        hidden = torch.relu(self.stem_norm(self.stem(levels)))
        hidden = hidden * spoken.to(hidden.dtype)
        for number, block in enumerate(self.blocks, start=1):
            hidden = block(hidden, spoken.to(hidden.dtype))
            if number % 2 == 0 and number < len(self.blocks):
                hidden, spoken = nn.functional.max_pool1d(hidden, 2, ceil_mode=True), _halved_weights(spoken)
        hidden, weights = hidden.float(), spoken / spoken.sum(dim=2, keepdim=True)
        mean = (hidden * weights).sum(dim=2)
        variance = ((hidden - mean[..., None]).square() * weights).sum(dim=2)
        return torch.cat((mean, (variance + 1e-5).sqrt()), dim=1)


class _Block(nn.Module):
    def __init__(self, config: CompactCnnConfig) -> None:
        super().__init__()
        width = config.channels
        self.first = nn.Conv1d(width, width, config.kernel, padding=config.kernel // 2, bias=False)
        self.first_norm = nn.BatchNorm1d(width)
        self.second = nn.Conv1d(width, width, 1, bias=False)
        self.second_norm = nn.BatchNorm1d(width)
        self.squeeze = nn.Linear(width, width // config.squeeze)
        self.excite = nn.Linear(width // config.squeeze, width)
        self.dropout = nn.Dropout1d(config.dropout)

    def forward(self, hidden: torch.Tensor, spoken: torch.Tensor) -> torch.Tensor:
        inner = torch.relu(self.first_norm(self.first(hidden))) * spoken
        inner = self.second_norm(self.second(inner))
        mean = (inner * spoken).sum(dim=2) / spoken.sum(dim=2)
        weights = torch.sigmoid(self.excite(torch.relu(self.squeeze(mean))))
        return torch.relu(hidden + self.dropout(inner * weights[..., None])) * spoken


AutoConfig.register(CompactCnnConfig.model_type, CompactCnnConfig)
AutoModelForAudioClassification.register(CompactCnnConfig, CompactCnnForAudioClassification)
AutoFeatureExtractor.register(CompactCnnConfig, SpectralFeatureExtractor)
CompactCnnConfig.register_for_auto_class()
CompactCnnForAudioClassification.register_for_auto_class("AutoModelForAudioClassification")
