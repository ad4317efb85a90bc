"""What is known of a conversation: its voices, who talks when, how each sounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..inference.backends import ModelInfo
from ..inference.windows import Segment, Window, WindowSettings, window_prediction
from ..utils.errors import InputError
from . import intervals, negative_segments
from .highlights import Moment
from .negative_segments import Run
from .speaker_baseline import Baseline

PAUSE = 5.0
"""Seconds in which nobody talks that count as a pause."""


@dataclass(frozen=True)
class MonitorSettings:
    """How a conversation is judged.

    Attributes:
        windows: how it is cut and smoothed.
        names: of its channels; None: "channel 1" and so on.
        baseline: seconds of each voice's speech that are its own baseline; None: it has none.
        negative: the emotions that count as dissatisfaction.
    """

    windows: WindowSettings = field(default_factory=WindowSettings)
    names: tuple[str, ...] | None = None
    baseline: float | None = None
    negative: tuple[str, ...] = negative_segments.NEGATIVE

    def __post_init__(self) -> None:
        """Check the baseline."""
        if self.baseline is not None and not 0 < self.baseline < float("inf"):
            raise InputError(f"a baseline is some seconds of speech, such as 60, not {self.baseline}")


@dataclass(frozen=True)
class Voice:
    """A channel of the recording, or all of them mixed.

    Attributes:
        name: of it. windows: in order, the judged and the others. segments: in order. talk: where it speaks.
        shares: of its speech, how much sounds of each class; what is uncertain counts for none.
        uncertain: the share of its speech that is too uncertain to name. runs: of dissatisfaction.
        baseline: what was taken off its answers; None: nothing was.
    """

    name: str
    windows: Sequence[Window]
    segments: Sequence[Segment]
    talk: intervals.Spans
    shares: dict[str, float]
    uncertain: float
    runs: Sequence[Run]
    baseline: Baseline | None

    @property
    def spoken(self) -> float:
        """Seconds of speech."""
        return intervals.seconds(self.talk)

    @property
    def judged(self) -> int:
        """How many windows were given an answer."""
        return sum(window.smoothed is not None for window in self.windows)

    @property
    def dissatisfied(self) -> float | None:
        """The share of its speech in runs of dissatisfaction; None where nothing was judged."""
        return sum(run.speech for run in self.runs) / self.spoken if self.judged and self.spoken else None

    @property
    def top(self) -> str | None:
        """The class that most of its speech sounds of; None where more of it is too uncertain to name."""
        name = max(self.shares, key=lambda name: self.shares[name], default=None)
        return name if name is not None and self.shares[name] > self.uncertain else None


@dataclass(frozen=True)
class Conversation:
    """A recording of a conversation, judged; times in seconds.

    Attributes:
        path: of the file. duration: of the recording. rate: sampling rate of the file, in Hz.
        channels: how many the file has. mixed: whether its one voice is all that is heard, speakers not told apart.
        facts: of the model. settings: how it was judged. negative: the model's classes that are dissatisfaction.
        voices: one for each channel, or one. silence: seconds in which nobody talks.
        overlap: seconds in which two or more talk. pauses: silences of `PAUSE` or more, in order.
        moments: to listen to. notes: what must be borne in mind, a line each.
    """

    path: str
    duration: float
    rate: int
    channels: int
    mixed: bool
    info: ModelInfo
    settings: MonitorSettings
    negative: tuple[str, ...]
    voices: Sequence[Voice]
    silence: float
    overlap: float
    pauses: intervals.Spans
    moments: Sequence[Moment]
    notes: Sequence[str]

    @property
    def dissatisfied(self) -> float | None:
        """The share of all speech in runs of dissatisfaction; None where nothing was judged."""
        judged = [voice for voice in self.voices if voice.dissatisfied is not None]
        spoken = sum(voice.spoken for voice in judged)
        return sum(run.speech for voice in judged for run in voice.runs) / spoken if spoken else None


def shares(
    windows: Sequence[Window], facts: ModelInfo, start: float = 0.0, end: float = float("inf")
) -> tuple[dict[str, float], float]:
    """Share out speech by how it sounds; each window weighs as much as there is speech in it.

    Args:
        windows: of one voice. facts: of the model. start: of a part of them, by their middles. end: likewise.

    Returns:
        the share of each class, and of what is uncertain: together 1, or all 0 where no window was judged.
    """
    weights = dict.fromkeys(facts.classes, 0.0)
    unsure = 0.0
    for window in windows:
        answer = window_prediction(window, facts)
        if answer["emotion"] is None or not start <= (window.start + window.end) / 2 <= end:
            continue
        if answer["uncertain"]:
            unsure += window.speech
        else:
            weights[answer["emotion"]] += window.speech
    total = sum(weights.values()) + unsure
    return {name: weight / total if total else 0.0 for name, weight in weights.items()}, unsure / total if total else 0
