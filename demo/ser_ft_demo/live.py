"""Tab Live: the microphone, and a chart of the last 30 seconds.

The browser sends sound directly, one request at a time. Gradio's own streaming writes every tenth of a second into a
file, and loses some of them on slow machines.
"""

from __future__ import annotations

import base64
import binascii
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from ser_ft.audio import from_pcm16
from ser_ft.inference.streaming import PredictionStream
from ser_ft.inference.windows import WindowPrediction
from ser_ft.monitor.summary import percent
from ser_ft.utils.errors import InputError

from . import drawing
from .messages import alert, duration_text, error_message, hint
from .network import client_network
from .state import AppState

CHART_SECONDS = 30.0
WINDOW, HOP = 3.0, 0.5
EMPTY = "Press the button and speak: the first prediction comes after four seconds, then two come each second."
_MAX_LEVEL, _MIN_LEVEL = -10.0, -60.0  # dBFS, range of the level meter
_IDLE_SECONDS = 15.0  # without sound, after which a stream is closed
_MAX_CHARACTERS = 2**22  # of the sound in one request
_MAX_KEY_LENGTH = 64
_MIN_RATE, _MAX_RATE = 3000, 768_000  # Hz, of an AudioContext in Chromium


@dataclass
class LiveStream:
    """One visitor's stream; only the last seconds of sound are stored, in `stream`."""

    stream: PredictionStream
    rate: int
    client: str
    seconds: float = 0.0  # of all sound received
    level: float = -120.0  # of the last sound, in dBFS
    predictions: deque[WindowPrediction] = field(default_factory=lambda: deque(maxlen=round(CHART_SECONDS / HOP) + 8))
    opened: float = field(default_factory=time.monotonic)
    last_used: float = field(default_factory=time.monotonic)
    lock: threading.Lock = field(default_factory=threading.Lock)


class LiveStreams:
    """All open streams of the page."""

    def __init__(self, state: AppState) -> None:
        self._state = state
        self._streams: dict[str, LiveStream] = {}
        self._lock = threading.Lock()

    def feed(self, key: str, rate: int, samples: np.ndarray, client: str = "") -> LiveStream:
        """Process the next samples, shape (samples,), of the stream with a key, and open the stream if it is new.

        Raises:
            InputError: too many streams are open, of all visitors or of this client, or this one is too long.
        """
        live_stream = self._get_or_open(key, rate, client)
        with live_stream.lock:
            live_stream.last_used = time.monotonic()
            live_stream.seconds += len(samples) / rate
            limit = self._state.limits.live_seconds
            # A stream that sends less than it records ends, too.
            if max(live_stream.seconds, live_stream.last_used - live_stream.opened) > limit:
                raise InputError(f"a live stream ends after {duration_text(limit)}: press the button again")
            power = float(np.mean(np.square(samples))) if len(samples) else 0.0
            live_stream.level = 10 * float(np.log10(max(power, 1e-12)))
            live_stream.predictions.extend(live_stream.stream.feed(samples))
        return live_stream

    def close(self, key: str) -> None:
        """Close a stream."""
        with self._lock:
            self._streams.pop(key, None)

    def _get_or_open(self, key: str, rate: int, client: str) -> LiveStream:
        with self._lock:
            now = time.monotonic()
            streams = self._streams.items()
            self._streams = {name: stream for name, stream in streams if now - stream.last_used < _IDLE_SECONDS}
            live_stream = self._streams.get(key)
            if live_stream is None or live_stream.rate != rate:
                limits, clients = (
                    self._state.limits,
                    [other.client for name, other in self._streams.items() if name != key],
                )
                if len(clients) >= limits.live_streams:
                    raise InputError("too many visitors are live at the moment: try again in a minute")
                if clients.count(client) >= limits.client_live_streams:
                    raise InputError("too many visitors are live at your address: try again in a minute")
                stream = self._state.model.recognizer.stream(rate, window=WINDOW, hop=HOP)
                live_stream = self._streams[key] = LiveStream(stream, rate, client)
            return live_stream


