"""Cached hidden states give the outputs and gradients of the stock model, for all families."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest
import torch

from ser_ft import audio
from ser_ft.data.prepare import open_prepared
from ser_ft.dataloading import hidden_states
from ser_ft.dataloading.batches import BatchSource, HiddenStateBatches, PooledBatches, WaveformBatches, clip_lengths
from ser_ft.dataloading.cache import FlatCache
from ser_ft.dataloading.encoder_hooks import EncoderHooks, PooledHead
from ser_ft.dataloading.hidden_states import compute_hidden_states
from ser_ft.evaluation.predict import predict
from ser_ft.models.encoder_spec import find_encoder
from ser_ft.models.encoders import EncoderParts, load_encoder
from ser_ft.models.speech_classifier import SpeechClassifier
from ser_ft.models.whisper import log_mel
from ser_ft.utils.errors import InputError
from tests.helpers.tiny_encoders import FAMILIES, VARIANTS

CLASSES = ("neutral", "happy", "sad", "angry")
LAYERS = 4
# Half precision has 11 bits. Measured differences of logits of about 2: 6e-5 to 4e-4, and 1.1e-3 for very short clips.
HALF = 2e-3
EXACT = 1e-5
# Its layers process pairs of frames, the last of which may be half padding: compared in batches of one length.
PAIRED_FRAMES = {"sew"}
# Families with another head than their default: the stock head of Whisper, and heads that pool chosen states.
HEADS = (
    *("whisper stock", "whisper attentive", "wav2vec2 statistics", "wavlm attentive", "wav2vec2-bert attentive"),
    *("sew statistics", "ast statistics"),
)
# The first clip is shorter than a kernel, the next two are shorter than a span of SpecAugment.
SHORT_CLIPS = (50 / 16_000, 0.05, 0.15, 1.0)


def table(*seconds: float, seed: int = 0) -> datasets.Dataset:
    """Clips of noise with a varying level, so that random weights give different logits."""
    random = np.random.default_rng(seed)
    sounds = []
    for length in seconds:
        count = round(length * audio.SAMPLE_RATE)
        envelope = np.interp(np.arange(count), [0, max(count - 1, 1)], random.uniform(0.02, 0.3, 2))
        sounds.append((envelope * random.normal(size=count)).clip(-1, 1).astype(np.float32))
    return datasets.Dataset.from_dict({"audio": [{"bytes": audio.to_wav(encoder), "path": None} for encoder in sounds]})


def waveforms(clips: datasets.Dataset) -> list[np.ndarray]:
    return [audio.from_wav(sound["bytes"]) for sound in clips["audio"]]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SER_FT_CACHE", str(tmp_path / "cache"))


def load(
    folder: Path, weighted: bool = False, head: str | None = None, layers: list[int] | None = None, **network: Any
) -> SimpleNamespace:
    """A model without dropout in evaluation mode, its parts, extractor and input requirements."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {"head": head or None, "layers": "learned" if weighted else layers}
    actual = find_encoder(str(folder), CLASSES, network, dropout=0.0, **settings)
    model: Any = load_encoder(actual).eval()
    parts = EncoderParts.of(model)
    if parts.lowest_pooled_state < LAYERS:
        torch.nn.init.normal_(model.layer_weights)
    if isinstance(model, SpeechClassifier):
        with torch.no_grad():
            model.norm.running_mean.normal_()
            model.norm.running_var.uniform_(0.2, 1.0)
    return SimpleNamespace(model=model, parts=parts, extractor=actual.extractor, input_spec=parts.input_spec)


def stock_logits(encoder: SimpleNamespace, wave: np.ndarray, **options: Any) -> torch.Tensor:
    """The logits of stock transformers for a single clip; Whisper's are of the clip's own length."""
    if encoder.input_spec.kind == "log_mel":
        return encoder.model(**log_mel(encoder.extractor, [wave])).logits[0]
    inputs = encoder.extractor(wave, sampling_rate=audio.SAMPLE_RATE, return_tensors="pt", **options)
    masks = [] if encoder.input_spec.kind == "fixed_length" else ["attention_mask"]
    accepted = {encoder.model.main_input_name, *masks}
    return encoder.model(**{name: inputs[name] for name in inputs if name in accepted}).logits[0]


