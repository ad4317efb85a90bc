"""What is measured of each clip for `ser-ft explore`: level, background, pitch, and statistics of its descriptors."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ... import audio
from ...utils.errors import InputError
from ...utils.progress import bar
from .sources import Source

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from ...data.catalog import Skipped

ANALYSED = 60.0  # seconds of a longer recording, from its middle, that are listened to
MEASURES = ("peak", "level", "background", "speech", "pitch", "pitch_range", "voiced")
DESCRIPTORS = ("mfcc", "rms", "zcr", "centroid", "spread", "rolloff", "flux", "spectral-entropy")
FUNCTIONALS = ("mean", "deviation", "quartile-25", "quartile-75", "change-deviation")
MARGIN = 15.9  # dB under the active level to which sound counts as speech: ITU-T P.56 (2011), 6.1
_ROUNDS = 12
_WINDOW, _HOP = 512, 256
_SILENCE = -100.0  # dBFS that stand for digital silence
_BATCH_CLIPS, _BATCH_SECONDS = 32, 120.0
_FEWEST_VOICED = 5


@dataclass(frozen=True)
class Survey:
    """Clips with what was measured of them.

    Attributes:
        source: where they are from.
        clips: the source's facts of the clips that could be read, with `MEASURES`: peak (dBFS, of the whole clip);
            level of the speech (dBFS); background, the level that a tenth of the windows lies under (dBFS); speech,
            the share of windows that hold it; pitch, the median of the voiced windows (Hz); pitch_range, from its
            10th to its 90th percentile (semitones); voiced, their share of the windows with speech. nan: no pitch.
        features: statistics of the descriptors and the measures of pitch, shape (clips, numbers), nan where there
            is no pitch.
        rows: of each clip, its row in the source, shape (clips,).
        skipped: what was left out, now or before; None where that is not known.
        cut: how many clips are longer than what was analysed.
    """

    source: Source
    clips: pd.DataFrame
    features: np.ndarray
    rows: np.ndarray
    skipped: list[Skipped] | None
    cut: int


def survey(source: Source, shown: bool = True) -> Survey:
    """Listen to every clip of a source; show a progress bar.

    Raises:
        InputError: none of them can be used.
    """
    import pandas as pd

    from ...data.catalog import Skipped

    heard = _Measurement()
    with bar(total=len(source.facts), desc="listening", unit=" clips", shown=shown) as progress:
        for part in _parts(source):
            heard.rows.extend(part.rows)
            heard.lines.extend(part.lines)
            heard.features.extend(part.features)
            heard.failed.extend(part.failed)
            progress.update(len(part.rows) + len(part.failed))
    skipped = list(source.skipped or ())
    for row, error in sorted(heard.failed, key=lambda pair: pair[0]):
        facts = source.facts.iloc[row]
        skipped.append(Skipped(facts["path"], facts["corpus"], error.reason, str(error)))
    if not heard.rows:
        raise InputError(f"{source.path}: none of the {len(skipped)} recordings there can be read")
    order = np.argsort(heard.rows)
    rows = np.array(heard.rows)[order]
    clips = source.facts.iloc[rows].reset_index(drop=True)
    found = pd.DataFrame([heard.lines[at] for at in order])
    known = ("duration", "sampling_rate")
    clips = clips.assign(**{name: clips[name].fillna(found[name]) for name in known}, **found[list(MEASURES)])
    told = None if source.skipped is None and not skipped else skipped
    return Survey(
        source, clips, np.concatenate(heard.features)[order], rows, told, int((clips["duration"] > ANALYSED).sum())
    )


@dataclass(frozen=True)
class _Measurement:
    """Clips listened to: their rows, measures and features, in the same order; and those that could not be read."""

    rows: list[int] = field(default_factory=list)
    lines: list[dict[str, float | None]] = field(default_factory=list)
    features: list[np.ndarray] = field(default_factory=list)
    failed: list[tuple[int, audio.AudioError]] = field(default_factory=list)


@dataclass(frozen=True)
class _Clip:
    row: int
    samples: np.ndarray
    facts: dict[str, float | None]


def _parts(source: Source) -> Iterator[_Measurement]:
    """Listen to clips of like size together, in threads that each work alone: nothing waits for another's turn."""
    import torch

    order = np.argsort(source.sizes, kind="stable")
    parts = [order[start : start + _BATCH_CLIPS].tolist() for start in range(0, len(order), _BATCH_CLIPS)]
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1), initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield from pool.map(lambda rows: _listen(source, rows), parts)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def _listen(source: Source, rows: Sequence[int]) -> _Measurement:
    """Read clips and measure them, so many at once as fit the memory."""
    heard = _Measurement()
    batch: list[_Clip] = []

    def empty() -> None:
        if batch:
            numbers, features = measure([clip.samples for clip in batch])
            heard.rows.extend(clip.row for clip in batch)
            heard.lines.extend({**line, **clip.facts} for clip, line in zip(batch, numbers, strict=True))
            heard.features.append(features)
            batch.clear()

    for row in rows:
        clip = _read(source, row)
        if isinstance(clip, audio.AudioError):
            heard.failed.append((row, clip))
            continue
        if (len(batch) + 1) * len(clip.samples) > _BATCH_SECONDS * audio.SAMPLE_RATE:
            empty()
        batch.append(clip)
    empty()
    return heard


