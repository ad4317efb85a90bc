"""What programs can ask: named endpoints that answer in JSON, for `gradio_client`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import gradio as gr

from ser_ft.audio import to_wav
from ser_ft.inference.windows import WindowAnswer

from . import call, compare, inside, speak
from .parts import Shop, files_only, told
from .sound import check_length, read


def build(shop: Shop) -> None:
    """Add the endpoints; nothing of them is seen on the page."""
    clip = files_only(gr.Audio(type="filepath", label="recording", visible=False))
    answer = gr.JSON(label="answer", visible=False)

    def offer(
        name: str, about: str, work: Callable[..., Any], more: Any = (), outputs: Any = answer, given: Any = clip
    ) -> None:
        gr.Button(visible=False).click(
            told(work), [given, *more], outputs, api_name=name, api_description=about, **shop.together
        )

    offer(
        "recognise",
        "Recognise the emotion in a recording: its file's name, emotion, scores (a probability for each class), "
        "uncertain, duration and speech (both in seconds).",
        lambda path: speak.record(speak.recognise(shop, path)),
    )
    offer(
        "windows",
        "Recognise a recording in windows of 3 s, one every second: start, end, emotion, scores, uncertain, and speech "
        "(the share of the window that is speech) of each.",
        lambda path: _windows(shop, path),
    )
    offer(
        "compare",
        "Recognise a recording with every model of the page: their answers, and how far they agree.",
        lambda path: compare.record(compare.answers(shop, path)),
    )
    offer(
        "describe",
        "Measure a recording every 10 ms: pitch (Hz, null where nothing is voiced) and other low-level descriptors.",
        lambda path: _described(shop, path),
    )
    conversation = files_only(gr.File(type="filepath", label="conversation", visible=False))
    names = gr.Textbox("", label="channels", info="their names, such as agent,customer", visible=False)
    offer(
        "monitor",
        "Judge a conversation: all numbers of its timeline, and its report as one HTML file.",
        lambda path, named: _monitored(shop, path, named),
        [names],
        [answer, gr.File(label="report", visible=False)],
        conversation,
    )
    seed = gr.Number(0, label="seed", precision=0, visible=False)
    offer(
        "augment",
        "Make a version of a recording with each augmentation: what was drawn for each, and the versions as WAV files.",
        lambda path, number: _augmented(shop, path, number),
        [seed],
        [answer, gr.File(label="versions", file_count="multiple", visible=False)],
    )


def _windows(shop: Shop, path: str | None) -> list[WindowAnswer]:
    return shop.model.recognise.windows(check_length(path, shop.limits.call))


def _described(shop: Shop, path: str | None) -> dict[str, list[float | None]]:
    found = inside.descriptors(read(path, shop.limits.inside))
    return {name: [None if value != value else round(float(value), 5) for value in row] for name, row in found.items()}


def _augmented(shop: Shop, path: str | None, number: float | None) -> tuple[dict[str, Any], list[str]]:
    home = shop.folder()
    found = inside.versions(read(path, shop.limits.inside), inside.drawn(number))
    for version in found:
        (home / f"{version.name}.wav").write_bytes(to_wav(version.samples))
    return {version.name: version.values for version in found}, [str(home / f"{one.name}.wav") for one in found]


def _monitored(shop: Shop, path: str | None, names: str | None) -> tuple[dict[str, Any], str]:
    report, numbers = call.write(shop, call.judge(shop, path, names or ""), shop.folder())
    found = json.loads(numbers.read_text(encoding="utf-8"))
    # gradio_client takes a mapping with a path for a file, and would ask for it.
    return {"file": found.pop("path")} | found, str(report)
