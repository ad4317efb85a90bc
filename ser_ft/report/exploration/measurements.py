"""Acoustic measurements of each clip for `ser-ft explore`: levels, pitch, and statistics of its descriptors."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from ... import audio
from ...utils.errors import InputError, raise_machine_failure
from ...utils.progress import progress_bar
from .sources import Source

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from ...data.skipped import Skipped

_one_long_clip = threading.RLock()  # held while a long clip is in memory as a whole
MAX_SECONDS = 60.0  # of a longer recording, this much from its middle is analyzed
MEASURES = ("peak", "level", "background", "speech", "pitch", "pitch_range", "voiced")
DESCRIPTORS = ("mfcc", "rms", "zcr", "centroid", "spread", "rolloff", "flux", "spectral-entropy")
FUNCTIONALS = ("mean", "deviation", "quartile-25", "quartile-75", "change-deviation")
SPEECH_MARGIN = 15.9  # dB below the active level down to which a window counts as speech: ITU-T P.56 (2011), 6.1
_ACTIVE_LEVEL_ITERATIONS = 12
_WINDOW, _HOP = 512, 256
_SILENCE_DBFS = -100.0
_BATCH_CLIPS, _BATCH_SECONDS = 32, 120.0
_MIN_VOICED_WINDOWS = 5


class _Clip(NamedTuple):
    row: int
    measures: dict[str, float | None]
    features: np.ndarray


_Batch: TypeAlias = tuple[list[_Clip], list[tuple[int, audio.AudioError]]]


@dataclass(frozen=True)
class MeasuredClips:
    """The readable clips of a source with their measurements.

    Attributes:
        clips: the source's metadata of the clips, with the columns `MEASURES`: peak (dBFS, of the whole clip); level
            of the speech (dBFS); background, the 10th percentile of the windows' levels (dBFS); speech, the fraction
            of windows with speech; pitch, its median over the voiced windows (Hz); pitch_range, from its 10th to its
            90th percentile (semitones); voiced, the fraction of voiced windows among those with speech. nan: no pitch.
        features: statistics of the descriptors and of the pitch, shape (clips, features), nan if there is no pitch.
        rows: each clip's row in the source, shape (clips,).
        skipped: files that were skipped, now or before; None if unknown.
        num_truncated: number of clips that are longer than what was analyzed of them.
    """

    source: Source
    clips: pd.DataFrame
    features: np.ndarray
    rows: np.ndarray
    skipped: list[Skipped] | None
    num_truncated: int


def measure_source(source: Source, show_progress: bool = True) -> MeasuredClips:
    """Read and measure every clip of a source; raise an InputError if none of them can be read."""
    import pandas as pd

    from ...data.skipped import Skipped

    measured: list[_Clip] = []
    errors: list[tuple[int, audio.AudioError]] = []
    with progress_bar(
        total=len(source.metadata), desc="measuring", unit=" clips", show_progress=show_progress
    ) as progress:
        for batch, batch_errors in _measure_in_threads(source):
            measured += batch
            errors += batch_errors
            progress.update(len(batch) + len(batch_errors))
    skipped = list(source.skipped or ())
    for row, error in sorted(errors, key=lambda pair: pair[0]):
        clip = source.metadata.iloc[row]
        skipped.append(Skipped(clip["path"], clip["corpus"], error.reason, str(error)))
    if not measured:
        raise InputError(f"{source.path}: none of its {len(skipped)} recordings can be read")
    measured.sort(key=lambda clip: clip.row)
    rows = np.array([clip.row for clip in measured])
    clips = source.metadata.iloc[rows].reset_index(drop=True)
    measures = pd.DataFrame([clip.measures for clip in measured])
    filled = {name: clips[name].fillna(measures[name]) for name in ("duration", "sampling_rate")}
    clips = clips.assign(**filled, **measures[list(MEASURES)])
    features = np.stack([clip.features for clip in measured])
    all_skipped = None if source.skipped is None and not skipped else skipped
    return MeasuredClips(source, clips, features, rows, all_skipped, int((clips["duration"] > MAX_SECONDS).sum()))


def _measure_in_threads(source: Source) -> Iterator[_Batch]:
    """Measure clips of similar size together, in threads that each use one core."""
    import torch

    order = np.argsort(source.sizes, kind="stable")
    batches = [order[start : start + _BATCH_CLIPS].tolist() for start in range(0, len(order), _BATCH_CLIPS)]
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1), initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield from pool.map(lambda rows: _measure_rows(source, rows), batches)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def _measure_rows(source: Source, rows: Sequence[int]) -> _Batch:
    """Read and measure clips, at most 120 s of padded audio at once."""
    clips: list[_Clip] = []
    errors: list[tuple[int, audio.AudioError]] = []
    pending: list[tuple[int, np.ndarray, dict[str, float | None]]] = []

    def flush() -> None:
        if pending:
            results = zip(pending, *measure_clips([samples for _, samples, _ in pending]), strict=True)
            clips.extend(_Clip(row, {**measures, **basic}, features) for (row, _, basic), measures, features in results)
            pending.clear()

    for row in rows:
        try:
            samples, basic = read_clip(source, row)
        except Exception as error:  # a damaged file must not stop the others, whatever its decoder raises
            raise_machine_failure(error)
            unreadable = audio.AudioError("unreadable", f"{type(error).__name__}: {error}")
            errors.append((row, error.without_traceback() if isinstance(error, audio.AudioError) else unreadable))
            continue
        if (len(pending) + 1) * len(samples) > _BATCH_SECONDS * audio.SAMPLE_RATE:
            flush()
        pending.append((row, samples, basic))
    flush()
    return clips, errors


def read_clip(source: Source, row: int) -> tuple[np.ndarray, dict[str, float | None]]:
    """Return a clip's samples (of a long one, the middle) and the measures of the whole clip."""
    with ExitStack() as stack:
        samples, rate = source.read(row, lambda: stack.enter_context(_one_long_clip))
        amplitude = max(float(samples.max(initial=0.0)), -float(samples.min(initial=0.0)))
        peak = 20 * np.log10(max(amplitude, 10 ** (_SILENCE_DBFS / 20)))
        measures = {"peak": peak, "duration": len(samples) / audio.SAMPLE_RATE, "sampling_rate": rate}
        excess = len(samples) - int(MAX_SECONDS * audio.SAMPLE_RATE)
        if excess > 0:
            samples = samples[excess // 2 : excess // 2 - excess].copy()  # the copy frees the rest
        return samples, measures


def measure_clips(waveforms: Sequence[np.ndarray]) -> tuple[list[dict[str, float]], np.ndarray]:
    """Measure clips (float32, 16 kHz); a clip's results do not depend on the others in the batch.

    Returns:
        For each clip the `MEASURES` except its peak, and the features, shape (clips, features): see `MeasuredClips`.
    """
    import torch

    from ...models.classical import frame_statistics
    from ...models.features import SpectralFeatureExtractor
    from ...models.pitch import yin

    extractor = SpectralFeatureExtractor(DESCRIPTORS, win_length=_WINDOW, hop_length=_HOP)
    lengths = torch.tensor([len(samples) for samples in waveforms])
    padded = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(samples) for samples in waveforms], batch_first=True)
    frames, mask = extractor.extract(padded, lengths)
    # In dB, a gain changes the level's mean and not its deviation.
    rms = extractor.columns.index("rms")
    frames[..., rms] = to_dbfs(frames[..., rms])
    speech, levels = active_speech_level(frames[..., rms], mask.bool())
    pitch = yin(padded, lengths, hop_length=_HOP).frequency
    measures = []
    for row, frequencies in enumerate(pitch):
        window_levels = frames[row, mask[row].bool(), rms]
        background, fraction = float(window_levels.quantile(0.1)), float(speech[row].sum() / len(window_levels))
        basic = {"level": float(levels[row]), "background": background, "speech": fraction}
        measures.append(basic | _summarize_pitch(frequencies[speech[row]]))
    pitch_features = [[np.log(row["pitch"]), row["pitch_range"], row["voiced"]] for row in measures]
    functionals = frame_statistics(frames, mask, FUNCTIONALS).numpy()
    return measures, np.concatenate([functionals, np.array(pitch_features, dtype=np.float32)], axis=1)


