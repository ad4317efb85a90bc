"""What the page of one conversation shows, and what both kinds of page say of the model and how it was used."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..evaluation.run_folder import RunFolder
from ..inference.backends import ModelInfo
from ..models import SHIPPED, resolve_model_path
from ..report.shared.tables import describe_sample, evaluated_part, run_notes
from ..report.shared.templates import audio_data_uri, render_template
from . import highlights, negative_segments, speaker_baseline
from .analysis import cut
from .conversation import PAUSE, Conversation, MonitorSettings, Voice
from .summary import clock, feedback, percent
from .timeline import colours, timeline
from .to_json import KEYS, VOICE_KEYS, readable, record

_LISTED = 300  # segments of a voice


@dataclass(frozen=True)
class About:
    """The model and the settings of a report.

    Attributes:
        facts: what the model says of itself. settings: how calls are judged.
        negative: the model's classes that are dissatisfaction.
        known: how well the model did: uar, interval, chance, sample, corpora and notes; None: it is not known.
    """

    info: ModelInfo
    settings: MonitorSettings
    negative: tuple[str, ...]
    known: Mapping[str, Any] | None

    @classmethod
    def of(cls, facts: ModelInfo, settings: MonitorSettings, model: str | Path | None) -> About:
        """Gather it; how well the model did is read from the run folder that it lies in, where it lies in one.

        `model`: where it lies; None: it is the one that ships.
        """
        return cls(facts, settings, negative_segments.named(facts.classes, settings.negative), _known(model))

    def contents(self) -> dict[str, Any]:
        """Return what both templates show."""
        gap = self.settings.windows.gap
        return {
            "about": self,
            "fills": colours(self.info.classes),
            "definition": negative_segments.definition(self.negative, gap),
            "ordinary": speaker_baseline.ORDINARY_SHARE,
            "pause": PAUSE,
            "change": highlights.CHANGE,
            "clock": clock,
            "percent": percent,
        }


def write_call(call: Conversation, folder: Path, about: About, sound: bool = True) -> None:
    """Write a conversation's page, report.html, and its numbers, monitor.json.

    Args:
        call: the conversation. folder: where they go; made where it is not there.
        about: the model and the settings. sound: put the moments into the page, to be played.
    """
    folder.mkdir(parents=True, exist_ok=True)
    page = render_template("monitor/conversation.html.j2", _contents(call, sound) | about.contents())
    (folder / "monitor.json").write_text(json.dumps(record(call), ensure_ascii=False, allow_nan=False), "utf-8")
    (folder / "report.html").write_text(page, "utf-8")


def _contents(call: Conversation, sound: bool) -> dict[str, Any]:
    fills = colours(call.info.classes)
    uris = [audio_data_uri(samples) for samples in cut(call, call.moments)] if sound else [""] * len(call.moments)
    return {
        "call": call,
        "name": readable(Path(call.path).name),
        "path": readable(call.path),
        "feedback": feedback(call),
        "timelines": [timeline(call, number) for number in range(len(call.voices))],
        "moments": [
            {"about": moment, "fill": fills[moment.emotion], "voice": call.voices[moment.voice].name, "uri": uri}
            for moment, uri in zip(call.moments, uris, strict=True)
        ],
        "sound": sound,
        "voices": [{"about": voice, "shares": _shares(voice, call)} for voice in call.voices],
        "runs": [(voice.name, run) for voice in call.voices for run in voice.runs],
        "listed": _LISTED,
        "keys": KEYS,
        "voice_keys": VOICE_KEYS,
        "lowered": {voice.name: _lowered(voice) for voice in call.voices if voice.baseline},
    }


def _shares(voice: Voice, call: Conversation) -> Sequence[tuple[str, float]]:
    """Return the share of each class, dissatisfaction first as in the timeline; empty where nothing was judged."""
    if not voice.judged:
        return []
    order = [*call.negative, *(name for name in voice.shares if name not in call.negative)]
    return [(name, voice.shares[name]) for name in order]


def _lowered(voice: Voice) -> str:
    """Say what was taken off a voice's log-odds: "angry 1.24, fear 0.31"."""
    found = voice.baseline.lowered if voice.baseline else {}
    return ", ".join(f"{name} {amount:.2f}" for name, amount in found.items() if amount >= 0.005) or "nothing"


def _known(model: str | Path | None) -> dict[str, Any] | None:
    given = Path(resolve_model_path(str(model or SHIPPED))).expanduser()
    run = next((run for run in map(RunFolder, (given, given.parent)) if run.metrics_file.is_file()), None)
    if run is None:
        return None
    # Others put files of that name beside their models, too.
    try:
        metrics = run.metrics
    except (ValueError, TypeError):
        return None
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
