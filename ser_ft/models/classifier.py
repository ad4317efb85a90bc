"""Base class of our own networks: frames and their mask in, logits out, and no effect of padding on the result."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput


class FrameClassifierConfig(PreTrainedConfig):
    """Base class of the configurations of our own networks, which declare their settings as fields.

    Raises:
        ValueError: a count is below 1, a kernel size is even, or a dropout rate is not between 0 and 1; the message
            names the setting.
    """

    def __post_init__(self, **kwargs: Any) -> None:
        for name in type(self).__annotations__:
            value, default = getattr(self, name), getattr(type(self), name)
            if isinstance(default, tuple):
                setattr(self, name, list(value))
            values = list(value) if isinstance(value, list | tuple) else [value]
            if "dropout" in name:
                if not all(0 <= number < 1 for number in values):
                    raise ValueError(f"{name} must be at least 0 and below 1, not {value}")
            elif value is not None and not isinstance(default, float | str):
                is_count = values and all(isinstance(number, int) and number >= 1 for number in values)
                if not is_count:
                    raise ValueError(f"{name} must be 1 or more, not {value}")
            if "kernel" in name and any(number % 2 == 0 for number in values):
                raise ValueError(f"{name} must be odd, not {value}")
        super().__post_init__(**kwargs)


@dataclass
class FrameClassifierOutput(SequenceClassifierOutput):
    """Logits of clips; in training also `member_logits`, those of each member, shape (members, clips, classes)."""

    member_logits: torch.Tensor | None = None


class FrameClassifier(PreTrainedModel):
    """Classifies clips of frames: an encoder, dropout and a linear layer.

    A subclass creates its layers, calls `add_head` and implements `encode`.

    Attributes:
        min_frames: fewest frames that the network takes; shorter clips are padded with silence.
        num_members: networks whose logits are averaged and which are trained separately: an ensemble in one model.
            Each one makes an equal part of what `encode` returns.
    """

    config_class: Any = PreTrainedConfig
    base_model_prefix = ""
    main_input_name = "input_features"
    min_frames = 1
    num_members = 1

    def add_head(self, width: int, dropout: float) -> None:
        """Create the head on the output of `encode`, shape (clips, width)."""
        self.head_dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(width, len(self.config.id2label or ()))
        self.post_init()

    def encode(self, features: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        """Return one vector per clip, shape (clips, width).

        `features` has shape (clips, frames, feature_size), zero in the padding; `lengths` are the frames of each clip,
        1 or more; None: no clip is padded.
        """
        raise NotImplementedError

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
            input_features: frames, shape (clips, frames, feature_size).
            attention_mask: 1 for frames of the clip, 0 for padding, shape (clips, frames); None: no clip is padded.
            labels: class numbers, shape (clips,); None: no loss is computed.
            return_dict: False to return a tuple; None: as in the configuration.
            **kwargs: ignored; transformers' pipelines pass them.
        """
        features, lengths = input_features, None
        if attention_mask is not None:
            features, lengths = features * attention_mask[..., None].to(features.dtype), attention_mask.sum(dim=1)
        missing = self.min_frames - features.shape[1]
        if missing > 0:
            if lengths is None:
                lengths = torch.full((len(features),), features.shape[1], device=features.device)
            features = nn.functional.pad(features, (0, 0, 0, missing))
        pooled = self.head_dropout(self.encode(features, lengths))
        logits = self.classifier(pooled)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        if not (self.config.return_dict if return_dict is None else return_dict):
            return (logits,) if loss is None else (loss, logits)
        member_logits = self._member_logits(pooled) if self.training and self.num_members > 1 else None
        return FrameClassifierOutput(loss=loss, logits=logits, member_logits=member_logits)

    def _member_logits(self, pooled: torch.Tensor) -> torch.Tensor:
        parts, weights = pooled.chunk(self.num_members, dim=1), self.classifier.weight.chunk(self.num_members, dim=1)
        logits = [nn.functional.linear(part, weight) for part, weight in zip(parts, weights, strict=True)]
        return self.num_members * torch.stack(logits) + self.classifier.bias

    def _init_weights(self, module: nn.Module) -> None:
        """Initialize a head that was not loaded; other layers keep the initialization of their library."""
        if module is getattr(self, "classifier", None):
            module.reset_parameters()


def mask_padding(hidden: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
    """Set the padding to zero in a tensor of shape (clips, channels, frames) or (clips, channels, frames, ...)."""
    if lengths is None:
        return hidden
    inside = torch.arange(hidden.shape[2], device=hidden.device)[None] < lengths[:, None]
    return hidden * inside.reshape(len(hidden), 1, -1, *[1] * (hidden.ndim - 3)).to(hidden.dtype)


def halve_lengths(lengths: torch.Tensor | None) -> torch.Tensor | None:
    """Return the lengths after pooling by 2, rounded up."""
    return None if lengths is None else (lengths + 1) // 2


def mean_and_std(hidden: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
    """Return the mean and standard deviation over time of (clips, channels, frames): shape (clips, 2 * channels)."""
    count = hidden.shape[2] if lengths is None else lengths.to(hidden.dtype)[:, None]
    mean = mask_padding(hidden, lengths).sum(dim=2) / count
    variance = mask_padding((hidden - mean[..., None]).square(), lengths).sum(dim=2) / count
    return torch.cat((mean, (variance + 1e-5).sqrt()), dim=1)
