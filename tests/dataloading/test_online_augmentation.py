"""Standardization, augmentation on the fly, and mixup."""

import pickle
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from transformers import Wav2Vec2FeatureExtractor

from ser_ft import audio
from ser_ft.config.schema import AugmentConfig
from ser_ft.data.augmentation.batch import Mixup, SpecAugment
from ser_ft.data.augmentation.waveform import Augment
from ser_ft.dataloading.batches import FrameBatches, WaveformBatches
from ser_ft.dataloading.cache import FlatCache, compute_frames
from ser_ft.dataloading.online_augmentation import OnlineAugmentation
from ser_ft.dataloading.standardization import Standardizer
from ser_ft.models.encoders import InputSpec
from ser_ft.models.features import SpectralFeatureExtractor
from ser_ft.training.from_scratch import frame_batches
from ser_ft.training.losses import clip_losses

SPEAKERS = ("ann", "bob", "eve", "ann", "bob", "eve")
MASKS = {"num_time_masks": 3, "time_mask_width": 0.4, "num_freq_masks": 2, "freq_mask_width": 0.3}
NOISE = {"noise": {"snr_db": [5, 5]}}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SER_FT_CACHE", str(tmp_path / "cache"))


def tone(row: int) -> np.ndarray:
    samples = np.arange(3000 + 400 * row)
    hiss = np.random.default_rng(row).normal(scale=0.01, size=len(samples))
    return (0.1 * np.sin(samples * (0.05 + 0.04 * row)) + hiss).astype(np.float32)


def table(loud_row: int | None = None, clips: int = 6) -> datasets.Dataset:
    """Tones of three speakers; one clip may be louder."""
    sounds = [tone(row) * (4 if row == loud_row else 1) for row in range(clips)]
    columns = {
        "id": [f"{SPEAKERS[row % 6]}-{row}" for row in range(clips)],
        "audio": [{"bytes": audio.to_wav(sound), "path": None} for sound in sounds],
        "speaker": [SPEAKERS[row % 6] for row in range(clips)],
        "duration": [len(sound) / audio.SAMPLE_RATE for sound in sounds],
    }
    return datasets.Dataset.from_dict(columns)


def sound(clips: datasets.Dataset, row: int) -> np.ndarray:
    return audio.from_wav(clips[row]["audio"]["bytes"])


def make_batches(
    extractor: SpectralFeatureExtractor,
    *tables: datasets.Dataset,
    train: tuple[int, ...] = (0, 1, 3, 4),
    **augment: Any,
) -> FrameBatches:
    return frame_batches(extractor, tables, np.array(train), AugmentConfig(**augment), seed=3)


def frames(tmp_path: Path, *values: np.ndarray) -> FlatCache:
    return FlatCache.make(tmp_path / "frames", len(values), lambda rows: ((row, values[row]) for row in rows.tolist()))


