"""A sweep: every run once, whoever stops it and however many are made at a time."""

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
from ser_ft.utils.files import exclusive_lock

TINY = {
    "split": {"kind": "kfold", "folds": 2},
    "model": {"name": "mfcc-cnn", "config_overrides": {"channels": [4], "dropout": 0.0}},
    "train": {"epochs": 1, "early_stopping_patience": None},
    "baselines": [],
}


@pytest.fixture
def recipe(miniature_folder: Path, tmp_path: Path) -> Path:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(TINY | {"data": {"prepared": str(miniature_folder)}}))
    return file


def names(recipe: Path, *settings: str, seeds: Sequence[int] = (0,), **options: object) -> list[str]:
    return [cell.name for cell in plan([recipe], "out", seeds, settings=settings, **options)]  # type: ignore[arg-type]


def test_the_recipes_split_says_what_is_run(recipe: Path) -> None:
    assert names(recipe, seeds=(0, 3)) == [
        *("tiny/fold0-seed0", "tiny/fold0-seed3"),
        *("tiny/fold1-seed0", "tiny/fold1-seed3"),
    ]
    assert names(recipe, folds=[1]) == ["tiny/fold1-seed0"]
    corpora = ("cremad", "ravdess", "savee", "tess")
    for kind in ("corpus", "cross-corpus"):
        assert names(recipe, f"--split.kind={kind}") == [f"tiny/{corpus}-seed0" for corpus in corpora]
    assert names(recipe, "--split.kind=corpus", "--split.corpus=tess") == ["tiny/tess-seed0"]
    assert names(recipe, "--split.kind=speaker", seeds=(5,)) == ["tiny/seed5"]


def test_a_named_split_has_the_folds_whose_speakers_are_there(recipe: Path, miniature_tree: Path) -> None:
    ours = recipe.parent / "ravdess"
    prepare({"ravdess": miniature_tree / "RAVDESS"}, ours, verbose=False)  # actors 1 and 2: in EmoBox's folds 0 and 4
    found = names(recipe, "--split.kind=emobox-ravdess", f"--data.prepared={ours}")
    assert found == ["tiny/fold0-seed0", "tiny/fold4-seed0"]


def test_variants_are_settings_over_the_recipe(recipe: Path, tmp_path: Path) -> None:
    variants = tmp_path / "variants.yaml"
    variants.write_text("none: {}\nmixed: {augment: {mixup: 0.4}, train: {epochs: 3}}\n")
    cells = plan([recipe], "out", settings=["--train.batch_size=7"], variants=variants)
    assert [cell.name for cell in cells] == [
        f"tiny/{name}/fold{fold}-seed0" for name in ("none", "mixed") for fold in (0, 1)
    ]
    assert [(cell.recipe.augment.mixup, cell.recipe.train.epochs) for cell in cells[1:3]] == [(None, 1), (0.4, 3)]
    assert {cell.recipe.train.batch_size for cell in cells} == {7}


