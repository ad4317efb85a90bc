"""The MFCC-CNN on real RAVDESS: unseen actors (k folds x seeds), and on a random split, to show the leak.

    ser-ft prepare ravdess=FOLDER --out data/ravdess
    python benchmarks/baseline_ravdess.py --data data/ravdess --jobs 2

Runs that are finished are not run again.
"""

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev

from ser_ft import RunFolder

RECIPES = Path(__file__).parents[1] / "recipes"


def train(recipe: str, data: Path, out: Path, threads: int, *settings: str) -> RunFolder:
    command = [sys.executable, str(RECIPES / "finetune.py"), "--config", str(RECIPES / recipe)]
    command += [f"--data.prepared={data}", f"--out={out}", "--if_exists=resume", *settings]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.with_suffix(".log").open("w") as log:
        subprocess.run(command, env=environment, stdout=log, stderr=log, check=True)
    return RunFolder.open(out)


def uars(runs: list[RunFolder], name: str | None = None) -> list[float]:
    """Return the test UAR of each run, or of a yardstick beside it."""
    chosen = [run if name is None else RunFolder(run.path / "yardsticks" / name) for run in runs]
    return [run.metrics["parts"]["test"]["uar"] for run in chosen]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a prepared table of RAVDESS")
    parser.add_argument("--out", type=Path, default=Path("runs/baseline_ravdess"))
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side")
    parser.add_argument("--threads", type=int, default=1, help="threads of each")
    chosen = parser.parse_args()
    with ThreadPoolExecutor(chosen.jobs) as pool:
        unseen = [
            pool.submit(
                train,
                "mfcc_cnn_ravdess.yaml",
                chosen.data,
                chosen.out / f"fold{fold}-seed{seed}",
                chosen.threads,
                f"--split.fold={fold}",
                f"--split.folds={chosen.folds}",
                f"--seed={seed}",
            )
            for seed in range(chosen.seeds)
            for fold in range(chosen.folds)
        ]
        leaking = [
            pool.submit(
                train,
                "mfcc_cnn_ravdess_leaking.yaml",
                chosen.data,
                chosen.out / f"random-seed{seed}",
                chosen.threads,
                f"--split.seed={seed}",
                f"--seed={seed}",
            )
            for seed in range(chosen.seeds)
        ]
        runs, leaks = [job.result() for job in unseen], [job.result() for job in leaking]
    for run in [*runs, *leaks]:
        parts = run.metrics["parts"]
        seconds = run.environment["seconds"]
        scores = ", ".join(f"{part} {score['uar']:.3f}" for part, score in parts.items())
        print(f"{run.path.name}: {scores}, {seconds:.0f} s")
    found = uars(runs)
    by_seed = [mean(found[seed * chosen.folds : (seed + 1) * chosen.folds]) for seed in range(chosen.seeds)]
    by_fold = [mean(found[fold :: chosen.folds]) for fold in range(chosen.folds)]
    print(f"majority_uar: {mean(uars(runs, 'majority')):.3f}")
    print(f"svm_uar: {mean(uars(runs, 'svm')):.3f}")
    print(f"mfcc_cnn_uar: {mean(found):.3f}")
    print(f"mfcc_cnn_uar_spread_over_folds: {stdev(by_fold):.3f}")
    print(f"mfcc_cnn_uar_by_seed: {' '.join(f'{value:.3f}' for value in by_seed)}")
    print(f"svm_uar_random_split_leaking: {mean(uars(leaks, 'svm')):.3f}")
    print(f"mfcc_cnn_uar_random_split_leaking: {mean(uars(leaks)):.3f}")


if __name__ == "__main__":
    main()
