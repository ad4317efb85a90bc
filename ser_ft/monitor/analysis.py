"""A recording of a conversation, judged: each channel in rolling windows, and what the voices do together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import audio
from ..audio import AudioError
from ..audio.streaming import blocks, open_audio
from ..inference.backends import Backend, ModelInfo
from ..inference.recognizer import MIN_SECONDS
from ..inference.windows import Window, iter_windows, merge_windows
from ..labels import canonical_name
from ..utils.errors import InputError
from . import intervals, negative_segments, speaker_baseline
from .conversation import PAUSE, Conversation, MonitorSettings, Voice, shares
from .highlights import Moment, moments

ALIKE = 0.98
"""Correlation from which the channels of a file are one sound: a mono call kept as stereo."""
_TELLING = ("happy", "surprise")  # besides dissatisfaction, worth listening to

Seen = Callable[[float], Any]


@dataclass(frozen=True)
class _Look:
    """What a first pass over a file tells: `alike` whether its channels hold one sound, `silent` which hold none."""

    rate: int
    channels: int
    duration: float
    alike: bool
    silent: tuple[bool, ...]


def monitor(engine: Backend, path: str | Path, settings: MonitorSettings, seen: Seen | None = None) -> Conversation:
    """Judge a conversation.

    A file with several channels has a voice in each. Where it has one, or all hold the same sound, the voices are
    judged together, and a note says so. The file is read once for each voice and once before, block by block.

    Args:
        engine: that answers. path: of the recording. settings: how it is judged.
        seen: called as it moves on, with the share of the work done since the last time.

    Raises:
        AudioError: the file cannot be read, is silent, or shorter than 0.1 s.
        InputError: the settings do not fit the file or the model.
    """
    name, look = str(path), _look(path)
    mixed = look.channels == 1 or look.alike
    if settings.names and not mixed and len(settings.names) != look.channels:
        raise InputError(
            f"{name}: has {look.channels} channels, and --channels names {len(settings.names)}: name each, in order"
        )
    names = settings.names or tuple(f"channel {number}" for number in range(1, look.channels + 1))
    negative = negative_segments.named(engine.info.classes, settings.negative)
    told: list[tuple[str, int | None]] = [("the voices", None)] if mixed else [(n, at) for at, n in enumerate(names)]
    voices = []
    for called, channel in told:
        windows = _windows(engine, path, settings, channel, look.duration * len(told), seen)
        voices.append(_voice(called, windows, engine.info, settings, negative))
    spoken = intervals.union(span for voice in voices for span in voice.talk)
    silences = intervals.gaps(spoken, look.duration)
    telling = [n for n in engine.info.classes if n in negative or canonical_name(n) in _TELLING]
    return Conversation(
        path=name,
        duration=look.duration,
        rate=look.rate,
        channels=look.channels,
        mixed=mixed,
        info=engine.info,
        settings=settings,
        negative=negative,
        voices=voices,
        silence=intervals.seconds(silences),
        overlap=intervals.seconds(intervals.overlaps([voice.talk for voice in voices])),
        pauses=[span for span in silences if span[1] - span[0] >= PAUSE],
        moments=moments(
            [(voice.windows, voice.segments) for voice in voices], engine.info.classes, telling, look.duration
        ),
        notes=_notes(look, settings, negative, voices),
    )


def _look(path: str | Path) -> _Look:
    """Read a file through, to learn how long it is and whether its channels differ."""
    with open_audio(path) as sound:
        shared, peak, count = np.zeros((sound.channels, sound.channels)), np.zeros(sound.channels), 0
        for block in sound.blocks():
            shared += block.T @ block
            peak = np.maximum(peak, np.ptp(block, axis=0) / 2)
            count += len(block)
    seconds = count / sound.rate
    if seconds < MIN_SECONDS:
        found = f"{1000 * seconds:.1f} ms"
        raise AudioError("too-short", f"{path}: {found} of sound is too short: {MIN_SECONDS} s is the least")
    silent = peak < audio.SILENCE_PEAK
    if silent.all():
        raise AudioError("silent", f"{path}: holds no sound above -60 dBFS")
    power = np.sqrt(np.diag(shared))
    alike = not silent.any() and bool((shared >= ALIKE * np.outer(power, power)).all())
    return _Look(sound.rate, sound.channels, seconds, alike, tuple(map(bool, silent)))


def _windows(
    engine: Backend,
    path: str | Path,
    settings: MonitorSettings,
    channel: int | None,
    whole: float,
    seen: Seen | None,
) -> list[Window]:
    windows: list[Window] = []
    for window in iter_windows(engine, path, settings.windows, channel=channel):
        if seen:
            seen((window.end - (windows[-1].end if windows else 0.0)) / whole)
        windows.append(window)
    return windows


def _voice(
    name: str, windows: list[Window], facts: ModelInfo, settings: MonitorSettings, negative: Sequence[str]
) -> Voice:
    own = None
    if settings.baseline is not None:
        own = speaker_baseline.baseline(windows, facts.classes, settings.baseline, settings.windows.hop)
        windows = speaker_baseline.taken_off(windows, own, settings.windows) if own else windows
    found = merge_windows(windows, facts, settings.windows)
    spoken = intervals.union(span for window in windows for span in window.spans)
    parts, unsure = shares(windows, facts)
    runs = negative_segments.runs(found, spoken, negative, settings.windows.gap)
    return Voice(name, windows, found, spoken, parts, unsure, runs, own)


def _notes(look: _Look, settings: MonitorSettings, negative: Sequence[str], voices: Sequence[Voice]) -> list[str]:
    """Say what must be borne in mind, a line each."""
    lines = []
    if look.channels == 1:
        lines.append("one channel: speakers are not told apart, and all figures are of their voices together")
    elif look.alike:
        lines.append("channels alike: speakers are not told apart, and all figures are of their voices together")
    for voice, silent in zip(voices, look.silent, strict=False):
        if silent and not look.alike:
            lines.append(f"{voice.name} is silent: where one channel holds all speakers, they are not told apart")
    if look.rate < audio.SAMPLE_RATE:
        lines.append(
            f"telephone sound: recorded at {look.rate / 1000:g} kHz, it holds nothing above {look.rate / 2000:g} kHz, "
            f"and the model hears up to {audio.SAMPLE_RATE / 2000:g} kHz: it may be wrong more often"
        )
    if not negative:
        lines.append(f"dissatisfaction not judged: the model knows none of {', '.join(settings.negative)}")
    without = [voice.name for voice in voices if settings.baseline is not None and voice.baseline is None]
    if without:
        lines.append(
            f"no baseline: {', '.join(without)} spoke less than twice {settings.baseline:g} s, so none was taken off"
        )
    return lines


def cut(call: Conversation, chosen: Sequence[Moment]) -> list[np.ndarray]:
    """Cut moments out of a conversation's file: of each, its own voice alone.

    Returns:
        float32 mono samples at 16 kHz, shape (samples,), in the order given.
    """
    pieces: list[list[np.ndarray]] = [[] for _ in chosen]
    last, at = max((moment.end for moment in chosen), default=0.0), 0.0
    for block in blocks(call.path):
        for moment, parts in zip(chosen, pieces, strict=True):
            first, stop = (round((time - at) * audio.SAMPLE_RATE) for time in (moment.start, moment.end))
            piece = block[max(0, first) : max(0, stop)]
            if len(piece):
                parts.append(audio.mix_down(piece) if call.mixed else piece[:, moment.voice].copy())
        at += len(block) / audio.SAMPLE_RATE
        if at > last:
            break
    return [np.concatenate(parts) if parts else np.zeros(0, np.float32) for parts in pieces]