def states_of(encoder: SimpleNamespace, clips: datasets.Dataset, output: str | int) -> FlatCache:
    return compute_hidden_states(clips, encoder.parts, encoder.extractor, output, show_progress=False)


def state_batches(encoder: SimpleNamespace, clips: datasets.Dataset, output: str | int) -> HiddenStateBatches:
    return HiddenStateBatches(states_of(encoder, clips, output), clips, encoder.extractor, encoder.input_spec)


def entries(
    encoder: SimpleNamespace, clips: datasets.Dataset, family: str
) -> Iterator[tuple[str, BatchSource, EncoderHooks]]:
    """Yields waveforms, outputs of the convolutions and inputs of each layer, with active hooks."""
    hooks = EncoderHooks(encoder.parts)
    yield "waveform", WaveformBatches(clips, encoder.extractor, encoder.input_spec), hooks
    hooks.remove()
    if encoder.parts.feature_encoder is not None:
        source = state_batches(encoder, clips, "feature_encoder")
        hooks = EncoderHooks(encoder.parts, skip_feature_encoder=True)
        yield "feature_encoder", source, hooks
        hooks.remove()
    # SEW's layers have half the frame rate of its input: training never starts there.
    for layer in range(LAYERS) if family != "sew" else ():
        source = state_batches(encoder, clips, layer)
        hooks = EncoderHooks(encoder.parts, layer=layer)
        yield f"layer {layer}", source, hooks
        hooks.remove()


def batches(family: str, clips: datasets.Dataset) -> list[list[int]]:
    lengths = clip_lengths(clips)
    groups = [np.flatnonzero(lengths == length).tolist() for length in np.unique(lengths)]
    return groups if family in PAIRED_FRAMES else [list(range(len(clips)))]


@pytest.mark.parametrize("case", [*FAMILIES, *VARIANTS, *HEADS])
def test_states_give_the_logits_of_the_stock_model(case: str, tiny_encoder: Callable[[str], Path]) -> None:
    family, _, head = case.partition(" ")
    encoder, clips = load(tiny_encoder(family), head=head), table(0.3, 1.0, 1.6, 1.0)
    before = {name: value.clone() for name, value in encoder.model.state_dict().items()}
    with torch.no_grad():
        expected = torch.stack([stock_logits(encoder, wave) for wave in waveforms(clips)])
        assert expected.std(dim=0).max() > 0.02, "the logits do not differ: nothing is tested"
        for entry, source, _ in entries(encoder, clips, family):
            for rows in batches(family, clips):
                inputs = source.collate(rows)
                assert ("attention_mask" in inputs) == (len(rows) == 4 and encoder.input_spec.kind != "fixed_length")
                error = (encoder.model(**inputs).logits - expected[rows]).abs().max()
                assert error < (EXACT if entry == "waveform" else HALF), f"{entry}: {error:.1e}"
        restored = torch.stack([stock_logits(encoder, wave) for wave in waveforms(clips)])
    assert torch.equal(restored, expected), "remove() does not restore the model"
    after = encoder.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not any("forward" in module.__dict__ or module._forward_pre_hooks for module in encoder.model.modules())


@pytest.mark.parametrize("case", ["whisper", "whisper attentive", "hubert statistics", "wavlm attentive"])
def test_chosen_layers_are_pooled_from_the_states_of_a_lower_layer(
    case: str, tiny_encoder: Callable[[str], Path]
) -> None:
    """Of Whisper also if the input of the layer where it starts is one of them."""
    family, _, head = case.partition(" ")
    encoder, clips = load(tiny_encoder(family), head=head, layers=[2, 4]), table(0.3, 1.0, 1.6)
    with torch.no_grad():
        expected = torch.stack([stock_logits(encoder, wave) for wave in waveforms(clips)])
        for layer in (1, 2) if family == "whisper" else (1,):
            source, hooks = state_batches(encoder, clips, layer), EncoderHooks(encoder.parts, layer=layer)
            assert (encoder.model(**source.collate(range(3))).logits - expected).abs().max() < HALF
            hooks.remove()


