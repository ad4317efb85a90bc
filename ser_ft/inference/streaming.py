"""Inference on a stream, from a microphone or a call: windows as soon as they are complete."""

from __future__ import annotations

import numpy as np

from ..audio import SAMPLE_RATE, MonoConverter
from ..utils.errors import InputError
from .backends.base import Backend, ModelInfo
from .speaker_adaptation import SpeakerAdaptation
from .windows import SlidingWindow, Window, WindowPrediction, WindowSettings, window_prediction


class WindowStream:
    """Predicts windows of audio that is fed in chunks of any size, as `iter_windows` does for a whole file.

    A window is returned at most one second after its end (`ser_ft.audio.vad.LATENCY` and the delay of the resampler,
    from 8 kHz on); little more than one window and that second are kept in memory. The predictions do not depend on the
    size of the chunks, apart from the difference between a batch and a single clip in the backend (under 1e-5).

    `rate` is the sampling rate of the chunks in Hz; AudioError is raised if it is not valid. `channel` is the channel
    that is used, from 0. None: the mean of all channels, or one of them if they cancel each other; in the first minute,
    windows are then up to a quarter of a second later. `adapt`: adapt each prediction to the speaker by the windows so
    far.
    """

    def __init__(
        self,
        backend: Backend,
        settings: WindowSettings | None = None,
        rate: int = SAMPLE_RATE,
        channel: int | None = None,
        adapt: bool = False,
    ) -> None:
        self._converter = MonoConverter(rate, channel)
        self._sliding_window = SlidingWindow(backend, settings or WindowSettings(), adapt)
        self._open = True

    @property
    def speaker(self) -> SpeakerAdaptation | None:
        """What is known about the speaker so far; None without `adapt`."""
        memory = self._sliding_window.memory
        return None if memory is None else memory.speaker

    def feed(self, chunk: np.ndarray) -> list[Window]:
        """Take a chunk, as `MonoConverter.feed` does, and return the windows that are complete.

        InputError is raised if the chunk is not audio, or the stream is finished.
        """
        if not self._open:
            raise InputError("the stream is finished: open another one for more audio")
        return self._sliding_window.feed(self._converter.feed(chunk))

    def finish(self) -> list[Window]:
        """Return the remaining windows; a second call returns none."""
        if not self._open:
            return []
        self._open = False
        return self._sliding_window.feed(self._converter.finish()) + self._sliding_window.finish()


class PredictionStream:
    """A `WindowStream` whose windows are returned as `EmotionRecognizer.windows` returns them."""

    def __init__(self, stream: WindowStream, info: ModelInfo) -> None:
        self._stream = stream
        self._info = info

    @property
    def speaker(self) -> SpeakerAdaptation | None:
        """What is known about the speaker so far; None if predictions are not adapted as the stream goes on."""
        return self._stream.speaker

    def feed(self, chunk: np.ndarray) -> list[WindowPrediction]:
        """Take a chunk as `WindowStream.feed` does, and return the predictions of the windows that are complete."""
        return [window_prediction(window, self._info) for window in self._stream.feed(chunk)]

    def finish(self) -> list[WindowPrediction]:
        """Return the predictions of the remaining windows; a second call returns none."""
        return [window_prediction(window, self._info) for window in self._stream.finish()]
