"""Listing of sound files: which files, and in which order."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ser_ft.audio.discovery import SoundFile, find_sound_files


def create_files(top: Path, *paths: str) -> None:
    for name in paths:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).touch()


def relative_paths(top: Path) -> list[str]:
    return [os.path.relpath(file.path, top) for file in find_sound_files([top])]


def test_sound_files_are_found_recursively_in_a_fixed_order(tmp_path: Path) -> None:
    create_files(
        tmp_path, "b/2.flac", "b/10.WAV", "a/deep/er/1.mp3", "z.wav", "a.m4a", "notes.txt", "wav", "b/list.csv"
    )
    assert relative_paths(tmp_path) == ["a.m4a", "z.wav", "a/deep/er/1.mp3", "b/10.WAV", "b/2.flac"]


def test_circular_links_end(tmp_path: Path) -> None:
    create_files(tmp_path, "a/1.wav", "b/2.wav")
    for name, target in (("a/up", ".."), ("a/self", "."), ("a/b", "../b"), ("b/a", "../a")):
        (tmp_path / name).symlink_to(target)
    assert sorted(Path(name).name for name in relative_paths(tmp_path)) == ["1.wav", "2.wav"]


def test_links_to_folders_and_files_are_followed(tmp_path: Path) -> None:
    create_files(tmp_path, "else/1.wav", "top/2.wav")
    (tmp_path / "top/linked").symlink_to(tmp_path / "else")
    (tmp_path / "top/file.wav").symlink_to(tmp_path / "else/1.wav")
    (tmp_path / "top/nowhere.wav").symlink_to(tmp_path / "gone.wav")
    # The broken link is reported when it is read.
    assert relative_paths(tmp_path / "top") == ["2.wav", "file.wav", "nowhere.wav", "linked/1.wav"]


def test_other_files_are_found_by_their_suffix(tmp_path: Path) -> None:
    create_files(tmp_path, "1.wav", "2.parquet", "below/_3.PARQUET")
    paths = [file.path for file in find_sound_files([tmp_path], (".parquet",))]
    assert paths == [f"{tmp_path}/2.parquet", f"{tmp_path}/below/_3.PARQUET"]


def test_hidden_files_pipes_and_folders_with_a_sound_suffix_are_ignored(tmp_path: Path) -> None:
    create_files(tmp_path, "folder.wav/1.wav", "._a.wav", ".cache/b.wav", "c/.d.wav")
    os.mkfifo(tmp_path / "pipe.wav")
    assert relative_paths(tmp_path) == ["folder.wav/1.wav"]


def test_a_passed_file_is_returned_whatever_its_name(tmp_path: Path) -> None:
    create_files(tmp_path, "one.txt", ".hidden", "top/1.wav")
    paths = [tmp_path / "top", tmp_path / "one.txt", tmp_path / ".hidden", tmp_path / "none"]
    assert [file.path for file in find_sound_files(paths)] == [f"{tmp_path}/top/1.wav", *map(str, paths[1:])]


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read every folder")
def test_a_folder_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    create_files(tmp_path, "a.wav", "locked/b.wav")
    (tmp_path / "locked").chmod(0)
    try:
        files = list(find_sound_files([tmp_path]))
    finally:
        (tmp_path / "locked").chmod(0o700)
    assert files[0] == SoundFile(f"{tmp_path}/a.wav")
    assert files[1].path == f"{tmp_path}/locked"
    assert "Permission denied" in (files[1].error or "")
