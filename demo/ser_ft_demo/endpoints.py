"""What programs can ask: named endpoints that answer in JSON, for `gradio_client`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import gradio as gr

from ser_ft.audio import to_wav
from ser_ft.inference.windows import WindowPrediction

from . import analysis, compare, monitor, speak
from .audio_input import check_length, read
from .components import AppState, errors_as_api, files_only


def build(state: AppState) -> None:
    """Add the endpoints; nothing of them is seen on the page."""
    clip = files_only(gr.Audio(type="filepath", label="recording", visible=False))
    answer = gr.JSON(label="answer", visible=False)

    def offer(
        name: str, about: str, work: Callable[..., Any], more: Any = (), outputs: Any = answer, given: Any = clip
    ) -> None:
        gr.Button(visible=False).click(
            errors_as_api(work), [given, *more], outputs, api_name=name, api_description=about, **state.together
        )

    offer(
        "recognize",
        "Recognise the emotion in a recording: its file's name, emotion, scores (a probability for each class), "
        "uncertain, duration and speech (both in seconds).",
        lambda path: speak.record(speak.recognise(state, path)),
    )
    offer(
        "windows",
        "Recognise a recording in windows of 3 s, one every second: start, end, emotion, scores, uncertain, and speech "
        "(the share of the window that is speech) of each.",
        lambda path: _windows(state, path),
    )
    offer(
        "compare",
        "Recognise a recording with every model of the page: their answers, and how far they agree.",
        lambda path: compare.record(compare.answers(state, path)),
    )
    offer(
        "describe",
        "Measure a recording every 10 ms: pitch (Hz, null where nothing is voiced) and other low-level descriptors.",
        lambda path: _described(state, path),
    )
    conversation = files_only(gr.File(type="filepath", label="conversation", visible=False))
    names = gr.Textbox("", label="channels", info="their names, such as agent,customer", visible=False)
    offer(
        "monitor",
        "Judge a conversation: all numbers of its timeline, and its report as one HTML file.",
        lambda path, named: _monitored(state, path, named),
        [names],
        [answer, gr.File(label="report", visible=False)],
        conversation,
    )
    seed = gr.Number(0, label="seed", precision=0, visible=False)
    offer(
        "augment",
        "Make a version of a recording with each augmentation: what was drawn for each, and the versions as WAV files.",
        lambda path, number: _augmented(state, path, number),
        [seed],
        [answer, gr.File(label="versions", file_count="multiple", visible=False)],
    )


def _windows(state: AppState, path: str | None) -> list[WindowPrediction]:
    return state.model.recognise.windows(check_length(path, state.limits.call))


def _described(state: AppState, path: str | None) -> dict[str, list[float | None]]:
    found = analysis.descriptors(read(path, state.limits.inside))
    return {name: [None if value != value else round(float(value), 5) for value in row] for name, row in found.items()}


def _augmented(state: AppState, path: str | None, number: float | None) -> tuple[dict[str, Any], list[str]]:
    home = state.folder()
    found = analysis.versions(read(path, state.limits.inside), analysis.drawn(number))
    for version in found:
        (home / f"{version.name}.wav").write_bytes(to_wav(version.samples))
    return {version.name: version.values for version in found}, [str(home / f"{one.name}.wav") for one in found]


def _monitored(state: AppState, path: str | None, names: str | None) -> tuple[dict[str, Any], str]:
    report, numbers = monitor.write(state, monitor.judge(state, path, names or ""), state.folder())
    found = json.loads(numbers.read_text(encoding="utf-8"))
    # gradio_client takes a mapping with a path for a file, and would ask for it.
    return {"file": found.pop("path")} | found, str(report)
