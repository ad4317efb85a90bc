"""Tab Conversation: a long recording, its timeline, and highlights to listen to."""

from __future__ import annotations

import os
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from ser_ft.monitor.analysis import ProgressCallback, analyze_conversation
from ser_ft.monitor.conversation import Conversation, MonitorSettings
from ser_ft.monitor.page import NUMBERS, REPORT, ReportContext, render_conversation, write_conversation_report
from ser_ft.monitor.summary import summarize
from ser_ft.utils.errors import InputError

from .audio_input import check_duration, files_only
from .messages import alert, duration_text, error_message, hint
from .state import AppState

EMPTY = "The timeline will appear here: drop a recording of a conversation, or use the example."
_MAX_NAME_LENGTH = 40
_RESPONSIBLE_USE = (
    '<div class="note heed" role="note"><strong>The results show how voices sounded to a model, not how people felt.'
    "</strong> Monitor conversations only with the consent of everyone who speaks, for coaching and research, where "
    "the law permits it. In the European Union, inferring the emotions of people at work or in education is prohibited "
    "except for medical or safety reasons (Regulation (EU) 2024/1689, Article 5(1)(f)). Consent does not lift this "
    "prohibition. Where use is allowed in the Union, people must be informed that such a system is applied to them "
    "(Article 50(3)).</div>"
)


def analyze(
    state: AppState, path: str | None, channel_names: str = "", on_progress: ProgressCallback | None = None
) -> Conversation:
    """Analyze a conversation; `channel_names` are separated by commas, or empty to number the channels.

    Raises:
        InputError: there is no recording, it cannot be read, is too long, or has another number of channels.
    """
    names = tuple(name.strip()[:_MAX_NAME_LENGTH] for name in (channel_names or "").split(",") if name.strip()) or None
    if names and len({name.casefold() for name in names}) < len(names):
        raise InputError("give each channel a different name, such as left, right")
    file = check_duration(path, state.limits.conversation_seconds)
    return analyze_conversation(state.model.recognizer.backend, file, MonitorSettings(channel_names=names), on_progress)


def write_files(conversation: Conversation, context: ReportContext, folder: Path) -> tuple[Path, Path]:
    """Write report.html and monitor.json into a folder, without the path of the recording on the server."""
    write_conversation_report(conversation, folder, context)
    files = folder / REPORT, folder / NUMBERS
    for file in files:
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace(f"{Path(conversation.path).parent}{os.sep}", ""), encoding="utf-8")
    return files


def report_context(state: AppState, conversation: Conversation) -> ReportContext:
    """Return what reports say about the model."""
    return ReportContext.load(conversation.model, conversation.settings, state.model.source)


def to_html(conversation: Conversation, context: ReportContext) -> str:
    """Return summary, timelines, highlights, shares and segments as HTML."""
    notes = "".join(f'<p class="faint">{escape(note[:1].upper() + note[1:])}.</p>' for note in conversation.notes)
    sentences = "".join(f"<li>{escape(sentence)}</li>" for sentence in summarize(conversation))
    sections = render_conversation(conversation, context, "sections")
    return f'<section class="answer conversation"><ul class="summary">{sentences}</ul>{notes}{sections}</section>'


def build(state: AppState) -> None:
    """Build the tab."""
    max_length = duration_text(state.limits.conversation_seconds)
    gr.HTML(
        f'<p class="lead">A recorded conversation of up to {max_length}: how each speaker sounds over time. '
        f"Each channel is one speaker.</p>{_RESPONSIBLE_USE}"
    )
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            label, elem_id = "Recording of a conversation", "conversation-recording"
            recording = files_only(gr.File(label=label, type="filepath", height=160, elem_id=elem_id))
            gr.Examples(
                [[str(state.conversation)]],
                [recording],
                label="Or use this example with two synthetic voices",
                example_labels=["a conversation of one minute"],
                cache_examples=False,
                api_visibility="private",
            )
        with gr.Column(scale=3, min_width=280):
            names = gr.Textbox(
                label="Speaker of each channel", placeholder="left, right", max_length=200, elem_id="conversation-names"
            )
            run_button = gr.Button("Analyze", variant="primary", elem_id="conversation-run")
            with gr.Row():
                report = gr.DownloadButton("Report (HTML)", interactive=False, elem_id="conversation-report")
                numbers = gr.DownloadButton("Numbers (JSON)", interactive=False, elem_id="conversation-numbers")
    result = gr.HTML(hint(EMPTY), elem_id="conversation-result")
    disabled = gr.update(value=None, interactive=False)

    def run(
        path: str | None,
        channel_names: str,
        progress: gr.Progress = gr.Progress(),  # noqa: B008  (gradio looks for it among the defaults)
    ) -> tuple[str, Any, Any]:
        if not path:
            return hint(EMPTY), disabled, disabled
        try:
            conversation = analyze(state, path, channel_names, _progress_callback(progress))
            context = report_context(state, conversation)
            files = write_files(conversation, context, state.new_folder())
            downloads = [gr.update(value=str(file), interactive=True) for file in files]
            return to_html(conversation, context), downloads[0], downloads[1]
        except Exception as error:
            return alert(error_message(error, path)), disabled, disabled

    outputs = [result, report, numbers]
    events: dict[str, Any] = {"api_visibility": "private", "show_progress_on": result, **state.compute_options}
    run_button.click(run, [recording, names], outputs, **events)
    recording.clear(lambda: (hint(EMPTY), disabled, disabled), None, outputs, api_visibility="private")


def _progress_callback(progress: gr.Progress) -> ProgressCallback:
    total = 0.0

    def on_progress(share: float) -> None:
        nonlocal total
        before, total = total, total + share
        # One update per percent is enough.
        if int(100 * total) > int(100 * before):
            progress(min(1.0, total), desc="analyzing")

    return on_progress
