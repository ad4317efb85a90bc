"""Speed and exactness of speech descriptors, compared with a loop over files as in notebooks.

    ser-ft prepare ravdess=FOLDER --out data/ravdess
    python benchmarks/features.py --data data/ravdess

The loop: for each WAV file, `librosa.load` at the file's own rate, then zero-crossing rate, chroma, MFCC, RMS and mel
spectrogram with librosa's defaults, and the means over time. Ours: the same clips read from the prepared table in
batches, all descriptors of `ser_ft.models.descriptors` (or only log-mel), and the means over time. Decoding is
included for both, and both have two threads: the loop within librosa, NumPy and SciPy; ours with one batch of clips
per thread, with torch on one thread. They take turns; the medians are compared.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import librosa
import numpy as np
import torch
from threadpoolctl import threadpool_limits

from ser_ft import audio
from ser_ft.data.prepare import open_prepared
from ser_ft.models.classical import frame_statistics
from ser_ft.models.descriptors import DESCRIPTORS
from ser_ft.models.features import SpectralFeatureExtractor

BATCH = 16
WINDOW, HOP = 512, 128


def notebook(files: list[Path]) -> np.ndarray:
    """Return means over time, shape (clips, numbers), as notebooks compute them."""
    rows = []
    for file in files:
        sound, rate = librosa.load(file, sr=None)
        magnitude = np.abs(librosa.stft(sound))
        descriptors = (
            librosa.feature.zero_crossing_rate(y=sound),
            librosa.feature.chroma_stft(S=magnitude, sr=rate),
            librosa.feature.mfcc(y=sound, sr=rate),
            librosa.feature.rms(y=sound),
            librosa.feature.melspectrogram(y=sound, sr=rate),
        )
        rows.append(np.hstack([np.mean(values.T, axis=0) for values in descriptors]))
    return np.array(rows)


def ours(data: Path, rows: np.ndarray, threads: int, *names: str) -> np.ndarray:
    """Return means over time, shape (clips, numbers); each thread takes a batch of clips."""
    extractor = SpectralFeatureExtractor(names)
    sounds = open_prepared(data).select_columns(["audio"])

    def means(start: int) -> torch.Tensor:
        batch = sounds[rows[start : start + BATCH].tolist()]["audio"]
        frames = extractor([audio.from_wav(sound["bytes"]) for sound in batch], return_tensors="pt")
        return frame_statistics(frames["input_features"], frames["attention_mask"], ["mean"])

    with ThreadPoolExecutor(threads) as pool:
        return torch.cat([*pool.map(means, range(0, len(rows), BATCH))]).numpy()


def timed(work: Callable[[], np.ndarray]) -> np.ndarray:
    """Return seconds of wall time, and of CPU time in all threads."""
    wall, cpu = time.perf_counter(), time.process_time()
    if not np.isfinite(work()).all():
        raise SystemExit("a number is not finite")
    return np.array([time.perf_counter() - wall, time.process_time() - cpu])


def from_librosa(sound: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield descriptors as librosa computes them, each of shape (numbers, frames)."""
    feature, rate = librosa.feature, audio.SAMPLE_RATE
    framing = {"frame_length": WINDOW, "hop_length": HOP}
    magnitude = np.abs(librosa.stft(sound, n_fft=WINDOW, hop_length=HOP, pad_mode="constant"))
    yield "zcr", feature.zero_crossing_rate(y=sound, **framing)
    yield "rms", feature.rms(y=sound, **framing)
    yield "centroid", feature.spectral_centroid(S=magnitude, sr=rate)
    yield "spread", feature.spectral_bandwidth(S=magnitude, sr=rate)
    yield "rolloff", feature.spectral_rolloff(S=magnitude**2, sr=rate, roll_percent=0.9)
    yield "chroma", feature.chroma_stft(S=magnitude**2, sr=rate, tuning=0.0)
    mel = feature.melspectrogram(S=magnitude**2, sr=rate, n_mels=40, fmin=20, fmax=8000)
    log = np.log(np.maximum(mel, 1e-10))
    mfcc = feature.mfcc(S=log, n_mfcc=20)
    yield from (("mel", mel), ("log-mel", log), ("mfcc", mfcc))
    yield from (("mfcc-delta", feature.delta(mfcc)), ("mfcc-delta2", feature.delta(mfcc, order=2)))


