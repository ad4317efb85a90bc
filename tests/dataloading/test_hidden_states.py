"""States that were computed once give a stock model's own answers and gradients, whatever its family calls things."""

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
from ser_ft.dataloading.encoder_hooks import EncoderHooks, PooledHead
from ser_ft.dataloading.hidden_states import compute_hidden_states
from ser_ft.evaluation.predict import predict
from ser_ft.models.encoders import EncoderParts, find_encoder, load_encoder
from ser_ft.utils.errors import InputError
from tests.helpers.tiny_encoders import FAMILIES, VARIANTS, write_tiny_backbone

CLASSES = ("neutral", "happy", "sad", "angry")
LAYERS = 4
# Half precision has 11 bits. Measured in logits of about 2: 6e-5 to 4e-4, at most 1.1e-3 in clips of one or two frames.
HALF = 2e-3
EXACT = 1e-5
# Its layers see pairs of frames, half padding at a clip's end: it is compared in batches of one length.
LEAKING = {"sew"}
# The shortest clip fits into no kernel, the next three into none of SpecAugment's spans.
SHORT = (50 / 16_000, 0.05, 0.15, 1.0)


def table(*seconds: float, seed: int = 0) -> datasets.Dataset:
    """Clips of noise, louder in one half: enough for random weights to tell them apart."""
    random = np.random.default_rng(seed)
    sounds = []
    for length in seconds:
        count = round(length * audio.SAMPLE_RATE)
        envelope = np.interp(np.arange(count), [0, max(count - 1, 1)], random.uniform(0.02, 0.3, 2))
        sounds.append((envelope * random.normal(size=count)).clip(-1, 1).astype(np.float32))
    return datasets.Dataset.from_dict({"audio": [{"bytes": audio.to_wav(one), "path": None} for one in sounds]})


def waves(clips: datasets.Dataset) -> list[np.ndarray]:
    return [audio.from_wav(sound["bytes"]) for sound in clips["audio"]]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("backbones")

    def get(family: str) -> Path:
        return folder / family if (folder / family).exists() else write_tiny_backbone(family, folder / family)

    return get


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SER_FT_CACHE", str(tmp_path / "cache"))


def loaded(folder: Path, weighted: bool = False, **network: Any) -> SimpleNamespace:
    """A model without dropout, in evaluation mode, its parts and its extractor."""
    torch.manual_seed(0)
    found = find_encoder(str(folder), CLASSES, network, dropout=0.0, weighted_layer_sum=weighted)
    model = load_encoder(found).eval()
    parts = EncoderParts.of(model)
    if parts.uses_weighted_layer_sum:
        torch.nn.init.normal_(model.layer_weights)
    return SimpleNamespace(model=model, parts=parts, extractor=found.extractor, input_spec=parts.input_spec)


def stock(one: SimpleNamespace, wave: np.ndarray, **options: Any) -> torch.Tensor:
    """The logits that stock transformers give to a clip alone."""
    inputs = one.extractor(wave, sampling_rate=audio.SAMPLE_RATE, return_tensors="pt", **options)
    return one.model(**{name: inputs[name] for name in inputs if name in _accepted(one)}).logits[0]


def _accepted(one: SimpleNamespace) -> set[str]:
    return {one.model.main_input_name} | (set() if one.input_spec.kind == "fixed_length" else {"attention_mask"})


def ways_in(
    one: SimpleNamespace, clips: datasets.Dataset, family: str
) -> Iterator[tuple[str, BatchSource, EncoderHooks]]:
    """Sound, the states of the convolutions, and those that enter each layer; the rig is on while it is looked at."""
    rig = EncoderHooks(one.parts)
    yield "sound", WaveformBatches(clips, one.extractor, one.input_spec), rig
    rig.remove()
    if one.parts.feature_encoder is not None:
        found = compute_hidden_states(clips, one.parts, one.extractor, "feature_encoder", shown=False)
        rig = EncoderHooks(one.parts, skip_feature_encoder=True)
        yield "feature_encoder", HiddenStateBatches(found, clips, one.extractor, one.input_spec), rig
        rig.remove()
    # SEW's layers hear at half the rate that goes in and comes out: it is never entered there.
    for layer in range(LAYERS) if family != "sew" else ():
        found = compute_hidden_states(clips, one.parts, one.extractor, layer, shown=False)
        rig = EncoderHooks(one.parts, layer=layer)
        yield f"layer {layer}", HiddenStateBatches(found, clips, one.extractor, one.input_spec), rig
        rig.remove()


def batches(family: str, clips: datasets.Dataset) -> list[list[int]]:
    lengths = clip_lengths(clips)
    together = [np.flatnonzero(lengths == length).tolist() for length in np.unique(lengths)]
    return together if family in LEAKING else [list(range(len(clips)))]


