"""Failures of the Hub: the message for the user, and that a second push completes the upload."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable

import pytest
from safetensors.torch import load_file, save_file

from ser_ft.cli import main
from ser_ft.evaluation.run_folder import RunFolder
from ser_ft.hub import client
from tests.helpers.hub_server import Hub

Push = Callable[[], tuple[int, str]]


@pytest.fixture(scope="module")
def run(make_run: Callable[[str], RunFolder], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run with a file that is uploaded in parts. Tests must not change it."""
    copy = shutil.copytree(make_run("mfcc-cnn").path, tmp_path_factory.mktemp("large") / "run")
    weights = copy / "model" / "model.safetensors"
    save_file(load_file(weights), weights, {"format": "pt", "padding": " " * 1_200_000})
    return RunFolder(copy)


@pytest.fixture
def push(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> Push:
    """Push the run, and return the exit code and the last line on stderr."""

    def push_run() -> tuple[int, str]:
        code = main(["push", str(run.path), "someone/mine"])
        errors = capsys.readouterr().err.strip()
        assert "Traceback" not in errors
        return code, errors.splitlines()[-1] if errors else ""

    return push_run


def check_second_push(hub: Hub, run: RunFolder, push: Push) -> None:
    """Push again without faults: the repository is complete after one commit."""
    hub.faults.clear()
    assert push()[0] == 0
    repository = hub.model("someone/mine")
    assert len(repository.commits) == 2
    assert repository.files["model.safetensors"] == (run.model / "model.safetensors").read_bytes()
    assert repository.files["metrics.json"] == run.metrics_file.read_bytes()


def is_untouched(hub: Hub) -> bool:
    repository = hub.repositories.get(("model", "someone/mine"))
    return repository is None or repository.files == {}


def test_a_lost_connection_leaves_nothing_and_arrived_files_are_not_sent_again(
    hub: Hub, run: RunFolder, push: Push
) -> None:
    hub.fail("PUT /store/[0-9a-f]+/2", after_bytes=150_000)
    code, error = push()
    assert code == 1
    message = rf"the connection to {hub.url} failed \(.+\): push again; files that arrived are not sent again"
    assert re.search(message, error), error
    assert hub.count("PUT /store/[0-9a-f]+/2") == 6, "the client retries"
    assert is_untouched(hub)
    assert hub.count("PUT /store/[0-9a-f]+$")
    check_second_push(hub, run, push)
    sent = [request for request in hub.requests if re.search("PUT /store/[0-9a-f]+$", request)]
    assert len(sent) == len(set(sent))


def test_a_connection_lost_twice_is_retried(hub: Hub, run: RunFolder, push: Push) -> None:
    hub.fail("PUT /store/[0-9a-f]+/2", times=2, after_bytes=150_000)
    assert push()[0] == 0
    assert hub.model("someone/mine").files["model.safetensors"] == (run.model / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("status", "pattern", "message", "code", "text"),
    [
        (401, "GET /api/whoami", "", 2, "rejects the token: log in again"),
        (403, "POST /api/repos/create", "no write scope", 2, "someone/mine: this token has no write access (no write"),
        (403, "POST .*/commit/", "no write scope", 2, "someone/mine: this token has no write access (no write scope)"),
        (409, "POST .*/commit/", "", 2, "someone/mine: was changed by someone else at the same time: check it"),
        (500, "GET /api/models/someone/mine$", "", 1, "answered 500: push again later; "),
        (500, "POST .*/objects/batch", "", 1, "answered 500: push again later; "),
        (503, "PUT /store/", "", 1, "answered 503: push again later; "),
        (500, "POST .*/commit/", "", 1, "answered 500: push again later; "),
        (429, "POST .*/preupload/", "slow down", 1, "answered 429 (slow down): push again later; "),
        (413, "POST .*/commit/", "too much", 2, "the Hub refuses the request with status 413 (too much)"),
    ],
)
def test_an_error_status_gives_one_line_and_the_next_push_succeeds(
    hub: Hub, run: RunFolder, push: Push, status: int, pattern: str, message: str, code: int, text: str
) -> None:
    hub.fail(pattern, status=status, message=message)
    exit_code, error = push()
    assert exit_code == code
    assert text in error
    assert is_untouched(hub)
    check_second_push(hub, run, push)


def test_a_hub_that_does_not_answer_times_out(
    hub: Hub, run: RunFolder, push: Push, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "TIMEOUT", 0.3)
    hub.fail("POST .*/commit/", seconds=1.0, times=1, status=504)
    code, error = push()
    assert code == 1
    assert "ReadTimeout" in error
    check_second_push(hub, run, push)


def test_an_installed_xet_is_not_used(hub: Hub, run: RunFolder, push: Push, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its failures are not network errors, and it has no timeout."""
    from huggingface_hub import _commit_api, constants
    from huggingface_hub.utils import _runtime

    def fail(**_: object) -> None:
        raise RuntimeError("Data processing error: CAS service error")

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    monkeypatch.setattr(_runtime, "is_package_available", lambda _: True)
    monkeypatch.setattr(_commit_api, "_upload_xet_files", fail)
    assert _runtime.is_xet_available(), "otherwise nothing is tested"
    check_second_push(hub, run, push)
    assert _runtime.is_xet_available(), "it must stay enabled for other code"


@pytest.mark.usefixtures("hub")
def test_an_unreachable_hub_gives_one_line(push: Push, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    code, error = push()
    assert code == 1
    assert "the connection to http://127.0.0.1:9 failed (ConnectError" in error


def test_a_commit_of_someone_else_is_not_overwritten(hub: Hub, push: Push, monkeypatch: pytest.MonkeyPatch) -> None:
    """Someone commits after our check of the repository and before our commit."""
    from huggingface_hub import HfApi

    create_commit = HfApi.create_commit

    def commit_after_another(self: HfApi, *args: object, **options: object) -> object:
        hub.model("someone/mine").commit("theirs", {})
        return create_commit(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(HfApi, "create_commit", commit_after_another)
    code, error = push()
    assert code == 2
    assert "was changed by someone else at the same time" in error
    assert hub.model("someone/mine").commits[-1][1] == "theirs"
