"""What hours of sound cost: memory and time of windows over a three-hour file, beside a three-minute one.

    python benchmarks/long_recording.py --model RUN_FOLDER_OR_ONNX --data FOLDER_OF_SOUND

The file is made of the recordings, with pauses between them. Without --data: ser_ft's own synthetic voices. Without
--model: the model that ships. Each length runs in a process of its own.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import soundfile

from ser_ft import audio
from ser_ft.data.scan import scan
from ser_ft.data.synthetic.corpora import write_miniature

_RUN = """
import sys, time
from pathlib import Path
import numpy as np
from ser_ft.inference.backends import open_backend
from ser_ft.inference.windows import WindowSettings, iter_windows, merge_windows

engine, settings = open_backend(sys.argv[1] or None), WindowSettings()
engine.probabilities(np.full((1, 48_000), 0.01, np.float32))
started, cpu = time.perf_counter(), time.process_time()
windows = list(iter_windows(engine, sys.argv[2], settings))
taken, busy = time.perf_counter() - started, time.process_time() - cpu
answered = sum(window.probabilities is not None for window in windows)
lines = Path("/proc/self/status").read_text().splitlines()
peak = next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
print(len(windows), answered, len(merge_windows(windows, engine.info, settings)), windows[-1].end, taken, busy, peak)
"""


def sounds(data: Path, rate: int) -> Iterator[np.ndarray]:
    """Yield recordings and pauses in turn, int16, for ever; no more than 200 recordings."""
    files = [Path(found.path) for found in scan(data).sounds]
    chosen = files[:: max(1, len(files) // 200)]
    random = np.random.default_rng(0)
    for file in cycle(chosen):
        yield audio.to_pcm16(audio.decode(file, rate))
        pause = random.normal(size=round(rate * random.exponential(1.5))) * 3
        yield np.rint(pause).astype(np.int16)


def write(file: Path, data: Path, rate: int, seconds: float) -> None:
    left = round(seconds * rate)
    kept = list(islice(sounds(data, rate), 400))
    with soundfile.SoundFile(file, "w", rate, 1, "PCM_16") as sound:
        for piece in cycle(kept):
            sound.write(piece[:left])
            left -= len(piece[:left])
            if not left:
                return


def measure(model: str, file: Path) -> list[float]:
    done = subprocess.run([sys.executable, "-c", _RUN, model, str(file)], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return [float(word) for word in done.stdout.split()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="", help="a run folder or an .onnx file")
    parser.add_argument("--data", type=Path, help="a folder of recordings")
    parser.add_argument("--rate", type=int, default=8_000, help="sampling rate of the file, in Hz")
    parser.add_argument("--hours", type=float, default=3.0, help="length of the long file")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = chosen.data or write_miniature(Path(folder) / "miniature")
        found = []
        for seconds in (180.0, chosen.hours * 3600):
            file = Path(folder) / "recording.wav"
            write(file, data, chosen.rate, seconds)
            megabytes = file.stat().st_size / 1024**2
            found.append(measure(chosen.model, file))
            windows, answered, merged, *_ = map(int, found[-1])
            print(f"{seconds:.0f} s, {megabytes:.0f} MiB: {windows} windows, {answered} answered, {merged} segments")
    (*_, few), (*_, length, taken, busy, many) = found
    print(f"peak_megabytes_three_minutes: {few:.0f}")
    print(f"peak_megabytes_long: {many:.0f}")
    print(f"peak_megabytes_more: {many - few:.0f}")
    print(f"seconds_long: {taken:.0f}")
    print(f"cpu_seconds_long: {busy:.0f}")
    print(f"real_time_factor: {taken / length:.4f}")


if __name__ == "__main__":
    main()
