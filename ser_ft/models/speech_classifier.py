"""A pretrained speech encoder with a head that pools statistics of its states over each clip's own frames."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

from .whisper import ClipLengthFeatureExtractor, num_positions, use_clip_length

POOLINGS = ("statistics", "attentive")
# Width of the hidden layer of the attention (Okabe et al. 2018 use a small one as well).
_ATTENTION_SIZE = 128


class SpeechClassifierConfig(PreTrainedConfig):
    """Configuration of `SpeechClassifier`.

    Args:
        encoder: configuration of the encoder, an object or a dictionary with its model_type.
        pooling: "statistics" (mean and standard deviation over time) or "attentive" (both, weighted by attention).
        layers: numbers of the states that are pooled, from 0, the input of the first layer, to the number of layers;
            None: all.
        projection_size: width of the layer before the last one. 0: there is none; the head is linear, and the
            statistics of the layers are concatenated instead of summed.
        head_dropout: dropout rate before the last layer.
    """

    model_type = "ser_ft_speech"
    sub_configs = {"encoder": AutoConfig}  # noqa: RUF012  (as transformers declares it)
    encoder: Any = None
    pooling: str = "statistics"
    layers: list[int] | None = None
    projection_size: int = 256
    head_dropout: float = 0.3

    def __post_init__(self, **kwargs: Any) -> None:
        if isinstance(self.encoder, Mapping):
            settings = dict(self.encoder)
            self.encoder = AutoConfig.for_model(settings.pop("model_type"), **settings)
        if self.pooling not in POOLINGS:
            raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}, not {self.pooling!r}")
        count = 0 if self.encoder is None else self.encoder.num_hidden_layers
        if self.layers is not None and not (self.layers and all(0 <= layer <= count for layer in self.layers)):
            raise ValueError(f"layers must be numbers from 0 to {count}, not {self.layers}")
        super().__post_init__(**kwargs)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings, without the folder or name that the encoder was loaded from."""
        settings: dict[str, Any] = super().to_dict()
        if isinstance(settings["encoder"], dict):
            settings["encoder"].pop("_name_or_path", None)
        return settings

    @property
    def head(self) -> str:
        """The head as a recipe names it."""
        return self.pooling if self.projection_size else "linear"


class SpeechClassifier(PreTrainedModel):
    """Pools the states of an encoder's layers over time, normalizes the result, and classifies it.

    The layers are summed with learned weights. With statistics pooling this is done after pooling: the mean of a sum is
    the sum of the means, and that of the deviations keeps each layer's own. `encoder` has the pretrained weights; None:
    it is created with random weights.
    """

    config_class: Any = SpeechClassifierConfig
    base_model_prefix = "encoder"
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def __init__(self, config: SpeechClassifierConfig, encoder: Any = None) -> None:
        super().__init__(config)
        self.encoder = encoder or backbone_of(AutoModelForAudioClassification.from_config(config.encoder))
        if config.encoder.model_type == "whisper":
            use_clip_length(self.encoder)
        self.main_input_name = self.encoder.main_input_name
        size = config.encoder.hidden_size
        self.layers = config.layers if config.layers is not None else list(range(config.encoder.num_hidden_layers + 1))
        is_linear = not config.projection_size
        if not is_linear:
            self.layer_weights = nn.Parameter(torch.zeros(len(self.layers)))
        if config.pooling == "attentive":
            self.attention = nn.Sequential(nn.Linear(size, _ATTENTION_SIZE), nn.Tanh(), nn.Linear(_ATTENTION_SIZE, 1))
        width = 2 * size * (len(self.layers) if is_linear else 1)
        self.norm = nn.BatchNorm1d(width, affine=False)
        if not is_linear:
            self.projector = nn.Linear(width, config.projection_size)
        self.head_dropout = nn.Dropout(config.head_dropout)
        self.classifier = nn.Linear(config.projection_size or width, len(config.id2label or ()))
        self.post_init()

    def forward(
        self,
        input_values: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,  # noqa: ARG002
    ) -> SequenceClassifierOutput | tuple[torch.Tensor, ...]:
        """Classify clips.

        Args:
            input_values: samples, for encoders of waveforms, shape (clips, samples).
            input_features: a spectrum, for the other encoders; for Whisper of any length, shape (clips, mels, frames).
            attention_mask: 1 for samples or frames of the clip, 0 for padding; None: no clip is padded.
            labels: class numbers, shape (clips,); None: no loss is computed.
            return_dict: False to return a tuple; None: as in the configuration.
            **kwargs: ignored; transformers' pipelines pass them.
        """
        inputs = input_features if input_values is None else input_values
        mask = {} if attention_mask is None else {"attention_mask": attention_mask}
        outputs = self.encoder(inputs, **mask, output_hidden_states=True)
        last = outputs.last_hidden_state
        # The last state is the input of a stock head: in some families the last layer's output is normalized.
        states = [*outputs.hidden_states[:-1], last]
        lengths = frame_lengths(self.encoder, last.shape[1], attention_mask)
        logits = self.classify([states[layer] for layer in self.layers], lengths, last.shape[1])
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        if not (self.config.return_dict if return_dict is None else return_dict):
            return (logits,) if loss is None else (loss, logits)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def classify(self, states: Sequence[torch.Tensor], lengths: torch.Tensor | None, frames: int) -> torch.Tensor:
        """Return the logits, shape (clips, classes), of the states of `layers`, each (clips, frames, size).

        `lengths` are the clips' lengths among `frames` frames; None: no clip is padded.
        """
        if self.config.pooling == "attentive":
            weights = self.layer_weights.softmax(dim=0)
            mixed = sum(weight * values for weight, values in zip(weights, states, strict=True))
            return self.classify_pooled(self._attentive_statistics(mixed, lengths))
        pooled = [mean_and_deviation(values, _at_rate(lengths, frames, values.shape[1])) for values in states]
        return self.classify_pooled(self.mix_pooled(torch.stack(pooled, dim=1)))

    def mix_pooled(self, pooled: torch.Tensor) -> torch.Tensor:
        """Sum the statistics of `layers`, (clips, layers, 2 * size), with learned weights, or concatenate them."""
        if not self.config.projection_size:
            return pooled.flatten(1)
        return (pooled * self.layer_weights.softmax(dim=0)[:, None]).sum(dim=1)

    def classify_pooled(self, pooled: torch.Tensor) -> torch.Tensor:
        """Return the logits of what `mix_pooled` returns."""
        norm: Any = self.norm
        if len(pooled) > 1 or not self.training:
            normalized = norm(pooled)
        else:  # a single clip has no deviation from its mean
            normalized = nn.functional.batch_norm(pooled, norm.running_mean, norm.running_var, eps=norm.eps)
        hidden = self.projector(normalized).relu() if self.config.projection_size else normalized
        logits: torch.Tensor = self.classifier(self.head_dropout(hidden))
        return logits

    def _attentive_statistics(self, states: Any, lengths: torch.Tensor | None) -> torch.Tensor:
        """Return mean and standard deviation weighted by attention over frames (Okabe et al. 2018)."""
        scores = self.attention(states).float()
        if lengths is not None:
            scores = scores.masked_fill(~_inside(states, lengths), -torch.inf)
        weights = scores.softmax(dim=1)
        values = states.float()
        mean = (values * weights).sum(dim=1)
        variance = ((values - mean[:, None]).square() * weights).sum(dim=1)
        return torch.cat((mean, (variance + 1e-5).sqrt()), dim=1)

    def reset_head(self) -> None:
        """Initialize all parameters outside the encoder again."""
        self.norm.reset_running_stats()
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear) and not name.startswith("encoder."):
                module.reset_parameters()
        if self.config.projection_size:
            nn.init.zeros_(self.layer_weights)

    def _init_weights(self, module: nn.Module) -> None:
        """Initialize a head that was not loaded; the encoder has its own initialization."""
        if isinstance(module, nn.Linear) and module in (self.classifier, getattr(self, "projector", None)):
            module.reset_parameters()


