from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from ser_ft.report.shared.prediction_writers import (
    RESUMABLE_FORMATS,
    ExistingPredictions,
    csv_columns,
    path_key,
    prediction_writer,
    read_existing,
    remove_errors,
    shorten_middle,
)
from ser_ft.utils.errors import InputError
from ser_ft.utils.text import display_width, printable

CLASSES = ("neutral", "happy", "sad")
SCORES = {"neutral": 0.25, "happy": 0.6000000004, "sad": 0.15}
CERTAIN = {"path": "a/b.wav", "emotion": "happy", "scores": SCORES, "uncertain": False, "duration": 3.25, "speech": 2.0}
UNCERTAIN = {**CERTAIN, "path": "c.wav", "uncertain": True}
FAILED = {"path": "d.wav", "error": "the file is empty"}
UNUSUAL_NAMES = ['com,ma "quoted".wav', "new\nline.wav", "tab\t\x1b[31m.wav", "ümläut 日本語 \u202f.wav"]
UNUSUAL_NAMES += ["b\udcff.wav", "=1+1.wav"]

each_format = pytest.mark.parametrize("format", RESUMABLE_FORMATS)


def text(format: str, *rows: dict[str, Any], **options: Any) -> str:
    writer = prediction_writer(format, CLASSES, **options)
    return writer.header() + "".join(map(writer.row, rows)) + writer.footer()


def test_json_and_json_lines_hold_the_predictions() -> None:
    rows = [CERTAIN, UNCERTAIN, FAILED]
    expected = [{**row, "scores": {**row["scores"], "happy": 0.6}} if "scores" in row else row for row in rows]
    assert json.loads(text("json", *rows)) == expected
    assert [json.loads(line) for line in text("jsonl", *rows).splitlines()] == expected
    assert json.loads(text("json")) == []


def test_csv_has_a_column_per_class() -> None:
    rows = list(csv.DictReader(io.StringIO(text("csv", CERTAIN, FAILED))))
    empty = dict.fromkeys(csv_columns(CLASSES), "")
    scores = {"probability": "0.6", "neutral": "0.25", "happy": "0.6", "sad": "0.15"}
    facts = {"path": "a/b.wav", "emotion": "happy", "uncertain": "false", "duration": "3.25", "speech": "2.0"}
    assert rows[0] == empty | facts | scores
    assert rows[1] == {**empty, "path": "d.wav", "error": "the file is empty"}


def test_the_table_is_aligned_and_marks_uncertain_predictions() -> None:
    lines = text("table", CERTAIN, UNCERTAIN, FAILED, longest=7).splitlines()
    assert lines[0].split() == ["file", "emotion", "probability", "second", "best"]
    assert lines[2].split() == ["a/b.wav", "happy", "0.600", "neutral", "0.250"]
    assert lines[3].split() == ["c.wav", "happy", "?", "0.600", "neutral", "0.250"]
    assert lines[4] == "d.wav    (the file is empty)"
    assert len({line.index("0.600") for line in lines[2:4]}) == 1


@pytest.mark.parametrize("terminal_width", [40, 80, 200])
def test_the_table_fits_in_the_terminal(terminal_width: int) -> None:
    rows = [{**CERTAIN, "path": f"{name * 9}{name}.wav"} for name in ("recordings/", "録音/", "é")]
    error = {**FAILED, "error": "why " * 60}
    lines = text("table", *rows, error, longest=120, terminal_width=terminal_width).splitlines()
    # Twenty cells of a name are always shown, in the narrowest terminal too.
    assert max(map(display_width, lines)) <= max(terminal_width, 20 + 3 * 2 + 9 + 11 + 20)


def test_names_are_shortened_in_the_middle() -> None:
    assert shorten_middle("recordings/2024/anna_final.wav", 16) == "recordi…inal.wav"
    assert shorten_middle("short.wav", 16) == "short.wav"
    assert display_width(shorten_middle("録音録音録音録音録音.wav", 11)) <= 11
    assert shorten_middle("録音録音録音録音録音.wav", 11).endswith(".wav")


