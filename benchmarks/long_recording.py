"""Memory and time of recognition in windows for a three-hour file, compared with a three-minute one.

    python benchmarks/long_recording.py --model RUN_FOLDER_OR_ONNX --data FOLDER_OF_SOUND

The file consists of the recordings with pauses between them. Without --data: ser_ft's synthetic voices. Without
--model: the shipped model. Each length is measured in its own process.
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

backend, settings = open_backend(sys.argv[1] or None), WindowSettings()
backend.probabilities(np.full((1, 48_000), 0.01, np.float32))
started, cpu = time.perf_counter(), time.process_time()
windows = list(iter_windows(backend, sys.argv[2], settings))
wall, busy = time.perf_counter() - started, time.process_time() - cpu
predicted = sum(window.probabilities is not None for window in windows)
lines = Path("/proc/self/status").read_text().splitlines()
peak = next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
print(len(windows), predicted, len(merge_windows(windows, backend.info, settings)), windows[-1].end, wall, busy, peak)
"""


def sounds(data: Path, rate: int) -> Iterator[np.ndarray]:
    """Yield recordings and pauses alternately, int16, endlessly; at most 200 different recordings."""
    files = [Path(results.path) for results in scan(data).sounds]
    selected = files[:: max(1, len(files) // 200)]
    random = np.random.default_rng(0)
    for file in cycle(selected):
        yield audio.to_pcm16(audio.decode(file, rate))
        pause = random.normal(size=round(rate * random.exponential(1.5))) * 3
        yield np.rint(pause).astype(np.int16)


def write(file: Path, data: Path, rate: int, seconds: float) -> None:
    remaining = round(seconds * rate)
    pieces = list(islice(sounds(data, rate), 400))
    with soundfile.SoundFile(file, "w", rate, 1, "PCM_16") as sound:
        for piece in cycle(pieces):
            sound.write(piece[:remaining])
            remaining -= len(piece[:remaining])
            if not remaining:
                return


def measure(model: str, file: Path) -> list[float]:
    result = subprocess.run([sys.executable, "-c", _RUN, model, str(file)], capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(result.stderr)
    return [float(word) for word in result.stdout.split()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="", help="a run folder or an .onnx file")
    parser.add_argument("--data", type=Path, help="a folder of recordings")
    parser.add_argument("--rate", type=int, default=8_000, help="sampling rate of the file, in Hz")
    parser.add_argument("--hours", type=float, default=3.0, help="length of the long file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = args.data or write_miniature(Path(folder) / "miniature")
        results = []
        for seconds in (180.0, args.hours * 3600):
            file = Path(folder) / "recording.wav"
            write(file, data, args.rate, seconds)
            megabytes = file.stat().st_size / 1024**2
            results.append(measure(args.model, file))
            windows, predicted, merged, *_ = map(int, results[-1])
            print(
                f"{seconds:.0f} s, {megabytes:.0f} MiB: {windows} windows, {predicted} with speech, {merged} segments"
            )
    (*_, few), (*_, length, wall, cpu, many) = results
    print(f"peak_megabytes_three_minutes: {few:.0f}")
    print(f"peak_megabytes_long: {many:.0f}")
    print(f"peak_megabytes_more: {many - few:.0f}")
    print(f"seconds_long: {wall:.0f}")
    print(f"cpu_seconds_long: {cpu:.0f}")
    print(f"real_time_factor: {wall / length:.4f}")


if __name__ == "__main__":
    main()
