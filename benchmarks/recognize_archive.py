"""A large archive with Ray Data on one machine, one of whose workers is killed, compared with `ser-ft predict`.

    pip install "ray[data]"
    python benchmarks/recognize_archive.py --data recordings/ --model runs/mine/model.onnx

The archive consists of the sound files of a folder, linked under new names as often as needed. It is processed first
by `ser-ft predict`, then by recipes/predict_ray.py with two workers, one of which is killed (SIGKILL) after half of
the CPU time that the first needed. Every file must have exactly one prediction, and the same one. Both are measured
from the start of the command to its end, including the start of Ray.
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
    files = [Path(sound.path).resolve() for sound in find_sound_files([recordings])]
    if not files:
        raise SystemExit(f"{recordings}: no sound files there")
    for index in range(clips):
        file = files[index % len(files)]
        below = folder / f"{index // 1000:03d}"
        below.mkdir(parents=True, exist_ok=True)
        (below / f"{index:06d}{file.suffix}").symlink_to(file)


def cpu_seconds() -> float:
    """Return the CPU time of the finished commands, in seconds."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run_predict(folder: Path, out: Path, model: list[str]) -> tuple[float, float]:
    """Run `ser-ft predict`; return seconds of wall time and of CPU time."""
    start, used = time.perf_counter(), cpu_seconds()
    command = [sys.executable, "-m", "ser_ft.cli", "predict", str(folder), "--out", str(out), *model]
    code = subprocess.run(command, check=False).returncode
    if code not in (0, 1):
        raise SystemExit(f"ser-ft predict: {code}")
    return time.perf_counter() - start, cpu_seconds() - used


def run_ray(folder: Path, out: Path, model: list[str], cpu_limit: float, log: Path) -> tuple[float, int]:
    """Run Ray, and kill a worker after some CPU time; return seconds of wall time, and the worker's process id."""
    start, killed = time.perf_counter(), 0
    command = [sys.executable, str(RECIPE), str(folder), "--out", str(out), "--workers", "2", *model]
    with log.open("w") as stderr, subprocess.Popen(command, stderr=stderr) as process:
        while process.poll() is None:
            with suppress(psutil.Error):
                running = [] if killed else workers(process.pid)
                if len(running) == 2 and sum(sum(worker.cpu_times()[:2]) for worker in running) > cpu_limit:
                    running[0].kill()
                    killed = running[0].pid
            time.sleep(0.2)
    if process.returncode:
        raise SystemExit(f"predict_ray.py: {process.returncode}\n{log.read_text()[-2000:]}")
    return time.perf_counter() - start, killed


def workers(driver: int) -> list[psutil.Process]:
    """Return the worker processes."""
    processes = []
    # A process may end at any time.
    with suppress(psutil.Error):
        for child in psutil.Process(driver).children(recursive=True):
            with suppress(psutil.Error):
                processes += [child] if "Recogni" in " ".join(child.cmdline()) else []
    return processes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder of sound files")
    parser.add_argument("--clips", type=int, default=10_000, help="number of clips in the archive")
    parser.add_argument("--model", help="as `ser-ft predict` takes it")
    args = parser.parse_args()
    model = ["--model", args.model] if args.model else []
    with tempfile.TemporaryDirectory() as temp:
        folder, out = Path(temp, "archive"), Path(temp, "answers.jsonl")
        archive(args.data, args.clips, folder)
        seconds, used = run_predict(folder, out, model)
        expected = {row["path"]: row for row in map(json.loads, out.read_text().splitlines())}
        log = Path(temp, "log")
        ray_seconds, killed = run_ray(folder, Path(temp, "answers"), model, used / 2, log)
        rows = dataset(Path(temp, "answers"), format="parquet").to_table().to_pylist()
    counts = Counter(row["path"] for row in rows)
    largest_difference, num_different = 0.0, 0
    for row in rows:
        prediction = expected[row["path"]]
        num_different += row["emotion"] != prediction.get("emotion") or row["error"] != prediction.get("error")
        largest_difference = max(
            [largest_difference, *(abs(row[name] - score) for name, score in prediction.get("scores", {}).items())]
        )
    print(f"{len(expected)} clips, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"worker_killed: {'yes' if killed else 'no'}")
    print(f"clips_predicted_once: {sum(count == 1 for count in counts.values())}")
    print(f"clips_missing: {len(expected.keys() - counts.keys())}")
    print(f"clips_twice: {sum(count > 1 for count in counts.values())}")
    print(f"different_predictions: {num_different}")
    print(f"largest_difference: {largest_difference:.2g}")
    print(f"predict_clips_a_second: {len(expected) / seconds:.1f}")
    print(f"ray_clips_a_second: {len(expected) / ray_seconds:.1f}")


if __name__ == "__main__":
    main()
