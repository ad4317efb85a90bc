"""The Ray recipe: the predictions of `ser-ft predict`, from several workers, one of which dies."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
import zipfile
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from pyarrow.dataset import dataset

from ser_ft import audio
from ser_ft.audio.discovery import SOUND_SUFFIXES
from ser_ft.cli import main
from ser_ft.export.onnx import export_onnx
from ser_ft.models.registry import build_model
from ser_ft.utils.errors import InputError

RECIPE = Path(__file__).parents[2] / "recipes" / "predict_ray.py"
CLASSES = ("neutral", "happy", "sad")

pytest.importorskip("onnx", reason="onnx is not installed: pip install onnx")
pytest.importorskip("ray", reason='Ray is not installed: pip install "ray[data]"')
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    extractor, network = build_model("plain-cnn", CLASSES, {"normalize": "clip"}, {"channels": [8]})
    for part in (extractor, network):
        part.save_pretrained(folder)
    return export_onnx(folder, folder / "model.onnx", verbose=False).path


@pytest.fixture(scope="module")
def archive(miniature_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 61 clips, one of which is a link, three unreadable files, and files that are ignored."""
    folder = tmp_path_factory.mktemp("archive")
    for index, file in enumerate(sorted(miniature_tree.rglob("*.wav"))[:59]):
        (folder / f"{index % 3}").mkdir(exist_ok=True)
        # Long enough that a worker can be killed in the middle of its work.
        clip = audio.to_wav(np.resize(audio.decode(file), 8 * audio.SAMPLE_RATE))
        (folder / f"{index % 3}" / f"{index}.wav").write_bytes(clip)
    (folder / "_name.wav").write_bytes(clip)
    (folder / "1" / ".hidden.wav").write_bytes(clip)
    (folder / "2" / "loop").symlink_to("..")
    (folder / "nowhere.wav").symlink_to("gone.wav")
    (folder / "linked.wav").symlink_to(folder / "0" / "0.wav")
    (folder / "empty.wav").touch()
    (folder / "silent.wav").write_bytes(audio.to_wav(np.zeros(16_000)))
    return folder


