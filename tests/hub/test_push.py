"""A run on the Hub: what is sent, what is refused, and that it loads back by its name and answers as it did."""

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

from ser_ft import audio, push
from ser_ft.cli import main
from ser_ft.data.prepare import open_prepared
from ser_ft.evaluation.run_folder import RunFolder
from ser_ft.utils.errors import InputError
from tests.helpers.hub_server import READER, STRANGER, TOKEN, Blob, Hub
from tests.helpers.without_ser_ft import WITHOUT_SER_FT

MakeRun = Callable[[str], RunFolder]
KINDS = ("speech", "spectrogram", "mfcc-cnn")

_STOCK = (
    WITHOUT_SER_FT
    + """
import numpy as np
from transformers import pipeline

sounds = list(np.load(sys.argv[1]).values())
for name in sys.argv[2:]:
    classify = pipeline("audio-classification", name, trust_remote_code=True, top_k=None)
    found = [classify({"raw": sound, "sampling_rate": 16000}) for sound in sounds]
    print(json.dumps([{each["label"]: each["score"] for each in answer} for answer in found]), flush=True)
"""
)
_OURS = """
import json, sys
import numpy as np
from ser_ft import EmotionRecognizer

sounds = list(np.load(sys.argv[1]).values())
for name in sys.argv[2:]:
    recognise = EmotionRecognizer(name)
    answers = [recognise({"array": sound, "sampling_rate": 16000})[0] for sound in sounds]
    print(json.dumps([answer["scores"] for answer in answers]), flush=True)
"""


@pytest.fixture
def run(make_run: MakeRun) -> RunFolder:
    return make_run("mfcc-cnn")


@pytest.fixture
def copy(run: RunFolder, tmp_path: Path) -> RunFolder:
    """A run that may be changed."""
    return RunFolder(shutil.copytree(run.path, tmp_path / "copy", ignore=shutil.ignore_patterns("checkpoints")))


def elsewhere(hub: Hub, home: Path) -> dict[str, str]:
    """Return the environment of another machine, which knows the Hub and has nothing of it yet."""
    known = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "HF_TOKEN")}
    return known | {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}


def asked(script: str, hub: Hub, scratch: Path, names: list[str]) -> list[list[dict[str, float]]]:
    done = subprocess.run(
        [sys.executable, "-c", script, str(scratch / "sounds.npz"), *names],
        env=elsewhere(hub, scratch / script.split()[-1]),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()[-len(names) :]]


@pytest.mark.slow
def test_loaded_by_name_each_answers_as_in_its_run(
    hub: Hub, make_run: MakeRun, miniature_folder: Path, tmp_path: Path
) -> None:
    """Stock transformers without ser_ft, and EmotionRecognizer, each in a process that starts with an empty cache."""
    table = open_prepared(miniature_folder)
    # Of a corpus that can hold every class: its probabilities in the run are over all of them.
    rows = list(table.filter(lambda name: name == "ravdess", input_columns="corpus"))[:3]
    np.savez(tmp_path / "sounds.npz", *(audio.from_wav(row["audio"]["bytes"]) for row in rows))
    names = []
    for kind in KINDS:
        names.append(f"someone/{kind}")
        push(make_run(kind).path, names[-1], tell=lambda _: None)
    assert hub.count("PUT /store/[0-9a-f]{64}/2"), "none of the files was large enough to go in parts"
    for script in (_STOCK, _OURS):
        for kind, answers in zip(KINDS, asked(script, hub, tmp_path, names), strict=True):
            told = make_run(kind).predictions.set_index("id")
            for row, answer in zip(rows, answers, strict=True):
                assert answer.keys() == set(make_run(kind).metrics["classes"])
                expected = told.loc[row["id"], list(answer)].to_numpy(dtype=float)
                np.testing.assert_allclose(list(answer.values()), expected, atol=2e-4, err_msg=f"{kind} {script}")


def test_one_commit_holds_the_model_card_results_and_split(
    hub: Hub, run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(run.path), "someone/mine", "--private"]) == 0
    assert f"published: {hub.url}/someone/mine" in capsys.readouterr().out
    repository = hub.model("someone/mine")
    assert repository.private
    assert len(repository.commits) == 2, "the Hub's own first commit, and ours"
    sent = repository.files
    for file in run.model.iterdir():
        assert sent[file.name] == file.read_bytes()
    for file in (run.metrics_file, run.split_file, run.history_file):
        assert sent[file.name] == file.read_bytes()
    assert {path for path in sent if path.startswith("figures/")} == {
        f"figures/{file.name}" for file in run.figures.glob("*.png")
    }
    others = sent.keys() - {file.name for file in run.model.iterdir()}
    known = {"README.md", "metrics.json", "split.json", "history.jsonl", "config.yaml", "environment.json"}
    assert {path for path in others if "/" not in path} == known


def test_nothing_of_this_machine_is_sent(hub: Hub, make_run: MakeRun, miniature_folder: Path) -> None:
    run = make_run("speech")
    assert str(miniature_folder) in run.config_file.read_text(), "there is no path to be kept back: nothing is tested"
    push(run.path, "someone/mine", tell=lambda _: None)
    for path, content in hub.model("someone/mine").files.items():
        for word in (str(miniature_folder), str(run.path), str(Path.home()) + "/", "/tmp/", TOKEN):
            assert word.encode() not in content, f"{path} holds {word}"
        assert not content.startswith((b"RIFF", b"OggS", b"fLaC"))
    config = yaml.safe_load(hub.model("someone/mine").files["config.yaml"])
    assert config["data"]["prepared"] == miniature_folder.name
    assert config["model"]["name"] == "tiny"
    assert config["train"] == run.config["train"]


