"""Tiny checkpoints of speech encoders with random weights, for tests without network access."""

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
# Variants of these families: large models with layer norm, rotary positions, and AST with its head of 527 classes,
# which can only be loaded with `ignore_mismatched_sizes=True`.
VARIANTS: tuple[str, ...] = (
    "wav2vec2-large",
    "hubert-large",
    "wavlm-large",
    "unispeech-sat-large",
    "wav2vec2-conformer-rope",
    "ast-audioset",
)


class _Checkpoint(NamedTuple):
    """Model class of transformers, settings that differ from its defaults, and the extractor of a configuration."""

    model: str
    config: dict[str, Any]
    extractor: Callable[[PreTrainedConfig], tuple[str, dict[str, Any]]]


def _wav2vec2_extractor(normalize: bool, mask: bool) -> Callable[[PreTrainedConfig], tuple[str, dict[str, Any]]]:
    return lambda _: ("Wav2Vec2FeatureExtractor", {"do_normalize": normalize, "return_attention_mask": mask})


# The default of 0.02 is for widths near 1000; at a width of 32, the input would hardly change the output.
_SIZE = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "initializer_range": 0.2,
}
_HEAD = {"classifier_proj_size": 32}
_WAVEFORM = _SIZE | _HEAD | {"conv_dim": [32] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
_LARGE = _WAVEFORM | {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True, "layerdrop": 0.1}
_QUANTIZER = {"num_codevectors_per_group": 8, "codevector_dim": 16, "proj_codevector_dim": 16}
_CONFORMER = _WAVEFORM | _QUANTIZER | {"feat_extract_norm": "layer", "conv_bias": True, "hidden_act": "swish"}
_EXTRACTOR_SETTINGS = ("do_normalize", "return_attention_mask")  # settings of the extractor that overrides may change

_CHECKPOINTS: dict[str, _Checkpoint] = {
    "wav2vec2": _Checkpoint(
        "Wav2Vec2ForPreTraining", _WAVEFORM | _QUANTIZER | {"layerdrop": 0.0}, _wav2vec2_extractor(True, False)
    ),
    "wav2vec2-large": _Checkpoint("Wav2Vec2ForPreTraining", _LARGE | _QUANTIZER, _wav2vec2_extractor(True, True)),
    "hubert": _Checkpoint("HubertModel", _WAVEFORM | {"layerdrop": 0.1}, _wav2vec2_extractor(True, False)),
    "hubert-large": _Checkpoint("HubertModel", _LARGE, _wav2vec2_extractor(True, True)),
    "wavlm": _Checkpoint("WavLMModel", _WAVEFORM | {"layerdrop": 0.05}, _wav2vec2_extractor(False, True)),
    "wavlm-large": _Checkpoint("WavLMModel", _LARGE | {"conv_bias": False}, _wav2vec2_extractor(True, True)),
    "unispeech-sat": _Checkpoint(
        "UniSpeechSatModel", _WAVEFORM | {"layerdrop": 0.05}, _wav2vec2_extractor(False, True)
    ),
    "unispeech-sat-large": _Checkpoint("UniSpeechSatModel", _LARGE, _wav2vec2_extractor(True, True)),
    # Its positions are five successive convolutions with kernel size 19.
    "data2vec-audio": _Checkpoint(
        "Data2VecAudioModel",
        _WAVEFORM | {"num_conv_pos_embeddings": 5, "conv_pos_kernel_size": 19, "layerdrop": 0.05},
        _wav2vec2_extractor(True, True),
    ),
    "wav2vec2-conformer": _Checkpoint(
        "Wav2Vec2ConformerForPreTraining",
        _CONFORMER | {"position_embeddings_type": "relative", "layerdrop": 0.0},
        _wav2vec2_extractor(True, True),
    ),
    "wav2vec2-conformer-rope": _Checkpoint(
        "Wav2Vec2ConformerForPreTraining",
        _CONFORMER | {"position_embeddings_type": "rotary", "layerdrop": 0.0},
        _wav2vec2_extractor(True, True),
    ),
    "wav2vec2-bert": _Checkpoint(
        "Wav2Vec2BertModel",
        _SIZE | _HEAD | {"apply_spec_augment": False, "layerdrop": 0.1},
        lambda _: ("SeamlessM4TFeatureExtractor", {"feature_size": 80, "padding_value": 1.0, "stride": 2}),
    ),
    # The convolutions have the width of the layers, so that there is no feature projection, as in sew-tiny.
    "sew": _Checkpoint(
        "SEWModel", _WAVEFORM | {"conv_dim": [32] * 13, "layerdrop": 0.1}, _wav2vec2_extractor(True, False)
    ),
    # Clips of 4 s instead of 30. `chunk_length` and `feature_size` of the extractor follow the configuration.
    "whisper": _Checkpoint(
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
    "ast": _Checkpoint(
        "ASTModel",
        _SIZE | {"max_length": 400},
        lambda config: ("ASTFeatureExtractor", {"max_length": config.max_length, "num_mel_bins": config.num_mel_bins}),
    ),
}
_CHECKPOINTS["ast-audioset"] = _Checkpoint(
    "ASTForAudioClassification", _CHECKPOINTS["ast"].config | {"num_labels": 527}, _CHECKPOINTS["ast"].extractor
)


def write_tiny_backbone(family: str, folder: Path, **overrides: Any) -> Path:
    """Write a pretrained encoder, without a head for classes, and its feature extractor.

    The weights are always the same, and the state of the random generators does not change.

    Args:
        family: one of `FAMILIES` or `VARIANTS`.
        folder: folder to write, created if necessary.
        **overrides: settings of the configuration, or `do_normalize` and `return_attention_mask` of the extractor.

    Returns:
        The folder.
    """
    checkpoint = _CHECKPOINTS[family]
    model_class = getattr(transformers, checkpoint.model)
    config_class = model_class.config_class
    extractor_overrides = {name: overrides.pop(name) for name in _EXTRACTOR_SETTINGS if name in overrides}
    if unknown := [name for name in overrides if not hasattr(config_class(), name)]:
        raise TypeError(f"{config_class.__name__} has no {', '.join(unknown)}")
    config = config_class(**checkpoint.config | overrides)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(0)  # torch.manual_seed would seed GPUs, too
        model = model_class(config)
        for weights in model.parameters():
            if bool((weights == weights.flatten()[0]).all()):  # ones and zeros
                weights.add_(0.1 * torch.randn_like(weights))
    model.save_pretrained(folder)
    extractor, settings = checkpoint.extractor(config)
    getattr(transformers, extractor)(**settings | extractor_overrides).save_pretrained(folder)
    return folder
