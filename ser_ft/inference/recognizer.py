"""`EmotionRecognizer`: the emotion expressed in clips, long recordings and streams."""

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
from ..utils.errors import InputError, raise_machine_failure
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
"""Clips that are shorter cannot be recognized."""
MAX_CLIP_SECONDS = 20.0
"""Longer clips are cut into windows."""
_LONG_CLIP_WINDOW = 10.0  # seconds
# Clips that are predicted together (twice as many are decoded in advance) and their seconds of audio: they limit the
# memory. A batch waits for the next clip for `_WAIT` seconds.
_BATCH_SIZE = 32
_BATCH_SECONDS = 60.0
_WAIT = 0.1
_MAX_WORKERS = 8


class ClipPrediction(TypedDict):
    """The prediction for a clip; `duration`, and `speech` (how much of it is speech), in seconds."""

    path: str | None
    emotion: str
    scores: dict[str, float]
    uncertain: bool
    duration: float
    speech: float


@dataclass(frozen=True)
class _DecodedClip:
    """An input that was read, and its samples, if it is still to be predicted.

    `seconds` is its duration. `outcome` is its prediction if there is one already, or the error if it could not be
    read.
    """

    item: AudioInput
    samples: np.ndarray | None = None
    seconds: float = 0.0
    speech: float = 0.0
    outcome: ClipPrediction | AudioError | None = None


