"""All numbers of an analyzed conversation as a JSON object, for monitor.json."""

from __future__ import annotations

from dataclasses import asdict
from importlib import metadata
from typing import Any

from ..inference.backends import ModelInfo
from ..inference.windows import window_prediction
from .conversation import MIN_PAUSE, Conversation, Speaker
from .intervals import Intervals
from .negative_segments import definition
from .summary import summarize

FORMAT_VERSION = 1
"""Of monitor.json: increased when the meaning of a key changes."""

KEYS = {
    "format_version": "version of this format",
    "versions": "versions of the packages used",
    "path": "of the recording",
    "duration": "of the recording, in seconds",
    "sampling_rate": "of the recording, in Hz",
    "num_channels": "number of channels of the recording",
    "mixed": "whether all channels are analyzed as one, so that speakers are not distinguished",
    "model": "name; classes; threshold, the probability below which a prediction is uncertain (null: none); "
    "min_samples of a clip, at 16 kHz; max_seconds of a clip that the model uses (null: all)",
    "settings": "window, hop, smoothing, min_speech, gap, baseline_seconds (null: no baseline) and min_pause, all in "
    "seconds; adapt, whether predictions are adapted to each speaker",
    "negative_classes": "the classes that count as negative",
    "negative_segment_definition": "what a negative segment is; null: the model has no negative class",
    "notes": "limitations of this analysis",
    "summary": "the sentences at the top of the page",
    "negative_share": "share of all speech in negative segments; null: no predictions",
    "silence": "seconds in which nobody talks",
    "overlap": "seconds in which two or more talk",
    "pauses": "silences of `min_pause` seconds or more: start, end",
    "highlights": "number; kind, strong or change; speaker; start, end; emotion; previous_emotion, before a change; "
    "strength, the mean probability of the emotion, or the distance between the probabilities before and after it",
    "speakers": "one per channel, or a single one for all; their keys follow",
}
SPEAKER_KEYS = {
    "name": "of the channel",
    "speech_seconds": "seconds of speech",
    "speech": "when the speaker talks: start, end",
    "emotion_shares": "share of the speech in windows of each class; together with uncertain_share they add up to 1",
    "uncertain_share": "share of the speech in uncertain windows, whose highest probability is below the threshold",
    "negative_share": "share of the speech in negative segments; null: no predictions",
    "negative_segments": "start, end; speech_seconds within; emotion, the one with the most seconds; emotion_seconds "
    "of each; probability, the mean",
    "baseline": "end of the speech that it is estimated from; num_windows; log_odds_reduction, what is subtracted from "
    "the log-odds of each class; null: no baseline",
    "adapted": "number of windows that the predictions are adapted by; 0: they are not adapted",
    "segments": "start, end, emotion, probability (mean of its windows), uncertain (below the threshold)",
    "windows": "start, end; speech, the share of the window that is speech; level, in dBFS; emotion; uncertain; "
    "scores, the smoothed probability of each class; null if there is too little speech",
}


def to_json(conversation: Conversation) -> dict[str, Any]:
    """Return all numbers of a conversation as a JSON object; see `KEYS` and `SPEAKER_KEYS`.

    Times and lengths are in seconds, shares and probabilities from 0 to 1.
    """
    settings, negative = conversation.settings, conversation.negative_classes
    contents: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "versions": {name: metadata.version(name) for name in ("ser_ft", "numpy", "soundfile", "soxr")},
        "path": escape_undecodable(conversation.path),
        "duration": conversation.duration,
        "sampling_rate": conversation.sampling_rate,
        "num_channels": conversation.num_channels,
        "mixed": conversation.mixed,
        "model": asdict(conversation.model),
        "settings": asdict(settings.windows)
        | {"baseline_seconds": settings.baseline_seconds, "adapt": settings.adapt, "min_pause": MIN_PAUSE},
        "negative_classes": negative,
        "negative_segment_definition": definition(negative, settings.windows.gap),
        "notes": conversation.notes,
        "summary": summarize(conversation),
        "negative_share": conversation.negative_share,
        "silence": conversation.silence,
        "overlap": conversation.overlap,
        "pauses": _start_and_end(conversation.pauses),
        "highlights": [
            asdict(item) | {"speaker": conversation.speakers[item.speaker].name} for item in conversation.highlights
        ],
        "speakers": [_speaker(speaker, conversation.model) for speaker in conversation.speakers],
    }
    return {key: _rounded(value) for key, value in contents.items()}


def _speaker(speaker: Speaker, model: ModelInfo) -> dict[str, Any]:
    return {
        "name": speaker.name,
        "speech_seconds": speaker.speech_seconds,
        "speech": _start_and_end(speaker.speech),
        "emotion_shares": speaker.emotion_shares,
        "uncertain_share": speaker.uncertain_share,
        "negative_share": speaker.negative_share,
        "negative_segments": [asdict(segment) for segment in speaker.negative_segments],
        "baseline": asdict(speaker.baseline) if speaker.baseline else None,
        "adapted": speaker.adapted,
        "segments": [asdict(segment) for segment in speaker.segments],
        "windows": [window_prediction(window, model) | {"level": window.level} for window in speaker.windows],
    }


def _start_and_end(intervals: Intervals) -> list[dict[str, float]]:
    return [{"start": start, "end": end} for start, end in intervals]


def escape_undecodable(name: str) -> str:
    """Replace the bytes of a file name that are not valid text by escapes, so that it can be written as UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode()


def _rounded(value: Any) -> Any:
    """Round all floats in a JSON value to four decimals, which is more than the analysis resolves."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return round(value, 4) if isinstance(value, float) else value
