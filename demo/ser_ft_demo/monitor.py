"""Call monitor: a long recording, its timeline, and moments to listen to."""

from __future__ import annotations

import os
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from ser_ft.monitor.analysis import Seen, cut, monitor
from ser_ft.monitor.conversation import Conversation, MonitorSettings, Voice
from ser_ft.monitor.page import About, write_call
from ser_ft.monitor.summary import clock, feedback
from ser_ft.monitor.timeline import colours, timeline
from ser_ft.report.shared.templates import audio_data_uri
from ser_ft.utils.errors import InputError
from ser_ft.utils.text import count_text

from . import drawing
from .audio_input import check_length
from .components import AppState, alert, files_only, hint
from .messages import length, sentence

EMPTY = "The timeline will stand here: drop a recording of a conversation, or take the example."
LISTED = 300
"""Segments of a voice that are shown; the report has as many, its JSON file all of them."""


def judge(state: AppState, path: str | None, names: str = "", seen: Seen | None = None) -> Conversation:
    """Judge a conversation.

    Args:
        state: the page's. path: of the recording. names: of its channels, with commas between them; empty: numbers.
        seen: called as it moves on, with the share of the work done since the last time.

    Raises:
        InputError: there is no recording, it cannot be read, is too long, or has other channels.
    """
    wanted = tuple(name.strip()[:40] for name in (names or "").split(",") if name.strip()) or None
    if wanted and len({name.casefold() for name in wanted}) < len(wanted):
        raise InputError("give each channel a name of its own, such as agent, customer")
    file = check_length(path, state.limits.call)
    return monitor(state.model.recognise.engine, file, MonitorSettings(names=wanted), seen)


def write(state: AppState, call: Conversation, folder: Path) -> tuple[Path, Path]:
    """Write a conversation's report.html and monitor.json into a folder, less where its file lies here."""
    about = About.of(call.info, call.settings, state.model.source)
    write_call(call, folder, about)
    files = folder / "report.html", folder / "monitor.json"
    for file in files:
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace(f"{Path(call.path).parent}{os.sep}", ""), encoding="utf-8")
    return files


def page(call: Conversation) -> str:
    """Show a conversation: what stands out, the timeline, moments to listen to, shares and segments."""
    fills = dict(colours(call.info.classes))
    notes = "".join(f'<p class="faint">{escape(note[:1].upper() + note[1:])}.</p>' for note in call.notes)
    said = "".join(f"<li>{escape(line)}</li>" for line in feedback(call))
    parts = [f'<section class="answer call"><ul class="glance">{said}</ul>{notes}', drawing.legend(fills)]
    for place, voice in enumerate(call.voices):
        parts.append(f"<h3>{escape(voice.name)}</h3><div class='scroll' tabindex='0' role='region' ")
        parts.append(f'aria-label="Timeline of {escape(voice.name)}">{timeline(call, place)}</div>')
    parts += ["<h3>Moments to listen to</h3>", _moments(call, fills)]
    parts += ["<h3>Shares</h3>", *(_shares(voice, fills) for voice in call.voices)]
    parts += ["<h3>Segments</h3>", *(_segments(voice, fills) for voice in call.voices)]
    return "".join([*parts, "</section>"])


def _moments(call: Conversation, fills: dict[str, str]) -> str:
    if not call.moments:
        return '<p class="faint">None: nothing that is certain stands out.</p>'
    cards = []
    for moment, samples in zip(call.moments, cut(call, call.moments), strict=True):
        before = f"{escape(moment.before)} to " if moment.before else ""
        what = "a change of" if moment.before else "mean probability"
        voice = call.voices[moment.voice].name
        cards.append(
            f'<li id="moment-{moment.number}"><h4><i class="swatch" style="background:{fills[moment.emotion]}"></i>'
            f"{moment.number}. {before}{escape(moment.emotion)}</h4>"
            f'<audio controls preload="metadata" src="{audio_data_uri(samples)}" '
            f'aria-label="Moment {moment.number}: {before}{escape(moment.emotion)}"></audio>'
            f'<p class="faint">{escape(voice)}, {clock(moment.start)} to {clock(moment.end)}, {what} '
            f"{moment.strength:.2f}</p></li>"
        )
    return f'<ul class="cards">{"".join(cards)}</ul>'


