"""Publishing a run: what is sent, what is refused, and that the published model loads by its name."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import constants

from ser_ft import EmotionRecognizer, audio, push
from ser_ft.cli import main
from ser_ft.data.prepare import open_prepared
from ser_ft.evaluation.run_folder import RunFolder
from ser_ft.utils.errors import InputError
from tests.helpers.hub_server import OTHER_TOKEN, READ_ONLY_TOKEN, TOKEN, Blob, Hub
from tests.helpers.without_ser_ft import WITHOUT_SER_FT

KINDS = ("speech", "whisper", "spectrogram", "mfcc-cnn")

STOCK = (
    WITHOUT_SER_FT
    + """
import numpy as np
from transformers import pipeline

recordings = list(np.load(sys.argv[1]).values())
for name in sys.argv[2:]:
    classify = pipeline("audio-classification", name, trust_remote_code=True, top_k=None)
    answers = [classify({"raw": samples, "sampling_rate": 16000}) for samples in recordings]
    print(json.dumps([{row["label"]: row["score"] for row in answer} for answer in answers]), flush=True)
"""
)


@pytest.mark.slow
def test_a_published_model_predicts_as_in_its_run(
    hub: Hub,
    make_run: Callable[[str], RunFolder],
    miniature_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From an empty cache: with EmotionRecognizer, and in a new process with stock transformers without ser_ft."""
    table = open_prepared(miniature_folder)
    # RAVDESS contains every class, so that the run's probabilities are over all of them.
    rows = list(table.filter(lambda name: name == "ravdess", input_columns="corpus"))[:3]
    recordings = [audio.from_wav(row["audio"]["bytes"]) for row in rows]
    np.savez(tmp_path / "recordings.npz", *recordings)
    names = [f"someone/{kind}" for kind in KINDS]
    for kind, name in zip(KINDS, names, strict=True):
        push(make_run(kind).path, name)
    assert hub.count("PUT /store/[0-9a-f]{64}/2"), "no file was large enough for an upload in parts"
    command = [sys.executable, "-c", STOCK, str(tmp_path / "recordings.npz"), *names]
    environment = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "HF_TOKEN")}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    recognized = []
    for name in names:
        recognizer = EmotionRecognizer(name)
        answers = [recognizer({"array": samples, "sampling_rate": 16_000})[0] for samples in recordings]
        recognized.append([answer["scores"] for answer in answers])
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]
    classified = [json.loads(line) for line in output.splitlines()[-len(names) :]]
    for kind, *answers in zip(KINDS, recognized, classified, strict=True):
        predictions = make_run(kind).predictions.set_index("id")
        for row, *both_scores in zip(rows, *answers, strict=True):
            # The recognizer removes offset and rumble from the table's samples once more.
            for scores, tolerance in zip(both_scores, (5e-3, 2e-4), strict=True):
                assert scores.keys() == set(make_run(kind).metrics["classes"])
                expected = predictions.loc[row["id"], list(scores)].to_numpy(dtype=float)
                np.testing.assert_allclose(list(scores.values()), expected, atol=tolerance, err_msg=kind)


def test_one_commit_holds_model_card_results_and_split(
    hub: Hub, finished_run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(finished_run.path), "someone/mine", "--private"]) == 0
    assert f"published: {hub.url}/someone/mine" in capsys.readouterr().out
    repository = hub.model("someone/mine")
    assert repository.private
    assert len(repository.commits) == 2, "the Hub's initial commit and ours"
    sent = repository.files
    model_files = list(finished_run.model.iterdir())
    for file in (*model_files, finished_run.metrics_file, finished_run.split_file, finished_run.history_file):
        assert sent[file.name] == file.read_bytes()
    figures = {f"figures/{file.name}" for file in finished_run.figures.glob("*.png")}
    others = {"README.md", "metrics.json", "split.json", "history.jsonl", "config.yaml", "environment.json"}
    assert sent.keys() == figures | others | {file.name for file in model_files}
    head, uploads = repository.head, hub.count("PUT")
    push(finished_run.path, "someone/mine", private=True)
    assert (repository.head, hub.count("PUT")) == (head, uploads), "a second push sends nothing"


@pytest.mark.parametrize("kind", ["speech", "whisper"])
def test_no_local_path_is_sent(
    kind: str, hub: Hub, make_run: Callable[[str], RunFolder], miniature_folder: Path
) -> None:
    run = make_run(kind)
    assert str(miniature_folder) in run.config_file.read_text(), "otherwise nothing is tested"
    push(run.path, "someone/mine")
    sent = hub.model("someone/mine").files
    for path, content in sent.items():
        for word in (str(miniature_folder), str(run.path), str(Path.home()) + "/", "/tmp/", TOKEN):
            assert word.encode() not in content, f"{path} contains {word}"
        assert not content.startswith((b"RIFF", b"OggS", b"fLaC"))
    config = yaml.safe_load(sent["config.yaml"])
    assert config["data"]["prepared"] == miniature_folder.name
    assert config["model"]["name"] == "tiny"
    assert config["train"] == run.config["train"]


