"""Tab Speak: one recording, one prediction."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from ser_ft.inference.recognizer import ClipPrediction
from ser_ft.monitor.summary import percent

from . import drawing
from .audio_input import Clip, example_list, read_clip, recording_input
from .messages import duration_text, errors_as_html, hint
from .state import AppState, Model

EMPTY = "The result will appear here: speak a sentence or two, drop a file, or try an example."


@dataclass(frozen=True)
class Prediction:
    """A recording and the model's prediction for it."""

    clip: Clip
    prediction: ClipPrediction


def recognize(state: AppState, path: str | None) -> Prediction:
    """Recognize the emotion in a recording."""
    clip = read_clip(path, state.limits.clip_seconds, "use the tab Conversation for longer recordings")
    return Prediction(clip, predict(state.model, clip))


def predict(model: Model, clip: Clip) -> ClipPrediction:
    """Return a model's prediction for a recording."""
    return model.recognizer(clip.path)[0]


def prediction_to_json(prediction: ClipPrediction) -> dict[str, Any]:
    """Return a prediction without the path of the recording on the server."""
    return {key: value for key, value in prediction.items() if key != "path"}


def to_json(result: Prediction) -> dict[str, Any]:
    """Return a recording's prediction as a JSON object."""
    return {"file": result.clip.name, **prediction_to_json(result.prediction)}


def headline(prediction: ClipPrediction) -> str:
    """Return the emotion as HTML, or that the prediction is uncertain."""
    emotion, share = prediction["emotion"], percent(prediction["scores"][prediction["emotion"]])
    if not prediction["speech"]:
        return (
            '<p class="headline">no speech<span>no speech was detected, so the probabilities mean little '
            f"(highest: {escape(emotion)}, {share})</span></p>"
        )
    if prediction["uncertain"]:
        return f'<p class="headline">uncertain<span>most probable: {escape(emotion)}, {share}</span></p>'
    return f'<p class="headline">{escape(emotion)}<span>{share}</span></p>'


def to_html(state: AppState, result: Prediction) -> str:
    """Return the emotion, the probabilities, the waveform and the spectrogram as HTML."""
    prediction, clip = result.prediction, result.clip
    emotion = None if prediction["uncertain"] else prediction["emotion"]
    return (
        f'<section class="answer" role="status">{headline(prediction)}'
        f"{drawing.bars(prediction['scores'], state.colors, emotion)}"
        f"<figure>{drawing.waveform(clip.samples)}{drawing.spectrogram(clip.samples)}"
        f"<figcaption>Waveform and log-mel spectrogram, 0 to {clip.seconds:.1f} s, up to 8 kHz.</figcaption></figure>"
        f'<p class="faint">{escape(clip.name)}: {clip.seconds:.1f} s, of which {prediction["speech"]:.1f} s are speech.'
        f" Model: {escape(state.model.name)}.</p></section>"
    )


def build(state: AppState) -> None:
    """Build the tab."""
    max_length = duration_text(state.limits.clip_seconds)
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            gr.HTML(f'<p class="lead">Speak, or drop a recording of up to {max_length}.</p>')
            recording = recording_input(elem_id="speak-recording")
            example_list(state, recording)
        with gr.Column(scale=3, min_width=280):
            result = gr.HTML(hint(EMPTY), elem_id="speak-result")
    run = errors_as_html(lambda path: to_html(state, recognize(state, path)), EMPTY)
    recording.change(run, recording, result, api_visibility="private", show_progress="minimal", **state.compute_options)
