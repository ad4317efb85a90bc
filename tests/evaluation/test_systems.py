from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ser_ft.evaluation import metrics
from ser_ft.evaluation.pooling import find_runs, leaderboards, pool_runs
from ser_ft.evaluation.run_folder import RunFolder
from ser_ft.evaluation.systems import System
from ser_ft.utils.errors import InputError
from tests.helpers.runs import CLASSES, write_folds, write_run

WAV2VEC2 = "facebook/wav2vec2-base (full)"


def pooled_systems(*paths: Path) -> list[System]:
    return pool_runs(find_runs(paths))


def test_runs_in_a_sweep_are_found_without_baselines_and_unfinished_runs(tmp_path: Path) -> None:
    write_folds(tmp_path / "mfcc", baselines=("svm",))
    write_run(tmp_path / "mfcc" / "mixup" / "fold0-seed0")
    (tmp_path / "mfcc" / "fold9-seed0").mkdir()
    names = [str(run.path.relative_to(tmp_path)) for run in find_runs([tmp_path, tmp_path / "mfcc" / "fold0-seed0"])]
    assert names == ["mfcc/fold0-seed0", "mfcc/fold1-seed0", "mfcc/mixup/fold0-seed0"]


def speakers_of(run: Path) -> list[str]:
    return sorted(set(RunFolder(run).predictions["speaker"]))


def test_the_error_names_a_path_without_tested_runs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no evaluated run in it"):
        find_runs([tmp_path])
    with pytest.raises(InputError, match="nowhere: no such folder"):
        find_runs([tmp_path / "nowhere"])
    run = write_run(tmp_path / "run")
    run.write_json(run.metrics_file, run.metrics | {"parts": {"train": run.metrics["parts"]["test"]}})
    with pytest.raises(InputError, match="run: has no test part"):
        pooled_systems(tmp_path)


def test_folds_are_pooled_and_seeds_averaged(tmp_path: Path) -> None:
    write_folds(tmp_path / "mfcc", seeds=(0, 1))
    (system,) = pooled_systems(tmp_path)
    files = {seed: [pd.read_parquet(p) for p in tmp_path.glob(f"mfcc/*seed{seed}/*.parquet")] for seed in (0, 1)}
    uars = []
    for table in map(pd.concat, files.values()):
        labels = table["label"].map(CLASSES.index)
        uars.append(metrics.uar(labels, table[list(CLASSES)].to_numpy().argmax(axis=1), 4))
    assert len(system.runs) == 4
    assert system.probabilities.shape == (2, 64, 4)
    assert system.scores["uar"] == pytest.approx(np.mean(uars))
    assert system.scores["std_seeds"] == pytest.approx(np.std(uars, ddof=1))
    folds = [
        np.mean([RunFolder(tmp_path / f"mfcc/fold{f}-seed{s}").metrics["parts"]["test"]["uar"] for s in (0, 1)])
        for f in (0, 1)
    ]
    assert system.scores["std_folds"] == pytest.approx(np.std(folds, ddof=1))
    assert system.confusion.sum() == 2 * 64
    assert system.scores["low"] < system.scores["uar"] < system.scores["high"]
    assert system.interval().speakers == 8


def test_a_single_seed_has_the_metrics_of_its_run(tmp_path: Path) -> None:
    write_folds(tmp_path / "mfcc", folds=1, num_speakers=6)
    (system,) = pooled_systems(tmp_path)
    test = system.runs[0].metrics["parts"]["test"]
    for key in ("uar", "accuracy", "macro_f1", "ece", "chance", "recall"):
        assert system.scores[key] == pytest.approx(test[key])
    assert system.scores["low"] == pytest.approx(test["uar_interval"]["low"])
    assert system.scores["std_folds"] is None
    assert system.scores["std_seeds"] is None
    assert system.confusion.tolist() == test["confusion"]
    assert system.scores_by("gender")["male"]["clips"] == 24


def test_a_clip_that_is_tested_twice_with_one_seed_is_refused(tmp_path: Path) -> None:
    write_folds(tmp_path / "mfcc")
    shutil.copytree(tmp_path / "mfcc" / "fold0-seed0", tmp_path / "copy")
    with pytest.raises(InputError, match=r"copy and .*mfcc/fold0-seed0 are runs of one system and both test ravdess-"):
        pooled_systems(tmp_path)
    systems = pool_runs(find_runs([tmp_path]), {(tmp_path / "copy").resolve(): "again"})
    assert {system.name for system in systems} == {"again", "mfcc-cnn"}


def test_runs_with_other_settings_are_another_system_with_its_folder_in_the_name(tmp_path: Path) -> None:
    write_folds(tmp_path / "plain", model="plain-cnn")
    write_folds(tmp_path / "plain" / "mixup", model="plain-cnn", settings={"epochs": 5})
    write_folds(tmp_path / "wav2vec2", model=WAV2VEC2)
    assert [system.name for system in pooled_systems(tmp_path)] == ["plain-cnn", "plain-cnn, mixup", WAV2VEC2]
    # What the folders have in common is not repeated.
    write_folds(tmp_path / "plain_augmented", model="plain-cnn", settings={"epochs": 7})
    assert "plain-cnn, augmented" in {system.name for system in pooled_systems(tmp_path)}


def test_a_recipe_and_its_augmented_version_are_told_apart_in_tables(tmp_path: Path) -> None:
    model = "whisper-base (full)"
    write_folds(tmp_path / "full", model=model)
    for run in find_runs([write_folds(tmp_path / "full_augmented", model=model)]):
        run.write_text(run.config_file, run.config_file.read_text() + "augment: {transforms: {pitch: {}}}\n")
    assert [system.name for system in pooled_systems(tmp_path)] == [model, f"{model}, augmented"]


