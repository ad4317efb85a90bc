"""Outputs are complete or as they were before, whatever ends the process; a full disk is named in one line."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ser_ft.utils import atomic
from ser_ft.utils.atomic import recover, temporary_folder, write_atomically, write_file
from ser_ft.utils.errors import run_command

unix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither flock nor mounts")


def write_folder(folder: Path, text: str, names: tuple[str, ...] = ("a.txt", "sub/b.txt")) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def contents(folder: Path) -> dict[str, str]:
    """Return path -> text of all files below a folder, hidden ones too."""
    return {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), MemoryError()])
@pytest.mark.parametrize("kind", ["file", "folder", "new file"])
def test_an_error_while_writing_leaves_the_earlier_output_and_nothing_else(
    tmp_path: Path, kind: str, error: BaseException
) -> None:
    output = tmp_path / "output.json"
    if kind == "file":
        output.write_text("earlier")
    elif kind == "folder":
        write_folder(output, "earlier")
    before = contents(tmp_path)

    def write() -> None:
        with write_atomically(output) as partial:
            write_folder(partial, "half") if kind == "folder" else partial.write_text("half")
            raise error

    with pytest.raises(type(error)):
        write()
    assert contents(tmp_path) == before


KILLED = """
import os, signal, sys
from pathlib import Path
from ser_ft.utils import atomic

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

moment, output = sys.argv[1], Path(sys.argv[2])
if moment == "before":
    atomic._sync = die
elif moment == "between":
    atomic._exchange = lambda *_: False
    replace, calls = os.replace, []
    os.replace = lambda *paths: die() if calls else (calls.append(1), replace(*paths))
else:
    atomic._remove = lambda path, remove=atomic._remove: die() if (path / "a.txt").exists() else remove(path)
with atomic.write_atomically(output) as partial:
    (partial / "sub").mkdir(parents=True)
    (partial / "a.txt").write_text("new")
    (partial / "sub" / "b.txt").write_text("new")
"""


@unix
@pytest.mark.parametrize(("moment", "kept"), [("before", "earlier"), ("between", "earlier"), ("after", "new")])
def test_a_killed_process_leaves_a_whole_folder_and_the_next_one_cleans_up(
    tmp_path: Path, moment: str, kept: str
) -> None:
    output = tmp_path / "output"
    write_folder(output, "earlier")
    result = subprocess.run([sys.executable, "-c", KILLED, moment, str(output)], check=False)
    assert result.returncode == -9
    recover(output)
    assert contents(tmp_path) == {"output/a.txt": kept, "output/sub/b.txt": kept}
    with write_atomically(output) as partial:
        write_folder(partial, "last")
    assert contents(tmp_path) == {"output/a.txt": "last", "output/sub/b.txt": "last"}


def test_the_leftovers_of_a_killed_run_below_its_folder_are_removed_and_other_files_kept(tmp_path: Path) -> None:
    kept = {"metrics.json": "1", ".sweep.lock": "", "checkpoints/best/w": "1", ".hidden": "mine", "notes.partial": "1"}
    left = {".metrics.partial.json": "{", "checkpoints/.step-1.partial/w": "x", "figures/.a.partial.png": "x"}
    for name, text in (kept | left).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    recover(tmp_path)
    assert contents(tmp_path) == kept


def test_the_content_of_a_mounted_folder_is_replaced_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "disk", "earlier", ("a.txt", "old.txt", "sub/old.txt"))
    number = (tmp_path / "disk").stat().st_ino
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name == "disk")
    with write_atomically(tmp_path / "disk") as partial:
        write_folder(partial, "new")
        assert partial.parent == tmp_path / "disk", "another folder is on another disk"
    assert contents(tmp_path) == {"disk/a.txt": "new", "disk/sub/b.txt": "new"}
    assert (tmp_path / "disk").stat().st_ino == number


def test_a_link_keeps_pointing_to_the_file_that_is_replaced_and_its_mode_stays(tmp_path: Path) -> None:
    (tmp_path / "real.txt").write_text("earlier")
    (tmp_path / "real.txt").chmod(0o600)
    (tmp_path / "link.txt").symlink_to("real.txt")
    write_file(tmp_path / "link.txt", "new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"
    assert (tmp_path / "real.txt").stat().st_mode & 0o777 == 0o600


def _fail(error: Exception) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
    ids=["disk", "quota", "library"],
)
def test_a_full_disk_is_told_in_one_line_with_the_output_and_leaves_the_earlier_one(
    tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "metrics.json").write_text("earlier")
    monkeypatch.setattr(Path, "write_bytes", _fail(error))
    assert run_command(lambda: write_file(tmp_path / "metrics.json", "new") and None) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert "the disk is full" in lines[0]
    assert str(tmp_path / "metrics.json") in lines[0]
    assert contents(tmp_path) == {"metrics.json": "earlier"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(folder)]
    if (
        sys.platform != "linux"
        or os.getuid() != 0
        or subprocess.run(mount, capture_output=True, check=False).returncode
    ):
        pytest.skip("a file system can only be mounted by root on Linux")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _write_weights(path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    path.mkdir()
    save_file({"w": torch.ones(10**5)}, path / "weights.safetensors")


def _write_array(path: Path) -> None:
    import numpy as np

    with path.open("wb") as file:
        np.save(file, np.ones(10**5))


def _write_state(path: Path) -> None:
    import torch

    torch.save({"w": torch.ones(10**5)}, path)


def _write_table(path: Path) -> None:
    import numpy as np
    import pandas as pd

    pd.DataFrame({"a": np.random.default_rng(0).random(10**5)}).to_parquet(path)


@pytest.mark.parametrize("write", [_write_weights, _write_array, _write_state, _write_table])
def test_whatever_library_meets_the_full_disk_the_line_names_it(
    small_disk: Path, write: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    (small_disk / "earlier.txt").write_text("earlier")

    def work() -> None:
        with write_atomically(small_disk / "output") as partial:
            write(partial)

    assert run_command(work) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert "the disk is full" in lines[0]
    assert str(small_disk) in lines[0]
    assert contents(small_disk) == {"earlier.txt": "earlier"}


@unix
def test_temporary_files_of_a_killed_process_are_deleted_by_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import pathlib, sys, time; from ser_ft.utils.atomic import make_temp_dir\n"
        "print(make_temp_dir(pathlib.Path(sys.argv[1])), flush=True); time.sleep(60)"
    )
    monkeypatch.setattr(atomic.tempfile, "tempdir", str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        abandoned = Path(process.stdout.readline().strip())
        foreign = tmp_path / "ser_ft-of-something-else"
        foreign.mkdir()
        with temporary_folder() as own:
            assert abandoned.is_dir(), "its process is running"
            process.kill()
            process.wait()
            with temporary_folder():
                pass
            assert own.is_dir()
    assert list(tmp_path.iterdir()) == [foreign], "its owner is unknown"


@unix
def test_a_claim_that_was_not_finished_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "ser_ft-0.claim").touch()
    atomic.release_folder(atomic.make_temp_dir(tmp_path))
    assert not list(tmp_path.iterdir())
