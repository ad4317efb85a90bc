"""Nothing leaves the machine: no telemetry, no connection, no name server; and nothing unexpected is left in HOME."""

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import datasets
import huggingface_hub.constants
import pytest

from ser_ft.cli import main
from tests.helpers.sound_files import encode, glide

_SWITCHES = {
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "RAY_USAGE_STATS_ENABLED": "0",
}
_ADDRESS = re.compile(r'sa_family=AF_INET6?, .*?"([0-9a-f.:]+)"')
_SESSION = """
import sys
from ser_ft.cli import main
clip, out = sys.argv[1:]
sys.exit(main(["predict", clip]) or main(["monitor", clip, "--out", out, "--format", "json"]))
"""


def without(names: str) -> dict[str, str]:
    """Return the environment without the variables whose names begin with these words."""
    return {name: value for name, value in os.environ.items() if not re.match(names, name)}


def write_clip(folder: Path) -> Path:
    (folder / "clip.wav").write_bytes(encode(glide()))
    return folder / "clip.wav"


def test_predict_and_monitor_leave_nothing_in_a_new_home_and_ask_no_other_machine(tmp_path: Path) -> None:
    clip, home, trace = write_clip(tmp_path), tmp_path / "home", tmp_path / "trace"
    home.mkdir()
    environment = without("HF_|SER_FT_|XDG_|ORT_") | {"HOME": str(home)}
    command = [sys.executable, "-c", _SESSION, str(clip), str(tmp_path / "report")]
    if shutil.which("strace"):
        command = ["strace", "-f", "-qq", "-e", "trace=connect,sendto,sendmsg", "-o", str(trace), *command]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert process.returncode == 0, process.stderr
    assert [path for path in home.rglob("*") if path.is_file()] == []
    if not trace.exists():
        pytest.skip("without strace only the home folder is checked: apt-get install strace")
    assert set(_ADDRESS.findall(trace.read_text(errors="replace"))) == set()


def test_commands_work_where_the_home_folder_cannot_be_written(tmp_path: Path) -> None:
    clip = write_clip(tmp_path)
    environment = without("HF_|SER_FT_|XDG_|ORT_") | {"HOME": "/dev/null"}
    command = [sys.executable, "-m", "ser_ft.cli", "predict", str(clip)]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (process.returncode, process.stderr) == (0, "")


def test_importing_ser_ft_switches_telemetry_off_but_keeps_what_the_user_has_set() -> None:
    code = f"import os, ser_ft; print([os.environ[name] for name in {tuple(_SWITCHES)}])"
    for own in ({}, {"ORT_DISABLE_TELEMETRY": "0"}):
        environment = without("|".join(_SWITCHES)) | own
        output = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        assert output.stdout.strip() == str(list((_SWITCHES | own).values()))


@pytest.fixture
def asked() -> Iterator[list[str]]:
    """The names and addresses that this process asks for, except those of this machine."""
    hosts: list[str] = []
    watched = {"on": True}

    def hook(event: str, arguments: tuple) -> None:
        if not watched["on"] or not event.startswith("socket."):
            return
        host = {"socket.getaddrinfo": 0, "socket.gethostbyname": 0, "socket.connect": 1, "socket.sendto": 1}.get(event)
        if host is not None:
            address = arguments[host]
            name = str(address[0] if isinstance(address, tuple) else address)
            if not name.startswith(("127.", "::1", "localhost", "/")):
                hosts.append(name)

    sys.addaudithook(hook)
    yield hosts
    watched["on"] = False


def test_training_evaluation_and_pages_ask_no_other_machine(
    asked: list[str], miniature_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (huggingface_hub.constants, datasets.config):
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", False)
    run, table = str(tmp_path / "run"), str(miniature_folder)
    settings = ["--model.name", "conv1d", "--train.max_steps", "1", "--baselines", "[]"]
    assert main(["train", "--data.prepared", table, *settings, "--out", run]) == 0
    evaluated = ["--data", table, "--out", str(tmp_path / "evaluated"), "--include-seen-speakers"]
    assert main(["evaluate", run, *evaluated]) == 0
    assert main(["push", run, "someone/name", "--dry-run"]) == 0
    assert asked == []
    with suppress(OSError):
        socket.create_connection(("192.0.2.1", 9), timeout=0.01)
    assert "192.0.2.1" in asked, "the hook sees connections"