@pytest.mark.parametrize("family", [*FAMILIES, *VARIANTS])
def test_states_give_the_stock_models_answers(family: str, folder_of: Callable[[str], Path]) -> None:
    """Else a cached run would train another model than the one that is saved."""
    one, clips = loaded(folder_of(family)), table(0.3, 1.0, 1.6, 1.0)
    before = {name: value.clone() for name, value in one.model.state_dict().items()}
    with torch.no_grad():
        expected = torch.stack([stock(one, wave) for wave in waves(clips)])
        assert expected.std(dim=0).max() > 0.02, "the clips cannot be told apart: nothing is tested"
        for way, feed, _ in ways_in(one, clips, family):
            for rows in batches(family, clips):
                given = feed.collate(rows)
                assert ("attention_mask" in given) == (len(rows) == 4 and one.input_spec.kind != "fixed_length")
                error = (one.model(**given).logits - expected[rows]).abs().max()
                assert error < (EXACT if way == "sound" else HALF), f"{way}: {error:.1e}"
        again = torch.stack([stock(one, wave) for wave in waves(clips)])
    assert torch.equal(again, expected), "the model is no longer its own after Rig.remove"
    after = one.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not any("forward" in module.__dict__ or module._forward_pre_hooks for module in one.model.modules())


@pytest.mark.parametrize("weighted", [False, True], ids=["last", "weighted"])
@pytest.mark.parametrize("family", [*FAMILIES, *VARIANTS])
def test_a_head_on_pooled_states_is_the_stock_head(
    family: str, weighted: bool, folder_of: Callable[[str], Path]
) -> None:
    """Else a probe would be another model when it is saved: the mean must be over a clip's own frames."""
    one, clips = loaded(folder_of(family), weighted), table(0.3, 1.0, 1.6, 1.0)
    if weighted and not one.parts.uses_weighted_layer_sum:
        pytest.skip("AST's head takes the last layer alone")
    pooled = PooledBatches(compute_hidden_states(clips, one.parts, one.extractor, "mean", shown=False), np.ones(4))
    with torch.no_grad():
        found = PooledHead(one.parts)(**pooled.collate(range(4))).logits
        expected = torch.stack([stock(one, wave) for wave in waves(clips)])
    assert (found - expected).abs().max() < EXACT