class EmotionRecognizer:
    """Recognizes the emotion that is expressed in speech.

    A clip of up to 20 s is predicted as a whole. A longer one is cut into windows of 10 s, the last of which is aligned
    with its end, and its probabilities are the mean of those of the windows, weighted by the speech in each; only one
    window is kept in memory. If the model uses less of a clip, both limits are lowered to that. A prediction is
    "uncertain" if its highest probability is below the model's threshold, or if no speech was found.

    The prediction for a clip does not depend on the other clips, and several threads may use one recognizer.

    Args:
        model: An ONNX file of `ser-ft export`, a run folder, a folder with a saved classifier, or a name on the Hub.
            None: the model that is part of the package.
        device: A PyTorch device. None: a GPU if there is one.
        threads: Threads that compute one batch. None: one per core, or a single one for a small ONNX model.
        allow_pickle: Also load pickled weights (pytorch_model.bin), with PyTorch's restricted unpickler. By default
            only safetensors and ONNX files are loaded.

    Raises:
        InputError: The model does not exist, is not safe to load, or does not run on the device.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        device: str | None = None,
        threads: int | None = None,
        allow_pickle: bool = False,
    ) -> None:
        self.backend = open_backend(model, device, threads, allow_pickle)
        self.info = self.backend.info
        usable = max(MIN_SECONDS, self.info.max_seconds or MAX_CLIP_SECONDS)
        length = min(_LONG_CLIP_WINDOW, usable)
        self._max_clip_seconds = min(MAX_CLIP_SECONDS, usable)
        self._long_clip_settings = _window_settings(length, length, 0.0)
        self._workers = min(_MAX_WORKERS, os.cpu_count() or 1)

    def __call__(self, sound: AudioLike) -> list[ClipPrediction]:
        """Recognize one clip or several.

        Args:
            sound: The path of a file, or of a folder, which is searched with its subfolders; the bytes of a file;
                {"array": samples, "sampling_rate": Hz} ("raw" means the same as "array"); (Hz, samples); or a list of
                these. Samples are floats with full scale at 1.0, or int16, int32, int8 or uint8, of shape (samples,),
                (samples, channels) or (channels, samples), at any rate.

        Returns:
            A dictionary for each clip, in their order: "path" (None without one), "emotion", "scores" (the probability
            of each class), "uncertain", "duration" and "speech" (the length of the clip and of the speech in it, in s).

        Raises:
            AudioError: A clip cannot be decoded, is silent, or is shorter than 0.1 s.
            InputError: The argument is not of a supported kind.
        """
        predictions = []
        for _, outcome in self.iter_predictions(iter_inputs(sound)):
            if isinstance(outcome, AudioError):
                raise outcome
            predictions.append(outcome)
        return predictions

    def iter_predictions(
        self, sounds: Iterable[AudioInput]
    ) -> Iterator[tuple[AudioInput, ClipPrediction | AudioError]]:
        """Recognize any number of clips in bounded memory. The next clips are decoded while some are predicted.

        `sounds` are inputs as `ser_ft.inference.inputs.iter_inputs` yields them. Each is yielded with its prediction or
        its error, in order.
        """
        pool, stopped = ThreadPoolExecutor(self._workers), Event()
        try:
            for clips in _decode_ahead(pool, partial(self._decode, stopped=stopped), sounds):
                yield from self._predict_clips(clips)
        finally:
            stopped.set()
            pool.shutdown(cancel_futures=True)

    def windows(
        self, sound: AudioLike, window: float = 3.0, hop: float = 1.0, smoothing: float = 1.5
    ) -> list[WindowPrediction]:
        """Recognize a recording in sliding windows. A file is read block by block.

        Args:
            sound: One recording, of any kind that a clip may have; its channels are averaged.
            window: Length of a window, in seconds.
            hop: Time from the start of a window to the start of the next, in seconds.
            smoothing: Time constant of the smoothing over windows, in seconds; 0: no smoothing.

        Returns:
            A dictionary for each window: "start" and "end" (s), "emotion", "scores" and "uncertain" after smoothing,
            and "speech" (the share of the window that is speech). "emotion" and "scores" are None if there is too
            little speech. The last window is aligned with the end of the recording.

        Raises:
            AudioError: The recording cannot be decoded.
            InputError: The argument is not of a supported kind or holds several recordings, or a length is not valid.
        """
        settings = _window_settings(window, hop, smoothing)
        return [window_prediction(piece, self.info) for piece in self._recording_windows(sound, settings)]

    def segments(
        self, sound: AudioLike, window: float = 3.0, hop: float = 1.0, smoothing: float = 1.5
    ) -> list[Segment]:
        """Recognize a recording as `windows` does, and merge the windows into segments of one emotion.

        Returns:
            The segments, trimmed to the speech in them, with `start` and `end` (s), `emotion`, `probability` (the mean
            over its speech) and `uncertain`.
        """
        settings = _window_settings(window, hop, smoothing)
        return merge_windows(self._recording_windows(sound, settings), self.info, settings)

    def stream(
        self,
        rate: int = SAMPLE_RATE,
        window: float = 3.0,
        hop: float = 1.0,
        smoothing: float = 1.5,
        channel: int | None = None,
    ) -> PredictionStream:
        """Open a stream: `feed` it chunks of any size, then `finish` it. Both return windows as `windows` does.

        Args:
            rate: Sampling rate of the chunks, in Hz.
            window: See `windows`, as for `hop` and `smoothing`.
            channel: The channel that is used, from 0. None: the mean of all channels.

        Raises:
            InputError: The sampling rate or a length is not valid.
        """
        stream = WindowStream(self.backend, _window_settings(window, hop, smoothing), rate, channel)
        return PredictionStream(stream, self.info)

    def _recording_windows(self, sound: AudioLike, settings: WindowSettings) -> list[Window]:
        inputs = list(islice(iter_inputs(sound), 2))
        if len(inputs) != 1:
            raise InputError("windows and segments take one recording: call them for each")
        return self._windows(inputs[0].blocks(), settings)

    def _windows(self, blocks: Iterable[np.ndarray], settings: WindowSettings) -> list[Window]:
        sliding_window = SlidingWindow(self.backend, settings)
        windows = [window for block in blocks for window in sliding_window.feed(block)]
        return windows + sliding_window.finish()

    def _decode(self, item: AudioInput, stopped: Event) -> _DecodedClip:
        """Read a clip, and predict it if it is long; reading ends early when nobody waits for it any more."""

        def read() -> Iterator[np.ndarray]:
            return takewhile(lambda _: not stopped.is_set(), item.blocks())

        blocks, pieces, extent = read(), [], _Extent()
        try:
            for block in blocks:
                pieces.append(extent.add(block))
                if extent.seconds > self._max_clip_seconds:
                    return _DecodedClip(item, outcome=self._predict_long_clip(item, chain(pieces, blocks), read))
            extent.check(item.name)
        except AudioError as error:
            raise_machine_failure(error)
            return _DecodedClip(item, outcome=error.without_traceback())
        samples = np.concatenate(pieces)
        speech = min(extent.seconds, float(speech_frames(samples).sum()) * FRAME_SECONDS)
        return _DecodedClip(item, samples, extent.seconds, speech)

    def _predict_clips(self, clips: Sequence[_DecodedClip]) -> Iterator[tuple[AudioInput, ClipPrediction | AudioError]]:
        """Predict clips of one length together, and yield each clip as soon as those before it are done."""
        predicted: dict[int, np.ndarray] = {}
        for index, clip in enumerate(clips):
            if clip.samples is not None and index not in predicted:
                batch = _same_length(clips, index)
                waveforms = [samples for other in batch if (samples := clips[other].samples) is not None]
                predicted |= zip(batch, self.backend.probabilities(np.stack(waveforms)), strict=True)
            if clip.outcome is not None:
                yield clip.item, clip.outcome
            else:
                yield clip.item, self._prediction(clip.item, predicted.pop(index), clip.seconds, clip.speech)

    def _prediction(self, item: AudioInput, probabilities: np.ndarray, seconds: float, speech: float) -> ClipPrediction:
        scores = dict(zip(self.info.classes, probabilities.tolist(), strict=True))
        emotion = max(scores, key=lambda name: scores[name])
        below_threshold = self.info.threshold is not None and scores[emotion] < self.info.threshold
        uncertain = below_threshold or not speech
        return ClipPrediction(
            path=item.path, emotion=emotion, scores=scores, uncertain=uncertain, duration=seconds, speech=speech
        )

    def _predict_long_clip(
        self, item: AudioInput, blocks: Iterable[np.ndarray], reread: Callable[[], Iterator[np.ndarray]]
    ) -> ClipPrediction:
        """Predict a long clip by its windows; if none holds enough speech, by all of them."""
        extent, settings = _Extent(), self._long_clip_settings
        windows = self._windows(map(extent.add, blocks), settings)
        extent.check(item.name)
        predicted = [window for window in windows if window.probabilities is not None]
        weights = [window.speech for window in predicted]
        if not predicted:
            predicted = self._windows(reread(), replace(settings, min_speech=0.0))
            weights = [1.0] * len(predicted)
        probabilities = [window.probabilities for window in predicted if window.probabilities is not None]
        mean = np.average(probabilities, axis=0, weights=weights)
        return self._prediction(item, mean, extent.seconds, _speech_seconds(windows))


@dataclass
class _Extent:
    """Number of samples, minimum and maximum of audio that arrives in blocks."""

    samples: int = 0
    low: float = np.inf
    high: float = -np.inf

    @property
    def seconds(self) -> float:
        return self.samples / SAMPLE_RATE

    def add(self, block: np.ndarray) -> np.ndarray:
        if len(block):
            self.samples += len(block)
            self.low, self.high = min(self.low, float(block.min())), max(self.high, float(block.max()))
        return block

    def check(self, name: str) -> None:
        if self.seconds < MIN_SECONDS:
            duration = f"{1000 * self.seconds:.1f} ms"
            raise AudioError("too-short", f"{name}: {duration} of audio is too short: the minimum is {MIN_SECONDS} s")
        if (self.high - self.low) / 2 < SILENCE_PEAK:
            raise AudioError("silent", f"{name}: silent: nothing in it is louder than -60 dBFS")


def _window_settings(window: float, hop: float, smoothing: float) -> WindowSettings:
    # Not more speech is required than a short window can hold.
    return WindowSettings(window, hop, smoothing, min(WindowSettings.min_speech, window))


def _decode_ahead(
    pool: ThreadPoolExecutor, decode: Callable[[AudioInput], _DecodedClip], sounds: Iterable[AudioInput]
) -> Iterator[list[_DecodedClip]]:
    waiting: Iterator[AudioInput] = iter(sounds)
    first = list(islice(waiting, 2))
    if len(first) == 1:
        # A single clip is decoded here, without starting a thread.
        yield [decode(first[0])]
        return
    waiting, futures = chain(first, waiting), deque[Future[_DecodedClip]]()
    while True:
        futures += [pool.submit(decode, item) for item in islice(waiting, 2 * _BATCH_SIZE - len(futures))]
        if not futures:
            return
        ready = [futures.popleft().result()]
        while futures and len(ready) < _BATCH_SIZE and wait([futures[0]], _WAIT).done:
            if futures[0].exception() is not None:
                break  # it is raised when the clip is first in line
            ready.append(futures.popleft().result())
        yield ready


def _same_length(clips: Sequence[_DecodedClip], index: int) -> list[int]:
    lengths = [-1 if clip.samples is None else len(clip.samples) for clip in clips]
    most = max(1, int(_BATCH_SECONDS * SAMPLE_RATE / lengths[index]))
    return [other for other in range(index, len(clips)) if lengths[other] == lengths[index]][:most]


def _speech_seconds(windows: Iterable[Window]) -> float:
    seconds, covered = 0.0, 0.0  # windows may overlap
    for window in windows:
        seconds += sum(max(0.0, end - max(start, covered)) for start, end in window.spans)
        covered = window.end
    return seconds
