"""Live: the microphone, and a chart of the last 30 seconds."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from ser_ft.audio_stream import open_sound
from ser_ft.recognition.feedback import percent
from ser_ft.recognition.stream import AnswerStream
from ser_ft.recognition.windows import WindowAnswer

from . import drawing
from .parts import Shop, alert, files_only, hint
from .words import length, sentence

SPAN = 30.0
"""Seconds that the chart shows."""
WINDOW, HOP = 3.0, 0.5
EVERY = 0.4
"""Seconds of sound that the browser sends at a time."""
EMPTY = "Press record and speak: the first answer comes after four seconds, then two each second."
_LOUDEST, _SOFTEST = -10.0, -60.0  # dBFS, the ends of the level meter


@dataclass
class Session:
    """What is kept of a live stream: the last answers, not the sound.

    Attributes:
        stream: that is fed. rate: of its sound, in Hz. seconds: that were heard. level: of the last chunk, in dBFS.
        answers: of the last 30 s.
    """

    stream: AnswerStream
    rate: int
    seconds: float = 0.0
    level: float = -120.0
    answers: deque[WindowAnswer] = field(default_factory=lambda: deque(maxlen=round(SPAN / HOP) + 8))

    def __deepcopy__(self, _: dict[int, Any]) -> Session:
        """Belong to one visitor: gradio copies what a session begins with."""
        return self


def hear(shop: Shop, chunk: str | None, session: Session | None) -> tuple[str, Session | None]:
    """Take a chunk of a live stream in, and delete its file.

    Args:
        shop: the page's. chunk: the path of its file. session: None: the stream begins.

    Returns:
        what is shown, and the session.
    """
    if not chunk:
        return (page(shop, session) if session else hint(EMPTY)), session
    try:
        rate, samples = _samples(chunk)
        if session is None or session.rate != rate:
            stream = shop.model.recognise.stream(rate, window=WINDOW, hop=HOP)
            session = Session(stream, rate)
        session.seconds += len(samples) / rate
        session.level = 10 * float(np.log10(max(float(np.mean(np.square(samples))), 1e-12)))
        session.answers.extend(session.stream.feed(samples))
        return page(shop, session), session
    except Exception as error:
        return alert(sentence(error, chunk)), None
    finally:
        Path(chunk).unlink(missing_ok=True)


def _samples(path: str) -> tuple[int, np.ndarray]:
    """Read a chunk at its own rate: Hz, and float32, shape (samples, channels)."""
    with open_sound(path) as sound:
        return sound.rate, np.concatenate(list(sound.blocks()))


def page(shop: Shop, session: Session) -> str:
    """Show how the last seconds sounded."""
    last = session.answers[-1] if session.answers else None
    level = (session.level - _SOFTEST) / (_LOUDEST - _SOFTEST)
    times = [answer["end"] for answer in session.answers]
    scores = [answer["scores"] for answer in session.answers]
    nothing = dict.fromkeys(shop.fills, 0.0)
    named = last["emotion"] if last and not last["uncertain"] else None
    return (
        f'<section class="answer live" role="status" aria-live="off">{_headline(last)}'
        f'<div class="level" title="level"><i style="width:{100 * min(1.0, max(0.0, level)):.0f}%"></i></div>'
        f"{drawing.rolling(times, scores, shop.fills, SPAN)}{drawing.legend(shop.fills)}"
        f"{drawing.bars((last and last['scores']) or nothing, shop.fills, named)}"
        f'<p class="faint">{session.seconds:.1f} s heard. Each answer is about the {WINDOW:g} s before it.</p></section>'
    )


def _headline(last: WindowAnswer | None) -> str:
    if last is None:
        return '<p class="says">listening<span>the first answer comes after four seconds</span></p>'
    if last["emotion"] is None or last["scores"] is None:
        return '<p class="says">silence<span>nobody speaks</span></p>'
    share = percent(last["scores"][last["emotion"]])
    if last["uncertain"]:
        return f'<p class="says">uncertain<span>nearest: {escape(last["emotion"])}, {share}</span></p>'
    return f'<p class="says">{escape(last["emotion"])}<span>{share}</span></p>'


def build(shop: Shop) -> None:
    """Build the tab."""
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            gr.HTML(
                '<p class="lead">Speak, and watch how it sounds: the last 30 seconds, two answers a second.</p>'
                f'<p class="faint">Up to {length(shop.limits.live)} at a time, for {shop.limits.listeners} people at '
                "once. Only the last three seconds of sound are kept, and only while you speak.</p>"
            )
            microphone = files_only(
                gr.Audio(
                    sources=["microphone"],
                    streaming=True,
                    type="filepath",
                    label="Microphone",
                    buttons=[],
                    elem_id="live-microphone",
                )
            )
        with gr.Column(scale=3, min_width=280):
            answer = gr.HTML(hint(EMPTY), elem_id="live-answer")
    session = gr.State(None, time_to_live=shop.limits.kept)
    microphone.start_recording(lambda: (hint(EMPTY), None), None, [answer, session], api_visibility="private")
    microphone.stream(
        lambda chunk, kept: hear(shop, chunk, kept),
        [microphone, session],
        [answer, session],
        stream_every=EVERY,
        time_limit=shop.limits.live,
        concurrency_limit=shop.limits.listeners,
        show_progress="hidden",
        api_visibility="private",
    )
