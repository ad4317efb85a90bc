"""Inference on long recordings: sliding windows, their smoothed predictions, and segments of one emotion."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypedDict

import numpy as np

from ..audio import SAMPLE_RATE, Source, decode_blocks
from ..audio.vad import FRAME, VoiceActivityDetector
from ..utils.errors import InputError
from .backends.base import Backend, ModelInfo
from .speaker_adaptation import MAX_CLIPS, SpeakerAdaptation

# The voice activity detector decides in frames of 10 ms, and every length is rounded to them.
FRAME_SECONDS = FRAME / SAMPLE_RATE
# Seconds of audio in a batch, and in a block that is read at once. Both limit the memory.
_BATCH_SECONDS = 96.0
_BLOCK_SECONDS = 32.0


@dataclass(frozen=True)
class WindowSettings:
    """How a recording is cut into windows, and how these are merged into segments; all in seconds.

    Attributes:
        hop: Time from the start of a window to the start of the next.
        smoothing: Time constant of the smoothing over windows (see `ExponentialSmoother`); 0: no smoothing.
        min_speech: A window with less speech than this gets no prediction. A recording shorter than one window needs
            the same share of speech.
        gap: A silence longer than this ends a segment.
    """

    window: float = 3.0
    hop: float = 1.0
    smoothing: float = 1.5
    min_speech: float = 0.3
    gap: float = 2.0

    def __post_init__(self) -> None:
        for name, least in (("window", 0.1), ("hop", 0.05), ("smoothing", 0.0), ("min_speech", 0.0), ("gap", 0.0)):
            value = getattr(self, name)
            if not (np.isfinite(value) and value >= least):
                raise InputError(f"{name} must be {least:g} seconds or more, not {value}")
        if self.hop > self.window:
            windows = f"windows of {self.window:g} s"
            raise InputError(f"a hop of {self.hop:g} s skips audio between {windows}: make it shorter")
        if self.min_speech > self.window:
            speech = f"{self.min_speech:g} s of speech"
            raise InputError(f"a window of {self.window:g} s cannot hold {speech}: lower min_speech")


@dataclass(frozen=True)
class Window:
    """A window of a recording; times in seconds from the start of the recording.

    Attributes:
        speech: Share of the window that is speech, 0 to 1.
        probabilities: One per class, shape (classes,); None if there is too little speech.
        smoothed: The probabilities smoothed with those of the windows before.
        level: Root mean square in dBFS, at least -120.
        spans: The intervals of speech in the window, as (start, end).
    """

    start: float
    end: float
    speech: float
    probabilities: np.ndarray | None
    smoothed: np.ndarray | None
    level: float
    spans: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Segment:
    """An interval with one predicted emotion; times in seconds, trimmed to the speech.

    `emotion` is the class with the highest smoothed probability, `probability` its mean over the windows, weighted by
    their speech; the segment is uncertain if this mean is below the model's threshold.
    """

    start: float
    end: float
    emotion: str
    probability: float
    uncertain: bool


class WindowPrediction(TypedDict):
    """A window as a dictionary; `emotion` and `scores` are smoothed, and None if there is too little speech."""

    start: float
    end: float
    emotion: str | None
    scores: dict[str, float] | None
    uncertain: bool
    speech: float


def window_prediction(window: Window, info: ModelInfo) -> WindowPrediction:
    """Convert a window, which is uncertain without a prediction or below the model's threshold, to a dictionary."""
    scores = None if window.smoothed is None else dict(zip(info.classes, window.smoothed.tolist(), strict=True))
    return WindowPrediction(
        start=window.start,
        end=window.end,
        emotion=max(scores, key=scores.__getitem__) if scores else None,
        scores=scores,
        uncertain=scores is None or max(scores.values()) < (info.threshold or 0.0),
        speech=window.speech,
    )


