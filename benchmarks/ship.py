"""Put a trained run into the package, as the model that ships.

    ser-ft train --config recipes/shipped.yaml --split.folds 20 --out runs/shipped
    python benchmarks/ship.py runs/shipped --judged sweeps/shipped

ser_ft/assets/ then holds the network (model/), the same as one .onnx file, the recipe, the speakers that it heard, and
in metrics.json how well the same recipe does by cross-validation: the answers of the sweep on all folds, with one seed.
The card, ser_ft/assets/model/README.md, is written by hand.
"""

import argparse
import json
import shutil
from pathlib import Path

import pandas as pd
import yaml

from ser_ft import RunFolder, read_split
from ser_ft.recognition.export import export
from ser_ft.results.evaluation import part_metrics
from ser_ft.results.systems import find_runs

HOME = Path(__file__).parents[1] / "ser_ft" / "assets"


def put_in(run: RunFolder, seed: int, judged: Path) -> None:
    """Copy what is shipped of a run, and write how well its recipe does."""
    model = HOME / "model"
    card = (model / "README.md").read_text(encoding="utf-8") if (model / "README.md").is_file() else None
    shutil.rmtree(model, ignore_errors=True)
    # Whoever has ser_ft has its code.
    shutil.copytree(run.model, model, ignore=shutil.ignore_patterns("*.py"))
    for name in ("config.json", "preprocessor_config.json"):
        said = json.loads((model / name).read_text(encoding="utf-8"))
        said.pop("auto_map", None)
        (model / name).write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
    if card is not None:
        (model / "README.md").write_text(card, encoding="utf-8")
    home = RunFolder(HOME)
    home.write_text(home.config_file, yaml.safe_dump(run.config, sort_keys=False))
    split = read_split(run.split_file).content()
    for part in split["parts"].values():
        part["clips"] = []
    home.write_json(home.split_file, split)
    folds = [fold for fold in find_runs([judged]) if fold.metrics["seed"] == seed]
    answers = pd.concat([fold.predictions.query("part == 'test'") for fold in folds], ignore_index=True)
    facts = folds[0].metrics
    facts["split"] |= {"fold": None}
    facts["parts"] = part_metrics(answers, facts["classes"])
    facts["calibration"] = None
    home.write_json(home.metrics_file, facts)
    export(run.path, HOME / "model.onnx", replace=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="the run that is shipped")
    parser.add_argument("--judged", type=Path, required=True, help="its recipe's runs on all folds")
    parser.add_argument("--seed", type=int, default=0, help="of the runs whose answers are told")
    chosen = parser.parse_args()
    put_in(RunFolder.open(chosen.run), chosen.seed, chosen.judged)
    for file in sorted(HOME.rglob("*")):
        if file.is_file():
            print(f"{file.relative_to(HOME)}: {file.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
