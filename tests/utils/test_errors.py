"""Failures of the machine: they end a command with code 1, and no file is blamed for them."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile

from ser_ft import audio
from ser_ft.cli import main
from ser_ft.utils.errors import InputError, machine_failure, run_command
from ser_ft.utils.progress import progress_bar
from tests.helpers.corpus_files import write


def system_error(number: int) -> OSError:
    return OSError(number, os.strerror(number), "clip.wav")


def raised_from(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


FAILURES: dict[str, Callable[[], Exception]] = {
    "memory": lambda: MemoryError("Unable to allocate 4.00 MiB"),
    "open files": lambda: system_error(errno.EMFILE),
    "disk": lambda: system_error(errno.EIO),
    "disk space": lambda: system_error(errno.ENOSPC),
    "PyTorch": lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 5 bytes"),
    "threads": lambda: RuntimeError("can't start new thread"),
    "behind wrong input": lambda: raised_from(InputError("damaged table; delete it"), system_error(errno.ENFILE)),
}
OTHERS: dict[str, Callable[[], Exception]] = {
    "missing": lambda: system_error(errno.ENOENT),
    "not permitted": lambda: system_error(errno.EACCES),
    "decoder": lambda: soundfile.LibsndfileError(17),
    "wrong input": lambda: InputError("out of memory.wav: no such file"),
    "bug": lambda: RuntimeError("shapes do not fit"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_of_the_machine_ends_a_command_with_code_1(failure: str, capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> int:
        raise FAILURES[failure]()

    assert run_command(work) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ser-ft: failed: ")
    assert "delete it" not in line


@pytest.mark.parametrize("error", OTHERS)
def test_the_fault_of_a_file_is_no_failure_of_the_machine(error: str) -> None:
    assert machine_failure(OTHERS[error]()) is None


def test_a_decoder_without_memory_is_a_failure_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise system_error(errno.ENOMEM)

    monkeypatch.setattr("mmap.mmap", fail)
    error = raised_from(audio.AudioError("unreadable", "clip.wav: unknown format"), soundfile.LibsndfileError(2))
    assert machine_failure(error) is error.__cause__


@pytest.mark.parametrize("failure", ["memory", "open files", "disk"])
@pytest.mark.parametrize("command", ["prepare", "explore", "predict", "monitor"])
def test_no_clip_is_skipped_because_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, failure: str
) -> None:
    root = write(tmp_path / "mine", [f"{emotion}/{number}.wav" for emotion in ("sad", "happy") for number in range(3)])
    open_sound = soundfile.SoundFile
    count = 0

    def fail_for_the_third(*args: Any, **options: Any) -> soundfile.SoundFile:
        nonlocal count
        count += 1
        if count == 3:
            raise FAILURES[failure]()
        return open_sound(*args, **options)

    monkeypatch.setattr(soundfile, "SoundFile", fail_for_the_third)
    out = tmp_path / "out"
    arguments = [str(root), "--out", str(out if command != "predict" else out.with_suffix(".csv"))]
    assert main([command, *arguments]) == 1
    assert "failed: " in capsys.readouterr().err.splitlines()[-1]
    assert not (out / "skipped.csv").exists()
    if command != "prepare":
        return
    assert main([command, *arguments]) == 0
    assert "6" in capsys.readouterr().out.split("mine", 1)[1].split()[0]


def test_an_error_under_a_progress_bar_is_on_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        for item in progress_bar(range(3)):
            if item:
                raise InputError("wrong")

    assert run_command(work) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "ser-ft: wrong"
