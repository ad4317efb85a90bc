"""Whisper at the clip's own length, and heads that pool the states of chosen layers: one answer for each clip."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForAudioClassification,
    PreTrainedModel,
    WhisperFeatureExtractor,
    WhisperForAudioClassification,
    WhisperModel,
    pipeline,
)

from ser_ft import EmotionRecognizer, audio, models
from ser_ft.dataloading.encoder_hooks import EncoderHooks
from ser_ft.inference.backends.torch import TorchBackend
from ser_ft.inference.windows import SlidingWindow, WindowSettings
from ser_ft.models.collation import collate_waveforms
from ser_ft.models.encoder_spec import find_encoder
from ser_ft.models.encoders import EncoderParts, load_encoder
from ser_ft.models.pretrained import PretrainedClassifier
from ser_ft.models.speech_classifier import SpeechClassifier, backbone_of
from ser_ft.models.whisper import ClipLengthFeatureExtractor, log_mel, use_clip_length
from ser_ft.utils import auto_classes
from tests.helpers.tiny_encoders import write_tiny_backbone

CLASSES = ("neutral", "happy", "sad")
RATE = audio.SAMPLE_RATE


def noise(*seconds: float) -> list[np.ndarray]:
    """Clips of different levels and spectra, so that random weights give different answers."""
    random, clips = np.random.default_rng(0), []
    for number, length in enumerate(seconds):
        clip = random.normal(size=round(length * RATE)) * 0.02 * (1 + number % 4)
        clips.append(np.convolve(clip, np.ones(1 + 3 * (number % 3)), "same").clip(-1, 1).astype(np.float32))
    return clips


def build(folder: Path, **settings: Any) -> tuple[PreTrainedModel, Any]:
    """Return a model with a random head, fitted to statistics of noise, and its feature extractor."""
    torch.manual_seed(0)
    spec = find_encoder(str(folder), CLASSES, **settings)
    model = load_encoder(spec).eval()
    if isinstance(model, SpeechClassifier):
        with torch.no_grad():
            torch.nn.init.normal_(model.layer_weights)
            model.norm.running_mean.normal_()
            model.norm.running_var.uniform_(0.2, 1.0)
    return model, spec.extractor


def save(folder: Path, out: Path, **settings: Any) -> Path:
    for part in build(folder, **settings):
        part.save_pretrained(out)
    return out


def answers(model: PreTrainedModel, extractor: Any, clips: list[np.ndarray]) -> np.ndarray:
    """Return the probabilities of a batch of clips, as training and evaluation compute them."""
    parts = EncoderParts.of(model)
    hooks = EncoderHooks(parts)
    with torch.no_grad():
        logits = model(**collate_waveforms(clips, extractor, parts.input_spec, pad_batch=False)).logits
    hooks.remove()
    return logits.softmax(dim=-1).numpy()


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("whisper", {"layers": "learned"}),
        ("whisper", {"head": "attentive", "layers": [1, 3]}),
        ("whisper", {"head": "stock", "layers": "learned"}),
        ("wav2vec2", {"head": "statistics", "layers": [1, 3]}),
        ("wavlm", {"head": "attentive", "layers": "learned"}),
        ("wav2vec2-bert", {"head": "attentive"}),
    ],
    ids=str,
)
def test_a_clip_gets_the_same_answer_alone_in_a_mixed_batch_and_in_windows_of_a_stream(
    family: str,
    settings: dict[str, Any],
    tiny_encoder: Callable[[str], Path],
    tmp_path: Path,
    voices: list[np.ndarray],
) -> None:
    model, extractor = build(tiny_encoder(family), **settings)
    for part in (model, extractor):
        part.save_pretrained(tmp_path)
    clips = [voices[0][8000:24_000], voices[1][:4961], voices[2][:30_047], noise(1.7)[0]]
    mixed = answers(model, extractor, clips)
    assert np.ptp(mixed, axis=0).max() > 0.01, "the answers do not differ: nothing is tested"
    backend = TorchBackend(str(tmp_path), "cpu")
    for clip, expected in zip(clips, mixed, strict=True):
        assert np.abs(backend.probabilities(clip[None]) - expected).max() < 1e-5
    stream = SlidingWindow(backend, WindowSettings(window=1.0, hop=0.5))
    recording = np.concatenate(clips[:3])
    windows = [*stream.feed(recording[:7000]), *stream.feed(recording[7000:]), *stream.finish()]
    scored = [window for window in windows if window.probabilities is not None]
    assert len(scored) > 2
    for window in scored:
        part = recording[round(window.start * RATE) : round(window.end * RATE)]
        assert np.abs(window.probabilities - backend.probabilities(part[None])[0]).max() < 1e-5


# ---- Whisper at the clip's own length


@pytest.mark.parametrize("samples", [400, 16_000, 16_161, 47_999, 479_840, 480_000, 500_000])
def test_log_mel_frames_are_those_of_whisper_padded_to_30_s(samples: int) -> None:
    clip = noise(samples / RATE)[0]
    extractor = WhisperFeatureExtractor()
    actual = log_mel(extractor, [clip])["input_features"]
    expected = extractor(clip, sampling_rate=RATE, return_tensors="pt")["input_features"]
    assert actual.shape[2] == min(3000, 2 * -(-samples // 320))
    assert (actual - expected[:, :, : actual.shape[2]]).abs().max() < 1e-5
    # A longer clip in the batch changes nothing, and the mask tells where this one ends.
    batch = log_mel(extractor, [clip, noise(30.0)[0]])
    if "attention_mask" in batch:
        assert int(batch["attention_mask"][0].sum()) == actual.shape[2]
    assert (batch["input_features"][:1, :, : actual.shape[2]] - actual).abs().max() < 1e-5


def test_a_clip_of_30_s_gives_the_states_of_the_stock_encoder(tmp_path: Path) -> None:
    folder = write_tiny_backbone("whisper", tmp_path, max_source_positions=1500, encoder_layers=2)
    encoder = WhisperModel.from_pretrained(folder).encoder.eval()
    features = log_mel(WhisperFeatureExtractor(), noise(30.0))["input_features"]
    with torch.no_grad():
        expected = encoder(features, output_hidden_states=True)
        use_clip_length(encoder)
        actual = encoder(features)
    assert (actual.last_hidden_state - expected.last_hidden_state).abs().max() < 1e-4
    for ours, stock in zip(actual.hidden_states, expected.hidden_states, strict=True):
        assert (ours - stock).abs().max() < 1e-4


@pytest.mark.parametrize("head", ["statistics", "stock"])
def test_a_shortened_whisper_answers_longer_clips_as_the_whole_one(
    head: str, tiny_encoder: Callable[[str], Path]
) -> None:
    """Positions that it lacks are sinusoids."""
    clips = noise(3.3, 0.5)
    whole = build(tiny_encoder("whisper"), head=head)
    cut = build(tiny_encoder("whisper"), head=head, config_overrides={"max_source_positions": 50})
    assert EncoderParts.of(cut[0]).backbone.embed_positions.weight.shape[0] == 50
    with torch.no_grad():
        for name, value in cut[0].state_dict().items():
            if not name.startswith("encoder."):
                value.copy_(whole[0].state_dict()[name])
    expected = answers(*whole, clips)
    assert np.ptp(expected, axis=0).max() > 0.01
    assert np.abs(expected - answers(*cut, clips)).max() < 1e-5


def test_a_clip_beyond_30_s_is_answered_by_windows(tiny_encoder: Callable[[str], Path], tmp_path: Path) -> None:
    """Its end counts, too."""
    recognizer = EmotionRecognizer(save(tiny_encoder("whisper"), tmp_path), "cpu")
    assert recognizer.info.max_seconds == 30.0
    quiet, loud = (0.1 * noise(16.0)[0], noise(1.0, 1.0, 1.0, 16.0)[3])
    clips = [np.concatenate([quiet, quiet, end]) for end in (quiet, loud)]
    first, second = ([*recognizer({"array": clip, "sampling_rate": RATE})[0]["scores"].values()] for clip in clips)
    assert np.abs(np.subtract(first, second)).max() > 1e-3


def test_automatic_positions_hold_the_longest_training_clip(tiny_encoder: Callable[[str], Path]) -> None:
    """Rounded up to a second; never more than the checkpoint has."""
    for seconds, positions in ((1.2, 100), (2.0, 100), (0.1, 50), (60.0, 200), (None, 200)):
        overrides = {"max_source_positions": "auto"}
        spec = find_encoder(str(tiny_encoder("whisper")), CLASSES, overrides, head="stock", max_seconds=seconds)
        extractor: Any = spec.extractor
        assert (spec.config.max_source_positions, extractor.chunk_length) == (positions, positions // 50)


# ---- whisper checkpoints that others fine-tuned


@pytest.fixture(scope="module", params=[200, 100], ids=["whole", "cut"])
def foreign(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Whisper classifier that was fine-tuned with transformers alone: all positions, or already cut to 2 s."""
    folder, positions = tmp_path_factory.mktemp("foreign"), request.param
    backbone = write_tiny_backbone("whisper", folder / "backbone", max_source_positions=positions)
    torch.manual_seed(0)
    labels = dict(enumerate(CLASSES))
    model = WhisperForAudioClassification.from_pretrained(
        backbone, id2label=labels, label2id={name: number for number, name in labels.items()}
    )
    model.save_pretrained(folder / "model")
    WhisperFeatureExtractor(feature_size=80, chunk_length=positions // 50).save_pretrained(folder / "model")
    return folder / "model"


def test_a_whisper_classifier_of_others_keeps_its_fixed_length_and_its_answers(foreign: Path) -> None:
    saved = PretrainedClassifier.load(str(foreign))
    backend = TorchBackend(str(foreign), "cpu")
    assert not saved.clip_length
    assert backend.info.max_seconds == float(saved.extractor.chunk_length)  # type: ignore[attr-defined]
    classify = pipeline("audio-classification", str(foreign), top_k=None)
    for clip in noise(0.5, 1.5, 3.9):
        scores = {row["label"]: row["score"] for row in classify({"raw": clip, "sampling_rate": RATE})}
        assert backend.probabilities(clip[None])[0].tolist() == pytest.approx([scores[name] for name in CLASSES])


def test_training_continues_from_a_whisper_classifier_of_others(foreign: Path) -> None:
    stock = WhisperForAudioClassification.from_pretrained(foreign)
    kept, _ = build(foreign, head="stock")
    new, _ = build(foreign)
    for model in (kept, new):
        weights = backbone_of(model).state_dict()
        assert all(torch.equal(weights[name], value) for name, value in stock.encoder.state_dict().items())
    assert torch.equal(kept.classifier.weight, stock.classifier.weight)  # type: ignore[union-attr]
    assert isinstance(new, SpeechClassifier)


# ---- heads


@pytest.mark.parametrize("family", ["whisper", "hubert"])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"head": "stock"}, {"head": "statistics"}),
        ({"head": "statistics"}, {"head": "stock"}),
        ({"head": "statistics"}, {"head": "attentive"}),
        ({"head": "statistics"}, {"classes": ("yes", "no")}),
        ({"head": "statistics", "layers": [2]}, {"head": "statistics", "layers": [1, 2]}),
        ({"head": "attentive"}, {"num_layers": 2, "layers": "last"}),
    ],
    ids=str,
)
def test_another_head_takes_only_the_encoder_of_a_checkpoint(
    family: str, before: dict[str, Any], after: dict[str, Any], tiny_encoder: Callable[[str], Path], tmp_path: Path
) -> None:
    first, extractor = build(tiny_encoder(family), **before)
    with torch.no_grad():
        for name, value in first.named_parameters():
            value.add_(0.01 if name.startswith("encoder.") or "encoder.layers" in name else 100)
    for part in (first, extractor):
        part.save_pretrained(tmp_path)
    settings = dict(after)
    torch.manual_seed(0)
    spec = find_encoder(str(tmp_path), settings.pop("classes", CLASSES), **settings)
    second = load_encoder(spec)
    assert not spec.keeps_head
    old, new = backbone_of(first).state_dict(), backbone_of(second).state_dict()
    assert new.keys() <= old.keys()
    assert all(torch.equal(value, old[name]) for name, value in new.items()), "the encoder is not the checkpoint's"
    assert all(value.abs().max() < 5 for value in EncoderParts.of(second).head), "the head is the old one"
    assert not any(module.training for module in second.modules()), "transformers loads models for evaluation"


