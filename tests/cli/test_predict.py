"""The command `ser-ft predict`: formats, errors, resuming."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ser_ft.cli import main
from ser_ft.inference.recognizer import EmotionRecognizer
from tests.helpers.sound_files import encode

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command with the tiny model; return its exit code, stdout and stderr."""

    def run_predict(*arguments: str | Path) -> tuple[int, str, str]:
        code = main(["predict", *map(str, arguments), "--model", str(tiny_run)])
        return code, *capsys.readouterr()

    return run_predict


@pytest.fixture
def broken(tree: Path) -> Path:
    """The tree, with an empty file in it."""
    (tree / "clip 0b.wav").touch()
    return tree


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_the_default_output_is_a_table(run: Run, tree: Path) -> None:
    code, out, err = run(tree)
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0].split() == ["file", "emotion", "probability", "second", "best"]
    assert [line.split("  ")[0].strip() for line in lines[2:]] == [
        *(f"{tree}/clip {index}.wav" for index in range(2)),
        *(f"{tree}/actor {index // 3}/clip {index}.wav" for index in range(2, 6)),
    ]


def test_all_formats_hold_the_predictions_of_the_class(run: Run, tree: Path, tiny_run: Path) -> None:
    expected = EmotionRecognizer(tiny_run)(tree)
    code, out, _ = run(tree, "--format", "json")
    assert code == 0
    for row, answer in zip(json.loads(out), expected, strict=True):
        assert row["scores"] == pytest.approx(answer["scores"], abs=1e-6)
        assert all(row[name] == answer[name] for name in ("path", "emotion", "uncertain"))  # type: ignore[literal-required]
    _, lines, _ = run(tree, "--format", "jsonl")
    assert [json.loads(line) for line in lines.splitlines()] == json.loads(out)
    _, table, _ = run(tree, "--format", "csv")
    assert [row["emotion"] for row in csv.DictReader(io.StringIO(table))] == [answer["emotion"] for answer in expected]


def test_a_bad_file_does_not_stop_the_rest(run: Run, broken: Path) -> None:
    code, out, err = run(broken, "--format", "jsonl")
    actual = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    assert [("error" in row) for row in actual] == [False, True, *[False] * 5]
    assert actual[1] == {"path": f"{broken}/clip 0b.wav", "error": "the file is empty"}
    assert err.splitlines() == [
        f"ser-ft: {broken}/clip 0b.wav: the file is empty",
        "ser-ft: 1 of 7 files could not be recognized",
    ]


def test_a_passed_file_is_read_whatever_its_name(run: Run, tree: Path) -> None:
    renamed = (tree / "clip 0.wav").rename(tree / "recording")
    code, out, _ = run(renamed, tree / "clip 1.wav", "--format", "jsonl")
    assert code == 0
    assert [Path(json.loads(line)["path"]).name for line in out.splitlines()] == ["recording", "clip 1.wav"]


@pytest.mark.parametrize("format", ["csv", "json", "jsonl", "table"])
def test_the_output_file_equals_stdout(run: Run, tree: Path, tmp_path: Path, format: str) -> None:
    _, expected, _ = run(tree, "--format", format)
    out = tmp_path / "new" / f"answers.{format}"
    assert run(tree, "--out", out)[:2] == (0, "")
    assert out.read_text(encoding="utf-8") == expected


