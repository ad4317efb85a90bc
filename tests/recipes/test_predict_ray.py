"""The archive's recipe: what `ser-ft predict` answers, from more than one worker, one of which dies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from pyarrow.dataset import dataset

from ser_ft import audio
from ser_ft.cli import main
from ser_ft.models.registry import build
from ser_ft.recognition.export import export

RECIPE = Path(__file__).parents[2] / "recipes" / "predict_ray.py"
CLASSES = ("neutral", "happy", "sad")

pytest.importorskip("onnx", reason='onnx is not installed: pip install "ser_ft[onnx]"')
pytest.importorskip("ray", reason='Ray is not installed: pip install "ser_ft[ray]"')
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    extractor, network = build("plain-cnn", CLASSES, {"standardise": "clip"}, {"channels": [8]})
    for each in (extractor, network):
        each.save_pretrained(folder)
    return export(folder, folder / "model.onnx", verbose=False).path


@pytest.fixture(scope="module")
def archive(miniature_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 60 clips, one of them a link, and of two that cannot be answered."""
    folder = tmp_path_factory.mktemp("archive")
    for place, file in enumerate(sorted(miniature_tree.rglob("*.wav"))[:59]):
        (folder / f"{place % 3}").mkdir(exist_ok=True)
        (folder / f"{place % 3}" / f"{place}.wav").write_bytes(file.read_bytes())
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
                found += [one] if "Recogniser" in " ".join(one.cmdline()) else []
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
    with start(archive, "--out", out, "--model", model, "--workers", "2") as process:
        killed = None
        while process.poll() is None and killed is None:
            for one in workers(process)[:1]:
                killed = one.pid
                one.kill()
            time.sleep(0.05)
        said, complained = process.communicate()
    assert process.returncode == 0, complained[-2000:]
    assert killed is not None
    assert said.splitlines()[-1] == f"62 sounds: {out}"
    found = {row["path"]: row for row in rows(out)}
    assert len(rows(out)) == len(found) == 62
    assert found.keys() == wanted.keys()
    assert [path for path, row in found.items() if not same(row, wanted[path])] == []


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


def test_wrong_input_is_one_line(archive: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    for arguments, said in (
        ((archive, "--out", tmp_path / "out"), "is there already: name another"),
        ((tmp_path / "none", "--out", tmp_path / "new"), "nothing is there"),
        ((archive, "--out", tmp_path / "new", "--model", tmp_path), "no run and no saved classifier"),
    ):
        with start(*arguments) as process:
            _, complained = process.communicate()
        assert process.returncode == 2
        assert said in complained
        assert len(complained.splitlines()) == 1
    assert os.listdir(tmp_path / "out") == ["mine"]
