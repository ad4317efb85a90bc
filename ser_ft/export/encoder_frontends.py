"""The feature extractors of transformers for clips of one length, as modules that can be exported."""

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
from ..models.whisper import MAX_POSITIONS, num_positions
from ..utils.errors import InputError
from .spectral_frontend import PowerSpectrum, SpectralFrontend, split_frames

# Kaldi's filter banks (Povey et al. 2011), on which AST and wav2vec2-BERT were trained: windows of 25 ms every 10 ms at
# 16 kHz without their means and with pre-emphasis; and the lower limit of the energy before the logarithm.
_WINDOW, _HOP, _FFT = 400, 160, 512
_PREEMPHASIS = 0.97
_FLOOR = float(np.finfo(np.float32).eps)
_INT16 = 2**15


def make_frontend(extractor: SequenceFeatureExtractor, clip_length: bool = False) -> nn.Module:
    """Return a module that computes an extractor's features of float32 waveforms at 16 kHz, shape (clips, samples).

    `clip_length`: whether Whisper's spectrogram has the length of the clips.
    """
    if clip_length:
        return WhisperLogMel(extractor, clip_length)
    for kind, frontend in _FRONTENDS:
        if isinstance(extractor, kind):
            return frontend(extractor)
    supported = ", ".join(kind.__name__ for kind, _ in _FRONTENDS)
    raise InputError(f"a {type(extractor).__name__} cannot be exported: only {supported}")


class WaveformFrontend(nn.Module):
    """Samples, unchanged or normalized to mean 0 and variance 1 in each clip: wav2vec2 and other waveform encoders."""

    def __init__(self, extractor: Any) -> None:
        super().__init__()
        self.normalize = bool(extractor.do_normalize)

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        """Return features of shape (clips, samples)."""
        if not self.normalize:
            return waveforms
        centered = waveforms - waveforms.mean(dim=1, keepdim=True)
        return centered / (centered.square().mean(dim=1, keepdim=True) + 1e-7).sqrt()


class WhisperLogMel(nn.Module):
    """Whisper's log-mel spectrogram (Radford et al. 2022) of a fixed duration, or of the clips' own length."""

    mel_bank: torch.Tensor

    def __init__(self, extractor: Any, clip_length: bool = False) -> None:
        super().__init__()
        self.samples, self.hop, self.n_fft = extractor.n_samples, extractor.hop_length, extractor.n_fft
        self.clip_length = clip_length
        self.power_spectrum = PowerSpectrum(np.hanning(self.n_fft + 1)[:-1], self.n_fft)
        self.register_buffer("mel_bank", torch.from_numpy(extractor.mel_filters).float())

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        """Return features of shape (clips, mels, frames)."""
        if self.clip_length:
            clips = waveforms[:, : 2 * MAX_POSITIONS * self.hop]
            frames = 2 * num_positions((clips.shape[1] + self.hop - 1) // self.hop)
            clips = nn.functional.pad(clips, (0, 4 * self.hop))[:, : 2 * MAX_POSITIONS * self.hop]
        else:
            clips, frames = nn.functional.pad(waveforms, (0, self.samples))[:, : self.samples], self.samples // self.hop
        mirrored = nn.functional.pad(clips, (self.n_fft // 2, self.n_fft // 2), mode="reflect")
        windows = split_frames(mirrored, 0, frames, self.n_fft, self.hop)
        log: torch.Tensor = (self.power_spectrum(windows) @ self.mel_bank).clamp(min=1e-10).log10()
        peak = log.amax(dim=(1, 2), keepdim=True)
        return ((torch.maximum(log, peak - 8.0) + 4.0) / 4.0).transpose(1, 2)


class KaldiFbank(nn.Module):
    """Kaldi's log-mel filter banks; the window has shape (400,), and `scale` is the full scale of the samples."""

    mel_bank: torch.Tensor

    def __init__(self, window: np.ndarray, n_mels: int, scale: float) -> None:
        super().__init__()
        self.power_spectrum = PowerSpectrum(scale * window, _FFT)
        bank = mel_filter_bank(
            _FFT // 2 + 1, n_mels, 20, 8000, 16_000, mel_scale="kaldi", triangularize_in_mel_space=True
        )
        self.register_buffer("mel_bank", torch.from_numpy(bank).float())

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        """Return features of shape (clips, frames, mels)."""
        count = (waveforms.shape[1] - _WINDOW) // _HOP + 1
        windows = split_frames(waveforms, 0, count, _WINDOW, _HOP)
        windows = windows - windows.mean(dim=-1, keepdim=True)
        before = torch.cat([windows[..., :1], windows[..., :-1]], dim=-1)
        energies: torch.Tensor = self.power_spectrum(windows - _PREEMPHASIS * before) @ self.mel_bank
        return energies.clamp(min=_FLOOR).log()


class ASTFbank(nn.Module):
    """Filter banks of a fixed length, normalized by the mean and deviation of AudioSet (Gong et al. 2021)."""

    def __init__(self, extractor: Any) -> None:
        super().__init__()
        self.fbank = KaldiFbank(np.hanning(_WINDOW), extractor.num_mel_bins, 1.0)
        self.frames, self.normalize = int(extractor.max_length), bool(extractor.do_normalize)
        self.mean, self.scale = float(extractor.mean), 2 * float(extractor.std)

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        """Return features of shape (clips, frames, mels)."""
        features = nn.functional.pad(self.fbank(waveforms), (0, 0, 0, self.frames))[:, : self.frames]
        return (features - self.mean) / self.scale if self.normalize else features


class Wav2Vec2BertFbank(nn.Module):
    """Filter banks, normalized to mean 0 and variance 1 per band, with frames in pairs: wav2vec2-BERT.

    A last frame without a partner is dropped, as the extractor's mask drops it.
    """

    def __init__(self, extractor: Any) -> None:
        super().__init__()
        self.fbank = KaldiFbank(np.asarray(extractor.window), extractor.num_mel_bins, _INT16)
        self.stride, self.width = extractor.stride, extractor.num_mel_bins * extractor.stride

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        """Return features of shape (clips, frames, size)."""
        features: torch.Tensor = self.fbank(waveforms)
        count = features.shape[1]
        centered = features - features.mean(dim=1, keepdim=True)
        scaled: torch.Tensor = centered / (centered.square().sum(dim=1, keepdim=True) / (count - 1) + 1e-7).sqrt()
        pairs = count // self.stride
        return scaled[:, : pairs * self.stride].reshape(scaled.shape[0], pairs, self.width)


_FRONTENDS: tuple[tuple[type, type[nn.Module]], ...] = (
    (SpectralFeatureExtractor, SpectralFrontend),
    (Wav2Vec2FeatureExtractor, WaveformFrontend),
    (WhisperFeatureExtractor, WhisperLogMel),
    (ASTFeatureExtractor, ASTFbank),
    (SeamlessM4TFeatureExtractor, Wav2Vec2BertFbank),
)
