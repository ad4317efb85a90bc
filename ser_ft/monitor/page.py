"""The report of one conversation: report.html and monitor.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..evaluation.run_folder import RunFolder
from ..inference.backends import ModelInfo
from ..models import SHIPPED, resolve_model_path
from ..report.shared.tables import describe_sample, evaluated_part, run_notes
from ..report.shared.templates import audio_data_uri, render_template
from . import highlights, negative_segments, speaker_baseline
from .analysis import extract_clips
from .conversation import MIN_PAUSE, Conversation, MonitorSettings, Speaker
from .summary import clock, percent, summarize
from .timeline import class_colors, timeline
from .to_json import KEYS, SPEAKER_KEYS, escape_undecodable, to_json

REPORT, NUMBERS = "report.html", "monitor.json"


@dataclass(frozen=True)
class ReportContext:
    """The model and the settings, which all pages of a report describe.

    `evaluation` has the keys uar, interval, chance, sample, corpora and notes; it is None if unknown.
    """

    model: ModelInfo
    settings: MonitorSettings
    negative_classes: tuple[str, ...]
    evaluation: Mapping[str, Any] | None

    @classmethod
    def load(cls, model: ModelInfo, settings: MonitorSettings, source: str | Path | None) -> ReportContext:
        """Read the model's evaluation from the run folder that contains it, if there is one.

        `source` is the model's path or name; None is the model that ships with ser_ft.
        """
        negative = negative_segments.negative_classes(model.classes, settings.negative_emotions)
        return cls(model, settings, negative, _load_evaluation(source))

    def template_values(self) -> dict[str, Any]:
        """Return the values that all templates use."""
        return {
            "context": self,
            "colors": class_colors(self.model.classes),
            "definition": negative_segments.definition(self.negative_classes, self.settings.windows.gap),
            "neutral_probability": speaker_baseline.NEUTRAL_PROBABILITY,
            "min_pause": MIN_PAUSE,
            "min_change": highlights.MIN_CHANGE,
            "clock": clock,
            "percent": percent,
        }


def write_conversation_report(
    conversation: Conversation, folder: Path, context: ReportContext, embed_audio: bool = True
) -> None:
    """Write report.html and monitor.json of a conversation to a folder, which is created if needed."""
    folder.mkdir(parents=True, exist_ok=True)
    page = render_conversation(conversation, context, "conversation", embed_audio)
    (folder / NUMBERS).write_text(json.dumps(to_json(conversation), ensure_ascii=False, allow_nan=False), "utf-8")
    (folder / REPORT).write_text(page, "utf-8")


def render_conversation(
    conversation: Conversation,
    context: ReportContext,
    template: Literal["conversation", "sections"],
    embed_audio: bool = True,
) -> str:
    """Return the page of a conversation as HTML, or only its sections, from the timeline to the segments."""
    colors = class_colors(conversation.model.classes)
    clips = extract_clips(conversation, conversation.highlights) if embed_audio else []
    uris = [audio_data_uri(clip) for clip in clips] or [""] * len(conversation.highlights)
    speakers = conversation.speakers
    values = {
        "conversation": conversation,
        "name": escape_undecodable(Path(conversation.path).name),
        "path": escape_undecodable(conversation.path),
        "summary": summarize(conversation),
        "timelines": [timeline(conversation, index) for index in range(len(speakers))],
        "highlights": [
            {"info": item, "color": colors[item.emotion], "speaker": speakers[item.speaker].name, "uri": uri}
            for item, uri in zip(conversation.highlights, uris, strict=True)
        ],
        "embed_audio": embed_audio,
        "speakers": [{"info": speaker, "shares": _ordered_shares(speaker, conversation)} for speaker in speakers],
        "negative_segments": [(speaker.name, segment) for speaker in speakers for segment in speaker.negative_segments],
        "max_listed": 300,  # segments per speaker
        "keys": KEYS,
        "speaker_keys": SPEAKER_KEYS,
        "baselines": {speaker.name: _baseline_text(speaker) for speaker in speakers if speaker.baseline},
    }
    return render_template(f"monitor/{template}.html.j2", values | context.template_values())


def _ordered_shares(speaker: Speaker, conversation: Conversation) -> Sequence[tuple[str, float]]:
    """Return the share of each class, negative classes first as in the timeline; empty without predictions."""
    if not speaker.has_predictions:
        return []
    negative = conversation.negative_classes
    order = [*negative, *(name for name in speaker.emotion_shares if name not in negative)]
    return [(name, speaker.emotion_shares[name]) for name in order]


def _baseline_text(speaker: Speaker) -> str:
    """Return a speaker's baseline in words, such as "angry 1.24, fear 0.31"."""
    reduction = speaker.baseline.log_odds_reduction if speaker.baseline else {}
    return ", ".join(f"{name} {amount:.2f}" for name, amount in reduction.items() if amount >= 0.005) or "nothing"


def _load_evaluation(source: str | Path | None) -> dict[str, Any] | None:
    path = Path(resolve_model_path(str(source or SHIPPED))).expanduser()
    run = next((run for run in map(RunFolder, (path, path.parent)) if run.metrics_file.is_file()), None)
    if run is None:
        return None
    try:
        metrics = run.metrics
    except (ValueError, TypeError):
        metrics = {}
    # The file may belong to other software.
    if not {"parts", "split"} <= metrics.keys():
        return None
    _, scores = evaluated_part(metrics)
    return {
        "uar": scores["uar"],
        "interval": scores.get("uar_interval"),
        "chance": scores["chance"],
        "sample": describe_sample(metrics),
        "corpora": list(metrics.get("terms") or ()),
        "notes": run_notes(metrics),
    }
