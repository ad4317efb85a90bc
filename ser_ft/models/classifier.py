"""What our own networks share: frames and their mask in, logits out, and padding that changes no answer."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput


@dataclass
class FrameClassifierOutput(SequenceClassifierOutput):
    """Logits of clips; `member_logits`, shape (members, clips, classes): in training, those of each member."""

    member_logits: torch.Tensor | None = None


class FrameClassifier(PreTrainedModel):
    """Classifies clips of frames: what a network makes of them, dropout, a linear layer.

    A subclass makes its layers, calls `finish`, and gives `encode`.

    Attributes:
        min_frames: that it sums up; a clip of fewer is padded with silence.
        members: networks whose logits are averaged, and which are trained each for itself: an ensemble in one model.
            Each makes an equal part of what `encode` returns.
    """

    config_class: Any = PreTrainedConfig
    base_model_prefix = ""
    main_input_name = "input_features"
    min_frames = 1
    members = 1

    def finish(self, width: int, dropout: float) -> None:
        """Put the head on what `encode` returns, shape (clips, width)."""
        self.head_dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(width, len(self.config.id2label or ()))
        self.post_init()

    def encode(self, features: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        """Sum clips up.

        Args:
            features: shape (clips, frames, feature_size), zero beyond each clip's end.
            lengths: frames of each clip, shape (clips,), 1 or more; None: all frames are real.

        Returns:
            Shape (clips, width).
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
            input_features: shape (clips, frames, feature_size).
            attention_mask: shape (clips, frames), 1 where the frame is real; by default all are.
            labels: class numbers, shape (clips,), for the cross entropy; optional.
            return_dict: False for a tuple.
            **kwargs: accepted for the pipelines of transformers, and not used.

        Returns:
            `logits`, shape (clips, classes), and `loss` where labels were given.
        """
        features, lengths = input_features, None
        if attention_mask is not None:
            features, lengths = features * attention_mask[..., None].to(features.dtype), attention_mask.sum(dim=1)
        features, lengths = _at_least(features, lengths, self.min_frames)
        summed = self.head_dropout(self.encode(features, lengths))
        logits = self.classifier(summed)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        if not (self.config.return_dict if return_dict is None else return_dict):
            return (logits,) if loss is None else (loss, logits)
        apart = self._member_logits(summed) if self.training and self.members > 1 else None
        return FrameClassifierOutput(loss=loss, logits=logits, member_logits=apart)

    def _member_logits(self, summed: torch.Tensor) -> torch.Tensor:
        """Return what each member says by itself, shape (members, clips, classes); their mean is what all say."""
        parts, weights = summed.chunk(self.members, dim=1), self.classifier.weight.chunk(self.members, dim=1)
        said = [nn.functional.linear(*each) for each in zip(parts, weights, strict=True)]
        return self.members * torch.stack(said) + self.classifier.bias

    def _init_weights(self, module: nn.Module) -> None:
        """Leave every layer as torch, or its own library, begins it; make anew a head that was not loaded."""
        if module is getattr(self, "classifier", None):
            module.reset_parameters()


def mask_padding(hidden: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
    """Set what lies beyond each clip's end to zero, in (clips, channels, frames) or (clips, channels, frames, ...)."""
    if lengths is None:
        return hidden
    inside = torch.arange(hidden.shape[2], device=hidden.device)[None] < lengths[:, None]
    return hidden * inside.reshape(len(hidden), 1, -1, *[1] * (hidden.ndim - 3)).to(hidden.dtype)


def halve_lengths(lengths: torch.Tensor | None) -> torch.Tensor | None:
    """Return the lengths after a step of two frames, the last of which may be half a clip's."""
    return None if lengths is None else (lengths + 1) // 2


def mean_and_std(hidden: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
    """Return both over the real frames of (clips, channels, frames): shape (clips, 2 channels)."""
    count = hidden.shape[2] if lengths is None else lengths.to(hidden.dtype)[:, None]
    mean = mask_padding(hidden, lengths).sum(dim=2) / count
    variance = mask_padding((hidden - mean[..., None]).square(), lengths).sum(dim=2) / count
    return torch.cat((mean, (variance + 1e-5).sqrt()), dim=1)


def _at_least(
    features: torch.Tensor, lengths: torch.Tensor | None, frames: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Pad (clips, frames, size) with silence to so many frames, where there are fewer."""
    there = features.shape[1]
    if there >= frames:
        return features, lengths
    if lengths is None:
        lengths = torch.full((len(features),), there, device=features.device)
    return nn.functional.pad(features, (0, 0, 0, frames - there)), lengths


def check_sizes(**settings: Any) -> None:
    """Refuse counts below 1, and dropouts that are no shares.

    Args:
        **settings: names and values; a list is checked number by number.

    Raises:
        ValueError: naming the setting.
    """
    for name, value in settings.items():
        values = list(value) if isinstance(value, list | tuple) else [value]
        if "dropout" in name:
            if not all(0 <= each < 1 for each in values):
                raise ValueError(f"{name} is a share between 0 and 1, not {value}")
        elif not values or not all(isinstance(each, int) and each >= 1 for each in values):
            raise ValueError(f"{name} must be 1 or more, not {value}")
        if "kernel" in name and any(each % 2 == 0 for each in values):
            raise ValueError(f"{name} must be odd, not {value}")
