"""Classic small networks of the field, trained from scratch: the baselines of transfer learning."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoFeatureExtractor, AutoModelForAudioClassification

from .classifier import FrameClassifier, FrameClassifierConfig, halve_lengths, mask_padding, mean_and_std
from .features import SpectralFeatureExtractor

BLOCK_TYPES = ("plain", "residual", "wide")


class MfccCnnConfig(FrameClassifierConfig):
    """Configuration of `MfccCnnForAudioClassification`.

    Args:
        feature_size: coefficients per frame.
        channels: output channels of each convolution over time and coefficients; each halves both.
        kernel_size: kernel size of the convolutions in both dimensions, odd.
        dropout: dropout rate of whole channels after each convolution.
        head_dropout: dropout rate before the last layer.
    """

    model_type = "ser_ft_mfcc_cnn"
    feature_size: int = 20
    channels: Sequence[int] = (16, 32, 64, 128)
    kernel_size: int = 3
    dropout: float = 0.1
    head_dropout: float = 0.5


class MfccCnnForAudioClassification(FrameClassifier):
    """2D convolutions over time and coefficients, mean and standard deviation over time, and a linear layer."""

    config_class = MfccCnnConfig

    def __init__(self, config: MfccCnnConfig) -> None:
        super().__init__(config)
        widths = [1, *config.channels]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(width, out, config.kernel_size, padding=config.kernel_size // 2, bias=False)
            for width, out in pairwise(widths)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in config.channels)
        self.min_frames = 2 ** len(config.channels)
        self.dropout = nn.Dropout2d(config.dropout)
        rows = config.feature_size
        for _ in config.channels:
            rows = (rows + 1) // 2
        self.add_head(2 * widths[-1] * rows, config.head_dropout)

    def encode(self, features: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        """Return the mean and standard deviation over time of each channel and row."""
        hidden = features[:, None]
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            hidden = mask_padding(torch.relu(norm(convolution(hidden))), lengths)
            hidden = nn.functional.max_pool2d(hidden, 2, ceil_mode=True)
            lengths = halve_lengths(lengths)
            hidden = self.dropout(hidden)
        return mean_and_std(hidden.transpose(2, 3).flatten(1, 2), lengths)


class Conv1dConfig(FrameClassifierConfig):
    """Configuration of `Conv1dForAudioClassification`.

    Args:
        feature_size: values per frame.
        channels: output channels of each convolution over time; each halves the frame rate.
        kernel_size: kernel size of the convolutions in frames, odd.
        dropout: dropout rate of whole channels after each convolution.
        dense_size: units of the dense layer.
        head_dropout: dropout rate before the dense layer and before the last layer.
    """

    model_type = "ser_ft_conv1d"
    feature_size: int = 34
    channels: Sequence[int] = (128, 128, 128, 128)
    kernel_size: int = 5
    dropout: float = 0.1
    dense_size: int = 128
    head_dropout: float = 0.5


class Conv1dForAudioClassification(FrameClassifier):
    """1D convolutions over time, mean and standard deviation over time, a dense and a linear layer."""

    config_class = Conv1dConfig

    def __init__(self, config: Conv1dConfig) -> None:
        super().__init__(config)
        widths = [config.feature_size, *config.channels]
        self.convolutions = nn.ModuleList(
            nn.Conv1d(width, out, config.kernel_size, padding=config.kernel_size // 2, bias=False)
            for width, out in pairwise(widths)
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for width in config.channels)
        self.min_frames = 2 ** len(config.channels)
        self.dropout = nn.Dropout1d(config.dropout)
        self.dense_dropout = nn.Dropout(config.head_dropout)
        self.dense = nn.Linear(2 * widths[-1], config.dense_size)
        self.add_head(config.dense_size, config.head_dropout)

    def encode(self, features: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        """Return the output of the dense layer."""
        hidden = features.transpose(1, 2)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            hidden = mask_padding(torch.relu(norm(convolution(hidden))), lengths)
            hidden = nn.functional.max_pool1d(hidden, 2, ceil_mode=True)
            lengths = halve_lengths(lengths)
            hidden = self.dropout(hidden)
        return torch.relu(self.dense(self.dense_dropout(mean_and_std(hidden, lengths))))


class LstmConfig(FrameClassifierConfig):
    """Configuration of `LstmForAudioClassification`.

    Args:
        feature_size: values per frame.
        hidden_size: units of each direction.
        num_layers: number of LSTM layers.
        frames_per_step: frames that are concatenated to one time step.
        dropout: dropout rate between the LSTM layers.
        dense_size: units of the dense layer.
        head_dropout: dropout rate before the last layer.
    """

    model_type = "ser_ft_lstm"
    feature_size: int = 34
    hidden_size: int = 128
    num_layers: int = 2
    frames_per_step: int = 8
    dropout: float = 0.2
    dense_size: int = 128
    head_dropout: float = 0.5


class LstmForAudioClassification(FrameClassifier):
    """A bidirectional LSTM, the mean over time, a dense and a linear layer."""

    config_class = LstmConfig

    def __init__(self, config: LstmConfig) -> None:
        super().__init__(config)
        self.recurrent = nn.LSTM(
            config.feature_size * config.frames_per_step,
            config.hidden_size,
            config.num_layers,
            batch_first=True,
            bidirectional=True,
            dropout=config.dropout if config.num_layers > 1 else 0.0,
        )
        self.dense = nn.Linear(2 * config.hidden_size, config.dense_size)
        self.add_head(config.dense_size, config.head_dropout)

    def encode(self, features: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        """Return the output of the dense layer."""
        step = self.config.frames_per_step
        missing = -features.shape[1] % step
        steps = nn.functional.pad(features, (0, 0, 0, missing)).reshape(features.shape[0], -1, step * features.shape[2])
        if lengths is None:
            return torch.relu(self.dense(self.recurrent(steps)[0].mean(dim=1)))
        lengths = (lengths + step - 1) // step
        packed = nn.utils.rnn.pack_padded_sequence(steps, lengths.cpu(), batch_first=True, enforce_sorted=False)
        hidden, _ = nn.utils.rnn.pad_packed_sequence(self.recurrent(packed)[0], batch_first=True)
        return torch.relu(self.dense(hidden.sum(dim=1) / lengths[:, None].to(hidden.dtype)))


class StackedCnnConfig(FrameClassifierConfig):
    """Configuration of `StackedCnnForAudioClassification`.

    Args:
        feature_size: values per frame, of all stacked features.
        block_type: "plain" (one convolution), "residual" (two convolutions and a shortcut: He et al. 2016) or "wide"
            (parallel branches with several kernel sizes: Szegedy et al. 2015).
        channels: output channels of each block; each halves the frame rate.
        kernel_size: kernel size of plain and residual blocks, odd.
        branch_kernel_sizes: kernel sizes of the branches of wide blocks, odd.
        dropout: dropout rate of whole channels after each block.
        head_dropout: dropout rate before the last layer.
    """

    model_type = "ser_ft_stacked_cnn"
    feature_size: int = 73
    block_type: str = "plain"
    channels: Sequence[int] = (128, 128, 128, 128)
    kernel_size: int = 5
    branch_kernel_sizes: Sequence[int] = (1, 3, 7, 15)
    dropout: float = 0.1
    head_dropout: float = 0.5

    def __post_init__(self, **kwargs: Any) -> None:
        if self.block_type not in BLOCK_TYPES:
            raise ValueError(f"block_type must be one of {', '.join(BLOCK_TYPES)}, not {self.block_type!r}")
        super().__post_init__(**kwargs)


class StackedCnnForAudioClassification(FrameClassifier):
    """Blocks of 1D convolutions on stacked features, mean and standard deviation over time, and a linear layer."""

    config_class = StackedCnnConfig

    def __init__(self, config: StackedCnnConfig) -> None:
        super().__init__(config)
        widths = [config.feature_size, *config.channels]
        self.blocks = nn.ModuleList(_block(config, width, out) for width, out in pairwise(widths))
        self.min_frames = 2 ** len(self.blocks)
        self.dropout = nn.Dropout1d(config.dropout)
        self.add_head(2 * widths[-1], config.head_dropout)

    def encode(self, features: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        """Return the mean and standard deviation over time of each channel."""
        hidden = features.transpose(1, 2)
        for block in self.blocks:
            hidden = nn.functional.max_pool1d(mask_padding(block(hidden, lengths), lengths), 2, ceil_mode=True)
            lengths = halve_lengths(lengths)
            hidden = self.dropout(hidden)
        return mean_and_std(hidden, lengths)


class _Plain(nn.Module):
    def __init__(self, width: int, out: int, kernel: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(width, out, kernel, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm1d(out)

    def forward(self, hidden: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:  # noqa: ARG002
        return torch.relu(self.norm(self.convolution(hidden)))


class _Residual(nn.Module):
    def __init__(self, width: int, out: int, kernel: int) -> None:
        super().__init__()
        self.first = _Plain(width, out, kernel)
        self.second = nn.Conv1d(out, out, kernel, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm1d(out)
        self.shortcut = nn.Identity() if width == out else nn.Conv1d(width, out, 1, bias=False)

    def forward(self, hidden: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        inner = self.norm(self.second(mask_padding(self.first(hidden, lengths), lengths)))
        return torch.relu(inner + self.shortcut(hidden))


class _Wide(nn.Module):
    def __init__(self, width: int, out: int, kernels: Sequence[int]) -> None:
        super().__init__()
        widths = [out // len(kernels) + (branch < out % len(kernels)) for branch in range(len(kernels))]
        branches = zip(widths, kernels, strict=True)
        self.branches = nn.ModuleList(_Plain(width, size, kernel) for size, kernel in branches if size)

    def forward(self, hidden: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        return torch.cat([branch(hidden, lengths) for branch in self.branches], dim=1)


def _block(config: StackedCnnConfig, width: int, out: int) -> nn.Module:
    if config.block_type == "wide":
        return _Wide(width, out, config.branch_kernel_sizes)
    return {"plain": _Plain, "residual": _Residual}[config.block_type](width, out, config.kernel_size)


for _config, _model in (
    (MfccCnnConfig, MfccCnnForAudioClassification),
    (Conv1dConfig, Conv1dForAudioClassification),
    (LstmConfig, LstmForAudioClassification),
    (StackedCnnConfig, StackedCnnForAudioClassification),
):
    AutoConfig.register(_config.model_type, _config)
    AutoModelForAudioClassification.register(_config, _model)
    AutoFeatureExtractor.register(_config, SpectralFeatureExtractor)
    _config.register_for_auto_class()
    _model.register_for_auto_class("AutoModelForAudioClassification")
