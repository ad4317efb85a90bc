"""Augmentation of log-mel spectrograms: voices, tempos, rooms, microphones and noises at almost no cost.

It does to the energies of mel bands what `ser_ft.data.augmentation.transforms` does to waveforms, a batch at a time, so
that every clip is different in every epoch. Warped bands simulate other vocal tracts (VTLP: Jaitly & Hinton 2013).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ...utils.errors import InputError

_DECIBELS = 10 / math.log(10)
# Standard deviation of the noise level between frames in one band, in nepers: that of a few independent bins.
_NOISE_FLICKER = 0.6
# Longest echo in frames, level of the first echo under the direct sound in dB, reverberation times in seconds.
_ECHO_FRAMES, _FIRST_ECHO_DB, _REVERBERATION_SECONDS = 30, (3.0, 18.0), (0.1, 0.7)
# Frames softer than the clip's loudest by more than this, in dB, are silence around the speech.
_SILENCE_DB = 40.0
# Attenuation outside a limited band, in dB.
_STOPBAND_DB = 30.0
# Falling standard deviations, in dB, of the smooth curves over the bands of microphones and of noise colors.
_CURVES = {"channel": (1.5, 1.2, 1.0, 0.7, 0.5), "noise": (6.0, 4.0, 3.0, 2.0)}
# No tempo makes a clip shorter than this many frames.
_MIN_FRAMES = 20


@dataclass(frozen=True)
class SpectralAugment:
    """Settings of the augmentation of log-mel spectrograms."""

    crop_prob: float = 0.5
    """Probability of cropping a clip to a part of its speech."""

    min_crop_seconds: float = 1.0
    """Shortest crop, in seconds."""

    max_silence_seconds: float = 0.3
    """Longest silence before and after the speech of a clip that is not cropped, in seconds."""

    max_tempo_change: float = 0.25
    """Largest change of tempo in either direction, as a natural logarithm: 0.25 is 28 % faster or slower."""

    max_warp: float = 0.15
    """Largest factor on the frequencies in either direction, as a natural logarithm: vocal tract length."""

    channel_db: float = 6.0
    """Standard deviation of the smooth frequency response of a microphone, in dB."""

    noise_prob: float = 0.5
    """Probability of stationary noise of a random color."""

    snr_db: tuple[float, float] = (2.0, 37.0)
    """Lowest and highest signal-to-noise ratio, in dB."""

    room_prob: float = 0.3
    """Probability of a room's echoes, with reverberation times of 0.1 to 0.7 s."""

    band_limit_prob: float = 0.2
    """Probability of losing the lowest and highest bands, up to a sixth and a third of them."""

    def __post_init__(self) -> None:
        for name in ("crop_prob", "noise_prob", "room_prob", "band_limit_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(
                    f"augment.spectral.{name} must be a probability from 0 to 1, not {getattr(self, name)!r}"
                )
        limits = {
            "max_tempo_change": 0.7,
            "max_warp": 0.7,
            "channel_db": 40.0,
            "min_crop_seconds": 60.0,
            "max_silence_seconds": 60.0,
        }
        for name, maximum in limits.items():
            if not 0 <= getattr(self, name) <= maximum:
                raise InputError(f"augment.spectral.{name} must be from 0 to {maximum:g}, not {getattr(self, name)!r}")
        if len(self.snr_db) != 2 or not -20 <= self.snr_db[0] <= self.snr_db[1] <= 100:
            raise InputError(f"augment.spectral.snr_db must be [lowest, highest] in dB, not {list(self.snr_db)!r}")