def test_mean_and_scale_are_over_all_training_frames(tmp_path: Path) -> None:
    """Over frames, not clips: a long clip counts more. Constant values have scale 1."""
    random = np.random.default_rng(0)
    clips = [random.normal(3 * row, 1 + row, size=(5 + 40 * row, 3)).astype(np.float32) for row in range(4)]
    for clip in clips:
        clip[:, 2] = 7.0
    extractor = SpectralFeatureExtractor(n_mfcc=3, normalize="training")
    standardizer = Standardizer.fit(extractor, frames(tmp_path, *clips), ["a", "b", "a", "c"], np.array([0, 2, 3]))
    train_frames = np.concatenate([clips[0], clips[2], clips[3]])
    assert standardizer is not None
    np.testing.assert_allclose(standardizer.mean[0], train_frames.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(standardizer.scale[0, :2], train_frames.std(axis=0)[:2], rtol=1e-5)
    assert standardizer.scale[0, 2] == 1.0
    assert extractor.mean == pytest.approx(standardizer.mean[0].tolist())
    assert extractor.scale == pytest.approx(standardizer.scale[0].tolist())
    standardized = standardizer.apply(torch.from_numpy(clips[1][None]), [1])[0]
    expected = (clips[1] - standardizer.mean[0]) / standardizer.scale[0]
    np.testing.assert_allclose(standardized, expected, rtol=1e-5)


def test_clips_outside_the_training_set_do_not_change_the_statistics() -> None:
    means = []
    for loud_row in (None, 2, 0):
        extractor = SpectralFeatureExtractor(normalize="training")
        make_batches(extractor, table(loud_row))
        means.append((extractor.mean, extractor.scale))
    assert means[0] == means[1]
    assert means[0] != means[2], "a training clip must change them"


@pytest.mark.parametrize("normalize", ["none", "clip-mean", "clip", "training"])
def test_batches_equal_the_output_of_the_saved_extractor(normalize: str) -> None:
    clips, extractor = table(), SpectralFeatureExtractor(normalize=normalize)
    batches = make_batches(extractor, clips)
    assert (batches.standardizer is not None) == (normalize == "training")
    batch = batches.collate([5, 0])
    single = extractor([sound(clips, 5), sound(clips, 0)], return_tensors="pt")
    torch.testing.assert_close(batch["input_features"], single["input_features"], atol=1e-3, rtol=1e-3)
    assert torch.equal(batch["attention_mask"], single["attention_mask"])


def test_speakers_are_standardized_separately() -> None:
    batches = make_batches(SpectralFeatureExtractor(normalize="speaker"), table())
    for first in range(3):
        train_frames = torch.cat([batches.collate([row])["input_features"][0] for row in (first, first + 3)])
        assert train_frames.mean(dim=0).abs().max() < 1e-3
        torch.testing.assert_close(train_frames.std(dim=0, correction=0), torch.ones(20), atol=1e-3, rtol=0)


@pytest.mark.parametrize("normalize", ["training", "speaker"])
def test_copies_are_standardized_and_do_not_change_the_statistics(normalize: str) -> None:
    copies = table().select([1, 0]).map(lambda row: row | {"id": row["id"] + "+1"})
    reference = make_batches(SpectralFeatureExtractor(normalize=normalize), table())
    with_copies = make_batches(SpectralFeatureExtractor(normalize=normalize), table(), copies, train=(0, 1, 3, 4, 6, 7))
    assert len(with_copies.lengths) == len(with_copies.seconds) == 8
    for row in range(6):
        assert torch.equal(with_copies.collate([row])["input_features"], reference.collate([row])["input_features"])
    for row, source in ((6, 1), (7, 0)):
        assert torch.equal(with_copies.collate([row])["input_features"], reference.collate([source])["input_features"])


def test_waveform_augmentation_differs_between_epochs_and_is_for_training_only() -> None:
    clips, extractor = table(), SpectralFeatureExtractor(normalize="training")
    reference = make_batches(SpectralFeatureExtractor(normalize="training"), clips)
    batches = make_batches(extractor, clips, transforms=NOISE)
    first, second = (batches.collate([4, 1], epoch)["input_features"] for epoch in (0, 1))
    unaugmented = batches.collate([4, 1])["input_features"]
    assert torch.equal(unaugmented, reference.collate([4, 1])["input_features"]), "evaluation is never augmented"
    assert not torch.equal(first, second)
    assert not torch.equal(first, unaugmented)
    assert torch.equal(first, batches.collate([4, 1], 0)["input_features"])
    # The result does not depend on the other clips of the batch, or on the process.
    single = pickle.loads(pickle.dumps(batches)).collate([1], 0)["input_features"][0]
    torch.testing.assert_close(first[1, : len(single)], single, atol=1e-4, rtol=1e-4)
    wave = Augment(NOISE, seed=3).apply(sound(clips, 1), "bob-1", 0)
    torch.testing.assert_close(extractor(wave, return_tensors="pt")["input_features"][0], single, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("augmentation", "low", "high"),
    [({"spec_augment": MASKS}, 0.05, 0.95), ({"spectral": {"crop_prob": 0.0, "max_tempo_change": 0.0}}, 0.8, 1.0)],
)
def test_augmentation_of_spectrograms_differs_between_epochs_and_is_for_training_only(
    augmentation: dict[str, Any], low: float, high: float
) -> None:
    extractor = {"normalize": "none", "descriptors": ["log-mel"]}
    batches, rows = make_batches(SpectralFeatureExtractor(**extractor), table(), **augmentation), [5, 0, 3]
    unaugmented, first, second = batches.collate(rows), batches.collate(rows, 0), batches.collate(rows, 1)
    reference = make_batches(SpectralFeatureExtractor(**extractor), table()).collate(rows)
    assert torch.equal(unaugmented["input_features"], reference["input_features"]), "evaluation is never augmented"
    assert torch.equal(batches.collate(rows, 0)["input_features"], first["input_features"])
    assert not torch.equal(first["input_features"], second["input_features"])
    for batch in (first, second):
        assert torch.equal(batch["attention_mask"], unaugmented["attention_mask"])
        changed = batch["input_features"] != unaugmented["input_features"]
        assert low < changed[unaugmented["attention_mask"].bool()].float().mean() <= high
        assert not changed[unaugmented["attention_mask"] == 0].any()


def test_cropped_clips_are_shorter() -> None:
    extractor = SpectralFeatureExtractor(normalize="none", descriptors=["log-mel"])
    batches = make_batches(extractor, table(), spectral={"crop_prob": 1.0, "min_crop_seconds": 0.1})
    assert batches.collate([5, 0, 3], 0)["attention_mask"].sum() < batches.collate([5, 0, 3])["attention_mask"].sum()


def test_waveforms_of_pretrained_encoders_are_augmented_in_training_only() -> None:
    clips = table()
    input_spec = InputSpec("waveform", (400,), (320,), False, False, 400, 1)
    augmentation = OnlineAugmentation(clips, 3, Augment(NOISE, seed=3))
    batches = WaveformBatches(clips, Wav2Vec2FeatureExtractor(do_normalize=False), input_spec, augmentation)
    original = sound(clips, 2)
    np.testing.assert_allclose(batches.collate([2])["input_values"][0], original, atol=1e-6)
    for epoch in (0, 1):
        expected = Augment(NOISE, seed=3).apply(original, "eve-2", epoch)
        np.testing.assert_allclose(batches.collate([2], epoch)["input_values"][0], expected, atol=1e-6)


def test_without_augmentation_all_epochs_are_equal() -> None:
    clips, extractor = table(), SpectralFeatureExtractor()
    batches = FrameBatches(compute_frames(clips, extractor, show_progress=False), np.ones(6), extractor)
    batch = batches.collate([1])
    assert torch.equal(batches.collate([1], 0)["input_features"], batch["input_features"])
    augmentation = OnlineAugmentation(clips, 0, spec_augment=SpecAugment(num_time_masks=0, num_freq_masks=0))
    assert torch.equal(augmentation.mask_features(batch, [1], 0)["input_features"], batch["input_features"])


def test_mixup_depends_on_the_seed() -> None:
    first, again = (Mixup.sample(0.4, 9, (0, 17, 0, 1)) for _ in range(2))
    assert first.weight == again.weight
    assert torch.equal(first.partners, again.partners)
    assert sorted(first.partners.tolist()) == list(range(9)), "every clip is a partner once"
    others = [
        Mixup.sample(0.4, 9, seed).weight for seed in ((1, 17, 0, 1), (0, 18, 0, 1), (0, 17, 1, 1), (0, 17, 0, 0))
    ]
    assert len({first.weight, *others}) == 5


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_mixup_weights_follow_a_beta_distribution(alpha: float) -> None:
    """Folded at 0.5: the first clip of a pair always has the larger weight."""
    weights_sampled = np.array([Mixup.sample(alpha, 2, (seed,)).weight for seed in range(2000)])
    augmentation = np.random.default_rng(0).beta(alpha, alpha, size=20_000)
    assert weights_sampled.min() >= 0.5
    assert weights_sampled.mean() == pytest.approx(np.maximum(augmentation, 1 - augmentation).mean(), abs=0.015)


def test_mixup_by_hand() -> None:
    mixup = Mixup(0.75, torch.tensor([1, 2, 0]))
    features = torch.tensor([[4.0, 8.0], [0.0, 4.0], [8.0, 0.0]])
    assert mixup.mix_input("input_features", features).tolist() == [[3, 7], [2, 3], [7, 2]]
    mask = torch.tensor([[1, 0], [1, 1], [1, 0]])
    assert mixup.mix_input("attention_mask", mask).tolist() == [[1, 1], [1, 1], [1, 0]]
    assert mixup.mix_input("attention_mask", mask).dtype == mask.dtype
    targets = torch.eye(3)
    assert mixup.mix(targets).tolist() == [[0.75, 0.25, 0], [0, 0.75, 0.25], [0.25, 0, 0.75]]
    allowed = torch.tensor([[True, False, False], [True, True, False], [False, False, True]])
    assert mixup.allowed_by_either(allowed).tolist() == [[True, True, False], [True, True, True], [True, False, True]]
    weights = torch.tensor([1.0, 2.0, 5.0])
    assert mixup.mix(weights).tolist() == [1.25, 2.75, 4.0]
    assert mixup.mix(weights).sum() == weights.sum(), "the loss is divided by the sum of the clips' weights"


def test_the_mixed_loss_of_two_corpora_is_finite() -> None:
    """CREMA-D has no surprise: with its own classes only, the loss of a mix with surprise would be infinite."""
    mixup = Mixup(0.6, torch.tensor([1, 0]))
    allowed = torch.tensor([[True, True, False], [True, True, True]])
    targets = mixup.mix(torch.tensor([[1.0, 0, 0], [0, 0, 1.0]]))
    logits = torch.randn(2, 3, requires_grad=True)
    losses = clip_losses(logits, targets, mixup.allowed_by_either(allowed), 0.1)
    losses.sum().backward()
    assert losses.isfinite().all()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    goal = 0.9 * targets + 0.1 / 3
    torch.testing.assert_close(losses, -(goal * logits.log_softmax(dim=1)).sum(dim=1))
