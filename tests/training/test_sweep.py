"""A sweep makes every run once, whoever interrupts it and however many runs are made at a time."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from ser_ft.cli import main
from ser_ft.data.prepare import prepare
from ser_ft.evaluation.run_folder import RunFolder
from ser_ft.training.sweep import plan
from ser_ft.utils.errors import InputError

TINY = {
    "split": {"kind": "kfold", "folds": 2},
    "model": {"name": "mfcc-cnn", "config_overrides": {"channels": [4], "dropout": 0.0}},
    "train": {"max_steps": 4, "early_stopping_patience": None},
    "baselines": [],
}


@pytest.fixture
def recipe(miniature_folder: Path, tmp_path: Path) -> Path:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(TINY | {"data": {"prepared": str(miniature_folder)}}))
    return file


def names(recipe: Path, *settings: str, seeds: Sequence[int] = (0,), **options: object) -> list[str]:
    return [run.name for run in plan([recipe], "out", seeds, settings=settings, **options)]  # type: ignore[arg-type]


def test_the_split_of_the_recipe_decides_which_runs_are_made(recipe: Path, miniature_tree: Path) -> None:
    assert names(recipe, seeds=(0, 3)) == [f"tiny/fold{fold}-seed{seed}" for fold in (0, 1) for seed in (0, 3)]
    assert names(recipe, folds=[1]) == ["tiny/fold1-seed0"]
    corpora = ("cremad", "ravdess", "savee", "tess")
    for kind in ("corpus", "cross-corpus"):
        assert names(recipe, f"--split.kind={kind}") == [f"tiny/{corpus}-seed0" for corpus in corpora]
    assert names(recipe, "--split.kind=corpus", "--split.corpus=tess") == ["tiny/tess-seed0"]
    assert names(recipe, "--split.kind=speaker", seeds=(5,)) == ["tiny/seed5"]
    ravdess = recipe.parent / "ravdess"
    prepare({"ravdess": miniature_tree / "RAVDESS"}, ravdess, verbose=False)
    # Its two actors are test speakers of EmoBox's folds 0 and 4.
    named = names(recipe, "--split.kind=emobox-ravdess", f"--data.prepared={ravdess}")
    assert named == ["tiny/fold0-seed0", "tiny/fold4-seed0"]


def test_variants_override_the_recipe(recipe: Path, tmp_path: Path) -> None:
    variants = tmp_path / "variants.yaml"
    variants.write_text("none: {}\nmixed: {augment: {mixup: 0.4}, train: {epochs: 3}}\n")
    runs = plan([recipe], "out", settings=["--train.batch_size=7"], variants=variants)
    assert [run.name for run in runs] == [
        f"tiny/{name}/fold{fold}-seed0" for name in ("none", "mixed") for fold in (0, 1)
    ]
    assert [(run.recipe.augment.mixup, run.recipe.train.epochs) for run in runs[1:3]] == [(None, 40), (0.4, 3)]
    assert {run.recipe.train.batch_size for run in runs} == {7}


def test_a_listed_command_makes_its_run_and_other_data_or_settings_stop_the_sweep(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    variants = tmp_path / "variants.yaml"
    variants.write_text("mixed: {augment: {mixup: 0.4}}\n")
    out = tmp_path / "a sweep"
    arguments = [str(recipe), "--out", str(out), "--variants", str(variants), "--list", "--train.batch_size", "32"]
    assert main(["sweep", *arguments]) == 0
    assert not out.exists()
    first, second = capsys.readouterr().out.splitlines()
    words = shlex.split(first)
    assert words[:3] == ["OMP_NUM_THREADS=1", "ser-ft", "train"]
    assert main(words[2:]) == 0
    settings = ["--train.batch_size", "32"]
    runs = plan([recipe], out, settings=settings, variants=variants)
    assert [f"OMP_NUM_THREADS=1 {run.command}" for run in runs] == [first, second]
    assert [run.folder.metrics_file.is_file() for run in runs] == [True, False]
    assert runs[0].folder.config["augment"]["mixup"] == 0.4
    assert runs[0].folder.config["train"]["batch_size"] == 32
    with pytest.raises(InputError, match="holds a run of another recipe"):
        plan([recipe], out, settings=[*settings, "--train.epochs=2"], variants=variants)
    split = json.loads(runs[0].folder.split_file.read_text())
    split["parts"]["test"]["clips"].pop()
    runs[0].folder.write_json(runs[0].folder.split_file, split)
    with pytest.raises(InputError, match="changed since this run began"):
        plan([recipe], out, settings=settings, variants=variants)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--train.epoch", "3"], "train.epoch"),
        (["--seeds", "0,0"], "--seeds takes different whole numbers, such as 0,1,2, not '0,0'"),
        (["--seeds", "a"], "--seeds takes different whole numbers"),
        (["--fold", "2"], "split.fold is 2: folds are numbered 0 to 1"),
        (["--fold", "0", "--split.kind", "speaker"], "--fold: the split 'speaker' has no folds"),
        (["--jobs", "0"], "--jobs"),
        (["--resume"], "--resume: a sweep sets this for each run itself"),
        (["--variants", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["--split.kind", "emobox-ravdess"], "emobox-ravdess"),
    ],
)
def test_wrong_input_is_one_line_before_anything_is_run(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert main(["sweep", str(recipe), "--out", str(tmp_path / "out"), *more]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_two_recipes_of_one_name_are_refused(recipe: Path, tmp_path: Path) -> None:
    other = tmp_path / "more" / recipe.name
    other.parent.mkdir()
    other.write_bytes(recipe.read_bytes())
    with pytest.raises(InputError, match="two recipes are named tiny"):
        plan([recipe, other], tmp_path / "out")


def start(recipe: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "ser_ft.cli", "sweep", str(recipe), "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def has_worker(out: Path) -> bool:
    """Return whether a process works on a run of the sweep."""
    processes = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return any("ser_ft.cli.sweep_worker" in line and str(out) in line for line in processes.splitlines())


def results(out: Path) -> dict[str, tuple[bytes, bytes]]:
    return {
        file.parent.name: (file.read_bytes(), (RunFolder(file.parent).model / "model.safetensors").read_bytes())
        for file in sorted(out.glob("*/*/metrics.json"))
    }


@pytest.mark.slow
def test_a_killed_sweep_and_a_parallel_sweep_give_the_same_runs(recipe: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(["sweep", str(recipe), "--out", str(whole), "--jobs", "2"]) == 0
    process = start(recipe, killed)
    first = killed / "tiny" / "fold0-seed0" / "metrics.json"
    second = killed / "tiny" / "fold1-seed0" / "config.yaml"
    deadline = time.monotonic() + 300
    while not second.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    while has_worker(killed) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not has_worker(killed), "a run continues although its sweep was killed"
    assert first.exists()
    assert not second.with_name("metrics.json").exists(), "the sweep was killed too late"
    before = first.stat().st_mtime_ns
    assert main(["sweep", str(recipe), "--out", str(killed)]) == 0
    assert first.stat().st_mtime_ns == before, "a finished run was repeated"
    assert list(results(killed)) == ["fold0-seed0", "fold1-seed0"]
    assert results(killed) == results(whole)


@pytest.mark.slow
def test_a_failed_run_is_reported_and_the_others_are_made(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    variants = tmp_path / "variants.yaml"
    variants.write_text("diverges: {train: {learning_rate: 1.0e+30, max_steps: null}}\nlearns: {}\n")
    arguments = [str(recipe), "--out", str(tmp_path / "out"), "--variants", str(variants), "--fold", "0", "--jobs", "2"]
    assert main(["sweep", *arguments]) == 2
    error = capsys.readouterr().err
    assert "1 of 2 runs failed" in error
    assert "tiny/diverges/fold0-seed0 (ser-ft: training diverged" in error
    assert RunFolder(tmp_path / "out" / "tiny" / "learns" / "fold0-seed0").metrics["classes"]


@pytest.mark.skipif(sys.platform == "win32", reason="a script with a shebang")
@pytest.mark.parametrize("code", [1, 2])
def test_a_sweep_ends_with_code_2_only_if_the_input_of_its_runs_is_wrong(
    recipe: Path, tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    worker = tmp_path / "python"
    worker.write_text(f"#!/bin/sh\necho ser-ft: a reason\nexit {code}\n")
    worker.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(worker))
    assert main(["sweep", str(recipe), "--out", str(tmp_path / "out"), "--fold", "0"]) == code
    assert "1 of 1 runs failed" in (line := capsys.readouterr().err.splitlines()[-1])
    assert "tiny/fold0-seed0 (ser-ft: a reason)" in line
