"""The classic networks and image backbones compared on unseen speakers, what augmentation does, and what a leak does.

    ser-ft prepare ravdess=FOLDER --out data/ravdess
    python benchmarks/networks.py classic --data data/ravdess --jobs 2
    python benchmarks/networks.py speaker --data data/ravdess --jobs 2 --network NAME
    python benchmarks/networks.py images --data data/ravdess --jobs 2 --epochs 3
    python benchmarks/networks.py augmentation --data data/ravdess --jobs 2 --network NAME
    python benchmarks/networks.py augmented --data data/ravdess --jobs 2 --network NAME
    python benchmarks/networks.py leak --data data/ravdess --jobs 2 --network NAME
    python benchmarks/networks.py corpus --data data/cremad --jobs 2 --network NAME

Runs that are finished are not run again. Image backbones begin with random weights (where none can be had): what they
show is the cost, and not transfer.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev

from ser_ft import RunFolder
from ser_ft.models import MODELS
from ser_ft.progress import bar

ROOT = Path(__file__).parents[1]
IMAGES = {
    "vgg16": "timm/vgg16_bn.tv_in1k",
    "vggish": "timm/vgg11_bn.tv_in1k",
    "alexnet": "torchvision/alexnet",
    "resnet50": "timm/resnet50.a1_in1k",
    "densenet121": "timm/densenet121.tv_in1k",
    "efficientnet_b0": "timm/efficientnet_b0.ra_in1k",
    "convnext_tiny": "timm/convnext_tiny.fb_in1k",
}
ALONE = ("noise", "shift", "stretch", "pitch", "speed", "volume", "room", "band", "telephone", "codec", "clipping")


@dataclass(frozen=True)
class Job:
    """A run: what it is called in the table, its recipe, and the settings over it."""

    row: str
    name: str
    recipe: str
    settings: Sequence[str] = field(default_factory=tuple)


def classic(chosen: argparse.Namespace) -> list[Job]:
    names = chosen.network.split(",") if chosen.network else list(MODELS)
    return [
        Job(name, f"{name}-fold{fold}-seed{seed}", recipe_of(name), folded(chosen, fold, seed))
        for name in names
        for seed in range(chosen.seeds)
        for fold in chosen.folds
    ]


def speaker(chosen: argparse.Namespace) -> list[Job]:
    """Frames standardised by their speaker's own unlabelled clips, those of test speakers too."""
    given = "--model.features.standardise=speaker"
    return [
        Job(f"{name}, by speaker", f"{name}-speaker-fold{fold}", recipe_of(name), (given, *folded(chosen, fold, 0)))
        for name in chosen.network.split(",")
        for fold in chosen.folds
    ]


def images(chosen: argparse.Namespace) -> list[Job]:
    names = chosen.network.split(",") if chosen.network else list(IMAGES)
    blank = ("--model.pretrained=false", "--tuning.learning_rate=3e-4", f"--train.epochs={chosen.epochs}")
    return [
        Job(f"{name}, random weights", f"{name}-fold{fold}", f"{name}_ravdess", (*blank, *folded(chosen, fold, 0)))
        for name in names
        for fold in chosen.folds[:1]
    ]


def augmentation(chosen: argparse.Namespace) -> list[Job]:
    """Each augmentation alone: a version of each clip beside it, half the epochs, so that there are as many steps."""
    name = chosen.network
    once = ("--augment.copies=1", "--train.epochs=15")
    each: dict[str, tuple[str, ...]] = {"none": ()}
    each |= {one: (f"--augment.transforms={{{one}: {{}}}}", *once) for one in ALONE}
    each |= {"spec-augment": ("--augment.spec_augment={}",), "mixup": ("--augment.mixup=0.4",)}
    return [
        Job(f"{name}, {what}", f"{name}-{what}-fold{fold}", recipe_of(name), (*settings, *folded(chosen, fold, 0)))
        for what, settings in each.items()
        for fold in chosen.folds[:2]
    ]


def augmented(chosen: argparse.Namespace) -> list[Job]:
    """The augmentations of the recipe, all of them together."""
    name = chosen.network
    recipe = f"{recipe_of(name)}_augmented"
    return [Job(f"{name}, augmented", f"{name}-fold{fold}", recipe, folded(chosen, fold, 0)) for fold in chosen.folds]