def to_dbfs(amplitudes: torch.Tensor) -> torch.Tensor:
    """Convert amplitudes (full scale: 1.0) to dBFS; digital silence becomes -100."""
    return 20 * amplitudes.clamp(min=10 ** (_SILENCE_DBFS / 20)).log10()


def active_speech_level(levels: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the windows with speech and the level of the speech: ITU-T P.56 (2011), method B, applied to windows.

    Speech is every window less than 15.9 dB below the mean power of the speech, which is found by iteration. `levels`
    are those of the windows in dBFS, and `mask` is False for padding; both have the shape (clips, windows).

    Returns:
        Whether each window holds speech, shape (clips, windows), and the level of the speech in dBFS, shape (clips,).
    """
    power = 10 ** (levels / 10)
    speech = mask
    for _ in range(_ACTIVE_LEVEL_ITERATIONS):
        level = 10 * ((power * speech).sum(dim=1) / speech.sum(dim=1)).log10()
        speech = mask & (levels > level[:, None] - SPEECH_MARGIN)
    return speech, level


def _summarize_pitch(frequencies: torch.Tensor) -> dict[str, float]:
    voiced = frequencies[~frequencies.isnan()]
    fraction = len(voiced) / max(1, len(frequencies))
    if len(voiced) < _MIN_VOICED_WINDOWS:
        return {"pitch": np.nan, "pitch_range": np.nan, "voiced": fraction}
    low, high = (float(voiced.quantile(q)) for q in (0.1, 0.9))
    return {"pitch": float(voiced.median()), "pitch_range": 12 * float(np.log2(high / low)), "voiced": fraction}
