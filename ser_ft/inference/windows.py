"""Long recordings in rolling windows: how each sounds, smoothed over time, and the segments that they make up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypedDict

import numpy as np

from ..audio import SAMPLE_RATE, Source
from ..audio.streaming import MonoResampler, open_audio
from ..audio.vad import FRAME, VoiceActivityDetector
from ..utils.errors import InputError
from .backends import Backend, ModelInfo

# The gate decides in frames of 10 ms, and every length is rounded to them.
FRAME_SECONDS = FRAME / SAMPLE_RATE
# Seconds of sound that are answered at once, and that are taken in at once: they bound the memory.
_BATCH_SECONDS = 96.0
_PIECE_SECONDS = 32.0


@dataclass(frozen=True)
class WindowSettings:
    """How a long recording is cut and put together again; all in seconds.

    Attributes:
        window: length of a window.
        hop: from the start of a window to the start of the next.
        smoothing: time constant of the smoothing over windows (see `ExponentialSmoother`); 0 leaves it out.
        min_speech: with less speech than this in it, a window is given no answer. Of a recording shorter than one
            window the same share is asked.
        gap: a silence longer than this ends a segment.
    """

    window: float = 3.0
    hop: float = 1.0
    smoothing: float = 1.5
    min_speech: float = 0.3
    gap: float = 2.0

    def __post_init__(self) -> None:
        """Check the lengths."""
        for name, least in (("window", 0.1), ("hop", 0.05), ("smoothing", 0.0), ("min_speech", 0.0), ("gap", 0.0)):
            value = getattr(self, name)
            if not (np.isfinite(value) and value >= least):
                raise InputError(f"{name} must be {least:g} seconds or more, not {value}")
        if self.hop > self.window:
            raise InputError(
                f"a hop of {self.hop:g} s skips sound between windows of {self.window:g} s: make it shorter"
            )
        if self.min_speech > self.window:
            raise InputError(f"a window of {self.window:g} s never holds {self.min_speech:g} s of speech: ask for less")


@dataclass(frozen=True)
class Window:
    """A window of a recording; times in seconds from its start.

    Attributes:
        start: where the window begins. end: where it ends.
        speech: the share of it that is speech, 0 to 1.
        probabilities: one per class, shape (classes,); None where there is too little speech.
        smoothed: the same after smoothing with the windows before it.
        level: root mean square in dBFS, never under -120.
        spans: the stretches of speech in it, as (start, end).
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
    """A stretch of one emotion; times in seconds, trimmed to the speech in it.

    Attributes:
        start: where its speech begins. end: where its speech ends.
        emotion: the class with the highest smoothed probability throughout.
        probability: mean of that class's smoothed probability over its windows, weighted by the speech in each.
        uncertain: that mean is under the model's threshold.
    """

    start: float
    end: float
    emotion: str
    probability: float
    uncertain: bool


class WindowPrediction(TypedDict):
    """A window as programs read it; `emotion` and `scores` after smoothing, None where there is too little speech."""

    start: float
    end: float
    emotion: str | None
    scores: dict[str, float] | None
    uncertain: bool
    speech: float


def window_prediction(window: Window, facts: ModelInfo) -> WindowPrediction:
    """Return what a window says; uncertain where its top probability is under the threshold, or nobody speaks."""
    scores = None if window.smoothed is None else dict(zip(facts.classes, window.smoothed.tolist(), strict=True))
    return WindowPrediction(
        start=window.start,
        end=window.end,
        emotion=max(scores, key=scores.__getitem__) if scores else None,
        scores=scores,
        uncertain=scores is None or max(scores.values()) < (facts.threshold or 0.0),
        speech=window.speech,
    )


