"""All numbers of a conversation as one mapping, for monitor.json."""

from __future__ import annotations

from dataclasses import asdict
from importlib import metadata
from typing import Any

from ..inference.backends import ModelInfo
from ..inference.windows import window_prediction
from . import negative_segments
from .conversation import PAUSE, Conversation, Voice
from .summary import feedback

FORMAT = 1
"""Of monitor.json: raised when the meaning of a key changes."""

KEYS = {
    "format": "the number of this format",
    "versions": "of the packages that made it",
    "path": "of the recording",
    "duration": "of the recording",
    "rate": "sampling rate of the recording, in Hz",
    "channels": "how many the recording has",
    "mixed": "whether all voices are judged as one, speakers not told apart",
    "model": "name; classes; threshold, under which an answer is uncertain (null: none is); shortest, in samples at "
    "16 kHz; longest, the seconds of a clip that it hears (null: any)",
    "settings": "window, hop, smoothing, min_speech, gap, baseline (null: none) and pause, all in seconds",
    "negative": "the classes that count as dissatisfaction",
    "definition": "what a run of dissatisfaction is; null: the model knows none of its emotions",
    "notes": "what must be borne in mind",
    "feedback": "the sentences at the top of the page",
    "dissatisfied": "share of all speech that is in runs of dissatisfaction; null: nothing was judged",
    "silence": "seconds in which nobody speaks",
    "overlap": "seconds in which two or more speak",
    "pauses": "silences of `pause` seconds or more: start, end",
    "moments": "number; kind, strong or change; voice; start, end; emotion; before, the emotion before a change; "
    "strength, the mean probability of the emotion, or how far the answers before and after a change differ",
    "voices": "one for each channel, or one: see below",
}
VOICE_KEYS = {
    "name": "of the channel",
    "speech": "seconds of speech",
    "talk": "where it speaks: start, end",
    "shares": "of its speech, how much is in windows of each class; with uncertain they add up to 1",
    "uncertain": "the share in windows too uncertain to name: their highest probability is under the threshold",
    "dissatisfied": "share of its speech in runs of dissatisfaction; null: nothing was judged",
    "runs": "of dissatisfaction, made of segments: start, end; speech, seconds of it within; emotion, the one with "
    "most of it; emotions, seconds of each; probability, the mean",
    "baseline": "until, where it ends; windows, how many; lowered, what was taken off each class's log-odds; null: no "
    "baseline",
    "segments": "start, end, emotion, probability (the mean of its windows), uncertain (it is under the threshold)",
    "windows": "start, end; speech, the share of it that is speech; level, in dBFS; emotion; uncertain; scores, the "
    "smoothed probability of each class; null where too little was said",
}


def record(call: Conversation) -> dict[str, Any]:
    """Put all numbers of a conversation into a mapping for JSON: see `KEYS` and `VOICE_KEYS`.

    Times and lengths are in seconds, shares and probabilities from 0 to 1.
    """
    settings = asdict(call.settings.windows) | {"baseline": call.settings.baseline, "pause": PAUSE}
    told: dict[str, Any] = _rounded(
        {
            "format": FORMAT,
            "versions": {name: metadata.version(name) for name in ("ser_ft", "numpy", "soundfile", "soxr")},
            "path": readable(call.path),
            "duration": call.duration,
            "rate": call.rate,
            "channels": call.channels,
            "mixed": call.mixed,
            "model": asdict(call.info),
            "settings": settings,
            "negative": call.negative,
            "definition": negative_segments.definition(call.negative, call.settings.windows.gap),
            "notes": call.notes,
            "feedback": feedback(call),
            "dissatisfied": call.dissatisfied,
            "silence": call.silence,
            "overlap": call.overlap,
            "pauses": [{"start": start, "end": end} for start, end in call.pauses],
            "moments": [{**asdict(moment), "voice": call.voices[moment.voice].name} for moment in call.moments],
            "voices": [_voice_record(voice, call.info) for voice in call.voices],
        }
    )
    return told


def _voice_record(voice: Voice, facts: ModelInfo) -> dict[str, Any]:
    return {
        "name": voice.name,
        "speech": voice.spoken,
        "talk": [{"start": start, "end": end} for start, end in voice.talk],
        "shares": voice.shares,
        "uncertain": voice.uncertain,
        "dissatisfied": voice.dissatisfied,
        "runs": [asdict(run) for run in voice.runs],
        "baseline": asdict(voice.baseline) if voice.baseline else None,
        "segments": [asdict(segment) for segment in voice.segments],
        "windows": [window_prediction(window, facts) | {"level": window.level} for window in voice.windows],
    }


def readable(name: str) -> str:
    """Make a name such as a file's, which need not be text, one that can be written: with escapes for what is none."""
    return name.encode("utf-8", "backslashreplace").decode()


def _rounded(value: Any) -> Any:
    """Round all numbers to four decimals: less than any of them can tell."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return round(value, 4) if isinstance(value, float) else value