def leak(chosen: argparse.Namespace) -> list[Job]:
    name = chosen.network
    split = ("--split.kind=random", "--split.test=0.3", "--split.validation=0.05")
    return [
        Job(f"{name}, {what}, random split", f"{name}-{what}-random{seed}", recipe, (*split, f"--split.seed={seed}"))
        for seed in range(chosen.seeds)
        for what, recipe in (("plain", recipe_of(name)), ("augmented", f"{recipe_of(name)}_augmented"))
    ]


def corpus(chosen: argparse.Namespace) -> list[Job]:
    name = chosen.network
    return [
        Job(f"{name}, {chosen.data.name}", f"{name}-fold{fold}", recipe_of(name), folded(chosen, fold, 0))
        for fold in chosen.folds
    ]


def recipe_of(name: str) -> str:
    return f"{name.replace('-', '_')}_ravdess"


def folded(chosen: argparse.Namespace, fold: int, seed: int) -> tuple[str, ...]:
    return (f"--split.fold={fold}", f"--split.folds={chosen.of}", f"--seed={seed}")


def train(job: Job, chosen: argparse.Namespace) -> RunFolder:
    out = chosen.out / chosen.part / job.name
    command = [sys.executable, str(ROOT / "recipes/finetune.py"), "--config", str(ROOT / f"recipes/{job.recipe}.yaml")]
    command += [f"--data.prepared={chosen.data}", f"--out={out}", "--if_exists=resume", *job.settings]
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.with_suffix(".log").open("w") as log:
        environment = os.environ | {"OMP_NUM_THREADS": str(chosen.threads)}
        done = subprocess.run(command, env=environment, stdout=log, stderr=log, check=False)
    if done.returncode:
        raise SystemExit(f"{job.name}: failed; {out.with_suffix('.log')} says why")
    return RunFolder.open(out)


def uar_of(run: RunFolder) -> float:
    return float(run.metrics["parts"]["test"]["uar"])


def show(row: str, runs: Sequence[RunFolder]) -> None:
    found = [uar_of(run) for run in runs]
    spread = f"{stdev(found):.3f}" if len(found) > 1 else "-"
    seconds = mean(run.environment["seconds"] for run in runs) if (runs[0].path / "environment.json").is_file() else 0
    size = runs[0].metrics["parameters"]
    millions = f"{size / 1e6:.2f}" if size else "-"
    single = " ".join(f"{value:.3f}" for value in found)
    print(f"| {row} | {millions} | {mean(found):.3f} | {spread} | {seconds:.0f} | {single} |")


def main() -> None:
    parts = {part.__name__: part for part in (classic, speaker, images, augmentation, augmented, leak, corpus)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=parts)
    parser.add_argument("--data", type=Path, required=True, help="a prepared table")
    parser.add_argument("--out", type=Path, default=Path("runs/networks"))
    parser.add_argument("--network", help="one name, or several with commas; by default all of the part's")
    parser.add_argument("--of", type=int, default=5, help="folds there are")
    parser.add_argument("--folds", type=lambda text: [int(one) for one in text.split(",")], default=[0, 1, 2, 3, 4])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=3, help="of image backbones")
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side")
    parser.add_argument("--threads", type=int, default=1, help="threads of each")
    chosen = parser.parse_args()
    if chosen.part not in ("classic", "images") and not chosen.network:
        parser.error(f"{chosen.part}: name the --network")
    jobs = parts[chosen.part](chosen)
    with ThreadPoolExecutor(chosen.jobs) as pool:
        runs = list(bar(pool.map(lambda job: train(job, chosen), jobs), total=len(jobs), desc="runs"))
    rows: dict[str, list[RunFolder]] = {}
    for job, run in zip(jobs, runs, strict=True):
        rows.setdefault(job.row, []).append(run)
    print("| network | M parameters | UAR | deviation | training, s | single runs |\n|---|---|---|---|---|---|")
    first = next(iter(rows.values()))
    for name in [yardstick.path.name for yardstick in first[0].yardsticks]:
        show(name, [RunFolder(run.path / "yardsticks" / name) for run in first])
    for row, members in rows.items():
        show(row, members)
    for row, members in rows.items():
        print(f"{row.replace(', ', '_').replace(' ', '_')}_uar: {mean(map(uar_of, members)):.3f}")


if __name__ == "__main__":
    main()
