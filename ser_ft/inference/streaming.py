"""Sound as it comes in, from a microphone or a call: windows as soon as they are known."""

from __future__ import annotations

import numpy as np

from ..audio import SAMPLE_RATE
from ..audio.streaming import MonoResampler
from ..utils.errors import InputError
from .backends import Backend, ModelInfo
from .windows import SlidingWindow, Window, WindowPrediction, WindowSettings, window_prediction


class WindowStream:
    """Answers sound that is fed in chunks of any size, with the windows that `file_windows` gives for the whole.

    A window is answered at most one second after its end (`voice.LATENCY`, and what resampling from 8 kHz or more holds
    back); hardly more than one window and that second are kept. The answers do not depend on how the sound is cut into
    chunks, save for what an engine's own answers differ by alone and in a batch (under 1e-5).

    Args:
        engine: that answers.
        settings: how to cut; the defaults where None.
        rate: sampling rate of the chunks, in Hz.
        channel: the one that is heard, from 0; None mixes all of them.

    Raises:
        AudioError: that is no sampling rate.
    """

    def __init__(
        self,
        engine: Backend,
        settings: WindowSettings | None = None,
        rate: int = SAMPLE_RATE,
        channel: int | None = None,
    ) -> None:
        self._mixer = MonoResampler(rate, channel)
        self._windower = SlidingWindow(engine, settings or WindowSettings())
        self._open = True

    def feed(self, chunk: np.ndarray) -> list[Window]:
        """Take a chunk and return the windows that are ready.

        Args:
            chunk: float with full scale at 1.0, or int16; shape (samples,) or (samples, channels).

        Raises:
            InputError: the chunk is no sound, or the stream is finished.
        """
        if not self._open:
            raise InputError("the stream is finished: open another for more sound")
        return self._windower.feed(self._mixer.feed(chunk))

    def finish(self) -> list[Window]:
        """Return the windows that are left; a second time, none."""
        if not self._open:
            return []
        self._open = False
        return self._windower.feed(self._mixer.finish()) + self._windower.finish()


class PredictionStream:
    """A `WindowStream` whose windows are told as `EmotionRecognizer.windows` tells them.

    Args:
        stream: that is fed. facts: of the model that answers it.
    """

    def __init__(self, stream: WindowStream, facts: ModelInfo) -> None:
        self._stream = stream
        self._facts = facts

    def feed(self, chunk: np.ndarray) -> list[WindowPrediction]:
        """Take a chunk as `Stream.feed` does, and return the answers to the windows that are ready."""
        return [window_prediction(window, self._facts) for window in self._stream.feed(chunk)]

    def finish(self) -> list[WindowPrediction]:
        """Return the answers that are left; a second time, none."""
        return [window_prediction(window, self._facts) for window in self._stream.finish()]