@pytest.mark.parametrize("settings", [{}, {"head": "statistics"}, {"layers": [1, 3]}], ids=str)
def test_training_continues_with_the_head_of_a_checkpoint_for_the_same_classes(
    settings: dict[str, Any], tiny_encoder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder, clips = save(tiny_encoder("whisper"), tmp_path, layers=[1, 3]), noise(0.7, 1.4)
    spec = find_encoder(str(folder), CLASSES, **settings)
    assert spec.keeps_head
    model = load_encoder(spec).eval()
    expected = np.concatenate([TorchBackend(str(folder), "cpu").probabilities(clip[None]) for clip in clips])
    assert np.abs(answers(model, spec.extractor, clips) - expected).max() < 1e-5


def test_a_batch_of_one_clip_can_be_trained(tiny_encoder: Callable[[str], Path]) -> None:
    """As a long clip is with `train.max_batch_seconds`: batch normalization uses its running statistics."""
    model, extractor = build(tiny_encoder("whisper"), dropout=0.0)
    clips, parts = noise(1.0), EncoderParts.of(model)
    expected = answers(model, extractor, clips)
    model.train().head_dropout.p = 0.0
    assert np.abs(answers(model, extractor, clips) - expected).max() < 1e-6
    model(**collate_waveforms(clips, extractor, parts.input_spec)).logits.sum().backward()
    assert all(value.grad is None or value.grad.isfinite().all() for value in model.parameters())


@pytest.mark.parametrize("pooling", ["statistics", "attentive"])
def test_a_head_ignores_padding(pooling: str, tiny_encoder: Callable[[str], Path]) -> None:
    model, _ = build(tiny_encoder("whisper"), head=pooling)
    assert isinstance(model, SpeechClassifier)
    states = torch.randn(2, 30, 32)
    with torch.no_grad():
        alone = [model.classify([states[:1, :20]], None, 20), model.classify([states[1:]], None, 30)]
        states[0, 20:] = 1e4
        batch = model.classify([states], torch.tensor([20, 30]), 30)
    assert (batch - torch.cat(alone)).abs().max() < 1e-5


def test_a_saved_model_is_found_by_the_auto_classes_and_extracts_clips_of_their_own_length(
    tiny_encoder: Callable[[str], Path], tmp_path: Path
) -> None:
    """As transformers' pipeline calls both, with ser_ft imported."""
    folder, clip = save(tiny_encoder("whisper"), tmp_path), noise(0.8)[0]
    assert isinstance(AutoModelForAudioClassification.from_pretrained(folder), SpeechClassifier)
    extractor = ClipLengthFeatureExtractor.from_pretrained(folder)
    assert extractor(clip, sampling_rate=RATE, return_tensors="np")["input_features"].shape == (1, 80, 80)
    with pytest.raises(ValueError, match="must be 16000 Hz, not 8000"):
        extractor(clip, sampling_rate=8000)


def test_models_of_transformers_can_be_imported_after_ser_ft() -> None:
    """Our models are registered, and so imported, while a module of transformers may be half imported."""
    for name in (*auto_classes._MODEL_MODULES, "whisper"):
        tree = ast.parse(Path(models.__file__).with_name(f"{name}.py").read_text())
        imported = [str(node.module) for node in tree.body if isinstance(node, ast.ImportFrom)]
        assert not [module for module in imported if module.startswith("transformers.models")], name