@pytest.mark.parametrize("path", UNUSUAL_NAMES)
def test_unusual_names_are_read_back_and_never_control_the_terminal(path: str, tmp_path: Path) -> None:
    for format in RESUMABLE_FORMATS:
        out = tmp_path / format
        written = text(format, {**CERTAIN, "path": path}, {**FAILED, "path": f"2{path}"})
        out.write_text(written, encoding="utf-8", errors="backslashreplace", newline="")
        expected = ExistingPredictions({path_key(path, format)}, {path_key(f"2{path}", format)})
        assert read_existing(out, format, CLASSES) == expected
        assert len(out.read_text(encoding="utf-8").splitlines()) == (3 if format == "csv" else 2)
    table = text("table", {**CERTAIN, "path": path}, {**FAILED, "path": path})
    assert printable(table, keep_lines=True) == table


@pytest.mark.parametrize("format", RESUMABLE_FORMATS)
def test_a_path_in_another_unicode_form_is_not_recognized_again(format: str, tmp_path: Path) -> None:
    for name, other in (("J\u00f6rg.wav", "Jo\u0308rg.wav"), ("Jo\u0308rg.wav", "J\u00f6rg.wav")):
        out = tmp_path / format
        out.write_text(text(format, {**CERTAIN, "path": name}), encoding="utf-8")
        assert path_key(other, format) in read_existing(out, format, CLASSES).predicted


@each_format
def test_a_file_interrupted_anywhere_is_resumed(format: str, tmp_path: Path) -> None:
    out = tmp_path / "predictions"
    complete = text(format, {**CERTAIN, "path": "ä.wav"}, FAILED, UNCERTAIN).encode()
    for end in range(len(complete) + 1):
        out.write_bytes(complete[:end])
        lines = complete[:end].count(b"\n")
        existing = read_existing(out, format, CLASSES)
        assert len(existing.predicted) + len(existing.failed) == max(0, lines - (format == "csv"))
        assert out.read_bytes() == b"".join(complete.splitlines(keepends=True)[:lines])


@each_format
@pytest.mark.parametrize(
    "content", ["my thesis", "my thesis\n", "[1, 2]\n", '{"a": 1}\n', "path,emotion\n", "path", "3\n"]
)
def test_a_file_with_another_content_is_not_changed(format: str, content: str, tmp_path: Path) -> None:
    out = tmp_path / "predictions"
    out.write_text(content)
    if format == "csv" and content == "path":  # an incomplete first line
        assert read_existing(out, format, CLASSES) == ExistingPredictions()
        return
    with pytest.raises(InputError, match="does not hold predictions in"):
        read_existing(out, format, CLASSES)
    assert out.read_text() == content


@each_format
def test_predictions_of_another_model_are_not_resumed(format: str, tmp_path: Path) -> None:
    out = tmp_path / "predictions"
    out.write_text(text(format, CERTAIN))
    with pytest.raises(InputError, match="a model with other classes"):
        read_existing(out, format, ("neutral", "happy"))
    assert out.read_text() == text(format, CERTAIN)


@each_format
def test_removing_errors_keeps_the_file_complete_and_its_link(
    format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "predictions"
    unusual, other = ({**FAILED, "path": path} for path in (UNUSUAL_NAMES[1], "other.wav"))
    before = text(format, CERTAIN, FAILED, UNCERTAIN, unusual, other)
    (tmp_path / "real").write_text(before, encoding="utf-8")
    out.symlink_to("real")
    retried = {path_key(row["path"], format) for row in (FAILED, unusual)}

    def fail(*_: object) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", fail)
        with pytest.raises(OSError, match="full"):
            remove_errors(out, format, CLASSES, retried)
    assert out.read_text(encoding="utf-8") == before
    remove_errors(out, format, CLASSES, retried)
    assert out.read_text(encoding="utf-8") == text(format, CERTAIN, UNCERTAIN, other)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["predictions", "real"]
    assert out.is_symlink()
