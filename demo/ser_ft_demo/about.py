"""About: what the page can and cannot say, its limits, and the card of each model."""

from __future__ import annotations

import gradio as gr

from .components import AppState
from .limits import Limits
from .messages import length, size

_SAYS = """
### What it can and cannot say

Emotion recognition reads **expression, not feeling**: it hears how something was said, often after having learned from
actors, and not what the speaker felt. It is often wrong, and more often on everyday speech, in other languages, with
children or noise. "Uncertain" means that answers with so little confidence were wrong more often than right. It proves
nothing about a person, and no decision about one should rest on it: listen for yourself.

In the European Union, inferring the emotions of people **at work or in education is prohibited**, save for medical or
safety reasons (Regulation (EU) 2024/1689, Article 5(1)(f)). Where it is allowed, the people exposed to it must be told
(Article 50(3)).
"""
_LICENSES = """
### Licenses

The code of ser_ft is under the Apache License 2.0. A model keeps the terms of the recordings that it learned from: its
card has them. The examples are synthetic: a program made them, nobody spoke them, and they say nothing about people.
"""


def _limits(limits: Limits) -> str:
    return f"""
### What becomes of your recording

It is read on the machine that serves this page, and nothing is sent anywhere else. It is not kept: files are deleted
{length(limits.kept)} after they were made or last asked about, and when the page stops; of a live stream only the last
seconds are held, in memory.

### Limits

A file has up to {size(limits.file)}; a recording up to {length(limits.clip)}, to look inside {length(limits.inside)}, a
conversation {length(limits.call)}, a live stream {length(limits.live)}. {limits.at_once} requests are worked on at a
time, {limits.waiting} may wait, and {limits.listeners} may be live. wav, aiff, flac, ogg, opus and mp3 are read, and
webm as browsers record it; m4a and others only where the machine has ffmpeg.

### For programs

Every answer can be had from a program: `gradio_client` and the link "Use via API" below show how.
"""


def build(state: AppState) -> None:
    """Build the tab."""
    gr.Markdown(_SAYS + _limits(state.limits) + _LICENSES, elem_classes="about")
    for model in state.models:
        with gr.Accordion(f"The card of {model.name}", open=model is state.model):
            gr.Markdown(model.card or "No card lies beside this model.", elem_classes="about card")
