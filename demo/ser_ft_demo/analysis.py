"""Look inside: what augmentation makes of a recording, and its low-level descriptors over time."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr
import numpy as np

from ser_ft.data.augmentation.waveform import TRANSFORMS, Augment
from ser_ft.report.shared.templates import audio_data_uri

from . import drawing
from .audio_input import Clip, read
from .components import AppState, ask, errors_as_html, examples, hint
from .messages import length

EMPTY = "What was done to the recording, and what can be measured in it, will stand here."
_LARGEST_SEED = 9999
_HOP = 160  # samples from one measurement to the next
_DESCRIPTORS = {
    "rms": "loudness: root mean square, in dB",
    "zcr": "changes of sign, per sample",
    "centroid": "spectral centroid, in Hz",
    "spread": "spectral spread, in Hz",
    "rolloff": "90 % of the energy lies below, in Hz",
    "flux": "spectral flux, from window to window",
    "spectral-entropy": "spectral entropy, in bits",
    "energy-entropy": "entropy of the energy, in bits",
}


@dataclass(frozen=True)
class Version:
    """A version of a recording: its transform, what was drawn for it, and its samples."""

    name: str
    values: dict[str, Any]
    samples: np.ndarray


def versions(clip: Clip, seed: int) -> list[Version]:
    """Make a version with each transform, but those that need recordings of their own."""
    made = []
    for name in TRANSFORMS:
        if name != "background":
            augment = Augment({name: {}}, seed=seed)
            made.append(
                Version(name, augment.sample_parameters(clip.name, 1)[name], augment.apply(clip.samples, clip.name, 1))
            )
    return made


def descriptors(clip: Clip) -> dict[str, np.ndarray]:
    """Measure a recording every 10 ms: pitch (Hz; nan where nothing is voiced) and others, each of shape (frames,)."""
    import torch

    from ser_ft.models.features import SpectralFeatureExtractor
    from ser_ft.models.pitch import yin

    samples, lengths = torch.from_numpy(clip.samples)[None], torch.tensor([len(clip.samples)])
    extractor = SpectralFeatureExtractor(list(_DESCRIPTORS), hop_length=_HOP)
    frames, mask = extractor.extract(samples, lengths)
    numbers = frames[0][mask[0].bool()].numpy()
    found = {"pitch": yin(samples, lengths, hop_length=_HOP).frequency[0].numpy()}
    found |= {name: numbers[:, place] for place, name in enumerate(extractor.columns)}
    found["rms"] = 20 * np.log10(np.maximum(found["rms"], 1e-6))
    return found


def augmented_page(clip: Clip, seed: int) -> str:
    """Show the versions, each to be heard and seen, after the recording itself."""
    original = Version("as it is", {}, clip.samples)
    cards = "".join(map(_card, [original, *versions(clip, seed)]))
    return f'<section class="answer"><ul class="cards">{cards}</ul></section>'


def _card(version: Version) -> str:
    transform = TRANSFORMS.get(version.name)
    values = (
        {key: transform.parameters[key].format(value) for key, value in version.values.items()} if transform else {}
    )
    told = ", ".join(f"{key} {value}" for key, value in values.items())
    about = transform.description if transform else f"{len(version.samples) / 16_000:.1f} s"
    return (
        f"<li><h4>{escape(version.name)} <span>{escape(told)}</span></h4>"
        f'<audio controls preload="metadata" src="{audio_data_uri(version.samples)}" '
        f'aria-label="{escape(version.name)}"></audio>'
        f"{drawing.spectrogram(version.samples, f'log-mel spectrogram of {version.name}')}"
        f'<p class="faint">{escape(about)}</p></li>'
    )


def described_page(clip: Clip) -> str:
    """Show the descriptors over time, below each other."""
    rows = [f"<dt>waveform</dt><dd>{drawing.waveform(clip.samples)}</dd>"]
    names = {"pitch": "pitch of voiced speech (YIN), in Hz"} | _DESCRIPTORS
    for name, values in descriptors(clip).items():
        known = values[np.isfinite(values)]
        reach = f"{_number(known.min())} to {_number(known.max())}" if len(known) else "none"
        drawn = drawing.line(values, clip.seconds, names[name])
        rows.append(f"<dt>{escape(names[name])}<span>{reach}</span></dt><dd>{drawn}</dd>")
    return (
        f'<section class="answer"><dl class="lines">{"".join(rows)}</dl>'
        f'<p class="faint">From 0 to {clip.seconds:.1f} s, a measurement every 10 ms over windows of 32 ms.</p>'
        "</section>"
    )


def _number(value: float) -> str:
    """Write a measurement with three digits: "0.779", "6,070"."""
    if abs(value) < 1e-9:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def build(state: AppState) -> None:
    """Build the tab."""
    longest = state.limits.inside
    gr.HTML(
        '<p class="lead">What training does to a recording to make more of it, and what can be measured in it: '
        f"up to {length(longest)}.</p>"
    )
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            recording = ask(elem_id="inside-recording")
        with gr.Column(scale=1, min_width=280):
            examples(state, recording)
            seed = gr.Number(0, label="Draw", precision=0, minimum=0, maximum=_LARGEST_SEED, elem_id="inside-seed")
            again = gr.Button("Draw others", elem_id="inside-again")
    with gr.Tabs():
        with gr.Tab("Augmentations"):
            augmented = gr.HTML(hint(EMPTY), elem_id="inside-augmented")
        with gr.Tab("Descriptors over time"):
            described = gr.HTML(hint(EMPTY), elem_id="inside-described")
    again.click(
        lambda number: (int(number or 0) + 1) % (_LARGEST_SEED + 1), seed, seed, api_visibility="private", queue=False
    )

    augment = errors_as_html(lambda path, number: augmented_page(read(path, longest), drawn(number)), EMPTY)
    describe = errors_as_html(lambda path: described_page(read(path, longest)), EMPTY)
    events: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal", **state.together}
    gr.on([recording.change, seed.change], augment, [recording, seed], augmented, **events)
    recording.change(describe, recording, described, **events)


def drawn(number: float | None) -> int:
    """Return the seed that a number stands for."""
    return min(_LARGEST_SEED, max(0, int(number or 0)))
