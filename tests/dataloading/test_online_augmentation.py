"""What is fitted on training clips, what is drawn for them anew in each epoch, and how clips are mixed."""

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
NOISE = {"noise": {"snr_db": [5, 5]}}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SER_FT_CACHE", str(tmp_path / "cache"))


def tone(row: int) -> np.ndarray:
    samples = np.arange(3000 + 400 * row)
    hiss = np.random.default_rng(row).normal(scale=0.01, size=len(samples))
    return (0.1 * np.sin(samples * (0.05 + 0.04 * row)) + hiss).astype(np.float32)


def table(louder: int | None = None, clips: int = 6) -> datasets.Dataset:
    """Tones of three speakers; one clip may sound otherwise."""
    sounds = [tone(row) * (4 if row == louder else 1) for row in range(clips)]
    columns = {
        "id": [f"{SPEAKERS[row % 6]}-{row}" for row in range(clips)],
        "audio": [{"bytes": audio.to_wav(sound), "path": None} for sound in sounds],
        "speaker": [SPEAKERS[row % 6] for row in range(clips)],
        "duration": [len(sound) / audio.SAMPLE_RATE for sound in sounds],
    }
    return datasets.Dataset.from_dict(columns)


def sound(clips: datasets.Dataset, row: int) -> np.ndarray:
    return audio.from_wav(clips[row]["audio"]["bytes"])


def feed_of(
    extractor: SpectralFeatureExtractor,
    *tables: datasets.Dataset,
    train: tuple[int, ...] = (0, 1, 3, 4),
    **augment: Any,
) -> FrameBatches:
    return frame_batches(extractor, tables, np.array(train), AugmentConfig(**augment), seed=3)


def frames(tmp_path: Path, *values: np.ndarray) -> FlatCache:
    return FlatCache.make(tmp_path / "frames", len(values), lambda rows: ((row, values[row]) for row in rows.tolist()))


def test_mean_and_scale_are_those_of_all_training_frames(tmp_path: Path) -> None:
    """Of frames, not of clips: a long clip counts for more. What never changes is divided by no zero."""
    random = np.random.default_rng(0)
    clips = [random.normal(3 * row, 1 + row, size=(5 + 40 * row, 3)).astype(np.float32) for row in range(4)]
    for clip in clips:
        clip[:, 2] = 7.0
    extractor = SpectralFeatureExtractor(n_mfcc=3, normalize="training")
    found = Standardizer.fit(extractor, frames(tmp_path, *clips), ["a", "b", "a", "c"], np.array([0, 2, 3]))
    heard = np.concatenate([clips[0], clips[2], clips[3]])
    assert found is not None
    np.testing.assert_allclose(found.mean[0], heard.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found.scale[0, :2], heard.std(axis=0)[:2], rtol=1e-5)
    assert found.scale[0, 2] == 1.0
    assert extractor.mean == pytest.approx(found.mean[0].tolist())
    assert extractor.scale == pytest.approx(found.scale[0].tolist())
    np.testing.assert_allclose(
        found.apply(torch.from_numpy(clips[1][None]), [1])[0], (clips[1] - found.mean[0]) / found.scale[0], rtol=1e-5
    )


def test_speakers_who_are_not_trained_on_change_nothing() -> None:
    """Else the test would not be one: a louder test clip may not move what the network hears of the others."""
    means = []
    for louder in (None, 2, 0):
        extractor = SpectralFeatureExtractor(normalize="training")
        feed_of(extractor, table(louder))
        means.append((extractor.mean, extractor.scale))
    assert means[0] == means[1]
    assert means[0] != means[2], "a training clip must move it"


@pytest.mark.parametrize("normalize", ["none", "clip-mean", "clip", "training"])
def test_a_run_hears_what_the_saved_extractor_will_hear(normalize: str) -> None:
    clips, extractor = table(), SpectralFeatureExtractor(normalize=normalize)
    feed = feed_of(extractor, clips)
    assert (feed.standardizer is not None) == (normalize == "training")
    batch = feed.collate([5, 0])
    alone = extractor([sound(clips, 5), sound(clips, 0)], return_tensors="pt")
    torch.testing.assert_close(batch["input_features"], alone["input_features"], atol=1e-3, rtol=1e-3)
    assert torch.equal(batch["attention_mask"], alone["attention_mask"])


def test_each_speaker_by_their_own_clips() -> None:
    feed = feed_of(SpectralFeatureExtractor(normalize="speaker"), table())
    for first in range(3):
        heard = torch.cat([feed.collate([row])["input_features"][0] for row in (first, first + 3)])
        assert heard.mean(dim=0).abs().max() < 1e-3
        torch.testing.assert_close(heard.std(dim=0, correction=0), torch.ones(20), atol=1e-3, rtol=0)


