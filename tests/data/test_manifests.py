"""Manifests as people write them: separators, encodings, columns, files and labels, and the messages about them."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import datasets
import pytest

from ser_ft.data.builder import read_skipped
from ser_ft.data.hub_import import catalog_from_table
from ser_ft.data.prepare import open_prepared, prepare
from ser_ft.labels import make_scheme
from ser_ft.utils.errors import InputError
from tests.helpers.corpus_files import (
    actor_clips,
    catalog_of,
    decoded,
    noise,
    reasons,
    sounds_of,
    speakers_and_labels,
    write,
    write_zip,
)

FILES = ["a/1.wav", "a/2.wav", "b/3.wav"]
EXPECTED = {"x-a/1": ("x-Jörg", "angry"), "x-a/2": ("x-Jörg", "happy"), "x-b/3": ("x-Zoé", "fear")}
NFC, NFD = "Jörg", unicodedata.normalize("NFD", "Jörg")

# Name -> end of line, lines.
TABLES: dict[str, tuple[str, list[str]]] = {
    "Excel, German": (
        "\r\n",
        [
            "\ufeffpath;emotion;speaker;age;gender",
            "a/1.wav;Wut;Jörg;23,5;m",
            "a/2.wav;Freude;Jörg;23,5;männlich",
            "b/3.wav;Angst;Zoé;31;w",
            ";;;;",
            "",
        ],
    ),
    "Excel, French": (
        "\r\n",
        [
            "sep=;",
            '"path";"emotion";"speaker"',
            '"a/1.wav";"Colère";"Jörg"',
            '"a/2.wav";"JOIE ";"Jörg"',
            '"b/3.wav";"peur";"Zoé"',
            "",
        ],
    ),
    "Excel, Unicode text": (
        "\r\n",
        ["path\temotion\tspeaker", "a/1.wav\tira\tJörg", "a/2.wav\talegria\tJörg", "b/3.wav\tmiedo\tZoé"],
    ),
    "Common Voice": (
        "\n",
        [
            "client_id\tpath\tsentence\tage\tgender\tlocale\temotion",
            'Jörg\ta/1.wav\t"Oh" he\t\tmale_masculine\ten\tang',
            'Jörg\ta/2.wav\tWhy "not\t\t\ten\thap',
            "Zoé\tb/3.wav\tNo\t\t\ten\tfea",
            "",
        ],
    ),
    "audiofolder": (
        "\n",
        ["file_name,label,speaker_id", "a/1.wav,angry,Jörg", "a/2.wav,joy,Jörg", "b/3.wav,fear,Zoé", ""],
    ),
    "capitals, spaces, empty lines": (
        "\n",
        [
            "",
            "",
            "PATH , EMOTION , Speaker ",
            " a/1.wav , ANGRY , Jörg ",
            "",
            " a/2.WAV,Happy , Jörg",
            "b/3.wav,FEARFUL,Zoé",
            "",
            "",
        ],
    ),
    "quotes and line ends of old Macs": (
        "\r",
        [
            "Filename,Emotion,Speaker,Statement",
            'a/1.wav,Rabbia,Jörg,"Oh, no"',
            "a/2.wav,Gioia,Jörg,",
            "b/3.wav,Paura,Zoé,x",
            "",
        ],
    ),
    "vertical bars": (
        "\n",
        ["file|emotion|speaker", "a/1.wav|anger|Jörg", "a/2.wav|happiness|Jörg", "b/3.wav|afraid|Zoé", ""],
    ),
    "numbers of rows": (
        "\n",
        [
            ",File Path,emotion,speaker",
            "0,./a/1.wav,angry,Jörg",
            "1,a\\2.wav,happy,Jörg",
            "2,a/../b/3.wav,fear,Zoé",
            "",
        ],
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_read_as_its_program_writes_it(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / "x", FILES) / "manifest.csv"
    end, lines = TABLES[name]
    file.write_bytes(end.join(lines).encode("utf-16" if "Unicode" in name else "utf-8"))
    catalog = catalog_of(tmp_path / "x")
    assert speakers_and_labels(catalog) == EXPECTED
    assert not catalog.skipped
    assert name != "Excel, German" or [clip.utterance.age for clip in catalog.clips] == [23, 23, 31]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("path;emotion\nfröhlich.wav;sad\n".encode("latin-1"), "line 2 is not text in UTF-8: save it as UTF-8"),
        ("path,emotion\na/1.wav,sad\n".encode("utf-16-le"), "line 1 is not text in UTF-8"),
        (b"PK\x03\x04\x14\x00\xff\xfe", "line 1 is not text in UTF-8: save it as UTF-8 (in Excel: Save As, CSV UTF-8"),
        (b"Datei;Emotion\na/1.wav;Wut\n", "no column path: a manifest needs the columns path (or file_name) and"),
        (b"a/1.wav,sad\n", "its first line is 'a/1.wav,sad'"),
        (b"path,emotion,Emotion\na/1.wav,sad,x\n", "two columns are called emotion"),
        (
            b'path,emotion,statement\na/1.wav,sad,x\na/2.wav,sad,"Oh\nb/3.wav,sad,x\n',
            "manifest.csv, line 3: a quotation",
        ),
    ],
)
def test_what_is_wrong_with_a_table_is_said_in_one_line(tmp_path: Path, table: bytes, message: str) -> None:
    (write(tmp_path, FILES) / "manifest.csv").write_bytes(table)
    with pytest.raises(InputError, match=re.escape(message)):
        catalog_of(tmp_path)


def test_a_text_with_separators_and_no_quotes_does_not_shift_cells(tmp_path: Path) -> None:
    table = "path,emotion,statement,speaker\na/1.wav,sad,Oh, no,Ann\na/2.wav,sad,,Ann\nb/3.wav,sad,,Bob\n"
    (write(tmp_path / "x", FILES) / "manifest.csv").write_text(table)
    catalog = catalog_of(tmp_path / "x")
    assert {clip.utterance.speaker for clip in catalog.clips} == {"x-Ann", "x-Bob"}
    (skip,) = catalog.skipped
    advice = "put quotation marks around texts that contain ','"
    assert (skip.reason, skip.detail) == ("incomplete", f"line 2: more cells than columns: {advice}")


@pytest.mark.parametrize("where", ["folder", "manifest", "zip", "folder of folders"])
@pytest.mark.parametrize(("on_disk", "in_table"), [(NFD, NFC), (NFC, NFD)])
def test_names_from_macos_and_from_elsewhere_are_the_same(
    tmp_path: Path, where: str, on_disk: str, in_table: str
) -> None:
    names = [f"{on_disk}/{on_disk}.wav", "Ann/1.wav"]
    if where == "folder of folders":
        root = write(tmp_path / "x", [f"{name}/A\u0308rger/1.wav" for name in (on_disk, "Ann")])
        assert set(speakers_and_labels(catalog_of(root))) == {f"x-{name}/Ärger/1" for name in (NFC, "Ann")}
        return
    table = f"path,emotion,speaker\n{in_table}/{in_table}.wav,A\u0308rger,{on_disk}\nAnn/1.wav,happy,{in_table}\n"
    files = {name: noise(name) for name in names} | {"manifest.csv": table.encode()}
    root = write_zip(tmp_path / "x.zip", files) if where == "zip" else write(tmp_path / "x", files)
    catalog = catalog_of(root / "manifest.csv" if where == "manifest" else root)
    assert speakers_and_labels(catalog) == {
        f"x-{NFC}/{NFC}": (f"x-{NFC}", "angry"),
        "x-Ann/1": (f"x-{NFC}", "happy"),
    }
    assert sounds_of(catalog) == [decoded(name) for name in names]
    assert not catalog.skipped


def test_files_whose_names_differ_only_in_form_or_case_are_not_confused(tmp_path: Path) -> None:
    root = write(tmp_path / "x", [f"{NFC}.wav", f"{NFD}.wav", "ann.wav", "ANN.wav"])
    rows = [f"{NFC}.wav,sad", f"{NFD}.wav,happy", "ann.wav,sad", "ANN.wav,happy", "Ann.wav,fear"]
    (root / "manifest.csv").write_text("\n".join(["path,emotion", *rows]))
    catalog = catalog_of(root)
    labels = {sound: clip.label for sound, clip in zip(sounds_of(catalog), catalog.clips, strict=True)}
    assert (labels[decoded("ann.wav")], labels[decoded("ANN.wav")]) == ("sad", "happy")
    assert reasons(catalog)["Ann.wav"] == "not-found"


@pytest.mark.parametrize("spelling", ["a/1.wav", "./a/1.wav", "a\\1.wav", "A/1.WAV", "absolute"])
def test_one_path_under_two_labels_is_not_kept(tmp_path: Path, spelling: str) -> None:
    root = write(tmp_path / "x", FILES)
    again = str((root / "a/1.wav").resolve()) if spelling == "absolute" else spelling
    rows = ["a/1.wav,angry", "a/2.wav,joy", f"{again},sad", "a/2.wav,happy"]
    (root / "manifest.csv").write_text("\n".join(["path,emotion", *rows]))
    catalog = catalog_of(root)
    assert [clip.utterance.id for clip in catalog.clips] == ["x-a/2"]
    assert [(skip.reason, skip.detail) for skip in catalog.skipped] == [
        ("two-labels", "angry in line 2, sad in line 4"),
        ("same-name", "the clip of line 3"),
        ("not-listed", "not named in the manifest"),
    ]


def test_clips_whose_names_differ_only_in_their_suffix_are_all_kept(tmp_path: Path) -> None:
    root = write(tmp_path / "x", ["0.wav", "0.flac", "1.wav"])
    (root / "manifest.csv").write_text("path,emotion\n0.wav,sad\n0.flac,fear\n1.wav,sad\n")
    assert list(speakers_and_labels(catalog_of(root))) == ["x-0.wav", "x-0.flac", "x-1"]
    root = write(tmp_path / "y", ["sad/0.wav", "sad/0.mp3", "sad/1.wav"])
    catalog = catalog_of(root)
    assert set(speakers_and_labels(catalog)) == {"y-sad/0.wav", "y-sad/0.mp3", "y-sad/1"}
    assert not catalog.skipped
    write_zip(root / "sad.zip", ["1.wav"])  # an archive and what was unpacked from it
    assert reasons(catalog_of(root)) == {"1.wav": "same-name"}


@pytest.mark.parametrize(
    ("path", "detail"),
    [
        ("gone.wav", "line 2: no such file"),
        ("wavs/1.wav", "line 2: no such file; a file of this name is ROOT/a/1.wav"),
        ("a/1", "line 2: no such file; a file of this name is ROOT/a/1.wav"),
        ("C:\\data\\1.wav", "line 2: a path of a Windows computer; a file of this name is ROOT/a/1.wav"),
        ("\\\\server\\data\\8.wav", "line 2: a path of a Windows computer"),
        ("link.wav", "line 2: a link to a file that does not exist"),
        (
            "/home/ann/1.wav",
            "line 2: outside of ROOT: pass the manifest itself as a root; a file of this name",
        ),
        ("a/1.wav/2.wav", "line 2: no such file; a file of this name is ROOT/a/2.wav"),
    ],
)
def test_a_missing_file_is_not_found_and_the_reason_helps(tmp_path: Path, path: str, detail: str) -> None:
    root = write(tmp_path / "x", FILES)
    (root / "link.wav").symlink_to(root / "nothing.wav")
    (root / "manifest.csv").write_text(f"path,emotion\n{path},sad\na/2.wav,sad\nb/3.wav,sad\n")
    skip = next(skip for skip in catalog_of(root).skipped if skip.path == path)
    assert skip.detail.startswith(detail.replace("ROOT", str(root)))
    assert ("; a file of this name" in skip.detail) == ("; a file of this name" in detail)
    assert skip.reason == ("outside" if path.startswith("/") else "not-found")


def test_the_metadata_of_audiofolder_is_read(tmp_path: Path) -> None:
    root = write(tmp_path / "x", ["train/1.wav", "test/1.wav"])
    table = "file_name,label,speaker\ntrain/1.wav,anger,7\ntest/1.wav,joy,8\n"
    (root / "metadata.csv").write_text(table)
    expected = {"x-train/1": ("x-7", "angry"), "x-test/1": ("x-8", "happy")}
    assert speakers_and_labels(catalog_of(root)) == expected
    (root / "metadata.csv").unlink()
    for part, row in (("train", "anger,7"), ("test", "joy,8")):
        (root / part / "metadata.csv").write_text(f"file_name,label,speaker\n1.wav,{row}\n")
    assert speakers_and_labels(catalog_of(root)) == expected


def test_metadata_of_another_program_does_not_hide_the_names_of_files(tmp_path: Path) -> None:
    root = write(tmp_path / "x", actor_clips(1))
    (root / "metadata.csv").write_text("path,emotion\n" + "".join(f"{name},sad\n" for name in actor_clips(1)))
    assert len({clip.label for clip in catalog_of(root).clips}) == 8
    root = write(tmp_path / "y", ["sad/1.wav"])
    (root / "metadata.csv").write_text("1|oh no\n")
    catalog = catalog_of(root)
    assert [clip.label for clip in catalog.clips] == ["sad"]
    assert reasons(catalog) == {"metadata.csv": "unused-manifest"}


@pytest.mark.parametrize("kind", ["integers", "floats of pandas", "integers on the Hub", "floats on the Hub"])
def test_numbers_as_labels_are_explained_and_can_be_mapped(tmp_path: Path, kind: str) -> None:
    numbers = [0.0, 1.0, 0.0] if "floats" in kind else [0, 1, 0]
    scheme = {"0": "calm", "1": "upset"}
    if "Hub" in kind:
        columns = {"audio": [{"bytes": noise(name), "path": None} for name in FILES], "emotion": numbers}
        table = datasets.Dataset.from_dict(columns)
        with pytest.raises(InputError) as error:
            catalog_from_table(table, "x", {}, make_scheme())
        catalog = catalog_from_table(table, "x", {}, make_scheme(scheme))
    else:
        rows = [f"{file},{number}\n" for file, number in zip(FILES, numbers, strict=True)]
        (write(tmp_path / "x", FILES) / "manifest.csv").write_text("path,emotion\n" + "".join(rows))
        with pytest.raises(InputError) as error:
            catalog_of(tmp_path / "x")
        catalog = catalog_of(tmp_path / "x", scheme)
    assert "its label is no known emotion: 3; for example" in str(error.value)
    assert "numbers have the meaning that the data's description gives" in str(error.value)
    assert "--labels 0=CLASS,1=CLASS" in str(error.value)
    assert [clip.label for clip in catalog.clips] == ["calm", "upset", "calm"]


def test_a_speaker_called_like_an_emotion_gives_no_wrong_label(tmp_path: Path) -> None:
    catalog = catalog_of(write(tmp_path / "x", ["sad/Joy/1.wav", "happy/Bob/1.wav", "Joy/happy/2.wav"]))
    assert {name: label for name, (_, label) in speakers_and_labels(catalog).items()} == {
        "x-happy/Bob/1": "happy",
        "x-Joy/happy/2": "happy",
    }
    (skip,) = catalog.skipped
    assert (skip.reason, skip.detail) == ("two-labels", "the folders 'sad' and 'Joy' are both emotions: rename one")


def test_the_list_of_skipped_files_is_written_when_nothing_is_left_and_no_table_is_lost(tmp_path: Path) -> None:
    root, out = write(tmp_path / "x", FILES), tmp_path / "out"
    (root / "manifest.csv").write_text("path,emotion\na/1.wav,boredom\na/2.wav,boredom\nb/9.wav,sad\n")
    for _ in range(2):
        with pytest.raises(InputError, match=re.escape(f"all are listed in {out / 'skipped.csv'}")):
            prepare(root, out, verbose=False)
    found = [(skip.reason, skip.detail) for skip in read_skipped(out / "skipped.csv")]
    labels = [("unknown-label", "the label 'boredom'")] * 2
    assert found == [("not-found", "line 4: no such file"), ("not-listed", "not named in the manifest"), *labels]
    (root / "manifest.csv").write_text("path,emotion\na/1.wav,happy\na/2.wav,sad\nb/3.wav,sad\n")
    assert len(prepare(root, out, verbose=False)) == 3
    (root / "manifest.csv").write_text("path,emotion\na/1.wav,boredom\n")
    with pytest.raises(InputError, match=r"skipped_in_failed_run\.csv"):
        prepare(root, out, verbose=False)
    assert len(open_prepared(out)) == 3
    assert len(read_skipped(out / "skipped_in_failed_run.csv")) == 3


LOSSES: dict[str, tuple[list[str], dict[str, str], str | None]] = {
    "unknown labels": (
        ["sad,1", "boredom,2", "shame,3"],
        {},
        "2 of 3 files are skipped: its label is no known emotion: ",
    ),
    "missing files": (
        ["sad,1", "sad,8", "sad,9"],
        {},
        "of 5 files are skipped: there is no such file: 2; not named in",
    ),
    "not listed": (["sad,1"], {}, "2 of 3 files are skipped: not named in the manifest: 2; for example"),
    "half": (["sad,1", "sad,2", "boredom,3"], {}, None),
    "a smaller scheme": (["sad,1", "fear,2", "disgust,3"], {"labels": "four"}, None),
    "listed twice": (["sad,1", "sad,1", "sad,1", "sad,2", "sad,3"], {}, None),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_table_without_most_of_the_files_is_not_passed_over_in_silence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    rows, options, warning = LOSSES[name]
    root, out = write(tmp_path / "x", ["1.wav", "2.wav", "3.wav"]), tmp_path / "out"
    (root / "manifest.csv").write_text("\n".join(["emotion,path", *(f"{row}.wav" for row in rows)]))
    for _ in range(2):  # said again if nothing has changed
        prepare(root, out, **options, verbose=False)
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ser-ft: ")]
        if warning is None:
            assert not lines
        else:
            (line,) = lines
            assert warning in line
            assert line.endswith(f"all are listed in {out / 'skipped.csv'}")
