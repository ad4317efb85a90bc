"""Analysis of a recorded conversation: predictions for each channel, and how the speakers interact."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import audio
from ..audio import AudioError, MonoConverter, decode_blocks, open_audio
from ..inference.backends import Backend
from ..inference.decoding import MIN_SECONDS
from ..inference.windows import Window, adapt_windows, iter_windows, merge_windows
from ..labels import canonical_name
from ..utils.errors import InputError
from . import intervals
from .conversation import MIN_PAUSE, Conversation, MonitorSettings, Speaker, emotion_shares
from .highlights import Highlight, select_highlights
from .negative_segments import find_negative_segments, negative_classes
from .speaker_baseline import apply_baseline, estimate_baseline

MIN_CORRELATION = 0.98
"""Correlation from which all channels of a file count as the same: a mono recording saved as stereo, or inverted."""

ProgressCallback = Callable[[float], Any]


class _FileScan(NamedTuple):
    rate: int
    channels: int
    duration: float
    identical_channels: bool
    silent: tuple[bool, ...]  # per channel


def analyze_conversation(
    backend: Backend, path: str | Path, settings: MonitorSettings, on_progress: ProgressCallback | None = None
) -> Conversation:
    """Analyze a recorded conversation.

    Each channel of a file is one speaker. If there is only one channel, or all channels hold the same sound, all
    speakers are analyzed together, and a note says so. The file is read block by block, once in advance and once for
    each speaker. `on_progress` is called repeatedly with the share of the work done since the last call.

    Raises:
        AudioError: the file cannot be decoded, is silent, or is shorter than 0.1 s.
        InputError: the settings do not fit the file or the model.
    """
    scan = _scan(path)
    mixed = scan.channels == 1 or scan.identical_channels
    names = settings.channel_names or [f"channel {number}" for number in range(1, scan.channels + 1)]
    if not mixed and len(names) != scan.channels:
        raise InputError(
            f"{path}: the file has {scan.channels} channels, but --channels has {len(names)} names: name each channel, "
            "in order"
        )
    channels = [("all speakers", None)] if mixed else [(name, channel) for channel, name in enumerate(names)]
    negative = negative_classes(backend.info.classes, settings.negative_emotions)
    speakers: list[Speaker] = []
    for name, channel in channels:
        windows: list[Window] = []
        for window in iter_windows(backend, path, settings.windows, channel=channel):
            if on_progress:
                seconds = window.end - (windows[-1].end if windows else 0.0)
                on_progress(seconds / (scan.duration * len(channels)))
            windows.append(window)
        speakers.append(_analyze_speaker(name, windows, backend, settings, negative))
    model, speech = backend.info, [speaker.speech for speaker in speakers]
    silences = intervals.gaps(intervals.union(chain.from_iterable(speech)), scan.duration)
    emotions = [name for name in model.classes if name in negative or canonical_name(name) in ("happy", "surprise")]
    windows_and_segments = [(speaker.windows, speaker.segments) for speaker in speakers]
    return Conversation(
        path=str(path),
        duration=scan.duration,
        sampling_rate=scan.rate,
        num_channels=scan.channels,
        mixed=mixed,
        model=model,
        settings=settings,
        negative_classes=negative,
        speakers=speakers,
        silence=intervals.total_seconds(silences),
        overlap=intervals.total_seconds(intervals.overlaps(speech)),
        pauses=[(start, end) for start, end in silences if end - start >= MIN_PAUSE],
        highlights=select_highlights(windows_and_segments, model.classes, emotions, scan.duration),
        notes=_notes(scan, settings, negative, speakers),
    )


def _scan(path: str | Path) -> _FileScan:
    with open_audio(path) as sound:
        converters = [MonoConverter(sound.rate, name=sound.name) for _ in range(sound.channels)]
        products = np.zeros((sound.channels, sound.channels))
        low, high = np.zeros(sound.channels), np.zeros(sound.channels)
        num_samples = 0
        for block in chain(sound.blocks(), [np.zeros((0, sound.channels), np.float32)]):
            last = not len(block)
            pieces = [converter.convert(block[:, [index]], last) for index, converter in enumerate(converters)]
            channels = np.stack(pieces, axis=1)
            products += channels.T @ channels
            low = np.minimum(low, channels.min(axis=0, initial=0.0))
            high = np.maximum(high, channels.max(axis=0, initial=0.0))
            num_samples += len(block)
    seconds, peak = num_samples / sound.rate, (high - low) / 2
    if seconds < MIN_SECONDS:
        raise AudioError(
            "too-short", f"{path}: {1000 * seconds:.1f} ms of sound is too short: at least {MIN_SECONDS} s are needed"
        )
    silent = peak < audio.SILENCE_PEAK
    if silent.all():
        raise AudioError("silent", f"{path}: silent: no sound above -60 dBFS")
    norm = np.sqrt(np.diag(products))
    identical = not silent.any() and bool((np.abs(products) >= MIN_CORRELATION * np.outer(norm, norm)).all())
    return _FileScan(sound.rate, sound.channels, seconds, identical, tuple(map(bool, silent)))


def _analyze_speaker(
    name: str, windows: list[Window], backend: Backend, settings: MonitorSettings, negative: Sequence[str]
) -> Speaker:
    model, baseline, adapted = backend.info, None, 0
    if settings.adapt:
        windows, speaker = adapt_windows(windows, model.classes, settings.windows)
        adapted = speaker.clips
    if settings.baseline_seconds is not None:
        baseline = estimate_baseline(windows, model.classes, settings.baseline_seconds, settings.windows.hop)
        windows = apply_baseline(windows, baseline, settings.windows) if baseline else windows
    segments = merge_windows(windows, model, settings.windows)
    speech = intervals.union(span for window in windows for span in window.spans)
    negative_segments = find_negative_segments(segments, speech, negative, settings.windows.gap)
    shares = emotion_shares(windows, model)
    return Speaker(name, windows, segments, speech, *shares, negative_segments, baseline, adapted)


def _notes(
    scan: _FileScan, settings: MonitorSettings, negative: Sequence[str], speakers: Sequence[Speaker]
) -> list[str]:
    """Return the limitations of an analysis, one sentence each, without capital letter and full stop."""
    notes = []
    not_distinguished = "speakers are not distinguished, and all figures are for all speakers together"
    if scan.channels == 1:
        notes.append(f"one channel: {not_distinguished}")
    elif scan.identical_channels:
        notes.append(f"identical channels: {not_distinguished}")
    for speaker, silent in zip(speakers, scan.silent, strict=False):
        if silent and not scan.identical_channels:
            notes.append(f"{speaker.name} is silent: if one channel holds several speakers, they are not distinguished")
    if scan.rate < audio.SAMPLE_RATE:
        notes.append(
            f"telephone sound: a sampling rate of {scan.rate / 1000:g} kHz holds nothing above {scan.rate / 2000:g} "
            f"kHz, and the model uses sound up to {audio.SAMPLE_RATE / 2000:g} kHz: it may be wrong more often"
        )
    if not negative:
        notes.append(f"no negative segments: the model has none of the classes {', '.join(settings.negative_emotions)}")
    seconds = settings.baseline_seconds
    without = [speaker.name for speaker in speakers if seconds is not None and speaker.baseline is None]
    if without:
        notes.append(f"no speaker baseline for {', '.join(without)}: less than twice {seconds:g} s of speech")
    if settings.adapt and (unchanged := [speaker.name for speaker in speakers if not speaker.adapted]):
        reason = "there is too little speech, or it seems to express one emotion"
        notes.append(f"predictions are not adapted to {', '.join(unchanged)}: {reason}")
    return notes


def extract_clips(conversation: Conversation, highlights: Sequence[Highlight]) -> list[np.ndarray]:
    """Read the audio of highlights, of the speaker's channel only: float32 at 16 kHz, shape (samples,) each."""
    pieces: list[list[np.ndarray]] = [[] for _ in highlights]
    for channel in [None] if conversation.mixed else sorted({highlight.speaker for highlight in highlights}):
        wanted = [index for index, highlight in enumerate(highlights) if channel in (None, highlight.speaker)]
        start = 0
        for block in decode_blocks(conversation.path, channel=channel):
            for index in wanted:
                first, stop = (
                    round(edge * audio.SAMPLE_RATE) for edge in (highlights[index].start, highlights[index].end)
                )
                pieces[index].append(block[max(0, first - start) : max(0, stop - start)])
            start += len(block)
            if start > max((highlights[index].end for index in wanted), default=0.0) * audio.SAMPLE_RATE:
                break
    return [np.concatenate([np.zeros(0, np.float32), *parts]) for parts in pieces]
