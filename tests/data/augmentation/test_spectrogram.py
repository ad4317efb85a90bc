"""What each setting of the augmentation of log-mel spectrograms does to the energies."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from ser_ft.data.augmentation.spectrogram import SpectralAugment, spectral_augment
from ser_ft.utils.errors import InputError

PROBABILITIES = ("crop_prob", "noise_prob", "room_prob", "band_limit_prob")
CHANGES = {"max_tempo_change": 0.25, "max_warp": 0.15, "channel_db": 6.0}
OFF: dict[str, Any] = dict.fromkeys((*PROBABILITIES, *CHANGES), 0.0) | {"max_silence_seconds": 60.0}
LENGTHS = torch.tensor([200, 150, 120, 200, 90, 60])
DECIBELS = 10 / math.log(10)


def spectrograms(seed: int = 0) -> torch.Tensor:
    """Smooth log energies, shape (6, 200, 40), with a burst at frame 40 of each clip."""
    random = np.random.default_rng(seed)
    curves = np.cumsum(random.normal(scale=0.3, size=(6, 200, 40)), axis=2) - 8.0
    curves[:, 40:44] += 6.0
    return torch.from_numpy(curves.astype(np.float32))


def augment(
    seed: int = 0, features: torch.Tensor | None = None, lengths: torch.Tensor = LENGTHS, **settings: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    features = spectrograms() if features is None else features
    generator = torch.Generator().manual_seed(seed)
    return spectral_augment(features, lengths, generator, SpectralAugment(**(OFF | settings)), 0.01)


def speech_in_silence() -> tuple[torch.Tensor, torch.Tensor]:
    """One clip of 400 frames with speech in frames 150 to 250."""
    features = torch.full((1, 400, 40), -14.0)
    features[:, 150:250] = spectrograms()[:1, :100] + 4.0
    return features, torch.tensor([400])


def test_with_everything_off_nothing_changes() -> None:
    features, lengths = augment()
    assert torch.equal(lengths, LENGTHS)
    for clip, before in enumerate(spectrograms()):
        torch.testing.assert_close(features[clip, : LENGTHS[clip]], before[: LENGTHS[clip]], atol=2e-4, rtol=0)


def test_the_result_depends_on_the_seed() -> None:
    settings = dict.fromkeys(PROBABILITIES, 0.5) | CHANGES
    first, again, other = (augment(seed, **settings) for seed in (1, 1, 2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert first[0].shape != other[0].shape or not torch.equal(first[0], other[0])
    assert torch.isfinite(first[0]).all()


def test_tempo_changes_the_lengths_within_its_bounds_and_keeps_the_last_frame() -> None:
    factors = torch.cat([augment(seed, max_tempo_change=0.25)[1] / LENGTHS for seed in range(30)])
    assert 0.75 < factors.min() < 0.85
    assert 1.2 < factors.max() < 1.3
    features, lengths = augment(3, max_tempo_change=0.25)
    for clip, length in enumerate(lengths.tolist()):
        before = spectrograms()[clip, : int(LENGTHS[clip])]
        assert float((features[clip, length - 1] - before[-1]).abs().max()) < 1.0


def test_a_crop_is_a_part_of_the_clip_of_the_shortest_length_or_more() -> None:
    whole = spectrograms()
    shortened = []
    for seed in range(20):
        features, lengths = augment(seed, crop_prob=1.0, min_crop_seconds=0.8)
        for clip, (part, length) in enumerate(zip(features, lengths.tolist(), strict=True)):
            assert min(80, LENGTHS[clip]) <= length <= LENGTHS[clip]
            parts = whole[clip, : LENGTHS[clip]].unfold(0, length, 1).transpose(1, 2)
            assert ((part[:length] - parts).abs().amax(dim=(1, 2)) < 2e-4).any()
            shortened.append(length < LENGTHS[clip])
    assert any(shortened)


def test_a_crop_lies_within_the_speech() -> None:
    """A part without speech would be learned under the clip's emotion."""
    for seed in range(30):
        cropped, lengths = augment(seed, *speech_in_silence(), crop_prob=1.0, min_crop_seconds=0.3)
        assert 30 <= int(lengths) <= 100
        assert float((cropped[0, : int(lengths)].mean(dim=1) > -13.9).float().mean()) > 0.99


def test_without_a_crop_all_speech_stays_with_little_silence() -> None:
    seen_lengths = set()
    for seed in range(30):
        features, lengths = augment(seed, *speech_in_silence(), max_silence_seconds=0.2)
        speech = (features[0, : int(lengths)].mean(dim=1) > -13.9).nonzero()
        assert 98 <= int(speech.max() - speech.min()) + 1 <= 100
        assert int(lengths) <= 140
        seen_lengths.add(int(lengths))
    assert len(seen_lengths) > 10


def test_warp_moves_bands_and_not_frames() -> None:
    features, lengths = augment(3, max_warp=0.3)
    assert torch.equal(lengths, LENGTHS)
    loudness = features.mean(dim=2)
    assert all(40 <= int(clip[: int(n)].argmax()) < 44 for clip, n in zip(loudness, LENGTHS, strict=True))
    assert (features - spectrograms())[:, : int(LENGTHS.min()), 20:].abs().mean() > 0.1


def test_a_channel_is_the_same_curve_in_all_frames_of_a_clip() -> None:
    shortest = int(LENGTHS.min())
    responses = [(augment(seed, channel_db=6.0)[0] - spectrograms())[:, :shortest] for seed in range(40)]
    added = torch.cat(responses) * DECIBELS
    assert added.std(dim=1).max() < 0.01
    assert 3.0 < added[:, 0].std() < 9.0


@pytest.mark.parametrize("snr_db", [0.0, 20.0])
def test_noise_has_its_signal_to_noise_ratio(snr_db: float) -> None:
    features, _ = augment(5, noise_prob=1.0, snr_db=(snr_db, snr_db))
    for clip, length in enumerate(LENGTHS.tolist()):
        speech = spectrograms()[clip, :length].exp()
        noise = features[clip, :length].exp() - speech
        assert 10 * math.log10(float(speech.sum() / noise.sum())) == pytest.approx(snr_db, abs=1.5)


def test_echoes_follow_the_sound_and_decay() -> None:
    changed = augment(1, room_prob=1.0)[0] - spectrograms()
    assert changed[:, :40].mean() < 1.0
    after = changed[0, 44:70].mean(dim=1)
    assert after[0] > 1.0, "the burst has an echo"
    assert after[0] > after[20]


def test_a_limited_band_loses_only_its_ends() -> None:
    changed = augment(2, band_limit_prob=1.0)[0] - spectrograms()
    lost = changed[:, 0] < -1.0
    assert lost.any()
    assert not lost[:, 7:26].any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"noise_prob": 1.5}, "noise_prob must be a probability from 0 to 1"),
        ({"max_tempo_change": 2.0}, "max_tempo_change must be from 0 to 0.7"),
        ({"snr_db": (5.0,)}, "lowest, highest"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SpectralAugment(**settings)
