"""`ser-ft prepare`: exit codes, error messages in one line, and no partial output."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import datasets
import pytest

from ser_ft.cli import main
from ser_ft.data.prepare import open_prepared
from tests.helpers.corpus_files import RAVDESS, noise, write, write_zip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: good (RAVDESS), mine (a folder per emotion), text, empty."""
    write(tmp_path / "good", [RAVDESS.format(emotion=f"0{n}", actor=a) for n in range(1, 9) for a in ("01", "02")])
    write(tmp_path / "mine", ["happy/ann/1.wav", "sad/bob/1.wav"])
    write(tmp_path / "text", {"notes.txt": b"text", "table.csv": b"a,b\n1,2\n"})
    write(tmp_path / "thesis", {"thesis.txt": b"years of work"})
    write(tmp_path / "pointers", {"1001_DFA_ANG_XX.wav": b"version https://git-lfs.github.com/spec/v1\noid 1\n"})
    write_zip(tmp_path / "broken.zip", ["DC_a01.wav"]).write_bytes(b"PK")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("none --out out", "none: no such folder or archive"),
        ("good none --out out", "none: no such folder or archive"),
        ("empty --out out", "empty: no sound files found there"),
        ("good empty --out out", "empty: no sound files found there"),
        ("text --out out", "text: no sound files found there"),
        (
            "text/notes.txt --out out",
            "text/notes.txt: not a folder, a .zip archive, a manifest (.csv or .tsv) or a sound file",
        ),
        ("text/table.csv --out out", "text/table.csv: no column path and emotion"),
        ("broken.zip --out out", "broken.zip: not a zip archive that can be read"),
        ("pointers --out deep/out", "a git-LFS pointer instead of the sound: 1"),
        ("good --out out --labels nine", "unknown label scheme 'nine': use one of eight, seven, six, four"),
        ("good --out out --labels happy=", "--labels is written NAME=VALUE, not 'happy='"),
        ("good --out out --labels happy=good", "a label scheme needs at least two classes"),
        ("good --out out --labels boredom=a,shame=b", "its label is not in the label scheme: 16"),
        ("good --out out --calm loud", "calm must be one of keep, neutral, drop, not 'loud'"),
        ("good --out out --cremad-labels face", "cremad_labels must be one of"),
        ("good --out out --note tess=x", "a note is given for 'tess', and the data holds ravdess"),
        ("good --out out --note ravdess", "--note is written NAME=VALUE"),
        ("ravdess=good mine --out out", "either all roots must be written CORPUS=FOLDER, or none"),
        ("a=good a=mine --out out", "ROOT: a is given twice"),
        ("=good --out out", "ROOT is written NAME=VALUE, not '=good'"),
        ("a*b=good --out out", "the name of a corpus must consist of letters, digits, - and _, not 'a*b'"),
        ("tess=good --out out", "none of 16 files can be used: its name fits no corpus"),
        ("good --out thesis", "thesis: contains thesis.txt, which is not part of a prepared table"),
        ("good --out text/notes.txt", "text/notes.txt: cannot be written"),
        ("--out out", "name one or more folders of recordings, or `miniature`"),
        ("good", "the following arguments are required: --out (see ser-ft prepare --help)"),
        ("good --out out --loud", "unrecognized arguments: --loud"),
        ("--dataset nobody/nothing --out out", "the data set 'nobody/nothing' (split 'train') cannot be loaded"),
    ],
)
def test_wrong_input_is_refused_in_one_line_with_code_2(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: str, message: str
) -> None:
    before = contents(folder)
    assert main(["prepare", *arguments.split()]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    lines = [line for line in output.err.splitlines() if line and not line.startswith("reading")]
    assert len(lines) == 1, output.err
    assert lines[0].startswith("ser-ft: ")
    assert message in lines[0]
    written = contents(folder).items() - before.items()
    assert all(content is None or Path(path).name == "skipped.csv" for path, content in written)
    assert not written or "; all are listed in " in lines[0]


@pytest.mark.parametrize(
    ("arguments", "clips", "corpora"),
    [
        ("good", 16, {"ravdess"}),
        ("good mine", 18, {"ravdess", "mine"}),
        ("RAVDESS=good theirs=mine", 18, {"ravdess", "theirs"}),
        ("good --labels four --calm neutral", 10, {"ravdess"}),
        ("good --labels happy=good,joy=good,sad=bad", 4, {"ravdess"}),
    ],
)
def test_the_table_is_written_once(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: str, clips: int, corpora: set[str]
) -> None:
    assert main(["prepare", *arguments.split(), "--out", "deep/out"]) == 0
    output = capsys.readouterr().out
    assert output.startswith("corpus")
    assert f"written: deep/out (every skipped file: {Path('deep/out/skipped.csv')})" in output
    table = open_prepared("deep/out")
    assert (len(table), set(table["corpus"])) == (clips, corpora)
    before = contents(folder)
    assert main(["prepare", *arguments.split(), "--out", "deep/out"]) == 0
    assert "is up to date" in capsys.readouterr().out
    assert contents(folder) == before


def test_a_saved_data_set_is_prepared_by_its_columns(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = datasets.Dataset.from_dict({"sound": [noise("1"), noise("2")], "label": ["joy", "bored"]})
    table.save_to_disk("saved")
    arguments = "--dataset saved --columns audio=sound,emotion=label --name theirs --out out"
    assert main(["prepare", *arguments.split()]) == 0
    assert "theirs" in capsys.readouterr().out
    assert open_prepared("out")["id"][:] == ["theirs-000000"]


def test_debug_shows_the_traceback(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SER_FT_DEBUG", "")
    assert main(["prepare", "none", "--out", "out", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_runs_in_its_own_process(folder: Path) -> None:
    command = [sys.executable, "-c", "from ser_ft.cli import main; raise SystemExit(main())", "prepare"]
    result = subprocess.run([*command, "good", "--out", "out"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "ravdess" in result.stdout
    assert "reading" in result.stderr
    assert len(open_prepared("out")) == 16