@pytest.mark.parametrize("format", ["csv", "jsonl"])
def test_an_incomplete_output_file_is_resumed(run: Run, broken: Path, tmp_path: Path, format: str) -> None:
    complete, out = tmp_path / f"whole.{format}", tmp_path / f"answers.{format}"
    assert run(broken, "--out", complete)[0] == 1
    content = complete.read_bytes()
    for end in (0, 10, len(content) // 2, len(content) - 1):
        out.write_bytes(content[:end])
        assert run(broken, "--out", out, "--resume")[0] == 1
        # Failed files are tried again at the end.
        assert sorted(out.read_bytes().splitlines()) == sorted(content.splitlines())
    code, message, err = run(broken, "--out", out, "--resume")
    assert (code, message, err.splitlines()[-1]) == (1, "", "ser-ft: 1 of 1 files could not be recognized")
    (broken / "clip 0b.wav").write_bytes((broken / "clip 0.wav").read_bytes())
    assert run(broken, "--out", out, "--resume") == (0, "", "")
    repaired = out.read_bytes()
    assert repaired.count(b"clip 0b.wav") == 1
    assert b"the file is empty" not in repaired
    # Nothing remains to be done.
    assert run(broken, "--out", out, "--resume") == (0, "", "")
    assert out.read_bytes() == repaired


@pytest.mark.parametrize("format", ["csv", "jsonl"])
def test_errors_of_other_files_are_kept_and_reported(run: Run, broken: Path, tmp_path: Path, format: str) -> None:
    out = tmp_path / f"answers.{format}"
    run(broken, "--out", out)
    content = out.read_bytes()
    code, message, err = run(broken / "actor 0", "--out", out, "--resume")
    assert (code, message) == (1, "")
    assert err == f"ser-ft: {out}: contains errors of 1 more files, which were not passed\n"
    assert out.read_bytes() == content


def test_new_files_are_appended(run: Run, tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "answers.jsonl"
    run(tree / "actor 0", "--out", out)
    existing = rows(out)
    assert run(tree, "--out", out, "--resume")[0] == 0
    assert rows(out)[: len(existing)] == existing
    assert len({row["path"] for row in rows(out)}) == len(rows(out)) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "the following arguments are required: PATH"),
        (("empty",), "empty: no sound files there"),
        (("tree", "--out", "answers"), "its suffix is not"),
        (("tree", "--out", "answers.wav"), "its suffix is not"),
        (("tree", "--out", "there.jsonl"), "a file already exists; pass --resume, or choose another --out"),
        (("tree", "--out", "there.json"), "a file already exists; choose another --out"),
        (("tree", "--resume"), "pass --out FILE, in csv or jsonl"),
        (("tree", "--out", "there.json", "--resume"), "pass --out FILE, in csv or jsonl"),
        (("tree", "--out", "there.jsonl", "--resume"), "does not hold predictions in jsonl"),
        (("tree", "--out", "there.jsonl/a.csv"), "cannot be written"),
        (("tree", "--out", "empty", "--format", "csv", "--resume"), "is a folder, not a file"),
        (("tree", "--format", "xml"), "invalid choice: 'xml'"),
        (("tree", "--fast"), "unrecognized arguments: --fast"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    run: Run, tree: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tree.parent)
    tree.rename("tree")
    Path("empty").mkdir()
    for name in ("there.jsonl", "there.json"):
        Path(name).write_text("mine\n")
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1
    assert Path("there.jsonl").read_text() == "mine\n"


def test_unusual_file_names_work_in_every_format(run: Run, voices: list[np.ndarray], tmp_path: Path) -> None:
    stems = ("ümläut 日本語 😀", "new\nline", "\x1b[31mred", "long" * 60, os.fsdecode(b"caf\xe9"))
    names = [f"{stem}.wav" for stem in stems]
    top = tmp_path / "recordings"
    top.mkdir()
    for name in names:
        (top / name).write_bytes(encode(voices[0]))
    _, out, _ = run(top, "--format", "json", "--out", tmp_path / "answers.json")
    actual = [row["path"] for row in json.loads((tmp_path / "answers.json").read_text(encoding="utf-8"))]
    assert sorted(actual) == sorted(str(top / name) for name in names)
    code, out, err = run(top)
    assert code == 0
    assert "\x1b" not in out
    assert len(out.splitlines()) == 7
    for name in names:
        (top / name).write_bytes(b"")
    _, _, err = run(top, "--format", "csv", "--out", tmp_path / "answers.csv")
    assert len(err.splitlines()) == 6
    assert err.replace("\n", "").isprintable()


def test_long_runs_show_a_progress_bar(run: Run, broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ser_ft.cli.predict._BAR_DELAY", 0.0)
    _, out, err = run(broken, "--format", "jsonl")
    assert len(out.splitlines()) == 7
    assert "7/7" in err
    assert f"ser-ft: {broken}/clip 0b.wav: the file is empty\n" in err


HEAVY = ("torch", "transformers", "datasets", "pandas", "sklearn", "scipy", "matplotlib", "accelerate", "pyarrow")


def test_an_onnx_file_runs_without_torch(tiny_onnx: Path, run: Run, tree: Path) -> None:
    code = (
        "import sys; from ser_ft.cli import main; code = main(sys.argv[1:]);"
        f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    command = [sys.executable, "-c", code, "predict", tree, "--model", tiny_onnx, "--format", "jsonl"]
    process = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert process.returncode == 0
    assert process.stderr.strip() == "[]"
    _, out, _ = run(tree, "--format", "jsonl")
    for row, expected in zip(process.stdout.splitlines(), out.splitlines(), strict=True):
        assert json.loads(row)["scores"] == pytest.approx(json.loads(expected)["scores"], abs=1e-4)


def test_a_closed_pipe_is_not_an_error(tiny_onnx: Path, tree: Path) -> None:
    command = [sys.executable, "-m", "ser_ft.cli", "predict", str(tree), "--model", str(tiny_onnx), "--format", "jsonl"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_predictions_are_adapted_to_the_speakers_that_the_paths_name(
    run: Run, tree: Path, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ser_ft.inference.speaker_adaptation._DIVERSITY", (-1.0, -0.5))
    recognizer = EmotionRecognizer(tiny_run)
    files = sorted(tree.rglob("*.wav"), key=lambda file: (file.parent != tree, file))
    one_by_one = {str(file): recognizer(file)[0] for file in files}
    groups = {
        "all": [files],
        "folder": [files[:2], files[2:3], files[3:]],
        r"clip [0-3]|clip (\d)": [],
        r"clip (\d)": [[file] for file in files],
    }
    for adapt, speakers in groups.items():
        code, out, err = run(tree, "--format", "jsonl", "--adapt", adapt)
        if not speakers:
            assert (code, out) == (2, "")
            assert "names no speaker in" in err
            continue
        assert code == 0
        assert f"of {len(speakers)} speakers were adapted" in err
        predictions = {row["path"]: row for row in map(json.loads, out.splitlines())}
        assert list(predictions) == [
            row["path"] for row in map(json.loads, run(tree, "--format", "jsonl")[1].splitlines())
        ]
        for speaker in speakers:
            expected = recognizer.adapt_predictions([one_by_one[str(file)] for file in speaker])
            for file, clip in zip(speaker, expected, strict=True):
                assert predictions[str(file)]["adapted"] == clip["adapted"] == (len(speaker) if len(speaker) > 1 else 0)
                assert predictions[str(file)]["scores"] == pytest.approx(clip["scores"], abs=1e-4)
    adapted = recognizer.adapt(tree)
    assert adapted.speaker is not None
    adapted.speaker.save(tmp_path / "speaker.json")
    texts = [run(tree, "--format", "jsonl", "--adapt", adapt)[1] for adapt in (tmp_path / "speaker.json", "all")]
    for first, second in zip(*(map(json.loads, text.splitlines()) for text in texts), strict=True):
        assert first["scores"] == pytest.approx(second["scores"], abs=1e-5)
        assert first["adapted"] == second["adapted"]


@pytest.mark.parametrize(
    ("adapt", "message"),
    [("Actor_..", "put brackets around"), ("(", "not a regular expression"), ("x.json", "x.json: cannot be read")],
)
def test_a_wrong_adaptation_is_one_line_and_nothing_is_recognized(
    run: Run, tree: Path, adapt: str, message: str
) -> None:
    code, out, err = run(tree, "--adapt", adapt)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
