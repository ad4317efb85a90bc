"""The settings and the result of analyzing a recorded conversation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..inference.backends import ModelInfo
from ..inference.windows import Segment, Window, WindowSettings, window_prediction
from ..utils.errors import InputError
from .highlights import Highlight
from .intervals import Intervals, total_seconds
from .negative_segments import NEGATIVE_EMOTIONS, NegativeSegment
from .speaker_baseline import SpeakerBaseline

MIN_PAUSE = 5.0
"""Shortest silence that counts as a pause, in seconds."""


@dataclass(frozen=True)
class MonitorSettings:
    """How a conversation is analyzed.

    Attributes:
        channel_names: the speaker of each channel; None names them "channel 1" and so on.
        baseline_seconds: seconds of each speaker's speech that the baseline is estimated from; None for no baseline.
        adapt: whether predictions are adapted to each speaker by all windows of the speaker.
    """

    windows: WindowSettings = field(default_factory=WindowSettings)
    channel_names: tuple[str, ...] | None = None
    baseline_seconds: float | None = None
    adapt: bool = False
    negative_emotions: tuple[str, ...] = NEGATIVE_EMOTIONS

    def __post_init__(self) -> None:
        """Check the correction for each speaker."""
        if self.adapt and self.baseline_seconds is not None:
            raise InputError(
                "--adapt and --speaker-baseline both correct predictions for each speaker: pass one of them"
            )
        if self.baseline_seconds is not None and not 0 < self.baseline_seconds < float("inf"):
            raise InputError(
                f"--speaker-baseline must be a number of seconds of speech, such as 60, not {self.baseline_seconds}"
            )


@dataclass(frozen=True)
class Speaker:
    """The analysis of one channel of a conversation, or of all channels mixed.

    `windows` are with and without predictions, `speech` is when the speaker talks, and the shares are those of
    `emotion_shares`. `adapted` is the number of windows that predictions are adapted by, 0 without adaptation.
    """

    name: str
    windows: Sequence[Window]
    segments: Sequence[Segment]
    speech: Intervals
    emotion_shares: dict[str, float]
    uncertain_share: float
    negative_segments: Sequence[NegativeSegment]
    baseline: SpeakerBaseline | None
    adapted: int = 0

    @property
    def speech_seconds(self) -> float:
        """Seconds of speech."""
        return total_seconds(self.speech)

    @property
    def has_predictions(self) -> bool:
        """Whether any window has enough speech for a prediction."""
        return any(window.smoothed is not None for window in self.windows)

    @property
    def negative_share(self) -> float | None:
        """The share of the speech in negative segments; None without predictions."""
        if not (self.has_predictions and self.speech_seconds):
            return None
        return sum(segment.speech_seconds for segment in self.negative_segments) / self.speech_seconds

    @property
    def main_emotion(self) -> str | None:
        """The most frequent class; None if more of the speech is uncertain."""
        name = max(self.emotion_shares, key=lambda name: self.emotion_shares[name], default=None)
        return name if name is not None and self.emotion_shares[name] > self.uncertain_share else None


@dataclass(frozen=True)
class Conversation:
    """The analysis of a recorded conversation; all times in seconds.

    Attributes:
        mixed: whether all channels are analyzed as one, so that speakers are not distinguished.
        negative_classes: the model's classes that count as negative.
        speakers: one per channel, or a single one for all.
        silence: seconds in which nobody talks.
        overlap: seconds in which two or more talk.
        pauses: silences of at least `MIN_PAUSE`.
        notes: limitations of this analysis, one sentence each, without capital letter and full stop.
    """

    path: str
    duration: float
    sampling_rate: int
    num_channels: int
    mixed: bool
    model: ModelInfo
    settings: MonitorSettings
    negative_classes: tuple[str, ...]
    speakers: Sequence[Speaker]
    silence: float
    overlap: float
    pauses: Intervals
    highlights: Sequence[Highlight]
    notes: Sequence[str]

    @property
    def negative_share(self) -> float | None:
        """The share of all speech in negative segments; None without predictions."""
        with_share = [speaker for speaker in self.speakers if speaker.negative_share is not None]
        total = sum(speaker.speech_seconds for speaker in with_share)
        negative = sum(segment.speech_seconds for speaker in with_share for segment in speaker.negative_segments)
        return negative / total if total else None


def emotion_shares(
    windows: Sequence[Window], model: ModelInfo, start: float = 0.0, end: float = float("inf")
) -> tuple[dict[str, float], float]:
    """Return the share of a speaker's speech predicted as each class, and the share in uncertain windows.

    Each window with its middle between `start` and `end`, in seconds, is weighted by the speech in it. The shares add
    up to 1, or are all 0 without predictions.
    """
    weights = dict.fromkeys(model.classes, 0.0)
    uncertain = 0.0
    for window in windows:
        prediction = window_prediction(window, model)
        if prediction["emotion"] is None or not start <= (window.start + window.end) / 2 <= end:
            continue
        if prediction["uncertain"]:
            uncertain += window.speech
        else:
            weights[prediction["emotion"]] += window.speech
    total = (sum(weights.values()) + uncertain) or 1.0
    return {name: weight / total for name, weight in weights.items()}, uncertain / total
