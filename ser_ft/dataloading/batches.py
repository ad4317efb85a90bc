"""Batches of model inputs, made from row numbers of a prepared table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from .. import audio
from ..models.collation import collate_waveforms
from ..models.encoders import InputSpec
from ..models.features import SpectralFeatureExtractor
from .cache import Cache, extract_frames
from .online_augmentation import OnlineAugmentation
from .standardization import Standardizer

if TYPE_CHECKING:
    import datasets
    from transformers import SequenceFeatureExtractor


class BatchSource(Protocol):
    """Makes batches of clips.

    `lengths` of all clips of the table serve to batch clips of similar length; `seconds` are the durations that the
    model computes. `requires_equal_lengths`: predictions are exact only for batches of clips of one length.
    """

    lengths: np.ndarray
    seconds: np.ndarray
    requires_equal_lengths: bool

    def collate(self, rows: Sequence[int], epoch: int | None = None) -> dict[str, torch.Tensor]:
        """Return the arguments of the model's forward pass for clips, augmented only if `epoch` is not None.

        The first dimension of each is the clips.
        """


class FrameBatches:
    """Frames of our own feature extractor: `input_features`, padded with zeros, and `attention_mask`."""

    requires_equal_lengths = False

    def __init__(
        self,
        frames: Cache,
        seconds: np.ndarray,
        extractor: SpectralFeatureExtractor,
        standardizer: Standardizer | None = None,
        augmentation: OnlineAugmentation | None = None,
    ) -> None:
        self.frames, self.seconds, self.lengths = frames, seconds, frames.lengths
        self.extractor, self.standardizer, self.augmentation = extractor, standardizer, augmentation

    def collate(self, rows: Sequence[int], epoch: int | None = None) -> dict[str, torch.Tensor]:
        """Pad the frames of clips to the longest clip, shape (clips, frames, size)."""
        augmentation = self.augmentation if epoch is not None else None
        if augmentation is not None and augmentation.waveform is not None:
            clips = extract_frames(augmentation.waveforms(rows, epoch or 0), self.extractor)
        else:
            clips = [self.frames[row] for row in rows]
        padded, counts = _pad(clips, 0)
        features, lengths = torch.from_numpy(padded), torch.from_numpy(counts)
        if augmentation is not None and augmentation.spectral is not None:
            hop_seconds = self.extractor.hop_length / self.extractor.sampling_rate
            features, lengths = augmentation.augment_spectrograms(features, lengths, rows, epoch or 0, hop_seconds)
        if self.standardizer is not None:
            features = self.standardizer.apply(features, rows)
        mask = torch.arange(features.shape[1]) < lengths[:, None]
        batch = {"input_features": features * mask[..., None], "attention_mask": mask.long()}
        return batch if augmentation is None else augmentation.mask_features(batch, rows, epoch or 0)


class WaveformBatches:
    """Inputs that a pretrained model's own feature extractor computes from waveforms; nothing is cached."""

    def __init__(
        self,
        table: datasets.Dataset,
        extractor: SequenceFeatureExtractor,
        input_spec: InputSpec,
        augmentation: OnlineAugmentation | None = None,
    ) -> None:
        self.audio_column, self.extractor, self.input_spec = table.select_columns(["audio"]), extractor, input_spec
        self.augmentation = augmentation
        self.requires_equal_lengths = input_spec.requires_equal_lengths
        self.lengths = clip_lengths(table)
        self.seconds = input_seconds(table, extractor, input_spec)

    def collate(self, rows: Sequence[int], epoch: int | None = None) -> dict[str, torch.Tensor]:
        """Compute the inputs of a batch, with a mask if clips are padded."""
        if epoch is not None and self.augmentation is not None:
            clips = self.augmentation.waveforms(rows, epoch)
        else:
            clips = [audio.from_wav(sound["bytes"]) for sound in self.audio_column[list(rows)]["audio"]]
        return collate_waveforms(clips, self.extractor, self.input_spec)


