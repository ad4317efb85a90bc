"""The command `ser-ft predict`, as people and programs call it."""

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
import soundfile

from ser_ft.cli import main
from ser_ft.inference.recognizer import EmotionRecognizer

Ran = tuple[int, str, str]
Run = Callable[..., Ran]


@pytest.fixture
def run(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command with the tiny model; return its exit code, and what it wrote to stdout and stderr."""

    def ran(*arguments: str | Path) -> Ran:
        code = main(["predict", *map(str, arguments), "--model", str(tiny_run)])
        return code, *capsys.readouterr()

    return ran


@pytest.fixture
def broken(tree: Path) -> Path:
    """The tree, with an empty file in it."""
    (tree / "clip 0b.wav").touch()
    return tree


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_a_table_for_people(run: Run, tree: Path) -> None:
    code, out, err = run(tree)
    lines = out.splitlines()
    assert code == 0
    assert err == ""
    assert lines[0].split() == ["file", "emotion", "probability", "second", "best"]
    assert [line.split("  ")[0].strip() for line in lines[2:]] == [
        *(f"{tree}/clip {place}.wav" for place in range(2)),
        *(f"{tree}/actor {place // 3}/clip {place}.wav" for place in range(2, 6)),
    ]


def test_programs_get_what_the_class_answers(run: Run, tree: Path, tiny_run: Path) -> None:
    wanted = EmotionRecognizer(tiny_run)(tree)
    code, out, _ = run(tree, "--format", "json")
    assert code == 0
    for row, answer in zip(json.loads(out), wanted, strict=True):
        assert row["scores"] == pytest.approx(answer["scores"], abs=1e-6)
        assert all(row[name] == answer[name] for name in ("path", "emotion", "uncertain"))  # type: ignore[literal-required]
    _, lines, _ = run(tree, "--format", "jsonl")
    assert [json.loads(line) for line in lines.splitlines()] == json.loads(out)
    _, table, _ = run(tree, "--format", "csv")
    assert [row["emotion"] for row in csv.DictReader(io.StringIO(table))] == [answer["emotion"] for answer in wanted]


def test_a_bad_file_does_not_stop_the_rest(run: Run, broken: Path) -> None:
    code, out, err = run(broken, "--format", "jsonl")
    found = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    assert [("error" in row) for row in found] == [False, True, *[False] * 5]
    assert found[1] == {"path": f"{broken}/clip 0b.wav", "error": "the file is empty"}
    assert err.splitlines() == [
        f"ser-ft: {broken}/clip 0b.wav: the file is empty",
        "ser-ft: 1 of 7 files could not be recognized",
    ]


def test_a_named_file_is_tried_whatever_it_is_called(run: Run, tree: Path) -> None:
    named = (tree / "clip 0.wav").rename(tree / "recording")
    code, out, _ = run(named, tree / "none.wav", tree / "clip 1.wav", "--format", "jsonl")
    found = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    assert [Path(row["path"]).name for row in found] == ["recording", "none.wav", "clip 1.wav"]
    assert found[1]["error"] == "no such file"


@pytest.mark.parametrize("format", ["csv", "json", "jsonl", "table"])
def test_a_file_of_answers_is_what_stdout_would_be(run: Run, tree: Path, tmp_path: Path, format: str) -> None:
    _, wanted, _ = run(tree, "--format", format)
    out = tmp_path / "new" / f"answers.{format}"
    code, said, _ = run(tree, "--out", out)
    assert code == 0
    assert said == ""
    assert out.read_text(encoding="utf-8") == wanted


@pytest.mark.parametrize("format", ["csv", "jsonl"])
def test_a_broken_off_file_is_gone_on_with(run: Run, broken: Path, tmp_path: Path, format: str) -> None:
    whole, out = tmp_path / f"whole.{format}", tmp_path / f"answers.{format}"
    assert run(broken, "--out", whole)[0] == 1
    content = whole.read_bytes()
    for end in (0, 10, len(content) // 2, len(content) - 1):
        out.write_bytes(content[:end])
        assert run(broken, "--out", out, "--resume")[0] == 1
        # What failed is tried again, after what was answered.
        assert sorted(out.read_bytes().splitlines()) == sorted(content.splitlines())
    code, said, err = run(broken, "--out", out, "--resume")
    assert (code, said, err.splitlines()[-1]) == (1, "", "ser-ft: 1 of 1 files could not be recognized")
    (broken / "clip 0b.wav").write_bytes((broken / "clip 0.wav").read_bytes())
    assert run(broken, "--out", out, "--resume") == (0, "", "")
    mended = out.read_bytes()
    assert mended.count(b"clip 0b.wav") == 1
    assert b"the file is empty" not in mended
    # Nothing is left to do.
    assert run(broken, "--out", out, "--resume") == (0, "", "")
    assert out.read_bytes() == mended


@pytest.mark.parametrize("format", ["csv", "jsonl"])
def test_errors_of_other_files_stay_and_are_told(run: Run, broken: Path, tmp_path: Path, format: str) -> None:
    out = tmp_path / f"answers.{format}"
    run(broken, "--out", out)
    content = out.read_bytes()
    code, said, err = run(broken / "actor 0", "--out", out, "--resume")
    assert (code, said) == (1, "")
    assert err == f"ser-ft: {out}: contains errors of 1 more files, which were not passed\n"
    assert out.read_bytes() == content


def test_files_that_came_later_are_put_behind(run: Run, tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "answers.jsonl"
    run(tree / "actor 0", "--out", out)
    before = rows(out)
    assert run(tree, "--out", out, "--resume")[0] == 0
    assert rows(out)[: len(before)] == before
    assert len({row["path"] for row in rows(out)}) == len(rows(out)) == 6


@pytest.mark.parametrize(
    ("arguments", "said"),
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
def test_wrong_usage_is_one_line_and_a_code_of_2(
    run: Run, tree: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tree.parent)
    tree.rename("tree")
    Path("empty").mkdir()
    for name in ("there.jsonl", "there.json"):
        Path(name).write_text("mine\n")
    code, out, err = run(*arguments)
    assert code == 2
    assert out == ""
    assert said in err
    assert len(err.splitlines()) == 1
    assert Path("there.jsonl").read_text() == "mine\n"


def test_strange_names_reach_every_format(run: Run, voices: list[np.ndarray], tmp_path: Path) -> None:
    names = [
        "ümläut 日本語 😀.wav",
        "new\nline.wav",
        "\x1b[31mred.wav",
        f"{'long' * 60}.wav",
        os.fsdecode(b"caf\xe9.wav"),
    ]
    top = tmp_path / "recordings"
    top.mkdir()
    for name in names:
        with (top / name).open("wb") as file:
            soundfile.write(file, voices[0], 16_000, format="WAV")
    _, out, _ = run(top, "--format", "json", "--out", tmp_path / "answers.json")
    found = [row["path"] for row in json.loads((tmp_path / "answers.json").read_text(encoding="utf-8"))]
    assert sorted(found) == sorted(str(top / name) for name in names)
    code, out, err = run(top)
    assert code == 0
    assert "\x1b" not in out
    assert len(out.splitlines()) == 7
    for name in names:
        (top / name).write_bytes(b"")
    _, _, err = run(top, "--format", "csv", "--out", tmp_path / "answers.csv")
    assert len(err.splitlines()) == 6
    assert err.replace("\n", "").isprintable()


def test_what_takes_long_has_a_bar(run: Run, broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ser_ft.cli.predict._BAR_DELAY", 0.0)
    _, out, err = run(broken, "--format", "jsonl")
    assert len(out.splitlines()) == 7
    assert "7/7" in err
    assert f"ser-ft: {broken}/clip 0b.wav: the file is empty\n" in err


def python(code: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


HEAVY = ("torch", "transformers", "datasets", "pandas", "sklearn", "scipy", "matplotlib", "accelerate", "pyarrow")


def test_an_onnx_file_is_answered_without_torch(tiny_onnx: Path, run: Run, tree: Path) -> None:
    code = (
        "import sys; from ser_ft.cli import main; code = main(sys.argv[1:]);"
        f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    done = python(code, "predict", tree, "--model", tiny_onnx, "--format", "jsonl")
    assert done.returncode == 0
    assert done.stderr.strip() == "[]"
    _, out, _ = run(tree, "--format", "jsonl")
    for row, wanted in zip(done.stdout.splitlines(), out.splitlines(), strict=True):
        assert json.loads(row)["scores"] == pytest.approx(json.loads(wanted)["scores"], abs=1e-4)


def test_who_has_read_enough_is_no_error(tiny_onnx: Path, tree: Path) -> None:
    command = [sys.executable, "-m", "ser_ft.cli", "predict", str(tree), "--model", str(tiny_onnx), "--format", "jsonl"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1
