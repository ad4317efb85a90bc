"""Tab Conversation: a long recording, its timeline, and highlights to listen to."""

from __future__ import annotations

import os
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from ser_ft.monitor.analysis import ProgressCallback, analyze_conversation, extract_clips
from ser_ft.monitor.conversation import Conversation, MonitorSettings, Speaker
from ser_ft.monitor.page import NUMBERS, REPORT, ReportContext, write_conversation_report
from ser_ft.monitor.summary import clock, summarize
from ser_ft.monitor.timeline import class_colors, timeline
from ser_ft.report.shared.templates import audio_data_uri
from ser_ft.utils.errors import InputError
from ser_ft.utils.text import count_text

from . import drawing
from .audio_input import check_duration
from .components import files_only
from .messages import alert, duration_text, error_message, hint
from .state import AppState

EMPTY = "The timeline will appear here: drop a recording of a conversation, or use the example."
_MAX_LISTED_SEGMENTS = 300  # per speaker; the JSON file contains all of them
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
    """Analyze a conversation.

    Args:
        state: of the page.
        path: of the recording.
        channel_names: the speaker of each channel, separated by commas; empty to number them.
        on_progress: called repeatedly with the share of the work done since the last call.

    Raises:
        InputError: there is no recording, it cannot be read, is too long, or has another number of channels.
    """
    names = tuple(name.strip()[:_MAX_NAME_LENGTH] for name in (channel_names or "").split(",") if name.strip()) or None
    if names and len({name.casefold() for name in names}) < len(names):
        raise InputError("give each channel a different name, such as left, right")
    file = check_duration(path, state.limits.conversation_seconds)
    return analyze_conversation(state.model.recognizer.backend, file, MonitorSettings(channel_names=names), on_progress)


def write_files(state: AppState, conversation: Conversation, folder: Path) -> tuple[Path, Path]:
    """Write report.html and monitor.json into a folder, without the path of the recording on the server."""
    context = ReportContext.load(conversation.model, conversation.settings, state.model.source)
    write_conversation_report(conversation, folder, context)
    files = folder / REPORT, folder / NUMBERS
    for file in files:
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace(f"{Path(conversation.path).parent}{os.sep}", ""), encoding="utf-8")
    return files


def to_html(conversation: Conversation) -> str:
    """Return summary, timelines, highlights, shares and segments as HTML."""
    colors = dict(class_colors(conversation.model.classes))
    speakers = conversation.speakers
    notes = "".join(f'<p class="faint">{escape(note[:1].upper() + note[1:])}.</p>' for note in conversation.notes)
    sentences = "".join(f"<li>{escape(sentence)}</li>" for sentence in summarize(conversation))
    parts = [f'<section class="answer conversation"><ul class="summary">{sentences}</ul>{notes}']
    parts.append(drawing.legend(colors))
    for index, speaker in enumerate(speakers):
        parts.append(f"<h3>{escape(speaker.name)}</h3><div class='scroll' tabindex='0' role='region' ")
        parts.append(f'aria-label="Timeline of {escape(speaker.name)}">{timeline(conversation, index)}</div>')
    parts += ["<h3>Highlights</h3>", _highlights(conversation, colors)]
    parts += ["<h3>Shares</h3>", *(_shares(speaker, colors) for speaker in speakers)]
    parts += ["<h3>Segments</h3>", *(_segments(speaker, colors) for speaker in speakers)]
    return "".join([*parts, "</section>"])


def _highlights(conversation: Conversation, colors: dict[str, str]) -> str:
    if not conversation.highlights:
        return '<p class="faint">There are none: no segment that is not uncertain stands out.</p>'
    cards = []
    clips = extract_clips(conversation, conversation.highlights)
    for highlight, samples in zip(conversation.highlights, clips, strict=True):
        previous = f"{highlight.previous_emotion} to " if highlight.previous_emotion else ""
        title = escape(f"{previous}{highlight.emotion}")
        strength = "a change of" if highlight.previous_emotion else "mean probability"
        cards.append(
            f'<li id="highlight-{highlight.number}"><h4><i class="swatch" '
            f'style="background:{colors[highlight.emotion]}"></i>{highlight.number}. {title}</h4>'
            f'<audio controls preload="metadata" src="{audio_data_uri(samples)}" '
            f'aria-label="Highlight {highlight.number}: {title}"></audio>'
            f'<p class="faint">{escape(conversation.speakers[highlight.speaker].name)}, {clock(highlight.start)} to '
            f"{clock(highlight.end)}, {strength} {highlight.strength:.2f}</p></li>"
        )
    return f'<ul class="cards">{"".join(cards)}</ul>'


def _shares(speaker: Speaker, colors: dict[str, str]) -> str:
    name = escape(speaker.name)
    if not speaker.has_predictions:
        return f'<p class="faint">{name}: too little speech for a prediction.</p>'
    shares = {**speaker.emotion_shares, "uncertain": speaker.uncertain_share}
    bars = drawing.bars(shares, colors | {"uncertain": "var(--faint)"}, speaker.main_emotion)
    return f"<h4>{name} <span>talks for {clock(speaker.speech_seconds)}</span></h4>{bars}"


def _segments(speaker: Speaker, colors: dict[str, str]) -> str:
    name = escape(speaker.name)
    rows = "".join(
        f'<tr><td class="n">{clock(segment.start)}</td><td class="n">{clock(segment.end)}</td><td><i class="swatch" '
        f'style="background:{colors[segment.emotion]}"></i>{escape(segment.emotion)}</td>'
        f'<td class="n">{segment.probability:.2f}</td><td>{"uncertain" if segment.uncertain else ""}</td></tr>'
        for segment in speaker.segments[:_MAX_LISTED_SEGMENTS]
    )
    more = f", the first {_MAX_LISTED_SEGMENTS}" if len(speaker.segments) > _MAX_LISTED_SEGMENTS else ""
    return (
        f"<details open><summary>{name}: {count_text(len(speaker.segments), 'segment')}{more}</summary>"
        f'<div class="scroll" tabindex="0" role="region" aria-label="Segments of {name}"><table><thead>'
        '<tr><th scope="col" class="n">from</th><th scope="col" class="n">to</th><th scope="col">emotion</th>'
        '<th scope="col" class="n">mean probability</th><th scope="col"></th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div></details>"
    )


def build(state: AppState) -> None:
    """Build the tab."""
    max_length = duration_text(state.limits.conversation_seconds)
    gr.HTML(
        f'<p class="lead">A recorded conversation of up to {max_length}: how each speaker sounds over time. '
        f"Each channel is one speaker.</p>{_RESPONSIBLE_USE}"
    )
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            recording = files_only(
                gr.File(
                    label="Recording of a conversation", type="filepath", height=160, elem_id="conversation-recording"
                )
            )
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
            files = write_files(state, conversation, state.new_folder())
            downloads = [gr.update(value=str(file), interactive=True) for file in files]
            return to_html(conversation), downloads[0], downloads[1]
        except Exception as error:
            return alert(error_message(error, path)), disabled, disabled

    outputs = [result, report, numbers]
    run_button.click(
        run,
        [recording, names],
        outputs,
        api_visibility="private",
        show_progress_on=result,
        **state.compute_options,
    )
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
