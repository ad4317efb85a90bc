"""`EmotionRecognizer`: the emotion expressed in clips, long recordings and streams."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice, takewhile
from pathlib import Path
from threading import Event
from typing import TypedDict

import numpy as np

from ..audio import SAMPLE_RATE, AudioError
from ..audio.vad import speech_frames
from ..utils.errors import InputError, raise_machine_failure
from .backends import Backend, open_backend
from .decoding import MIN_SECONDS, Extent, decode_ahead
from .inputs import AudioInput, AudioLike, iter_inputs
from .speaker_adaptation import AdaptedBackend, SpeakerAdaptation
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

MAX_CLIP_SECONDS = 20.0
"""Longer clips are cut into windows."""
_LONG_CLIP_WINDOW = 10.0  # seconds
_BATCH_SECONDS = 60.0  # of audio that is predicted together, which limits the memory
_MAX_WORKERS = 8


class ClipPrediction(TypedDict):
    """The prediction for a clip; `duration`, and `speech` (how much of it is speech), in seconds.

    `adapted` is the number of clips of the speaker that it is adapted by, 0 without adaptation.
    """

    path: str | None
    emotion: str
    scores: dict[str, float]
    uncertain: bool
    duration: float
    speech: float
    adapted: int


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
        speaker: The speaker that predictions are adapted to, as the attribute `speaker` of what `adapt` returns. None:
            predictions are not adapted.

    Raises:
        InputError: The model does not exist, is not safe to load, or does not run on the device; or the speaker was
            saved by a model with other classes.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        device: str | None = None,
        threads: int | None = None,
        allow_pickle: bool = False,
        speaker: SpeakerAdaptation | None = None,
    ) -> None:
        self._unadapted = open_backend(model, device, threads, allow_pickle)
        self._set_speaker(speaker)
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
            of each class), "uncertain", "duration" and "speech" (the length of the clip and of the speech in it, in s),
            and "adapted" (the number of clips of the speaker that it is adapted by; 0: none).

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

    def adapt(self, sound: AudioLike) -> EmotionRecognizer:
        """Return a recognizer that is adapted to the speaker of some clips, of which no labels are needed.

        Its predictions, of clips, windows and streams, are corrected by what this model predicts for the clips on
        average: see `ser_ft.inference.speaker_adaptation`. From about ten clips of mixed emotions on, this is usually
        a gain, above all if the model was trained on other recordings. If the clips seem to express one emotion, or
        are only one, predictions remain as they are. `speaker.save(file)` saves what is known about the speaker;
        `EmotionRecognizer(model, speaker=SpeakerAdaptation.load(file))` uses it.

        Args:
            sound: Clips of one speaker, as in `__call__`; those without speech are ignored.

        Raises:
            AudioError: As in `__call__`.
            InputError: As in `__call__`, or none of the clips holds speech.
        """
        adapted = copy.copy(self)
        adapted._set_speaker(None)
        speaker = _speaker(self.info.classes, adapted(sound))
        if not len(speaker.probabilities):
            raise InputError("adapt takes clips of one speaker, but no speech was found in them: pass others")
        adapted._set_speaker(speaker)
        return adapted

    def adapt_predictions(self, predictions: Sequence[ClipPrediction]) -> list[ClipPrediction]:
        """Adapt predictions for clips of one speaker to this speaker.

        The result is that of `adapt` to these clips, called with the same clips.
        """
        speaker = _speaker(self.info.classes, predictions)
        return [
            self._prediction(
                clip["path"], np.array(list(clip["scores"].values())), clip["duration"], clip["speech"], speaker
            )
            for clip in predictions
        ]

    def _set_speaker(self, speaker: SpeakerAdaptation | None) -> None:
        self.speaker = speaker
        self.backend = self._unadapted if speaker is None else AdaptedBackend(self._unadapted, speaker)

    def iter_predictions(
        self, sounds: Iterable[AudioInput]
    ) -> Iterator[tuple[AudioInput, ClipPrediction | AudioError]]:
        """Recognize any number of clips in bounded memory. The next clips are decoded while some are predicted.

        `sounds` are inputs as `ser_ft.inference.inputs.iter_inputs` yields them. Each is yielded with its prediction or
        its error, in order.
        """
        pool, stopped = ThreadPoolExecutor(self._workers), Event()
        try:
            for clips in decode_ahead(pool, partial(self._decode, stopped=stopped), sounds):
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
        adapt: bool = False,
    ) -> PredictionStream:
        """Open a stream: `feed` it chunks of any size, then `finish` it. Both return windows as `windows` does.

        Args:
            rate: Sampling rate of the chunks, in Hz.
            window: See `windows`, as for `hop` and `smoothing`.
            channel: The channel that is used, from 0. None: the mean of all channels.
            adapt: Adapt each prediction to the speaker by the windows so far; see the method `adapt`. The stream's
                `speaker` is what is known about the speaker.

        Raises:
            InputError: The sampling rate or a length is not valid.
        """
        backend = self._unadapted if adapt else self.backend
        stream = WindowStream(backend, _window_settings(window, hop, smoothing), rate, channel, adapt)
        return PredictionStream(stream, self.info)

    def _recording_windows(self, sound: AudioLike, settings: WindowSettings) -> list[Window]:
        inputs = list(islice(iter_inputs(sound), 2))
        if len(inputs) != 1:
            raise InputError("windows and segments take one recording: call them for each")
        return _windows(self.backend, inputs[0].blocks(), settings)

    def _decode(self, item: AudioInput, stopped: Event) -> _DecodedClip:
        """Read a clip, and predict it if it is long; reading ends early when nobody waits for it any more."""

        def read() -> Iterator[np.ndarray]:
            return takewhile(lambda _: not stopped.is_set(), item.blocks())

        blocks, pieces, extent = read(), [], Extent()
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
                predicted |= zip(batch, self._unadapted.probabilities(np.stack(waveforms)), strict=True)
            if clip.outcome is not None:
                yield clip.item, clip.outcome
            else:
                path, probabilities = clip.item.path, predicted.pop(index)
                yield clip.item, self._prediction(path, probabilities, clip.seconds, clip.speech, self.speaker)

    def _prediction(
        self,
        path: str | None,
        probabilities: np.ndarray,
        seconds: float,
        speech: float,
        speaker: SpeakerAdaptation | None,
    ) -> ClipPrediction:
        probabilities = speaker.adapt(probabilities) if speaker else probabilities
        scores = dict(zip(self.info.classes, probabilities.tolist(), strict=True))
        emotion = max(scores, key=lambda name: scores[name])
        below_threshold = self.info.threshold is not None and scores[emotion] < self.info.threshold
        uncertain = below_threshold or not speech
        return ClipPrediction(
            path=path,
            emotion=emotion,
            scores=scores,
            uncertain=uncertain,
            duration=seconds,
            speech=speech,
            adapted=speaker.clips if speaker else 0,
        )

    def _predict_long_clip(
        self, item: AudioInput, blocks: Iterable[np.ndarray], reread: Callable[[], Iterator[np.ndarray]]
    ) -> ClipPrediction:
        """Predict a long clip by its windows; if none holds enough speech, by all of them."""
        extent, settings = Extent(), self._long_clip_settings
        windows = _windows(self._unadapted, map(extent.add, blocks), settings)
        extent.check(item.name)
        predicted = [window for window in windows if window.probabilities is not None]
        weights = [window.speech for window in predicted]
        if not predicted:
            predicted = _windows(self._unadapted, reread(), replace(settings, min_speech=0.0))
            weights = [1.0] * len(predicted)
        probabilities = [window.probabilities for window in predicted if window.probabilities is not None]
        mean = np.average(probabilities, axis=0, weights=weights)
        return self._prediction(item.path, mean, extent.seconds, _speech_seconds(windows), self.speaker)


def _speaker(classes: Sequence[str], predictions: Iterable[ClipPrediction]) -> SpeakerAdaptation:
    """Return the speaker of clips, by those that hold speech."""
    scores = [list(clip["scores"].values()) for clip in predictions if clip["speech"]]
    return SpeakerAdaptation(tuple(classes), np.array(scores, dtype=float).reshape(-1, len(classes)))


def _windows(backend: Backend, blocks: Iterable[np.ndarray], settings: WindowSettings) -> list[Window]:
    sliding_window = SlidingWindow(backend, settings)
    windows = [window for block in blocks for window in sliding_window.feed(block)]
    return windows + sliding_window.finish()


def _window_settings(window: float, hop: float, smoothing: float) -> WindowSettings:
    # Not more speech is required than a short window can hold.
    return WindowSettings(window, hop, smoothing, min(WindowSettings.min_speech, window))


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
