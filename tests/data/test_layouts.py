"""Folder layouts of the corpora and of the user's own recordings, archives and manifests."""

from __future__ import annotations

import re
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from ser_ft.audio import decode, to_wav
from ser_ft.utils.errors import InputError
from tests.helpers import corpus_files
from tests.helpers.corpus_files import (
    catalog_of,
    decoded,
    labels_of,
    load,
    noise,
    reasons,
    skipped,
    sounds_of,
    write,
    write_zip,
)

RAVDESS = {
    "03-01-01-01-01-01-01": ("ravdess-01", "neutral"),
    "03-01-05-02-01-01-01": ("ravdess-01", "angry"),
    "03-01-08-01-02-01-12": ("ravdess-12", "surprise"),
}
SAVEE = {"DC_a01": ("savee-DC", "angry"), "DC_sa02": ("savee-DC", "sad"), "KL_n30": ("savee-KL", "neutral")}
TESS = {
    "OAF_back_fear": ("tess-OAF", "fear"),
    "OAF_bar_ps": ("tess-OAF", "surprise"),
    "YAF_back_ps": ("tess-YAF", "surprise"),
    "YAF_germ_angry": ("tess-YAF", "angry"),
}
CREMAD = {"1001_DFA_ANG_XX": ("cremad-1001", "angry"), "1040_ITH_SAD_XX": ("cremad-1040", "sad")}


def ravdess_in(folder: str, suffix: str = ".wav") -> list[str]:
    return [f"{folder}Actor_{name[-2:]}/{name}{suffix}" for name in RAVDESS]