class ExponentialSmoother:
    """Smooths the probabilities of consecutive windows (exponential smoothing, Brown 1956).

    With p the probabilities of a window, d the seconds since the start of the previous window with a prediction, and t
    the time constant, the smoothed probabilities s start as p and become a s + (1 - a) p, where a = exp(-d / t). A
    long silence removes most of the influence of what was before. A time constant of 0 changes nothing.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._previous: tuple[float, np.ndarray] | None = None

    def __call__(self, start: float, probabilities: np.ndarray) -> np.ndarray:
        """Return the smoothed probabilities of the next window, which starts at this second."""
        smoothed = probabilities
        if self._previous is not None and self._seconds:
            previous_start, previous = self._previous
            weight = np.exp((previous_start - start) / self._seconds)
            smoothed = weight * previous + (1 - weight) * probabilities
        self._previous = start, smoothed
        return smoothed


def smooth_windows(windows: Sequence[Window], settings: WindowSettings) -> list[Window]:
    """Smooth the windows of one recording again, in order, after their probabilities were changed."""
    smoother = ExponentialSmoother(settings.smoothing)
    return [
        replace(
            window,
            smoothed=None if window.probabilities is None else smoother(window.start, window.probabilities),
        )
        for window in windows
    ]


class SpeakerMemory:
    """The predictions for those windows of a recording that do not overlap: what is known about its speaker."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._classes, self._end = tuple(classes), 0.0
        self._predictions: deque[np.ndarray] = deque(maxlen=MAX_CLIPS)

    def add(self, window: Window) -> None:
        """Remember a window, if it has a prediction and does not overlap the last one that was remembered."""
        if window.probabilities is not None and window.start >= self._end:
            self._predictions.append(window.probabilities)
            self._end = window.end

    @property
    def speaker(self) -> SpeakerAdaptation:
        """The speaker, as far as it is known."""
        predictions = np.array(self._predictions).reshape(-1, len(self._classes))
        return SpeakerAdaptation(self._classes, predictions)


def adapt_windows(
    windows: Sequence[Window], classes: Sequence[str], settings: WindowSettings
) -> tuple[list[Window], SpeakerAdaptation]:
    """Adapt the windows of one recording to its speaker, and smooth them again; the speaker is returned too."""
    memory = SpeakerMemory(classes)
    for window in windows:
        memory.add(window)
    speaker = memory.speaker
    adapted = [
        window if window.probabilities is None else replace(window, probabilities=speaker.adapt(window.probabilities))
        for window in windows
    ]
    return smooth_windows(adapted, settings), speaker


