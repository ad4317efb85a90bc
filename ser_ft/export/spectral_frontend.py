"""The features of `SpectralFeatureExtractor` for clips of one length, as a module that can be exported.

There is no padding, so that nothing depends on lengths. Windows are cut by copying whole hops, and the Fourier
transform is a matrix product: both are simple and fast in any runtime.
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
    """Power spectra of windows, from a window function of shape (length,) and an even length of the transform.

    Cosines are even and sines are odd about the middle of the transform. The samples of both halves are therefore
    added, or subtracted, before the matrix products, which halves their size.
    """

    window: torch.Tensor
    cosines: torch.Tensor
    sines: torch.Tensor

    def __init__(self, window: np.ndarray, n_fft: int) -> None:
        super().__init__()
        self.middle, self.missing = n_fft // 2, n_fft - len(window)
        angles = np.pi / self.middle * np.outer(np.arange(self.middle + 1), np.arange(self.middle + 1))
        for name, table in (("window", window), ("cosines", np.cos(angles)), ("sines", np.sin(angles)[1:-1])):
            self.register_buffer(name, torch.from_numpy(table).float())

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Return the power, shape (clips, windows, n_fft // 2 + 1), of windows of shape (clips, windows, length)."""
        shaped = nn.functional.pad(windows * self.window, (0, self.missing)) if self.missing else windows * self.window
        first, second = shaped[..., 1 : self.middle], shaped[..., self.middle + 1 :].flip(-1)
        ends = shaped[..., :1], shaped[..., self.middle : self.middle + 1]
        even = torch.cat([ends[0], first + second, ends[1]], dim=-1)
        return (even @ self.cosines).square() + ((first - second) @ self.sines).square()


def split_frames(waveforms: torch.Tensor, lead: int, count: int, length: int, hop: int) -> torch.Tensor:
    """Cut waveforms into overlapping windows: (clips, samples) -> (clips, count, length), zero beyond the waveform.

    `lead` samples of the first window lie before the waveform.
    """
    per_window = -(-length // hop)
    total = count + per_window - 1
    trail = total * hop - lead - waveforms.shape[1]
    hops = nn.functional.pad(waveforms, (lead, trail)).reshape(waveforms.shape[0], total, hop)
    windows = torch.cat([hops.narrow(1, first, count) for first in range(per_window)], dim=2)
    return windows if length == per_window * hop else windows[..., :length]


class SpectralFrontend(nn.Module):
    """Waveforms of one length in, normalized and cropped frames of descriptors out, for each clip separately.

    If the extractor normalizes by "speaker", a clip is normalized by itself, as the extractor does with a single clip.
    If it normalizes by "training" and was not fitted, ValueError is raised.
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
        self.computed = frozenset("mfcc" if name in DELTA_ORDERS else name for name in self.names)
        tables = make_tables(self.frontend, self.computed, torch.device("cpu"))
        self.summed, self.widths = tables.summed, tables.widths
        for name in ("sums", "mel_bank", "cosines", "offsets"):
            self.register_buffer(name, getattr(tables, name))
        self.power_spectrum = PowerSpectrum(tables.hann.numpy(), self.frontend.n_fft)
        edges = np.arange(1, ENTROPY_PARTS) * self.frontend.win_length // ENTROPY_PARTS
        parts = np.searchsorted(edges, np.arange(self.frontend.win_length), "right")
        self.register_buffer("parts", torch.from_numpy(np.eye(ENTROPY_PARTS, dtype=np.float32)[parts]))
        if self.normalize == "training":
            if extractor.mean is None or extractor.scale is None:
                raise ValueError('normalize="training" needs mean and scale: fit them on the training speakers first')
            self.register_buffer("mean", torch.tensor(extractor.mean))
            self.register_buffer("scale", torch.tensor(extractor.scale))

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        """Return the features, shape (clips, frames, feature_size), of waveforms of shape (clips, samples)."""
        descriptors = self._describe(waveforms)
        for name in DELTA_ORDERS.keys() & set(self.names):
            descriptors[name] = _deltas(descriptors["mfcc"], DELTA_ORDERS[name])
        features = torch.cat([descriptors[name] for name in self.names], dim=2)
        if self.normalize in ("clip", "clip-mean"):
            features = _normalize(features, self.normalize == "clip")
        features = self._crop(features)
        if self.normalize == "speaker":
            return _normalize(features, True)
        return (features - self.mean) / self.scale if self.normalize == "training" else features

    def _describe(self, waveforms: torch.Tensor) -> dict[str, torch.Tensor]:
        win_length, hop, n_fft = self.frontend.win_length, self.frontend.hop_length, self.frontend.n_fft
        count = 1 + waveforms.shape[1] // hop
        descriptors: dict[str, torch.Tensor] = {}
        if "zcr" in self.computed:
            descriptors["zcr"] = self._zero_crossing_rate(waveforms, count)
        windows = split_frames(waveforms, n_fft // 2, count, n_fft, hop)
        if self.computed & ENERGY_DESCRIPTORS:
            center = windows if win_length == n_fft else windows.narrow(2, (n_fft - win_length) // 2, win_length)
            energies = center.square() @ self.parts
            energy = energies.sum(dim=-1, keepdim=True) / win_length
            descriptors |= {"energy": energy, "rms": energy.sqrt(), "energy-entropy": entropy(energies)}
        if self.computed - ENERGY_DESCRIPTORS - {"zcr"}:
            sums, cosines = (self.sums, self.summed, self.widths), (self.cosines, self.offsets)
            tables = Tables(self.power_spectrum.window, *sums, self.mel_bank, *cosines)
            descriptors |= spectral_descriptors(self.power_spectrum(windows), 0, self.computed, self.frontend, tables)
        return descriptors

    def _zero_crossing_rate(self, waveforms: torch.Tensor, count: int) -> torch.Tensor:
        win_length, n_fft = self.frontend.win_length, self.frontend.n_fft
        negative = waveforms < -LOG_FLOOR
        # Neither end of the clip counts as a crossing.
        crossings = (negative[:, 1:] != negative[:, :-1]).to(waveforms.dtype)
        lead = n_fft // 2 - (n_fft - win_length) // 2
        windows = split_frames(crossings, lead, count, win_length - 1, self.frontend.hop_length)
        return windows.sum(dim=-1, keepdim=True) / win_length

    def _crop(self, features: torch.Tensor) -> torch.Tensor:
        if self.max_frames is None:
            return features
        first = (torch.as_tensor(features.shape[1]) - self.max_frames).clamp(min=0) // 2
        return features[:, first : first + self.max_frames]


def _deltas(features: torch.Tensor, order: int) -> torch.Tensor:
    """Return slope (order 1) or curvature (order 2) over at least nine windows, as `models.descriptors.deltas` does."""
    weights = torch.tensor(derivative_weights(DELTA_WIDTH, order), dtype=features.dtype)
    inner = nn.functional.conv2d(features[:, None], weights[None, None, :, None])[:, 0]
    ends = [inner[:, place].expand(-1, DELTA_WIDTH // 2, -1) for place in (slice(0, 1), slice(-1, None))]
    return torch.cat([ends[0], inner, ends[1]], dim=1)


def _normalize(features: torch.Tensor, scale: bool) -> torch.Tensor:
    """Subtract each clip's mean, and divide by its standard deviation if `scale`."""
    mean = features.mean(dim=1, keepdim=True)
    centered = features - mean
    return centered / safe_scale(mean, centered.square().mean(dim=1, keepdim=True).sqrt()) if scale else centered
