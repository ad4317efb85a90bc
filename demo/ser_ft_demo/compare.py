"""Compare: one recording through several models side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from itertools import combinations
from typing import Any

import gradio as gr

from ser_ft.inference.recognizer import ClipPrediction
from ser_ft.monitor.summary import percent
from ser_ft.monitor.timeline import colours

from . import drawing
from .audio_input import read
from .components import AppState, ask, errors_as_html, examples, hint
from .messages import length
from .models import Model
from .speak import answer_of, headline

EMPTY = "The answers will stand here, side by side."
ALONE = "ser-ft demo --compare runs/baseline --compare runs/fine-tuned"


def answers(state: AppState, path: str | None) -> list[tuple[Model, ClipPrediction]]:
    """Ask every model about a recording.

    Raises:
        InputError: there is none, it cannot be read, or is too long.
    """
    clip = read(path, state.limits.clip)
    return [(model, answer_of(model, clip)) for model in state.models]


def overlap(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """Return how much of two models' probabilities is the same: the sum of the smaller ones, from 0 to 1."""
    return sum(min(share, other.get(name, 0.0)) for name, share in one.items())


def agreement(found: Sequence[ClipPrediction]) -> dict[str, Any]:
    """Say how far answers agree: the emotion that most name (None: none), how many do, and the mean overlap."""
    named = Counter(answer["emotion"] for answer in found if not answer["uncertain"])
    emotion, count = named.most_common(1)[0] if named else (None, 0)
    if sum(number == count for number in named.values()) > 1:
        emotion = None
    shares = [overlap(one["scores"], other["scores"]) for one, other in combinations(found, 2)]
    return {"emotion": emotion, "models": count, "of": len(found), "overlap": sum(shares) / max(1, len(shares))}


def record(found: Sequence[tuple[Model, ClipPrediction]]) -> dict[str, Any]:
    """Put the answers, and how far they agree, into a mapping for JSON."""
    told = [
        {"model": model.name, **{key: value for key, value in answer.items() if key != "path"}}
        for model, answer in found
    ]
    return {"answers": told, "agreement": agreement([answer for _, answer in found])}


def page(found: Sequence[tuple[Model, ClipPrediction]]) -> str:
    """Show the answers side by side, and how far they agree."""
    cards = []
    for model, answer in found:
        best = None if answer["uncertain"] else answer["emotion"]
        bars = drawing.bars(answer["scores"], colours(model.recognise.info.classes), best)
        cards.append(f"<li><h4>{escape(model.name)}</h4>{headline(answer)}{bars}</li>")
    return (
        f'<section class="answer" role="status"><p class="glance">{_agreement([answer for _, answer in found])}</p>'
        f'<ul class="cards wide">{"".join(cards)}</ul></section>'
    )


def _agreement(found: Sequence[ClipPrediction]) -> str:
    if len(found) < 2:
        return "One model: there is nothing to compare it with."
    how = agreement(found)
    count, emotion = how["models"], how["emotion"]
    every = "Both models" if len(found) == 2 else f"All {len(found)} models"
    shared = f"On average, two models' probabilities overlap by {percent(how['overlap'])}."
    if not count:
        return f"{every} are uncertain. {shared}"
    if emotion is None:
        return f"The models do not agree. {shared}"
    if count == len(found):
        return f"{every} say {escape(emotion)}. {shared}"
    return f"{count} of {len(found)} models {'says' if count == 1 else 'say'} {escape(emotion)}. {shared}"


def build(state: AppState) -> None:
    """Build the tab."""
    names = ", ".join(escape(model.name) for model in state.models)
    if len(state.models) > 1:
        said = f"One recording of up to {length(state.limits.clip)}, through {len(state.models)} models: {names}."
    else:
        said = (
            f"One recording through several models. Here there is one, {names}; whoever starts the page adds others, "
            f"such as a baseline and a fine-tuned model: <code>{ALONE}</code>"
        )
    gr.HTML(f'<p class="lead">{said}</p>')
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            recording = ask(elem_id="compare-recording")
            examples(state, recording)
        with gr.Column(scale=3, min_width=280):
            answer = gr.HTML(hint(EMPTY), elem_id="compare-answer")
    work = errors_as_html(lambda path: page(answers(state, path)), EMPTY)
    recording.change(work, recording, answer, api_visibility="private", show_progress="minimal", **state.together)
