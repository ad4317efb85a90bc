"""Data sets on the Hub or on disk, loaded by the names of their columns."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import datasets
import pytest

from ser_ft.audio import decode, to_wav
from ser_ft.data import builder
from ser_ft.data.prepare import load_table, prepare_table
from ser_ft.utils.errors import InputError
from tests.helpers.corpus_files import labels_of, noise, skipped, write

CLIPS: dict[str, list[Any]] = {
    "voice": ["a", "b", "a"], "label": ["Anger", "fearful", None], "sex": ["F", "male", ""], "years": [20.0, None, 30.0]
}  # fmt: skip
LABELED = {"audio": "sound", "emotion": "label"}
COLUMNS = LABELED | {"speaker": "voice", "gender": "sex", "age": "years"}


def table_of(sounds: list[Any], **columns: list[Any]) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"sound": sounds, **(columns or CLIPS)})


@pytest.mark.parametrize("kind", ["bytes", "paths", "audio"])
def test_columns_are_mapped(tmp_path: Path, kind: str) -> None:
    names = ["1.wav", "2.wav", "3.wav"]
    write(tmp_path / "x", names)
    paths = [str(tmp_path / "x" / name) for name in names]
    table = table_of([noise(name) for name in names] if kind == "bytes" else paths)
    if kind == "audio":
        table = table.cast_column("sound", datasets.Audio(decode=False))
    loaded = load_table(table, COLUMNS, "mine", cache_dir=tmp_path / "c", verbose=False)
    rows = loaded.to_list()
    assert [(row["id"], row["speaker"], row["gender"], row["age"], row["language"]) for row in rows] == [
        ("mine-000000", "mine-a", "female", 20, None),
        ("mine-000001", "mine-b", "male", None, None),
    ]
    assert list(labels_of(loaded).values()) == ["angry", "fear"]
    assert [row["audio"]["bytes"] for row in rows] == [to_wav(decode(noise(name))) for name in ("1.wav", "2.wav")]
    assert skipped(loaded) == {"mine[2]": "not-in-scheme"}


def test_a_data_set_from_elsewhere_reads_no_file_outside_of_it(tmp_path: Path) -> None:
    write(tmp_path, ["private.wav", "set/1.wav", "set/2.wav"])
    (tmp_path / "set" / "3.wav").symlink_to(tmp_path / "private.wav")
    paths = [f"{tmp_path}/{name}" for name in ("set/1.wav", "private.wav", "set/../private.wav", "set/3.wav")]
    table_of(paths, label=["sad", "sad", "happy", "angry"]).to_parquet(str(tmp_path / "set" / "train.parquet"))
    loaded = load_table(str(tmp_path / "set"), LABELED, cache_dir=tmp_path / "c", verbose=False)
    assert loaded["id"][:] == ["own-000000"]
    assert skipped(loaded) == dict.fromkeys(["own[1]", "own[2]", "own[3]"], "unreadable")


def test_class_labels_are_read_by_name(tmp_path: Path) -> None:
    table = table_of([noise(str(row)) for row in range(4)], label=[1, 0, -1, 1], sex=[0, 1, 0, 1])
    table = table.cast_column("label", datasets.ClassLabel(names=["happiness", "sadness"]))
    table = table.cast_column("sex", datasets.ClassLabel(names=["man", "woman"]))
    loaded = load_table(table, LABELED | {"gender": "sex"}, cache_dir=tmp_path / "c", verbose=False)
    assert list(labels_of(loaded).values()) == ["sad", "happy", "sad"]
    assert loaded["gender"][:] == ["male", "female", "female"]
    assert skipped(loaded) == {"own[2]": "not-in-scheme"}


@pytest.mark.parametrize("saved", ["table", "splits"])
def test_a_table_on_disk_is_prepared(tmp_path: Path, saved: str) -> None:
    table = table_of([noise("1"), None, b"bad"], label=["sad", "sad", "sad"])
    (table if saved == "table" else datasets.DatasetDict({"dev": table})).save_to_disk(str(tmp_path / "saved"))
    loaded = prepare_table(str(tmp_path / "saved"), LABELED, tmp_path / "out", "mine", split="dev", verbose=False)
    assert loaded["id"][:] == ["mine-000000"]
    assert [skip.reason for skip in builder.read_skipped(tmp_path / "out" / "skipped.csv")] == ["empty", "unreadable"]


def test_a_column_in_another_unicode_form_is_found() -> None:
    table = table_of([noise("1"), noise("2")], **{"Stimmung\u0308": ["sad", "happy"], "Sprecher_O\u0308": ["a", "b"]})
    columns = {"audio": "sound", "emotion": "Stimmung\u0308", "speaker": "Sprecher_\u00d6"}
    assert load_table(table, columns, "Jo\u0308rg", verbose=False)["speaker"][:] == ["J\u00f6rg-a", "J\u00f6rg-b"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"audio": "sound"}, "the table own has no column 'emotion'; it has sound, label"),
        (LABELED | {"mood": "label"}, "unknown column 'mood': name audio, emotion, speaker"),
        (LABELED | {"audio": "label"}, "there is no such file: 1"),
        (LABELED | {"audio": "number"}, "the column 'number' of the table own holds no sound files"),
        (LABELED | {"age": "label"}, "own[0]: age is 'sad', not a number of years"),
    ],
)
def test_wrong_columns_are_refused(columns: dict[str, str], message: str) -> None:
    table = table_of([noise("1")], label=["sad"], number=[1.5])
    with pytest.raises(InputError, match=re.escape(message)):
        load_table(table, columns, verbose=False)


@pytest.mark.parametrize("name", ["nobody/no-such-set", "saved", "text"])
def test_a_data_set_that_cannot_be_loaded_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(write(tmp_path, {"text/a.md": b"text"}))
    datasets.DatasetDict({"dev": table_of([noise("1")], label=["sad"])}).save_to_disk("saved")
    start = time.monotonic()
    with pytest.raises(InputError, match=re.escape(name)) as caught:
        load_table(name, LABELED, split="train", verbose=False)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 10


def test_a_loaded_table_is_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = table_of([noise("1"), noise("2")], label=["sad", "happy"])
    first = load_table(table, LABELED, cache_dir=tmp_path, verbose=False)
    other = load_table(table, LABELED, "other", cache_dir=tmp_path, verbose=False)
    assert other["id"][0] == "other-000000"
    monkeypatch.setattr("ser_ft.audio.decode_clip", lambda *args, **kwargs: pytest.fail("decoded again"))
    assert load_table(table, LABELED, cache_dir=tmp_path, verbose=False).to_list() == first.to_list()


@pytest.mark.slow
def test_an_unreachable_hub_fails_in_seconds(tmp_path: Path) -> None:
    # Nothing listens at the address; the client's own retries would take half a minute.
    unreachable = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
    arguments = ["prepare", "--dataset", "someone/voices", "--out", str(tmp_path / "out")]
    command = [sys.executable, "-m", "ser_ft.cli", *arguments]
    result = subprocess.run(command, env=os.environ | unreachable, capture_output=True, text=True, timeout=20)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "'someone/voices'" in result.stderr
