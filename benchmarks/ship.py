"""Copy a trained run into the package, as one of the models that ship with ser_ft.

The small model, `small`:

    ser-ft sweep recipes/small.yaml --seeds 0,1 --out sweeps/small
    ser-ft train --config recipes/small.yaml --split.folds 20 --out runs/small
    python benchmarks/ship.py copy small runs/small --cross-validation sweeps/small

The default model, `shipped`: Whisper-base is fine-tuned on speakers of CREMA-D, its weights are averaged with
those before fine-tuning, and a linear head is fitted to its states on the same speakers and on RAVDESS. The last step
is repeated for each fold of the cross-validation; the encoder has not seen any actor of RAVDESS:

    ser-ft train --config recipes/shipped_cremad.yaml
    python benchmarks/ship.py average runs/shipped_cremad --out runs/shipped_encoder
    python benchmarks/ship.py splits runs/shipped_cremad --ravdess data/ravdess --out splits
    ser-ft train --config recipes/shipped.yaml
    ser-ft train --config recipes/shipped.yaml --split.file splits/fold0.json --out sweeps/shipped/fold0
    python benchmarks/ship.py copy shipped runs/shipped --cross-validation sweeps/shipped

ser_ft/assets/NAME/ then contains the model (model/, weights in half precision), the same model as an .onnx file (the
default model's has its weights in model/), the recipe, the speakers that it has seen, and in metrics.json the results
of the cross-validation. The card (README.md in model/) and notices (LICENSE*) are written by hand, except for the
figures of the card, which are taken from metrics.json.
"""

import argparse
import json
import re
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import onnx
import pandas as pd
import yaml
from safetensors.torch import load_file, save_file

from ser_ft import RunFolder, open_prepared
from ser_ft.config.schema import SplitConfig
from ser_ft.data.splits import make_split
from ser_ft.evaluation.pooling import find_runs
from ser_ft.evaluation.predict import metrics_per_part
from ser_ft.export.onnx import export_onnx
from ser_ft.models import SHIPPED, SHIPPED_MODELS
from ser_ft.models.encoder_spec import find_encoder
from ser_ft.models.encoders import load_encoder
from ser_ft.utils.errors import InputError

ROOT = Path(__file__).parents[1]
HOME = ROOT / "ser_ft" / "assets"
FOLDS = 5
TITLES = {"ravdess": "RAVDESS", "cremad": "CREMA-D, rebuilt audio"}


def average(run: RunFolder, out: RunFolder) -> None:
    """Write a run's model, whose encoder has the mean of its weights before and after fine-tuning.

    It recognizes other corpora better than either (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models",
    arXiv:2109.01903). The head is that of the run.
    """
    recipe = run.config["model"]
    spec = find_encoder(recipe["name"], run.metrics["classes"], num_layers=recipe["num_layers"])
    before = load_encoder(spec).state_dict()
    file = out.model / "model.safetensors"
    shutil.copytree(run.model, out.model)
    # From these files, later runs read which speakers the model has seen.
    for name in (run.config_file.name, run.split_file.name):
        shutil.copy(run.path / name, out.path)
    weights = load_file(file)
    for name in weights:
        if name.startswith("encoder."):
            weights[name] = (weights[name] + before[name]) / 2
    save_file(weights, file, {"format": "pt"})


def write_splits(encoder: RunFolder, ravdess: datasets.Dataset, out: Path) -> None:
    """Write the split of the shipped model, all.json, and those of its cross-validation, fold0.json to fold4.json.

    Speakers of CREMA-D keep the part that they have in the run of the encoder; each fold tests some of its test
    speakers. The actors of RAVDESS have the folds of other runs on RAVDESS; in all.json none of them is tested.
    """
    parts = {part: content["speakers"] for part, content in encoder.split["parts"].items()}
    out.mkdir(parents=True, exist_ok=True)
    for fold in range(FOLDS):
        actors = make_split(ravdess, **asdict(SplitConfig(kind="kfold", fold=fold, folds=FOLDS))).speakers
        split = {part: sorted([*actors[part], *parts[part]]) for part in ("train", "validation")}
        split["test"] = sorted([*actors["test"], *parts["test"][fold::FOLDS]])
        write_json(out / f"fold{fold}.json", split)
        if fold == 0:
            split["train"], split["test"] = sorted([*split["train"], *actors["test"]]), sorted(parts["test"])
            write_json(out / "all.json", split)


