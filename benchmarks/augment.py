"""What augmentation costs: clips a second of each transform, and of a whole table in one process and in two.

    ser-ft prepare ravdess=FOLDER --out data/ravdess
    python benchmarks/augment.py --data data/ravdess

A transform is timed by the processor's time of one thread, from samples to samples, with its default settings;
background noise is drawn from 20 of the clips themselves. The table is timed by the clock, from WAV bytes to WAV bytes
in a new cache, with the transforms that SOME names.
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

SOME: dict[str, dict[str, Any]] = {
    "pitch": {"p": 0.3},
    "stretch": {"p": 0.3},
    "shift": {"p": 0.5},
    "room": {"p": 0.3},
    "noise": {"p": 0.5},
    "volume": {"p": 0.5},
    "codec": {"p": 0.2},
}


def rate(augment: Augment, clips: list[np.ndarray]) -> float:
    """Return clips a second of processor time."""
    started = time.process_time()
    for number, clip in enumerate(clips):
        augment.apply(clip, f"clip{number}", 1)
    return len(clips) / (time.process_time() - started)


def mapped(table: datasets.Dataset, processes: int | None) -> tuple[float, list[bytes]]:
    """Augment a table in an empty cache; return clips a second by the clock, and the bytes."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["SER_FT_CACHE"] = cache
        started = time.perf_counter()
        made = augment_table(table, Augment(SOME), num_proc=processes, progress=False)
        taken = time.perf_counter() - started
        return len(table) / taken, [sound["bytes"] for sound in made["audio"]]


def tried(clips: list[np.ndarray], noises: Path) -> dict[str, Augment]:
    """Return what is timed: each transform, the codecs apart."""
    settings: dict[str, dict[str, Any]] = {name: {} for name in TRANSFORMS if name != "codec"}
    settings["background"] = {"folder": noises}
    for number, clip in enumerate(clips[:20]):
        (noises / f"{number}.wav").write_bytes(audio.to_wav(clip))
    augments = {name: Augment({name: given}) for name, given in settings.items()}
    return augments | {
        f"codec_{name}": Augment({"codec": {"format": name}}) for name in ("mp3", "opus", "vorbis", "gsm")
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a prepared table, such as RAVDESS's")
    parser.add_argument("--clips", type=int, default=100, help="of the table, spread over it (default: 100)")
    parser.add_argument("--turns", type=int, default=3, help="the median of so many is told")
    chosen = parser.parse_args()
    table = open_prepared(chosen.data)
    table = table.select(np.linspace(0, len(table) - 1, min(chosen.clips, len(table))).astype(int))
    clips = [audio.from_wav(sound["bytes"]) for sound in table["audio"]]
    with tempfile.TemporaryDirectory() as noises, threadpool_limits(1):
        augments = tried(clips, Path(noises))
        for augment in augments.values():
            augment.apply(clips[0], "clip", 0)
        turns = [{name: rate(augment, clips) for name, augment in augments.items()} for _ in range(chosen.turns)]
        tables = [(mapped(table, None), mapped(table, 2)) for _ in range(chosen.turns)]
    same = all(one[1] == two[1] == tables[0][0][1] for one, two in tables)
    seconds = sum(map(len, clips)) / len(clips) / audio.SAMPLE_RATE
    print(f"{len(clips)} clips of {chosen.data.name}, {seconds:.1f} s each")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print("the table:", ", ".join(f"{name} (p = {given['p']:g})" for name, given in SOME.items()))
    for name in augments:
        print(f"{name}_clips_per_second: {median(turn[name] for turn in turns):.0f}")
    print(f"map_clips_per_second_one_process: {median(one[0] for one, _ in tables):.0f}")
    print(f"map_clips_per_second_two_processes: {median(two[0] for _, two in tables):.0f}")
    print(f"map_bytes_agree: {'yes' if same else 'no'}")


if __name__ == "__main__":
    main()