class SlidingWindow:
    """Cuts mono audio that is fed in blocks into windows, and predicts them.

    A window starts every `hop` seconds. If the last one ends before the audio does, one more window is aligned with the
    end. Audio shorter than one window becomes one window of its full length. With `adapt`, each prediction is adapted
    to the speaker by the windows so far.
    """

    def __init__(self, backend: Backend, settings: WindowSettings, adapt: bool = False) -> None:
        self._backend = backend
        self._settings = settings
        self._length = round(settings.window / FRAME_SECONDS) * FRAME
        self._hop = round(settings.hop / FRAME_SECONDS) * FRAME
        self._vad = VoiceActivityDetector()
        self._smoother = ExponentialSmoother(settings.smoothing)
        self.memory = SpeakerMemory(backend.info.classes) if adapt else None
        # Samples, and speech decisions of their frames, from sample `_offset` on; where the next window starts.
        self._samples = np.zeros(0, np.float32)
        self._speech = np.zeros(0, bool)
        self._offset = 0
        self._next = 0

    def feed(self, samples: np.ndarray) -> list[Window]:
        """Take float32 samples at 16 kHz, shape (samples,), and return the windows that are complete."""
        windows = []
        size = round(_BLOCK_SECONDS * SAMPLE_RATE)
        for start in range(0, len(samples), size):
            block = samples[start : start + size]
            self._samples = np.concatenate([self._samples, block])
            self._speech = np.concatenate([self._speech, self._vad.feed(block)])
            windows += self._predict(self._complete_spans(self._offset + len(self._speech) * FRAME))
            self._drop_used_samples()
        return windows

    def finish(self) -> list[Window]:
        """Return the remaining windows. Nothing can be fed afterwards."""
        self._speech = np.concatenate([self._speech, self._vad.finish()])
        end = self._offset + len(self._samples)
        spans = self._complete_spans(end)
        covered = self._next - self._hop + self._length if self._next else 0
        if end - covered >= FRAME or (end and not covered):
            spans.append((max(0, end - self._length), end))
        return self._predict(spans)

    def _complete_spans(self, known: int) -> list[tuple[int, int]]:
        spans = []
        while self._next + self._length <= known:
            spans.append((self._next, self._next + self._length))
            self._next += self._hop
        return spans

    def _drop_used_samples(self) -> None:
        # The last window may start up to one hop before the next regular one.
        used = max(0, self._next - self._hop - self._offset)
        self._samples = self._samples[used:]
        self._speech = self._speech[used // FRAME :]
        self._offset += used

    def _predict(self, spans: Sequence[tuple[int, int]]) -> list[Window]:
        windows = [self._describe(*span) for span in spans]
        least = self._settings.min_speech / self._settings.window
        spoken = [index for index, window in enumerate(windows) if window.speech >= least]
        size = max(1, int(_BATCH_SECONDS / self._settings.window))
        for batch in (spoken[first : first + size] for first in range(0, len(spoken), size)):
            waveforms = np.stack([self._waveform(*spans[index]) for index in batch])
            for index, probabilities in zip(batch, self._backend.probabilities(waveforms), strict=True):
                if self.memory is not None:
                    self.memory.add(replace(windows[index], probabilities=probabilities))
                    probabilities = self.memory.speaker.adapt(probabilities)
                smoothed = self._smoother(windows[index].start, probabilities)
                windows[index] = replace(windows[index], probabilities=probabilities, smoothed=smoothed)
        return windows

    def _waveform(self, start: int, end: int) -> np.ndarray:
        samples = self._samples[start - self._offset : end - self._offset]
        return np.pad(samples, (0, max(0, self._backend.info.min_samples - len(samples))))

    def _describe(self, start: int, end: int) -> Window:
        first, last = (round((edge - self._offset) / FRAME) for edge in (start, end))
        speech = self._speech[first:last]
        samples = self._samples[start - self._offset : end - self._offset]
        level = 10 * np.log10(max(float(np.mean(np.square(samples, dtype=np.float64))), 1e-12))
        edges = np.flatnonzero(np.diff(np.concatenate([[False], speech, [False]]).astype(np.int8)))
        times = (edges + first + self._offset // FRAME) / round(1 / FRAME_SECONDS)
        return Window(
            start=start / SAMPLE_RATE,
            end=end / SAMPLE_RATE,
            speech=float(speech.mean()) if len(speech) else 0.0,
            probabilities=None,
            smoothed=None,
            level=float(level),
            spans=tuple((float(onset), float(offset)) for onset, offset in zip(times[::2], times[1::2], strict=True)),
        )


def iter_windows(
    backend: Backend,
    source: Source,
    settings: WindowSettings | None = None,
    channel: int | None = None,
) -> Iterator[Window]:
    """Predict the windows of a file, or of its bytes, while it is read, in bounded memory and in order.

    `channel` is the channel that is used, from 0. None: the mean of all channels, or one of them if they cancel each
    other. AudioError is raised if the file cannot be decoded or does not have this channel; if a later part is damaged,
    the windows before it are yielded first.
    """
    sliding_window = SlidingWindow(backend, settings or WindowSettings())
    for block in decode_blocks(source, _BLOCK_SECONDS, channel):
        yield from sliding_window.feed(block)
    yield from sliding_window.finish()


def merge_windows(windows: Sequence[Window], info: ModelInfo, settings: WindowSettings) -> list[Segment]:
    """Merge the windows of one recording, in order, into segments of one emotion.

    Each moment belongs to the window whose center is closest. The speech of consecutive windows with the same smoothed
    top class forms one segment, unless it is interrupted by a silence longer than `settings.gap`.
    """
    segments: list[Segment] = []
    spoken = 0.0  # seconds of speech in the last segment
    for window, start, end in _nearest_speech(windows):
        assert window.smoothed is not None
        best = int(window.smoothed.argmax())
        probability, emotion, length = float(window.smoothed[best]), info.classes[best], end - start
        last = segments[-1] if segments else None
        if last is None or last.emotion != emotion or start - last.end > settings.gap:
            spoken = 0.0
            segments.append(Segment(start, end, emotion, probability, False))
        else:
            mean = (last.probability * spoken + probability * length) / (spoken + length)
            segments[-1] = replace(last, end=end, probability=mean)
        spoken += length
    threshold = info.threshold or 0.0
    return [replace(segment, uncertain=segment.probability < threshold) for segment in segments]


def _nearest_speech(windows: Sequence[Window]) -> Iterator[tuple[Window, float, float]]:
    centers = [(window.start + window.end) / 2 for window in windows]
    borders = [(before + after) / 2 for before, after in pairwise(centers)]
    for index, window in enumerate(windows):
        low = borders[index - 1] if index else window.start
        high = borders[index] if index < len(borders) else window.end
        for start, end in window.spans:
            if window.smoothed is not None and max(start, low) < min(end, high):
                yield window, max(start, low), min(end, high)
