"""The baseline that transfer learning is compared with: a small convolutional network on MFCCs."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from .features import SpectralFeatureExtractor


class MfccCnnConfig(PreTrainedConfig):
    """Configuration of `MfccCnnForAudioClassification`.

    Args:
        feature_size: numbers per frame.
        channels: of each convolution over time; after each, the frame rate is halved.
        kernel: width of the convolutions, in frames, odd. dropout: of whole channels, after each convolution.
        head_dropout: before the last layer.
    """

    model_type = "ser_ft_mfcc_cnn"

    def __init__(
        self,
        feature_size: int = 20,
        channels: Sequence[int] = (128, 128, 128, 128),
        kernel: int = 5,
        dropout: float = 0.1,
        head_dropout: float = 0.5,
        **kwargs: Any,
    ) -> None:
        if min(channels, default=0) < 1:
            raise ValueError(f"channels must be one or more numbers of 1 or more, not {list(channels)}")
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"kernel must be an odd number, not {kernel}")
        self.feature_size = feature_size
        self.channels = list(channels)
        self.kernel = kernel
        self.dropout = dropout
        self.head_dropout = head_dropout
        super().__init__(**kwargs)


class MfccCnnForAudioClassification(PreTrainedModel):
    """Convolutions over time, mean and standard deviation over the real frames, a linear layer.

    What lies beyond a clip's end is set to zero after every layer, so that padding does not change the answer.
    """

    config_class = MfccCnnConfig
    base_model_prefix = "mfcc_cnn"
    main_input_name = "input_features"

    def __init__(self, config: MfccCnnConfig) -> None:
        super().__init__(config)
        widths = [config.feature_size, *config.channels]
        self.standardise = nn.BatchNorm1d(config.feature_size)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(width, out, config.kernel, padding=config.kernel // 2) for width, out in pairwise(widths)
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for width in config.channels)
        self.dropout = nn.Dropout1d(config.dropout)
        self.head_dropout = nn.Dropout(config.head_dropout)
        self.classifier = nn.Linear(2 * widths[-1], len(config.id2label or ()))
        self.post_init()

    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,  # noqa: ARG002
    ) -> SequenceClassifierOutput | tuple[torch.Tensor, ...]:
        """Classify frames.

        Args:
            input_features: shape (clips, frames, feature_size).
            attention_mask: shape (clips, frames), 1 where the frame is real; by default all are.
            labels: class numbers, shape (clips,), for the cross entropy; optional.
            return_dict: False for a tuple.
            **kwargs: accepted for the pipelines of transformers, and not used.

        Returns:
            `logits`, shape (clips, classes), and `loss` where labels were given.
        """
        if attention_mask is None:
            attention_mask = input_features.new_ones(input_features.shape[:2], dtype=torch.long)
        least = 2 ** len(self.convolutions)
        if input_features.shape[1] < least:
            missing = least - input_features.shape[1]
            input_features = nn.functional.pad(input_features, (0, 0, 0, missing))
            attention_mask = nn.functional.pad(attention_mask, (0, missing))
        lengths = attention_mask.sum(dim=1)
        hidden = self._real(self.standardise(input_features.transpose(1, 2)), lengths)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            hidden = nn.functional.max_pool1d(torch.relu(norm(convolution(hidden))), 2)
            lengths = (lengths // 2).clamp(min=1)
            hidden = self._real(self.dropout(hidden), lengths)
        logits = self.classifier(self.head_dropout(_statistics(hidden, lengths)))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        if not (self.config.return_dict if return_dict is None else return_dict):
            return (logits,) if loss is None else (loss, logits)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    @staticmethod
    def _real(hidden: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        frames = torch.arange(hidden.shape[2], device=hidden.device)
        return hidden * (frames[None] < lengths[:, None]).unsqueeze(1).to(hidden.dtype)


def _statistics(hidden: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Return mean and standard deviation over the real frames of (clips, channels, frames): (clips, 2 channels)."""
    count = lengths.to(hidden.dtype)[:, None]
    real = (torch.arange(hidden.shape[2], device=hidden.device)[None] < lengths[:, None]).unsqueeze(1).to(hidden.dtype)
    mean = hidden.sum(dim=2) / count
    variance = ((hidden - mean[..., None]).square() * real).sum(dim=2) / count
    return torch.cat((mean, (variance + 1e-5).sqrt()), dim=1)


AutoConfig.register(MfccCnnConfig.model_type, MfccCnnConfig)
AutoModelForAudioClassification.register(MfccCnnConfig, MfccCnnForAudioClassification)
AutoFeatureExtractor.register(MfccCnnConfig, SpectralFeatureExtractor)
MfccCnnConfig.register_for_auto_class()
MfccCnnForAudioClassification.register_for_auto_class("AutoModelForAudioClassification")
