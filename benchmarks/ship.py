"""Copy a trained run into the package, as the shipped model.

    ser-ft train --config recipes/shipped.yaml --split.folds 20 --out runs/shipped
    python benchmarks/ship.py runs/shipped --cross-validation sweeps/shipped

ser_ft/assets/ then contains the network (model/, weights in half precision), the same network as an .onnx file, the
recipe, the speakers that it has seen, and in metrics.json the cross-validation of the recipe: the predictions of the
sweep on all folds, for one seed. The card, ser_ft/assets/model/README.md, is written by hand, except for its figures,
which are taken from this metrics.json.
"""

import argparse
import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from safetensors.torch import load_file, save_file

from ser_ft import RunFolder
from ser_ft.evaluation.pooling import find_runs
from ser_ft.evaluation.predict import metrics_per_part
from ser_ft.export.onnx import export_onnx
from ser_ft.utils.errors import InputError

ROOT = Path(__file__).parents[1]
HOME = ROOT / "ser_ft" / "assets"
RECIPE = yaml.safe_load((ROOT / "recipes" / "shipped.yaml").read_text(encoding="utf-8"))
FOLDS = 5
TITLES = {"ravdess": "RAVDESS", "cremad": "CREMA-D, rebuilt audio"}


def write_shipped_files(run: RunFolder, seed: int, cross_validation: Path, home: RunFolder) -> None:
    """Write the shipped files of a run to a folder, with the cross-validation of its recipe.

    Raises:
        InputError: a fold of the recipe was not tested with that seed.
    """
    # The model's code is part of ser_ft.
    shutil.copytree(run.model, home.model, ignore=shutil.ignore_patterns("*.py"))
    halve(home.model / "model.safetensors")
    for name in ("config.json", "preprocessor_config.json"):
        config = json.loads((home.model / name).read_text(encoding="utf-8"))
        config.pop("auto_map", None)
        (home.model / name).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    recipe = run.config
    recipe["data"]["prepared"], recipe["out"] = RECIPE["data"]["prepared"], RECIPE["out"]
    home.write_text(home.config_file, yaml.safe_dump(recipe, sort_keys=False))
    shutil.copy(run.split_file, home.split_file)
    folds = {
        fold.metrics["split"]["fold"]: fold for fold in find_runs([cross_validation]) if fold.metrics["seed"] == seed
    }
    missing = set(range(FOLDS)) - folds.keys()
    if missing:
        raise InputError(f"{cross_validation}: seed {seed} lacks the folds {sorted(missing)}")
    predictions = pd.concat([fold.predictions.query("part == 'test'") for fold in folds.values()], ignore_index=True)
    metrics = folds[0].metrics
    metrics["split"] |= {"fold": None}
    metrics["parts"] = metrics_per_part(predictions, metrics["classes"])
    metrics["calibration"] = None
    home.write_json(home.metrics_file, metrics)
    card = (HOME / "model" / "README.md").read_text(encoding="utf-8")
    (home.model / "README.md").write_text(update_card(card, metrics), encoding="utf-8")
    export_onnx(home.path, home.path / "model.onnx")


def halve(file: Path) -> None:
    """Write the matrices of a safetensors file in half precision. They are loaded in single precision."""
    values = {name: value.half() if value.ndim > 1 else value for name, value in load_file(file).items()}
    save_file(values, file, {"format": "pt"})


def update_card(card: str, metrics: dict[str, Any]) -> str:
    """Return the card with the figures of a metrics.json in its table, and the number of parameters."""
    by_corpus = metrics["parts"]["test"]["by_corpus"]
    rows = []
    for corpus, title in TITLES.items():
        scores = by_corpus[corpus]
        interval = "{low:.3f} to {high:.3f}".format(**scores["uar_interval"])
        emotions = round(1 / scores["chance"])
        rows.append(
            f"| {title} | {scores['clips']:,} | {scores['speakers']} | {emotions} | {scores['uar']:.3f} | {interval} | "
            f"{scores['accuracy']:.3f} |"
        )
    table = re.compile(r"(?<=\|---\|\n)(?:\| (?:RAVDESS|CREMA-D).*\n)+")
    card, tables = table.subn("".join(f"{row}\n" for row in rows), card)
    card, sizes = re.subn(r"[\d.]+(?= million parameters)", f"{metrics['parameters'] / 1e6:.2f}", card)
    assert (tables, sizes) == (1, 1)
    return card


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="the run to ship")
    parser.add_argument("--cross-validation", type=Path, required=True, help="runs of its recipe on all folds")
    parser.add_argument("--seed", type=int, default=0, help="seed of these runs")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # The model's name is that of its folder.
        home = RunFolder(Path(folder, "shipped"))
        write_shipped_files(RunFolder.open(args.run), args.seed, args.cross_validation, home)
        shutil.rmtree(HOME)
        shutil.copytree(home.path, HOME)
    for file in sorted(HOME.rglob("*")):
        if file.is_file():
            file.chmod(0o644)
            print(f"{file.relative_to(HOME)}: {file.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
