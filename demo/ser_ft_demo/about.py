"""Tab About: what the model can and cannot do, the limits of the page, and the model cards."""

from __future__ import annotations

import gradio as gr

from .messages import duration_text, size_text
from .state import AppState, Limits

_RESPONSIBLE_USE = """
### Responsible use

The model recognizes **expression, not feeling**: how a voice sounds to others. It does not know what anyone feels,
means or intends, and it is often wrong, especially on everyday speech, in other languages, with children and with
noise. "Uncertain" marks predictions with a probability so low that such predictions were wrong more often than right.

**Intended use:** research on speech; teaching; experiments with recordings whose speakers have agreed; a starting point
for fine-tuning on your own recordings; and monitoring the quality of conversations with the consent of everyone who
speaks, for coaching and research, where the law permits it.

**Out of scope:** decisions about people (for example hiring, grading, credit, insurance, medicine, policing or border
control); detecting lies; any use on people who have not consented; and, in the European Union, inferring the emotions
of people at work or in education, which Regulation (EU) 2024/1689, Article 5(1)(f), **prohibits** except for medical or
safety reasons. Consent does not lift this prohibition. Where use is allowed in the Union, people must be informed that
such a system is applied to them (Article 50(3)).
"""
_LICENSES = """
### Licenses

The code of ser_ft is under the Apache License 2.0. A model is subject to the terms of its training recordings; see its
card. The examples are synthetic: a program generated them, and they say nothing about people.
"""


def _limits(limits: Limits) -> str:
    return f"""
### Your recordings

Recordings are processed on the machine that serves this page and are not sent anywhere else. They are not stored: files
are deleted {duration_text(limits.retention_seconds)} after they were created or last used, and when the page stops. Of
a live stream, only the last seconds are stored, in memory.

### Limits

A file can have up to {size_text(limits.file_bytes)}; a recording can be up to {duration_text(limits.clip_seconds)}
long, in the tab Analysis up to {duration_text(limits.analysis_seconds)}; a conversation
{duration_text(limits.conversation_seconds)}; a live stream {duration_text(limits.live_seconds)}. The page processes
{limits.concurrent_requests} requests at a time, {limits.waiting_requests} may wait, and {limits.live_streams} visitors
may be live. Supported formats: wav, aiff, flac, ogg, opus, mp3, and webm as recorded by browsers; m4a and others if
ffmpeg is installed.

### API

Programs can use all functions of the page through `gradio_client`: see the link "Use via API" below.
"""


def build(state: AppState) -> None:
    """Build the tab."""
    gr.Markdown(_RESPONSIBLE_USE + _limits(state.limits) + _LICENSES, elem_classes="about")
    for model in state.models:
        with gr.Accordion(f"Model card of {model.name}", open=model is state.model):
            gr.Markdown(model.card or "This model has no card.", elem_classes="about card")