@pytest.mark.parametrize("normalize", ["training", "speaker"])
def test_copies_are_standardised_and_move_nothing(normalize: str) -> None:
    """They are no more of a speaker; and a run without copies must hear its clips the same."""
    loud = table().select([1, 0]).map(lambda row: row | {"id": row["id"] + "+1"})
    plain = feed_of(SpectralFeatureExtractor(normalize=normalize), table())
    both = feed_of(SpectralFeatureExtractor(normalize=normalize), table(), loud, train=(0, 1, 3, 4, 6, 7))
    assert len(both.lengths) == len(both.seconds) == 8
    for row in range(6):
        assert torch.equal(both.collate([row])["input_features"], plain.collate([row])["input_features"])
    for row, source in ((6, 1), (7, 0)):
        assert torch.equal(both.collate([row])["input_features"], plain.collate([source])["input_features"])


def test_live_clips_are_drawn_anew_in_each_epoch_and_for_training_alone() -> None:
    clips, extractor = table(), SpectralFeatureExtractor(normalize="training")
    plain, feed = (
        feed_of(SpectralFeatureExtractor(normalize="training"), clips),
        feed_of(extractor, clips, transforms=NOISE),
    )
    first, second = (feed.collate([4, 1], epoch)["input_features"] for epoch in (0, 1))
    asked = feed.collate([4, 1])["input_features"]
    assert torch.equal(asked, plain.collate([4, 1])["input_features"]), "evaluation is never augmented"
    assert not torch.equal(first, second)
    assert not torch.equal(first, asked)
    assert torch.equal(first, feed.collate([4, 1], 0)["input_features"])
    # Each clip by itself: who shares its batch, or which process asks, changes nothing.
    alone = pickle.loads(pickle.dumps(feed)).collate([1], 0)["input_features"][0]
    torch.testing.assert_close(first[1, : len(alone)], alone, atol=1e-4, rtol=1e-4)
    wave = Augment(NOISE, seed=3).apply(sound(clips, 1), "bob-1", 0)
    torch.testing.assert_close(extractor(wave, return_tensors="pt")["input_features"][0], alone, atol=1e-3, rtol=1e-3)


def test_masks_are_drawn_anew_in_each_epoch_and_for_training_alone() -> None:
    masks = {"num_time_masks": 3, "time_mask_width": 0.4, "num_freq_masks": 2, "freq_mask_width": 0.3}
    feed = feed_of(SpectralFeatureExtractor(normalize="training"), table(), spec_augment=masks)
    rows = [5, 0, 3]
    asked, first, second = feed.collate(rows), feed.collate(rows, 0), feed.collate(rows, 1)
    plain = feed_of(SpectralFeatureExtractor(normalize="training"), table()).collate(rows)
    assert torch.equal(asked["input_features"], plain["input_features"]), "evaluation is never masked"
    assert torch.equal(feed.collate(rows, 0)["input_features"], first["input_features"])
    assert not torch.equal(first["input_features"], second["input_features"])
    for batch in (first, second):
        assert torch.equal(batch["attention_mask"], asked["attention_mask"])
        changed = batch["input_features"] != asked["input_features"]
        assert 0.05 < changed[asked["attention_mask"].bool()].float().mean() < 0.95
        assert not changed[asked["attention_mask"] == 0].any()


def test_spectra_are_drawn_anew_in_each_epoch_and_for_training_alone() -> None:
    def log_mel() -> SpectralFeatureExtractor:
        return SpectralFeatureExtractor(descriptors=["log-mel"], normalize="none")

    feed, rows = feed_of(log_mel(), table(), spectral={"crop_prob": 0.0, "max_tempo_change": 0.0}), [5, 0, 3]
    asked, first, second = feed.collate(rows), feed.collate(rows, 0), feed.collate(rows, 1)
    plain = feed_of(log_mel(), table()).collate(rows)
    assert torch.equal(asked["input_features"], plain["input_features"]), "evaluation is never augmented"
    assert torch.equal(feed.collate(rows, 0)["input_features"], first["input_features"])
    heard = asked["attention_mask"].bool()
    for one, other in ((first, asked), (second, asked), (first, second)):
        assert torch.equal(one["attention_mask"], other["attention_mask"])
        changed = (one["input_features"] != other["input_features"])[heard]
        assert changed.any(dim=1).float().mean() > 0.9
    cut = feed_of(log_mel(), table(), spectral={"crop_prob": 1.0, "min_crop_seconds": 0.1}).collate(rows, 0)
    assert cut["attention_mask"].sum() < asked["attention_mask"].sum()