@pytest.mark.parametrize("family", [name for name in (*FAMILIES, *VARIANTS) if name != "sew"])
def test_gradients_from_states_are_those_of_the_stock_model(family: str, folder_of: Callable[[str], Path]) -> None:
    """Half precision moved them by 2e-4 to 2e-3 of their size, measured."""
    one, clips, layer = loaded(folder_of(family)), table(0.3, 1.0, 1.6, 1.0), 2
    lower = [*one.parts.layers[:layer]] + ([one.parts.feature_encoder] if one.parts.feature_encoder is not None else [])
    trained = {
        id(value) for module in (*one.parts.layers[layer:], *one.parts.final_norms) for value in module.parameters()
    }
    trained |= {id(value) for value in one.parts.head}
    for value in one.model.parameters():
        value.requires_grad_(id(value) in trained)
    for wave in waves(clips):
        stock(one, wave).square().sum().backward()
    expected = {name: value.grad for name, value in one.model.named_parameters() if value.grad is not None}
    assert len(expected) > 30
    one.model.zero_grad()
    feed = HiddenStateBatches(
        compute_hidden_states(clips, one.parts, one.extractor, layer, shown=False), clips, one.extractor, one.input_spec
    )
    rig = EncoderHooks(one.parts, layer=layer)
    for rows in batches(family, clips):
        one.model(**feed.collate(rows)).logits.square().sum().backward()
    rig.remove()
    found = {name: value.grad for name, value in one.model.named_parameters() if value.grad is not None}
    assert found.keys() == expected.keys()
    whole = torch.stack([value.norm() for value in expected.values()]).norm()
    for name, value in expected.items():
        assert (found[name] - value).norm() < 5e-3 * value.norm() + 1e-4 * whole, name
    assert all(value.grad is None for module in lower for value in module.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_short_clips_train_and_evaluate(family: str, folder_of: Callable[[str], Path]) -> None:
    """A clip shorter than a kernel or than SpecAugment's spans must not end a night's run."""
    masks = {} if family in ("whisper", "ast") else {"mask_time_prob": 0.5}
    if family == "wav2vec2-bert":
        masks["apply_spec_augment"] = True
    one, clips = loaded(folder_of(family), **masks), table(*SHORT)
    with torch.no_grad():
        expected = torch.stack([_padded(one, wave) for wave in waves(clips)])
    for way, feed, _ in ways_in(one, clips, family):
        for rows in ([0], [1], [2], [0, 1, 2, 3]):
            # Running statistics would move what is expected; they are no part of the question.
            one.model.train()
            for module in one.model.modules():
                if isinstance(module, torch.nn.BatchNorm1d):
                    module.eval()
            logits = one.model(**feed.collate(rows)).logits
            logits.sum().backward()
            assert logits.isfinite().all(), (way, rows)
            assert all(p.grad.isfinite().all() for p in one.model.parameters() if p.grad is not None), (way, rows)
            one.model.eval()
            if len(rows) == 1 or family not in LEAKING:
                with torch.no_grad():
                    error = (one.model(**feed.collate(rows)).logits - expected[rows]).abs().max()
                assert error < HALF, f"{way} {rows}: {error:.1e}"


def _padded(one: SimpleNamespace, wave: np.ndarray) -> torch.Tensor:
    """What the stock model says of a clip that was padded with silence to the fewest samples it can be given."""
    wave = np.pad(wave, (0, max(0, one.input_spec.min_samples - len(wave))))
    if not one.input_spec.requires_equal_lengths:
        return stock(one, wave)
    least = max(len(wave), one.input_spec.num_samples(one.input_spec.min_frames))
    short = {"return_attention_mask": True} if least > len(wave) else {}
    rig = EncoderHooks(one.parts)
    found = stock(one, wave, padding="max_length", max_length=least, **short)
    rig.remove()
    return found


@pytest.mark.parametrize("family", ["wav2vec2", "sew", "data2vec-audio", "wav2vec2-conformer"])
def test_one_frame_is_enough_without_masks(family: str, folder_of: Callable[[str], Path]) -> None:
    """A probe masks nothing, so nothing else makes a click longer."""
    one, clips = loaded(folder_of(family), mask_time_prob=0.0), table(0.03, 1.0)
    assert PooledHead(one.parts)(**_pooled(one, clips).collate([0, 1])).logits.isfinite().all()
    for _, feed, _ in ways_in(one, clips, family):
        assert one.model(**feed.collate([0])).logits.isfinite().all()


def _pooled(one: SimpleNamespace, clips: datasets.Dataset) -> PooledBatches:
    return PooledBatches(
        compute_hidden_states(clips, one.parts, one.extractor, "mean", shown=False), np.ones(len(clips))
    )


@pytest.mark.parametrize("family", ["wav2vec2-conformer", "wav2vec2-conformer-rope", "wav2vec2-bert", "wavlm"])
def test_training_goes_on_after_states_and_evaluation(family: str, folder_of: Callable[[str], Path]) -> None:
    """Positions that a model keeps from a pass without gradients must not break the next one, of the same length."""
    one, clips = loaded(folder_of(family)), table(1.0, 1.0)
    cached = compute_hidden_states(clips, one.parts, one.extractor, 2, shown=False)
    feed, rig = HiddenStateBatches(cached, clips, one.extractor, one.input_spec), EncoderHooks(one.parts, layer=2)
    one.model(**feed.collate([0, 1])).logits.sum().backward()
    predict(one.model, feed.collate, np.arange(2), feed.lengths, np.ones((2, len(CLASSES)), dtype=bool))
    one.model(**feed.collate([0, 1])).logits.sum().backward()
    rig.remove()


def test_deviation_beside_the_mean(folder_of: Callable[[str], Path]) -> None:
    one, clips = loaded(folder_of("hubert")), table(0.3, 1.0)
    mean, both = (
        compute_hidden_states(clips, one.parts, one.extractor, what, shown=False) for what in ("mean", "mean+std")
    )
    assert mean[0].shape == (LAYERS + 2, 32)
    assert both[0].shape == (LAYERS + 2, 64)
    for row, wave in enumerate(waves(clips)):
        inputs = one.extractor(wave, sampling_rate=audio.SAMPLE_RATE, return_tensors="pt")
        with torch.no_grad():
            hidden = one.parts.backbone(**inputs, output_hidden_states=True).hidden_states
        assert np.allclose(both[row][:-1, :32], mean[row][:-1])
        expected = torch.cat(hidden).std(dim=1, correction=0).numpy()
        assert np.allclose(both[row][:-1, 32:], expected, atol=1e-5)


@pytest.mark.parametrize("family", ["whisper", "ast", "hubert"])
def test_a_cached_clip_is_as_long_as_what_is_computed_for_it(family: str, folder_of: Callable[[str], Path]) -> None:
    """Whisper hears 30 s of every clip: `train.max_batch_seconds` must count them, from sound and from states alike."""
    one, clips = loaded(folder_of(family)), table(0.3, 1.0)
    cached = HiddenStateBatches(
        compute_hidden_states(clips, one.parts, one.extractor, 1, shown=False), clips, one.extractor, one.input_spec
    )
    assert np.allclose(cached.seconds, WaveformBatches(clips, one.extractor, one.input_spec).seconds)


def refuse(*_: Any, **__: Any) -> None:
    raise AssertionError("computed anew")


@pytest.mark.parametrize("what", ["feature_encoder", 2, "mean"])
def test_states_are_found_again(
    what: str | int, folder_of: Callable[[str], Path], miniature_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another seed, with other classes, dropout or masks: a sweep computes them once."""
    one, clips = loaded(folder_of("hubert")), open_prepared(miniature_folder).select(range(6))
    first = compute_hidden_states(clips, one.parts, one.extractor, what, shown=False)
    monkeypatch.setattr(hidden_states, "iter_waveforms", refuse)
    torch.manual_seed(1)
    found = find_encoder(
        str(folder_of("hubert")), ("yes", "no"), {"mask_time_prob": 0.2}, dropout=0.5, weighted_layer_sum=True
    )
    again = open_prepared(miniature_folder).select(range(6))
    second = compute_hidden_states(again, EncoderParts.of(load_encoder(found)), found.extractor, what, shown=False)
    assert second.folder == first.folder
    assert np.array_equal(first[3], second[3])


@pytest.mark.slow
def test_states_are_found_by_another_process(
    tmp_path: Path, folder_of: Callable[[str], Path], miniature_folder: Path
) -> None:
    backbone = folder_of("wavlm")
    script = f"""
from ser_ft.data.prepare import open_prepared
from ser_ft.dataloading import hidden_states
from ser_ft.models.encoders import EncoderParts, find_encoder, load_encoder
hidden_states.iter_waveforms = None
spec = find_encoder({str(backbone)!r}, ("neutral", "happy"))
arguments = open_prepared({str(miniature_folder)!r}), EncoderParts.of(load_encoder(spec)), spec.extractor
states = [hidden_states.compute_hidden_states(*arguments, what, shown=False) for what in ("mean", 1)]
print([str(cache.folder) for cache in states])
"""
    # Another order of sets and dictionaries of strings, as each session has, and another cache of `datasets`.
    environment = os.environ | {"PYTHONHASHSEED": "7", "HF_DATASETS_CACHE": str(tmp_path / "datasets")}
    one, clips = loaded(backbone), open_prepared(miniature_folder)
    ours = [
        str(compute_hidden_states(clips, one.parts, one.extractor, what, shown=False).folder) for what in ("mean", 1)
    ]
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == str(ours)


def test_states_are_not_those_of_other_weights_tables_or_extractors(folder_of: Callable[[str], Path]) -> None:
    """Stale states would train on another model's states without a word."""
    folder, clips = folder_of("wav2vec2-large"), table(0.3, 0.5)

    def taken(one: SimpleNamespace, clips: datasets.Dataset, what: str | int = 1) -> Path:
        return compute_hidden_states(clips, one.parts, one.extractor, what, shown=False).folder

    folders = [taken(loaded(folder), clips), taken(loaded(folder), clips, 2), taken(loaded(folder), clips, "mean")]
    other = loaded(folder)
    with torch.no_grad():
        other.parts.backbone.feature_projection.projection.bias[0] += 1e-6
    folders.append(taken(other, clips))
    folders.append(taken(loaded(folder), table(0.3, 0.5, seed=1)))
    folders.append(taken(loaded(folder), clips.select([1, 0])))
    deaf = loaded(folder)
    deaf.extractor.do_normalize = False
    folders.append(taken(deaf, clips))
    folders.append(taken(loaded(folder, hidden_act="relu"), clips))
    assert len(set(folders)) == len(folders)


def test_a_small_disk_is_one_line_and_nothing_is_left(
    folder_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    one, clips = loaded(folder_of("hubert")), table(1.0, 1.0)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(total=7000, used=0, free=7000))
    for what in ("feature_encoder", 1):
        with pytest.raises(InputError, match=r"GB are free: name a larger disk .*, or .*tuning\.cache") as e:
            compute_hidden_states(clips, one.parts, one.extractor, what, shown=False)
        assert "\n" not in str(e.value)
    assert not list((tmp_path / "cache").rglob("*.bin"))
    # What is there needs no room.
    monkeypatch.undo()
    monkeypatch.setenv("SER_FT_CACHE", str(tmp_path / "cache"))
    compute_hidden_states(clips, one.parts, one.extractor, 1, shown=False)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(total=7000, used=0, free=7000))
    compute_hidden_states(clips, one.parts, one.extractor, 1, shown=False)
