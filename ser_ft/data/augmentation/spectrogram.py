"""Augmentation of log-mel spectrograms: other voices, tempos, rooms, microphones and noises, at hardly any cost.

What `ser_ft.data.augmentation.transforms` does to sound is done here to the energies of its mel bands, a whole batch at once, so
that every clip is heard another way in every epoch. Warped bands are other vocal tracts (VTLP: Jaitly & Hinton 2013).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...utils.errors import InputError

if TYPE_CHECKING:
    import torch

_DECIBELS = 10 / math.log(10)
# Deviation of a noise's level from frame to frame in one band, in natural logarithms: that of a few independent bins.
_FLICKER = 0.6
# Frames that a room's echoes last at most, and how far the first of them lie below the sound itself, in dB.
_ECHOES, _FIRST_ECHO = 30, (3.0, 18.0)
_REVERBERATION = (0.1, 0.7)
# Decibels below a clip's loudest frame from which it is silence that lies around what is said.
_AUDIBLE = 40.0
# What lies outside of a channel's band is softer by this, in dB.
_OUTSIDE = 30.0
# Falling deviations, in dB, of the slow curves over the bands that stand for microphones and for colours of noise.
_CURVES = {"channel": (1.5, 1.2, 1.0, 0.7, 0.5), "noise": (6.0, 4.0, 3.0, 2.0)}
# Frames under which no tempo makes a clip.
_FEWEST = 20


@dataclass(frozen=True)
class SpectralAugment:
    """What is drawn for each training clip in each epoch."""

    crop: float = 0.5
    """Chance that a stretch of what is said is heard, not all of the clip."""

    shortest: float = 1.0
    """Shortest such stretch, in seconds."""

    margin: float = 0.3
    """Longest silence that is left before, and after, what is said where all of it is heard, in seconds."""

    tempo: float = 0.25
    """Largest change of tempo, either way, as a natural logarithm: 0.25 is 28 % faster or slower."""

    warp: float = 0.15
    """Largest shift of the bands by a factor, either way, as a natural logarithm: longer and shorter vocal tracts."""

    channel: float = 6.0
    """Deviation of the slow curve over the bands that a microphone adds, in dB."""

    noise: float = 0.5
    """Chance of steady noise of some colour."""

    snr: tuple[float, float] = (2.0, 37.0)
    """Its signal-to-noise ratios, in dB."""

    room: float = 0.3
    """Chance of a room's echoes, of 0.1 to 0.7 s."""

    band: float = 0.2
    """Chance that the lowest and highest bands are lost, up to a sixth and a third of them."""

    def __post_init__(self) -> None:
        """Check the settings."""
        for name in ("crop", "noise", "room", "band"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"augment.spectral.{name} is a chance from 0 to 1, not {getattr(self, name)!r}")
        for name, most in (("tempo", 0.7), ("warp", 0.7), ("channel", 40.0), ("shortest", 60.0), ("margin", 60.0)):
            if not 0 <= getattr(self, name) <= most:
                raise InputError(f"augment.spectral.{name} is from 0 to {most:g}, not {getattr(self, name)!r}")
        if len(self.snr) != 2 or not -20 <= self.snr[0] <= self.snr[1] <= 100:
            raise InputError(f"augment.spectral.snr is [lowest, highest] in dB, not {list(self.snr)!r}")