def test_a_pretrained_encoder_hears_augmented_sound_in_training_alone() -> None:
    clips = table()
    input_spec = InputSpec("waveform", (400,), (320,), False, False, 400, 1)
    drawn = OnlineAugmentation(clips, 3, Augment(NOISE, seed=3))
    feed = WaveformBatches(clips, Wav2Vec2FeatureExtractor(do_normalize=False), input_spec, drawn)
    original = sound(clips, 2)
    np.testing.assert_allclose(feed.collate([2])["input_values"][0], original, atol=1e-6)
    for epoch in (0, 1):
        expected = Augment(NOISE, seed=3).apply(original, "eve-2", epoch)
        np.testing.assert_allclose(feed.collate([2], epoch)["input_values"][0], expected, atol=1e-6)


def test_without_draws_every_epoch_is_the_same() -> None:
    clips, extractor = table(), SpectralFeatureExtractor()
    feed = FrameBatches(compute_frames(clips, extractor, shown=False), np.ones(6), extractor)
    assert torch.equal(feed.collate([1], 0)["input_features"], feed.collate([1])["input_features"])
    drawn = OnlineAugmentation(clips, 0, spec_augment=SpecAugment(num_time_masks=0, num_freq_masks=0))
    assert torch.equal(
        drawn.mask_features(feed.collate([1]), [1], 0)["input_features"], feed.collate([1])["input_features"]
    )


def test_a_mixing_is_one_for_its_seed() -> None:
    one = Mixup.sample(0.4, 9, (0, 17, 0, 1))
    again = Mixup.sample(0.4, 9, (0, 17, 0, 1))
    assert one.weight == again.weight
    assert torch.equal(one.partners, again.partners)
    assert sorted(one.partners.tolist()) == list(range(9)), "every clip is somebody's partner once"
    others = [Mixup.sample(0.4, 9, seed) for seed in ((1, 17, 0, 1), (0, 18, 0, 1), (0, 17, 1, 1), (0, 17, 0, 0))]
    assert len({one.weight, *(other.weight for other in others)}) == 5


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_shares_are_of_the_beta_distribution(alpha: float) -> None:
    """Folded at a half: a clip whose label is counted is never the lesser one."""
    shares = np.array([Mixup.sample(alpha, 2, (seed,)).weight for seed in range(2000)])
    drawn = np.random.default_rng(0).beta(alpha, alpha, size=20_000)
    assert shares.min() >= 0.5
    assert shares.mean() == pytest.approx(np.maximum(drawn, 1 - drawn).mean(), abs=0.015)


def test_what_is_mixed_by_hand() -> None:
    mix = Mixup(0.75, torch.tensor([1, 2, 0]))
    features = torch.tensor([[4.0, 8.0], [0.0, 4.0], [8.0, 0.0]])
    assert mix.mix_input("input_features", features).tolist() == [[3, 7], [2, 3], [7, 2]]
    mask = torch.tensor([[1, 0], [1, 1], [1, 0]])
    assert mix.mix_input("attention_mask", mask).tolist() == [[1, 1], [1, 1], [1, 0]]
    assert mix.mix_input("attention_mask", mask).dtype == mask.dtype
    targets = torch.eye(3)
    assert mix.mix(targets).tolist() == [[0.75, 0.25, 0], [0, 0.75, 0.25], [0.25, 0, 0.75]]
    allowed = torch.tensor([[True, False, False], [True, True, False], [False, False, True]])
    assert mix.allowed_by_either(allowed).tolist() == [[True, True, False], [True, True, True], [True, False, True]]
    weights = torch.tensor([1.0, 2.0, 5.0])
    assert mix.mix(weights).tolist() == [1.25, 2.75, 4.0]
    assert mix.mix(weights).sum() == weights.sum(), "the loss is divided by the weights of the clips themselves"


def test_a_mixed_loss_is_finite_whatever_two_corpora_can_hold() -> None:
    """CREMA-D has no surprise: mixed with a surprised clip, its own goal would be minus infinity."""
    mix = Mixup(0.6, torch.tensor([1, 0]))
    allowed = torch.tensor([[True, True, False], [True, True, True]])
    targets = mix.mix(torch.tensor([[1.0, 0, 0], [0, 0, 1.0]]))
    scores = torch.randn(2, 3, requires_grad=True)
    losses = clip_losses(scores, targets, mix.allowed_by_either(allowed), 0.1)
    losses.sum().backward()
    assert losses.isfinite().all()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()
    goal = 0.9 * targets + 0.1 / 3
    torch.testing.assert_close(losses, -(goal * scores.log_softmax(dim=1)).sum(dim=1))
