"""Checkpoints of speech encoders as the Hub has them, but tiny and with random weights: for tests without a network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from transformers import PreTrainedConfig

# By the `model_type` of their configuration; "ast" is short for "audio-spectrogram-transformer".
FAMILIES: tuple[str, ...] = (
    "wav2vec2",
    "hubert",
    "wavlm",
    "unispeech-sat",
    "data2vec-audio",
    "wav2vec2-conformer",
    "wav2vec2-bert",
    "sew",
    "whisper",
    "ast",
)
# Others of these families: the large models with layer norm, rotary positions, and AST with its head of 527 classes,
# which loads with `ignore_mismatched_sizes=True` alone.
VARIANTS: tuple[str, ...] = (
    "wav2vec2-large",
    "hubert-large",
    "wavlm-large",
    "unispeech-sat-large",
    "wav2vec2-conformer-rope",
    "ast-audioset",
)


class _Recipe(NamedTuple):
    """What a checkpoint is made of: class names of `transformers`, and settings where they are not the class's own."""

    model: str
    config: dict[str, Any]
    extractor: Callable[[PreTrainedConfig], tuple[str, dict[str, Any]]]


def _waves(normalise: bool, mask: bool) -> Callable[[PreTrainedConfig], tuple[str, dict[str, Any]]]:
    return lambda _: ("Wav2Vec2FeatureExtractor", {"do_normalize": normalise, "return_attention_mask": mask})


# A standard deviation of 0.02 is made for widths near 1000; at 32, what goes in would hardly matter for what comes out.
_SIZE = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "initializer_range": 0.2,
}
_HEAD = {"classifier_proj_size": 32}
_WAVES = _SIZE | _HEAD | {"conv_dim": [32] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
_LARGE = _WAVES | {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True, "layerdrop": 0.1}
_QUANTIZER = {"num_codevectors_per_group": 8, "codevector_dim": 16, "proj_codevector_dim": 16}
_CONFORMER = _WAVES | _QUANTIZER | {"feat_extract_norm": "layer", "conv_bias": True, "hidden_act": "swish"}
_EXTRACTOR = ("do_normalize", "return_attention_mask")  # what overrides may change of it

_RECIPES: dict[str, _Recipe] = {
    "wav2vec2": _Recipe("Wav2Vec2ForPreTraining", _WAVES | _QUANTIZER | {"layerdrop": 0.0}, _waves(True, False)),
    "wav2vec2-large": _Recipe("Wav2Vec2ForPreTraining", _LARGE | _QUANTIZER, _waves(True, True)),
    "hubert": _Recipe("HubertModel", _WAVES | {"layerdrop": 0.1}, _waves(True, False)),
    "hubert-large": _Recipe("HubertModel", _LARGE, _waves(True, True)),
    "wavlm": _Recipe("WavLMModel", _WAVES | {"layerdrop": 0.05}, _waves(False, True)),
    "wavlm-large": _Recipe("WavLMModel", _LARGE | {"conv_bias": False}, _waves(True, True)),
    "unispeech-sat": _Recipe("UniSpeechSatModel", _WAVES | {"layerdrop": 0.05}, _waves(False, True)),
    "unispeech-sat-large": _Recipe("UniSpeechSatModel", _LARGE, _waves(True, True)),
    # Its positions are five convolutions of width 19, one after the other.
    "data2vec-audio": _Recipe(
        "Data2VecAudioModel",
        _WAVES | {"num_conv_pos_embeddings": 5, "conv_pos_kernel_size": 19, "layerdrop": 0.05},
        _waves(True, True),
    ),
    "wav2vec2-conformer": _Recipe(
        "Wav2Vec2ConformerForPreTraining",
        _CONFORMER | {"position_embeddings_type": "relative", "layerdrop": 0.0},
        _waves(True, True),
    ),
    "wav2vec2-conformer-rope": _Recipe(
        "Wav2Vec2ConformerForPreTraining",
        _CONFORMER | {"position_embeddings_type": "rotary", "layerdrop": 0.0},
        _waves(True, True),
    ),
    "wav2vec2-bert": _Recipe(
        "Wav2Vec2BertModel",
        _SIZE | _HEAD | {"apply_spec_augment": False, "layerdrop": 0.1},
        lambda _: ("SeamlessM4TFeatureExtractor", {"feature_size": 80, "padding_value": 1.0, "stride": 2}),
    ),
    # As wide at the end of the convolutions as behind them, so that there is no feature projection, as in sew-tiny.
    "sew": _Recipe("SEWModel", _WAVES | {"conv_dim": [32] * 13, "layerdrop": 0.1}, _waves(True, False)),
    # Clips of 4 s instead of 30. `chunk_length` and `feature_size` of the extractor follow the configuration.
    "whisper": _Recipe(
        "WhisperForConditionalGeneration",
        _HEAD
        | {
            "d_model": 32,
            "encoder_layers": 4,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 64,
            "decoder_layers": 1,
            "decoder_attention_heads": 4,
            "decoder_ffn_dim": 64,
            "init_std": 0.2,
            "max_source_positions": 200,
            "max_target_positions": 16,
            "vocab_size": 64,
            "bos_token_id": 1,
            "eos_token_id": 1,
            "pad_token_id": 1,
            "decoder_start_token_id": 2,
            "begin_suppress_tokens": None,
        },
        lambda config: (
            "WhisperFeatureExtractor",
            {"feature_size": config.num_mel_bins, "chunk_length": config.max_source_positions // 50},
        ),
    ),
    # Clips of 4 s instead of 10.24.
    "ast": _Recipe(
        "ASTModel",
        _SIZE | {"max_length": 400},
        lambda config: (
            "ASTFeatureExtractor",
            {"max_length": config.max_length, "num_mel_bins": config.num_mel_bins},
        ),
    ),
}
_RECIPES["ast-audioset"] = _Recipe(
    "ASTForAudioClassification", _RECIPES["ast"].config | {"num_labels": 527}, _RECIPES["ast"].extractor
)


def write_tiny_backbone(family: str, folder: Path, **overrides: Any) -> Path:
    """Write a pretrained encoder, without a head for classes, and its feature extractor.

    The weights are always the same, and the state of the random generators is left as it was.

    Args:
        family: one of `FAMILIES` or `VARIANTS`.
        folder: is made if it is not there.
        **overrides: settings of the configuration; `do_normalize` and `return_attention_mask` are the extractor's.

    Returns:
        The folder, for `from_pretrained` of the Auto classes.
    """
    recipe = _RECIPES[family]
    model_class = getattr(transformers, recipe.model)
    config_class = model_class.config_class
    of_extractor = {name: overrides.pop(name) for name in _EXTRACTOR if name in overrides}
    if unknown := [name for name in overrides if not hasattr(config_class(), name)]:
        raise TypeError(f"{config_class.__name__} has no {', '.join(unknown)}")
    config = config_class(**recipe.config | overrides)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(0)  # not torch.manual_seed, which would seed GPUs too
        model = model_class(config)
        for weights in model.parameters():
            if bool((weights == weights.flatten()[0]).all()):  # ones and zeros, which training does not leave so
                weights.add_(0.1 * torch.randn_like(weights))
    model.save_pretrained(folder)
    extractor, settings = recipe.extractor(config)
    getattr(transformers, extractor)(**settings | of_extractor).save_pretrained(folder)
    return folder
