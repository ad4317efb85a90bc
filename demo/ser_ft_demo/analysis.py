"""Tab Analysis: augmented versions of a recording, and its low-level descriptors over time."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr
import numpy as np

from ser_ft.audio import SAMPLE_RATE
from ser_ft.data.augmentation.waveform import TRANSFORMS, Augment
from ser_ft.report.shared.audio_figures import HOP_LENGTH
from ser_ft.report.shared.templates import audio_data_uri

from . import drawing
from .audio_input import Clip, example_list, read_clip, recording_input
from .messages import duration_text, errors_as_html, hint
from .state import AppState

EMPTY = "Augmented versions and measurements of the recording will appear here."
_MAX_SEED = 9999
_DESCRIPTORS = {
    "rms": "root mean square energy, in dB",
    "zcr": "zero-crossing rate, per sample",
    "centroid": "spectral centroid, in Hz",
    "spread": "spectral spread, in Hz",
    "rolloff": "spectral rolloff (90 % of the energy), in Hz",
    "flux": "spectral flux",
    "spectral-entropy": "spectral entropy, in bits",
    "energy-entropy": "entropy of energy, in bits",
}


@dataclass(frozen=True)
class Version:
    """A transform, its random parameters, and the recording after it, shape (samples,)."""

    name: str
    parameters: dict[str, Any]
    samples: np.ndarray


def augment(clip: Clip, seed: int) -> list[Version]:
    """Apply each transform to a recording, except those that need further recordings."""
    versions = []
    for name in TRANSFORMS:
        if name != "background":
            transform = Augment({name: {}}, seed=seed)
            parameters = transform.sample_parameters(clip.name, 1)[name]
            versions.append(Version(name, parameters, transform.apply(clip.samples, clip.name, 1)))
    return versions


def describe(clip: Clip) -> dict[str, np.ndarray]:
    """Measure pitch (Hz, NaN in unvoiced frames) and the other descriptors every 10 ms, each of shape (frames,)."""
    import torch

    from ser_ft.models.features import SpectralFeatureExtractor
    from ser_ft.models.pitch import yin

    samples, lengths = torch.from_numpy(clip.samples)[None], torch.tensor([len(clip.samples)])
    extractor = SpectralFeatureExtractor(list(_DESCRIPTORS), hop_length=HOP_LENGTH)
    frames, mask = extractor.extract(samples, lengths)
    values = frames[0][mask[0].bool()].numpy()
    descriptors = {"pitch": yin(samples, lengths, hop_length=HOP_LENGTH).frequency[0].numpy()}
    descriptors |= {name: values[:, index] for index, name in enumerate(extractor.columns)}
    descriptors["rms"] = 20 * np.log10(np.maximum(descriptors["rms"], 1e-6))
    return descriptors


def augmentations_to_html(clip: Clip, seed: int) -> str:
    """Return the recording and its augmented versions as HTML, each with sound and spectrogram."""
    cards = "".join(map(_card, [Version("original", {}, clip.samples), *augment(clip, seed)]))
    return f'<section class="answer"><ul class="cards">{cards}</ul></section>'


def _card(version: Version) -> str:
    transform = TRANSFORMS.get(version.name)
    parameters, description = "", f"{len(version.samples) / SAMPLE_RATE:.1f} s"
    if transform:
        description = transform.description
        values = version.parameters.items()
        parameters = ", ".join(f"{name} {transform.parameters[name].format(value)}" for name, value in values)
    name = escape(version.name)
    return (
        f"<li><h4>{name} <span>{escape(parameters)}</span></h4>"
        f'<audio controls preload="metadata" src="{audio_data_uri(version.samples)}" aria-label="{name}"></audio>'
        f"{drawing.spectrogram(version.samples, f'log-mel spectrogram of {version.name}')}"
        f'<p class="faint">{escape(description)}</p></li>'
    )


def descriptors_to_html(clip: Clip) -> str:
    """Return the waveform and the descriptors over time as HTML."""
    rows = [f"<dt>waveform</dt><dd>{drawing.waveform(clip.samples)}</dd>"]
    names = {"pitch": "pitch of voiced speech (YIN), in Hz"} | _DESCRIPTORS
    for name, values in describe(clip).items():
        finite = values[np.isfinite(values)]
        value_range = f"{_number(finite.min())} to {_number(finite.max())}" if len(finite) else "none"
        curve = drawing.line(values, clip.seconds, names[name])
        rows.append(f"<dt>{escape(names[name])}<span>{value_range}</span></dt><dd>{curve}</dd>")
    return (
        f'<section class="answer"><dl class="lines">{"".join(rows)}</dl>'
        f'<p class="faint">From 0 to {clip.seconds:.1f} s, every 10 ms, over windows of 32 ms.</p></section>'
    )


def _number(value: float) -> str:
    """Return a number with three digits, such as "0.779" or "6,070"."""
    if abs(value) < 1e-9:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def valid_seed(number: float | None) -> int:
    """Return a number from an input as a seed between 0 and 9999."""
    return min(_MAX_SEED, max(0, int(number or 0)))


def build(state: AppState) -> None:
    """Build the tab."""
    max_seconds = state.limits.analysis_seconds
    gr.HTML(
        '<p class="lead">Augmented versions of a recording, as used in training, and low-level descriptors of it. '
        f"The recording can be up to {duration_text(max_seconds)} long.</p>"
    )
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            recording = recording_input(elem_id="analysis-recording")
        with gr.Column(scale=1, min_width=280):
            example_list(state, recording)
            seed = gr.Number(0, label="Random seed", precision=0, minimum=0, maximum=_MAX_SEED, elem_id="analysis-seed")
            next_seed = gr.Button("Next seed", elem_id="analysis-next-seed")
    with gr.Tabs():
        with gr.Tab("Augmentations"):
            augmented = gr.HTML(hint(EMPTY), elem_id="analysis-augmented")
        with gr.Tab("Descriptors over time"):
            described = gr.HTML(hint(EMPTY), elem_id="analysis-described")
    next_seed.click(
        lambda number: (int(number or 0) + 1) % (_MAX_SEED + 1), seed, seed, api_visibility="private", queue=False
    )

    def run_augment(path: str, number: float | None) -> str:
        return augmentations_to_html(read_clip(path, max_seconds), valid_seed(number))

    def run_describe(path: str) -> str:
        return descriptors_to_html(read_clip(path, max_seconds))

    events: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal", **state.compute_options}
    gr.on([recording.change, seed.change], errors_as_html(run_augment, EMPTY), [recording, seed], augmented, **events)
    recording.change(errors_as_html(run_describe, EMPTY), recording, described, **events)
