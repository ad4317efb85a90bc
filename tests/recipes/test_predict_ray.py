"""The archive's recipe: what `ser-ft predict` answers, from more than one worker, one of which dies."""

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
    for each in (extractor, network):
        each.save_pretrained(folder)
    return export_onnx(folder, folder / "model.onnx", verbose=False).path


@pytest.fixture(scope="module")
def archive(miniature_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 61 clips, one of them a link, of three that cannot be answered, and of what is passed over."""
    folder = tmp_path_factory.mktemp("archive")
    for place, file in enumerate(sorted(miniature_tree.rglob("*.wav"))[:59]):
        (folder / f"{place % 3}").mkdir(exist_ok=True)
        # Of 8 s, so that a worker can die amid its work.
        clip = audio.to_wav(np.resize(audio.decode(file), 8 * audio.SAMPLE_RATE))
        (folder / f"{place % 3}" / f"{place}.wav").write_bytes(clip)
    (folder / "_name.wav").write_bytes(clip)
    (folder / "1" / ".hidden.wav").write_bytes(clip)
    (folder / "2" / "loop").symlink_to("..")
    (folder / "nowhere.wav").symlink_to("gone.wav")
    (folder / "linked.wav").symlink_to(folder / "0" / "0.wav")
    (folder / "empty.wav").touch()
    (folder / "silent.wav").write_bytes(audio.to_wav(np.zeros(16_000)))
    return folder


@pytest.fixture(scope="module")
def wanted(archive: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What `ser-ft predict` answers, by path."""
    out = tmp_path_factory.mktemp("answers") / "answers.jsonl"
    assert main(["predict", str(archive), "--model", str(model), "--out", str(out)]) == 1
    return {row["path"]: row for row in map(json.loads, out.read_text().splitlines())}


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, str(RECIPE), *map(str, arguments)]
    # Ray lets its workers give way to everything else, such as other tests.
    environment = os.environ | {"RAY_worker_niceness": "0"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that recognise."""
    found = []
    # Some end while they are looked at.
    with suppress(psutil.Error):
        for one in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.Error):
                found += [one] if "Recognizer" in " ".join(one.cmdline()) else []
    return found


def rows(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = dataset(folder, format="parquet").to_table().to_pylist()
    return found


def same(row: dict[str, Any], answer: dict[str, Any]) -> bool:
    if "error" in answer:
        return row["error"] == answer["error"] and row["emotion"] is None
    apart = max(abs(row[name] - answer["scores"][name]) for name in CLASSES)
    return apart < 2e-5 and row["error"] is None and row["uncertain"] == answer["uncertain"]


def test_files_are_answered_once_though_a_worker_dies(
    archive: Path, model: Path, wanted: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    # One source lies within the other.
    with start(archive, archive / "0", "--out", out, "--model", model, "--workers", "2") as process:
        killed = None
        while process.poll() is None and killed is None:
            # By then both have had their first batch, and there are more.
            for one in workers(process)[:1] if list(out.glob("*.parquet")) else []:
                killed = one.pid
                one.kill()
            time.sleep(0.01)
        said, complained = process.communicate()
    assert process.returncode == 0, complained[-2000:]
    assert killed is not None
    assert f"64 clips: {out}" in said.splitlines()
    found = {row["path"]: row for row in rows(out)}
    assert len(rows(out)) == len(found) == 64
    assert found.keys() == wanted.keys()
    assert [path for path, row in found.items() if not same(row, wanted[path])] == []


def test_what_lies_in_another_store_is_answered(
    archive: Path, model: Path, wanted: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    files = ["0/0.wav", "_name.wav", "empty.wav"]
    with zipfile.ZipFile(tmp_path / "calls.zip", "w") as packed:
        for name in files:
            packed.write(archive / name, f"calls/{name}")
    out = tmp_path / "out"
    with start(f"zip://calls::{tmp_path}/calls.zip", "--out", out, "--model", model) as process:
        _, complained = process.communicate()
    assert process.returncode == 0, complained[-2000:]
    found = {row["path"]: row for row in rows(out)}
    assert sorted(found) == [f"calls/{name}" for name in files]
    assert all(same(found[f"calls/{name}"], wanted[str(archive / name)]) for name in files)


def test_tables_are_read_by_column(
    archive: Path, model: Path, wanted: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    files = sorted(archive.rglob("*.wav"))[:5]
    sounds = [{"bytes": file.read_bytes(), "path": str(file)} for file in files]
    parquet.write_table(pa.table({"audio": [*sounds, {"bytes": None, "path": "none.wav"}]}), tmp_path / "a.parquet")
    out = tmp_path / "out"
    with start(tmp_path / "a.parquet", "--column", "audio", "--out", out, "--model", model) as process:
        _, complained = process.communicate()
    assert process.returncode == 0, complained[-2000:]
    found = {row["path"]: row for row in rows(out)}
    assert found.pop("none.wav")["error"] == "no bytes in this row"
    assert all(same(row, wanted[path]) for path, row in found.items())
    assert len(found) == 5


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
        there, found = recipe._list_files(["memory://ray", "memory://ray/1.wav", "memory://ray/named"], SOUND_SUFFIXES)
        assert [one.path for one in found] == ["/ray/1.wav", "/ray/_2.MP3", "/ray/a/4.flac", "/ray/named"]
        # One goes away meanwhile.
        store.rm_file("/ray/_2.MP3")
        (listed,) = recipe._file_tables(found, 32)
        items = list(recipe._files(recipe.Reader(there)(listed)))
        assert [item.content for item in items] == [b"1.wav", b"", b"a/4.flac", b"named"]
        assert [(item.error or "").split(" (")[0] for item in items] == ["", "cannot be read", "", ""]
        with pytest.raises(InputError, match="no Parquet files there"):
            recipe._list_files(["memory://ray"], (".parquet",))
    finally:
        store.rm("/ray", recursive=True)


def test_text_in_a_column_opens_no_files(recipe: ModuleType, archive: Path) -> None:
    """Nor in tables that are not made as the first is."""
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
    for arguments, said in (
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
        complained = capsys.readouterr().err
        assert said in complained
        assert len(complained.splitlines()) == 1
    assert os.listdir(tmp_path / "out") == ["mine"]
