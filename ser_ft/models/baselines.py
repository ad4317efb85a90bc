"""The classic small networks of the field, trained from nothing, that transfer learning is compared with."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoFeatureExtractor, AutoModelForAudioClassification, PreTrainedConfig

from .classifier import FrameClassifier, check_sizes, halve_lengths, mask_padding, mean_and_std
from .features import SpectralFeatureExtractor

BLOCKS = ("plain", "residual", "wide")


class MfccCnnConfig(PreTrainedConfig):
    """Configuration of `MfccCnnForAudioClassification`.

    Args:
        feature_size: coefficients per frame.
        channels: of each convolution over time and coefficients; after each, both are halved.
        kernel: width of the convolutions both ways, odd. dropout: of whole channels, after each convolution.
        head_dropout: before the last layer.
    """

    model_type = "ser_ft_mfcc_cnn"

    def __init__(
        self,
        feature_size: int = 20,
        channels: Sequence[int] = (16, 32, 64, 128),
        kernel: int = 3,
        dropout: float = 0.1,
        head_dropout: float = 0.5,
        **kwargs: Any,
    ) -> None:
        check_sizes(channels=channels, kernel=kernel, dropout=dropout, head_dropout=head_dropout)
        self.feature_size = feature_size
        self.channels = list(channels)
        self.kernel = kernel
        self.dropout = dropout
        self.head_dropout = head_dropout
        super().__init__(**kwargs)


class MfccCnnForAudioClassification(FrameClassifier):
    """Convolutions over time and coefficients, as over an image; mean and deviation over time; a linear layer."""

    config_class = MfccCnnConfig

    def __init__(self, config: MfccCnnConfig) -> None:
        super().__init__(config)
        widths = [1, *config.channels]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(width, out, config.kernel, padding=config.kernel // 2, bias=False)
            for width, out in pairwise(widths)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in config.channels)
        self.min_frames = 2 ** len(config.channels)
        self.dropout = nn.Dropout2d(config.dropout)
        rows = config.feature_size
        for _ in config.channels:
            rows = -(-rows // 2)
        self.finish(2 * widths[-1] * rows, config.head_dropout)

    def encode(self, features: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        """Sum clips up: mean and deviation over time, of each channel and row."""
        hidden = features[:, None]
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            hidden = mask_padding(torch.relu(norm(convolution(hidden))), lengths)
            hidden = nn.functional.max_pool2d(hidden, 2, ceil_mode=True)
            lengths = halve_lengths(lengths)
            hidden = self.dropout(hidden)
        return mean_and_std(hidden.transpose(2, 3).flatten(1, 2), lengths)


class Conv1dConfig(PreTrainedConfig):
    """Configuration of `Conv1dForAudioClassification`.

    Args:
        feature_size: numbers per frame.
        channels: of each convolution over time; after each, the frame rate is halved.
        kernel: width of the convolutions, in frames, odd. dropout: of whole channels, after each convolution.
        dense: units of the layer above them. head_dropout: before it, and before the last layer.
    """

    model_type = "ser_ft_conv1d"

    def __init__(
        self,
        feature_size: int = 34,
        channels: Sequence[int] = (128, 128, 128, 128),
        kernel: int = 5,
        dropout: float = 0.1,
        dense: int = 128,
        head_dropout: float = 0.5,
        **kwargs: Any,
    ) -> None:
        check_sizes(channels=channels, kernel=kernel, dense=dense, dropout=dropout, head_dropout=head_dropout)
        self.feature_size = feature_size
        self.channels = list(channels)
        self.kernel = kernel
        self.dropout = dropout
        self.dense = dense
        self.head_dropout = head_dropout
        super().__init__(**kwargs)


class Conv1dForAudioClassification(FrameClassifier):
    """Convolutions over time on short-term descriptors, mean and deviation over time, a dense and a linear layer."""

    config_class = Conv1dConfig

    def __init__(self, config: Conv1dConfig) -> None:
        super().__init__(config)
        widths = [config.feature_size, *config.channels]
        self.convolutions = nn.ModuleList(
            nn.Conv1d(width, out, config.kernel, padding=config.kernel // 2, bias=False)
            for width, out in pairwise(widths)
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for width in config.channels)
        self.min_frames = 2 ** len(config.channels)
        self.dropout = nn.Dropout1d(config.dropout)
        self.dense_dropout = nn.Dropout(config.head_dropout)
        self.dense = nn.Linear(2 * widths[-1], config.dense)
        self.finish(config.dense, config.head_dropout)

    def encode(self, features: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        """Sum clips up by the dense layer."""
        hidden = features.transpose(1, 2)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            hidden = mask_padding(torch.relu(norm(convolution(hidden))), lengths)
            hidden = nn.functional.max_pool1d(hidden, 2, ceil_mode=True)
            lengths = halve_lengths(lengths)
            hidden = self.dropout(hidden)
        return torch.relu(self.dense(self.dense_dropout(mean_and_std(hidden, lengths))))


class LstmConfig(PreTrainedConfig):
    """Configuration of `LstmForAudioClassification`.

    Args:
        feature_size: numbers per frame. hidden: units of each direction. layers: one on the other.
        step: frames that are put together to one step, so that there are fewer steps.
        dropout: between the layers. dense: units of the layer above them. head_dropout: before the last layer.
    """

    model_type = "ser_ft_lstm"

    def __init__(
        self,
        feature_size: int = 34,
        hidden: int = 128,
        layers: int = 2,
        step: int = 8,
        dropout: float = 0.2,
        dense: int = 128,
        head_dropout: float = 0.5,
        **kwargs: Any,
    ) -> None:
        check_sizes(hidden=hidden, layers=layers, step=step, dense=dense, dropout=dropout, head_dropout=head_dropout)
        self.feature_size = feature_size
        self.hidden = hidden
        self.layers = layers
        self.step = step
        self.dropout = dropout
        self.dense = dense
        self.head_dropout = head_dropout
        super().__init__(**kwargs)


class LstmForAudioClassification(FrameClassifier):
    """A long short-term memory that reads the descriptors both ways, mean over time, a dense and a linear layer."""

    config_class = LstmConfig

    def __init__(self, config: LstmConfig) -> None:
        super().__init__(config)
        self.recurrent = nn.LSTM(
            config.feature_size * config.step,
            config.hidden,
            config.layers,
            batch_first=True,
            bidirectional=True,
            dropout=config.dropout if config.layers > 1 else 0.0,
        )
        self.dense = nn.Linear(2 * config.hidden, config.dense)
        self.finish(config.dense, config.head_dropout)

    def encode(self, features: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        """Sum clips up by the dense layer."""
        step = self.config.step
        missing = -features.shape[1] % step
        steps = nn.functional.pad(features, (0, 0, 0, missing)).reshape(features.shape[0], -1, step * features.shape[2])
        if lengths is None:
            return torch.relu(self.dense(self.recurrent(steps)[0].mean(dim=1)))
        lengths = (lengths + step - 1) // step
        packed = nn.utils.rnn.pack_padded_sequence(steps, lengths.cpu(), batch_first=True, enforce_sorted=False)
        hidden, _ = nn.utils.rnn.pad_packed_sequence(self.recurrent(packed)[0], batch_first=True)
        mean = hidden.sum(dim=1) / lengths[:, None].to(hidden.dtype)
        return torch.relu(self.dense(mean))


class StackedCnnConfig(PreTrainedConfig):
    """Configuration of `StackedCnnForAudioClassification`.

    Args:
        feature_size: numbers per frame, of all the features that are stacked.
        block: "plain" (one convolution), "residual" (two, and what entered them added: He et al. 2016) or "wide"
            (branches of several widths side by side: Szegedy et al. 2015).
        channels: of each block; after each, the frame rate is halved. kernel: of plain and residual blocks, odd.
        branch_kernels: of the branches of wide blocks, odd.
        dropout: of whole channels, after each block. head_dropout: before the last layer.
    """

    model_type = "ser_ft_stacked_cnn"

    def __init__(
        self,
        feature_size: int = 73,
        block: str = "plain",
        channels: Sequence[int] = (128, 128, 128, 128),
        kernel: int = 5,
        branch_kernels: Sequence[int] = (1, 3, 7, 15),
        dropout: float = 0.1,
        head_dropout: float = 0.5,
        **kwargs: Any,
    ) -> None:
        check_sizes(channels=channels, kernel=kernel, branch_kernels=branch_kernels)
        check_sizes(dropout=dropout, head_dropout=head_dropout)
        if block not in BLOCKS:
            raise ValueError(f"block must be one of {', '.join(BLOCKS)}, not {block!r}")
        self.feature_size = feature_size
        self.block = block
        self.channels = list(channels)
        self.kernel = kernel
        self.branch_kernels = list(branch_kernels)
        self.dropout = dropout
        self.head_dropout = head_dropout
        super().__init__(**kwargs)


class StackedCnnForAudioClassification(FrameClassifier):
    """Blocks of convolutions over time on stacked features, mean and deviation over time, a linear layer."""

    config_class = StackedCnnConfig

    def __init__(self, config: StackedCnnConfig) -> None:
        super().__init__(config)
        widths = [config.feature_size, *config.channels]
        self.blocks = nn.ModuleList(_block(config, width, out) for width, out in pairwise(widths))
        self.min_frames = 2 ** len(self.blocks)
        self.dropout = nn.Dropout1d(config.dropout)
        self.finish(2 * widths[-1], config.head_dropout)

    def encode(self, features: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        """Sum clips up: mean and deviation over time, of each channel."""
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
        self.around = nn.Identity() if width == out else nn.Conv1d(width, out, 1, bias=False)

    def forward(self, hidden: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        inner = self.norm(self.second(mask_padding(self.first(hidden, lengths), lengths)))
        return torch.relu(inner + self.around(hidden))


class _Wide(nn.Module):
    def __init__(self, width: int, out: int, kernels: Sequence[int]) -> None:
        super().__init__()
        shares = [out // len(kernels) + (place < out % len(kernels)) for place in range(len(kernels))]
        self.branches = nn.ModuleList(
            _Plain(width, share, kernel) for share, kernel in zip(shares, kernels, strict=True) if share
        )

    def forward(self, hidden: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        return torch.cat([branch(hidden, lengths) for branch in self.branches], dim=1)


def _block(config: StackedCnnConfig, width: int, out: int) -> nn.Module:
    if config.block == "wide":
        return _Wide(width, out, config.branch_kernels)
    return {"plain": _Plain, "residual": _Residual}[config.block](width, out, config.kernel)


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
