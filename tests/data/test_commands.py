"""`ser-ft prepare`: its exit codes, its one line on stderr, and that nothing is left half-written."""

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
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in: good (RAVDESS), mine (a folder per emotion), text, empty."""
    write(tmp_path / "good", [RAVDESS.format(emotion=f"0{n}", actor=a) for n in range(1, 9) for a in ("01", "02")])
    write(tmp_path / "mine", ["happy/ann/1.wav", "sad/bob/1.wav"])
    write(tmp_path / "text", {"notes.txt": b"text", "table.csv": b"a,b\n1,2\n"})
    write(tmp_path / "thesis", {"thesis.txt": b"years of work"})
    write(tmp_path / "pointers", {"1001_DFA_ANG_XX.wav": b"version https://git-lfs.github.com/spec/v1\noid 1\n"})
    write_zip(tmp_path / "broken.zip", ["DC_a01.wav"]).write_bytes(b"PK")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tree(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("none --out out", "none: no such folder or archive"),
        ("good none --out out", "none: no such folder or archive"),
        ("empty --out out", "empty: no sound files found there"),
        ("good empty --out out", "empty: no sound files found there"),
        ("text --out out", "text: no sound files found there"),
        ("text/notes.txt --out out", "text/notes.txt: not a folder, a .zip archive, a manifest (.csv) or a sound file"),
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
        ("tess=good --out out", "none of the recordings found there can be used (the file's name fits no corpus: 16)"),
        ("good --out thesis", "thesis: contains thesis.txt, which is not part of a prepared table"),
        ("good --out text/notes.txt", "text/notes.txt: cannot be written"),
        ("--out out", "name one or more folders of recordings, or `miniature`"),
        ("good", "the following arguments are required: --out (see ser-ft prepare --help)"),
        ("good --out out --loud", "unrecognized arguments: --loud"),
        ("--dataset nobody/nothing --out out", "the data set 'nobody/nothing' (split 'train') cannot be loaded"),
    ],
)
def test_wrong_input_is_one_line_and_code_2(
    home: Path, capsys: pytest.CaptureFixture[str], words: str, says: str
) -> None:
    before = tree(home)
    assert main(["prepare", *words.split()]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = [line for line in printed.err.splitlines() if line and not line.startswith("reading")]
    assert len(lines) == 1, printed.err
    assert lines[0].startswith("ser-ft: ")
    assert says in lines[0]
    assert tree(home) == before


@pytest.mark.parametrize(
    ("words", "clips", "corpora"),
    [
        ("good", 16, {"ravdess"}),
        ("good mine", 18, {"ravdess", "mine"}),
        ("RAVDESS=good theirs=mine", 18, {"ravdess", "theirs"}),
        ("good --labels four --calm neutral", 10, {"ravdess"}),
        ("good --labels happy=good,joy=good,sad=bad", 4, {"ravdess"}),
    ],
)
def test_what_is_written(
    home: Path, capsys: pytest.CaptureFixture[str], words: str, clips: int, corpora: set[str]
) -> None:
    assert main(["prepare", *words.split(), "--out", "deep/out"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("corpus")
    assert f"written: deep/out (every skipped file: {Path('deep/out/skipped.csv')})" in printed
    table = open_prepared("deep/out")
    assert (len(table), set(table["corpus"])) == (clips, corpora)
    before = tree(home)
    assert main(["prepare", *words.split(), "--out", "deep/out"]) == 0
    assert "is up to date" in capsys.readouterr().out
    assert tree(home) == before


def test_a_data_set_of_another_kind(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = datasets.Dataset.from_dict({"sound": [noise("1"), noise("2")], "felt": ["joy", "bored"]})
    table.save_to_disk("saved")
    words = "--dataset saved --columns audio=sound,emotion=felt --name theirs --out out"
    assert main(["prepare", *words.split()]) == 0
    assert "theirs" in capsys.readouterr().out
    assert open_prepared("out")["id"][:] == ["theirs-000000"]


def test_debug_shows_the_trace(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SER_FT_DEBUG", "")
    assert main(["prepare", "none", "--out", "out", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_itself(home: Path) -> None:
    command = [sys.executable, "-c", "from ser_ft.cli import main; raise SystemExit(main())", "prepare"]
    done = subprocess.run([*command, "none", "--out", "out"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "ser-ft: none: no such folder or archive\n"
    done = subprocess.run([*command, "good", "--out", "out"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "ravdess" in done.stdout
    assert "reading" in done.stderr
    assert len(open_prepared("out")) == 16