def test_a_second_push_of_the_same_sends_and_changes_nothing(hub: Hub, run: RunFolder) -> None:
    push(run.path, "someone/mine", tell=lambda _: None)
    before = hub.model("someone/mine").head
    sent = hub.count("PUT")
    push(run.path, "someone/mine", tell=lambda _: None)
    assert hub.model("someone/mine").head == before
    assert hub.count("PUT") == sent


def test_what_is_there_is_not_written_over_unless_told(hub: Hub, run: RunFolder) -> None:
    held = hub.make("model", "someone/other")
    held.commit("theirs", {".gitattributes": Blob(b"", False), "pytorch_model.bin": Blob(b"weights", True)})
    with pytest.raises(InputError, match=r"holds something else already \(pytorch_model.bin\): give --overwrite"):
        push(run.path, "someone/other", tell=lambda _: None)
    assert held.files == {"pytorch_model.bin": b"weights"}
    assert hub.count("PUT|preupload") == 0
    push(run.path, "someone/other", overwrite=True, tell=lambda _: None)
    assert "pytorch_model.bin" not in held.files, "stale weights would lie beside ours"
    assert held.files["metrics.json"] == run.metrics_file.read_bytes()
    assert len(held.commits) == 3


def test_another_run_is_something_else(hub: Hub, run: RunFolder, make_run: MakeRun) -> None:
    push(run.path, "someone/mine", tell=lambda _: None)
    with pytest.raises(InputError, match="holds something else already"):
        push(make_run("speech").path, "someone/mine", tell=lambda _: None)


def test_a_public_repository_is_not_taken_for_a_private_one(hub: Hub, run: RunFolder) -> None:
    hub.make("model", "someone/open")
    with pytest.raises(InputError, match="there already, and public"):
        push(run.path, "someone/open", private=True, tell=lambda _: None)
    assert hub.model("someone/open").files == {}


def test_a_dry_run_shows_and_writes_exactly_what_would_be_sent(
    hub: Hub, run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert main(["push", str(run.path), "someone/mine", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert main(["push", str(run.path), "someone/mine", "--out", str(tmp_path / "look")]) == 0
    assert hub.requests == []
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    push(run.path, "someone/mine", tell=lambda _: None)
    sent = hub.model("someone/mine").files
    listed = dict(reversed(line.split()) for line in said.splitlines() if line.startswith("  "))
    assert {path: int(size.replace(",", "")) for path, size in listed.items()} == {p: len(c) for p, c in sent.items()}
    written = {file.relative_to(tmp_path / "look").as_posix(): file for file in (tmp_path / "look").rglob("*.*")}
    assert {path: file.read_bytes() for path, file in written.items() if file.is_file()} == sent


@pytest.mark.parametrize(
    ("token", "said"),
    [
        (None, "no token for http://127.0.0.1.*: log in with `hf auth login`, or set HF_TOKEN"),
        ("hf_" + "x" * 34, "does not take the token: log in anew, or see http://127.0.0.1.*/settings/tokens"),
        (READER, "the token of someone may only read: make one that may write"),
        (STRANGER, "someone/mine: the token is of stranger, who is neither someone nor in an organisation of it"),
    ],
    ids=["none", "wrong", "reads only", "another's"],
)
def test_what_is_wrong_with_a_token_is_said_and_nothing_is_sent(
    hub: Hub,
    run: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    token: str | None,
    said: str,
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    assert main(["push", str(run.path), "someone/mine"]) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(said, told), told
    assert token is None or token not in told
    assert hub.count("PUT|commit") == 0


def test_a_token_kept_by_a_login_is_found(hub: Hub, run: RunFolder, tmp_path: Path) -> None:
    """`hf auth login` writes it below HF_HOME; the command is run as a user runs it."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "token").write_text(TOKEN)
    command = [sys.executable, "-m", "ser_ft.cli", "push", str(run.path), "someone/mine"]
    done = subprocess.run(command, env=elsewhere(hub, tmp_path / "home"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert hub.model("someone/mine").files["metrics.json"] == run.metrics_file.read_bytes()


@pytest.mark.parametrize(
    ("lacks", "said"),
    [
        ("metrics.json", "no evaluated run"),
        ("model", "no model in this run"),
        ("model/model.safetensors", "no model in this run"),
        ("split.json", "cannot be read"),
    ],
)
def test_a_run_that_is_not_whole_is_refused(copy: RunFolder, lacks: str, said: str) -> None:
    gone = copy.path / lacks
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    with pytest.raises(InputError, match=said):
        push(copy.path, "someone/mine", dry_run=True)


def test_a_run_that_was_not_tested_is_refused(copy: RunFolder) -> None:
    metrics = copy.metrics
    del metrics["parts"]["test"]
    copy.write_json(copy.metrics_file, metrics)
    with pytest.raises(InputError, match="nothing was tested in this run"):
        push(copy.path, "someone/mine", dry_run=True)


@pytest.mark.parametrize("name", ["mine", "someone/mine/too", "someone/-mine", "someone/mi ne", ""])
def test_a_name_that_is_none_is_refused(run: RunFolder, name: str) -> None:
    with pytest.raises(InputError, match="repositor"):
        push(run.path, name, dry_run=True)


def test_the_network_switched_off_is_said(run: RunFolder) -> None:
    with pytest.raises(InputError, match="HF_HUB_OFFLINE"):
        push(run.path, "someone/mine")
