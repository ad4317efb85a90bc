"""push_to_hub in a recipe: published once the run is finished, by one process, and refused before it is begun."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ser_ft.cli import main, train
from ser_ft.config.parser import parse
from ser_ft.config.schema import HubConfig
from ser_ft.evaluation.run_folder import RunFolder
from ser_ft.hub import UploadError
from ser_ft.pipeline import _publish
from ser_ft.utils.errors import InputError
from tests.helpers.hub_server import TOKEN, Hub

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def undrawn(fast_reports: None) -> None:
    """What is reported here is not looked at."""


def recipe(table: Path, out: Path, *more: str) -> list[str]:
    return [
        f"--data.prepared={table}",
        f"--out={out}",
        "--split.kind=kfold",
        "--split.folds=2",
        "--model.config_overrides={channels: [8, 8]}",
        "--train.epochs=1",
        "--baselines=[]",
        "--push_to_hub=true",
        *more,
    ]


def test_a_finished_run_is_published_and_once_more_where_that_failed(
    hub: Hub, miniature_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = recipe(miniature_folder, tmp_path / "run", "--hub.model_id=someone/mine", "--hub.private=true")
    hub.fail("POST .*/commit/", status=500)
    assert train(given) == 1
    told = capsys.readouterr().err.strip().splitlines()[-1]
    again = f"ser-ft push {tmp_path / 'run'} someone/mine --private"
    assert f"the run itself is finished; publish it with: {again} (--debug" in told
    run = RunFolder(tmp_path / "run")
    before = run.metrics_file.read_bytes()
    hub.faults.clear()
    assert train([*given, "--resume"]) == 0
    assert run.metrics_file.read_bytes() == before, "it was trained anew"
    assert hub.model("someone/mine").private
    assert hub.model("someone/mine").files["metrics.json"] == before
    assert "push_to_hub" not in yaml.safe_load(hub.model("someone/mine").files["config.yaml"])
    # With other words on publishing it is the same run.
    assert train([*given[:-2], "--push_to_hub=false", "--resume"]) == 0


def test_the_line_to_publish_again_is_the_recipes_and_may_be_pasted(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, object]] = []

    def broken(_: Path, name: str, **options: object) -> None:
        given.append(options)
        raise UploadError("broke")

    monkeypatch.setattr("ser_ft.hub.push", broken)
    chosen = HubConfig(model_id="someone/mine", private=True, accept_terms=True, overwrite=True)
    with pytest.raises(UploadError) as told:
        _publish(RunFolder("my runs/it's"), chosen)
    line = str(told.value).rpartition("publish it with: ")[2]
    words = shlex.split(line)
    assert words[:4] == ["ser-ft", "push", "my runs/it's", "someone/mine"]
    assert words[4:] == ["--private", "--accept-terms", "--overwrite"]
    assert given == [{"private": True, "accept_terms": True, "overwrite": True}]


def test_what_could_not_be_published_is_refused_before_training(
    hub: Hub,
    miniature_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "run"
    assert train(recipe(miniature_folder, out)) == 2
    assert "push_to_hub: hub.model_id says where" in capsys.readouterr().err
    assert train(recipe(miniature_folder, out, "--hub.model_id=mine")) == 2
    assert "a repository is named USER/NAME" in capsys.readouterr().err
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 34)
    assert train(recipe(miniature_folder, out, "--hub.model_id=someone/mine")) == 2
    assert "does not take the token" in capsys.readouterr().err
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    synthetic = {"license": "Apache-2.0", "terms": "made by ser_ft"}
    real = {"license": "other", "terms": "no derivatives"}
    from ser_ft.data import prepare

    about = prepare.corpus_info

    def as_recorded(table: object) -> dict[str, dict[str, object]]:
        return {name: {**fact, **(real if name == "tess" else synthetic)} for name, fact in about(table).items()}

    monkeypatch.setattr(prepare, "about", as_recorded)
    assert train(recipe(miniature_folder, out, "--hub.model_id=someone/mine", "--split.kind=speaker")) == 2
    assert "heard tess" in capsys.readouterr().err
    assert not out.exists()
    assert hub.repositories == {}


def test_a_sweep_publishes_nothing(tmp_path: Path, miniature_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "one.yaml"
    file.write_text("model: {name: mfcc-cnn}\npush_to_hub: true\nhub: {model_id: someone/mine}\n")
    assert main(["sweep", str(file), f"--data.prepared={miniature_folder}", "--out", str(tmp_path / "sweep")]) == 2
    assert "push_to_hub is of one run" in capsys.readouterr().err


def test_a_run_from_before_there_was_push_to_hub_is_still_a_run(
    hub: Hub, miniature_folder: Path, tmp_path: Path
) -> None:
    given = recipe(miniature_folder, tmp_path / "run", "--push_to_hub=false")
    assert train(given) == 0
    run = RunFolder(tmp_path / "run")
    old = {key: value for key, value in run.config.items() if key not in ("push_to_hub", "hub")}
    run.write_text(run.config_file, yaml.safe_dump(old))
    assert train([*given, "--resume"]) == 0
    assert train([*given, "--overwrite"]) == 0


@pytest.mark.slow
def test_of_two_processes_one_publishes(hub: Hub, miniature_folder: Path, tmp_path: Path) -> None:
    """As `accelerate launch` starts them on two GPUs, and torchrun on a CPU."""
    given = recipe(miniature_folder, tmp_path / "run", "--hub.model_id=someone/mine")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    known = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    known |= {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        [sys.executable, *launch, str(ROOT / "recipes" / "finetune.py"), *given],
        env=known | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    run = RunFolder(tmp_path / "run")
    assert run.environment["processes"] == 2
    assert len(hub.model("someone/mine").commits) == 2
    assert hub.count("POST /api/repos/create") == 1
    assert hub.count("POST .*/commit/") == 1
    assert hub.count("GET /api/whoami") == 2, "before the run and after it, by the main process alone"
    assert hub.model("someone/mine").files["metrics.json"] == run.metrics_file.read_bytes()


def test_settings_that_are_none_are_refused() -> None:
    with pytest.raises(InputError, match="hub"):
        parse(["--hub.model_ids=someone/mine"], "test")
