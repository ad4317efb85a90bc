"""Put a trained run into the package, as the model that ships.

    ser-ft train --config recipes/shipped.yaml --split.folds 20 --out runs/shipped
    python benchmarks/ship.py runs/shipped --judged sweeps/shipped

ser_ft/assets/ then holds the network (model/, its weights in half precision), the same as one .onnx file, the recipe,
the speakers that it heard, and in metrics.json how well the same recipe does by cross-validation: the answers of the
sweep on all folds, with one seed.
The card, ser_ft/assets/model/README.md, is written by hand, save for its figures, which are these.
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


def gathered(run: RunFolder, seed: int, judged: Path, home: RunFolder) -> None:
    """Gather in a folder what is shipped of a run, and write how well its recipe does.

    Raises:
        InputError: a fold of its recipe was not judged with that seed.
    """
    # Whoever has ser_ft has its code.
    shutil.copytree(run.model, home.model, ignore=shutil.ignore_patterns("*.py"))
    halve(home.model / "model.safetensors")
    for name in ("config.json", "preprocessor_config.json"):
        said = json.loads((home.model / name).read_text(encoding="utf-8"))
        said.pop("auto_map", None)
        (home.model / name).write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
    config = run.config
    config["data"]["prepared"], config["out"] = RECIPE["data"]["prepared"], RECIPE["out"]
    home.write_text(home.config_file, yaml.safe_dump(config, sort_keys=False))
    shutil.copy(run.split_file, home.split_file)
    folds = {fold.metrics["split"]["fold"]: fold for fold in find_runs([judged]) if fold.metrics["seed"] == seed}
    missing = set(range(FOLDS)) - folds.keys()
    if missing:
        raise InputError(f"{judged}: seed {seed} lacks the folds {sorted(missing)}")
    answers = pd.concat([fold.predictions.query("part == 'test'") for fold in folds.values()], ignore_index=True)
    facts = folds[0].metrics
    facts["split"] |= {"fold": None}
    facts["parts"] = metrics_per_part(answers, facts["classes"])
    facts["calibration"] = None
    home.write_json(home.metrics_file, facts)
    card = (HOME / "model" / "README.md").read_text(encoding="utf-8")
    (home.model / "README.md").write_text(told(card, facts), encoding="utf-8")
    export_onnx(home.path, home.path / "model.onnx")


def halve(file: Path) -> None:
    """Write the matrices of a safetensors file in half precision; config.json has them loaded in single precision."""
    values = {name: value.half() if value.ndim > 1 else value for name, value in load_file(file).items()}
    save_file(values, file, {"format": "pt"})


def told(card: str, facts: dict[str, Any]) -> str:
    """Return the card with the figures of a metrics.json in its table, and the size of the network."""
    found = facts["parts"]["test"]["by_corpus"]
    rows = []
    for corpus, title in TITLES.items():
        own = found[corpus]
        interval = "{low:.3f} to {high:.3f}".format(**own["uar_interval"])
        emotions = round(1 / own["chance"])
        rows.append(
            f"| {title} | {own['clips']:,} | {own['speakers']} | {emotions} | {own['uar']:.3f} | {interval} | "
            f"{own['accuracy']:.3f} |"
        )
    table = re.compile(r"(?<=\|---\|\n)(?:\| (?:RAVDESS|CREMA-D).*\n)+")
    card, tables = table.subn("".join(f"{row}\n" for row in rows), card)
    card, sizes = re.subn(r"[\d.]+(?= million parameters)", f"{facts['parameters'] / 1e6:.2f}", card)
    assert (tables, sizes) == (1, 1)
    return card


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="the run that is shipped")
    parser.add_argument("--judged", type=Path, required=True, help="its recipe's runs on all folds")
    parser.add_argument("--seed", type=int, default=0, help="of the runs whose answers are told")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # The model is called as its folder is.
        home = RunFolder(Path(folder, "shipped"))
        gathered(RunFolder.open(chosen.run), chosen.seed, chosen.judged, home)
        shutil.rmtree(HOME)
        shutil.copytree(home.path, HOME)
    for file in sorted(HOME.rglob("*")):
        if file.is_file():
            file.chmod(0o644)
            print(f"{file.relative_to(HOME)}: {file.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
