"""A small ensemble of residual networks on log-mel spectrograms that is invariant to level and microphone.

Each clip is normalized by its own speech: levels far below the loudest frame are clipped, and the mean of each band
over speech is subtracted (cepstral mean subtraction: Atal 1974), so that a gain or a filter changes only what is
clipped. Residual blocks over time (He et al. 2016) with squeeze and excitation (Hu et al. 2018) and statistics pooling
(Snyder et al. 2018) follow. All of them weight each frame by how likely it is speech, so that silence has as little
effect as padding: none. Several such networks are trained separately and averaged (deep ensembles: Lakshminarayanan
et al. 2017).
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoFeatureExtractor, AutoModelForAudioClassification

from .classifier import FrameClassifier, FrameClassifierConfig, mask_padding
from .features import SpectralFeatureExtractor

_TO_DB = 10 / math.log(10)
# Width in dB of the transition from pause to speech.
_SPEECH_SLOPE_DB = 3.0
_SILENCE_DB = -1000.0
# Levels are divided by this, in dB, so that they vary by about 1.
_SCALE_DB = 12.0


class CompactCnnConfig(FrameClassifierConfig):
    """Configuration of `CompactCnnForAudioClassification`.

    Args:
        feature_size: mel bands of the log-mel spectrogram.
        dynamic_range_db: frames more than this many dB below the loudest frame are not speech, and levels further
            below are clipped.
        num_members: networks whose logits are averaged.
        stride: stride of the first convolution in frames; 1, 2, 4 or 8.
        channels: channels of every block.
        kernel_size: kernel size over time, odd.
        num_blocks: number of residual blocks; after every two, the frame rate is halved.
        squeeze_reduction: reduction ratio of squeeze and excitation.
        dropout: dropout rate of whole channels in each block.
        head_dropout: dropout rate before the last layer.
    """

    model_type = "ser_ft_compact_cnn"
    feature_size: int = 80
    dynamic_range_db: float = 25.0
    num_members: int = 2
    stride: int = 4
    channels: int = 80
    kernel_size: int = 5
    num_blocks: int = 5
    squeeze_reduction: int = 8
    dropout: float = 0.05
    head_dropout: float = 0.2

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.dynamic_range_db <= 0:
            raise ValueError(f"dynamic_range_db must be above 0 dB, not {self.dynamic_range_db:g}")
        if self.stride not in (1, 2, 4, 8):
            raise ValueError(f"stride must be 1, 2, 4 or 8 frames, not {self.stride}")
        if self.squeeze_reduction > self.channels:
            raise ValueError(f"squeeze_reduction must be at most channels: {self.squeeze_reduction} of {self.channels}")


class CompactCnnForAudioClassification(FrameClassifier):
    """Normalization by the clip's own speech, an ensemble of residual networks, and a linear layer."""

    config_class = CompactCnnConfig

    def __init__(self, config: CompactCnnConfig) -> None:
        super().__init__(config)
        self.num_members = config.num_members
        self.networks = nn.ModuleList(_Member(config) for _ in range(config.num_members))
        # Leaves two frames at the end: batch normalization of a single clip needs at least two.
        self.min_frames = 2 * config.stride * 2 ** ((config.num_blocks - 1) // 2)
        self.add_head(2 * config.channels * config.num_members, config.head_dropout)

    def encode(self, features: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        """Return the mean and standard deviation over speech of each channel of each member."""
        levels, speech = self.normalize_levels(features, lengths)
        levels = mask_padding(levels.transpose(1, 2), lengths)
        pooled = [network(levels, speech) for network in self.networks]
        return torch.cat(pooled, dim=1).to(self.classifier.weight.dtype)

    def normalize_levels(
        self, features: torch.Tensor, lengths: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalize log-mel levels by the clip's own speech.

        Returns the levels minus each band's mean in units of 12 dB, shape (clips, frames, bands), and the speech weight
        of each frame from 0 to 1, shape (clips, 1, frames), 0 in the padding.
        """
        levels = features.float() * _TO_DB
        energies = torch.logsumexp(features.float(), dim=2) * _TO_DB
        if lengths is not None:
            padding = torch.arange(features.shape[1], device=features.device)[None] >= lengths[:, None]
            energies = energies.masked_fill(padding, _SILENCE_DB)
        loudest = energies.amax(dim=1, keepdim=True)
        speech = torch.sigmoid((energies - loudest + self.config.dynamic_range_db) / _SPEECH_SLOPE_DB)
        lowest = loudest - self.config.dynamic_range_db - 10 * math.log10(self.config.feature_size)
        levels = torch.maximum(levels, lowest[..., None])
        means = (levels * (speech / speech.sum(dim=1, keepdim=True))[..., None]).sum(dim=1, keepdim=True)
        return ((levels - means) / _SCALE_DB).to(features.dtype), speech[:, None]


def _halve_weights(weights: torch.Tensor) -> torch.Tensor:
    """Return the mean weight of each pair of frames; a last single frame is paired with 0."""
    return (weights[..., ::2] + nn.functional.pad(weights, (0, 1))[..., 1::2]) / 2


class _Member(nn.Module):
    def __init__(self, config: CompactCnnConfig) -> None:
        super().__init__()
        width, self.stride = config.channels, config.stride
        self.stem = nn.Conv1d(
            config.feature_size, width, 2 * self.stride + 1, stride=self.stride, padding=self.stride, bias=False
        )
        self.stem_norm = nn.BatchNorm1d(width)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.num_blocks))

    def forward(self, levels: torch.Tensor, speech: torch.Tensor) -> torch.Tensor:
        for _ in range(self.stride.bit_length() - 1):
            speech = _halve_weights(speech)
        hidden = torch.relu(self.stem_norm(self.stem(levels)))
        hidden = hidden * speech.to(hidden.dtype)
        for number, block in enumerate(self.blocks, start=1):
            hidden = block(hidden, speech.to(hidden.dtype))
            if number % 2 == 0 and number < len(self.blocks):
                hidden, speech = nn.functional.max_pool1d(hidden, 2, ceil_mode=True), _halve_weights(speech)
        hidden, weights = hidden.float(), speech / speech.sum(dim=2, keepdim=True)
        mean = (hidden * weights).sum(dim=2)
        variance = ((hidden - mean[..., None]).square() * weights).sum(dim=2)
        return torch.cat((mean, (variance + 1e-5).sqrt()), dim=1)


class _Block(nn.Module):
    def __init__(self, config: CompactCnnConfig) -> None:
        super().__init__()
        width = config.channels
        self.first = nn.Conv1d(width, width, config.kernel_size, padding=config.kernel_size // 2, bias=False)
        self.first_norm = nn.BatchNorm1d(width)
        self.second = nn.Conv1d(width, width, 1, bias=False)
        self.second_norm = nn.BatchNorm1d(width)
        self.squeeze = nn.Linear(width, width // config.squeeze_reduction)
        self.excite = nn.Linear(width // config.squeeze_reduction, width)
        self.dropout = nn.Dropout1d(config.dropout)

    def forward(self, hidden: torch.Tensor, speech: torch.Tensor) -> torch.Tensor:
        inner = torch.relu(self.first_norm(self.first(hidden))) * speech
        inner = self.second_norm(self.second(inner))
        mean = (inner * speech).sum(dim=2) / speech.sum(dim=2)
        weights = torch.sigmoid(self.excite(torch.relu(self.squeeze(mean))))
        return torch.relu(hidden + self.dropout(inner * weights[..., None])) * speech


AutoConfig.register(CompactCnnConfig.model_type, CompactCnnConfig)
AutoModelForAudioClassification.register(CompactCnnConfig, CompactCnnForAudioClassification)
AutoFeatureExtractor.register(CompactCnnConfig, SpectralFeatureExtractor)
CompactCnnConfig.register_for_auto_class()
CompactCnnForAudioClassification.register_for_auto_class("AutoModelForAudioClassification")
