"""Locks: two commands never write one output at once."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ser_ft.cli import main
from ser_ft.cli.training import pretrain
from ser_ft.utils.errors import InputError
from ser_ft.utils.files import output_lock

HOLD = """
import sys, time
from ser_ft.utils.files import output_lock
with output_lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""
COMMANDS = {
    "predict": ["IN", "--resume", "--out", "OUT.csv"],
    "monitor": ["IN", "--out", "OUT"],
    "prepare": ["IN", "--out", "OUT"],
    "train": ["--data.prepared", "IN", "--out", "OUT"],
    "quickstart": ["--out", "OUT"],
    "sweep": ["IN", "--out", "OUT"],
    "probe": ["IN", "--data", "IN", "--figure", "OUT.png"],
    "evaluate": ["shipped", "--data", "IN", "--out", "OUT"],
    "fuse": ["IN", "IN", "--out", "OUT"],
    "explore": ["IN", "--out", "OUT"],
    "push": ["IN", "user/name", "--out", "OUT"],
    "recipes/pretrain.py": ["--data.prepared", "IN", "--out", "OUT"],
}


@contextmanager
def held_by_another_process(output: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLD, str(output)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@contextmanager
def held_by_another_thread(output: Path) -> Iterator[None]:
    is_held, is_over = threading.Event(), threading.Event()

    def hold() -> None:
        with output_lock(output):
            is_held.set()
            is_over.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    is_held.wait()
    yield
    is_over.set()
    thread.join()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_second_command_that_writes_the_same_output_is_refused(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("IN").mkdir()
    output = Path(COMMANDS[command][-1])
    with held_by_another_thread(output):
        words = COMMANDS[command]
        assert (pretrain(words) if command.endswith(".py") else main([command, *words])) == 2
    error = capsys.readouterr().err
    assert "another ser-ft command is writing here: wait until it ends" in error
    assert len(error.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["IN"], "neither the output nor a lock remains"


def test_a_killed_process_leaves_no_lock_and_the_next_one_no_file(tmp_path: Path) -> None:
    output = tmp_path / "deep" / "run"
    with held_by_another_process(output) as process:
        with pytest.raises(InputError, match=r"deep/run: another ser-ft command"), output_lock(output):
            pass
        process.kill()
        process.wait()
        with output_lock(output), output_lock(str(output)):
            output.touch()
    assert [path.name for path in output.parent.iterdir()] == ["run"]


def test_the_lock_is_one_for_all_names_of_an_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to("run")
    monkeypatch.chdir(tmp_path)
    with held_by_another_thread(Path("run")):
        for name in ("link", "./x/../run", tmp_path / "run"):
            with pytest.raises(InputError, match="another ser-ft command"), output_lock(name):
                pass
        with output_lock("other"):
            pass


def test_an_output_is_locked_where_only_the_folder_itself_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path)
    (tmp_path / "out").mkdir()
    with held_by_another_process(tmp_path / "other"), output_lock(tmp_path / "out"):
        assert [file.name for file in (tmp_path / "out").iterdir()] == [".lock"]
    assert not list((tmp_path / "out").iterdir())