class HiddenStateBatches:
    """Hidden states of a frozen part: `states`, shape (clips, frames, size), and the mask that the model expects."""

    def __init__(
        self, states: Cache, table: datasets.Dataset, extractor: SequenceFeatureExtractor, input_spec: InputSpec
    ) -> None:
        self.states, self.input_spec = states, input_spec
        self.samples = np.maximum(clip_lengths(table), input_spec.min_samples)
        self.requires_equal_lengths, self.lengths = input_spec.requires_equal_lengths, states.lengths
        self.seconds = input_seconds(table, extractor, input_spec)

    def collate(self, rows: Sequence[int], epoch: int | None = None) -> dict[str, torch.Tensor]:  # noqa: ARG002
        """Pad the states of clips to the longest clip, with a mask if clips are padded."""
        states, lengths = _pad([self.states[row] for row in rows], self.input_spec.min_frames)
        batch = {"states": torch.from_numpy(states)}
        if self.input_spec.kind == "fixed_length" or lengths.min() == states.shape[1]:
            return batch
        mask_lengths, width = lengths, states.shape[1]
        if self.input_spec.kind == "waveform":
            mask_lengths, width = self.samples[list(rows)], self.input_spec.num_samples(width)
        mask = np.arange(max(mask_lengths.max(), width)) < mask_lengths[:, None]
        return batch | {"attention_mask": torch.from_numpy(mask).long()}


class PooledBatches:
    """States of all layers, pooled over time: `states`, shape (clips, layers, size)."""

    requires_equal_lengths = False

    def __init__(self, states: Cache, seconds: np.ndarray) -> None:
        self.states, self.seconds, self.lengths = states, seconds, np.ones(len(states), dtype=np.int64)

    def collate(self, rows: Sequence[int], epoch: int | None = None) -> dict[str, torch.Tensor]:  # noqa: ARG002
        """Stack the states of clips."""
        return {"states": torch.from_numpy(np.stack([self.states[row] for row in rows]))}


class AlternatingBatches:
    """Batches of one source, and in training a share of the batches from another, with other inputs for the same clips.

    Which source makes a batch depends only on the seed, the epoch and the clips.
    """

    def __init__(self, source: BatchSource, other: BatchSource, share: float, seed: int) -> None:
        self.source, self.other, self.share, self.seed = source, other, share, seed
        self.lengths, self.seconds = source.lengths, source.seconds
        self.requires_equal_lengths = source.requires_equal_lengths

    def collate(self, rows: Sequence[int], epoch: int | None = None) -> dict[str, torch.Tensor]:
        """Return the batch of one of the sources."""
        if epoch is not None and np.random.default_rng((self.seed, epoch, *rows)).random() < self.share:
            return self.other.collate(rows, epoch)
        return self.source.collate(rows, epoch)


def clip_lengths(table: datasets.Dataset) -> np.ndarray:
    """Return the number of samples of each clip of a prepared table, shape (clips,)."""
    import pyarrow.compute as pc

    column = table.select_columns(["audio"]).with_format("arrow")[:]["audio"]
    sizes = np.concatenate([pc.binary_length(chunk.field("bytes")).to_numpy() for chunk in column.chunks])
    return np.asarray((sizes - audio.HEADER_BYTES) // 2, dtype=np.int64)


def input_seconds(table: datasets.Dataset, extractor: SequenceFeatureExtractor, input_spec: InputSpec) -> np.ndarray:
    """Return the duration in seconds that a model computes for each clip alone, shape (clips,)."""
    seconds = clip_lengths(table) / audio.SAMPLE_RATE
    if input_spec.kind != "fixed_length":
        return seconds
    # Whisper's extractor gives its length in seconds, AST's in frames that are 10 ms apart.
    fixed: Any = extractor
    length = fixed.chunk_length if hasattr(fixed, "chunk_length") else fixed.max_length / 100
    return np.full(len(seconds), float(length))


def _pad(clips: Sequence[np.ndarray], min_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the frames, padded with zeros to the longest clip or to `min_frames`, and their lengths."""
    lengths = np.array([len(clip) for clip in clips])
    padded = np.zeros((len(clips), max(min_frames, int(lengths.max())), clips[0].shape[1]), dtype=np.float32)
    for row, clip in enumerate(clips):
        padded[row, : len(clip)] = clip
    return padded, lengths
