"""The Hub when something goes wrong: what the user sees, and that a second push completes it."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from ser_ft.cli import main
from ser_ft.evaluation.run_folder import RunFolder
from ser_ft.hub import client
from tests.helpers.hub_server import Hub

MakeRun = Callable[[str], RunFolder]
AGAIN = "what arrived is not sent twice, and the repository has all of it or none"


@pytest.fixture
def run(make_run: MakeRun) -> RunFolder:
    """A run with a file that is uploaded in parts."""
    return make_run("spectrogram")


def said(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Push, and return the exit code and the last line on stderr; no trace may be shown."""
    code = main(["push", str(run.path), "someone/mine"])
    told = capsys.readouterr().err
    assert "Traceback" not in told
    return code, told.strip().splitlines()[-1] if told.strip() else ""


def finished(hub: Hub, run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    """Push once more, without faults: the repository is whole, in one commit."""
    hub.faults.clear()
    assert said(run, capsys)[0] == 0
    repository = hub.model("someone/mine")
    assert len(repository.commits) == 2
    weights = run.model / "model.safetensors"
    assert repository.files["model.safetensors"] == weights.read_bytes()
    assert repository.files["metrics.json"] == run.metrics_file.read_bytes()


def untouched(hub: Hub) -> bool:
    found = hub.repositories.get(("model", "someone/mine"))
    return found is None or found.files == {}


def test_a_connection_dropped_in_the_middle_of_a_large_file(
    hub: Hub, run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.fail("PUT /store/[0-9a-f]+/2", after_bytes=150_000)
    code, told = said(run, capsys)
    assert code == 1
    assert re.search(rf"the connection to {hub.url} broke \(.+\): push again; {AGAIN}", told), told
    assert hub.count("PUT /store/[0-9a-f]+/2") == 6, "it is tried again before it is given up"
    assert untouched(hub)
    assert hub.count("PUT /store/[0-9a-f]+$")
    finished(hub, run, capsys)
    whole = [request for request in hub.requests if re.search("PUT /store/[0-9a-f]+$", request)]
    assert len(whole) == len(set(whole)), "what had arrived was sent again"


def test_a_connection_dropped_once_is_not_even_noticed(
    hub: Hub, run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.fail("PUT /store/[0-9a-f]+/2", times=2, after_bytes=150_000)
    finished_at_once = said(run, capsys)[0]
    assert finished_at_once == 0
    assert hub.model("someone/mine").files["model.safetensors"] == (run.model / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("status", "fits", "message", "code", "text"),
    [
        (401, "GET /api/whoami", "", 2, "does not take the token: log in anew"),
        (403, "POST /api/repos/create", "no write scope", 2, "someone/mine: this token may not write there (no write"),
        (403, "POST .*/commit/", "no write scope", 2, "someone/mine: this token may not write there (no write scope)"),
        (409, "POST .*/commit/", "", 2, "someone/mine: was changed by someone else at the same time: look at it"),
        (500, "GET /api/models/someone/mine$", "", 1, "answered 500: push again later; "),
        (500, "POST .*/objects/batch", "", 1, "answered 500: push again later; "),
        (503, "PUT /store/", "", 1, "answered 503: push again later; "),
        (500, "POST .*/commit/", "", 1, "answered 500: push again later; "),
        (429, "POST .*/preupload/", "slow down", 1, "answered 429 (slow down): push again later; "),
        (413, "POST .*/commit/", "too much", 2, "the Hub refuses it, with 413 (too much)"),
    ],
)
def test_what_the_hub_answers_is_said_in_one_line(
    hub: Hub,
    run: RunFolder,
    capsys: pytest.CaptureFixture[str],
    status: int,
    fits: str,
    message: str,
    code: int,
    text: str,
) -> None:
    hub.fail(fits, status=status, message=message)
    found, told = said(run, capsys)
    assert found == code
    assert text in told
    assert untouched(hub)
    finished(hub, run, capsys)


def test_a_hub_that_says_nothing_is_given_up(
    hub: Hub, run: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "SILENCE", 0.3)
    hub.fail("POST .*/commit/", seconds=1.0, times=1, status=504)
    code, told = said(run, capsys)
    assert code == 1
    assert "ReadTimeout" in told
    finished(hub, run, capsys)


def test_a_slow_hub_is_waited_for(hub: Hub, run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    hub.fail("(PUT|POST) ", seconds=0.05)
    assert said(run, capsys)[0] == 0
    assert hub.model("someone/mine").files["metrics.json"] == run.metrics_file.read_bytes()


def test_files_are_sent_without_xet_where_that_is_installed(
    hub: Hub, run: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails with what is no error of the network, and waits as long as it likes."""
    from huggingface_hub import _commit_api, constants
    from huggingface_hub.utils import _runtime

    def broken(**_: object) -> None:
        raise RuntimeError("Data processing error: CAS service error")

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    monkeypatch.setattr(_runtime, "is_package_available", lambda _: True)
    monkeypatch.setattr(_commit_api, "_upload_xet_files", broken)
    assert _runtime.is_xet_available(), "xet would not be used anyway: nothing is tested"
    finished(hub, run, capsys)
    assert _runtime.is_xet_available(), "it is switched off for others, too"


def test_no_hub_at_all(
    hub: Hub, run: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    code, told = said(run, capsys)
    assert code == 1
    assert "the connection to http://127.0.0.1:9 broke (ConnectError" in told


def test_someone_else_at_the_same_time(
    hub: Hub, run: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit between our look at the repository and ours is not written over."""
    from huggingface_hub import HfApi

    commit = HfApi.create_commit

    def late(self: HfApi, *given: object, **options: object) -> object:
        hub.model("someone/mine").commit("theirs", {})
        return commit(self, *given, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(HfApi, "create_commit", late)
    code, told = said(run, capsys)
    assert code == 2
    assert "was changed by someone else at the same time" in told
    assert hub.model("someone/mine").commits[-1][1] == "theirs"