@pytest.mark.parametrize("weighted", [False, True], ids=["last", "weighted"])
@pytest.mark.parametrize("case", [*FAMILIES, *VARIANTS, *(case for case in HEADS if "attentive" not in case)])
def test_a_head_on_pooled_states_is_the_stock_head(
    case: str, weighted: bool, tiny_encoder: Callable[[str], Path]
) -> None:
    family, _, head = case.partition(" ")
    encoder, clips = load(tiny_encoder(family), weighted, head), table(0.3, 1.0, 1.6, 1.0)
    if weighted and encoder.parts.lowest_pooled_state:
        pytest.skip("AST's head uses the last layer only")
    pooling = "mean+std" if isinstance(encoder.model, SpeechClassifier) else "mean"
    pooled = PooledBatches(states_of(encoder, clips, pooling), np.ones(4))
    with torch.no_grad():
        actual = PooledHead(encoder.parts)(**pooled.collate(range(4))).logits
        expected = torch.stack([stock_logits(encoder, wave) for wave in waveforms(clips)])
    assert (actual - expected).abs().max() < EXACT


@pytest.mark.parametrize("family", [name for name in (*FAMILIES, *VARIANTS) if name != "sew"])
def test_gradients_from_states_are_those_of_the_stock_model(family: str, tiny_encoder: Callable[[str], Path]) -> None:
    """Measured relative differences by half precision: 2e-4 to 2e-3."""
    encoder, clips, layer = load(tiny_encoder(family)), table(0.3, 1.0, 1.6, 1.0), 2
    parts = encoder.parts
    lower_modules = [*parts.layers[:layer], *([parts.feature_encoder] if parts.feature_encoder is not None else [])]
    trained_modules = (*parts.layers[layer:], *parts.final_norms)
    trained = {id(value) for module in trained_modules for value in module.parameters()}
    trained |= {id(value) for value in parts.head}
    for value in encoder.model.parameters():
        value.requires_grad_(id(value) in trained)
    for wave in waveforms(clips):
        stock_logits(encoder, wave).square().sum().backward()
    expected = {name: value.grad for name, value in encoder.model.named_parameters() if value.grad is not None}
    assert len(expected) > 30
    encoder.model.zero_grad()
    source, hooks = state_batches(encoder, clips, layer), EncoderHooks(encoder.parts, layer=layer)
    for rows in batches(family, clips):
        encoder.model(**source.collate(rows)).logits.square().sum().backward()
    hooks.remove()
    actual = {name: value.grad for name, value in encoder.model.named_parameters() if value.grad is not None}
    assert actual.keys() == expected.keys()
    total = torch.stack([value.norm() for value in expected.values()]).norm()
    for name, value in expected.items():
        assert (actual[name] - value).norm() < 5e-3 * value.norm() + 1e-4 * total, name
    assert all(value.grad is None for module in lower_modules for value in module.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_short_clips_train_and_evaluate(family: str, tiny_encoder: Callable[[str], Path]) -> None:
    masks = {} if family in ("whisper", "ast") else {"mask_time_prob": 0.5}
    if family == "wav2vec2-bert":
        masks["apply_spec_augment"] = True
    encoder, clips = load(tiny_encoder(family), **masks), table(*SHORT_CLIPS)
    with torch.no_grad():
        expected = torch.stack([_padded(encoder, wave) for wave in waveforms(clips)])
    for entry, source, _ in entries(encoder, clips, family):
        for rows in ([0], [1], [2], [0, 1, 2, 3]):
            # Running statistics must not change the expected output.
            encoder.model.train()
            for module in encoder.model.modules():
                if isinstance(module, torch.nn.BatchNorm1d):
                    module.eval()
            logits = encoder.model(**source.collate(rows)).logits
            logits.sum().backward()
            assert logits.isfinite().all(), (entry, rows)
            assert all(p.grad.isfinite().all() for p in encoder.model.parameters() if p.grad is not None), (entry, rows)
            encoder.model.eval()
            if len(rows) == 1 or family not in PAIRED_FRAMES:
                with torch.no_grad():
                    error = (encoder.model(**source.collate(rows)).logits - expected[rows]).abs().max()
                assert error < HALF, f"{entry} {rows}: {error:.1e}"


def _padded(encoder: SimpleNamespace, wave: np.ndarray) -> torch.Tensor:
    """The logits of the stock model for a clip that is padded with silence to the fewest samples it takes."""
    wave = np.pad(wave, (0, max(0, encoder.input_spec.min_samples - len(wave))))
    if not encoder.input_spec.requires_equal_lengths:
        return stock_logits(encoder, wave)
    min_samples = max(len(wave), encoder.input_spec.num_samples(encoder.input_spec.min_frames))
    options = {"return_attention_mask": True} if min_samples > len(wave) else {}
    hooks = EncoderHooks(encoder.parts)
    actual = stock_logits(encoder, wave, padding="max_length", max_length=min_samples, **options)
    hooks.remove()
    return actual


@pytest.mark.parametrize("family", ["wav2vec2", "sew", "data2vec-audio", "wav2vec2-conformer"])
def test_one_frame_is_enough_without_spec_augment(family: str, tiny_encoder: Callable[[str], Path]) -> None:
    encoder, clips = load(tiny_encoder(family), mask_time_prob=0.0), table(0.03, 1.0)
    pooled = PooledBatches(states_of(encoder, clips, "mean"), np.ones(2))
    assert PooledHead(encoder.parts)(**pooled.collate([0, 1])).logits.isfinite().all()
    for _, source, _ in entries(encoder, clips, family):
        assert encoder.model(**source.collate([0])).logits.isfinite().all()


@pytest.mark.parametrize("family", ["wav2vec2-conformer", "wav2vec2-conformer-rope", "wav2vec2-bert", "wavlm"])
def test_training_continues_after_evaluation(family: str, tiny_encoder: Callable[[str], Path]) -> None:
    """Positions that a model caches without gradients must not break the next training step."""
    encoder, clips = load(tiny_encoder(family)), table(1.0, 1.0)
    source, hooks = state_batches(encoder, clips, 2), EncoderHooks(encoder.parts, layer=2)
    encoder.model(**source.collate([0, 1])).logits.sum().backward()
    predict(encoder.model, source.collate, np.arange(2), source.lengths, np.ones((2, len(CLASSES)), dtype=bool))
    encoder.model(**source.collate([0, 1])).logits.sum().backward()
    hooks.remove()


def test_pooling_by_mean_and_std(tiny_encoder: Callable[[str], Path]) -> None:
    encoder, clips = load(tiny_encoder("hubert")), table(0.3, 1.0)
    mean, mean_and_std = (states_of(encoder, clips, output) for output in ("mean", "mean+std"))
    assert mean[0].shape == (LAYERS + 2, 32)
    assert mean_and_std[0].shape == (LAYERS + 2, 64)
    for row, wave in enumerate(waveforms(clips)):
        inputs = encoder.extractor(wave, sampling_rate=audio.SAMPLE_RATE, return_tensors="pt")
        with torch.no_grad():
            hidden = encoder.parts.backbone(**inputs, output_hidden_states=True).hidden_states
        assert np.allclose(mean_and_std[row][:-1, :32], mean[row][:-1])
        expected = (torch.cat(hidden).var(dim=1, correction=0) + 1e-5).sqrt().numpy()
        assert np.allclose(mean_and_std[row][:-1, 32:], expected, atol=1e-5)


@pytest.mark.parametrize("family", ["whisper", "ast", "hubert"])
def test_cached_and_uncached_clips_have_the_same_duration(family: str, tiny_encoder: Callable[[str], Path]) -> None:
    """AST computes the same length for every clip, which `train.max_batch_seconds` must count in both cases."""
    encoder, clips = load(tiny_encoder(family)), table(0.3, 1.0)
    cached = state_batches(encoder, clips, 1)
    assert np.allclose(cached.seconds, WaveformBatches(clips, encoder.extractor, encoder.input_spec).seconds)


@pytest.mark.parametrize("output", ["feature_encoder", 2, "mean"])
def test_cached_states_are_reused(
    output: str | int, tiny_encoder: Callable[[str], Path], miniature_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With another seed, other classes, dropout or masks, as in a sweep."""
    encoder, clips = load(tiny_encoder("hubert")), open_prepared(miniature_folder).select(range(6))
    first = states_of(encoder, clips, output)
    monkeypatch.setattr(hidden_states, "iter_waveforms", None)
    torch.manual_seed(1)
    settings = {"dropout": 0.5, "layers": "learned"}
    actual = find_encoder(str(tiny_encoder("hubert")), ("yes", "no"), {"mask_time_prob": 0.2}, **settings)
    restored = open_prepared(miniature_folder).select(range(6))
    parts = EncoderParts.of(load_encoder(actual))
    second = compute_hidden_states(restored, parts, actual.extractor, output, show_progress=False)
    assert second.folder == first.folder
    assert np.array_equal(first[3], second[3])


@pytest.mark.slow
def test_cached_states_are_reused_by_another_process(
    tmp_path: Path, tiny_encoder: Callable[[str], Path], miniature_folder: Path
) -> None:
    backbone = tiny_encoder("wavlm")
    script = f"""
from ser_ft.data.prepare import open_prepared
from ser_ft.dataloading import hidden_states
from ser_ft.models.encoder_spec import find_encoder
from ser_ft.models.encoders import EncoderParts, load_encoder
hidden_states.iter_waveforms = None
spec = find_encoder({str(backbone)!r}, ("neutral", "happy"))
arguments = open_prepared({str(miniature_folder)!r}), EncoderParts.of(load_encoder(spec)), spec.extractor
states = [hidden_states.compute_hidden_states(*arguments, what, show_progress=False) for what in ("mean", 1)]
print([str(cache.folder) for cache in states])
"""
    # Another hash seed of strings, and another cache of `datasets`.
    environment = os.environ | {"PYTHONHASHSEED": "7", "HF_DATASETS_CACHE": str(tmp_path / "datasets")}
    encoder, clips = load(backbone), open_prepared(miniature_folder)
    folders = [str(states_of(encoder, clips, output).folder) for output in ("mean", 1)]
    command = [sys.executable, "-c", script]
    process = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[2])
    assert process.returncode == 0, process.stderr[-2000:]
    assert process.stdout.strip() == str(folders)


def test_states_of_other_weights_tables_or_extractors_are_not_reused(tiny_encoder: Callable[[str], Path]) -> None:
    folder, clips = tiny_encoder("wav2vec2-large"), table(0.3, 0.5)

    def folder_for(encoder: SimpleNamespace, clips: datasets.Dataset, output: str | int = 1) -> Path:
        return states_of(encoder, clips, output).folder

    folders = [folder_for(load(folder), clips, output) for output in (1, 2, "mean")]
    modified = load(folder)
    with torch.no_grad():
        modified.parts.backbone.feature_projection.projection.bias[0] += 1e-6
    folders.append(folder_for(modified, clips))
    folders.append(folder_for(load(folder), table(0.3, 0.5, seed=1)))
    folders.append(folder_for(load(folder), clips.select([1, 0])))
    changed = load(folder)
    changed.extractor.do_normalize = False
    folders.append(folder_for(changed, clips))
    folders.append(folder_for(load(folder, hidden_act="relu"), clips))
    assert len(set(folders)) == len(folders)


def test_a_full_disk_is_reported_in_one_line_and_leaves_no_files(
    tiny_encoder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    encoder, clips = load(tiny_encoder("hubert")), table(1.0, 1.0)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(total=7000, used=0, free=7000))
    for output in ("feature_encoder", 1):
        with pytest.raises(InputError, match=r"GB are free: set SER_FT_CACHE to a larger disk, .*tuning.cache") as e:
            states_of(encoder, clips, output)
        assert "\n" not in str(e.value)
    assert not list((tmp_path / "cache").rglob("*.bin"))
    # An existing cache needs no space.
    monkeypatch.undo()
    monkeypatch.setenv("SER_FT_CACHE", str(tmp_path / "cache"))
    states_of(encoder, clips, 1)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(total=7000, used=0, free=7000))
    states_of(encoder, clips, 1)
