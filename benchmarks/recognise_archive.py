"""An archive through Ray Data on one machine, one of whose workers dies in the middle, against `ser-ft predict`.

    pip install "ray[data]"
    python benchmarks/recognise_archive.py --data recordings/ --model runs/mine/model.onnx

The archive: the sound files of a folder, linked under new names as often as it takes. First `ser-ft predict` answers
it, then recipes/predict_ray.py with two workers, one of which is killed (SIGKILL) when they have used half of the
processor time that the first needed. Every file must be in the answers once, with the same answer. Both are timed from
the start of the command to its end, so that the start of Ray counts.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil
from pyarrow.dataset import dataset

from ser_ft.audio.discovery import find_sound_files

RECIPE = Path(__file__).parent.parent / "recipes" / "predict_ray.py"


def archive(recordings: Path, clips: int, folder: Path) -> None:
    """Link sound files under new names, in folders of a thousand."""
    files = [Path(found.path).resolve() for found in find_sound_files([recordings])]
    if not files:
        raise SystemExit(f"{recordings}: no sound files there")
    for place in range(clips):
        file = files[place % len(files)]
        below = folder / f"{place // 1000:03d}"
        below.mkdir(parents=True, exist_ok=True)
        (below / f"{place:06d}{file.suffix}").symlink_to(file)


def processor() -> float:
    """Return the processor time, in seconds, of the commands that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def alone(folder: Path, out: Path, model: list[str]) -> tuple[float, float]:
    """Answer with `ser-ft predict`; return seconds on the clock and of the processor."""
    began, used = time.perf_counter(), processor()
    command = [sys.executable, "-m", "ser_ft.cli", "predict", str(folder), "--out", str(out), *model]
    code = subprocess.run(command, check=False).returncode
    if code not in (0, 1):
        raise SystemExit(f"ser-ft predict: {code}")
    return time.perf_counter() - began, processor() - used


def in_ray(folder: Path, out: Path, model: list[str], until: float, log: Path) -> tuple[float, int]:
    """Answer with Ray; kill a worker when they have used so much processor time; return seconds, and the worker."""
    began, killed = time.perf_counter(), 0
    command = [sys.executable, str(RECIPE), str(folder), "--out", str(out), "--workers", "2", *model]
    with log.open("w") as said, subprocess.Popen(command, stderr=said) as process:
        while process.poll() is None:
            with suppress(psutil.Error):
                there = [] if killed else workers(process.pid)
                if len(there) == 2 and sum(sum(one.cpu_times()[:2]) for one in there) > until:
                    there[0].kill()
                    killed = there[0].pid
            time.sleep(0.2)
    if process.returncode:
        raise SystemExit(f"predict_ray.py: {process.returncode}\n{log.read_text()[-2000:]}")
    return time.perf_counter() - began, killed


def workers(driver: int) -> list[psutil.Process]:
    """Return the processes that recognise."""
    found = []
    # Some end while they are looked at.
    with suppress(psutil.Error):
        for one in psutil.Process(driver).children(recursive=True):
            with suppress(psutil.Error):
                found += [one] if "Recogniser" in " ".join(one.cmdline()) else []
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder of sound files")
    parser.add_argument("--clips", type=int, default=10_000, help="of the archive")
    parser.add_argument("--model", help="as `ser-ft predict` takes it")
    chosen = parser.parse_args()
    model = ["--model", chosen.model] if chosen.model else []
    with tempfile.TemporaryDirectory() as place:
        folder, out = Path(place, "archive"), Path(place, "answers.jsonl")
        archive(chosen.data, chosen.clips, folder)
        seconds, used = alone(folder, out, model)
        wanted = {row["path"]: row for row in map(json.loads, out.read_text().splitlines())}
        log = Path(place, "log")
        ray_seconds, killed = in_ray(folder, Path(place, "answers"), model, used / 2, log)
        rows = dataset(Path(place, "answers"), format="parquet").to_table().to_pylist()
    counts = Counter(row["path"] for row in rows)
    apart, other = 0.0, 0
    for row in rows:
        answer = wanted[row["path"]]
        other += row["emotion"] != answer.get("emotion") or row["error"] != answer.get("error")
        apart = max([apart, *(abs(row[name] - share) for name, share in answer.get("scores", {}).items())])
    print(f"{len(wanted)} clips, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"worker_killed: {'yes' if killed else 'no'}")
    print(f"clips_answered_once: {sum(count == 1 for count in counts.values())}")
    print(f"clips_missing: {len(wanted.keys() - counts.keys())}")
    print(f"clips_twice: {sum(count > 1 for count in counts.values())}")
    print(f"other_answers: {other}")
    print(f"largest_difference: {apart:.2g}")
    print(f"predict_clips_a_second: {len(wanted) / seconds:.1f}")
    print(f"ray_clips_a_second: {len(wanted) / ray_seconds:.1f}")


if __name__ == "__main__":
    main()