def _read(source: Source, row: int) -> _Clip | audio.AudioError:
    try:
        samples, rate = source.read(row)
    except audio.AudioError as error:
        return error
    except Exception as error:  # one bad file, whatever it does to a decoder, never stops the rest
        return audio.AudioError("unreadable", f"{type(error).__name__}: {error}")
    peak = 20 * np.log10(max(float(np.abs(samples).max(initial=0.0)), 10 ** (_SILENCE / 20)))
    facts = {"peak": peak, "duration": len(samples) / audio.SAMPLE_RATE, "sampling_rate": rate}
    beyond = len(samples) - int(ANALYSED * audio.SAMPLE_RATE)
    if beyond > 0:
        # A copy, so that the rest of the recording goes.
        samples = samples[beyond // 2 : beyond // 2 - beyond].copy()
    return _Clip(row, samples, facts)


def measure(waveforms: Sequence[np.ndarray]) -> tuple[list[dict[str, float]], np.ndarray]:
    """Measure clips; a clip's numbers are the same alone and with others.

    Args:
        waveforms: float32 at 16 kHz, each of shape (samples,).

    Returns:
        for each clip the `MEASURES` but its peak, and the features, shape (clips, numbers): see `Survey`.
    """
    import torch

    from ...models.classical import frame_statistics
    from ...models.features import SpectralFeatureExtractor
    from ...models.pitch import yin

    extractor = SpectralFeatureExtractor(DESCRIPTORS, win_length=_WINDOW, hop_length=_HOP)
    lengths = torch.tensor([len(samples) for samples in waveforms])
    padded = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(samples) for samples in waveforms], batch_first=True)
    frames, mask = extractor.extract(padded, lengths)
    # A gain then moves the level's mean and leaves its deviation alone.
    at = extractor.columns.index("rms")
    frames[..., at] = decibels(frames[..., at])
    speech, levels = active(frames[..., at], mask.bool())
    pitch = yin(padded, lengths, hop_length=_HOP).frequency
    found = []
    for row, voices in enumerate(pitch):
        real = frames[row, mask[row].bool(), at]
        found.append(
            {
                "level": float(levels[row]),
                "background": float(real.quantile(0.1)),
                "speech": float(speech[row].sum() / len(real)),
                **_pitch(voices[speech[row]]),
            }
        )
    told = [[np.log(line["pitch"]), line["pitch_range"], line["voiced"]] for line in found]
    sums = frame_statistics(frames, mask, FUNCTIONALS).numpy()
    return found, np.concatenate([sums, np.array(told, dtype=np.float32)], axis=1)


def decibels(amplitudes: torch.Tensor) -> torch.Tensor:
    """Return amplitudes, full scale at 1.0, in dBFS; digital silence is -100."""
    return 20 * amplitudes.clamp(min=10 ** (_SILENCE / 20)).log10()


def active(levels: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the windows that hold speech, and the level of the speech: ITU-T P.56 (2011), method B, on windows.

    Speech is what lies less than 15.9 dB under the mean power of the speech: this is looked for round by round.

    Args:
        levels: of each window, in dBFS, shape (clips, windows). mask: where they are real, same shape, bool.

    Returns:
        whether a window holds speech, shape (clips, windows), and the level of the speech in dBFS, shape (clips,).
    """
    power = 10 ** (levels / 10)
    speech = mask
    for _ in range(_ROUNDS):
        level = 10 * ((power * speech).sum(dim=1) / speech.sum(dim=1)).log10()
        speech = mask & (levels > level[:, None] - MARGIN)
    return speech, level


def _pitch(frequencies: torch.Tensor) -> dict[str, float]:
    """Sum up the pitch of the windows with speech; nan where too few of them are voiced."""
    voices = frequencies[~frequencies.isnan()]
    voiced = len(voices) / max(1, len(frequencies))
    if len(voices) < _FEWEST_VOICED:
        return {"pitch": np.nan, "pitch_range": np.nan, "voiced": voiced}
    low, high = (float(voices.quantile(share)) for share in (0.1, 0.9))
    return {"pitch": float(voices.median()), "pitch_range": 12 * float(np.log2(high / low)), "voiced": voiced}