def test_systems_on_other_clips_are_on_another_leaderboard(tmp_path: Path) -> None:
    write_folds(tmp_path / "mfcc", seeds=(0, 1))
    write_folds(tmp_path / "plain", model="plain-cnn")
    shutil.rmtree(tmp_path / "mfcc" / "fold1-seed1")
    boards = leaderboards(pooled_systems(tmp_path))
    (other_board,) = boards[1:]
    assert [(system.name, len(system.labels)) for system in other_board.systems] == [("mfcc-cnn", 32)]
    assert {system.name for system in boards[0].systems} == {"mfcc-cnn", "plain-cnn"}
    assert boards[0].speakers == 8


def test_other_classes_and_leaking_splits_have_their_own_leaderboards(tmp_path: Path) -> None:
    write_folds(tmp_path / "mfcc")
    write_folds(tmp_path / "leak", model="plain-cnn", split="random", leaking=True, skill=4.0)
    write_folds(tmp_path / "folders", model="plain-cnn", split="folders", leaking="unknown", skill=4.0)
    write_folds(tmp_path / "words", model="lstm", classes=(*CLASSES[:3], "fear"))
    boards = leaderboards(pooled_systems(tmp_path))
    assert [board.systems[0].name for board in boards][2] == "plain-cnn"
    assert [len(board.systems) for board in boards] == [1, 1, 1, 1]
    assert [board.best.leaking for board in boards] in (
        [False, False, True, "unknown"],
        [False, False, "unknown", True],
    )


def test_baselines_of_the_same_name_are_one_system(tmp_path: Path) -> None:
    write_folds(tmp_path / "mfcc", baselines=("svm", "majority"), seeds=(0, 1))
    write_folds(tmp_path / "plain", model="plain-cnn", baselines=("svm",))
    kinds = [(system.name, system.kind, len(system.runs)) for system in pooled_systems(tmp_path)]
    assert kinds[2:] == [("majority", "classical", 4), ("svm", "classical", 4)]


def test_the_mfcc_cnn_of_a_run_is_the_baseline_that_its_model_is_compared_with(tmp_path: Path) -> None:
    for name in ("first", "second"):
        write_folds(tmp_path / name, model=f"{name} (full)")
        for fold in tmp_path.glob(f"{name}/*"):
            write_run(fold / "baselines" / "mfcc-cnn", fold=int(fold.name[4]), speakers=speakers_of(fold))
    kinds = [(system.name, system.kind, len(system.runs)) for system in pooled_systems(tmp_path)]
    assert kinds == [("first (full)", "transfer", 2), ("second (full)", "transfer", 2), ("mfcc-cnn", "baseline", 2)]


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("mfcc-cnn", "baseline"),
        ("wide-cnn", "from-scratch"),
        ("timm/vgg16_bn.tv_in1k, random weights (full)", "from-scratch"),
        ("timm/vgg16_bn.tv_in1k (partial)", "transfer"),
        (WAV2VEC2, "transfer"),
        ("shipped (fine-tuned)", "transfer"),
        ("fusion of mfcc-cnn, plain-cnn", "fusion"),
    ],
)
def test_kind_of_system(tmp_path: Path, model: str, kind: str) -> None:
    write_run(tmp_path / "run", model=model)
    assert pooled_systems(tmp_path)[0].kind == kind


def test_leave_one_corpus_out_runs_are_folds_and_cross_corpus_runs_are_not(tmp_path: Path) -> None:
    for corpus in ("ravdess", "tess"):
        speakers = {name: [f"{name}-{number:02d}" for number in range(4)] for name in ("ravdess", "tess")}
        folder = tmp_path / "folder" / corpus
        write_run(folder, split=f"corpus-{corpus}", fold=None, speakers=speakers[corpus])
        speakers_tested = speakers["ravdess"][:2] + speakers["tess"]
        write_run(tmp_path / "cross" / corpus, split=f"cross-corpus-{corpus}", fold=None, speakers=speakers_tested)
    splits = [(system.split, len(system.runs), len(system.labels)) for system in pooled_systems(tmp_path)]
    assert sorted(splits) == [("corpus", 2, 64), ("cross-corpus-ravdess", 1, 48), ("cross-corpus-tess", 1, 48)]
    assert len(leaderboards(pooled_systems(tmp_path))) == 3
    (folder,) = (system for system in pooled_systems(tmp_path) if system.split == "corpus")
    assert {name: cell["speakers"] for name, cell in folder.scores_by("corpus").items()} == {"ravdess": 4, "tess": 4}


def test_cost_is_the_mean_over_the_runs(tmp_path: Path) -> None:
    for fold, factor in enumerate((0.1, 0.3)):
        cost = {"speed": {"real_time_factor": factor, "clips": 10, "threads": 1}}
        write_run(tmp_path / str(fold), fold=fold, speakers=[f"ravdess-0{fold}"], cost=cost)
    write_run(tmp_path / "plain", model="plain-cnn")
    measured, unmeasured = (system.cost for system in pooled_systems(tmp_path))
    assert measured["real_time_factor"] == pytest.approx(0.2)
    assert measured["seconds"] == pytest.approx(90.5)
    assert measured["parameters"] == 100_000
    assert len(measured["machines"]) == 1
    assert unmeasured["real_time_factor"] is None
