"""Late fusion: the probabilities, what is refused, and the run folders that it writes."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ser_ft.cli import main
from ser_ft.data.splits import Leaking
from ser_ft.evaluation.ensemble import fuse
from ser_ft.evaluation.predict import metrics_per_part
from ser_ft.evaluation.run_folder import RunFolder
from ser_ft.utils.errors import InputError

CLASSES = ["angry", "happy", "sad"]
SPEED = {"real_time_factor": 0.25, "clips": 10, "threads": 1}


def write_run(
    path: Path,
    seed: int = 0,
    *,
    model: str = "mfcc-cnn",
    parts: Sequence[str] = ("train", "validation", "test"),
    classes: Sequence[str] = tuple(CLASSES),
    speakers: int = 6,
    fold: int | None = 0,
    leaking: Leaking = False,
    **extra: Any,
) -> RunFolder:
    """Write a run folder with random predictions that depend on its seed; its clips depend only on its fold."""
    random, rows = np.random.default_rng(seed), []
    for part in parts:
        for speaker in range(speakers):
            for take in range(len(classes) * 2):
                name = f"tess-{part}-{fold}-{speaker}-{take}"
                row = {"id": name, "path": f"{name}.wav", "corpus": "tess", "duration": 1.0 + take / 4}
                row |= {"speaker": f"tess-{part}-{fold}-{speaker}", "gender": "female", "intensity": None}
                row |= {"part": part, "fold": fold, "seed": seed, "label": classes[take % len(classes)]}
                probabilities = random.dirichlet(np.ones(len(classes)) + 2 * np.eye(len(classes))[take % len(classes)])
                rows.append(row | dict(zip(classes, probabilities, strict=True)))
    table = pd.DataFrame(rows).sample(frac=1, random_state=seed)
    run = RunFolder(path)
    run.path.mkdir(parents=True)
    run.write_predictions(table)
    split = {"name": "kfold", "fold": fold, "seed": 0, "leaking": leaking}
    metrics = {"model": model, "parameters": 1000, "seed": seed, "classes": list(classes), "split": split}
    terms = {"title": "T", "license": "second", "terms": "none", "citation": ""}
    metrics |= {"notes": {"tess": "made up"}, "terms": {"tess": terms}}
    run.write_json(run.metrics_file, metrics | extra | {"parts": metrics_per_part(table, classes)})
    content = {
        part: {"speakers": sorted(set(clips["speaker"])), "clips": sorted(clips["id"])}
        for part, clips in table.groupby("part")
    }
    run.write_json(run.split_file, split | {"parts": content})
    run.write_environment(seconds=60.0, speed=SPEED, device="cpu")
    return run


def test_fusion_is_the_weighted_mean_of_the_probabilities_of_each_clip(tmp_path: Path) -> None:
    """The members have their clips in different orders."""
    first, second = write_run(tmp_path / "first"), write_run(tmp_path / "second", 1, model="svm")
    for weights, weight in ((None, 1 / 2), ((2, 1), 2 / 3)):
        (fused,) = fuse([first.path, second.path], tmp_path / "fused", weights, overwrite=True)
        first_predictions, second_predictions = (run.predictions.set_index("id")[CLASSES] for run in (first, second))
        predictions = fused.predictions.set_index("id")
        expected = weight * first_predictions + (1 - weight) * second_predictions.loc[first_predictions.index]
        assert np.allclose(predictions[CLASSES], expected)
        assert fused.metrics["parts"] == metrics_per_part(fused.predictions, CLASSES)
        assert set(fused.predictions["part"]) == {"train", "validation", "test"}
        assert list(fused.predictions.columns) == list(first.predictions.columns)


def test_a_fused_run_has_all_files_of_an_evaluated_run(tmp_path: Path) -> None:
    first, second = write_run(tmp_path / "first"), write_run(tmp_path / "second", 1, model="svm", notes={"x": "noisy"})
    (fused,) = fuse([first.path, second.path], tmp_path / "fused")
    metrics = fused.metrics
    assert metrics["model"] == "fusion of mfcc-cnn, svm"
    assert metrics["parameters"] == 2000
    assert metrics["split"] == first.metrics["split"]
    assert metrics["notes"] == {"tess": "made up", "x": "noisy"}
    assert metrics["terms"] == first.metrics["terms"]
    assert fused.config["fuse"] == {"members": [str(first.path), str(second.path)], "weights": None}
    assert fused.environment["speed"] == SPEED | {"real_time_factor": 0.5}
    assert fused.environment["seconds"] == 120.0
    assert json.loads(fused.split_file.read_text()) == json.loads(first.split_file.read_text())
    (twice,) = fuse([fused.path, first.path], tmp_path / "twice", [2, 1])
    assert twice.metrics["model"] == "fusion of fusion of mfcc-cnn, svm (2), mfcc-cnn (1)"
    (seeds,) = fuse([first.path, write_run(tmp_path / "again", 2).path], tmp_path / "seeds")
    assert seeds.metrics["model"] == "fusion of 2 x mfcc-cnn"


def test_a_cost_that_a_member_lacks_is_not_summed(tmp_path: Path) -> None:
    first, second = write_run(tmp_path / "first"), write_run(tmp_path / "second", 1, parameters=None)
    second.write_environment(device="cpu")
    (fused,) = fuse([first.path, second.path], tmp_path / "fused")
    assert fused.metrics["parameters"] is None
    assert not {"speed", "seconds"} & fused.environment.keys()


def test_only_parts_that_all_members_have_are_fused(tmp_path: Path) -> None:
    """An evaluated model has only a test part."""
    first, second = write_run(tmp_path / "first"), write_run(tmp_path / "second", 1, parts=("test",))
    (fused,) = fuse([first.path, second.path], tmp_path / "fused")
    assert fused.metrics["parts"].keys() == {"test"}
    assert not fused.split_file.exists()
    validation_only = write_run(tmp_path / "validation_only", 1, parts=("validation",))
    with pytest.raises(InputError, match="no part in common"):
        fuse([second.path, validation_only.path], tmp_path / "never")


def test_sweeps_are_matched_by_split_fold_and_seed(tmp_path: Path) -> None:
    for system in ("a", "b"):
        for fold in (0, 1):
            for seed in (0, 1):
                folder = tmp_path / system / ("fold" + str(fold) + "-seed" + str(seed))
                write_run(folder, seed, fold=fold, model=system, parts=("test",))
    # The names of the folders do not matter.
    (tmp_path / "b" / "fold1-seed1").rename(tmp_path / "b" / "last")
    fused = fuse([tmp_path / "a", tmp_path / "b"], tmp_path / "both")
    names = {str(run.path.relative_to(tmp_path / "both")) for run in fused}
    assert names == {"fold0-seed0", "fold0-seed1", "fold1-seed0", "fold1-seed1"}
    for run in fused:
        first = RunFolder(tmp_path / "a" / run.path.name)
        assert run.metrics["split"] == first.metrics["split"]
        assert run.metrics["seed"] == first.metrics["seed"]
        assert run.config["fuse"]["members"] == [str(tmp_path / "a"), str(tmp_path / "b")]
    (tmp_path / "b" / "last" / "metrics.json").unlink()
    with pytest.raises(InputError, match=r"b: has no run with the split, fold and seed of .*fold1-seed1"):
        fuse([tmp_path / "a", tmp_path / "b"], tmp_path / "never")
    with pytest.raises(InputError, match="name the folder of one system's runs"):
        fuse([tmp_path, tmp_path / "b"], tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_runs_that_do_not_match_are_refused(tmp_path: Path) -> None:
    first = write_run(tmp_path / "first")
    swapped = write_run(tmp_path / "swapped", 1)
    table = swapped.predictions
    table.loc[table.index[0], "label"] = next(name for name in CLASSES if name != table["label"].iloc[0])
    swapped.write_predictions(table)
    mismatched = {
        "or has them in other parts": write_run(tmp_path / "clips", 1, speakers=5),
        "has the classes angry, sad": write_run(tmp_path / "classes", 1, classes=("angry", "sad")),
        "has other labels": swapped,
        "has other clips": write_run(tmp_path / "fold", 1, fold=1),
    }
    for message, run in mismatched.items():
        with pytest.raises(InputError, match=message):
            fuse([first.path, run.path], tmp_path / "never")
    with pytest.raises(InputError, match="needs two runs or more"):
        fuse([first.path], tmp_path / "never")
    for value in (np.nan, np.inf, -0.5):
        table = swapped.predictions
        table.loc[table.index[0], "happy"] = value
        spoiled = RunFolder(shutil.copytree(first.path, tmp_path / "spoiled", dirs_exist_ok=True))
        spoiled.write_predictions(table)
        with pytest.raises(InputError, match="no probabilities"):
            fuse([first.path, spoiled.path], tmp_path / "never")
    for weights in ((1,), (1, 0), (1, float("nan")), (1, 1, 1)):
        with pytest.raises(InputError, match="a number above 0 for each of the 2 runs"):
            fuse([first.path, first.path], tmp_path / "never", weights)
    assert not (tmp_path / "never").exists()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(write_run(tmp_path / name, seed, model=name).path) for seed, name in enumerate(("first", "second"))]
    out = tmp_path / "fused"
    assert main(["fuse", *runs, "--out", str(out), "--weights", "2,1"]) == 0
    assert "fusion of first (2), second (1)" in capsys.readouterr().out
    assert "fusion of first (2), second (1)" in (out / "report.html").read_text()
    assert any((out / "figures").iterdir())
    assert main(["fuse", *runs, "--out", str(out)]) == 2
    assert "pass --overwrite" in capsys.readouterr().err
    assert main(["fuse", *runs, "--out", str(out), "--overwrite"]) == 0
    # A trained run is not an output of fuse.
    assert main(["fuse", *runs, "--out", runs[0], "--overwrite"]) == 2
    assert RunFolder(runs[0]).metrics["model"] == "first"
    assert main(["fuse", *runs, "--out", str(tmp_path / "never"), "--weights", "a,b"]) == 2
    assert "takes numbers, such as 2,1" in capsys.readouterr().err


def test_the_error_names_a_run_that_cannot_be_read(tmp_path: Path) -> None:
    first, second = (write_run(tmp_path / name) for name in ("first", "second"))
    for damage in (second.predictions_file.unlink, lambda: second.metrics_file.write_text("{")):
        damage()
        with pytest.raises(InputError, match=r"second: cannot be read|second/metrics\.json: not JSON"):
            fuse([first.path, second.path], tmp_path / "fused")


def test_a_fusion_leaks_and_has_unknown_training_speakers_if_a_member_does(tmp_path: Path) -> None:
    first, second = write_run(tmp_path / "first"), write_run(tmp_path / "second", 1, leaking=True, seen=None)
    (fused,) = fuse([first.path, second.path], tmp_path / "fused")
    assert fused.metrics["split"]["leaking"] is True
    assert fused.metrics["seen"] is None
    third = write_run(tmp_path / "third", 2, leaking="unknown")
    for other, leaking in ((first, "unknown"), (second, True)):
        (fused,) = fuse([other.path, third.path], tmp_path / "fused", overwrite=True)
        assert fused.metrics["split"]["leaking"] == leaking
    (without_unknown,) = fuse([first.path, first.path], tmp_path / "without_unknown")
    assert "seen" not in without_unknown.metrics
