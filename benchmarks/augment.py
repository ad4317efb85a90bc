"""Throughput of augmentation: clips per second of each transform, and of a whole table in one process and in two.

    ser-ft prepare ravdess=FOLDER --out data/ravdess
    python benchmarks/augment.py --data data/ravdess

A transform is measured in CPU time of one thread, from samples to samples, with its default settings; background
noise is taken from 20 of the clips. The table is measured in wall time, from WAV bytes to WAV bytes in an empty
cache, with the transforms of `TABLE_TRANSFORMS`.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import datasets
import numpy as np
from threadpoolctl import threadpool_limits

from ser_ft import audio
from ser_ft.data.augmentation.waveform import TRANSFORMS, Augment, augment_table
from ser_ft.data.prepare import open_prepared

TABLE_TRANSFORMS: dict[str, dict[str, Any]] = {
    "pitch": {"p": 0.3},
    "stretch": {"p": 0.3},
    "shift": {"p": 0.5},
    "room": {"p": 0.3},
    "noise": {"p": 0.5},
    "volume": {"p": 0.5},
    "codec": {"p": 0.2},
}


def rate(augment: Augment, clips: list[np.ndarray]) -> float:
    """Return clips per second of CPU time."""
    started = time.process_time()
    for number, clip in enumerate(clips):
        augment.apply(clip, f"clip{number}", 1)
    return len(clips) / (time.process_time() - started)


def mapped(table: datasets.Dataset, processes: int | None) -> tuple[float, list[bytes]]:
    """Augment a table in an empty cache; return clips per second of wall time, and the WAV bytes."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["SER_FT_CACHE"] = cache
        started = time.perf_counter()
        augmented = augment_table(table, Augment(TABLE_TRANSFORMS), num_proc=processes, progress=False)
        seconds = time.perf_counter() - started
        return len(table) / seconds, [recording["bytes"] for recording in augmented["audio"]]


def measured_augmentations(clips: list[np.ndarray], noises: Path) -> dict[str, Augment]:
    """Return what is measured: each transform, and each format of the codec."""
    settings: dict[str, dict[str, Any]] = {name: {} for name in TRANSFORMS if name != "codec"}
    settings["background"] = {"folder": noises}
    for number, clip in enumerate(clips[:20]):
        (noises / f"{number}.wav").write_bytes(audio.to_wav(clip))
    augments = {name: Augment({name: options}) for name, options in settings.items()}
    return augments | {
        f"codec_{name}": Augment({"codec": {"format": name}}) for name in ("mp3", "opus", "vorbis", "gsm")
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a prepared table, such as that of RAVDESS")
    parser.add_argument(
        "--clips", type=int, default=100, help="number of clips of the table, evenly spaced (default: 100)"
    )
    parser.add_argument("--turns", type=int, default=3, help="number of repetitions, whose median is printed")
    args = parser.parse_args()
    table = open_prepared(args.data)
    table = table.select(np.linspace(0, len(table) - 1, min(args.clips, len(table))).astype(int))
    clips = [audio.from_wav(recording["bytes"]) for recording in table["audio"]]
    with tempfile.TemporaryDirectory() as noises, threadpool_limits(1):
        augments = measured_augmentations(clips, Path(noises))
        for augment in augments.values():
            augment.apply(clips[0], "clip", 0)
        turns = [{name: rate(augment, clips) for name, augment in augments.items()} for _ in range(args.turns)]
        tables = [(mapped(table, None), mapped(table, 2)) for _ in range(args.turns)]
    same = all(single[1] == double[1] == tables[0][0][1] for single, double in tables)
    seconds = sum(map(len, clips)) / len(clips) / audio.SAMPLE_RATE
    print(f"{len(clips)} clips of {args.data.name}, {seconds:.1f} s each")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print("the table:", ", ".join(f"{name} (p = {options['p']:g})" for name, options in TABLE_TRANSFORMS.items()))
    for name in augments:
        print(f"{name}_clips_per_second: {median(turn[name] for turn in turns):.0f}")
    print(f"map_clips_per_second_one_process: {median(single[0] for single, _ in tables):.0f}")
    print(f"map_clips_per_second_two_processes: {median(double[0] for _, double in tables):.0f}")
    print(f"map_bytes_agree: {'yes' if same else 'no'}")


if __name__ == "__main__":
    main()
