"""`ser-ft demo`, from its options to its end, and demo/ as a Space."""

import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml

from ser_ft.cli import main
from ser_ft.cli.demo import Options, read_options
from ser_ft.utils.files import MODEL_FILE, demo_folder

ROOT = Path(__file__).parents[2]


def test_options_are_read() -> None:
    assert read_options([]) == Options()
    options = read_options(["--model", "runs/a", "--compare", "b.onnx", "--compare", "c", "--port", "80"])
    assert options == Options("runs/a", ("b.onnx", "c"), port=80)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--key", "k.pem"], "https needs both"),
        (["--key", "k.pem", "--certificate", "c.pem"], "c.pem: no such file"),
        (["--port", "99999"], "--port must be a number from 1 to 65535"),
        (["--share"], "unrecognized arguments"),
    ],
)
def test_wrong_options_are_reported_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_without_gradio_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['gradio'] = None; from ser_ft.cli import main; sys.exit(main(['demo']))"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert process.returncode == 2
    assert process.stderr == 'ser-ft: the page needs gradio: pip install "gradio>=6.31,<7"\n'


def test_a_missing_model_or_unusable_address_is_reported_in_one_line_at_once(
    demo: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    for file in (certificate, key):
        file.write_text("not a certificate")
    started = time.monotonic()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = str(listener.getsockname()[1])
        for arguments, message in (
            (["--model", "nowhere.onnx"], "nowhere.onnx"),
            (["--certificate", str(certificate), "--key", str(key)], "c.pem and"),
            (["--port", port], f"port {port} of 127.0.0.1 is in use"),
            (["--port", port, "--host", "0.0.0.0"], f"port {port} of 0.0.0.0 is in use"),
            (["--host", "nowhere.invalid"], "cannot serve the page at nowhere.invalid"),
            (["--host", "192.0.2.1"], "cannot serve the page at 192.0.2.1"),
        ):
            assert main(["demo", *arguments]) == 2
            error = capsys.readouterr().err
            assert message in error
            assert error.count("\n") == 1
    assert time.monotonic() - started < 30, "without waiting for gradio"


def test_the_wheel_contains_the_page() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["force-include"]["demo"] == "ser_ft/demo", "demo_folder looks here first"
    assert (demo_folder() / "app.py").is_file()


def test_the_folder_is_a_space() -> None:
    head = yaml.safe_load((ROOT / "demo" / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert head["sdk"] == "gradio"
    assert (ROOT / "demo" / head["app_file"]).is_file()
    assert len(head["short_description"]) <= 60
    (requirement,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["demo"]
    assert requirement == f"gradio>={'.'.join(head['sdk_version'].split('.')[:2])},<7"
    assert "ser_ft[demo]" in (ROOT / "demo" / "requirements.txt").read_text()


def test_a_space_opens_the_model_named_in_model_txt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(demo_folder() / "app.py", tmp_path)
    (tmp_path / MODEL_FILE).write_text("someone/mine\n")
    served: list[Options] = []
    page = ModuleType("ser_ft_demo")
    page.server = SimpleNamespace(serve=served.append)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ser_ft_demo", page)
    start = runpy.run_path(str(tmp_path / "app.py"))["main"]
    assert start([]) == start(["--model", "someone/other"]) == 0
    assert [options.model for options in served] == ["someone/mine", "someone/other"]


@pytest.mark.slow
def test_the_page_starts_without_a_network_and_deletes_its_files(demo: Any, tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    network = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9") | {"no_proxy": "127.0.0.1"}
    environment = os.environ | network | {"TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "ser_ft.cli", "demo", "--port", str(port)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as page:
        assert page.stdout is not None
        line = page.stdout.readline()
        assert f"http://127.0.0.1:{port}/" in line, page.stderr.read() if page.stderr else ""
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20) as response:
            assert response.status == 200
        time.sleep(0.2)
        page.send_signal(signal.SIGTERM)
        _, error = page.communicate(timeout=30)
    assert page.returncode == 130
    assert error == "ser-ft: interrupted\n"
    assert not list(tmp_path.glob("ser_ft-demo-*")), "its files are deleted"
