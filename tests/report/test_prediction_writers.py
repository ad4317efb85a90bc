"""Answers as text: what a program and a person read, and what a file that was broken off is worth."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from ser_ft.report.shared.prediction_writers import (
    RESUMABLE,
    ExistingPredictions,
    csv_columns,
    held,
    key,
    sheet,
    shortened,
    take_errors_out,
)
from ser_ft.utils.errors import InputError
from ser_ft.utils.text import display_width

CLASSES = ("neutral", "happy", "sad")
GOOD = {
    "path": "a/b.wav",
    "emotion": "happy",
    "scores": {"neutral": 0.25, "happy": 0.6000000004, "sad": 0.15},
    "uncertain": False,
    "duration": 3.25,
    "speech": 2.0,
}
UNSURE = {**GOOD, "path": "c.wav", "uncertain": True}
BAD = {"path": "d.wav", "error": "the file is empty"}
STRANGE = [
    'com,ma "quoted".wav',
    "new\nline.wav",
    "tab\t\x1b[31m.wav",
    "ümläut 日本語 \u202f.wav",
    "b\udcff.wav",
    "=1+1.wav",
]


def text(format: str, *rows: dict[str, Any], **options: Any) -> str:
    made = sheet(format, CLASSES, **options)
    return made.head() + "".join(made.line(row) for row in rows) + made.foot()


def test_json_and_json_lines_hold_the_answers() -> None:
    rows = [GOOD, UNSURE, BAD]
    whole = [{**row, "scores": {**row["scores"], "happy": 0.6}} if "scores" in row else row for row in rows]
    assert json.loads(text("json", *rows)) == whole
    assert [json.loads(line) for line in text("jsonl", *rows).splitlines()] == whole
    assert json.loads(text("json")) == []


def test_csv_has_a_column_per_class() -> None:
    rows = list(csv.DictReader(io.StringIO(text("csv", GOOD, BAD))))
    assert rows[0] == {
        **dict.fromkeys(csv_columns(CLASSES), ""),
        **{"path": "a/b.wav", "emotion": "happy", "probability": "0.6", "uncertain": "false"},
        **{"duration": "3.25", "speech": "2.0", "neutral": "0.25", "happy": "0.6", "sad": "0.15"},
    }
    assert rows[1] == {**dict.fromkeys(csv_columns(CLASSES), ""), "path": "d.wav", "error": "the file is empty"}


def test_the_table_is_aligned_and_marks_what_is_uncertain() -> None:
    lines = text("table", GOOD, UNSURE, BAD, longest=7).splitlines()
    assert lines[0].split() == ["file", "emotion", "probability", "second", "best"]
    assert lines[2].split() == ["a/b.wav", "happy", "0.600", "neutral", "0.250"]
    assert lines[3].split() == ["c.wav", "happy", "?", "0.600", "neutral", "0.250"]
    assert lines[4] == "d.wav    (the file is empty)"
    assert len({line.index("0.600") for line in lines[2:4]}) == 1


@pytest.mark.parametrize("page", [40, 80, 200])
def test_the_table_keeps_within_the_page(page: int) -> None:
    rows = [{**GOOD, "path": f"{name * 9}{name}.wav"} for name in ("recordings/", "録音/", "é")]
    lines = text("table", *rows, {**BAD, "error": "why " * 60}, longest=120, page=page).splitlines()
    # Twenty cells of a name are always shown, on the narrowest page too.
    assert max(map(display_width, lines)) <= max(page, 20 + 3 * 2 + 9 + 11 + 20)


def test_names_are_shortened_in_the_middle() -> None:
    assert shortened("recordings/2024/anna_final.wav", 16) == "recordi…inal.wav"
    assert shortened("short.wav", 16) == "short.wav"
    assert display_width(shortened("録音録音録音録音録音.wav", 11)) <= 11
    assert shortened("録音録音録音録音録音.wav", 11).endswith(".wav")


@pytest.mark.parametrize("path", STRANGE)
@pytest.mark.parametrize("format", RESUMABLE)
def test_strange_names_come_back_from_a_file(format: str, path: str, tmp_path: Path) -> None:
    out = tmp_path / "answers"
    written = text(format, {**GOOD, "path": path}, {**BAD, "path": f"2{path}"})
    out.write_text(written, encoding="utf-8", errors="backslashreplace", newline="")
    assert held(out, format, CLASSES) == ExistingPredictions({key(path, format)}, {key(f"2{path}", format)})
    assert len(out.read_text(encoding="utf-8").splitlines()) == (3 if format == "csv" else 2)


@pytest.mark.parametrize("path", STRANGE)
def test_no_control_character_reaches_the_terminal(path: str) -> None:
    assert text("table", {**GOOD, "path": path}, {**BAD, "path": path}).replace("\n", "").isprintable()


@pytest.mark.parametrize("format", RESUMABLE)
def test_a_file_broken_off_anywhere_is_gone_on_with(format: str, tmp_path: Path) -> None:
    out = tmp_path / "answers"
    whole = text(format, {**GOOD, "path": "ä.wav"}, BAD, UNSURE).encode()
    for end in range(len(whole) + 1):
        out.write_bytes(whole[:end])
        lines = whole[:end].count(b"\n")
        found = held(out, format, CLASSES)
        assert len(found.answered) + len(found.failed) == max(0, lines - (format == "csv"))
        assert out.read_bytes() == b"".join(whole.splitlines(keepends=True)[:lines])


@pytest.mark.parametrize("format", RESUMABLE)
@pytest.mark.parametrize(
    "content", ["my thesis", "my thesis\n", "[1, 2]\n", '{"a": 1}\n', "path,emotion\n", "path", "3\n"]
)
def test_another_file_is_left_as_it_is(format: str, content: str, tmp_path: Path) -> None:
    out = tmp_path / "answers"
    out.write_text(content)
    if format == "csv" and content == "path":
        assert held(out, format, CLASSES) == ExistingPredictions()  # half of a first line
        return
    with pytest.raises(InputError, match="holds something else than answers"):
        held(out, format, CLASSES)
    assert out.read_text() == content


@pytest.mark.parametrize("format", RESUMABLE)
def test_answers_of_another_model_are_not_gone_on_with(format: str, tmp_path: Path) -> None:
    out = tmp_path / "answers"
    out.write_text(text(format, GOOD))
    with pytest.raises(InputError, match="a model with other classes"):
        held(out, format, ("neutral", "happy"))
    assert out.read_text() == text(format, GOOD)


@pytest.mark.parametrize("format", RESUMABLE)
def test_errors_that_are_tried_again_leave_the_file(
    format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the file is whole whenever that is broken off, and still where its link leads."""
    out, strange, other = tmp_path / "answers", {**BAD, "path": STRANGE[1]}, {**BAD, "path": "other.wav"}
    before = text(format, GOOD, BAD, UNSURE, strange, other)
    (tmp_path / "real").write_text(before, encoding="utf-8")
    out.symlink_to("real")
    again = {key(row["path"], format) for row in (BAD, strange)}

    def fails(*_: object) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", fails)
        with pytest.raises(OSError, match="full"):
            take_errors_out(out, format, CLASSES, again)
    assert out.read_text(encoding="utf-8") == before
    take_errors_out(out, format, CLASSES, again)
    assert out.read_text(encoding="utf-8") == text(format, GOOD, UNSURE, other)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["answers", "real"]
    assert out.is_symlink()
