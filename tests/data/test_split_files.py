"""Splits from files: split.json, or lists of speakers."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest

from ser_ft.data.splits import PARTS, make_split, read_split
from ser_ft.utils.errors import InputError
from tests.helpers.speaker_tables import check_split, corpora_table, table_of


@pytest.fixture(scope="module")
def ravdess() -> datasets.Dataset:
    return corpora_table("ravdess")


@pytest.mark.parametrize("kind", ["speaker", "kfold", "random"])
def test_a_written_split_is_read_back(ravdess: datasets.Dataset, tmp_path: Path, kind: str) -> None:
    split = make_split(ravdess, kind, seed=7)
    file = tmp_path / "split.json"
    file.write_text(json.dumps(split.to_dict()))
    assert read_split(file) == split
    again = make_split(ravdess.shuffle(seed=2), "file", file=file)
    assert again.speakers == split.speakers
    assert all(set(again.parts[part]) == set(split.parts[part]) for part in PARTS)
    assert (again.name, again.seed, again.fold, again.leaking) == (split.name, 7, split.fold, kind == "random")


@pytest.mark.parametrize(
    ("lists", "speakers"),
    [
        (
            {"train": ["ravdess-01", "savee-DC"], "test": ["ravdess-02"]},
            {"train": {"ravdess-01", "savee-DC"}, "validation": set(), "test": {"ravdess-02"}},
        ),
        (
            {"train": [1, "DC"], "val": ["3"], "test": ["02", "JE"]},
            {"train": {"ravdess-01", "savee-DC"}, "validation": {"ravdess-03"}, "test": {"ravdess-02", "savee-JE"}},
        ),
        ({"train": ["my-own-7"], "test": ["8"]}, {"train": {"my-own-7"}, "validation": set(), "test": {"my-own-8"}}),
        # A file written on macOS may have names in another Unicode form.
        (
            {"train": ["Zoe\u0301"], "test": ["my-own-Jo\u0308rg"]},
            {"train": {"my-own-Zo\u00e9"}, "validation": set(), "test": {"my-own-J\u00f6rg"}},
        ),
    ],
)
def test_lists_of_speakers_are_read(tmp_path: Path, lists: dict[str, list[Any]], speakers: dict[str, set[str]]) -> None:
    table = table_of(
        {"ravdess": ["01", "02", "03"], "savee": ["DC", "JE"], "my-own": ["7", "8", "J\u00f6rg", "Zo\u00e9"]}
    )
    (tmp_path / "mine.json").write_text(json.dumps(lists))
    split = make_split(table, "file", file=tmp_path / "mine.json")
    check_split(split, table)
    assert {part: set(split.speakers[part]) for part in PARTS} == speakers
    assert split.name == "file-mine"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train": ["01", "ravdess-02"], "test": [2]}, "speaker ravdess-02 is both in train and in test"),
        ({"train": ["01"], "test": ["99"]}, "'99' names no speaker of the data"),
        ({"train": ["01"]}, "a split file is a run's split.json, or an object with lists of speakers"),
        ({"train": ["01"], "test": "02"}, "a split file is"),
        ({"train": ["01"], "test": ["02"], "other": ["03"]}, "a split file is"),
        ({"train": ["01"], "test": []}, "has no clip for test"),
        (["01", "02"], "a split file is"),
        ({"parts": {"train": {}}}, "not a split ('clips' is missing)"),
        ({"parts": []}, "not a split"),
        ("not JSON", "not JSON"),
        (None, "no split file there"),
    ],
)
def test_wrong_files_are_refused(ravdess: datasets.Dataset, tmp_path: Path, content: Any, message: str) -> None:
    file = tmp_path / "split.json"
    if content is not None:
        file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        make_split(ravdess, "file", file=file)
    assert str(file) in str(caught.value) or "has no clip" in message


def test_an_ambiguous_speaker_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(json.dumps({"train": ["1"], "test": ["b-2"]}))
    with pytest.raises(InputError, match=r"several speakers .a-1, b-1. of the data; write CORPUS-SPEAKER"):
        make_split(table_of({"a": ["1"], "b": ["1", "2"]}), "file", file=tmp_path / "s.json")


def test_a_split_of_other_data_is_refused(ravdess: datasets.Dataset, tmp_path: Path) -> None:
    split = make_split(ravdess)
    (tmp_path / "split.json").write_text(json.dumps(split.to_dict()))
    fewer = ravdess.select(range(len(ravdess) - 5))
    with pytest.raises(InputError, match=r"5 of its clips are not in the data \(.* is the first\): is it the same"):
        make_split(fewer, "file", file=tmp_path / "split.json")
    with pytest.raises(InputError, match="5 clips of the split are not in the data"):
        split.row_indices(fewer)


def test_a_split_file_cannot_hide_a_leak(ravdess: datasets.Dataset, tmp_path: Path) -> None:
    content = make_split(ravdess).to_dict()
    parts = content["parts"]
    parts["test"]["clips"].append(parts["train"]["clips"].pop())
    (tmp_path / "split.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"speaker .* is both in train and in test"):
        make_split(ravdess, "file", file=tmp_path / "split.json")
    parts["test"]["clips"].append(parts["train"]["clips"][0])
    (tmp_path / "split.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"clip .* is both in train and in test"):
        make_split(ravdess, "file", file=tmp_path / "split.json")


def test_overlapping_parts_are_refused(ravdess: datasets.Dataset) -> None:
    split = make_split(ravdess)
    with pytest.raises(InputError, match="is both in train and in test"):
        replace(split, parts={**split.parts, "test": split.parts["train"]})
    with pytest.raises(InputError, match="is both in validation and in test"):
        replace(split, speakers={**split.speakers, "test": split.speakers["validation"]})
