"""What a model is given: from row numbers of a prepared table to batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from .. import audio
from ..models.collation import collate_waveforms
from ..models.encoders import InputSpec
from ..models.features import SpectralFeatureExtractor
from .cache import Cache
from .online_augmentation import OnlineAugmentation, Standardizer

if TYPE_CHECKING:
    import datasets
    from transformers import SequenceFeatureExtractor


class BatchSource(Protocol):
    """Makes batches of clips.

    Attributes:
        lengths: of every clip of the table, by which batches are cut, shape (clips,). seconds: the same in seconds.
        alike: an answer is exact only in a batch of one length.
    """

    lengths: np.ndarray
    seconds: np.ndarray
    requires_equal_lengths: bool

    def collate(self, rows: Sequence[int], epoch: int | None = None) -> dict[str, torch.Tensor]:
        """Return what the model is called with.

        Args:
            rows: of the clips. epoch: of training, in which clips may be drawn anew; None: as they are.
        """


class FrameBatches:
    """Frames that a feature extractor of ours made: `input_features`, padded with zeros, and `attention_mask`.

    Args:
        frames: of each clip, not standardised. seconds: of each, shape (clips,). extractor: that made them.
        standard: how they are standardised. drawn: what is drawn anew for training clips.
    """

    alike = False

    def __init__(
        self,
        frames: Cache,
        seconds: np.ndarray,
        extractor: SpectralFeatureExtractor,
        standard: Standardizer | None = None,
        drawn: OnlineAugmentation | None = None,
    ) -> None:
        self.frames, self.seconds, self.lengths = frames, seconds, frames.lengths
        self.extractor, self.standardizer, self.drawn = extractor, standard, drawn

    def collate(self, rows: Sequence[int], epoch: int | None = None) -> dict[str, torch.Tensor]:
        """Pad the frames of clips to the longest, shape (clips, frames, size)."""
        drawn = self.drawn if epoch is not None else None
        if drawn is not None and drawn.augment is not None:
            clips = drawn.frames(rows, epoch or 0, self.extractor)
        else:
            clips = [self.frames[row] for row in rows]
        padded, counts = _padded(clips, 0)
        features, lengths = torch.from_numpy(padded), torch.from_numpy(counts)
        if drawn is not None and drawn.spectral is not None:
            features, lengths = drawn.heard(features, lengths, rows, epoch or 0, self.extractor)
        if self.standardizer is not None:
            features = self.standardizer.apply(features, rows)
        mask = torch.arange(features.shape[1]) < lengths[:, None]
        batch = {"input_features": features * mask[..., None], "attention_mask": mask.long()}
        return batch if drawn is None else drawn.masked(batch, rows, epoch or 0)


class WaveformBatches:
    """Sound, as a pretrained model's own feature extractor makes it of samples; nothing is computed beforehand.

    Args:
        table: of the clips. extractor: the model's own. input_spec: of the model.
        drawn: what is drawn anew for training clips.
    """

    def __init__(
        self,
        table: datasets.Dataset,
        extractor: SequenceFeatureExtractor,
        input_spec: InputSpec,
        drawn: OnlineAugmentation | None = None,
    ) -> None:
        self.sounds, self.extractor, self.input_spec = table.select_columns(["audio"]), extractor, input_spec
        self.drawn = drawn
        self.requires_equal_lengths = input_spec.requires_equal_lengths
        self.lengths = clip_lengths(table)
        self.seconds = input_seconds(table, extractor, input_spec)

    def collate(self, rows: Sequence[int], epoch: int | None = None) -> dict[str, torch.Tensor]:
        """Let the extractor make a batch; there is a mask where clips were padded."""
        if epoch is not None and self.drawn is not None:
            clips = self.drawn.waves(rows, epoch)
        else:
            clips = [audio.from_wav(sound["bytes"]) for sound in self.sounds[list(rows)]["audio"]]
        return collate_waveforms(clips, self.extractor, self.input_spec)


class HiddenStateBatches:
    """States of a frozen part: `states`, shape (clips, frames, size), and the mask that the model wants with them.

    Args:
        states: of each clip of the table. extractor: the model's own. input_spec: of the model.
    """

    def __init__(
        self, states: Cache, table: datasets.Dataset, extractor: SequenceFeatureExtractor, input_spec: InputSpec
    ) -> None:
        self.states, self.input_spec = states, input_spec
        self.samples = np.maximum(clip_lengths(table), input_spec.min_samples)
        self.requires_equal_lengths, self.lengths = input_spec.requires_equal_lengths, states.lengths
        self.seconds = input_seconds(table, extractor, input_spec)

    def collate(self, rows: Sequence[int], epoch: int | None = None) -> dict[str, torch.Tensor]:  # noqa: ARG002
        """Pad the states of clips to the longest; there is a mask where clips were padded."""
        states, lengths = _padded([self.states[row] for row in rows], self.input_spec.min_frames)
        batch = {"states": torch.from_numpy(states)}
        if self.input_spec.kind == "fixed_length" or lengths.min() == states.shape[1]:
            return batch
        ends = lengths
        if self.input_spec.kind == "waveform":
            ends = self.samples[list(rows)]
        mask = np.arange(max(ends.max(), self._input_length(states.shape[1]))) < ends[:, None]
        return batch | {"attention_mask": torch.from_numpy(mask).long()}

    def _input_length(self, frames: int) -> int:
        return self.input_spec.num_samples(frames) if self.input_spec.kind == "waveform" else frames


class PooledBatches:
    """States of all layers, pooled over time: `states`, shape (clips, layers, size)."""

    alike = False

    def __init__(self, states: Cache, seconds: np.ndarray) -> None:
        self.states, self.seconds, self.lengths = states, seconds, np.ones(len(states), dtype=np.int64)

    def collate(self, rows: Sequence[int], epoch: int | None = None) -> dict[str, torch.Tensor]:  # noqa: ARG002
        """Stack the states of clips."""
        return {"states": torch.from_numpy(np.stack([self.states[row] for row in rows]))}


def clip_lengths(table: datasets.Dataset) -> np.ndarray:
    """Return how many samples each clip of a prepared table has, shape (clips,)."""
    import pyarrow.compute as pc

    column = table.select_columns(["audio"]).with_format("arrow")[:]["audio"]
    sizes = np.concatenate([pc.binary_length(chunk.field("bytes")).to_numpy() for chunk in column.chunks])
    return np.asarray((sizes - audio.HEADER_BYTES) // 2, dtype=np.int64)


def _padded(clips: Sequence[np.ndarray], least: int) -> tuple[np.ndarray, np.ndarray]:
    """Return clips' frames, padded with zeros to the longest or the least, and their lengths."""
    lengths = np.array([len(clip) for clip in clips])
    padded = np.zeros((len(clips), max(least, int(lengths.max())), clips[0].shape[1]), dtype=np.float32)
    for place, clip in enumerate(clips):
        padded[place, : len(clip)] = clip
    return padded, lengths


def input_seconds(table: datasets.Dataset, extractor: SequenceFeatureExtractor, input_spec: InputSpec) -> np.ndarray:
    """Return the seconds that a model computes for each clip, without padding to others, shape (clips,)."""
    seconds = clip_lengths(table) / audio.SAMPLE_RATE
    return np.full(len(seconds), _window(extractor)) if input_spec.kind == "fixed_length" else seconds


def _window(extractor: Any) -> float:
    """Return the seconds that an extractor of one length makes of every clip."""
    if hasattr(extractor, "chunk_length"):
        return float(extractor.chunk_length)
    return float(extractor.max_length) / 100  # AST's frames are 10 ms apart
