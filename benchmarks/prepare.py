"""Speed of preparing a table, compared with a librosa.load loop over the same files.

    python benchmarks/prepare.py --data FOLDER_OF_A_CORPUS

Without --data: ser_ft's synthetic voices. Needs librosa (`pip install -e .[dev]`).
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")

import librosa

from ser_ft import audio
from ser_ft.data.prepare import open_prepared, prepare
from ser_ft.data.scan import scan
from ser_ft.data.synthetic.corpora import write_miniature

_MEMORY = """
import resource, sys
from pathlib import Path
from ser_ft.data.prepare import prepare
prepare(sys.argv[1], sys.argv[2], verbose=False)
# On Linux, VmHWM is the process's own peak; getrusage includes that of its parent from before exec.
status = Path("/proc/self/status")
lines = status.read_text().splitlines() if status.exists() else []
peak = next((line.split()[1] for line in lines if line.startswith("VmHWM")), None)
print(int(peak) / 1024 if peak else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def rate(work: Callable[[Path], object], files: list[Path]) -> float:
    started = time.perf_counter()
    for file in files:
        work(file)
    return len(files) / (time.perf_counter() - started)


def peak_megabytes(files: list[Path], root: Path, work: Path) -> float:
    """Prepare files in a new process, and return its peak memory in MiB."""
    folder_of_links, table = work / f"folder_of_links-{len(files)}", work / f"table-{len(files)}"
    for file in files:
        link = folder_of_links / file.relative_to(root)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file.resolve())
    result = subprocess.run(
        [sys.executable, "-c", _MEMORY, folder_of_links, table], capture_output=True, text=True, check=True
    )
    return float(result.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder of recordings of one corpus")
    parser.add_argument("--files", type=int, default=480, help="number of files that are compared with librosa")
    parser.add_argument("--runs", type=int, default=3, help="number of repetitions, whose median is printed")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        root = args.data or write_miniature(work / "miniature")
        files = [Path(sound.path) for sound in scan(root).sounds]
        timed = files[: args.files]
        librosa.load(timed[0], sr=audio.SAMPLE_RATE)
        librosa_rates, decode_rates = [], []
        for _ in range(args.runs):
            librosa_rates.append(rate(lambda file: librosa.load(file, sr=audio.SAMPLE_RATE), timed))
            decode_rates.append(rate(audio.decode, timed))
        prepare_rates = []
        for run in range(args.runs):
            started = time.perf_counter()
            clips = len(prepare(root, work / f"table{run}", verbose=False))
            prepare_rates.append(clips / (time.perf_counter() - started))
        table = open_prepared(work / "table0")
        started = time.perf_counter()
        for batch in table.select_columns(["audio"]).iter(256):
            for sound in batch["audio"]:
                audio.from_wav(sound["bytes"])
        read_rate = len(table) / (time.perf_counter() - started)
        peak_of_quarter, peak_of_all = (peak_megabytes(part, root, work) for part in (files[: len(files) // 4], files))
    print(f"files: {len(files)} under {root.name}, {len(timed)} of them compared with librosa; {os.cpu_count()} cores")
    print(f"librosa_files_per_second: {median(librosa_rates):.0f}")
    print(f"decode_files_per_second_one_thread: {median(decode_rates):.0f}")
    print(f"decode_over_librosa: {median(a / b for a, b in zip(decode_rates, librosa_rates, strict=True)):.1f}")
    print(f"prepare_clips_per_second: {median(prepare_rates):.0f}")
    print(f"prepare_over_librosa: {median(a / b for a, b in zip(prepare_rates, librosa_rates, strict=True)):.1f}")
    print(f"read_back_clips_per_second: {read_rate:.0f}")
    print(f"peak_megabytes_quarter: {peak_of_quarter:.0f}")
    print(f"peak_megabytes_all: {peak_of_all:.0f}")


if __name__ == "__main__":
    main()