def spectral_augment(
    features: torch.Tensor,
    lengths: torch.Tensor,
    generator: torch.Generator,
    settings: SpectralAugment,
    frame_seconds: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Augment log-mel spectrograms.

    Args:
        features: natural logarithms of energies, shape (clips, frames, bands). lengths: frames of each clip, shape
            (clips,). generator: of the draws. settings: what is drawn. frame_seconds: from frame to frame.

    Returns:
        The same of the augmented clips, which are longer or shorter; nothing is said of frames beyond a clip's end.
    """
    draw = _Draw(generator, features)
    features, lengths = _cropped(features, lengths, draw, settings, frame_seconds)
    features, lengths = _warped(features, lengths, draw, settings)
    features = _in_rooms(features, lengths, draw, settings.room, frame_seconds)
    features = features + draw.curves("channel", settings.channel)
    features = _noisy(features, lengths, draw, settings)
    return _band_limited(features, draw, settings.band), lengths


@dataclass(frozen=True)
class _Draw:
    """Draws numbers for the clips of a batch."""

    generator: torch.Generator
    like: torch.Tensor

    def evenly(self, low: float, high: float) -> torch.Tensor:
        """Draw a number for each clip, shape (clips,)."""
        import torch

        return low + (high - low) * torch.rand(len(self.like), generator=self.generator)

    def chosen(self, chance: float) -> torch.Tensor:
        """Choose clips: bool, shape (clips,)."""
        return self.evenly(0.0, 1.0) < chance

    def normal(self, *shape: int) -> torch.Tensor:
        """Draw from a normal distribution."""
        import torch

        return torch.randn(*shape, generator=self.generator)

    def curves(self, kind: str, scale: float = 0.0) -> torch.Tensor:
        """Draw a slow curve over the bands for each clip, in natural logarithms, shape (clips, 1, bands).

        `scale`: its deviation in dB; 0: that of its kind.
        """
        import torch

        deviations, bands = torch.tensor(_CURVES[kind]), self.like.shape[2]
        if kind == "channel":
            deviations = deviations * scale / math.sqrt(len(deviations))
        orders = torch.arange(1, len(deviations) + 1)[:, None]
        waves = torch.cos(orders * math.pi * (torch.arange(bands) + 0.5)[None] / bands)
        return ((self.normal(len(self.like), len(deviations)) * deviations) @ waves / _DECIBELS)[:, None]


def _cropped(
    features: torch.Tensor, lengths: torch.Tensor, draw: _Draw, settings: SpectralAugment, frame_seconds: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Take a stretch of some clips, of what lies between their silences; of the others all, with little silence."""
    import torch

    first, heard = _heard(features, lengths)
    margin = settings.margin / frame_seconds + 1
    before, after = ((draw.evenly(0.0, margin)).floor().long() for _ in range(2))
    begin = (first - before).clamp(min=0)
    whole = (first + heard + after).minimum(lengths) - begin
    least = torch.full_like(lengths, max(1, round(settings.shortest / frame_seconds))).minimum(heard)
    wanted = least + (draw.evenly(0.0, 1.0) * (heard - least + 1)).floor().long()
    wanted = wanted.minimum(heard)
    start = first + (draw.evenly(0.0, 1.0) * (heard - wanted + 1)).floor().long()
    chosen = draw.chosen(settings.crop)
    taken, start = torch.where(chosen, wanted, whole), torch.where(chosen, start, begin)
    places = (start[:, None] + torch.arange(int(taken.max()))).clamp(max=features.shape[1] - 1)
    return features.gather(1, places[..., None].expand(-1, -1, features.shape[2])), taken


def _heard(features: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the first frame of each clip that is heard, and how many there are from it to the last."""
    import torch

    energies = torch.logsumexp(features, dim=2)
    at = torch.arange(features.shape[1])[None]
    energies = energies.masked_fill(at >= lengths[:, None], -math.inf)
    heard = energies >= energies.amax(dim=1, keepdim=True) - _AUDIBLE / _DECIBELS
    first = torch.where(heard, at, features.shape[1]).amin(dim=1)
    return first, torch.where(heard, at, -1).amax(dim=1) - first + 1


def _warped(
    features: torch.Tensor, lengths: torch.Tensor, draw: _Draw, settings: SpectralAugment
) -> tuple[torch.Tensor, torch.Tensor]:
    """Change tempo and vocal tract: frames and bands between those that are there are interpolated."""
    import torch

    clips, frames, bands = features.shape
    tempo = draw.evenly(-settings.tempo, settings.tempo).exp()
    warp = draw.evenly(-settings.warp, settings.warp).exp()
    fewest = lengths.clamp(max=_FEWEST)
    made = (lengths / tempo).round().long().maximum(fewest)
    times = torch.arange(int(made.max()))[None] * (lengths / made)[:, None]
    times = times.minimum(lengths[:, None] - 1)
    at = torch.arange(bands)[None] * warp[:, None]
    shape = (clips, times.shape[1], bands)
    across = (2 * at / max(bands - 1, 1) - 1)[:, None].expand(shape)
    along = (2 * times / max(frames - 1, 1) - 1)[:, :, None].expand(shape)
    grid = torch.stack((across, along), dim=-1)
    options = {"mode": "bilinear", "padding_mode": "border", "align_corners": True}
    return torch.nn.functional.grid_sample(features[:, None], grid, **options)[:, 0], made  # type: ignore[arg-type]


def _in_rooms(
    features: torch.Tensor, lengths: torch.Tensor, draw: _Draw, chance: float, frame_seconds: float
) -> torch.Tensor:
    """Put some clips into rooms whose echoes decay exponentially (Polack 1988)."""
    import torch

    chosen = draw.chosen(chance)
    seconds, softer = draw.evenly(*_REVERBERATION), draw.evenly(*_FIRST_ECHO)
    if not chosen.any():
        return features
    picked, bands = features[chosen], features.shape[2]
    inside = torch.arange(features.shape[1])[None] < lengths[chosen][:, None]
    energies = picked.exp() * inside[..., None]
    # By 60 dB over the reverberation time.
    decay = torch.exp(-6 * math.log(10) * torch.arange(_ECHOES) * frame_seconds / seconds[chosen][:, None])
    shares = 10 ** (-softer[chosen] / 10)
    echoes = decay / decay[:, 1:].sum(dim=1, keepdim=True).clamp(min=1e-6) * shares[:, None]
    echoes[:, 0] = 1.0
    padded = torch.nn.functional.pad(energies.transpose(1, 2), (_ECHOES - 1, 0)).transpose(0, 1)
    heard = torch.nn.functional.conv1d(
        padded.reshape(bands, len(picked), -1), echoes.flip(1)[:, None], groups=len(picked)
    )
    found = features.clone()
    found[chosen] = heard.permute(1, 2, 0).clamp(min=1e-10).log()
    return found


def _noisy(features: torch.Tensor, lengths: torch.Tensor, draw: _Draw, settings: SpectralAugment) -> torch.Tensor:
    """Add steady noise to some clips."""
    import torch

    chosen = draw.chosen(settings.noise)
    ratios, colours = draw.evenly(*settings.snr), draw.curves("noise")
    flicker = draw.normal(*features.shape) * _FLICKER
    if not chosen.any():
        return features
    inside = torch.arange(features.shape[1])[None] < lengths[:, None]
    energies = (features.exp() * inside[..., None]).sum(dim=(1, 2)) / lengths
    level = energies.clamp(min=1e-10).log() - ratios / _DECIBELS
    colours = colours - torch.logsumexp(colours, dim=2, keepdim=True)
    noise = colours + level[:, None, None] + flicker
    return torch.where(chosen[:, None, None], torch.logaddexp(features, noise), features)


def _band_limited(features: torch.Tensor, draw: _Draw, chance: float) -> torch.Tensor:
    """Take the lowest and highest bands off some clips."""
    import torch

    bands = features.shape[2]
    chosen = draw.chosen(chance)
    low = draw.evenly(0.0, bands / 6).floor()
    high = bands - draw.evenly(0.0, bands / 3).floor()
    at = torch.arange(bands)[None]
    outside = ((at < low[:, None]) | (at >= high[:, None])) & chosen[:, None]
    return torch.where(outside[:, None], features - _OUTSIDE / _DECIBELS, features)
