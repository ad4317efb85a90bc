"""The feature extractor of our own networks: waveforms in, padded frames of descriptors out, with their mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from transformers import BatchFeature, SequenceFeatureExtractor

from .descriptors import DELTA_ORDERS, DESCRIPTORS, MEL_SCALES, PITCH_CLASSES, Frontend, compute_descriptors

NORMALIZATIONS = ("none", "clip-mean", "clip", "training", "speaker")
# Of float32, in sums over frames.
_ROUNDING = 1e-5
_Count = TypeVar("_Count", int, torch.Tensor)


class SpectralFeatureExtractor(SequenceFeatureExtractor):
    """Short-term descriptors of speech, of one or several kinds, side by side.

    A clip's frames are the same alone and in a batch: the sound is padded with zeros at both ends, as
    `librosa.feature` pads it, and a frame is real when its centre lies in the clip.

    Args:
        descriptors: names of `DESCRIPTORS`; their numbers stand side by side in this order (`columns` names each).
        n_mfcc: of "mfcc" and its changes.
        n_mels: mel bands of "mel", "log-mel" and "mfcc". f_min, f_max: their edges, in Hz.
        mel_scale: "slaney" (triangles over Hz, of area 1, as librosa's default) or "htk" (triangles over mel, of
            height 1, as in HTK and VGGish).
        power: exponent of the magnitudes that the mel bands sum up.
        log_offset: added before the logarithm is taken; with 0, what is below 1e-10 is raised to it.
        win_length: of the Hann window, in samples.
        hop_length: samples from frame to frame.
        n_fft: of the Fourier transform, in samples, even; by default that of the window.
        normalize: each number "none"; "clip-mean" takes off its mean over the clip, "clip" also divides by its
            standard deviation there; "training" uses `mean` and `scale`, fitted on the training speakers; "speaker"
            uses mean and deviation over all frames of a call, whose clips are taken to be one known speaker's: it
            needs several unlabelled clips of that speaker with emotions mixed, or it takes the emotion off with the
            voice. A single clip is then standardised by itself.
        mean, scale: a number per column, for "training".
        max_frames: of a longer clip, its middle so many frames are kept.
        sampling_rate: in Hz. padding_value: saved for transformers; frames beyond a clip's end are 0.

    Raises:
        ValueError: a setting is out of its range, or two do not go together.
    """

    model_input_names = ["input_features", "attention_mask"]  # noqa: RUF012  (as transformers declares it)

    def __init__(
        self,
        descriptors: Sequence[str] = ("mfcc",),
        n_mfcc: int = 20,
        n_mels: int = 40,
        f_min: float = 20.0,
        f_max: float = 8000.0,
        mel_scale: str = "slaney",
        power: float = 2.0,
        log_offset: float = 0.0,
        win_length: int = 512,
        hop_length: int = 128,
        n_fft: int | None = None,
        normalize: str = "none",
        mean: Sequence[float] | None = None,
        scale: Sequence[float] | None = None,
        max_frames: int | None = None,
        sampling_rate: int = 16_000,
        padding_value: float = 0.0,
        **kwargs: Any,
    ) -> None:
        self.descriptors = [descriptors] if isinstance(descriptors, str) else list(descriptors)
        self.n_mfcc = n_mfcc
        self.n_mels = n_mels
        self.f_min = f_min
        self.f_max = f_max
        self.mel_scale = mel_scale
        self.power = power
        self.log_offset = log_offset
        self.win_length = win_length
        self.hop_length = hop_length
        self.n_fft = n_fft
        self.normalize = normalize
        self.mean = None if mean is None else [float(value) for value in mean]
        self.scale = None if scale is None else [float(value) for value in scale]
        self.max_frames = max_frames
        self.sampling_rate = sampling_rate
        self._check()
        # What was saved says how many numbers there are; it follows from the descriptors.
        kwargs["feature_size"] = len(self.columns)
        super().__init__(sampling_rate=sampling_rate, padding_value=padding_value, **kwargs)
        self.return_attention_mask = True

    def _check(self) -> None:
        unknown = [name for name in self.descriptors if name not in DESCRIPTORS]
        if unknown or not self.descriptors:
            raise ValueError(
                f"descriptors must be some of {', '.join(DESCRIPTORS)}, not {', '.join(unknown) or 'none'}"
            )
        if len(set(self.descriptors)) < len(self.descriptors):
            raise ValueError(f"descriptors must differ; {', '.join(self.descriptors)} names one twice")
        for name, value, choices in (
            ("normalize", self.normalize, NORMALIZATIONS),
            ("mel_scale", self.mel_scale, MEL_SCALES),
        ):
            if value not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
        counts = ("n_mfcc", "n_mels", "win_length", "hop_length", "max_frames")
        for name in counts:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be 1 or more, not {value}")
        if self._cepstral and self.n_mfcc > self.n_mels:
            raise ValueError(f"n_mfcc must be at most n_mels: {self.n_mfcc} of {self.n_mels} mel bands")
        fft = self.frontend.n_fft
        if fft % 2 or fft < self.win_length:
            rule = f"n_fft must be even and at least win_length ({self.win_length}), which it is by default"
            raise ValueError(f"{rule}: not {fft}")
        if not 0 <= self.f_min < self.f_max <= self.sampling_rate / 2:
            rule = f"0 <= f_min < f_max <= {self.sampling_rate / 2:g} Hz must hold"
            raise ValueError(f"{rule}; f_min is {self.f_min:g}, f_max {self.f_max:g}")
        if self.power <= 0 or self.log_offset < 0:
            raise ValueError(f"power must be above 0 and log_offset not below, not {self.power:g}, {self.log_offset:g}")
        if (self.mean is None) != (self.scale is None):
            raise ValueError("mean and scale must be given together")
        if self.mean is not None and self.scale is not None:
            if not len(self.mean) == len(self.scale) == len(self.columns):
                raise ValueError(f"mean and scale must be {len(self.columns)} numbers each, one per column")
            if min(self.scale) <= 0:
                raise ValueError("scale must be above 0 throughout")

    @property
    def frontend(self) -> Frontend:
        """The settings that windows depend on."""
        return Frontend(
            self.win_length,
            self.hop_length,
            self.win_length if self.n_fft is None else self.n_fft,
            self.sampling_rate,
            self.n_mels,
            self.f_min,
            self.f_max,
            self.mel_scale,
            self.power,
            self.log_offset,
            self.n_mfcc,
        )

    @property
    def _cepstral(self) -> bool:
        return any(name.startswith("mfcc") for name in self.descriptors)

    @property
    def columns(self) -> list[str]:
        """The name of each number of a frame, such as mfcc_1, zcr, chroma_C."""
        names = []
        for name in self.descriptors:
            width = self.frontend.width(name)
            ends = PITCH_CLASSES if name == "chroma" else range(1, width + 1)
            single = name not in ("mfcc", *DELTA_ORDERS, "chroma", "mel", "log-mel")
            names += [name] if single else [f"{name}_{end}" for end in ends]
        return names

    def num_frames(self, samples: _Count) -> _Count:
        """Return how many frames are made of a clip of so many samples."""
        found = 1 + samples // self.hop_length
        if self.max_frames is None:
            return found
        if isinstance(found, torch.Tensor):
            return found.clamp(max=self.max_frames)
        return min(found, self.max_frames)

    def __call__(
        self,
        raw_speech: np.ndarray | torch.Tensor | Sequence[np.ndarray] | Sequence[torch.Tensor] | Sequence[float],
        sampling_rate: int | None = None,
        padding: bool | str = "longest",
        max_length: int | None = None,
        return_tensors: str | None = None,
        **kwargs: Any,  # noqa: ARG002
    ) -> BatchFeature:
        """Turn clips into padded frames.

        Args:
            raw_speech: a clip, shape (samples,), or a list of clips, float with full scale at 1.0.
            sampling_rate: theirs, in Hz; checked against the extractor's.
            padding: "longest" (or True): to the longest clip; "max_length": to `max_length` frames.
            max_length: in frames; by default `max_frames`.
            return_tensors: "pt" for torch's; otherwise numpy's.
            **kwargs: accepted for the pipelines of transformers, and not used.

        Returns:
            `input_features`, shape (clips, frames, feature_size), and `attention_mask`, shape (clips, frames),
            1 where the frame is real.

        Raises:
            ValueError: the sampling rate is another one, or a clip is empty, not one-dimensional, or of integers;
                or a clip has more frames than it shall be padded to.
        """
        if sampling_rate is not None and sampling_rate != self.sampling_rate:
            raise ValueError(
                f"the sound is at {sampling_rate} Hz; this model hears {self.sampling_rate} Hz: resample it first"
            )
        single = isinstance(raw_speech, np.ndarray | torch.Tensor) or (len(raw_speech) and np.ndim(raw_speech[0]) == 0)
        clips = [_samples(clip) for clip in ([raw_speech] if single else raw_speech)]
        if not clips:
            raise ValueError("there is no clip in the list")
        features, mask = self._framed(clips)
        missing = self._missing(features.shape[1], padding, max_length)
        features = self.standardize(features, mask)
        if missing:
            features = torch.nn.functional.pad(features, (0, 0, 0, missing))
            mask = torch.nn.functional.pad(mask, (0, missing))
        found = {"input_features": features.numpy(), "attention_mask": mask.numpy()}
        return BatchFeature(found, tensor_type=return_tensors)

    def _missing(self, frames: int, padding: bool | str, max_length: int | None) -> int:
        """Return how many frames of padding are to be added."""
        if padding in ("longest", True):
            return 0
        if padding != "max_length":
            raise ValueError(f"padding must be longest or max_length, not {padding!r}")
        wanted = self.max_frames if max_length is None else max_length
        if wanted is None:
            raise ValueError('padding="max_length" needs max_length, or an extractor with max_frames')
        if wanted < frames:
            raise ValueError(f"a clip has {frames} frames, more than max_length={wanted}: crop it through max_frames")
        return wanted - frames

    def extract(self, waveforms: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute descriptors, standardised within each clip where that is asked for, and cropped.

        Args:
            waveforms: shape (clips, samples), on any device. lengths: of each clip, in samples, shape (clips,).

        Returns:
            Frames, shape (clips, frames, feature_size), zero where they are not real, and the mask, int64.
        """
        clips = [row[:length].float() for row, length in zip(waveforms, lengths.tolist(), strict=True)]
        return self._framed(clips)

    def _framed(self, clips: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Do what `extract` does with clips, each of shape (samples,)."""
        # Half precision would do for a network, but not here.
        with torch.no_grad(), torch.autocast(clips[0].device.type, enabled=False):
            features, windows = compute_descriptors(clips, self.descriptors, self.frontend)
        counts = torch.tensor(windows, device=features.device)
        if self.normalize in ("clip-mean", "clip"):
            features = self._within_clips(features, counts)
        return self._cropped(features, counts)

    def _within_clips(self, features: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        real = _real(features, counts)
        count = counts[:, None, None]
        mean = features.sum(dim=1, keepdim=True) / count
        features = (features - mean) * real
        if self.normalize == "clip":
            deviation = (features.square().sum(dim=1, keepdim=True) / count).sqrt()
            features = features / safe_scale(mean, deviation)
        return features

    def _cropped(self, features: torch.Tensor, counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.max_frames is not None and features.shape[1] > self.max_frames:
            first = ((counts - self.max_frames) // 2).clamp(min=0)
            places = first[:, None] + torch.arange(self.max_frames, device=features.device)
            features = features.gather(1, places[..., None].expand(-1, -1, features.shape[2]))
            counts = counts.clamp(max=self.max_frames)
        return features, _real(features, counts)[..., 0].long()

    def standardize(self, features: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Standardise what `extract` gave, for "training" and "speaker"; give it back as it is for the others.

        Args:
            features: shape (clips, frames, feature_size). mask: shape (clips, frames).

        Raises:
            ValueError: "training" without mean and scale.
        """
        if self.normalize not in ("training", "speaker"):
            return features
        real = mask[..., None].to(features.dtype)
        if self.normalize == "speaker":
            mean = (features * real).sum(dim=(0, 1)) / mask.sum()
            variance = ((features - mean).square() * real).sum(dim=(0, 1)) / mask.sum()
            scale = safe_scale(mean, variance.sqrt())
        elif self.mean is None or self.scale is None:
            raise ValueError('normalize="training" needs mean and scale: fit them on the training speakers first')
        else:
            mean, scale = (torch.tensor(values).to(features) for values in (self.mean, self.scale))
        return (features - mean) / scale * real


def safe_scale(mean: torch.Tensor, deviation: torch.Tensor) -> torch.Tensor:
    """Return what to divide by: the deviation, or 1 where a number varies by no more than its rounding."""
    return torch.where(deviation > _ROUNDING * mean.abs(), deviation, torch.ones_like(deviation))


def _real(features: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Return 1 where a frame is real, 0 where not, shape (clips, frames, 1)."""
    return (torch.arange(features.shape[1], device=features.device) < counts[:, None])[..., None].to(features.dtype)


def _samples(sound: Any) -> torch.Tensor:
    """Return a clip as float32, shape (samples,)."""
    given = sound.detach().cpu() if isinstance(sound, torch.Tensor) else np.require(sound, None, ["C", "W"])
    samples = torch.as_tensor(given)
    if samples.ndim != 1 or not len(samples):
        raise ValueError("a clip is a one-dimensional array of samples, at least one; several clips go in a list")
    if hasattr(sound, "dtype") and not samples.is_floating_point():
        raise ValueError(f"the samples are {sound.dtype}: floats with full scale at 1.0 are wanted")
    return samples.float()


SpectralFeatureExtractor.register_for_auto_class("AutoFeatureExtractor")