@pytest.fixture(scope="module")
def expected(archive: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The predictions of `ser-ft predict`, by path."""
    out = tmp_path_factory.mktemp("answers") / "answers.jsonl"
    assert main(["predict", str(archive), "--model", str(model), "--out", str(out)]) == 1
    return {row["path"]: row for row in map(json.loads, out.read_text().splitlines())}


def run(*arguments: str | Path) -> None:
    with start(*arguments) as process:
        _, stderr = process.communicate()
    assert process.returncode == 0, stderr[-2000:]


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, str(RECIPE), *map(str, arguments)]
    # Ray's workers have a low priority by default, below that of other tests.
    environment = os.environ | {"RAY_worker_niceness": "0"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    processes = []
    # Some end in the meantime.
    with suppress(psutil.Error):
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.Error):
                processes += [child] if "Recognizer" in " ".join(child.cmdline()) else []
    return processes


def rows(folder: Path) -> list[dict[str, Any]]:
    actual: list[dict[str, Any]] = dataset(folder, format="parquet").to_table().to_pylist()
    return actual


def agrees(row: dict[str, Any], prediction: dict[str, Any]) -> bool:
    if "error" in prediction:
        return row["error"] == prediction["error"] and row["emotion"] is None
    difference = max(abs(row[name] - prediction["scores"][name]) for name in CLASSES)
    return difference < 2e-5 and row["error"] is None and row["uncertain"] == prediction["uncertain"]


def test_each_file_gets_one_row_even_if_a_worker_dies(
    archive: Path, model: Path, expected: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    # One source lies within the other.
    with start(archive, archive / "0", "--out", out, "--model", model, "--workers", "2") as process:
        killed = None
        while process.poll() is None and killed is None:
            # Both have finished their first batch by then, and more remain.
            for worker in workers(process)[:1] if list(out.glob("*.parquet")) else []:
                killed = worker.pid
                worker.kill()
            time.sleep(0.01)
        message, stderr = process.communicate()
    assert process.returncode == 0, stderr[-2000:]
    assert killed is not None
    assert f"64 clips: {out}" in message.splitlines()
    actual = {row["path"]: row for row in rows(out)}
    assert len(rows(out)) == len(actual) == 64
    assert actual.keys() == expected.keys()
    assert [path for path, row in actual.items() if not agrees(row, expected[path])] == []


def test_files_in_another_store_are_predicted(
    archive: Path, model: Path, expected: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    files = ["0/0.wav", "_name.wav", "empty.wav"]
    with zipfile.ZipFile(tmp_path / "calls.zip", "w") as packed:
        for name in files:
            packed.write(archive / name, f"calls/{name}")
    out = tmp_path / "out"
    run(f"zip://calls::{tmp_path}/calls.zip", "--out", out, "--model", model)
    actual = {row["path"]: row for row in rows(out)}
    assert sorted(actual) == [f"calls/{name}" for name in files]
    assert all(agrees(actual[f"calls/{name}"], expected[str(archive / name)]) for name in files)


def test_tables_are_read_by_column(
    archive: Path, model: Path, expected: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    files = sorted(archive.rglob("*.wav"))[:5]
    sounds = [{"bytes": file.read_bytes(), "path": str(file)} for file in files]
    parquet.write_table(pa.table({"audio": [*sounds, {"bytes": None, "path": "none.wav"}]}), tmp_path / "a.parquet")
    out = tmp_path / "out"
    run(tmp_path / "a.parquet", "--column", "audio", "--out", out, "--model", model)
    actual = {row["path"]: row for row in rows(out)}
    assert actual.pop("none.wav")["error"] == "no bytes in this row"
    assert all(agrees(row, expected[path]) for path, row in actual.items())
    assert len(actual) == 5


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("predict_ray", RECIPE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_other_stores_are_listed_by_the_same_rules(recipe: ModuleType) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    store = MemoryFileSystem()
    for name in ("1.wav", "_2.MP3", "a/.hidden.wav", ".cache/3.wav", "notes.txt", "a/4.flac", "named"):
        store.pipe_file(f"/ray/{name}", name.encode())
    try:
        recipe_store, actual = recipe._list_files(
            ["memory://ray", "memory://ray/1.wav", "memory://ray/named"], SOUND_SUFFIXES
        )
        assert [item.path for item in actual] == ["/ray/1.wav", "/ray/_2.MP3", "/ray/a/4.flac", "/ray/named"]
        # One file disappears in the meantime.
        store.rm_file("/ray/_2.MP3")
        (listed,) = recipe._file_tables(actual, 32)
        items = list(recipe._files(recipe.Reader(recipe_store)(listed)))
        assert [item.content for item in items] == [b"1.wav", b"", b"a/4.flac", b"named"]
        assert [(item.error or "").split(" (")[0] for item in items] == ["", "cannot be read", "", ""]
        with pytest.raises(InputError, match="no Parquet files there"):
            recipe._list_files(["memory://ray"], (".parquet",))
    finally:
        store.rm("/ray", recursive=True)


def test_text_in_a_column_opens_no_files(recipe: ModuleType, archive: Path) -> None:
    """Also in later tables, whose columns differ from those of the first."""
    row = {"bytes": str(archive / "_name.wav"), "path": 7}
    (item,) = recipe._cells(pa.table({"audio": [row]}), "audio")
    assert (item.path, item.content, item.error) == ("7", b"", "no bytes in this row")


def test_wrong_input_is_one_line(
    recipe: ModuleType, archive: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    (tmp_path / "none.parquet").touch()
    (tmp_path / "nothing").mkdir()
    texts, table = [str(archive / "_name.wav")], tmp_path / "table.parquet"
    parquet.write_table(pa.table({"text": texts, "within": [{"bytes": texts[0]}]}), table)
    new = ("--out", tmp_path / "new")
    for arguments, message in (
        ((archive, "--out", tmp_path / "out"), "already exists; choose another --out"),
        ((tmp_path / "none", *new), "does not exist"),
        ((tmp_path / "nothing", *new), "nothing: no sound files there"),
        ((tmp_path / "nothing", *new, "--column", "text"), "nothing: no Parquet files there"),
        ((table, *new, "--column", "audio"), "has no column 'audio', but text, within"),
        ((table, *new, "--column", "text"), "column 'text' holds string, not the bytes"),
        ((table, *new, "--column", "within"), "column 'within' holds string, not the bytes"),
        ((tmp_path / "none.parquet", *new, "--column", "text"), "none.parquet: not a Parquet file"),
        ((archive, *new, "--workers", "0"), "--workers must be 1 or more, not 0"),
        ((archive, *new, "--model", tmp_path), "contains neither a run nor a saved classifier"),
    ):
        assert recipe.main(list(map(str, arguments))) == 2
        stderr = capsys.readouterr().err
        assert message in stderr
        assert len(stderr.splitlines()) == 1
    assert os.listdir(tmp_path / "out") == ["mine"]
