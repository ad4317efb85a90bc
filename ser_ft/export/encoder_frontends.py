"""What the feature extractors of transformers compute of clips of one length, as modules that can be exported."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import (
    ASTFeatureExtractor,
    SeamlessM4TFeatureExtractor,
    SequenceFeatureExtractor,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)
from transformers.audio_utils import mel_filter_bank

from ..models.features import SpectralFeatureExtractor
from ..utils.errors import InputError
from .spectral_frontend import PowerSpectrum, SpectralFrontend, split_frames

# Of Kaldi's filter banks (Povey et al. 2011), as AST and wav2vec2-BERT were trained on: windows of 25 ms every 10 ms at
# 16 kHz, each less its mean and with its high frequencies raised, and the least energy that a logarithm is taken of.
_WINDOW, _HOP, _FFT = 400, 160, 512
_PREEMPHASIS = 0.97
_FLOOR = float(np.finfo(np.float32).eps)
_INT16 = 2**15


def make_frontend(extractor: SequenceFeatureExtractor) -> nn.Module:
    """Return what computes an extractor's features of waveforms, float32 at 16 kHz, shape (clips, samples).

    Raises:
        InputError: the extractor is of a kind that cannot be exported.
    """
    for kind, make in _MAKERS:
        if isinstance(extractor, kind):
            made: nn.Module = make(extractor)
            return made
    known = ", ".join(kind.__name__ for kind, _ in _MAKERS)
    raise InputError(f"a {type(extractor).__name__} cannot be exported: only {known}")


class WaveformFrontend(nn.Module):
    """Samples as they are, or each clip with mean 0 and variance 1: wav2vec2 and all who hear samples."""

    def __init__(self, extractor: Any) -> None:
        super().__init__()
        self.normalised = bool(extractor.do_normalize)

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        """Return shape (clips, samples)."""
        if not self.normalised:
            return waveforms
        apart = waveforms - waveforms.mean(dim=1, keepdim=True)
        return apart / (apart.square().mean(dim=1, keepdim=True) + 1e-7).sqrt()


class WhisperLogMel(nn.Module):
    """Whisper's log-mel spectrogram of so many seconds (Radford et al. 2022), whatever the clip's length."""

    mels: torch.Tensor

    def __init__(self, extractor: Any) -> None:
        super().__init__()
        self.samples, self.hop, self.fft = extractor.n_samples, extractor.hop_length, extractor.n_fft
        self.spectra = PowerSpectrum(np.hanning(self.fft + 1)[:-1], self.fft)
        self.register_buffer("mels", torch.from_numpy(extractor.mel_filters).float())

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        """Return shape (clips, mels, frames)."""
        cut = nn.functional.pad(waveforms, (0, self.samples))[:, : self.samples]
        mirrored = nn.functional.pad(cut, (self.fft // 2, self.fft // 2), mode="reflect")
        windows = split_frames(mirrored, 0, self.samples // self.hop, self.fft, self.hop)
        log: torch.Tensor = (self.spectra(windows) @ self.mels).clamp(min=1e-10).log10()
        loudest = log.amax(dim=(1, 2), keepdim=True)
        return ((torch.maximum(log, loudest - 8.0) + 4.0) / 4.0).transpose(1, 2)


class KaldiFbank(nn.Module):
    """Logarithms of Kaldi's filter banks.

    Args:
        window: shape (400,). mels: how many. scale: full scale of the samples.
    """

    mels: torch.Tensor

    def __init__(self, window: np.ndarray, mels: int, scale: float) -> None:
        super().__init__()
        self.spectra = PowerSpectrum(scale * window, _FFT)
        bank = mel_filter_bank(
            _FFT // 2 + 1, mels, 20, 8000, 16_000, mel_scale="kaldi", triangularize_in_mel_space=True
        )
        self.register_buffer("mels", torch.from_numpy(bank).float())

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        """Return shape (clips, frames, mels)."""
        count = (waveforms.shape[1] - _WINDOW) // _HOP + 1
        windows = split_frames(waveforms, 0, count, _WINDOW, _HOP)
        windows = windows - windows.mean(dim=-1, keepdim=True)
        before = torch.cat([windows[..., :1], windows[..., :-1]], dim=-1)
        energies: torch.Tensor = self.spectra(windows - _PREEMPHASIS * before) @ self.mels
        return energies.clamp(min=_FLOOR).log()


class ASTFbank(nn.Module):
    """Filter banks of one length, standardised by AudioSet's mean and deviation (Gong et al. 2021)."""

    def __init__(self, extractor: Any) -> None:
        super().__init__()
        self.banks = KaldiFbank(np.hanning(_WINDOW), extractor.num_mel_bins, 1.0)
        self.frames, self.normalised = int(extractor.max_length), bool(extractor.do_normalize)
        self.mean, self.scale = float(extractor.mean), 2 * float(extractor.std)

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        """Return shape (clips, frames, mels)."""
        features = nn.functional.pad(self.banks(waveforms), (0, 0, 0, self.frames))[:, : self.frames]
        return (features - self.mean) / self.scale if self.normalised else features


class Wav2Vec2BertFbank(nn.Module):
    """Filter banks, each band of a clip with mean 0 and variance 1, frames in pairs: wav2vec2-BERT.

    A frame without a second one is left out, as the extractor's mask leaves it out.
    """

    def __init__(self, extractor: Any) -> None:
        super().__init__()
        self.banks = KaldiFbank(np.asarray(extractor.window), extractor.num_mel_bins, _INT16)
        self.stride, self.width = extractor.stride, extractor.num_mel_bins * extractor.stride

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        """Return shape (clips, frames, numbers)."""
        features: torch.Tensor = self.banks(waveforms)
        count = features.shape[1]
        apart = features - features.mean(dim=1, keepdim=True)
        scaled: torch.Tensor = apart / (apart.square().sum(dim=1, keepdim=True) / (count - 1) + 1e-7).sqrt()
        whole = count // self.stride
        return scaled[:, : whole * self.stride].reshape(scaled.shape[0], whole, self.width)


_MAKERS: tuple[tuple[type, type[nn.Module]], ...] = (
    (SpectralFeatureExtractor, SpectralFrontend),
    (Wav2Vec2FeatureExtractor, WaveformFrontend),
    (WhisperFeatureExtractor, WhisperLogMel),
    (ASTFeatureExtractor, ASTFbank),
    (SeamlessM4TFeatureExtractor, Wav2Vec2BertFbank),
)