def _shares(voice: Voice, fills: dict[str, str]) -> str:
    if not voice.judged:
        return f'<p class="faint">{escape(voice.name)}: too little speech to judge.</p>'
    shares = {**voice.shares, "uncertain": voice.uncertain}
    drawn = drawing.bars(shares, fills | {"uncertain": "var(--faint)"}, voice.top)
    return f"<h4>{escape(voice.name)}, who speaks for {clock(voice.spoken)}</h4>{drawn}"


def _segments(voice: Voice, fills: dict[str, str]) -> str:
    rows = "".join(
        f'<tr><td class="n">{clock(one.start)}</td><td class="n">{clock(one.end)}</td><td><i class="swatch" '
        f'style="background:{fills[one.emotion]}"></i>{escape(one.emotion)}</td><td class="n">{one.probability:.2f}'
        f"</td><td>{'uncertain' if one.uncertain else ''}</td></tr>"
        for one in voice.segments[:LISTED]
    )
    more = f", the first {LISTED}" if len(voice.segments) > LISTED else ""
    return (
        f"<details open><summary>{escape(voice.name)}: {count_text(len(voice.segments), 'segment')}{more}</summary>"
        f'<div class="scroll" tabindex="0" role="region" aria-label="Segments of {escape(voice.name)}"><table><thead>'
        '<tr><th scope="col" class="n">from</th><th scope="col" class="n">to</th><th scope="col">sounds</th>'
        '<th scope="col" class="n">mean probability</th><th scope="col"></th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div></details>"
    )


def build(state: AppState) -> None:
    """Build the tab."""
    gr.HTML(
        '<p class="lead">A recorded conversation of up to '
        f"{length(state.limits.call)}: how each channel sounds over time.</p>"
        '<div class="note heed" role="note"><strong>This is how voices sounded to a model, not how people felt.'
        "</strong> In the European Union, inferring emotions of people at work or in education is prohibited save for "
        "medical or safety reasons (Regulation (EU) 2024/1689, Article 5(1)(f)). An agent on a call is at work.</div>"
    )
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            recording = files_only(
                gr.File(label="Recording of a conversation", type="filepath", height=160, elem_id="call-recording")
            )
            gr.Examples(
                [[str(state.call)]],
                [recording],
                label="Or take this one: two synthetic voices",
                example_labels=["a call of a minute"],
                cache_examples=False,
                api_visibility="private",
            )
        with gr.Column(scale=3, min_width=280):
            names = gr.Textbox(
                label="Whose voice each channel is", placeholder="agent, customer", max_length=200, elem_id="call-names"
            )
            go = gr.Button("Judge", variant="primary", elem_id="call-go")
            with gr.Row():
                report = gr.DownloadButton("Report (HTML)", interactive=False, elem_id="call-report")
                numbers = gr.DownloadButton("Numbers (JSON)", interactive=False, elem_id="call-numbers")
    answer = gr.HTML(hint(EMPTY), elem_id="call-answer")
    off = gr.update(value=None, interactive=False)

    def work(
        path: str | None,
        named: str,
        progress: gr.Progress = gr.Progress(),  # noqa: B008  (gradio finds it among the defaults)
    ) -> tuple[str, Any, Any]:
        if not path:
            return hint(EMPTY), off, off
        try:
            call = judge(state, path, named, _seen(progress))
            files = write(state, call, state.folder())
            ready = [gr.update(value=str(file), interactive=True) for file in files]
            return page(call), ready[0], ready[1]
        except Exception as error:
            return alert(sentence(error, path)), off, off

    go.click(
        work,
        [recording, names],
        [answer, report, numbers],
        api_visibility="private",
        show_progress_on=answer,
        **state.together,
    )
    recording.clear(lambda: (hint(EMPTY), off, off), None, [answer, report, numbers], api_visibility="private")


def _seen(progress: gr.Progress) -> Seen:
    done = 0.0

    def seen(share: float) -> None:
        nonlocal done
        before, done = done, done + share
        # A hundred steps are enough to see it move.
        if int(100 * done) > int(100 * before):
            progress(min(1.0, done), desc="listening")

    return seen