def ids(corpus: str, clips: dict[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    return {f"{corpus}-{name}": metadata for name, metadata in clips.items()}


LAYOUTS = {
    "RAVDESS, official": ("ravdess", RAVDESS, ravdess_in("Audio_Speech_Actors_01-24/"), {}),
    "RAVDESS, flat": ("ravdess", RAVDESS, [f"{name}.wav" for name in RAVDESS], {}),
    "RAVDESS, upper case": ("ravdess", RAVDESS, ravdess_in("", ".WAV"), {}),
    "RAVDESS, Kaggle's nested copy": (
        "ravdess", RAVDESS, ravdess_in("") + ravdess_in("audio_speech_actors_01-24/"), {"same-name": 3},
    ),
    "RAVDESS, two formats": ("ravdess", RAVDESS, ravdess_in("") + ravdess_in("", ".flac"), {"same-name": 3}),
    "TESS, spellings of its folders": (
        "tess", TESS,
        ["OAF_Fear/OAF_back_fear.wav", "OAF_Pleasant_surprise/OAF_bar_ps.wav",
         "YAF_pleasant_surprised/YAF_back_ps.wav", "YAF_angry/YAF_germ_angry.wav"],
        {},
    ),
    "TESS, Kaggle's nested copy": (
        "tess", TESS,
        [f"{'TESS Toronto emotional speech set data/' * depth}OAF_x/{name}.wav" for name in TESS for depth in (1, 2)],
        {"same-name": 4},
    ),
    "TESS, lower case": ("tess", TESS, [f"oaf_fear/{name.lower()}.wav" for name in TESS], {}),
    "CREMA-D, official": ("cremad", CREMAD, [f"AudioWAV/{name}.wav" for name in CREMAD], {}),
    "CREMA-D, lower case": ("cremad", CREMAD, [f"{name.lower()}.WAV" for name in CREMAD], {}),
    "CREMA-D, the short name": ("cremad", CREMAD, ["1001_DFA_ANG_XX.wav", "1040_ITH_SAD_X.wav"], {}),
    "CREMA-D, both names": (
        "cremad", CREMAD, [f"{name}.wav" for name in (*CREMAD, "1040_ITH_SAD_X")], {"same-name": 1},
    ),
    "CREMA-D, MP3 too": (
        "cremad", CREMAD,
        [f"Audio{kind.upper()}/{name}.{kind}" for name in CREMAD for kind in ("mp3", "wav")], {"same-name": 2},
    ),
    "CREMA-D, clips known to be bad": (
        "cremad", CREMAD,
        [f"{name}.wav" for name in (*CREMAD, "1076_MTI_SAD_XX", "1013_WSI_DIS_XX", "1013_WSI_SAD_XX")],
        {"known-bad": 3},
    ),
    "SAVEE, official": ("savee", SAVEE, [f"AudioData/{name.replace('_', '/')}.wav" for name in SAVEE], {}),
    "SAVEE, flat": ("savee", SAVEE, [f"ALL/{name}.wav" for name in SAVEE], {}),
    "SAVEE, lower case": ("savee", SAVEE, [f"{name.lower().replace('_', '/')}.WAV" for name in SAVEE], {}),
    "among other files": (
        "savee", SAVEE, [*(f"{name}.wav" for name in SAVEE), "Thumbs.db", "README.txt", "music.wav", "._DC_a01.wav"],
        {"unknown-name": 1, "resource-fork": 1},
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("where", ["folder", "zip", "named"])
def test_the_layouts_of_the_corpora_are_read(tmp_path: Path, layout: str, where: str) -> None:
    corpus, clips, files, skip_counts = LAYOUTS[layout]
    if where == "zip":
        catalog = catalog_of(write_zip(tmp_path / "corpus.zip", files))
    else:
        root = write(tmp_path / "corpus", files)
        catalog = catalog_of(root if where == "folder" else {"CREMA-D" if corpus == "cremad" else corpus.upper(): root})
    assert corpus_files.speakers_and_labels(catalog) == ids(corpus, clips)
    assert Counter(skip.reason for skip in catalog.skipped) == skip_counts


def test_all_corpora_below_one_folder_in_archives(tmp_path: Path) -> None:
    root = write(tmp_path / "data", ravdess_in("RAVDESS/"))
    write(root, [f"SAVEE/{name}.wav" for name in SAVEE])
    write_zip(root / "SAVEE.zip", [f"{name}.wav" for name in SAVEE])
    write_zip(root / "down" / "tess.zip", [f"TESS/OAF_x/{name}.wav" for name in TESS])
    write_zip(root / "down" / "CREMA-D.ZIP", [f"CREMA-D\\AudioWAV\\{name}.wav" for name in CREMAD])
    table = load(root, tmp_path / "cache")
    expected = ids("ravdess", RAVDESS) | ids("savee", SAVEE) | ids("tess", TESS) | ids("cremad", CREMAD)
    assert labels_of(table) == {name: label for name, (_, label) in expected.items()}
    speakers = dict(zip(table["id"], table["speaker"], strict=True))
    assert speakers == {name: speaker for name, (speaker, _) in expected.items()}
    assert skipped(table) == {f"{name}.wav": "same-name" for name in SAVEE}
    inside = table.filter(lambda name: name == "tess-OAF_back_fear", input_columns="id")[0]
    assert inside["path"] == f"zip://TESS/OAF_x/OAF_back_fear.wav::{root / 'down' / 'tess.zip'}"
    assert inside["audio"]["bytes"] == to_wav(decode(noise("TESS/OAF_x/OAF_back_fear.wav")))


def test_lossless_and_complete_copies_are_preferred(tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n"
    worse = {"1001_DFA_ANG_XX.mp3": noise("mp3"), "1001_DFA_SAD_XX.wav": pointer, "1001_DFA_HAP_XX.wav": b""}
    better = ["1001_DFA_ANG_XX.wav", "1001_DFA_SAD_XX.mp3", "1001_DFA_HAP_XX.wav"]
    catalog = catalog_of([write(tmp_path / "a", worse), write(tmp_path / "b", better)])
    assert {Path(clip.path).relative_to(tmp_path).as_posix() for clip in catalog.clips} == {f"b/{n}" for n in better}


def test_song_is_optional_and_video_is_skipped(tmp_path: Path) -> None:
    speech, song, video = "03-01-05-01-01-01-01", "03-02-05-01-01-01-01", "01-01-05-01-01-01-01.mp4"
    root = write(tmp_path / "ravdess", [f"{speech}.wav", f"{song}.wav", video])
    catalog = catalog_of(root)
    assert [clip.utterance.id for clip in catalog.clips] == [f"ravdess-{speech}"]
    assert reasons(catalog) == {f"{song}.wav": "song", video: "other-recording"}
    catalog = catalog_of(root, include_song=True)
    assert [clip.utterance.id for clip in catalog.clips] == [f"ravdess-{speech}", f"ravdess-{song}"]
    assert reasons(catalog) == {video: "other-recording"}


def test_link_cycles_and_hidden_folders_are_skipped(tmp_path: Path) -> None:
    root = write(tmp_path / "x", ["DC_a01.wav", ".trash/DC_a02.wav", "__MACOSX/DC_a03.wav", "in/DC_a04.wav"])
    (root / "in" / "again").symlink_to(root, target_is_directory=True)
    (root / "DC_a05.wav").symlink_to("gone.wav")
    catalog = catalog_of(root)
    assert list(corpus_files.speakers_and_labels(catalog)) == ["savee-DC_a01", "savee-DC_a04"]
    assert reasons(catalog) == {"DC_a05.wav": "not-found"}


FOLDERS = {
    "EMOTION/clip": (["Anger/x.wav", "fearful/y.wav", "fearful/z.wav"], {"angry": 1, "fear": 2}, {"unknown"}),
    "EMOTION/SPEAKER/clip": (
        ["happy/ann/1.wav", "happy/bob/1.wav", "sad/ann/1.wav"],
        {"happy": 2, "sad": 1},
        {"ann", "bob"},
    ),
    "SPEAKER/EMOTION/clip": (["ann/Happiness/1.flac", "bob/sad/1.ogg"], {"happy": 1, "sad": 1}, {"ann", "bob"}),
    "deeper": (["v1/ann/sad/1.wav", "v1/bob/angry/2024/1.wav"], {"sad": 1, "angry": 1}, {"ann", "2024"}),
    "parts of a split": (
        ["train/angry/1.wav", "Test/angry/2.wav", "sad/VAL/3.wav", "mine/dev_set/sad/4.wav", "happy/eval2/5.wav"],
        {"angry": 2, "sad": 2, "happy": 1},
        {"unknown"},
    ),
    "containers": (
        ["data/sad/1.wav", "sad/wav/2.wav", "Augmented_Audio/sad/3.wav", "sad/raw data/4.wav", "16 kHz/sad/mp3/5.wav"],
        {"sad": 5},
        {"unknown"},
    ),
    "speakers among them": (
        [
            "train/ann/sad/1.wav",
            "sad/test/bob/wav/2.wav",
            "cy/audio/sad/3.wav",
            "sad/female/f02/4.wav",
            "sad/7/raw/5.wav",
        ],
        {"sad": 5},
        {"ann", "bob", "cy", "f02", "7"},
    ),
    "similar joined names": (["happy/a/b_c.wav", "happy/a_b/c.wav"], {"happy": 2}, {"a", "a_b"}),
}


@pytest.mark.parametrize("where", ["folder", "zip", "named"])
@pytest.mark.parametrize("layout", FOLDERS)
def test_a_folder_per_emotion_is_read(tmp_path: Path, layout: str, where: str) -> None:
    files, labels, speakers = FOLDERS[layout]
    if where == "zip":
        catalog = catalog_of(write_zip(tmp_path / "mine.zip", files))
    else:
        root = write(tmp_path / "mine", files)
        catalog = catalog_of({"mine": root} if where == "named" else root)
    assert Counter(clip.label for clip in catalog.clips) == labels
    assert {clip.utterance.speaker for clip in catalog.clips} == {f"mine-{name}" for name in speakers}
    assert len(corpus_files.speakers_and_labels(catalog)) == len(files)
    assert not catalog.skipped


def test_folders_of_a_gender_name_the_gender_and_no_speaker(tmp_path: Path) -> None:
    genders = {
        "female/sad/1.wav": "female", "sad/Male/2.wav": "male", "m/train/sad/3.wav": "male", "sad/4.wav": None,
        "Women_voices/sad/5.wav": "female", "sad/female/ann/6.wav": "female",
    }  # fmt: skip
    catalog = catalog_of(write(tmp_path / "mine", list(genders)))
    assert {f"{clip.utterance.id[5:]}.wav": clip.utterance.gender for clip in catalog.clips} == genders
    assert {clip.utterance.speaker for clip in catalog.clips} == {"mine-unknown", "mine-ann"}


def test_folders_that_are_no_emotion_are_skipped(tmp_path: Path) -> None:
    files = ["happy/1.wav", "boredom/2.wav", "3.wav"]
    catalog = catalog_of({"mine": write(tmp_path / "named", files)})
    assert reasons(catalog) == {"2.wav": "unknown-label", "3.wav": "unknown-name"}
    catalog = catalog_of(write(tmp_path / "unnamed", files))
    assert reasons(catalog) == {"2.wav": "unknown-name", "3.wav": "unknown-name"}
    catalog = catalog_of(tmp_path / "unnamed", {"boredom": "low", "happy": "high"})
    assert {clip.label for clip in catalog.clips} == {"low", "high"}


def test_two_folders_of_one_name_are_two_corpora(tmp_path: Path) -> None:
    roots = [write(tmp_path / place / "data", {"happy/1.wav": noise(place)}) for place in ("a", "b")]
    assert [clip.utterance.id for clip in catalog_of(roots).clips] == ["data-happy/1", "data-2-happy/1"]
    with pytest.raises(InputError, match="no folder was named"):
        catalog_of([])


def test_user_recordings_and_a_corpus_are_read_together(tmp_path: Path) -> None:
    root = write(tmp_path / "all", ["DC_a01.wav", "mine/happy/ann/1.wav"])
    assert corpus_files.speakers_and_labels(catalog_of(root)) == {
        "savee-DC_a01": ("savee-DC", "angry"),
        "all-mine/happy/ann/1": ("all-ann", "happy"),
    }
    catalog = catalog_of(write(tmp_path / "savee", ["happy/1.wav"]))
    assert corpus_files.speakers_and_labels(catalog) == {"savee-own-happy/1": ("savee-own-unknown", "happy")}


def test_names_that_are_not_utf8_are_escaped(tmp_path: Path) -> None:
    root = write(tmp_path / "mine", ["happy/1.wav"])
    for name in (b"fr\xf6hlich.wav", b"fr\xe4hlich.wav"):
        (root / "happy" / name.decode("utf-8", "surrogateescape")).write_bytes(noise(repr(name)))
    (root / "happy" / b"leer\xff.wav".decode("utf-8", "surrogateescape")).write_bytes(b"")
    table = load(root, tmp_path / "cache")
    assert set(table["id"]) == {"mine-happy/1", "mine-happy/fr\\xf6hlich", "mine-happy/fr\\xe4hlich"}
    assert skipped(table) == {"leer\\xff.wav": "empty"}


MANIFEST = """\ufeffPath, Emotion,speaker,gender,age,intensity,statement,language,mood
a/1.wav,Anger,7,F,41.0,strong,Oh no,de,x
./a/2.wav,happy,,,,,,,
a\\3.wav,sad,8,other,,,,,
,,,,,,,,
"""


@pytest.mark.parametrize("where", ["manifest", "folder", "zip", "wrapped zip"])
def test_a_manifest_is_read(tmp_path: Path, where: str) -> None:
    files = {f"a/{number}.wav": noise(str(number)) for number in (1, 2, 3)} | {"manifest.csv": MANIFEST.encode()}
    if where == "zip":
        root = write_zip(tmp_path / "mine.zip", files)
    elif where == "wrapped zip":
        root = write_zip(tmp_path / "mine.zip", {f"mine/{name}": content for name, content in files.items()})
    else:
        root = write(tmp_path / "mine", files)
    catalog = catalog_of(root / "manifest.csv" if where == "manifest" else root)
    assert corpus_files.speakers_and_labels(catalog) == {
        "mine-a/1": ("mine-7", "angry"),
        "mine-a/2": ("mine-unknown", "happy"),
        "mine-a/3": ("mine-8", "sad"),
    }
    first, second, third = (clip.utterance for clip in catalog.clips)
    assert (first.gender, first.age, first.intensity, first.statement) == ("female", 41, "strong", "Oh no")
    assert (first.language, second.language, second.gender, second.age, third.gender) == ("de", None, None, None, None)
    assert sounds_of(catalog) == [decoded("1"), decoded("2"), decoded("3")]
    assert not catalog.skipped


def test_files_that_a_manifest_lacks_are_listed(tmp_path: Path) -> None:
    root = write(tmp_path / "mine", ["1.wav", "2.wav", "old/manifest.csv"])
    write(root, ["3.wav"])
    lines = ["path,emotion", "1.wav,sad", "gone.wav,sad", f"{root / '3.wav'},happy", "4.wav,", ",sad", "1.wav,sadness"]
    (root / "manifest.csv").write_text("\n".join(lines))
    table = load(root, tmp_path / "cache")
    assert sorted(labels_of(table).values()) == ["happy", "sad"]
    assert skipped(table) == {
        "gone.wav": "not-found",
        "4.wav": "not-found",
        "manifest.csv, line 6": "incomplete",
        "1.wav": "same-name",
        "2.wav": "not-listed",
        "manifest.csv": "unused-manifest",
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no column path and emotion"),
        (b"path,mood\na.wav,sad\n", "no column emotion"),
        (b"path,emotion\nfr\xf6hlich.wav,sad\n", "line 2 is not text in UTF-8: save it as UTF-8 (in Excel: Save As"),
        (b"path,emotion,age\na.wav,sad,old\n", "line 2: age is 'old', not a number of years"),
        (b"path,emotion\n", "no sound files"),
        (b"path,emotion\na.wav,boredom\n", "its label is no known emotion: 1"),
    ],
)
def test_wrong_manifests_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    file = write(tmp_path, ["a.wav"]) / "list.csv"
    file.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(message)):
        catalog_of(file)


def test_a_manifest_in_an_archive_reads_nothing_outside(tmp_path: Path) -> None:
    secret = write(tmp_path, ["secret.wav"]) / "secret.wav"
    manifest = f"path,emotion\n{secret},sad\n../secret.wav,sad\n1.wav,happy\n2.wav,sad\n".encode()
    files = {"1.wav": noise("1"), "2.wav": noise("2"), "manifest.csv": manifest}
    table = load(write_zip(tmp_path / "mine.zip", files), tmp_path / "cache")
    assert set(table["id"]) == {"mine-1", "mine-2"}
    assert skipped(table) == {"secret.wav": "not-found"}


@pytest.mark.parametrize("name", ["{secret}", "../secret.wav", "in/../../secret.wav", "up/secret.wav", "up.wav"])
def test_a_manifest_below_a_root_reads_nothing_outside_unless_it_is_named(tmp_path: Path, name: str) -> None:
    secret = write(tmp_path, ["secret.wav"]) / "secret.wav"
    root = write(tmp_path / "mine", ["in/1.wav"])
    (root / "up").symlink_to(tmp_path)
    (root / "up.wav").symlink_to(secret)
    (root / "manifest.csv").write_text(f"path,emotion\nin/1.wav,happy\n{name.format(secret=secret)},sad\n")
    table = load(root, tmp_path / "cache")
    assert table["id"][:] == ["mine-in/1"]
    assert skipped(table)[Path(name.format(secret=secret)).name] == "outside"
    assert len(load(root / "manifest.csv", tmp_path / "cache")) == 2


def test_links_below_a_root_that_lead_out_of_it_are_not_followed(tmp_path: Path) -> None:
    write(tmp_path / "private", ["happy/9.wav"])
    write_zip(tmp_path / "private.zip", ["happy/8.wav"])
    root = write(tmp_path / "mine", ["happy/1.wav", "sad/2.wav", "README"])
    for name, target in {
        "sad/9.wav": "../../private/happy/9.wav", "others": tmp_path / "private", "more.zip": "../private.zip",
        "manifest.csv": "../private.csv", "notes.txt": "../notes.txt", "happy/2.wav": "../sad/2.wav", "so": "sad",
    }.items():  # fmt: skip
        (root / name).symlink_to(target)
    (tmp_path / "linked").symlink_to(root)
    for top in (root, tmp_path / "linked"):
        catalog = catalog_of(top)
        assert {Path(clip.path).relative_to(top).as_posix() for clip in catalog.clips} == {
            "happy/1.wav", "happy/2.wav", "sad/2.wav",
        }  # fmt: skip
        assert reasons(catalog) == dict.fromkeys(["9.wav", "others", "more.zip", "manifest.csv"], "outside")


def test_a_data_set_in_the_cache_of_the_hub_is_read(tmp_path: Path) -> None:
    write(tmp_path, {"blobs/0a": noise("0a"), "blobs/0b": noise("0b")})
    root = tmp_path / "snapshots" / "main"
    for name, blob in (("happy/1.wav", "0a"), ("sad/2.wav", "0b")):
        (root / name).parent.mkdir(parents=True)
        (root / name).symlink_to(f"../../../blobs/{blob}")
    (root / "sad" / "3.wav").symlink_to(write(tmp_path.parent / "else", ["3.wav"]) / "3.wav")
    assert len(load(root, tmp_path / "cache")) == 2


BOMBS: dict[str, tuple[bytes, int, int | None]] = {
    "just under 2 GiB": (noise("9"), zipfile.ZIP_DEFLATED, 2**31 - 1),
    "larger than it declares": (noise("9", 3.0), zipfile.ZIP_DEFLATED, 2000),
    "a thousand times as large": (bytes(3 << 20), zipfile.ZIP_DEFLATED, None),
    "bzip2": (noise("9"), zipfile.ZIP_BZIP2, None),
}


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("name", ["sad/9.wav", "9.dat"])
def test_an_entry_that_would_fill_the_memory_is_skipped(tmp_path: Path, bomb: str, name: str) -> None:
    content, method, declared_size = BOMBS[bomb]
    archive = write_zip(tmp_path / "mine.zip", {"happy/1.wav": noise("1")})
    with zipfile.ZipFile(archive, "a") as file:
        if name == "9.dat":
            file.writestr("manifest.csv", f"path,emotion\nhappy/1.wav,happy\n{name},sad\n")
        file.writestr(name, content, method)
        if declared_size is not None:
            file.getinfo(name).file_size = declared_size
    table = load(archive, tmp_path / "cache")
    assert labels_of(table) == {"mine-happy/1": "happy"}
    assert skipped(table) == {Path(name).name: "too-large" if bomb == "just under 2 GiB" else "unreadable"}


def test_notes_apply_to_the_files_below_them(tmp_path: Path) -> None:
    root = write(tmp_path / "all", {"savee/DC_a01.wav": noise("a"), "savee/ser_ft_note.txt": b"synthetic\n"})
    write(root, ["Actor_01/03-01-05-01-01-01-01.wav", "AudioOPUS/1001_DFA_ANG_XX.ogg"])
    write_zip(root / "a.zip", {"OAF_back_sad.wav": noise("t"), "ser_ft_note.txt": b"from an archive"})
    write_zip(root / "b.zip", {"mine/happy/1.wav": noise("h")})
    notes = {"savee": "synthetic", "cremad": "CREMA-D, rebuilt audio", "tess": "from an archive"}
    assert catalog_of(root).notes == notes
    notes = catalog_of(root, notes={"SAVEE": "mine", "ravdess": "other"}).notes
    assert (notes["savee"], notes["ravdess"]) == ("synthetic; mine", "other")
    with pytest.raises(InputError, match="a note is given for 'crema'"):
        catalog_of(root, notes={"crema": "rebuilt"})


def test_broken_and_nested_archives_are_skipped(tmp_path: Path) -> None:
    root = write(tmp_path / "all", {"DC_a01.wav": noise("a"), "broken.zip": b"PK\x03\x04 no more"})
    write_zip(root / "outer.zip", {"inner.zip": b"PK", "DC_a02.wav": noise("b")})
    catalog = catalog_of(root)
    assert len(catalog.clips) == 2
    assert reasons(catalog) == {"broken.zip": "unreadable", "inner.zip": "unreadable"}
    assert len(catalog_of(root / "outer.zip").clips) == 1
    with pytest.raises(InputError, match="not a zip archive"):
        catalog_of(root / "broken.zip")


def test_a_damaged_entry_of_an_archive_is_skipped(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.zip", ["DC_a01.wav", "DC_a02.wav"])
    content = bytearray(archive.read_bytes())
    content[200:220] = bytes(20)
    archive.write_bytes(content)
    table = load(archive, tmp_path / "cache")
    assert table["id"][:] == ["savee-DC_a02"]
    assert skipped(table) == {"DC_a01.wav": "unreadable"}


def test_a_rewritten_archive_is_read_again(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.zip", ["DC_a01.wav"])
    assert load(archive, tmp_path / "cache")["id"][:] == ["savee-DC_a01"]
    write_zip(archive, ["DC_a02.wav", "DC_a03.wav"])
    assert load(archive, tmp_path / "cache")["id"][:] == ["savee-DC_a02", "savee-DC_a03"]


def test_ogg_files_of_cremad_are_read(tmp_path: Path) -> None:
    files = {
        "1001_DFA_ANG_XX.ogg": corpus_files.encode(corpus_files.samples("x", 0.2), kind="OGG"),
        "1001_DFA_SAD_XX.wav": noise("y"),
    }
    table = load(write(tmp_path / "x", files), tmp_path / "c")
    assert sorted(labels_of(table).values()) == ["angry", "sad"]
