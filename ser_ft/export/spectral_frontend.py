"""What `SpectralFeatureExtractor` computes of clips of one length, as a module that can be exported.

Every window is real, so that nothing depends on lengths. Windows are cut by copying whole hops, and the Fourier
transform is a product with a matrix: both are plain, and quick, in any runtime.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from ..models.descriptors import (
    DELTA_ORDERS,
    DELTA_WIDTH,
    ENERGY_DESCRIPTORS,
    ENTROPY_PARTS,
    LOG_FLOOR,
    Tables,
    derivative_weights,
    entropy,
    make_tables,
    spectral_descriptors,
)
from ..models.features import SpectralFeatureExtractor, safe_scale


class PowerSpectrum(nn.Module):
    """Power spectra of windows.

    A cosine is the same from both ends of the transform, and a sine the opposite: the samples of both halves are added,
    and subtracted, before the products, which halves these.

    Args:
        window: that samples are multiplied with, shape (length,). fft: length of the transform, in samples, even.
    """

    window: torch.Tensor
    cosines: torch.Tensor
    sines: torch.Tensor

    def __init__(self, window: np.ndarray, fft: int) -> None:
        super().__init__()
        self.middle, self.missing = fft // 2, fft - len(window)
        angles = np.pi / self.middle * np.outer(np.arange(self.middle + 1), np.arange(self.middle + 1))
        for name, table in (("window", window), ("cosines", np.cos(angles)), ("sines", np.sin(angles)[1:-1])):
            self.register_buffer(name, torch.from_numpy(table).float())

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Transform windows of shape (clips, windows, length); return shape (clips, windows, fft // 2 + 1)."""
        shaped = nn.functional.pad(windows * self.window, (0, self.missing)) if self.missing else windows * self.window
        first, second = shaped[..., 1 : self.middle], shaped[..., self.middle + 1 :].flip(-1)
        ends = shaped[..., :1], shaped[..., self.middle : self.middle + 1]
        even = torch.cat([ends[0], first + second, ends[1]], dim=-1)
        return (even @ self.cosines).square() + ((first - second) @ self.sines).square()


def split_hops(sound: torch.Tensor, lead: int, count: int, hop: int) -> torch.Tensor:
    """Put `lead` zeros before sound of shape (clips, samples), zeros after it, and cut it: (clips, count, hop)."""
    behind = count * hop - lead - sound.shape[1]
    return nn.functional.pad(sound, (lead, behind)).reshape(sound.shape[0], count, hop)


