"""A small network on log-mel spectrograms that hears how something is said, whatever the level and the microphone.

Each clip is measured by itself before it is heard: each band's level is that above a floor, which lies some decibels
below the band's mean over the frames in which somebody speaks (after cepstral mean subtraction: Atal 1974). A gain, a
filter in the path and faint noise then change little. Residual blocks over time (He et al. 2016) with squeeze and
excitation (Hu et al. 2018) follow, and statistics pooling (Snyder et al. 2018); what is far softer than the speech
fades out of all of them, so that the silence around it counts as little as padding does: not at all.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoFeatureExtractor, AutoModelForAudioClassification, PreTrainedConfig

from .classifier import FrameClassifier, check_sizes, real
from .features import SpectralFeatureExtractor

_DECIBELS = 10 / math.log(10)
# Decibels over which a frame passes from pause to speech.
_SOFTNESS = 3.0
_SILENT = -1000.0
# What levels above the floor are divided by, in dB, so that they vary by about 1.
_SCALE = 12.0


class CompactCnnConfig(PreTrainedConfig):
    """Configuration of `CompactCnnForAudioClassification`.

    Args:
        feature_size: mel bands of the log-mel spectrogram, natural logarithms of energies.
        dynamic_range: decibels below the clip's loudest frame under which nothing counts in the bands' means.
        depth: decibels below a band's mean under which nothing is told apart.
        gate: decibels below the loudest frame from which a frame counts as speech, in means and deviations.
        fade: decibels below the loudest frame from which a frame is heard at all.
        channels: of every block. kernel: over time, odd. blocks: how many; after each two, the frame rate is halved.
        squeeze: by how much fewer numbers the channels are weighted.
        dropout: of whole channels, in each block. head_dropout: before the last layer.
    """

    model_type = "ser_ft_compact_cnn"

    def __init__(
        self,
        feature_size: int = 80,
        dynamic_range: float = 30.0,
        depth: float = 12.0,
        gate: float = 20.0,
        fade: float = 25.0,
        channels: int = 112,
        kernel: int = 5,
        blocks: int = 5,
        squeeze: int = 8,
        dropout: float = 0.1,
        head_dropout: float = 0.3,
        **kwargs: Any,
    ) -> None:
        check_sizes(channels=channels, kernel=kernel, blocks=blocks, squeeze=squeeze)
        check_sizes(dropout=dropout, head_dropout=head_dropout)
        for name, value in (("dynamic_range", dynamic_range), ("depth", depth), ("gate", gate), ("fade", fade)):
            if value <= 0:
                raise ValueError(f"{name} must be above 0 dB, not {value:g}")
        if squeeze > channels:
            raise ValueError(f"squeeze must be at most channels: {squeeze} of {channels}")
        self.feature_size = feature_size
        self.dynamic_range = dynamic_range
        self.depth = depth
        self.gate = gate
        self.fade = fade
        self.channels = channels
        self.kernel = kernel
        self.blocks = blocks
        self.squeeze = squeeze
        self.dropout = dropout
        self.head_dropout = head_dropout
        super().__init__(**kwargs)


class CompactCnnForAudioClassification(FrameClassifier):
    """Levels measured by the clip's own speech, residual blocks over time, mean and deviation, a linear layer."""

    config_class = CompactCnnConfig

    def __init__(self, config: CompactCnnConfig) -> None:
        super().__init__(config)
        width = config.channels
        self.stem = nn.Conv1d(config.feature_size, width, 5, stride=2, padding=2, bias=False)
        self.stem_norm = nn.BatchNorm1d(width)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.blocks))
        # Two are left at the end: normalisation over a batch of one clip takes no fewer.
        self.least_frames = 2 ** (2 + (config.blocks - 1) // 2)
        self.finish(2 * width, config.head_dropout)

    def encode(self, features: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        """Sum clips up: mean and deviation of each channel while somebody speaks."""
        levels, spoken, audible = self.levelled(features, lengths)
        hidden = real(levels.transpose(1, 2), lengths)
        spoken, audible = _halved_weights(spoken), _halved_weights(audible)
        hidden = torch.relu(self.stem_norm(self.stem(hidden))) * audible.to(hidden.dtype)
        for number, block in enumerate(self.blocks, start=1):
            hidden = block(hidden, audible.to(hidden.dtype))
            if number % 2 == 0 and number < len(self.blocks):
                hidden = nn.functional.max_pool1d(hidden, 2, ceil_mode=True)
                spoken, audible = _halved_weights(spoken), _halved_weights(audible)
        hidden, weights = hidden.float(), spoken / spoken.sum(dim=2, keepdim=True)
        mean = (hidden * weights).sum(dim=2)
        variance = ((hidden - mean[..., None]).square() * weights).sum(dim=2)
        return torch.cat((mean, (variance + 1e-5).sqrt()), dim=1).to(self.classifier.weight.dtype)

    def levelled(
        self, features: torch.Tensor, lengths: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Measure log-mel levels by the clip's own speech.

        Args:
            features: natural logarithms of energies, shape (clips, frames, bands). lengths: frames of each clip.

        Returns:
            the levels above each band's floor, of the same shape; how far each frame is speech, and how far it is
            heard at all, from 0 to 1, shape (clips, 1, frames), both 0 beyond a clip's end.
        """
        levels = features.float() * _DECIBELS
        energies = torch.logsumexp(features.float(), dim=2) * _DECIBELS
        if lengths is not None:
            beyond = torch.arange(features.shape[1], device=features.device)[None] >= lengths[:, None]
            energies = energies.masked_fill(beyond, _SILENT)
        below = energies - energies.amax(dim=1, keepdim=True)
        lowest = energies.amax(dim=1) - self.config.dynamic_range - 10 * math.log10(self.config.feature_size)
        levels = torch.maximum(levels, lowest[:, None, None])
        spoken, audible = (
            torch.sigmoid((below + depth) / _SOFTNESS)[:, None] for depth in (self.config.gate, self.config.fade)
        )
        means = (levels * (spoken / spoken.sum(dim=2, keepdim=True)).transpose(1, 2)).sum(dim=1, keepdim=True)
        above = torch.relu(levels - means + self.config.depth)
        return (above / _SCALE).to(features.dtype), spoken, audible


def _halved_weights(weights: torch.Tensor) -> torch.Tensor:
    """Return the mean weights of steps of two frames; a clip's end is followed by nothing."""
    return (weights[..., ::2] + nn.functional.pad(weights, (0, 1))[..., 1::2]) / 2


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

    def forward(self, hidden: torch.Tensor, audible: torch.Tensor) -> torch.Tensor:
        inner = torch.relu(self.first_norm(self.first(hidden))) * audible
        inner = self.second_norm(self.second(inner))
        mean = (inner * audible).sum(dim=2) / audible.sum(dim=2)
        weights = torch.sigmoid(self.excite(torch.relu(self.squeeze(mean))))
        return torch.relu(hidden + self.dropout(inner * weights[..., None])) * audible


AutoConfig.register(CompactCnnConfig.model_type, CompactCnnConfig)
AutoModelForAudioClassification.register(CompactCnnConfig, CompactCnnForAudioClassification)
AutoFeatureExtractor.register(CompactCnnConfig, SpectralFeatureExtractor)
CompactCnnConfig.register_for_auto_class()
CompactCnnForAudioClassification.register_for_auto_class("AutoModelForAudioClassification")
