"""Which files of folders are taken, and in which order."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ser_ft.audio.discovery import SoundFile, find_sound_files


def make(top: Path, *names: str) -> None:
    for name in names:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).touch()


def names(top: Path) -> list[str]:
    return [os.path.relpath(found.path, top) for found in find_sound_files([top])]


def test_sound_is_found_below_in_a_fixed_order(tmp_path: Path) -> None:
    make(tmp_path, "b/2.flac", "b/10.WAV", "a/deep/er/1.mp3", "z.wav", "a.m4a", "notes.txt", "wav", "b/list.csv")
    assert names(tmp_path) == ["a.m4a", "z.wav", "a/deep/er/1.mp3", "b/10.WAV", "b/2.flac"]


def test_what_is_hidden_is_passed_over(tmp_path: Path) -> None:
    make(tmp_path, "a.wav", "._a.wav", ".cache/b.wav", "c/.d.wav")
    assert names(tmp_path) == ["a.wav"]


def test_links_in_a_ring_have_an_end(tmp_path: Path) -> None:
    make(tmp_path, "a/1.wav", "b/2.wav")
    for name, target in (("a/up", ".."), ("a/self", "."), ("a/b", "../b"), ("b/a", "../a")):
        (tmp_path / name).symlink_to(target)
    assert sorted(Path(name).name for name in names(tmp_path)) == ["1.wav", "2.wav"]


def test_a_linked_folder_and_a_linked_file_are_followed(tmp_path: Path) -> None:
    make(tmp_path, "else/1.wav", "top/2.wav")
    (tmp_path / "top/linked").symlink_to(tmp_path / "else")
    (tmp_path / "top/file.wav").symlink_to(tmp_path / "else/1.wav")
    (tmp_path / "top/nowhere.wav").symlink_to(tmp_path / "gone.wav")
    # The last is told of when it is read.
    assert names(tmp_path / "top") == ["2.wav", "file.wav", "nowhere.wav", "linked/1.wav"]


def test_other_files_are_found_by_their_suffix(tmp_path: Path) -> None:
    make(tmp_path, "1.wav", "2.parquet", "below/_3.PARQUET")
    found = [found.path for found in find_sound_files([tmp_path], (".parquet",))]
    assert found == [f"{tmp_path}/2.parquet", f"{tmp_path}/below/_3.PARQUET"]


def test_pipes_and_folders_named_as_sound_are_no_sound(tmp_path: Path) -> None:
    make(tmp_path, "folder.wav/1.wav")
    os.mkfifo(tmp_path / "pipe.wav")
    assert names(tmp_path) == ["folder.wav/1.wav"]


def test_a_named_file_is_taken_whatever_it_is_called(tmp_path: Path) -> None:
    make(tmp_path, "one.txt", ".hidden", "top/1.wav")
    given = [tmp_path / "top", tmp_path / "one.txt", tmp_path / ".hidden", tmp_path / "none"]
    assert [found.path for found in find_sound_files(given)] == [f"{tmp_path}/top/1.wav", *map(str, given[1:])]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look into every folder")
def test_a_folder_that_cannot_be_looked_into_is_told(tmp_path: Path) -> None:
    make(tmp_path, "a.wav", "locked/b.wav")
    (tmp_path / "locked").chmod(0)
    try:
        found = list(find_sound_files([tmp_path]))
    finally:
        (tmp_path / "locked").chmod(0o700)
    assert found[0] == SoundFile(f"{tmp_path}/a.wav")
    assert found[1].path == f"{tmp_path}/locked"
    assert "Permission denied" in (found[1].error or "")
