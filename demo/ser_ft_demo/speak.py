"""Tab Speak: one recording, one prediction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import gradio as gr

from ser_ft.inference.recognizer import ClipPrediction
from ser_ft.monitor.summary import percent

from . import drawing
from .audio_input import Clip, example_list, read_clip, recording_input
from .messages import duration_text, errors_as_html, hint
from .state import AppState, Model

SENTENCES = (
    "The train was late, so we walked along the river.",
    "They moved to another town in the spring.",
    "Tomorrow morning the shop on the corner opens again.",
)
"""Sentences to read, which express no emotion by themselves."""
MAX_RECORDINGS = 50
"""Recordings of a visitor's voice that are remembered: what the model predicts for them, not the sound."""
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


def adapt_to_voice(state: AppState, result: Prediction, earlier: list[ClipPrediction]) -> Prediction:
    """Adapt a prediction to the voice of the visitor's earlier recordings, to which it is added."""
    earlier.append(result.prediction)
    del earlier[:-MAX_RECORDINGS]
    return replace(result, prediction=state.model.recognizer.adapt_predictions(earlier)[-1])


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


def voice_text(prediction: ClipPrediction, recordings: int) -> str:
    """Return whether a prediction is adapted to a visitor's voice, as a sentence."""
    count = f"{recordings} recording{'' if recordings == 1 else 's'} of your voice"
    if prediction["adapted"]:
        return f"Adapted to {count}."
    return f"Not adapted yet: {count} are too few or sound too much alike." if recordings > 1 else f"{count} so far."


def to_html(state: AppState, result: Prediction, note: str = "") -> str:
    """Return the emotion, the probabilities, the waveform and the spectrogram as HTML."""
    prediction, clip = result.prediction, result.clip
    emotion = None if prediction["uncertain"] else prediction["emotion"]
    return (
        f'<section class="answer" role="status">{headline(prediction)}'
        f"{drawing.bars(prediction['scores'], state.colors, emotion)}"
        f"<figure>{drawing.waveform(clip.samples)}{drawing.spectrogram(clip.samples)}"
        f"<figcaption>Waveform and log-mel spectrogram, 0 to {clip.seconds:.1f} s, up to 8 kHz.</figcaption></figure>"
        f'<p class="faint">{escape(clip.name)}: {clip.seconds:.1f} s, of which {prediction["speech"]:.1f} s are speech.'
        f" Model: {escape(state.model.name)}. {escape(note)}</p></section>"
    )


def build(state: AppState) -> None:
    """Build the tab."""
    max_length = duration_text(state.limits.clip_seconds)
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            gr.HTML(f'<p class="lead">Speak, or drop a recording of up to {max_length}.</p>')
            recording = recording_input(elem_id="speak-recording")
            example_list(state, recording)
            adapt = gr.Checkbox(label="Adapt to my voice", elem_id="speak-adapt")
            lines = "".join(f"<li>{escape(sentence)}</li>" for sentence in SENTENCES)
            sentences = gr.HTML(
                "<p>Record these sentences one by one, each in several moods: calm, happy, sad, angry. After about ten "
                f"recordings, the model's bias for your voice is removed.</p><ol>{lines}</ol>",
                visible=False,
                elem_id="speak-sentences",
            )
        with gr.Column(scale=3, min_width=280):
            result = gr.HTML(hint(EMPTY), elem_id="speak-result")
    earlier = gr.State([])
    options: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}
    recording.change(_answer(state), [recording, adapt, earlier], [result, earlier], **options, **state.compute_options)
    options["show_progress"] = "hidden"
    adapt.change(lambda wanted: (gr.HTML(visible=wanted), []), adapt, [sentences, earlier], **options)


def _answer(state: AppState) -> Callable[..., tuple[str, list[ClipPrediction]]]:
    """Return the function from a recording, whether to adapt, and earlier predictions to HTML and all predictions."""

    def answer(path: str | None, adapt: bool, earlier: list[ClipPrediction]) -> tuple[str, list[ClipPrediction]]:
        def show(path: str) -> str:
            result = recognize(state, path)
            if not adapt:
                return to_html(state, result)
            result = adapt_to_voice(state, result, earlier)
            return to_html(state, result, voice_text(result.prediction, len(earlier)))

        return errors_as_html(show, EMPTY)(path), earlier

    return answer