class ExponentialSmoother:
    """Smooths the answers to windows that follow each other.

    With p the answer to a window, d the seconds since the answered window before it started, and t the time constant,
    the smoothed answer s starts as p and becomes a s + (1 - a) p, a = exp(-d / t): exponential smoothing (Brown 1956).
    After a long silence little of what was before is left.

    Args:
        seconds: the time constant; 0 leaves the answers as they are.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last: tuple[float, np.ndarray] | None = None

    def __call__(self, start: float, answer: np.ndarray) -> np.ndarray:
        """Return the smoothed answer to the next window, which starts at that second."""
        smoothed = answer
        if self._last is not None and self._seconds:
            before, last = self._last
            kept = np.exp((before - start) / self._seconds)
            smoothed = kept * last + (1 - kept) * answer
        self._last = start, smoothed
        return smoothed


def smooth_windows(windows: Sequence[Window], settings: WindowSettings) -> list[Window]:
    """Smooth the windows of one recording, in order, anew: where their answers were changed."""
    smoother = ExponentialSmoother(settings.smoothing)
    return [
        replace(one, smoothed=None if one.probabilities is None else smoother(one.start, one.probabilities))
        for one in windows
    ]


class SlidingWindow:
    """Cuts mono sound that comes piece by piece into windows and has them answered.

    Windows start every `hop` seconds. Where the last of them ends before the sound does, one more is put so that it
    ends with it; sound shorter than one window is one window of its own length.

    Args:
        engine: that answers. settings: how to cut.
    """

    def __init__(self, engine: Backend, settings: WindowSettings) -> None:
        self._engine = engine
        self._settings = settings
        self._length = round(settings.window / FRAME_SECONDS) * FRAME
        self._hop = round(settings.hop / FRAME_SECONDS) * FRAME
        self._gate = VoiceActivityDetector()
        self._smoother = ExponentialSmoother(settings.smoothing)
        # The sound, and the gate's decisions, from sample `_from` on; where the next window starts.
        self._samples = np.zeros(0, np.float32)
        self._speech = np.zeros(0, bool)
        self._from = 0
        self._next = 0

    def feed(self, samples: np.ndarray) -> list[Window]:
        """Take samples and return the windows that are ready.

        Args:
            samples: float32 at 16 kHz, shape (samples,).
        """
        windows = []
        step = round(_PIECE_SECONDS * SAMPLE_RATE)
        for start in range(0, len(samples), step):
            piece = samples[start : start + step]
            self._samples = np.concatenate([self._samples, piece])
            self._speech = np.concatenate([self._speech, self._gate.feed(piece)])
            windows += self._answer(self._due(self._from + len(self._speech) * FRAME))
            self._forget()
        return windows

    def finish(self) -> list[Window]:
        """Return the windows that are left; nothing can be fed after it."""
        self._speech = np.concatenate([self._speech, self._gate.finish()])
        end = self._from + len(self._samples)
        spans = self._due(end)
        covered = self._next - self._hop + self._length if self._next else 0
        if end - covered >= FRAME or (end and not covered):
            spans.append((max(0, end - self._length), end))
        return self._answer(spans)

    def _due(self, known: int) -> list[tuple[int, int]]:
        """Return from where to where, in samples, the next windows reach that end within what is known."""
        spans = []
        while self._next + self._length <= known:
            spans.append((self._next, self._next + self._length))
            self._next += self._hop
        return spans

    def _forget(self) -> None:
        """Drop what no window needs any more; the last may start up to a hop before the next would."""
        drop = max(0, self._next - self._hop - self._from)
        self._samples = self._samples[drop:]
        self._speech = self._speech[drop // FRAME :]
        self._from += drop

    def _answer(self, spans: Sequence[tuple[int, int]]) -> list[Window]:
        windows = [self._window(*span) for span in spans]
        least = self._settings.min_speech / self._settings.window
        asked = [place for place, window in enumerate(windows) if window.speech >= least]
        most = max(1, int(_BATCH_SECONDS / self._settings.window))
        for some in (asked[first : first + most] for first in range(0, len(asked), most)):
            sounds = np.stack([self._sound(*spans[place]) for place in some])
            for place, answer in zip(some, self._engine.probabilities(sounds), strict=True):
                smoothed = self._smoother(windows[place].start, answer)
                windows[place] = replace(windows[place], probabilities=answer, smoothed=smoothed)
        return windows

    def _sound(self, start: int, end: int) -> np.ndarray:
        samples = self._samples[start - self._from : end - self._from]
        return np.pad(samples, (0, max(0, self._engine.info.shortest - len(samples))))

    def _window(self, start: int, end: int) -> Window:
        first, last = (round((edge - self._from) / FRAME) for edge in (start, end))
        speech = self._speech[first:last]
        samples = self._samples[start - self._from : end - self._from]
        level = 10 * np.log10(max(float(np.mean(np.square(samples, dtype=np.float64))), 1e-12))
        edges = np.flatnonzero(np.diff(np.concatenate([[False], speech, [False]]).astype(np.int8)))
        times = (edges + first + self._from // FRAME) / round(1 / FRAME_SECONDS)
        return Window(
            start=start / SAMPLE_RATE,
            end=end / SAMPLE_RATE,
            speech=float(speech.mean()) if len(speech) else 0.0,
            probabilities=None,
            smoothed=None,
            level=float(level),
            spans=tuple((float(begin), float(until)) for begin, until in zip(times[::2], times[1::2], strict=True)),
        )


def iter_windows(
    engine: Backend,
    source: Source,
    settings: WindowSettings | None = None,
    channel: int | None = None,
) -> Iterator[Window]:
    """Cut a file into windows as it is read, in bounded memory, and have them answered.

    Args:
        engine: that answers.
        source: a path, or the bytes of a whole file.
        settings: how to cut; the defaults where None.
        channel: the one that is heard, from 0; None mixes all of them.

    Yields:
        The windows, in order.

    Raises:
        AudioError: the file cannot be decoded; where that shows only later, after the windows before it.
        InputError: it has no such channel.
    """
    windower = SlidingWindow(engine, settings or WindowSettings())
    with open_audio(source) as sound:
        mixer = MonoResampler(sound.rate, channel)
        for block in sound.blocks(_PIECE_SECONDS):
            yield from windower.feed(mixer.feed(block))
        yield from windower.feed(mixer.finish())
    yield from windower.finish()


def merge_windows(windows: Sequence[Window], facts: ModelInfo, settings: WindowSettings) -> list[Segment]:
    """Merge windows into segments of one emotion.

    Each moment belongs to the window whose middle is closest. Speech of windows that follow each other and have the
    same top class after smoothing makes up one segment, unless a silence longer than the settings' `gap` lies between.

    Args:
        windows: of one recording, in order. facts: of the model that answered. settings: with which they were cut.
    """
    found: list[Segment] = []
    heard = 0.0
    for window, start, end in _speech_of(windows):
        assert window.smoothed is not None
        best = int(window.smoothed.argmax())
        probability, emotion, length = float(window.smoothed[best]), facts.classes[best], end - start
        last = found[-1] if found else None
        if last is None or last.emotion != emotion or start - last.end > settings.gap:
            heard = 0.0
            found.append(Segment(start, end, emotion, probability, False))
        else:
            mean = (last.probability * heard + probability * length) / (heard + length)
            found[-1] = replace(last, end=end, probability=mean)
        heard += length
    threshold = facts.threshold or 0.0
    return [replace(segment, uncertain=segment.probability < threshold) for segment in found]


def _speech_of(windows: Sequence[Window]) -> Iterator[tuple[Window, float, float]]:
    """Yield the answered windows with the stretches of speech that are closest to their middles."""
    middles = [(window.start + window.end) / 2 for window in windows]
    between = [(before + after) / 2 for before, after in pairwise(middles)]
    for place, window in enumerate(windows):
        low = between[place - 1] if place else window.start
        high = between[place] if place < len(between) else window.end
        for start, end in window.spans:
            if window.smoothed is not None and max(start, low) < min(end, high):
                yield window, max(start, low), min(end, high)
