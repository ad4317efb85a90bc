"""The feature extractor of our own networks: waveforms in, padded frames of descriptors and their mask out."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from transformers import BatchFeature, SequenceFeatureExtractor

from .descriptors import DELTA_ORDERS, DESCRIPTORS, MEL_SCALES, PITCH_CLASSES, Frontend, compute_descriptors

NORMALIZATIONS = ("none", "clip-mean", "clip", "training", "speaker")
# Relative rounding error of float32 sums over frames.
_ROUNDING = 1e-5
# Largest settings: more would take gigabytes for a clip. _MAX_OVERLAP is n_fft / hop_length.
_MAX_BANDS, _MAX_LENGTH, _MAX_FRAMES, _MAX_OVERLAP = 2048, 2**15, 10**7, 256
_Count = TypeVar("_Count", int, torch.Tensor)


class SpectralFeatureExtractor(SequenceFeatureExtractor):
    """Short-term descriptors of speech.

    The frames of a clip are the same alone and in a batch: clips are padded with zeros at both ends, as in
    `librosa.feature`, and a clip has all frames whose center lies in it.

    Args:
        descriptors: names from `DESCRIPTORS`; their values are concatenated in this order (see `columns`).
        n_mfcc: number of coefficients of "mfcc" and its deltas.
        n_mels: number of mel bands of "mel", "log-mel" and "mfcc".
        f_min: lowest frequency of the mel bands in Hz.
        f_max: highest frequency of the mel bands in Hz.
        mel_scale: "slaney" (triangles of area 1 over Hz, librosa's default) or "htk" (triangles of height 1 over mel,
            as in HTK and VGGish).
        power: exponent of the magnitudes that the mel bands sum up.
        log_offset: offset that is added before taking the logarithm; with 0, values below 1e-10 are raised to 1e-10.
        win_length: length of the Hann window in samples.
        hop_length: samples between frames.
        n_fft: length of the Fourier transform in samples, even; None: `win_length`.
        normalize: normalization of each value. "none": no normalization. "clip-mean": subtract the mean over the clip.
            "clip": also divide by the standard deviation over the clip. "training": use `mean` and `scale`, which are
            fitted on the training speakers. "speaker": use the mean and standard deviation over all clips of a call,
            which are taken for one speaker's; several unlabeled clips with different emotions are needed, because a
            single clip is normalized by itself and loses part of its emotion.
        mean: mean of each column, for "training".
        scale: divisor of each column, for "training".
        max_frames: longer clips are cropped to this many frames in their middle; None: no limit.
        sampling_rate: sampling rate in Hz.
        padding_value: saved for transformers; padding frames are 0.

    Raises:
        ValueError: a setting is out of range, or two settings do not fit together.
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
        # A saved value is ignored: it follows from the descriptors.
        kwargs["feature_size"] = len(self.columns)
        super().__init__(sampling_rate=sampling_rate, padding_value=padding_value, **kwargs)
        self.return_attention_mask = True

    @classmethod
    def from_dict(cls, feature_extractor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Create an extractor from saved settings; a missing one raises ValueError, since its default might not fit."""
        settings = inspect.signature(cls).parameters.values()
        names = {setting.name for setting in settings if setting.kind is not setting.VAR_KEYWORD}
        if missing := sorted(names - feature_extractor_dict.keys()):
            raise ValueError(
                f"{', '.join(missing)} missing in preprocessor_config.json: another version of ser_ft saved it, "
                "train the model again"
            )
        return super().from_dict(feature_extractor_dict, **kwargs)

    def _check(self) -> None:
        unknown = [name for name in self.descriptors if name not in DESCRIPTORS]
        if unknown or not self.descriptors:
            names = ", ".join(unknown) or "none"
            raise ValueError(f"descriptors must be some of {', '.join(DESCRIPTORS)}, not {names}")
        if len(set(self.descriptors)) < len(self.descriptors):
            raise ValueError(f"descriptors must differ, but {', '.join(self.descriptors)} contains one twice")
        for name, choices in (("normalize", NORMALIZATIONS), ("mel_scale", MEL_SCALES)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, not {getattr(self, name)!r}")
        for name in ("n_mfcc", "n_mels", "win_length", "hop_length", "max_frames"):
            value = getattr(self, name)
            largest = _MAX_FRAMES if name == "max_frames" else _MAX_LENGTH if "length" in name else _MAX_BANDS
            if value is not None and value < 1:
                raise ValueError(f"{name} must be 1 or more, not {value}")
            if value is not None and not (isinstance(value, int) and value <= largest):
                raise ValueError(f"{name} must be a whole number of at most {largest}, not {value}")
        if self._cepstral and self.n_mfcc > self.n_mels:
            raise ValueError(f"n_mfcc must be at most n_mels, not {self.n_mfcc} of {self.n_mels} mel bands")
        fft = self.frontend.n_fft
        if fft > _MAX_LENGTH or fft > _MAX_OVERLAP * self.hop_length:
            raise ValueError(
                f"n_fft must be at most {_MAX_LENGTH}, and {_MAX_OVERLAP} times hop_length ({self.hop_length}), but is "
                f"{fft}"
            )
        if fft % 2 or fft < self.win_length:
            raise ValueError(f"n_fft must be even and at least win_length ({self.win_length}), its default, not {fft}")
        if not 0 <= self.f_min < self.f_max <= self.sampling_rate / 2:
            nyquist = self.sampling_rate / 2
            raise ValueError(f"0 <= f_min < f_max <= {nyquist:g} Hz must hold, not {self.f_min:g} and {self.f_max:g}")
        if self.power <= 0 or self.log_offset < 0:
            values = f"{self.power:g} and {self.log_offset:g}"
            raise ValueError(f"power must be above 0 and log_offset at least 0, not {values}")
        if (self.mean is None) != (self.scale is None):
            raise ValueError("mean and scale must be set together")
        if self.mean is not None and self.scale is not None:
            if not len(self.mean) == len(self.scale) == len(self.columns):
                raise ValueError(f"mean and scale must have {len(self.columns)} numbers each, one per column")
            if min(self.scale) <= 0:
                raise ValueError("all numbers of scale must be above 0")

    @property
    def frontend(self) -> Frontend:
        """The settings that the computation of descriptors depends on."""
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
        """Name of each value of a frame, such as mfcc_1, zcr, chroma_C."""
        names = []
        for name in self.descriptors:
            width = self.frontend.width(name)
            suffixes = PITCH_CLASSES if name == "chroma" else range(1, width + 1)
            is_scalar = name not in ("mfcc", *DELTA_ORDERS, "chroma", "mel", "log-mel")
            names += [name] if is_scalar else [f"{name}_{suffix}" for suffix in suffixes]
        return names

    def num_frames(self, samples: _Count) -> _Count:
        """Return the number of frames of a clip with a number of samples."""
        frames = 1 + samples // self.hop_length
        if self.max_frames is None:
            return frames
        if isinstance(frames, torch.Tensor):
            return frames.clamp(max=self.max_frames)
        return min(frames, self.max_frames)

    def __call__(
        self,
        raw_speech: np.ndarray | torch.Tensor | Sequence[np.ndarray] | Sequence[torch.Tensor] | Sequence[float],
        sampling_rate: int | None = None,
        padding: bool | str = "longest",
        max_length: int | None = None,
        return_tensors: str | None = None,
        **kwargs: Any,  # noqa: ARG002
    ) -> BatchFeature:
        """Compute the padded frames of clips.

        Args:
            raw_speech: a clip, shape (samples,), or a list of clips, float with full scale at 1.0.
            sampling_rate: sampling rate of the clips in Hz, which must be the extractor's.
            padding: "longest" (or True) to pad to the longest clip, "max_length" to pad to `max_length` frames.
            max_length: frames to pad to; None: `max_frames`.
            return_tensors: "pt" for torch tensors; otherwise numpy arrays.
            **kwargs: ignored; transformers' pipelines pass them.

        Returns:
            `input_features`, shape (clips, frames, feature_size), and `attention_mask`, 1 for frames of the clip and 0
            for padding, shape (clips, frames).
        """
        if sampling_rate is not None and sampling_rate != self.sampling_rate:
            raise ValueError(
                f"the audio is at {sampling_rate} Hz, but this model takes {self.sampling_rate} Hz: resample it first"
            )
        is_clip = isinstance(raw_speech, np.ndarray | torch.Tensor) or (len(raw_speech) and np.ndim(raw_speech[0]) == 0)
        clips = [_as_waveform(clip) for clip in ([raw_speech] if is_clip else raw_speech)]
        if not clips:
            raise ValueError("the list contains no clip")
        features, mask = self._compute(clips)
        missing = self._num_padding_frames(features.shape[1], padding, max_length)
        features = self.standardize(features, mask)
        if missing:
            features = torch.nn.functional.pad(features, (0, 0, 0, missing))
            mask = torch.nn.functional.pad(mask, (0, missing))
        batch = {"input_features": features.numpy(), "attention_mask": mask.numpy()}
        return BatchFeature(batch, tensor_type=return_tensors)

    def _num_padding_frames(self, frames: int, padding: bool | str, max_length: int | None) -> int:
        if padding in ("longest", True):
            return 0
        if padding != "max_length":
            raise ValueError(f"padding must be longest or max_length, not {padding!r}")
        target = self.max_frames if max_length is None else max_length
        if target is None:
            raise ValueError('padding="max_length" needs max_length, or an extractor with max_frames')
        if target < frames:
            raise ValueError(f"a clip has {frames} frames, more than max_length={target}: set max_frames to crop it")
        return target - frames

    def extract(self, waveforms: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute descriptors, crop them, and normalize them with "clip-mean" and "clip".

        `waveforms` are zero-padded, shape (clips, samples), on any device; `lengths` are the samples of each clip.
        Returns frames, zero in the padding, shape (clips, frames, feature_size), and the mask, int64, shape
        (clips, frames).
        """
        return self._compute([row[:length].float() for row, length in zip(waveforms, lengths.tolist(), strict=True)])

    def _compute(self, clips: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        # Half precision is not exact enough here.
        with torch.no_grad(), torch.autocast(clips[0].device.type, enabled=False):
            features, num_frames = compute_descriptors(clips, self.descriptors, self.frontend)
        counts = torch.tensor(num_frames, device=features.device)
        if self.normalize in ("clip-mean", "clip"):
            count = counts[:, None, None]
            mean = features.sum(dim=1, keepdim=True) / count
            features = (features - mean) * _frame_mask(features, counts)
            if self.normalize == "clip":
                std = (features.square().sum(dim=1, keepdim=True) / count).sqrt()
                features = features / safe_scale(mean, std)
        if self.max_frames is not None and features.shape[1] > self.max_frames:
            first = ((counts - self.max_frames) // 2).clamp(min=0)
            index = first[:, None] + torch.arange(self.max_frames, device=features.device)
            features = features.gather(1, index[..., None].expand(-1, -1, features.shape[2]))
            counts = counts.clamp(max=self.max_frames)
        return features, _frame_mask(features, counts)[..., 0].long()

    def standardize(self, features: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Normalize the output of `extract` with "training" and "speaker"; return it unchanged otherwise."""
        if self.normalize not in ("training", "speaker"):
            return features
        weights = mask[..., None].to(features.dtype)
        if self.normalize == "speaker":
            mean = (features * weights).sum(dim=(0, 1)) / mask.sum()
            variance = ((features - mean).square() * weights).sum(dim=(0, 1)) / mask.sum()
            scale = safe_scale(mean, variance.sqrt())
        elif self.mean is None or self.scale is None:
            raise ValueError('normalize="training" needs mean and scale: fit them on the training speakers first')
        else:
            mean, scale = (torch.tensor(values).to(features) for values in (self.mean, self.scale))
        return (features - mean) / scale * weights


def safe_scale(mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Return the standard deviation to divide by, or 1 where it is within the rounding error of the mean."""
    return torch.where(std > _ROUNDING * mean.abs(), std, torch.ones_like(std))


def _frame_mask(features: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    return (torch.arange(features.shape[1], device=features.device) < counts[:, None])[..., None].to(features.dtype)


def _as_waveform(clip: Any) -> torch.Tensor:
    array = clip.detach().cpu() if isinstance(clip, torch.Tensor) else np.require(clip, None, ["C", "W"])
    waveform = torch.as_tensor(array)
    if waveform.ndim != 1 or not len(waveform):
        raise ValueError("a clip must be a one-dimensional array of at least one sample; pass several clips as a list")
    if hasattr(clip, "dtype") and not waveform.is_floating_point():
        raise ValueError(f"the samples are {clip.dtype}, but must be floats with full scale at 1.0")
    return waveform.float()


SpectralFeatureExtractor.register_for_auto_class("AutoFeatureExtractor")
