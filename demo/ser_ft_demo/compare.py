"""Tab Compare: the predictions of several models for one recording."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from itertools import combinations
from typing import Any

import gradio as gr

from ser_ft.inference.recognizer import ClipPrediction
from ser_ft.monitor.summary import percent
from ser_ft.monitor.timeline import class_colors

from . import drawing
from .audio_input import example_list, read_clip, recording_input
from .messages import duration_text, errors_as_html, hint
from .speak import headline, predict, prediction_to_json
from .state import AppState, Model

EMPTY = "The predictions will appear here, side by side."
EXAMPLE_COMMAND = "ser-ft demo --compare runs/baseline --compare runs/fine-tuned"

Predictions = Sequence[tuple[Model, ClipPrediction]]


def predict_all(state: AppState, path: str | None) -> Predictions:
    """Return the prediction of every model for a recording."""
    clip = read_clip(path, state.limits.clip_seconds)
    return [(model, predict(model, clip)) for model in state.models]


def overlap(scores: Mapping[str, float], other: Mapping[str, float]) -> float:
    """Return how similar two models' probabilities are: the sum of the smaller ones, from 0 to 1."""
    return sum(min(score, other.get(name, 0.0)) for name, score in scores.items())


def agreement(predictions: Sequence[ClipPrediction]) -> dict[str, Any]:
    """Return the most frequent emotion (None without one), how many models predict it, and the mean overlap."""
    counts = Counter(prediction["emotion"] for prediction in predictions if not prediction["uncertain"])
    emotion, count = counts.most_common(1)[0] if counts else (None, 0)
    if sum(other == count for other in counts.values()) > 1:
        emotion = None
    overlaps = [overlap(first["scores"], second["scores"]) for first, second in combinations(predictions, 2)]
    return {
        "emotion": emotion,
        "num_agreeing": count,
        "num_models": len(predictions),
        "mean_overlap": sum(overlaps) / max(1, len(overlaps)),
    }


def to_json(predictions: Predictions) -> dict[str, Any]:
    """Return the predictions and their agreement as a JSON object."""
    values = [{"model": model.name, **prediction_to_json(prediction)} for model, prediction in predictions]
    return {"predictions": values, "agreement": agreement([prediction for _, prediction in predictions])}


def to_html(predictions: Predictions) -> str:
    """Return the predictions side by side and their agreement as HTML."""
    cards = []
    for model, prediction in predictions:
        emotion = None if prediction["uncertain"] else prediction["emotion"]
        bars = drawing.bars(prediction["scores"], class_colors(model.recognizer.info.classes), emotion)
        cards.append(f"<li><h4>{escape(model.name)}</h4>{headline(prediction)}{bars}</li>")
    text = _agreement_text([prediction for _, prediction in predictions])
    return (
        f'<section class="answer" role="status"><p class="summary">{text}</p>'
        f'<ul class="cards wide">{"".join(cards)}</ul></section>'
    )


def _agreement_text(predictions: Sequence[ClipPrediction]) -> str:
    total = len(predictions)
    if total < 2:
        return "There is only one model, and nothing to compare it with."
    result = agreement(predictions)
    count, emotion = result["num_agreeing"], result["emotion"]
    everyone = "Both models" if total == 2 else f"All {total} models"
    mean_overlap = f"On average, the probabilities of two models overlap by {percent(result['mean_overlap'])}."
    if not count:
        return f"{everyone} are uncertain. {mean_overlap}"
    if emotion is None:
        return f"The models do not agree. {mean_overlap}"
    if count == total:
        return f"{everyone} predict {escape(emotion)}. {mean_overlap}"
    return f"{count} of {total} models {'predicts' if count == 1 else 'predict'} {escape(emotion)}. {mean_overlap}"


def build(state: AppState) -> None:
    """Build the tab."""
    names = ", ".join(escape(model.name) for model in state.models)
    if len(state.models) > 1:
        max_length = duration_text(state.limits.clip_seconds)
        lead = f"One recording of up to {max_length}, and the predictions of {len(state.models)} models: {names}."
    else:
        lead = (
            f"One recording, and the predictions of several models. This page has only one, {names}. Start it with "
            f"others, such as a baseline and a fine-tuned model: <code>{EXAMPLE_COMMAND}</code>"
        )
    gr.HTML(f'<p class="lead">{lead}</p>')
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            recording = recording_input(elem_id="compare-recording")
            example_list(state, recording)
        with gr.Column(scale=3, min_width=280):
            result = gr.HTML(hint(EMPTY), elem_id="compare-result")
    run = errors_as_html(lambda path: to_html(predict_all(state, path)), EMPTY)
    recording.change(run, recording, result, api_visibility="private", show_progress="minimal", **state.compute_options)