def spectral_augment(
    features: torch.Tensor,
    lengths: torch.Tensor,
    generator: torch.Generator,
    settings: SpectralAugment,
    frame_seconds: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Augment log-mel spectrograms: natural logarithms of energies, shape (clips, frames, bands).

    Returns the augmented features and their new lengths in frames. Frames after a clip's end are undefined.
    """
    sampler = _Sampler(generator, features)
    features, lengths = _crop(features, lengths, sampler, settings, frame_seconds)
    features, lengths = _warp(features, lengths, sampler, settings)
    features = _add_reverberation(features, lengths, sampler, settings.room_prob, frame_seconds)
    features = features + sampler.curves("channel", settings.channel_db)
    features = _add_noise(features, lengths, sampler, settings)
    return _limit_band(features, sampler, settings.band_limit_prob), lengths


@dataclass(frozen=True)
class _Sampler:
    """Samples random numbers for the clips of a batch of features, shape (clips, frames, bands)."""

    generator: torch.Generator
    features: torch.Tensor

    def uniform(self, low: float, high: float) -> torch.Tensor:
        """Sample a number for each clip, shape (clips,)."""
        return low + (high - low) * torch.rand(len(self.features), generator=self.generator)

    def bernoulli(self, probability: float) -> torch.Tensor:
        """Select clips at random: bool, shape (clips,)."""
        return self.uniform(0.0, 1.0) < probability

    def normal(self, *shape: int) -> torch.Tensor:
        """Sample standard normal numbers."""
        return torch.randn(*shape, generator=self.generator)

    def curves(self, kind: str, deviation_db: float = 0.0) -> torch.Tensor:
        """Sample a smooth curve over the bands for each clip, in nepers, shape (clips, 1, bands)."""
        deviations, num_bands = torch.tensor(_CURVES[kind]), self.features.shape[2]
        if kind == "channel":
            deviations = deviations * deviation_db / math.sqrt(len(deviations))
        orders = torch.arange(1, len(deviations) + 1)[:, None]
        cosines = torch.cos(orders * math.pi * (torch.arange(num_bands) + 0.5)[None] / num_bands)
        return ((self.normal(len(self.features), len(deviations)) * deviations) @ cosines / _DECIBELS)[:, None]


def _crop(
    features: torch.Tensor, lengths: torch.Tensor, sampler: _Sampler, settings: SpectralAugment, frame_seconds: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Crop some clips to a part of their speech, and the others to their speech with a little silence around it."""
    first, num_speech = _speech_frames(features, lengths)
    margin = settings.max_silence_seconds / frame_seconds + 1
    before, after = ((sampler.uniform(0.0, margin)).floor().long() for _ in range(2))
    full_start = (first - before).clamp(min=0)
    full_length = (first + num_speech + after).minimum(lengths) - full_start
    min_crop = torch.full_like(lengths, max(1, round(settings.min_crop_seconds / frame_seconds))).minimum(num_speech)
    crop_length = min_crop + (sampler.uniform(0.0, 1.0) * (num_speech - min_crop + 1)).floor().long()
    crop_length = crop_length.minimum(num_speech)
    crop_start = first + (sampler.uniform(0.0, 1.0) * (num_speech - crop_length + 1)).floor().long()
    cropped = sampler.bernoulli(settings.crop_prob)
    new_lengths = torch.where(cropped, crop_length, full_length)
    starts = torch.where(cropped, crop_start, full_start)
    frames = (starts[:, None] + torch.arange(int(new_lengths.max()))).clamp(max=features.shape[1] - 1)
    return features.gather(1, frames[..., None].expand(-1, -1, features.shape[2])), new_lengths


def _speech_frames(features: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each clip's first audible frame, and the number of frames from it to the last audible one."""
    energies = torch.logsumexp(features, dim=2)
    frames = torch.arange(features.shape[1])[None]
    energies = energies.masked_fill(frames >= lengths[:, None], -math.inf)
    audible = energies >= energies.amax(dim=1, keepdim=True) - _SILENCE_DB / _DECIBELS
    first = torch.where(audible, frames, features.shape[1]).amin(dim=1)
    return first, torch.where(audible, frames, -1).amax(dim=1) - first + 1


def _warp(
    features: torch.Tensor, lengths: torch.Tensor, sampler: _Sampler, settings: SpectralAugment
) -> tuple[torch.Tensor, torch.Tensor]:
    """Change tempo and vocal tract length by interpolating between frames and between bands."""
    num_clips, num_frames, num_bands = features.shape
    tempo = sampler.uniform(-settings.max_tempo_change, settings.max_tempo_change).exp()
    warp = sampler.uniform(-settings.max_warp, settings.max_warp).exp()
    min_frames = lengths.clamp(max=_MIN_FRAMES)
    new_lengths = (lengths / tempo).round().long().maximum(min_frames)
    times = torch.arange(int(new_lengths.max()))[None] * (lengths / new_lengths)[:, None]
    times = times.minimum(lengths[:, None] - 1)
    bands = torch.arange(num_bands)[None] * warp[:, None]
    shape = (num_clips, times.shape[1], num_bands)
    x = (2 * bands / max(num_bands - 1, 1) - 1)[:, None].expand(shape)
    y = (2 * times / max(num_frames - 1, 1) - 1)[:, :, None].expand(shape)
    grid = torch.stack((x, y), dim=-1)
    options = {"mode": "bilinear", "padding_mode": "border", "align_corners": True}
    warped = torch.nn.functional.grid_sample(features[:, None], grid, **options)  # type: ignore[arg-type]
    return warped[:, 0], new_lengths


def _add_reverberation(
    features: torch.Tensor, lengths: torch.Tensor, sampler: _Sampler, probability: float, frame_seconds: float
) -> torch.Tensor:
    """Add exponentially decaying echoes to some clips (Polack 1988)."""
    selected = sampler.bernoulli(probability)
    rt60, first_echo_db = sampler.uniform(*_REVERBERATION_SECONDS), sampler.uniform(*_FIRST_ECHO_DB)
    if not selected.any():
        return features
    dry, num_bands = features[selected], features.shape[2]
    inside = torch.arange(features.shape[1])[None] < lengths[selected][:, None]
    energies = dry.exp() * inside[..., None]
    # 60 dB over the reverberation time.
    decay = torch.exp(-6 * math.log(10) * torch.arange(_ECHO_FRAMES) * frame_seconds / rt60[selected][:, None])
    echo_energies = 10 ** (-first_echo_db[selected] / 10)
    echoes = decay / decay[:, 1:].sum(dim=1, keepdim=True).clamp(min=1e-6) * echo_energies[:, None]
    echoes[:, 0] = 1.0
    padded = torch.nn.functional.pad(energies.transpose(1, 2), (_ECHO_FRAMES - 1, 0)).transpose(0, 1)
    wet = torch.nn.functional.conv1d(padded.reshape(num_bands, len(dry), -1), echoes.flip(1)[:, None], groups=len(dry))
    reverberant = features.clone()
    reverberant[selected] = wet.permute(1, 2, 0).clamp(min=1e-10).log()
    return reverberant


def _add_noise(
    features: torch.Tensor, lengths: torch.Tensor, sampler: _Sampler, settings: SpectralAugment
) -> torch.Tensor:
    """Add stationary noise to some clips."""
    selected = sampler.bernoulli(settings.noise_prob)
    snr_db, colors = sampler.uniform(*settings.snr_db), sampler.curves("noise")
    flicker = sampler.normal(*features.shape) * _NOISE_FLICKER
    if not selected.any():
        return features
    inside = torch.arange(features.shape[1])[None] < lengths[:, None]
    energies = (features.exp() * inside[..., None]).sum(dim=(1, 2)) / lengths
    level = energies.clamp(min=1e-10).log() - snr_db / _DECIBELS
    colors = colors - torch.logsumexp(colors, dim=2, keepdim=True)
    noise = colors + level[:, None, None] + flicker
    return torch.where(selected[:, None, None], torch.logaddexp(features, noise), features)


def _limit_band(features: torch.Tensor, sampler: _Sampler, probability: float) -> torch.Tensor:
    """Attenuate the lowest and highest bands of some clips."""
    num_bands = features.shape[2]
    selected = sampler.bernoulli(probability)
    low = sampler.uniform(0.0, num_bands / 6).floor()
    high = num_bands - sampler.uniform(0.0, num_bands / 3).floor()
    bands = torch.arange(num_bands)[None]
    outside = ((bands < low[:, None]) | (bands >= high[:, None])) & selected[:, None]
    return torch.where(outside[:, None], features - _STOPBAND_DB / _DECIBELS, features)