def write_json(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_shipped_files(name: str, run: RunFolder, seed: int, cross_validation: Path, home: RunFolder) -> None:
    """Write the shipped files of a run to a folder, with the cross-validation of its recipe.

    Raises:
        InputError: there is no run with that seed.
    """
    # The model's code is part of ser_ft.
    shutil.copytree(run.model, home.model, ignore=shutil.ignore_patterns("*.py"))
    halve(home.model / "model.safetensors")
    for file in ("config.json", "preprocessor_config.json"):
        config = json.loads((home.model / file).read_text(encoding="utf-8"))
        config.pop("auto_map", None)
        write_json(home.model / file, config)
    published = yaml.safe_load((ROOT / "recipes" / f"{name}.yaml").read_text(encoding="utf-8"))
    recipe = run.config
    recipe["data"]["prepared"], recipe["out"] = published["data"]["prepared"], published["out"]
    recipe["model"]["name"] = published["model"]["name"]
    home.write_text(home.config_file, yaml.safe_dump(recipe, sort_keys=False))
    shutil.copy(run.split_file, home.split_file)
    folds = [fold for fold in find_runs([cross_validation]) if fold.metrics["seed"] == seed]
    if not folds:
        raise InputError(f"{cross_validation}: no run with seed {seed}")
    # Clips that no fold tests are those that the run itself has not seen.
    predictions = pd.concat([fold.predictions.query("part == 'test'") for fold in (*folds, run)], ignore_index=True)
    predictions = predictions.drop_duplicates("id", ignore_index=True)
    metrics = folds[0].metrics
    metrics["split"] |= {"fold": None}
    metrics["parts"] = metrics_per_part(predictions, metrics["classes"])
    metrics["calibration"] = None
    home.write_json(home.metrics_file, metrics)
    for notice in (HOME / name / "model").glob("LICENSE*"):
        shutil.copy(notice, home.model)
    card = (HOME / name / "model" / "README.md").read_text(encoding="utf-8")
    (home.model / "README.md").write_text(update_card(card, metrics), encoding="utf-8")
    export_onnx(home.path, home.path / "model.onnx")
    if name == SHIPPED:
        share_weights(home.path / "model.onnx", home.model / "model.safetensors")


def halve(file: Path) -> None:
    """Write the matrices of a safetensors file in half precision. They are loaded in single precision."""
    values = {name: value.half() if value.ndim > 1 else value for name, value in load_file(file).items()}
    save_file(values, file, {"format": "pt"})


def share_weights(file: Path, weights: Path) -> None:
    """Make an .onnx file refer to a safetensors file for its matrices, which are in half precision."""
    content = weights.read_bytes()
    # https://github.com/huggingface/safetensors#format: the length of the header, the header, the data.
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    matrices = {name: value.float().numpy() for name, value in load_file(weights).items() if value.ndim > 1}
    model = onnx.load(file)
    nodes = []
    for array in model.graph.initializer:
        value, target = onnx.numpy_helper.to_array(array), array.name
        orders = list(range(value.ndim)), list(range(value.ndim))[::-1]
        matches = [
            (name, order)
            for name, matrix in matrices.items()
            for order in orders
            if matrix.ndim == value.ndim and np.array_equal(matrix.transpose(order), value)
        ]
        if not matches:
            continue
        name, order = matches[0]
        begin, end = header[name]["data_offsets"]
        place = {
            "location": weights.relative_to(file.parent).as_posix(),
            "offset": start + begin,
            "length": end - begin,
        }
        array.Clear()
        array.name, array.data_type, array.data_location = name, onnx.TensorProto.FLOAT16, onnx.TensorProto.EXTERNAL
        array.dims.extend(matrices[name].shape)
        for key, entry in place.items():
            array.external_data.add(key=key, value=str(entry))
        # onnxruntime computes these nodes once, when it loads the file.
        nodes.append(onnx.helper.make_node("Transpose", [name], [f"{name}_transposed"], perm=order))
        nodes.append(onnx.helper.make_node("Cast", [f"{name}_transposed"], [target], to=onnx.TensorProto.FLOAT))
    nodes += model.graph.node
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, file)


def update_card(card: str, metrics: dict[str, Any]) -> str:
    """Return the card with the figures of a metrics.json in its table, and the number of parameters."""
    by_corpus = metrics["parts"]["test"]["by_corpus"]
    rows = []
    for corpus, title in TITLES.items():
        scores = by_corpus[corpus]
        ends = scores["uar_interval"]
        interval = "{low:.3f} to {high:.3f}".format(**ends) if ends else "too few speakers"
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


def copy(name: str, run: RunFolder, seed: int, cross_validation: Path) -> None:
    """Replace a shipped model by that of a run."""
    with tempfile.TemporaryDirectory() as folder:
        # The model's name is that of its folder.
        home = RunFolder(Path(folder, name))
        write_shipped_files(name, run, seed, cross_validation, home)
        shutil.rmtree(HOME / name)
        shutil.copytree(home.path, HOME / name)
    for file in sorted((HOME / name).rglob("*")):
        if file.is_file():
            file.chmod(0o644)
            print(f"{file.relative_to(HOME)}: {file.stat().st_size / 1e6:.2f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    averaging = commands.add_parser("average", help="average an encoder's weights before and after fine-tuning")
    averaging.add_argument("run", help="the run of recipes/shipped_cremad.yaml")
    averaging.add_argument("--out", required=True, help="folder for the model")
    splits = commands.add_parser("splits", help="write the splits of the default model")
    splits.add_argument("encoder", help="the run of recipes/shipped_cremad.yaml")
    splits.add_argument("--ravdess", required=True, help="the prepared table of RAVDESS")
    splits.add_argument("--out", type=Path, required=True, help="folder of the split files")
    copying = commands.add_parser("copy", help="copy a run into the package")
    copying.add_argument("name", choices=SHIPPED_MODELS)
    copying.add_argument("run", help="the run to ship")
    copying.add_argument("--cross-validation", type=Path, required=True, help="runs of its recipe on other folds")
    copying.add_argument("--seed", type=int, default=0, help="seed of these runs")
    args = parser.parse_args()
    if args.command == "average":
        average(RunFolder.open(args.run), RunFolder(args.out))
    elif args.command == "splits":
        write_splits(RunFolder.open(args.encoder), open_prepared(args.ravdess), args.out)
    else:
        copy(args.name, RunFolder.open(args.run), args.seed, args.cross_validation)


if __name__ == "__main__":
    main()
