"""Endpoints for programs: JSON through `gradio_client`."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import isnan
from typing import Any

import gradio as gr

from ser_ft.audio import to_wav
from ser_ft.inference.windows import WindowPrediction

from . import analysis, compare, monitor, speak
from .audio_input import check_duration, files_only, read_clip
from .messages import error_message
from .state import AppState


def build(state: AppState) -> None:
    """Add the endpoints, which are not visible on the page."""
    recording = files_only(gr.Audio(type="filepath", label="recording", visible=False))
    conversation = files_only(gr.File(type="filepath", label="conversation", visible=False))
    names = gr.Textbox("", label="channels", info="names of the channels, such as left,right", visible=False)
    seed = gr.Number(0, label="seed", precision=0, visible=False)
    result = gr.JSON(label="result", visible=False)
    report = gr.File(label="report", visible=False)
    versions = gr.File(label="versions", file_count="multiple", visible=False)

    def add(name: str, description: str, function: Callable[..., Any], inputs: list[Any], outputs: Any) -> None:
        settings: dict[str, Any] = {"api_name": name, "api_description": description, **state.compute_options}
        gr.Button(visible=False).click(errors_as_api(function), inputs, outputs, **settings)

    add(
        "recognize",
        "Recognize the emotion in a recording: file, emotion, scores (a probability per class), uncertain, duration "
        "and speech (both in seconds).",
        lambda path: speak.to_json(speak.recognize(state, path)),
        [recording],
        result,
    )
    add(
        "windows",
        "Recognize the emotion in windows of 3 s, one every second: start, end, emotion, scores, uncertain and speech "
        "(the share of the window that is speech) of each.",
        lambda path: _windows(state, path),
        [recording],
        result,
    )
    add(
        "compare",
        "Recognize the emotion in a recording with all models of the page: predictions and agreement.",
        lambda path: compare.to_json(compare.predict_all(state, path)),
        [recording],
        result,
    )
    add(
        "describe",
        "Measure a recording every 10 ms: pitch (Hz, null in unvoiced frames) and other low-level descriptors.",
        lambda path: _describe(state, path),
        [recording],
        result,
    )
    add(
        "monitor",
        "Analyze a conversation: all numbers, and the report as one HTML file.",
        lambda path, channel_names: _monitor(state, path, channel_names),
        [conversation, names],
        [result, report],
    )
    add(
        "augment",
        "Apply each augmentation to a recording: the random parameters of each, and the versions as WAV files.",
        lambda path, number: _augment(state, path, number),
        [recording, seed],
        [result, versions],
    )


def errors_as_api(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function of a recording's path, and more, so that programs receive its errors as one plain sentence."""

    def wrapped(path: str | None, *arguments: Any) -> Any:
        try:
            return function(path, *arguments)
        except Exception as error:
            raise gr.Error(error_message(error, path), print_exception=False) from error

    return wrapped


def _windows(state: AppState, path: str | None) -> list[WindowPrediction]:
    return state.model.recognizer.windows(check_duration(path, state.limits.conversation_seconds))


def _describe(state: AppState, path: str | None) -> dict[str, list[float | None]]:
    descriptors = analysis.describe(read_clip(path, state.limits.analysis_seconds))
    rounded = {name: [round(float(value), 5) for value in values] for name, values in descriptors.items()}
    return {name: [None if isnan(value) else value for value in values] for name, values in rounded.items()}


def _augment(state: AppState, path: str | None, number: float | None) -> tuple[dict[str, Any], list[str]]:
    folder = state.new_folder()
    versions = analysis.augment(read_clip(path, state.limits.analysis_seconds), analysis.valid_seed(number))
    files = [folder / f"{version.name}.wav" for version in versions]
    for file, version in zip(files, versions, strict=True):
        file.write_bytes(to_wav(version.samples))
    return {version.name: version.parameters for version in versions}, [str(file) for file in files]


def _monitor(state: AppState, path: str | None, channel_names: str | None) -> tuple[dict[str, Any], str]:
    conversation = monitor.analyze(state, path, channel_names or "")
    context = monitor.report_context(state, conversation)
    report, file = monitor.write_files(conversation, context, state.new_folder())
    numbers = json.loads(file.read_text(encoding="utf-8"))
    # gradio_client tries to download the value of a key "path".
    return {"file": numbers.pop("path")} | numbers, str(report)
