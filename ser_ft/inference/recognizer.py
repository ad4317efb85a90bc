"""`EmotionRecognizer`: what is said with which emotion, in anything that holds sound."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice, takewhile
from pathlib import Path
from threading import Event
from typing import TypedDict

import numpy as np

from ..audio import SAMPLE_RATE, SILENCE_PEAK, AudioError
from ..audio.vad import speech_frames
from ..utils.errors import InputError
from .backends import open_backend
from .inputs import AudioInput, AudioLike, iter_inputs
from .streaming import PredictionStream, WindowStream
from .windows import (
    FRAME_SECONDS,
    Segment,
    SlidingWindow,
    Window,
    WindowPrediction,
    WindowSettings,
    merge_windows,
    window_prediction,
)

MIN_SECONDS = 0.1
"""Seconds of sound below which nothing can be said of it."""
MAX_CLIP_SECONDS = 20.0
"""Seconds of sound up to which a clip is answered whole."""
# Of windows that longer clips are cut into.
_CUT = 10.0
# Clips that are answered at once, twice as many of which are decoded ahead, and their seconds of sound: they bound the
# memory. And how long clips that are ready wait for the next one, in seconds.
_AT_ONCE = 32
_BATCH_SECONDS = 60.0
_PATIENCE = 0.1
_MOST_WORKERS = 8


class ClipPrediction(TypedDict):
    """What was recognised in a sound; `duration` and `speech`, what of it is speech, in seconds."""

    path: str | None
    emotion: str
    scores: dict[str, float]
    uncertain: bool
    duration: float
    speech: float


@dataclass(frozen=True)
class _DecodedClip:
    """A sound that was read.

    Attributes:
        item: where from. samples: where it is to be answered as a whole. seconds, speech: how long it is, and what of
            it is speech. outcome: where it is answered already, or there is something wrong with it.
    """

    item: AudioInput
    samples: np.ndarray | None = None
    seconds: float = 0.0
    speech: float = 0.0
    outcome: ClipPrediction | AudioError | None = None


class EmotionRecognizer:
    """Recognises the emotion that speech is said with.

    A clip of up to 20 s is answered as a whole, or of as much as the model hears at once where that is less. A longer
    one is cut into windows of 10 s, or of as much, the last of which ends where the sound does, and its answer is the
    mean of theirs, each weighted by the speech in it; only one window's sound is kept at a time. An answer
    is "uncertain" where its top probability is under the model's threshold, or where no speech was found.

    The answer to a clip is the same alone and among others, and several threads may ask at once.

    Args:
        model: an .onnx file of `ser-ft export`, a run folder, a folder with a saved classifier, or a name on the Hub;
            by default the model that ships in the package.
        device: that computes, as torch names it; by default a GPU where there is one.
        threads: that compute one batch; by default as many as the machine has cores, one where the model is small.

    Raises:
        InputError: there is no such model, or it does not run on that device.
    """

    def __init__(self, model: str | Path | None = None, device: str | None = None, threads: int | None = None) -> None:
        self.engine = open_backend(model, device, threads)
        self.info = self.engine.info
        heard = max(MIN_SECONDS, self.info.longest or MAX_CLIP_SECONDS)
        self._longest, self._cut_at = min(MAX_CLIP_SECONDS, heard), _settings(min(_CUT, heard), min(_CUT, heard), 0.0)
        self._workers = min(_MOST_WORKERS, os.cpu_count() or 1)

    def __call__(self, sound: AudioLike) -> list[ClipPrediction]:
        """Recognise one sound, or several.

        Args:
            sound: a file's path; a folder's, for the sound files in it and below; a file's bytes; {"array": samples,
                "sampling_rate": Hz} ("raw" is taken for "array"); (Hz, samples); or a list of these. Samples are
                floats with full scale at 1.0, or int16, int32, int8 or uint8, of shape (samples,), (samples, channels)
                or (channels, samples), at any rate.

        Returns:
            An answer for each, in their order: "path" (None where there is none), "emotion", "scores" (the probability
            of each class), "uncertain", "duration" and "speech" (how long it is, and what of it is speech, in s).

        Raises:
            AudioError: one of them cannot be decoded, is silent, or shorter than 0.1 s.
            InputError: it is nothing that can be recognised.
        """
        found = []
        for _, outcome in self.each(iter_inputs(sound)):
            if isinstance(outcome, AudioError):
                raise outcome
            found.append(outcome)
        return found

    def each(self, sounds: Iterable[AudioInput]) -> Iterator[tuple[AudioInput, ClipPrediction | AudioError]]:
        """Recognise any number of sounds, in bounded memory: the next are decoded while some are recognised.

        Args:
            sounds: as `ser_ft.inference.inputs.iter_inputs` makes them.

        Yields:
            Each with its answer, or with the error that there is instead, in their order.
        """
        pool, stopped = ThreadPoolExecutor(self._workers), Event()
        try:
            for heard in _ahead(pool, partial(self._hear, stopped=stopped), sounds):
                yield from self._answered(heard)
        finally:
            stopped.set()
            pool.shutdown(cancel_futures=True)

    def windows(
        self, sound: AudioLike, window: float = 3.0, hop: float = 1.0, smoothing: float = 1.5
    ) -> list[WindowPrediction]:
        """Recognise a recording in rolling windows; a file is read piece by piece.

        Args:
            sound: one sound, as for a clip; its channels are mixed.
            window: length of a window, in seconds.
            hop: from the start of a window to the start of the next, in seconds.
            smoothing: time constant of the smoothing over windows, in seconds; 0 leaves it out.

        Returns:
            For each: "start" and "end" (s), "emotion", "scores" and "uncertain" after smoothing, and "speech" (the
            share of it that is speech). "emotion" and "scores" are None where there is too little speech. The last
            window ends where the sound does.

        Raises:
            AudioError: it cannot be decoded.
            InputError: it is nothing that can be recognised, or several sounds; or the lengths make no sense.
        """
        found = self._cut(sound, _settings(window, hop, smoothing))
        return [window_prediction(each, self.info) for each in found]

    def segments(
        self, sound: AudioLike, window: float = 3.0, hop: float = 1.0, smoothing: float = 1.5
    ) -> list[Segment]:
        """Recognise a recording as `windows` does, and merge them into stretches of one emotion.

        Returns:
            The stretches, trimmed to the speech in them, with `start` and `end` (s), `emotion`, `probability` (the
            mean over its speech) and `uncertain`.
        """
        settings = _settings(window, hop, smoothing)
        return merge_windows(self._cut(sound, settings), self.info, settings)

    def stream(
        self,
        rate: int = SAMPLE_RATE,
        window: float = 3.0,
        hop: float = 1.0,
        smoothing: float = 1.5,
        channel: int | None = None,
    ) -> PredictionStream:
        """Open a stream: `feed` it chunks of any size, then `finish` it; both return answers as `windows` does.

        Args:
            rate: sampling rate of the chunks, in Hz.
            window: see `windows`. hop: likewise. smoothing: likewise.
            channel: the one that is heard, from 0; None mixes all of them.

        Raises:
            InputError: that is no sampling rate, or the lengths make no sense.
        """
        stream = WindowStream(self.engine, _settings(window, hop, smoothing), rate, channel)
        return PredictionStream(stream, self.info)

    def _cut(self, sound: AudioLike, settings: WindowSettings) -> list[Window]:
        given = list(islice(iter_inputs(sound), 2))
        if len(given) != 1:
            raise InputError("windows and segments take one sound at a time: call them for each")
        windower = SlidingWindow(self.engine, settings)
        found = [window for block in given[0].blocks() for window in windower.feed(block)]
        return found + windower.finish()

    def _hear(self, item: AudioInput, stopped: Event) -> _DecodedClip:
        """Read a sound, and answer it where it is long; nobody waits for it any more once that is stopped."""

        def listen() -> Iterator[np.ndarray]:
            return takewhile(lambda _: not stopped.is_set(), item.blocks())

        blocks, pieces, extent = listen(), [], _Extent()
        try:
            for block in blocks:
                pieces.append(extent.add(block))
                if extent.seconds > self._longest:
                    return _DecodedClip(item, outcome=self._long(item, chain(pieces, blocks), listen))
            extent.check(item.name)
        except AudioError as error:
            return _DecodedClip(item, outcome=error)
        samples = np.concatenate(pieces)
        speech = min(extent.seconds, float(speech_frames(samples).sum()) * FRAME_SECONDS)
        return _DecodedClip(item, samples, extent.seconds, speech)

    def _answered(self, heard: Sequence[_DecodedClip]) -> Iterator[tuple[AudioInput, ClipPrediction | AudioError]]:
        """Answer the clips of one length together, each as soon as those before it are."""
        found: dict[int, np.ndarray] = {}
        for place, one in enumerate(heard):
            if one.samples is not None and place not in found:
                alike = _alike(heard, place)
                waveforms = [samples for other in alike if (samples := heard[other].samples) is not None]
                found |= zip(alike, self.engine.probabilities(np.stack(waveforms)), strict=True)
            if one.outcome is not None:
                yield one.item, one.outcome
            else:
                yield one.item, self._answer(one.item, found.pop(place), one.seconds, one.speech)

    def _answer(self, item: AudioInput, probabilities: np.ndarray, seconds: float, speech: float) -> ClipPrediction:
        scores = dict(zip(self.info.classes, probabilities.tolist(), strict=True))
        best = max(scores, key=lambda name: scores[name])
        unsure = self.info.threshold is not None and scores[best] < self.info.threshold
        return ClipPrediction(
            path=item.path,
            emotion=best,
            scores=scores,
            uncertain=unsure or not speech,
            duration=seconds,
            speech=speech,
        )

    def _long(
        self, item: AudioInput, blocks: Iterable[np.ndarray], again: Callable[[], Iterator[np.ndarray]]
    ) -> ClipPrediction:
        """Answer a long sound by its windows; where none holds enough speech, by all of them.

        Args:
            item: where it is from. blocks: of its samples. again: gives them once more.
        """
        windows, seconds = self._windows(item, blocks, self._cut_at)
        weights = [window.speech for window in windows if window.probabilities is not None]
        answered = windows
        if not weights:
            answered, _ = self._windows(item, again(), replace(self._cut_at, min_speech=0.0))
            weights = [1.0] * len(answered)
        answers = [window.probabilities for window in answered if window.probabilities is not None]
        return self._answer(item, np.average(answers, axis=0, weights=weights), seconds, _speech(windows))

    def _windows(
        self, item: AudioInput, blocks: Iterable[np.ndarray], settings: WindowSettings
    ) -> tuple[list[Window], float]:
        """Return the windows of a long sound, and its seconds."""
        extent, windower = _Extent(), SlidingWindow(self.engine, settings)
        windows = [window for block in blocks for window in windower.feed(extent.add(block))]
        extent.check(item.name)
        return windows + windower.finish(), extent.seconds


@dataclass
class _Extent:
    """How much sound there is, and between which values; of sound that comes piece by piece."""

    samples: int = 0
    low: float = np.inf
    high: float = -np.inf

    @property
    def seconds(self) -> float:
        return self.samples / SAMPLE_RATE

    def add(self, block: np.ndarray) -> np.ndarray:
        """Take in a block, shape (samples,), and give it back."""
        if len(block):
            self.samples += len(block)
            self.low, self.high = min(self.low, float(block.min())), max(self.high, float(block.max()))
        return block

    def check(self, name: str) -> None:
        """Refuse sound in which nothing can be heard.

        Raises:
            AudioError: it is too short, or silent as `audio.is_silent` has it.
        """
        if self.seconds < MIN_SECONDS:
            found = f"{1000 * self.seconds:.1f} ms"
            raise AudioError("too-short", f"{name}: {found} of sound is too short: {MIN_SECONDS} s is the least")
        if (self.high - self.low) / 2 < SILENCE_PEAK:
            raise AudioError("silent", f"{name}: silent: nothing in it is louder than -60 dBFS")


def _settings(window: float, hop: float, smoothing: float) -> WindowSettings:
    """Return settings that ask for no more speech than a short window holds."""
    return WindowSettings(window, hop, smoothing, min(WindowSettings.min_speech, window))


def _ahead(
    pool: ThreadPoolExecutor, hear: Callable[[AudioInput], _DecodedClip], sounds: Iterable[AudioInput]
) -> Iterator[list[_DecodedClip]]:
    """Yield sounds that were read, as many at a time as are ready; meanwhile the next are read."""
    left: Iterator[AudioInput] = iter(sounds)
    first = list(islice(left, 2))
    if len(first) == 1:
        # Beside nothing else it is read here, which spares the start of a thread.
        yield [hear(first[0])]
        return
    left, coming = chain(first, left), deque[Future[_DecodedClip]]()
    while True:
        coming += [pool.submit(hear, item) for item in islice(left, 2 * _AT_ONCE - len(coming))]
        if not coming:
            return
        ready = [coming.popleft().result()]
        while coming and len(ready) < _AT_ONCE and _is_ready(coming[0]):
            ready.append(coming.popleft().result())
        yield ready


def _is_ready(coming: Future[_DecodedClip]) -> bool:
    """Say whether a sound was read, or soon is. One of which anything else is to be told waits for its own turn."""
    return bool(wait([coming], _PATIENCE).done) and coming.exception() is None


def _alike(heard: Sequence[_DecodedClip], place: int) -> list[int]:
    """Return the places, from one on, of clips as long as that one, as many as are answered at once."""
    length = _length(heard[place])
    most = max(1, int(_BATCH_SECONDS * SAMPLE_RATE / length))
    return [other for other in range(place, len(heard)) if _length(heard[other]) == length][:most]


def _length(heard: _DecodedClip) -> int:
    return -1 if heard.samples is None else len(heard.samples)


def _speech(windows: Iterable[Window]) -> float:
    """Return the seconds of speech in windows, which may overlap."""
    found, until = 0.0, 0.0
    for window in windows:
        found += sum(max(0.0, end - max(start, until)) for start, end in window.spans)
        until = window.end
    return found
