"""Feature extractors: waveforms in, MFCC or log-mel frames out, batched, with masks for the real lengths."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torchaudio import functional
from transformers import BatchFeature, SequenceFeatureExtractor

KINDS = ("mfcc", "log-mel")
NORMALISATIONS = ("none", "mean", "mean-variance")
_FLOOR = 1e-10
_Count = TypeVar("_Count", int, torch.Tensor)


class SpectralFeatureExtractor(SequenceFeatureExtractor):
    """Mel-frequency cepstral coefficients, or log-mel energies, of 16 kHz speech.

    A clip's frames are the same alone and in a batch: the sound is padded with zeros at both ends, as
    `librosa.feature` pads it, and a frame is real when its centre lies in the clip.

    Args:
        kind: "mfcc" or "log-mel".
        feature_size: numbers per frame: cepstral coefficients, or mel bands for "log-mel" (then equal to `mels`).
        mels: mel bands (Slaney's scale and normalisation, as in librosa's default). low, high: their edges, in Hz.
        window_length: length of the Hann window, and of the Fourier transform, in samples.
        hop_length: samples from frame to frame.
        normalise: per clip and coefficient: "none", take off the "mean", or also divide by the standard deviation
            ("mean-variance").
        sampling_rate: in Hz.

    Raises:
        ValueError: a setting is out of its range, or two do not go together.
    """

    model_input_names = ["input_features", "attention_mask"]  # noqa: RUF012  (as transformers declares it)

    def __init__(
        self,
        kind: str = "mfcc",
        feature_size: int = 20,
        mels: int = 64,
        low: float = 20.0,
        high: float = 8000.0,
        window_length: int = 512,
        hop_length: int = 256,
        normalise: str = "none",
        sampling_rate: int = 16_000,
        padding_value: float = 0.0,
        **kwargs: Any,
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}")
        if normalise not in NORMALISATIONS:
            raise ValueError(f"normalise must be one of {', '.join(NORMALISATIONS)}, not {normalise!r}")
        if feature_size > mels or (kind == "log-mel" and feature_size != mels):
            rule = "as many for log-mel, at most as many for mfcc"
            raise ValueError(f"feature_size is {feature_size} with {mels} mel bands: {rule}")
        if min(feature_size, window_length, hop_length) < 1:
            raise ValueError("feature_size, window_length and hop_length must be 1 or more")
        if not 0 <= low < high <= sampling_rate / 2:
            raise ValueError(f"0 <= low < high <= {sampling_rate / 2:g} Hz must hold; low is {low:g}, high {high:g}")
        super().__init__(feature_size=feature_size, sampling_rate=sampling_rate, padding_value=padding_value, **kwargs)
        self.kind = kind
        self.mels = mels
        self.low = low
        self.high = high
        self.window_length = window_length
        self.hop_length = hop_length
        self.normalise = normalise
        self.return_attention_mask = True

    def frames(self, samples: _Count) -> _Count:
        """Return how many frames a clip of so many samples has."""
        return 1 + samples // self.hop_length

    def __call__(
        self,
        raw_speech: np.ndarray | torch.Tensor | Sequence[np.ndarray] | Sequence[torch.Tensor] | Sequence[float],
        sampling_rate: int | None = None,
        return_tensors: str | None = None,
        **kwargs: Any,  # noqa: ARG002
    ) -> BatchFeature:
        """Turn clips into padded frames.

        Args:
            raw_speech: a clip, shape (samples,), or a list of clips, float with full scale at 1.0.
            sampling_rate: theirs, in Hz; checked against the extractor's.
            return_tensors: "pt" for torch's; otherwise numpy's.
            **kwargs: accepted for the pipelines of transformers, and not used.

        Returns:
            `input_features`, shape (clips, frames, feature_size), and `attention_mask`, shape (clips, frames),
            1 where the frame is real.

        Raises:
            ValueError: the sampling rate is another one, or a clip is empty, not one-dimensional, or of integers.
        """
        if sampling_rate is not None and sampling_rate != self.sampling_rate:
            raise ValueError(
                f"the sound is at {sampling_rate} Hz; this model hears {self.sampling_rate} Hz: resample it first"
            )
        single = isinstance(raw_speech, np.ndarray | torch.Tensor) or (len(raw_speech) and np.ndim(raw_speech[0]) == 0)
        clips = [_samples(clip) for clip in ([raw_speech] if single else raw_speech)]
        if not clips:
            raise ValueError("there is no clip in the list")
        lengths = torch.tensor([len(clip) for clip in clips])
        features, mask = self.extract(torch.nn.utils.rnn.pad_sequence(clips, batch_first=True), lengths)
        found = {"input_features": features.numpy(), "attention_mask": mask.numpy()}
        return BatchFeature(found, tensor_type=return_tensors)

    def extract(self, waveforms: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Turn zero-padded waveforms, shape (clips, samples), of the given lengths into frames and their mask.

        Returns:
            Frames, shape (clips, frames, feature_size), zero where they are not real, and the mask, int64.
        """
        window = self.window_length
        bank, cosines, hann = _tables(window, self.mels, self.low, self.high, self.sampling_rate, self.feature_size)
        power = functional.spectrogram(
            waveforms, 0, hann, window, self.hop_length, window, power=2.0, normalized=False, pad_mode="constant"
        )
        features = (power.transpose(1, 2) @ bank).clamp(min=_FLOOR).log()
        if self.kind == "mfcc":
            features = features @ cosines
        mask = torch.arange(features.shape[1])[None] < self.frames(lengths)[:, None]
        return self._normalised(features, mask[..., None].to(features.dtype)), mask.long()

    def _normalised(self, features: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        if self.normalise != "none":
            count = real.sum(dim=1, keepdim=True)
            features = features - (features * real).sum(dim=1, keepdim=True) / count
            if self.normalise == "mean-variance":
                variance = (features.square() * real).sum(dim=1, keepdim=True) / count
                features = features / variance.sqrt().clamp(min=1e-3)
        return features * real


def _samples(sound: Any) -> torch.Tensor:
    """Return a clip as float32, shape (samples,)."""
    samples = sound.detach().cpu() if isinstance(sound, torch.Tensor) else torch.from_numpy(np.array(sound))
    if samples.ndim != 1 or not len(samples):
        raise ValueError("a clip is a one-dimensional array of samples, at least one; several clips go in a list")
    if hasattr(sound, "dtype") and not samples.is_floating_point():
        raise ValueError(f"the samples are {sound.dtype}: floats with full scale at 1.0 are wanted")
    return samples.float()


@functools.lru_cache(maxsize=8)
def _tables(window: int, mels: int, low: float, high: float, rate: int, size: int) -> tuple[torch.Tensor, ...]:
    """Return the mel filter bank (bins, mels), the orthonormal DCT-II (mels, size), and the Hann window."""
    bank = functional.melscale_fbanks(window // 2 + 1, low, high, mels, rate, norm="slaney", mel_scale="slaney")
    return bank, functional.create_dct(size, mels, norm="ortho"), torch.hann_window(window)


SpectralFeatureExtractor.register_for_auto_class("AutoFeatureExtractor")
