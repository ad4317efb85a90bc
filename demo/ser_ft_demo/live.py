"""Live: the microphone, and a chart of the last 30 seconds.

The sound comes straight from the browser, a request at a time: gradio's own streaming writes every tenth of a second
into a file, and drops some of them where the machine is slower.
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
from .components import AppState, alert, hint
from .messages import length, sentence

SPAN = 30.0
"""Seconds that the chart shows."""
WINDOW, HOP = 3.0, 0.5
EMPTY = "Press the button and speak: the first answer comes after four seconds, then two each second."
_LOUDEST, _SOFTEST = -10.0, -60.0  # dBFS, the ends of the level meter
_IDLE = 15.0  # seconds without sound after which a stream is forgotten
_LARGEST = 2**22  # characters of sound that are taken at a time
_LONGEST_KEY = 64


@dataclass
class Session:
    """What is kept of a live stream: the last answers, and in the stream the last seconds of sound.

    Attributes:
        stream: that is fed. rate: of its sound, in Hz. seconds: that were heard. level: of the last sound, in dBFS.
        answers: of the last 30 s. touched: when sound came last. lock: held while sound is taken in.
    """

    stream: PredictionStream
    rate: int
    seconds: float = 0.0
    level: float = -120.0
    answers: deque[WindowPrediction] = field(default_factory=lambda: deque(maxlen=round(SPAN / HOP) + 8))
    touched: float = field(default_factory=time.monotonic)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Sessions:
    """The live streams of a page."""

    def __init__(self, state: AppState) -> None:
        self._state = state
        self._open: dict[str, Session] = {}
        self._lock = threading.Lock()

    def hear(self, key: str, rate: int, sound: np.ndarray) -> Session:
        """Take in the next sound of a stream, which begins with the first.

        Args:
            key: of the stream, chosen by the browser. rate: in Hz, the same throughout. sound: float, shape (samples,).

        Raises:
            InputError: too many streams are open, or this one is too long.
        """
        session = self._session(key, rate)
        with session.lock:
            session.touched = time.monotonic()
            session.seconds += len(sound) / rate
            if session.seconds > self._state.limits.live:
                raise InputError(f"a live stream ends after {length(self._state.limits.live)}: press the button again")
            session.level = 10 * float(np.log10(max(float(np.mean(np.square(sound))) if len(sound) else 0.0, 1e-12)))
            session.answers.extend(session.stream.feed(sound))
        return session

    def close(self, key: str) -> None:
        """Forget a stream."""
        with self._lock:
            self._open.pop(key, None)

    def _session(self, key: str, rate: int) -> Session:
        with self._lock:
            now = time.monotonic()
            self._open = {name: one for name, one in self._open.items() if now - one.touched < _IDLE}
            found = self._open.get(key)
            if found is None or found.rate != rate:
                if found is None and len(self._open) >= self._state.limits.listeners:
                    raise InputError("as many people as can be are live at the moment: try again in a minute")
                found = Session(self._state.model.recognise.stream(rate, window=WINDOW, hop=HOP), rate)
                self._open[key] = found
            return found


def server_functions(state: AppState) -> list[Callable[..., Any]]:
    """Return what live.js asks the server for."""
    sessions = Sessions(state)

    def hear(data: list[Any]) -> dict[str, Any]:
        """Take (key, rate, int16 samples in base64); return the HTML to show, and whether the stream is over."""
        key = ""
        try:
            key, rate, sound = _checked(data)
            return {"html": page(state, sessions.hear(key, rate, sound)), "over": False}
        except Exception as error:
            sessions.close(key)
            return {"html": alert(sentence(error)), "over": True}

    def close(data: list[Any]) -> None:
        """Take (key): the stream is over."""
        sessions.close(str(data[0])[:_LONGEST_KEY] if data else "")

    return [hear, close]


def _checked(data: Any) -> tuple[str, int, np.ndarray]:
    """Return a stream's key, its rate and its next samples, of what a browser, or anybody, sent."""
    try:
        key, rate, text = data
        if not (isinstance(key, str) and 8 <= len(key) <= _LONGEST_KEY and len(text) <= _LARGEST):
            raise ValueError
        return key, int(rate), from_pcm16(np.frombuffer(base64.b64decode(text, validate=True), "<i2"))
    except (TypeError, ValueError, binascii.Error) as error:
        raise InputError("this is no sound of a microphone: press the button again") from error


def page(state: AppState, session: Session) -> str:
    """Show how the last seconds sounded."""
    last = session.answers[-1] if session.answers else None
    level = (session.level - _SOFTEST) / (_LOUDEST - _SOFTEST)
    times = [answer["end"] for answer in session.answers]
    scores = [answer["scores"] for answer in session.answers]
    nothing = dict.fromkeys(state.fills, 0.0)
    named = last["emotion"] if last and not last["uncertain"] else None
    return (
        f'<section class="answer live">{_headline(last)}'
        f'<div class="level" title="level"><i style="width:{100 * min(1.0, max(0.0, level)):.0f}%"></i></div>'
        f"{drawing.rolling(times, scores, state.fills, SPAN)}{drawing.legend(state.fills)}"
        f"{drawing.bars((last and last['scores']) or nothing, state.fills, named)}"
        f'<p class="faint"><span class="heard">{session.seconds:.1f} s heard.</span> Each answer is about the '
        f"{WINDOW:g} s before it.</p></section>"
    )


def _headline(last: WindowPrediction | None) -> str:
    if last is None:
        return '<p class="says">listening<span>the first answer comes after four seconds</span></p>'
    if last["emotion"] is None or last["scores"] is None:
        return '<p class="says">silence<span>nobody speaks</span></p>'
    share = percent(last["scores"][last["emotion"]])
    if last["uncertain"]:
        return f'<p class="says">uncertain<span>nearest: {escape(last["emotion"])}, {share}</span></p>'
    return f'<p class="says">{escape(last["emotion"])}<span>{share}</span></p>'


def build(state: AppState) -> None:
    """Build the tab."""
    about = (
        f"Up to {length(state.limits.live)} at a time, for {state.limits.listeners} people at once. Only the last "
        "seconds of sound are held, in memory, and only while you speak."
    )
    gr.HTML(
        '<p class="lead">Speak, and watch how it sounds: the last 30 seconds, two answers a second.</p>'
        f'<p class="faint">{about}</p><p><button type="button" class="microphone" aria-pressed="false">'
        f'Start the microphone</button></p><div class="live-answer">{hint(EMPTY)}</div>',
        elem_id="live",
        js_on_load=Path(__file__).with_name("live.js").read_text(encoding="utf-8"),
        server_functions=server_functions(state),
    )