def split_frames(sound: torch.Tensor, lead: int, count: int, length: int, hop: int) -> torch.Tensor:
    """Cut sound into windows, of which each begins a hop after the one before.

    Args:
        sound: shape (clips, samples). lead: samples of the first window that lie before the sound.
        count: windows. length: of a window. hop: both in samples.

    Returns:
        Shape (clips, count, length), zero beyond the sound.
    """
    over = -(-length // hop)
    hops = split_hops(sound, lead, count + over - 1, hop)
    windows = torch.cat([hops.narrow(1, place, count) for place in range(over)], dim=2)
    return windows if length == over * hop else windows[..., :length]


class SpectralFrontend(nn.Module):
    """Waveforms of one length in, standardised and cropped frames of descriptors out; each clip as if it were alone.

    Args:
        extractor: what computes the same of clips of any lengths. Where it standardises by "speaker", a clip is
            standardised by itself, as the extractor does with a single one.

    Raises:
        ValueError: it standardises by "training", and was not fitted.
    """

    sums: torch.Tensor
    mel_bank: torch.Tensor
    cosines: torch.Tensor
    offsets: torch.Tensor
    parts: torch.Tensor
    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, extractor: SpectralFeatureExtractor) -> None:
        super().__init__()
        self.names, self.frontend = tuple(extractor.descriptors), extractor.frontend
        self.normalize, self.max_frames = extractor.normalize, extractor.max_frames
        self.wanted = frozenset("mfcc" if name in DELTA_ORDERS else name for name in self.names)
        tables = make_tables(self.frontend, self.wanted, torch.device("cpu"))
        self.summed, self.widths = tables.summed, tables.widths
        for name in ("sums", "mel_bank", "cosines", "offsets"):
            self.register_buffer(name, getattr(tables, name))
        self.spectra = PowerSpectrum(tables.hann.numpy(), self.frontend.n_fft)
        edges = np.arange(1, ENTROPY_PARTS) * self.frontend.win_length // ENTROPY_PARTS
        parts = np.searchsorted(edges, np.arange(self.frontend.win_length), "right")
        self.register_buffer("parts", torch.from_numpy(np.eye(ENTROPY_PARTS, dtype=np.float32)[parts]))
        if self.normalize == "training":
            if extractor.mean is None or extractor.scale is None:
                raise ValueError('normalize="training" needs mean and scale: fit them on the training speakers first')
            self.register_buffer("mean", torch.tensor(extractor.mean))
            self.register_buffer("scale", torch.tensor(extractor.scale))

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        """Describe waveforms of shape (clips, samples): return shape (clips, frames, feature_size)."""
        found = self._described(waveforms)
        for name in DELTA_ORDERS.keys() & set(self.names):
            found[name] = _changes(found["mfcc"], DELTA_ORDERS[name])
        features = torch.cat([found[name] for name in self.names], dim=2)
        if self.normalize in ("clip", "clip-mean"):
            features = _within(features, self.normalize == "clip")
        features = self._cropped(features)
        if self.normalize == "speaker":
            return _within(features, True)
        return (features - self.mean) / self.scale if self.normalize == "training" else features

    def _described(self, waveforms: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute all descriptors but changes, each of shape (clips, frames, width)."""
        window, hop, fft = self.frontend.win_length, self.frontend.hop_length, self.frontend.n_fft
        count = 1 + waveforms.shape[1] // hop
        found: dict[str, torch.Tensor] = {}
        if "zcr" in self.wanted:
            found["zcr"] = self._crossings(waveforms, count)
        windows = split_frames(waveforms, fft // 2, count, fft, hop)
        if self.wanted & ENERGY_DESCRIPTORS:
            heard = windows if window == fft else windows.narrow(2, (fft - window) // 2, window)
            energies = heard.square() @ self.parts
            energy = energies.sum(dim=-1, keepdim=True) / window
            found |= {"energy": energy, "rms": energy.sqrt(), "energy-entropy": entropy(energies)}
        if self.wanted - ENERGY_DESCRIPTORS - {"zcr"}:
            tables = Tables(
                self.spectra.window, self.sums, self.summed, self.widths, self.mel_bank, self.cosines, self.offsets
            )
            found |= spectral_descriptors(self.spectra(windows), 0, self.wanted, self.frontend, tables)
        return found

    def _crossings(self, waveforms: torch.Tensor, count: int) -> torch.Tensor:
        """Return the zero-crossing rate; neither end of the clip counts as a crossing."""
        window, fft = self.frontend.win_length, self.frontend.n_fft
        negative = waveforms < -LOG_FLOOR
        crossings = (negative[:, 1:] != negative[:, :-1]).to(waveforms.dtype)
        lead = fft // 2 - (fft - window) // 2
        return (
            split_frames(crossings, lead, count, window - 1, self.frontend.hop_length).sum(dim=-1, keepdim=True)
            / window
        )

    def _cropped(self, features: torch.Tensor) -> torch.Tensor:
        if self.max_frames is None:
            return features
        first = (torch.as_tensor(features.shape[1]) - self.max_frames).clamp(min=0) // 2
        return features[:, first : first + self.max_frames]


def _changes(numbers: torch.Tensor, order: int) -> torch.Tensor:
    """Return slope (order 1) or curvature (order 2) over time: see `ser_ft.models.descriptors.deltas`.

    Args:
        numbers: shape (clips, windows, size), of nine windows at least.
    """
    weights = torch.tensor(derivative_weights(DELTA_WIDTH, order), dtype=numbers.dtype)
    inner = nn.functional.conv2d(numbers[:, None], weights[None, None, :, None])[:, 0]
    ends = [inner[:, place].expand(-1, DELTA_WIDTH // 2, -1) for place in (slice(0, 1), slice(-1, None))]
    return torch.cat([ends[0], inner, ends[1]], dim=1)


def _within(features: torch.Tensor, divided: bool) -> torch.Tensor:
    """Take each clip's mean off, and divide by its standard deviation if `divided`."""
    mean = features.mean(dim=1, keepdim=True)
    apart = features - mean
    return apart / safe_scale(mean, apart.square().mean(dim=1, keepdim=True).sqrt()) if divided else apart