def from_formulas(sound: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the descriptors that librosa does not have, each of shape (1, frames)."""
    padded = np.pad(sound.astype(np.float64), WINDOW // 2)
    waves = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    yield "energy", (waves**2).mean(axis=1)[None]
    yield "energy-entropy", entropy(np.add.reduceat(waves**2, np.arange(10) * WINDOW // 10, axis=1))[None]
    magnitude = np.abs(np.fft.rfft(waves * np.hanning(WINDOW + 1)[:-1]))
    bands = np.ceil(np.arange(10) * magnitude.shape[1] / 10).astype(int)
    yield "spectral-entropy", entropy(np.add.reduceat(magnitude**2, bands, axis=1))[None]
    normalized = magnitude / np.maximum(magnitude.sum(axis=1, keepdims=True), 1e-20)
    yield "flux", np.append(0, (np.diff(normalized, axis=0) ** 2).sum(axis=1))[None]
    chroma = librosa.filters.chroma(sr=audio.SAMPLE_RATE, n_fft=WINDOW, tuning=0.0, dtype=np.float64) @ magnitude.T**2
    yield "chroma-deviation", (chroma / np.maximum(chroma.max(axis=0), 1e-20)).std(axis=0)[None]


def entropy(energies: np.ndarray) -> np.ndarray:
    normalized = energies / np.maximum(energies.sum(axis=1, keepdims=True), 1e-20)
    return -(normalized * np.log2(np.maximum(normalized, 1e-300))).sum(axis=1)


def deviations(sounds: list[np.ndarray]) -> dict[str, tuple[float, float]]:
    """Return each descriptor's largest difference from its reference, and the reference's largest value."""
    extractors = {name: SpectralFeatureExtractor([name], win_length=WINDOW, hop_length=HOP) for name in DESCRIPTORS}
    worst = dict.fromkeys(DESCRIPTORS, (0.0, 0.0))
    for sound in sounds:
        for name, expected in (*from_librosa(sound), *from_formulas(sound)):
            actual = extractors[name](sound)["input_features"][0].T
            largest = float(np.abs(actual - expected).max()), float(np.abs(expected).max())
            worst[name] = max(worst[name][0], largest[0]), max(worst[name][1], largest[1])
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a prepared table, such as that of RAVDESS")
    parser.add_argument("--clips", type=int, default=256, help="largest number of clips, evenly spaced")
    parser.add_argument("--turns", type=int, default=5, help="number of turns")
    parser.add_argument("--threads", type=int, default=2, help="number of threads of each")
    args = parser.parse_args()
    threadpool_limits(args.threads)
    torch.set_num_threads(1)
    table = open_prepared(args.data)
    rows = np.linspace(0, len(table) - 1, min(args.clips, len(table))).astype(int)
    contents = [sound["bytes"] for sound in table[rows.tolist()]["audio"]]
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, f"{row}.wav") for row in rows]
        for file, content in zip(files, contents, strict=True):
            file.write_bytes(content)
        methods = {
            "loop": lambda count: notebook(files[:count]),
            "full_set": lambda count: ours(args.data, rows[:count], args.threads, *DESCRIPTORS),
            "log_mel": lambda count: ours(args.data, rows[:count], args.threads, "log-mel"),
        }
        for work in methods.values():
            work(2 * BATCH)
        turns = [[timed(lambda work=work: work(len(rows))) for work in methods.values()] for _ in range(args.turns)]
    seconds = dict(zip(methods, np.median(turns, axis=0), strict=True))
    worst = deviations([audio.from_wav(content) for content in contents])
    hours = sum(len(content) - audio.HEADER_BYTES for content in contents) / 2 / audio.SAMPLE_RATE / 3600
    print(f"{len(rows)} clips of {args.data.name}, {60 * hours:.0f} minutes; the median of {args.turns} turns")
    print(f"{args.threads} threads on {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for name, (difference, largest) in worst.items():
        print(f"deviation_{name}: {difference:.2g} (values up to {largest:.4g})")
    for name, (wall, cpu) in seconds.items():
        print(f"{name}_ms_a_clip: {1000 * wall / len(rows):.3f}; CPU {1000 * cpu / len(rows):.3f}")
    for name, (wall, _) in seconds.items():
        print(f"{name}_clips_a_second: {len(rows) / wall:.0f}")
    for name in ("full_set", "log_mel"):
        wall, cpu = seconds["loop"] / seconds[name]
        print(f"{name}_over_loop_of_the_processor: {cpu:.1f}")
        print(f"{name}_over_loop: {wall:.1f}")


if __name__ == "__main__":
    main()
