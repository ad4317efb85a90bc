"""How fast recordings become a table, against a librosa.load-per-file loop over the same files.

    python benchmarks/prepare.py --data FOLDER_OF_A_CORPUS

Without --data: ser_ft's own synthetic voices. Needs librosa (`pip install -e .[dev]`).
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
# On Linux the process's own high-water mark: what getrusage tells includes the parent's, from before exec.
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
    """Prepare some of the files in a process of its own, and return its peak memory in MiB."""
    some, table = work / f"some-{len(files)}", work / f"table-{len(files)}"
    for file in files:
        place = some / file.relative_to(root)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(file.resolve())
    done = subprocess.run([sys.executable, "-c", _MEMORY, some, table], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder of recordings of one corpus")
    parser.add_argument("--files", type=int, default=480, help="how many files are timed against librosa")
    parser.add_argument("--runs", type=int, default=3, help="the median of so many runs is told")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        root = chosen.data or write_miniature(work / "miniature")
        files = [Path(found.path) for found in scan(root).sounds]
        timed = files[: chosen.files]
        librosa.load(timed[0], sr=audio.SAMPLE_RATE)
        peer, ours = [], []
        for _ in range(chosen.runs):
            peer.append(rate(lambda file: librosa.load(file, sr=audio.SAMPLE_RATE), timed))
            ours.append(rate(audio.decode, timed))
        built = []
        for run in range(chosen.runs):
            started = time.perf_counter()
            clips = len(prepare(root, work / f"table{run}", verbose=False))
            built.append(clips / (time.perf_counter() - started))
        table = open_prepared(work / "table0")
        started = time.perf_counter()
        for batch in table.select_columns(["audio"]).iter(256):
            for sound in batch["audio"]:
                audio.from_wav(sound["bytes"])
        read = len(table) / (time.perf_counter() - started)
        few, many = (peak_megabytes(part, root, work) for part in (files[: len(files) // 4], files))
    print(f"files: {len(files)} under {root.name}, {len(timed)} of them beside librosa; {os.cpu_count()} cores")
    print(f"librosa_files_per_second: {median(peer):.0f}")
    print(f"decode_files_per_second_one_thread: {median(ours):.0f}")
    print(f"decode_over_librosa: {median(a / b for a, b in zip(ours, peer, strict=True)):.1f}")
    print(f"prepare_clips_per_second: {median(built):.0f}")
    print(f"prepare_over_librosa: {median(a / b for a, b in zip(built, peer, strict=True)):.1f}")
    print(f"read_back_clips_per_second: {read:.0f}")
    print(f"peak_megabytes_quarter: {few:.0f}")
    print(f"peak_megabytes_all: {many:.0f}")


if __name__ == "__main__":
    main()