def test_other_files_are_replaced_only_with_overwrite(hub: Hub, finished_run: RunFolder) -> None:
    repository = hub.create("model", "someone/other")
    repository.commit("theirs", {".gitattributes": Blob(b"", False), "pytorch_model.bin": Blob(b"weights", True)})
    with pytest.raises(InputError, match=r"already holds other files \(pytorch_model.bin\): pass --overwrite"):
        push(finished_run.path, "someone/other")
    assert repository.files == {"pytorch_model.bin": b"weights"}
    assert hub.count("PUT|preupload") == 0
    push(finished_run.path, "someone/other", overwrite=True)
    assert "pytorch_model.bin" not in repository.files
    assert repository.files["metrics.json"] == finished_run.metrics_file.read_bytes()
    assert len(repository.commits) == 3


def test_another_run_is_not_replaced(hub: Hub, run_copy: RunFolder) -> None:
    push(run_copy.path, "someone/mine")
    run_copy.write_json(run_copy.metrics_file, run_copy.metrics | {"seed": 7})
    with pytest.raises(InputError, match="already holds other files"):
        push(run_copy.path, "someone/mine")
    assert len(hub.model("someone/mine").commits) == 2


def test_a_public_repository_is_refused_with_private(hub: Hub, finished_run: RunFolder) -> None:
    hub.create("model", "someone/open")
    with pytest.raises(InputError, match="already exists and is public"):
        push(finished_run.path, "someone/open", private=True)
    assert hub.model("someone/open").files == {}


def test_a_dry_run_lists_and_writes_exactly_what_would_be_sent(
    hub: Hub,
    finished_run: RunFolder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    folder = tmp_path / "files"
    assert main(["push", str(finished_run.path), "someone/mine", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert main(["push", str(finished_run.path), "someone/mine", "--out", str(folder)]) == 0
    assert hub.requests == []
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    push(finished_run.path, "someone/mine")
    sent = hub.model("someone/mine").files
    listed = dict(reversed(line.split()) for line in lines if line.startswith("  "))
    assert {path: int(size.replace(",", "")) for path, size in listed.items()} == {p: len(c) for p, c in sent.items()}
    written = [file for file in folder.rglob("*.*") if file.is_file()]
    assert {file.relative_to(folder).as_posix(): file.read_bytes() for file in written} == sent


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (None, "no token for http://127.0.0.1.*: log in with `hf auth login`, or set HF_TOKEN"),
        ("hf_" + "x" * 34, r"rejects the token \(.*\): log in again, or see http://127.0.0.1.*/settings/tokens"),
        (READ_ONLY_TOKEN, "the token of someone is read-only: make one with write access"),
        (OTHER_TOKEN, "someone/mine: the token belongs to stranger, who is not someone or a member of it"),
    ],
    ids=["none", "wrong", "read-only", "another user's"],
)
def test_a_wrong_token_is_reported_and_nothing_is_sent(
    hub: Hub,
    finished_run: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    token: str | None,
    message: str,
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    assert main(["push", str(finished_run.path), "someone/mine"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(message, error), error
    assert token is None or token not in error
    assert hub.count("PUT|commit") == 0


def test_the_saved_token_of_a_login_is_used(
    hub: Hub, finished_run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`hf auth login` saves it in HF_HOME."""
    (tmp_path / "token").write_text(TOKEN)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_TOKEN")
    push(finished_run.path, "someone/mine")
    assert hub.model("someone/mine").files["metrics.json"] == finished_run.metrics_file.read_bytes()


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("metrics.json", "no evaluated run"),
        ("model", "no model in this run"),
        ("model/model.safetensors", "no model in this run"),
        ("split.json", "cannot be read"),
        ("test results", "this run has no test results"),
    ],
)
def test_an_incomplete_run_is_refused(run_copy: RunFolder, missing: str, message: str) -> None:
    path = run_copy.path / missing
    if missing == "test results":
        metrics = run_copy.metrics
        del metrics["parts"]["test"]
        run_copy.write_json(run_copy.metrics_file, metrics)
    else:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(InputError, match=message):
        push(run_copy.path, "someone/mine", dry_run=True)


@pytest.mark.parametrize("name", ["mine", "someone/mine/too", "someone/-mine", "someone/mi ne", ""])
def test_an_invalid_repository_name_is_refused(finished_run: RunFolder, name: str) -> None:
    with pytest.raises(InputError, match="repositor"):
        push(finished_run.path, name, dry_run=True)


def test_offline_mode_is_reported(finished_run: RunFolder) -> None:
    with pytest.raises(InputError, match="HF_HUB_OFFLINE"):
        push(finished_run.path, "someone/mine")
