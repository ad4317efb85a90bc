"""Speak, or drop a file: one recording, one answer."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from ser_ft.audio import SAMPLE_RATE
from ser_ft.inference.recognizer import ClipPrediction
from ser_ft.monitor.summary import percent

from . import drawing
from .audio_input import Clip, read
from .components import AppState, ask, errors_as_html, examples, hint
from .messages import length
from .models import Model

EMPTY = "The answer will stand here: speak a sentence or two, drop a file, or try an example."


@dataclass(frozen=True)
class Prediction:
    """A recording and a model's answer to it."""

    clip: Clip
    answer: ClipPrediction


def recognise(state: AppState, path: str | None) -> Prediction:
    """Answer a recording.

    Raises:
        InputError: there is none, it cannot be read, or is too long.
    """
    clip = read(path, state.limits.clip, "the tab Call takes longer ones")
    return Prediction(clip, answer_of(state.model, clip))


def answer_of(model: Model, clip: Clip) -> ClipPrediction:
    """Ask a model."""
    return model.recognise((SAMPLE_RATE, clip.samples))[0]


def record(heard: Prediction) -> dict[str, Any]:
    """Put an answer into a mapping for JSON."""
    told: dict[str, Any] = {**heard.answer}
    del told["path"]
    return {"file": heard.clip.name, **told}


def headline(answer: ClipPrediction) -> str:
    """Say the answer: the emotion, or that it is uncertain and what is nearest."""
    emotion, share = answer["emotion"], percent(answer["scores"][answer["emotion"]])
    if not answer["speech"]:
        return (
            '<p class="says">no speech<span>nothing that sounds like speech was found: '
            f"what stands below says little (nearest: {escape(emotion)}, {share})</span></p>"
        )
    if answer["uncertain"]:
        return f'<p class="says">uncertain<span>nearest: {escape(emotion)}, {share}</span></p>'
    return f'<p class="says">{escape(emotion)}<span>{share}</span></p>'


def page(state: AppState, heard: Prediction) -> str:
    """Show an answer: the emotion, the probabilities, and the recording as it was heard."""
    answer, clip = heard.answer, heard.clip
    scores = drawing.bars(answer["scores"], state.fills, None if answer["uncertain"] else answer["emotion"])
    about = f"{escape(clip.name)}: {clip.seconds:.1f} s, {answer['speech']:.1f} s of it speech. Judged by "
    return (
        f'<section class="answer" role="status">{headline(answer)}{scores}'
        f"<figure>{drawing.waveform(clip.samples)}{drawing.spectrogram(clip.samples)}"
        f"<figcaption>Waveform and log-mel spectrogram, 0 to {clip.seconds:.1f} s, up to 8 kHz.</figcaption></figure>"
        f'<p class="faint">{about}{escape(state.model.name)}.</p></section>'
    )


def build(state: AppState) -> None:
    """Build the tab."""
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            gr.HTML(f'<p class="lead">Speak, or drop a recording of up to {length(state.limits.clip)}.</p>')
            recording = ask(elem_id="speak-recording")
            examples(state, recording)
        with gr.Column(scale=3, min_width=280):
            answer = gr.HTML(hint(EMPTY), elem_id="speak-answer")
    work = errors_as_html(lambda path: page(state, recognise(state, path)), EMPTY)
    recording.change(work, recording, answer, api_visibility="private", show_progress="minimal", **state.together)