def backbone_of(model: PreTrainedModel) -> Any:
    """Return the encoder inside a stock audio classifier: its largest part."""
    return max(model.children(), key=lambda child: sum(parameter.numel() for parameter in child.parameters()))


def frame_lengths(encoder: Any, frames: int, mask: torch.Tensor | None) -> torch.Tensor | None:
    """Return the frames of each clip in an encoder's states, shape (clips,); None: no clip is padded.

    Args:
        frames: frames of the padded states.
        mask: the encoder's mask over samples or frames of its input.
    """
    if mask is None:
        return None
    lengths, config = mask.sum(dim=1), encoder.config
    if config.model_type == "whisper":
        lengths = lengths if encoder.first_layer is not None else num_positions(lengths)
    elif hasattr(config, "conv_kernel"):
        for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
            lengths = (lengths - kernel) // stride + 1
    return lengths.clamp(min=1, max=frames)


def mean_and_deviation(states: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
    """Return mean and standard deviation over time of (clips, frames, size), float32, shape (clips, 2 * size)."""
    mean = mean_over_time(states, lengths)
    variance = mean_over_time((states.float() - mean[:, None]).square(), lengths)
    return torch.cat((mean, (variance + 1e-5).sqrt()), dim=1)


def mean_over_time(states: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
    """Return the mean over each clip's frames of (clips, frames, size), float32, shape (clips, size)."""
    values = states.float()
    if lengths is None:
        return values.mean(dim=1)
    return (values * _inside(states, lengths).float()).sum(dim=1) / lengths[:, None].float()


def _at_rate(lengths: torch.Tensor | None, frames: int, other_frames: int) -> torch.Tensor | None:
    """Convert lengths to those of states with another number of frames: SEW's layers have half as many."""
    if lengths is None or frames == other_frames:
        return lengths
    return (lengths * other_frames + frames - 1) // frames


def _inside(states: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    return (torch.arange(states.shape[1], device=states.device) < lengths[:, None])[..., None]


AutoConfig.register(SpeechClassifierConfig.model_type, SpeechClassifierConfig)
AutoModelForAudioClassification.register(SpeechClassifierConfig, SpeechClassifier)
AutoFeatureExtractor.register(SpeechClassifierConfig, ClipLengthFeatureExtractor)
SpeechClassifierConfig.register_for_auto_class()
SpeechClassifier.register_for_auto_class("AutoModelForAudioClassification")
