"""push_to_hub in a recipe: one process publishes the finished run; what cannot be published is refused at the start."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ser_ft.cli import main, train
from ser_ft.config.schema import HubConfig
from ser_ft.data.prepare import corpus_info
from ser_ft.evaluation.run_folder import RunFolder
from ser_ft.hub import UploadError
from ser_ft.hub.publish import publish_run
from tests.helpers.hub_server import TOKEN, Hub
from tests.helpers.training import RECIPES, finish


def recipe(table: Path, out: Path, *settings: str) -> list[str]:
    return [
        f"--data.prepared={table}",
        f"--out={out}",
        "--split.kind=kfold",
        "--split.folds=2",
        "--model.config_overrides={channels: [8, 8]}",
        "--train.max_steps=1",
        "--baselines=[]",
        "--push_to_hub=true",
        *settings,
    ]


def test_a_failed_push_after_a_run_is_repeated_with_resume(
    hub: Hub, miniature_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = recipe(miniature_folder, tmp_path / "run", "--hub.model_id=someone/mine", "--hub.private=true")
    hub.fail("POST .*/commit/", status=500)
    assert train(arguments) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    command = f"ser-ft push {tmp_path / 'run'} someone/mine --private"
    assert f"the run itself is finished; publish it with: {command} (--debug" in error
    run = RunFolder(tmp_path / "run")
    metrics = run.metrics_file.read_bytes()
    hub.faults.clear()
    assert train([*arguments, "--resume"]) == 0
    assert run.metrics_file.read_bytes() == metrics, "it must not be trained again"
    assert hub.model("someone/mine").private
    assert hub.model("someone/mine").files["metrics.json"] == metrics
    assert "push_to_hub" not in yaml.safe_load(hub.model("someone/mine").files["config.yaml"])
    # Settings of publication do not make it another run.
    assert train([*arguments[:-2], "--push_to_hub=false", "--resume"]) == 0


def test_the_suggested_push_command_repeats_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, object]] = []

    def fail(_: Path, __: str, **options: object) -> None:
        calls.append(options)
        raise UploadError("failed")

    monkeypatch.setattr("ser_ft.hub.publish.push", fail)
    config = HubConfig(model_id="someone/mine", private=True, accept_terms=True, overwrite=True)
    with pytest.raises(UploadError) as error:
        publish_run(RunFolder("my runs/it's"), config)
    words = shlex.split(str(error.value).rpartition("publish it with: ")[2])
    assert words[:4] == ["ser-ft", "push", "my runs/it's", "someone/mine"]
    assert words[4:] == ["--private", "--accept-terms", "--overwrite"]
    assert calls == [{"private": True, "accept_terms": True, "overwrite": True}]


def test_a_run_that_cannot_be_published_is_refused_before_training(
    hub: Hub,
    miniature_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def error(*settings: str) -> str:
        assert train(recipe(miniature_folder, tmp_path / "run", *settings)) == 2
        return capsys.readouterr().err

    assert "push_to_hub needs hub.model_id" in error()
    assert "a repository is named USER/NAME" in error("--hub.model_id=mine")
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 34)
    assert "rejects the token" in error("--hub.model_id=someone/mine")
    monkeypatch.setenv("HF_TOKEN", TOKEN)

    def with_terms_of_tess(table: object) -> dict[str, dict[str, object]]:
        terms = {"license": "Apache-2.0", "terms": "made by ser_ft"}
        tess = {"license": "other", "terms": "no derivatives"}
        return {name: info | (tess if name == "tess" else terms) for name, info in corpus_info(table).items()}

    monkeypatch.setattr("ser_ft.hub.publish.corpus_info", with_terms_of_tess)
    assert "tess: no derivatives" in error("--hub.model_id=someone/mine", "--split.kind=speaker")
    assert not (tmp_path / "run").exists()
    assert hub.repositories == {}


def test_a_sweep_publishes_nothing(tmp_path: Path, miniature_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "one.yaml"
    file.write_text("model: {name: mfcc-cnn}\npush_to_hub: true\nhub: {model_id: someone/mine}\n")
    assert main(["sweep", str(file), f"--data.prepared={miniature_folder}", "--out", str(tmp_path / "sweep")]) == 2
    assert "push_to_hub" in capsys.readouterr().err


@pytest.mark.slow
def test_one_of_two_processes_publishes(hub: Hub, finished_run: RunFolder) -> None:
    """As started by `accelerate launch` on two GPUs, and by torchrun on a CPU. Only the publication is left to do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment |= {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "ACCELERATE_USE_CPU": "true"}
    environment |= {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(RECIPES / "finetune.py"), f"--config={finished_run.config_file}", "--resume"]
    command += ["--push_to_hub=true", "--hub.model_id=someone/mine"]
    processes = [
        subprocess.Popen(
            command,
            env=environment | {"RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        for rank in ("0", "1")
    ]
    first, second = map(finish, processes)
    assert "published: " in first
    assert "published: " not in second
    assert len(hub.model("someone/mine").commits) == 2
    assert hub.count("POST /api/repos/create") == 1
    assert hub.count("POST .*/commit/") == 1
    assert hub.count("GET /api/whoami") == 2, "at the start and before the upload, by the main process only"
    assert hub.model("someone/mine").files["metrics.json"] == finished_run.metrics_file.read_bytes()
