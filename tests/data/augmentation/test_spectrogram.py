"""What is drawn for log-mel spectrograms: what each setting does to the energies, the same for one seed."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from ser_ft.data.augmentation.spectrogram import SpectralAugment, spectral_augment
from ser_ft.utils.errors import InputError

OFF: dict[str, Any] = {
    "crop": 0.0,
    "margin": 60.0,
    "tempo": 0.0,
    "warp": 0.0,
    "channel": 0.0,
    "noise": 0.0,
    "room": 0.0,
    "band": 0.0,
}
LENGTHS = torch.tensor([200, 150, 120, 200, 90, 60])
DECIBELS = 10 / math.log(10)


def spectrograms(seed: int = 0) -> torch.Tensor:
    """Smooth log energies, shape (6, 200, 40), with a burst at frame 40 of each clip."""
    random = np.random.default_rng(seed)
    curves = np.cumsum(random.normal(scale=0.3, size=(6, 200, 40)), axis=2) - 8.0
    curves[:, 40:44] += 6.0
    return torch.from_numpy(curves.astype(np.float32))


def drawn(seed: int = 0, **settings: Any) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return spectral_augment(spectrograms(), LENGTHS, generator, SpectralAugment(**(OFF | settings)), 0.01)


def test_nothing_asked_for_changes_nothing() -> None:
    features, lengths = drawn()
    assert torch.equal(lengths, LENGTHS)
    for clip, (found, given) in enumerate(zip(features, spectrograms(), strict=True)):
        torch.testing.assert_close(found[: LENGTHS[clip]], given[: LENGTHS[clip]], atol=2e-4, rtol=0)


def test_one_seed_is_one_draw_and_another_another() -> None:
    settings = {"crop": 0.5, "tempo": 0.25, "warp": 0.15, "channel": 6.0, "noise": 0.5, "room": 0.5, "band": 0.5}
    first, again, other = (drawn(seed, **settings) for seed in (1, 1, 2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert first[0].shape != other[0].shape or not torch.equal(first[0], other[0])
    assert torch.isfinite(first[0]).all()


def test_tempo_makes_clips_longer_and_shorter_within_its_bounds() -> None:
    factors = torch.cat([drawn(seed, tempo=0.25)[1] / LENGTHS for seed in range(30)])
    assert 0.75 < factors.min() < 0.85
    assert 1.2 < factors.max() < 1.3


def test_a_crop_is_a_stretch_of_the_clip_no_shorter_than_asked() -> None:
    whole = spectrograms()
    cut = []
    for seed in range(20):
        features, lengths = drawn(seed, crop=1.0, shortest=0.8)
        for clip, (piece, length) in enumerate(zip(features, lengths.tolist(), strict=True)):
            assert min(80, LENGTHS[clip]) <= length <= LENGTHS[clip]
            starts = range(int(LENGTHS[clip]) - length + 1)
            assert any(torch.allclose(piece[:length], whole[clip, at : at + length], atol=2e-4) for at in starts)
            cut.append(length < LENGTHS[clip])
    assert any(cut)


def test_a_crop_is_never_of_the_silence_around_what_is_said() -> None:
    """A stretch in which nobody speaks would be learned under the clip's emotion."""
    features = torch.full((1, 400, 40), -14.0)
    features[:, 150:250] = spectrograms()[:1, :100] + 4.0
    settings = SpectralAugment(**(OFF | {"crop": 1.0, "shortest": 0.3}))
    for seed in range(30):
        generator = torch.Generator().manual_seed(seed)
        cut, lengths = spectral_augment(features, torch.tensor([400]), generator, settings, 0.01)
        assert 30 <= int(lengths) <= 100
        assert float((cut[0, : int(lengths)].mean(dim=1) > -13.9).float().mean()) > 0.99


def test_a_clip_is_heard_whole_with_little_of_the_silence_around_it() -> None:
    features = torch.full((1, 400, 40), -14.0)
    features[:, 150:250] = spectrograms()[:1, :100] + 4.0
    settings, found = SpectralAugment(**(OFF | {"margin": 0.2})), set()
    for seed in range(30):
        heard, lengths = spectral_augment(
            features, torch.tensor([400]), torch.Generator().manual_seed(seed), settings, 0.01
        )
        said = (heard[0, : int(lengths)].mean(dim=1) > -13.9).nonzero()
        assert 98 <= int(said.max() - said.min()) + 1 <= 100
        assert int(lengths) <= 140
        found.add(int(lengths))
    assert len(found) > 10


def test_a_slowed_clip_ends_with_its_own_last_frame() -> None:
    features, lengths = drawn(3, tempo=0.25)
    for clip, length in enumerate(lengths.tolist()):
        own = spectrograms()[clip, : int(LENGTHS[clip])]
        assert float((features[clip, length - 1] - own[-1]).abs().max()) < 1.0


def test_warp_moves_bands_and_leaves_time_alone() -> None:
    features, lengths = drawn(3, warp=0.3)
    assert torch.equal(lengths, LENGTHS)
    loud = features.mean(dim=2)
    assert all(40 <= int(clip[: int(n)].argmax()) < 44 for clip, n in zip(loud, LENGTHS, strict=True))
    assert (features - spectrograms())[:, : int(LENGTHS.min()), 20:].abs().mean() > 0.1


def test_a_microphone_is_one_curve_over_all_frames_of_a_clip() -> None:
    shortest = int(LENGTHS.min())
    added = torch.cat([(drawn(seed, channel=6.0)[0] - spectrograms())[:, :shortest] for seed in range(40)]) * DECIBELS
    assert added.std(dim=1).max() < 0.01
    assert 3.0 < added[:, 0].std() < 9.0


@pytest.mark.parametrize("ratio", [0.0, 20.0])
def test_noise_has_the_energy_that_its_ratio_says(ratio: float) -> None:
    features, _ = drawn(5, noise=1.0, snr=(ratio, ratio))
    for clip, length in enumerate(LENGTHS.tolist()):
        sound = spectrograms()[clip, :length].exp()
        noise = features[clip, :length].exp() - sound
        found = 10 * math.log10(float(sound.sum() / noise.sum()))
        assert found == pytest.approx(ratio, abs=1.5)


def test_echoes_come_after_the_sound_and_fall() -> None:
    changed = drawn(1, room=1.0)[0] - spectrograms()
    assert changed[:, :40].mean() < 1.0
    after = changed[0, 44:70].mean(dim=1)
    assert after[0] > 1.0, "a burst echoes"
    assert after[0] > after[20]


def test_a_narrow_band_loses_its_ends_alone() -> None:
    changed = drawn(2, band=1.0)[0] - spectrograms()
    lost = changed[:, 0] < -1.0
    assert lost.any()
    assert not lost[:, 7:26].any()


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"noise": 1.5}, "chance from 0 to 1"), ({"tempo": 2.0}, "from 0 to 0.7"), ({"snr": (5.0,)}, "lowest, highest")],
)
def test_wrong_settings_are_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        SpectralAugment(**settings)