def test_each_listed_command_makes_its_run(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    variants = tmp_path / "variants.yaml"
    variants.write_text("mixed: {augment: {mixup: 0.4}}\n")
    out = tmp_path / "a sweep"
    given = [str(recipe), "--out", str(out), "--variants", str(variants), "--list", "--train.batch_size", "32"]
    assert main(["sweep", *given]) == 0
    assert not out.exists()
    first, second = capsys.readouterr().out.splitlines()
    words = shlex.split(first)
    assert words[:3] == ["OMP_NUM_THREADS=1", "ser-ft", "train"]
    assert main(words[2:]) == 0
    cells = plan([recipe], out, settings=["--train.batch_size", "32"], variants=variants)
    assert [f"OMP_NUM_THREADS=1 {cell.command}" for cell in cells] == [first, second]
    assert [cell.folder.metrics_file.is_file() for cell in cells] == [True, False]
    assert cells[0].folder.config["augment"]["mixup"] == 0.4
    assert cells[0].folder.config["train"]["batch_size"] == 32


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--train.epoch", "3"], "train.epoch"),
        (["--seeds", "0,0"], "--seeds takes different whole numbers, as 0,1,2, not '0,0'"),
        (["--seeds", "a"], "--seeds takes different whole numbers"),
        (["--fold", "2"], "split.fold is 2: folds are numbered 0 to 1"),
        (["--fold", "0", "--split.kind", "speaker"], "--fold: the split 'speaker' has no folds"),
        (["--jobs", "0"], "--jobs"),
        (["--variants", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["--split.kind", "emobox-ravdess"], "emobox-ravdess is of ravdess alone"),
    ],
)
def test_wrong_input_is_one_line_before_anything_is_run(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], says: str
) -> None:
    assert main(["sweep", str(recipe), "--out", str(tmp_path / "out"), *more]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_two_recipes_of_one_name_are_refused(recipe: Path, tmp_path: Path) -> None:
    other = tmp_path / "more" / recipe.name
    other.parent.mkdir()
    other.write_bytes(recipe.read_bytes())
    with pytest.raises(InputError, match="two recipes are called tiny"):
        plan([recipe, other], tmp_path / "out")


def test_a_folder_that_holds_another_run_stops_the_sweep_at_once(recipe: Path, tmp_path: Path) -> None:
    (first, *_) = plan([recipe], tmp_path / "out")
    assert main([*shlex.split(first.command)[1:], "--train.epochs=2"]) == 0
    with pytest.raises(InputError, match="holds a run of another recipe"):
        plan([recipe], tmp_path / "out")


def start(recipe: Path, out: Path, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "ser_ft.cli", "sweep", str(recipe), "--out", str(out), "--train.epochs=2", *more]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def alive(out: Path) -> bool:
    """Say whether a process still works on a run of the sweep."""
    found = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return any("ser_ft.cli.sweep_worker" in line and str(out) in line for line in found.splitlines())


def results(out: Path) -> dict[str, tuple[bytes, bytes]]:
    found = {}
    for file in sorted(out.glob("*/*/metrics.json")):
        run = RunFolder(file.parent)
        found[run.path.name] = (file.read_bytes(), (run.model / "model.safetensors").read_bytes())
    return found


@pytest.mark.slow
def test_killed_and_gone_on_with_or_in_parallel_a_sweep_gives_the_same(recipe: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(recipe, whole, "--jobs", "2").wait() == 0
    process = start(recipe, killed)
    first = killed / "tiny" / "fold0-seed0" / "metrics.json"
    second = killed / "tiny" / "fold1-seed0" / "config.yaml"
    deadline = time.monotonic() + 300
    while not second.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    while alive(killed) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(killed), "a run goes on though its sweep was killed"
    assert first.exists()
    assert not second.with_name("metrics.json").exists(), "killed too late for this test to show anything"
    before = first.stat().st_mtime_ns
    assert start(recipe, killed).wait() == 0
    assert first.stat().st_mtime_ns == before, "a finished run was made again"
    ours, theirs = results(killed), results(whole)
    assert list(ours) == list(theirs) == ["fold0-seed0", "fold1-seed0"]
    assert ours == theirs


@pytest.mark.slow
def test_a_run_that_fails_is_told_and_the_others_are_made(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    variants = tmp_path / "variants.yaml"
    variants.write_text("diverges: {train: {learning_rate: 1.0e+30}}\nlearns: {}\n")
    given = [str(recipe), "--out", str(tmp_path / "out"), "--variants", str(variants), "--fold", "0"]
    assert main(["sweep", *given]) == 2
    said = capsys.readouterr().err
    assert "1 of 2 runs failed" in said
    assert "tiny/diverges/fold0-seed0 (ser-ft: the loss is no longer a number" in said
    assert RunFolder(tmp_path / "out" / "tiny" / "learns" / "fold0-seed0").metrics["classes"]


def test_a_second_sweep_keeps_out_of_a_folder(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with exclusive_lock(tmp_path / "out", "sweep"):
        assert main(["sweep", str(recipe), "--out", str(tmp_path / "out")]) == 2
    assert "another sweep is running here" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("tiny*"))


def test_a_finished_run_of_other_data_is_not_mixed_with_new_ones(recipe: Path, tmp_path: Path) -> None:
    (first, *_) = plan([recipe], tmp_path / "out")
    assert main(shlex.split(first.command)[1:]) == 0
    split = json.loads(first.folder.split_file.read_text())
    split["parts"]["test"]["clips"].pop()
    first.folder.write_json(first.folder.split_file, split)
    with pytest.raises(InputError, match="changed since this run began"):
        plan([recipe], tmp_path / "out")