def server_functions(state: AppState) -> list[Callable[..., Any]]:
    """Return the functions that live.js calls on the server."""
    streams = LiveStreams(state)

    def feed(data: Any, request: gr.Request | None = None) -> dict[str, Any]:
        """Process [key, rate, int16 samples in base64]; return HTML, and whether the stream has ended."""
        key = ""
        try:
            key, rate, samples = _parse(data)
            client = client_network(request.client.host) if request and request.client else ""
            return {"html": to_html(state, streams.feed(key, rate, samples, client)), "ended": False}
        except Exception as error:
            streams.close(key)
            return {"html": alert(error_message(error)), "ended": True}

    def close(key: Any) -> None:
        """Close the stream with a key."""
        if isinstance(key, str):
            streams.close(key)

    return [feed, close]


def _parse(data: Any) -> tuple[str, int, np.ndarray]:
    """Return key, rate and samples of a request, which anybody may have sent."""
    try:
        key, rate, text = data
        if not (isinstance(key, str) and 8 <= len(key) <= _MAX_KEY_LENGTH and len(text) <= _MAX_CHARACTERS):
            raise ValueError
        samples = from_pcm16(np.frombuffer(base64.b64decode(text, validate=True), "<i2"))
    except (TypeError, ValueError, binascii.Error) as error:
        raise InputError("the request does not contain sound from a microphone: press the button again") from error
    # Any number, or none at all: JSON has Infinity and NaN for Python.
    if type(rate) not in (int, float) or not _MIN_RATE <= rate <= _MAX_RATE:
        raise InputError(
            f"the sampling rate of the microphone must be from {_MIN_RATE} to {_MAX_RATE} Hz: choose another microphone"
        )
    return key, int(rate), samples


def to_html(state: AppState, live_stream: LiveStream) -> str:
    """Return the latest prediction and the chart as HTML."""
    predictions = live_stream.predictions
    latest = predictions[-1] if predictions else None
    level = (live_stream.level - _MIN_LEVEL) / (_MAX_LEVEL - _MIN_LEVEL)
    times = [prediction["end"] for prediction in predictions]
    scores = [prediction["scores"] for prediction in predictions]
    zeros = dict.fromkeys(state.colors, 0.0)
    emotion = latest["emotion"] if latest and not latest["uncertain"] else None
    return (
        f'<section class="answer live">{_headline(latest)}'
        f'<div class="level" title="level"><i style="width:{100 * min(1.0, max(0.0, level)):.0f}%"></i></div>'
        f"{drawing.rolling_probabilities(times, scores, state.colors, CHART_SECONDS)}{drawing.legend(state.colors)}"
        f"{drawing.bars((latest and latest['scores']) or zeros, state.colors, emotion)}"
        f'<p class="faint"><span class="received">{live_stream.seconds:.1f} s received.</span> Each prediction is '
        f"for the {WINDOW:g} s before it.</p></section>"
    )


def _headline(latest: WindowPrediction | None) -> str:
    if latest is None:
        return '<p class="headline">listening<span>the first prediction comes after four seconds</span></p>'
    if latest["emotion"] is None or latest["scores"] is None:
        return '<p class="headline">silence<span>nobody speaks</span></p>'
    emotion, share = escape(latest["emotion"]), percent(latest["scores"][latest["emotion"]])
    if latest["uncertain"]:
        return f'<p class="headline">uncertain<span>most probable: {emotion}, {share}</span></p>'
    return f'<p class="headline">{emotion}<span>{share}</span></p>'


def build(state: AppState) -> None:
    """Build the tab."""
    limits = state.limits
    gr.HTML(
        '<p class="lead">Speak, and watch how it sounds: the last 30 seconds, with two predictions per second.</p>'
        f'<p class="faint">Up to {duration_text(limits.live_seconds)} at a time, for {limits.live_streams} visitors at '
        "once. Only the last seconds of sound are stored, in memory, while you speak.</p>"
        '<p><button type="button" class="microphone" aria-pressed="false">Start the microphone</button></p>'
        f'<div class="live-result">{hint(EMPTY)}</div>',
        elem_id="live",
        js_on_load=Path(__file__).with_name("live.js").read_text(encoding="utf-8"),
        server_functions=server_functions(state),
    )
