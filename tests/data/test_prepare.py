"""From recordings to the table: what is kept, what is left out and why, what is cached, what lies on disk."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
import soundfile
from names import RAVDESS, find, labels_of, load, noise, reasons, samples, skipped, told, write, write_zip

from ser_ft import audio
from ser_ft.audio import from_wav, to_wav
from ser_ft.data import builder, repeats
from ser_ft.data.miniature import NOTE
from ser_ft.data.prepare import about, load_table, open_prepared, prepare, prepare_table, summary
from ser_ft.emotions import NAMES, SCHEMES
from ser_ft.errors import InputError

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def actor(number: int, emotions: range = range(1, 9)) -> list[str]:
    """The names of an actor's clips in RAVDESS, one per emotion."""
    return [RAVDESS.format(emotion=f"{emotion:02d}", actor=f"{number:02d}") for emotion in emotions]


def encode(sound: np.ndarray, rate: int = 16_000, kind: str = "WAV") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, sound, rate, format=kind)
    return file.getvalue()


# The table.


def test_columns_and_types(miniature_table: datasets.Dataset) -> None:
    text = datasets.Value("string")
    assert miniature_table.features == {
        "id": text,
        "audio": datasets.Audio(sampling_rate=16_000, decode=False),
        "emotion": datasets.ClassLabel(names=list(NAMES)),
        "corpus": text,
        "speaker": text,
        "gender": text,
        "age": datasets.Value("int32"),
        "intensity": text,
        "statement": text,
        "language": text,
        "duration": datasets.Value("float64"),
        "path": text,
    }
    assert Counter(miniature_table["corpus"]).keys() == {"ravdess", "tess", "cremad", "savee"}
    assert len(set(miniature_table["speaker"])) == 8


def test_the_sound_is_16_bit_mono_at_16_khz(miniature_table: datasets.Dataset) -> None:
    for row in miniature_table.select(range(0, len(miniature_table), 40)):
        info = soundfile.info(io.BytesIO(row["audio"]["bytes"]))
        assert (info.format, info.subtype, info.channels, info.samplerate) == ("WAV", "PCM_16", 1, 16_000)
        assert abs(info.duration - row["duration"]) < 1e-9
        original = audio.decode(Path(row["path"]))
        assert np.abs(original - from_wav(row["audio"]["bytes"])).max() < 1 / 32768


def test_16_bit_samples_at_16_khz_are_kept_as_they_are(tmp_path: Path) -> None:
    names = actor(1)
    table = load(write(tmp_path / "x", names), tmp_path / "cache")
    kept = {Path(row["path"]).name: row["audio"]["bytes"] for row in table}
    assert kept == {name: noise(name) for name in names}


# What is left out.


def test_bad_files_are_listed_with_their_reason_and_nothing_else_is_lost(tmp_path: Path) -> None:
    sound = samples("x", 0.3)
    good = {
        "aiff": encode(sound, kind="AIFF"),
        "stereo": encode(np.stack([samples("l", 0.3), samples("r", 0.3)], axis=1)),
        "96 kHz": encode(samples("a", 0.3), 96_000),
        "24 kHz": encode(samples("b", 0.3), 24_414),
    }
    bad = {
        "lfs-pointer": LFS,
        "empty": b"",
        "silent": to_wav(np.full(4800, 7, np.int16)),
        "unreadable": b"no sound " * 99,
        "cut-short": to_wav(samples("c", 0.3))[:4000],
    }
    names = iter(actor(1) + actor(2))
    kept = {next(names): content for content in good.values()}
    left_out = dict(zip(names, bad, strict=False))
    table = load(write(tmp_path / "x", kept | {name: bad[reason] for name, reason in left_out.items()}), tmp_path / "c")
    assert set(table["id"]) == {f"ravdess-{Path(name).stem}" for name in kept}
    assert skipped(table) == left_out
    assert sorted(round(seconds, 3) for seconds in table["duration"]) == [0.05, 0.197, 0.3, 0.3]
    file = Path(table.cache_files[0]["filename"]).parent / "skipped.csv"
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert all(row["corpus"] == "ravdess" and row["detail"] and Path(row["path"]).is_file() for row in rows)


def test_an_error_that_nobody_thought_of_stops_no_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = builder.signatures

    def fails(pcm: np.ndarray) -> Any:
        if len(pcm) > 1500:
            raise MemoryError("too much")
        return whole(pcm)

    monkeypatch.setattr(builder, "signatures", fails)
    names = actor(1, range(1, 4))
    table = load(
        write(tmp_path / "x", {name: noise(name) for name in names} | {names[0]: noise("x", 0.1)}), tmp_path / "c"
    )
    assert len(table) == 2
    assert skipped(table) == {names[0]: "unreadable"}


def test_m4a_without_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    root = write(tmp_path / "x", {"happy/1.wav": noise("1"), "sad/2.m4a": b"\x00\x00\x00\x20ftypM4A " + bytes(900)})
    table = load({"own": root}, tmp_path / "c")
    listed = builder.read_skipped(Path(table.cache_files[0]["filename"]).parent / "skipped.csv")
    assert [(skip.reason, "install ffmpeg" in skip.detail) for skip in listed] == [("unreadable", True)]


def test_nothing_that_can_be_used(tmp_path: Path) -> None:
    root = write(tmp_path / "x", dict.fromkeys(actor(1), LFS))
    with pytest.raises(InputError, match="a git-LFS pointer instead of the sound: 8"):
        load(root, tmp_path / "c")
    with pytest.raises(InputError, match="a git-LFS pointer"):
        prepare(root, tmp_path / "deep" / "out", verbose=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "x"]


# One recording under two names.


def dithered(pcm: np.ndarray, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return (pcm + generator.integers(-2, 3, len(pcm))).astype("<i2")


def quiet_ends(pcm: np.ndarray) -> np.ndarray:
    """As recordings often are: digital silence before and after, which dither breaks."""
    return np.pad(pcm, 300)


@pytest.mark.parametrize(
    "copy",
    [
        pytest.param(lambda pcm: pcm, id="the same samples"),
        pytest.param(dithered, id="dithered anew"),
        pytest.param(lambda pcm: np.pad(pcm, (0, 200)), id="zeros at the end"),
        pytest.param(lambda pcm: np.concatenate([np.zeros(50, "<i2"), pcm]), id="zeros at the start"),
    ],
)
@pytest.mark.parametrize("ends", [lambda pcm: pcm, quiet_ends], ids=["sound to the ends", "quiet ends"])
@pytest.mark.parametrize("same_label", [True, False])
def test_one_recording_under_two_names(
    tmp_path: Path, copy: Callable[[np.ndarray], np.ndarray], ends: Callable[[np.ndarray], np.ndarray], same_label: bool
) -> None:
    one, two = "03-01-03-01-02-01-07.wav", f"03-01-{'03' if same_label else '04'}-01-02-02-07.wav"
    other = "03-01-05-01-02-02-07.wav"
    pcm = ends(samples("x", 0.2))
    files = {one: to_wav(pcm), two: to_wav(copy(pcm)), other: to_wav(samples("y", 0.2))}
    table = load(write(tmp_path / "x", files), tmp_path / "c")
    kept = [one, other] if same_label else [other]
    assert table["id"][:] == [f"ravdess-{Path(name).stem}" for name in kept]
    assert skipped(table) == ({two: "same-sound"} if same_label else {one: "two-labels", two: "two-labels"})


def test_a_third_copy_of_a_recording_under_two_labels_is_not_kept(tmp_path: Path) -> None:
    sound = noise("x")
    table = load(
        write(
            tmp_path / "x",
            dict.fromkeys(actor(1, range(3, 5)) + actor(2, range(3, 5)), sound) | {actor(3)[0]: noise("y")},
        ),
        tmp_path / "c",
    )
    assert table["id"][:] == ["ravdess-03-01-01-01-01-01-03"]
    assert Counter(skipped(table).values()) == {"two-labels": 3, "same-sound": 1}
    prepare(tmp_path / "x", tmp_path / "out", verbose=False)
    assert datasets.load_from_disk(str(tmp_path / "out"))["id"][:] == table["id"][:]


def test_a_recording_under_two_labels_of_one_class_is_not_kept_either(tmp_path: Path) -> None:
    """Which of the two emotions it is stays unknown, whatever the scheme makes of them."""
    files = dict.fromkeys(actor(1, range(4, 6)), noise("x")) | {actor(1)[2]: noise("y")}
    mapping = {"happy": "good", "sad": "bad", "angry": "bad"}
    table = load(write(tmp_path / "x", files), tmp_path / "c", labels=mapping)
    assert list(labels_of(table).values()) == ["good"]


def test_twice_named_recording_of_ravdess(shared_data: Path, tmp_path: Path) -> None:
    names = [
        f"03-01-03-01-{statement}-{repetition}-07.flac" for statement in ("01", "02") for repetition in ("01", "02")
    ]
    for name in names:
        write(tmp_path / "x", {name: (shared_data / "RAVDESS" / "Actor_07" / name).read_bytes()})
    table = load(tmp_path / "x", tmp_path / "c")
    assert len(table) == 3
    assert skipped(table) == {"03-01-03-01-02-02-07.flac": "same-sound"}


def test_finding_repeats_among_many_of_one_length_is_quick() -> None:
    """Recordings cut to one length: 12 000 of them once took minutes."""
    generator = np.random.default_rng(0)
    found: repeats.Repeats[int] = repeats.Repeats()
    marks = generator.normal(size=(12_000, 32))
    marks /= np.linalg.norm(marks, axis=1, keepdims=True)
    start = time.process_time()
    assert all(found.find_or_add([(48_000, mark)], at) is None for at, mark in enumerate(marks))
    moved = marks + generator.normal(0, 0.002, marks.shape)
    assert [found.find_or_add([(48_000, mark)], -1) for mark in moved[::40]] == list(range(0, 12_000, 40))
    assert time.process_time() - start < 10


# Labels.


@pytest.mark.parametrize(
    ("labels", "calm", "classes", "counts", "dropped"),
    [
        ("eight", "keep", NAMES, [2] * 8, 0),
        ("eight", "neutral", SCHEMES["seven"], [4] + [2] * 6, 0),
        ("seven", "keep", SCHEMES["seven"], [2] * 7, 2),
        ("six", "neutral", SCHEMES["six"], [4] + [2] * 5, 2),
        ("four", "drop", SCHEMES["four"], [2] * 4, 8),
        ({"happy": "good", "fear": "bad", "anger": "bad"}, "keep", ("good", "bad"), [2, 4], 10),
    ],
)
def test_label_schemes(
    tmp_path: Path, labels: Any, calm: str, classes: tuple[str, ...], counts: list[int], dropped: int
) -> None:
    table = load(write(tmp_path / "x", actor(1) + actor(2)), tmp_path / "c", labels=labels, calm=calm)
    assert tuple(table.features["emotion"].names) == classes
    assert [Counter(table["emotion"])[place] for place in range(len(classes))] == counts
    assert list(skipped(table).values()) == ["no-place"] * dropped
    assert about(table)["ravdess"]["classes"] == list(classes)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"labels": "nine"}, "unknown label scheme 'nine'"),
        ({"labels": {}}, "the label mapping is empty"),
        ({"calm": "merge"}, "calm must be one of"),
        ({"cremad_labels": "face"}, "cremad_labels must be one of intended, voice, voice-soft, not 'face'"),
        ({"labels": {"joy": "x", "boredom": "y", "anger": "z"}}, None),
        ({"labels": {"boredom": "y", "contempt": "z"}}, "its label has no place in the label scheme: 8"),
    ],
)
def test_wrong_options(tmp_path: Path, options: dict[str, Any], says: str | None) -> None:
    root = write(tmp_path / "x", actor(1))
    if says is None:
        assert len(load(root, tmp_path / "c", **options)) == 2
        return
    with pytest.raises(InputError, match=re.escape(says)):
        load(root, tmp_path / "c", **options)
    assert not (tmp_path / "c").exists()


SUMMARY = '"","FileName","VoiceVote","VoiceLevel"\n' + "".join(
    f'"{number}","1001_{clip}","{vote}","50"\n'
    for number, (clip, vote) in enumerate(
        {"DFA_ANG_XX": "A", "DFA_SAD_XX": "N", "DFA_FEA_XX": "F:N", "DFA_DIS_XX": "D", "ITH_SAD_X": "S"}.items()
    )
)
TABULATED = '"","A","D","F","H","N","S","fileName","numResponses"\n' + "\n".join(
    (
        # 1...: the voice alone; 2...: the face, 3...: both.
        '"100001",6,3,1,0,0,0,"1001_DFA_ANG_XX",10',
        '"200001",0,0,0,9,0,0,"1001_DFA_ANG_XX",9',
        '"100002",0,0,0,0,8,2,"1001_DFA_SAD_XX",10',
        '"100003",0,0,5,0,5,0,"1001_DFA_FEA_XX",10',
        '"100004",1,7,0,0,2,0,"1001_DFA_DIS_XX",10',
        '"100005",0,0,0,0,0,4,"1040_ITH_SAD_X",4',
        '"300006",9,0,0,0,0,0,"1001_DFA_HAP_XX",9',
    )
)
VOTED = [f"AudioWAV/1001_DFA_{code}_XX.wav" for code in ("ANG", "SAD", "FEA", "DIS", "HAP")]


def with_votes(root: Path, **tables: str) -> Path:
    write(root, VOTED)
    return write(root, {f"processedResults/{name}.csv": content.encode() for name, content in tables.items()})


def test_the_label_that_listeners_heard(tmp_path: Path) -> None:
    root = with_votes(tmp_path / "x", summaryTable=SUMMARY)
    book = find(root, "six", cremad_labels="voice")
    heard = {name.removeprefix("cremad-1001_DFA_"): label for name, (_, label) in told(book).items()}
    assert heard == {"ANG_XX": "angry", "SAD_XX": "neutral", "DIS_XX": "disgust"}
    assert {name[9:12]: reason for name, reason in reasons(book).items()} == {"FEA": "no-vote", "HAP": "no-vote"}
    book = find(root, "four", cremad_labels="voice")
    assert {name[9:12]: reason for name, reason in reasons(book).items()} == {
        "FEA": "no-vote",
        "HAP": "no-vote",
        "DIS": "no-place",
    }


def test_a_class_takes_the_votes_of_all_its_emotions(tmp_path: Path) -> None:
    mapping = {"angry": "tense", "disgust": "tense", "neutral": "flat", "fear": "tense", "sad": "flat", "happy": "up"}
    book = find(with_votes(tmp_path / "x", tabulatedVotes=TABULATED), mapping, cremad_labels="voice")
    heard = {name[16:19]: label for name, (_, label) in told(book).items()}
    assert heard == {"ANG": "tense", "SAD": "flat", "DIS": "tense"}


def test_what_most_heard_has_no_place(tmp_path: Path) -> None:
    """A clip that most hear as disgust is not angry because the second most do."""
    book = find(with_votes(tmp_path / "x", tabulatedVotes=TABULATED), "four", cremad_labels="voice-soft")
    assert reasons(book)["1001_DFA_DIS_XX.wav"] == "no-place"
    assert "'disgust' has no place" in next(skip.detail for skip in book.skipped if "DIS" in skip.path)


def test_soft_labels(tmp_path: Path) -> None:
    root = with_votes(tmp_path / "x", tabulatedVotes=TABULATED, summaryTable=SUMMARY)
    write(root, actor(1))
    table = load(root, tmp_path / "c", labels="six", cremad_labels="voice-soft")
    votes = {row["id"][-16:]: dict(zip(SCHEMES["six"], row["votes"], strict=True)) for row in table}
    assert votes["-1001_DFA_ANG_XX"] == pytest.approx(
        dict.fromkeys(SCHEMES["six"], 0) | {"angry": 0.6, "disgust": 0.3, "fear": 0.1}
    )
    assert votes["-1001_DFA_FEA_XX"]["fear"] == 0.5
    assert labels_of(table)["cremad-1001_DFA_FEA_XX"] == "fear"
    assert labels_of(table)["cremad-1001_DFA_SAD_XX"] == "neutral"
    assert votes["-01-05-01-01-01-01"[-16:]]["angry"] == 1.0
    assert all(abs(sum(shares.values()) - 1) < 1e-6 for shares in votes.values())
    assert skipped(table)["1001_DFA_HAP_XX.wav"] == "no-vote"
    assert "votes" not in load(root, tmp_path / "c", labels="six").column_names


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        ({}, "cremad_labels needs CREMA-D's processedResults/tabulatedVotes.csv or summaryTable.csv"),
        ({"summaryTable": "a,b\n1,2\n"}, "summaryTable.csv: not CREMA-D's"),
        ({"tabulatedVotes": TABULATED.replace('"100001"', "x")}, "tabulatedVotes.csv: a line of it is broken"),
        ({"tabulatedVotes": TABULATED.replace(",6,3,", ",six,3,")}, "tabulatedVotes.csv: a line of it is broken"),
        ({"summaryTable": SUMMARY + '"9","1001_DFA_HAP_XX"\n'}, "summaryTable.csv: a line of it is broken"),
    ],
)
def test_wrong_vote_tables(tmp_path: Path, tables: dict[str, str], says: str) -> None:
    with pytest.raises(InputError, match=re.escape(says)):
        find(with_votes(tmp_path / "x", **tables), cremad_labels="voice")


def test_votes_on_the_voices_of_real_actors(shared_data: Path) -> None:
    book = find(shared_data / "CREMA-D", "six", cremad_labels="voice")
    counts = Counter(clip.label for clip in book.clips)
    # More than half of the clips are heard as neutral (Cao et al. 2014).
    assert counts.most_common(1)[0][0] == "neutral"
    assert 0.5 < counts["neutral"] / counts.total() < 0.6
    assert 550 < Counter(skip.reason for skip in book.skipped)["no-vote"] < 700


# Other tables.

SPOKEN = {
    "who": ["a", "b", "a"],
    "felt": ["Anger", "fearful", None],
    "sex": ["F", "male", ""],
    "years": [20.0, None, 30.0],
}
COLUMNS = {"audio": "sound", "emotion": "felt", "speaker": "who", "gender": "sex", "age": "years"}


def table_of(sounds: list[Any], **columns: list[Any]) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"sound": sounds, **(columns or SPOKEN)})


@pytest.mark.parametrize("kind", ["bytes", "paths", "audio"])
def test_a_table_by_its_columns(tmp_path: Path, kind: str) -> None:
    names = ["1.wav", "2.wav", "3.wav"]
    write(tmp_path / "x", names)
    paths = [str(tmp_path / "x" / name) for name in names]
    table = table_of([noise(name) for name in names] if kind == "bytes" else paths)
    if kind == "audio":
        table = table.cast_column("sound", datasets.Audio(decode=False))
    made = load_table(table, COLUMNS, "mine", cache_dir=tmp_path / "c", verbose=False)
    rows = made.to_list()
    assert [(row["id"], row["speaker"], row["gender"], row["age"], row["language"]) for row in rows] == [
        ("mine-000000", "mine-a", "female", 20, None),
        ("mine-000001", "mine-b", "male", None, None),
    ]
    assert list(labels_of(made).values()) == ["angry", "fear"]
    assert [row["audio"]["bytes"] for row in rows] == [noise("1.wav"), noise("2.wav")]
    assert skipped(made) == {"mine[2]": "no-place"}


def test_classes_as_numbers(tmp_path: Path) -> None:
    table = table_of([noise(str(at)) for at in range(4)], felt=[1, 0, -1, 1], sex=[0, 1, 0, 1])
    table = table.cast_column("felt", datasets.ClassLabel(names=["happiness", "sadness"]))
    table = table.cast_column("sex", datasets.ClassLabel(names=["man", "woman"]))
    made = load_table(
        table, {"audio": "sound", "emotion": "felt", "gender": "sex"}, cache_dir=tmp_path / "c", verbose=False
    )
    assert list(labels_of(made).values()) == ["sad", "happy", "sad"]
    assert made["gender"][:] == ["male", "female", "female"]
    assert skipped(made) == {"own[2]": "no-place"}


@pytest.mark.parametrize("saved", ["table", "splits"])
def test_a_saved_table(tmp_path: Path, saved: str) -> None:
    table = table_of([noise("1"), None, b"bad"], felt=["sad", "sad", "sad"])
    (table if saved == "table" else datasets.DatasetDict({"dev": table})).save_to_disk(str(tmp_path / "saved"))
    columns = {"audio": "sound", "emotion": "felt"}
    made = prepare_table(str(tmp_path / "saved"), columns, tmp_path / "out", "mine", split="dev", verbose=False)
    assert made["id"][:] == ["mine-000000"]
    assert [skip.reason for skip in builder.read_skipped(tmp_path / "out" / "skipped.csv")] == ["empty", "unreadable"]


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"audio": "sound"}, "the table own has no column 'emotion'; it has sound, felt"),
        ({"audio": "sound", "emotion": "felt", "mood": "felt"}, "unknown column 'mood': name audio, emotion, speaker"),
        ({"audio": "felt", "emotion": "felt"}, None),
        ({"audio": "sound", "emotion": "felt", "age": "felt"}, "own[0]: age is 'sad', not a number of years"),
    ],
)
def test_wrong_columns(columns: dict[str, str], says: str | None) -> None:
    table = table_of([noise("1")], felt=["sad"])
    with pytest.raises(InputError, match=re.escape(says or "no sound that can be decoded: 1")):
        load_table(table, columns, verbose=False)


def test_a_column_that_is_no_sound() -> None:
    with pytest.raises(InputError, match="the column 'sound' of the table own holds no sound files"):
        load_table(table_of([1.5], felt=["sad"]), {"audio": "sound", "emotion": "felt"}, verbose=False)


@pytest.mark.parametrize("name", ["nobody/no-such-set", "saved", "text"])
def test_a_data_set_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(write(tmp_path, {"text/a.md": b"text"}))
    datasets.DatasetDict({"dev": table_of([noise("1")], felt=["sad"])}).save_to_disk("saved")
    start = time.monotonic()
    with pytest.raises(InputError, match=re.escape(name)) as caught:
        load_table(name, {"audio": "sound", "emotion": "felt"}, split="train", verbose=False)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 10


# The cache.


def state(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if not path.name.endswith(".lock")}


def test_a_second_call_decodes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write(tmp_path / "x", actor(1))
    first, before = load(root, tmp_path / "c"), state(tmp_path / "c")
    monkeypatch.setattr("ser_ft.audio.decode", lambda *given, **named: pytest.fail("decoded again"))
    second = load(root, tmp_path / "c")
    assert state(tmp_path / "c") == before
    assert second.to_list() == first.to_list()
    assert skipped(second) == skipped(first)


def test_a_file_added_changed_or_removed_is_seen(tmp_path: Path) -> None:
    root = write(tmp_path / "x", actor(1))
    assert len(load(root, tmp_path / "c")) == 8
    write(root, actor(2))
    assert len(load(root, tmp_path / "c")) == 16
    for name in actor(1):
        (root / name).unlink()
    assert len(load(root, tmp_path / "c")) == 8
    file = root / actor(2)[0]
    file.write_bytes(to_wav(samples("other")))
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    table = load(root, tmp_path / "c")
    assert to_wav(samples("other")) in [sound["bytes"] for sound in table["audio"]]


def test_a_file_that_only_a_manifest_names_is_seen_too(tmp_path: Path) -> None:
    sound = write(tmp_path / "far", ["1.wav", "2.wav"]) / "1.wav"
    manifest = write(tmp_path / "x", {"m.csv": f"path,emotion\n{sound},sad\n../far/2.wav,happy\n".encode()}) / "m.csv"
    assert len(load(manifest, tmp_path / "c")) == 2
    sound.write_bytes(b"")
    assert skipped(load(manifest, tmp_path / "c")) == {"1.wav": "empty"}


def test_what_is_read_in_another_way_is_another_table(tmp_path: Path) -> None:
    a, b = (
        write(tmp_path / "in" / name, {"DC_a01.wav": noise(name), f"happy/{name}.wav": noise(f"h{name}")})
        for name in "ab"
    )
    options: list[dict[str, Any]] = [
        {"roots": a},
        {"roots": b},
        {"roots": [a, b]},
        {"roots": [b, a]},
        {"roots": {"savee": a}},
        {"roots": {"mine": a}},
        {"roots": {"yours": a}},
        {"roots": a, "labels": "six"},
        {"roots": a, "calm": "neutral"},
        {"roots": a, "labels": {"happy": "1", "angry": "2"}},
        {"roots": a, "labels": {"happy": "2", "angry": "1"}},
        {"roots": a, "include_song": True},
        {"roots": a, "notes": {"savee": "made up"}},
    ]
    keys = [find(**given).key for given in options]
    assert len(set(keys)) == len(keys)
    assert keys == [find(**given).key for given in options]


def test_a_table_by_its_columns_is_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = {"audio": "sound", "emotion": "felt"}
    table = table_of([noise("1"), noise("2")], felt=["sad", "happy"])
    one = load_table(table, columns, cache_dir=tmp_path, verbose=False)
    other = load_table(table, columns, "other", cache_dir=tmp_path, verbose=False)
    assert other["id"][0] == "other-000000"
    monkeypatch.setattr("ser_ft.audio.decode", lambda *given, **named: pytest.fail("decoded again"))
    assert load_table(table, columns, cache_dir=tmp_path, verbose=False).to_list() == one.to_list()


# The folder that `prepare` writes.


def test_stock_datasets_reads_it_where_ser_ft_is_not(miniature_folder: Path) -> None:
    code = f"""if True:
        import io, sys, datasets, soundfile
        table = datasets.load_from_disk({str(miniature_folder)!r})
        row = table[5]
        assert not any(name.startswith("ser_ft") for name in sys.modules)
        assert soundfile.read(io.BytesIO(row["audio"]["bytes"]))[1] == 16000
        print(len(table), table.features["emotion"].int2str(row["emotion"]))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=miniature_folder.parent)
    assert done.returncode == 0, done.stderr
    count, emotion = done.stdout.split()
    assert (int(count), emotion in NAMES) == (len(open_prepared(miniature_folder)), True)


def test_what_lies_beside_the_table(miniature_folder: Path, miniature_table: datasets.Dataset) -> None:
    content = json.loads((miniature_folder / "corpora.json").read_text(encoding="utf-8"))
    assert (content["clips"], content["skipped"]) == (len(miniature_table), 0)
    assert (miniature_folder / "skipped.csv").read_text().split() == ["path,corpus,reason,detail"]
    assert content["corpora"] == about(miniature_table)
    assert {facts["note"] for facts in content["corpora"].values()} == {NOTE}
    assert {facts["licence"] for facts in content["corpora"].values()} == {"Apache-2.0"}
    assert content["corpora"]["cremad"]["classes"] == list(SCHEMES["six"])
    assert content["corpora"]["tess"]["classes"] == list(SCHEMES["seven"])


def test_the_terms_are_those_of_the_corpora(tmp_path: Path) -> None:
    facts = about(load(write(tmp_path / "x", [*actor(1), "1001_DFA_ANG_XX.wav", "happy/1.wav"]), tmp_path / "c"))
    assert {name: fact["licence"] for name, fact in facts.items()} == {
        "ravdess": "CC-BY-NC-SA-4.0",
        "cremad": "ODbL-1.0",
        "x": "other",
    }
    assert "10.1371/journal.pone.0196391" in facts["ravdess"]["citation"]
    assert facts["cremad"]["classes"] == list(SCHEMES["six"])
    assert facts["x"]["classes"] == ["happy"]


def test_what_must_be_said_cannot_be_silenced(tmp_path: Path, miniature_tree: Path) -> None:
    root = write(tmp_path / "x", ["1001_DFA_ANG_XX.wav", "1001_DFA_SAD_XX.ogg"])
    assert find(root, notes={"cremad": "mine"}).about()["cremad"]["note"] == "CREMA-D, rebuilt audio; mine"
    facts = find(miniature_tree, notes={"savee": "mine"}).about()["savee"]
    assert (facts["note"], facts["licence"]) == (f"{NOTE}; mine", "Apache-2.0")
    with pytest.raises(InputError, match="ravdess: synthetic voices and recordings are mixed"):
        find([miniature_tree, write(tmp_path / "y", actor(24))])


def test_about_survives_what_is_done_to_a_table(miniature_table: datasets.Dataset, tmp_path: Path) -> None:
    facts = about(miniature_table)
    savee = miniature_table.filter(lambda corpus: corpus == "savee", input_columns="corpus")
    assert about(savee) == {"savee": facts["savee"]}
    assert about(datasets.concatenate_datasets([savee, miniature_table])).keys() == facts.keys()
    bare = datasets.Dataset.from_dict({"corpus": ["x", "x"], "emotion": [1, 0]}).cast_column(
        "emotion", datasets.ClassLabel(names=["up", "down"])
    )
    assert about(bare)["x"] == {
        "title": "x",
        "licence": "other",
        "terms": "unknown",
        "citation": "",
        "note": "",
        "classes": ["up", "down"],
    }


def test_the_summary_tells_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write(tmp_path / "x", actor(1) + actor(2) + ["DC_a01.wav", "music.wav"])
    write(root, {"DC_a02.wav": b"", "03-02-01-01-01-01-01.wav": noise("s")})
    prepare(root, tmp_path / "out", labels="seven", notes={"savee": "made up"})
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[0].split() == ["corpus", "clips", "speakers", "hours", *SCHEMES["seven"], "dropped"]
    assert lines[1].split() == ["ravdess", "14", "2", "0.00", *["2"] * 7, "3"]
    assert lines[2].split() == ["savee", "1", "1", "0.00", *"0001000", "1"]
    assert lines[3].split() == ["all", "15", "3", "0.00", *"2223222", "5"]
    for text in (
        "2  ravdess: its label has no place in the label scheme",
        "1  -: the file's name fits no corpus",
        "1  ravdess: sung, not spoken",
        "1  savee: no samples in the file",
        "Licence: CC-BY-NC-SA-4.0 (non-commercial; share alike; name the authors)",
        "cite: Livingstone SR",
        "note: made up",
        f"written: {tmp_path / 'out'} (every dropped file: {tmp_path / 'out' / 'skipped.csv'})",
    ):
        assert text in printed.out
    assert "reading" in printed.err
    table, listed = open_prepared(tmp_path / "out"), builder.read_skipped(tmp_path / "out" / "skipped.csv")
    assert summary(table, listed) in printed.out


def test_preparing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = write(tmp_path / "x", actor(1)), tmp_path / "deep" / "out"
    prepare(root, out, verbose=False)
    before = state(out)
    with monkeypatch.context() as patched:
        patched.setattr("ser_ft.audio.decode", lambda *given, **named: pytest.fail("decoded again"))
        prepare(root, out)
    assert state(out) == before
    assert "is up to date" in capsys.readouterr().out
    write(root, actor(2))
    assert len(prepare(root, out, verbose=False)) == 16
    assert len(prepare(root, out, "four", verbose=False)) == 8
    assert sorted(path.name for path in out.parent.iterdir()) == ["out"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "x"]


@pytest.mark.parametrize(
    ("files", "out", "says"),
    [
        ({"out/thesis.txt": b"x"}, "out", "holds thesis.txt, which is no part of a prepared table"),
        ({"out/corpora.json": b"{}"}, "out", "holds something that is no part of a prepared table"),
        ({"out/corpora.json": b'{"key": "1"}', "out/thesis.txt": b"x"}, "out", "holds thesis.txt"),
        ({"out": b"a file"}, "out", "no folder can be made there"),
        ({"out": b"a file"}, "out/deeper/still", "no folder can be made there"),
    ],
)
def test_nothing_foreign_is_overwritten(tmp_path: Path, files: dict[str, bytes], out: str, says: str) -> None:
    root = write(tmp_path / "x", actor(1))
    write(tmp_path, files)
    before = state(tmp_path)
    with pytest.raises(InputError, match=re.escape(says)):
        prepare(root, tmp_path / out, verbose=False)
    assert state(tmp_path) == before


@pytest.mark.parametrize(
    "there", [None, {}, {"corpora.json": b'{"key": "old"}', "data.arrow": b"", "skipped.csv": b""}]
)
def test_an_empty_folder_and_an_older_table_are_replaced(tmp_path: Path, there: dict[str, bytes] | None) -> None:
    if there is not None:
        (tmp_path / "out").mkdir()
        write(tmp_path / "out", there)
    assert len(prepare(write(tmp_path / "x", actor(1)), tmp_path / "out", verbose=False)) == 8
    assert len(open_prepared(tmp_path / "out")) == 8


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_in_the_middle_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    root = write(tmp_path / "x", actor(1) + actor(2))
    prepare(write(tmp_path / "y", actor(3)), tmp_path / "old", verbose=False)
    before = state(tmp_path)

    def fails(skipped: object, file: object) -> None:
        raise error("the disk is gone")

    monkeypatch.setattr(builder, "write_skipped", fails)
    for out in ("new", "old"):
        with pytest.raises((error, datasets.exceptions.DatasetGenerationError)):
            prepare(root, tmp_path / out, verbose=False)
    assert state(tmp_path) == before
    with pytest.raises((error, datasets.exceptions.DatasetGenerationError)):
        load(root, tmp_path / "c")
    assert not list((tmp_path / "c").rglob("*.arrow"))
    monkeypatch.undo()
    assert len(load(root, tmp_path / "c")) == 16


def test_opening_what_is_no_table(tmp_path: Path, miniature_folder: Path) -> None:
    with pytest.raises(InputError, match="no prepared table; make one: ser-ft prepare"):
        open_prepared(tmp_path)
    files = {path.name: path.read_bytes()[:5000] for path in miniature_folder.iterdir()}
    with pytest.raises(InputError, match="damaged"):
        open_prepared(write(tmp_path / "cut", files))
    del files["dataset_info.json"]
    with pytest.raises(InputError, match="damaged"):
        open_prepared(write(tmp_path / "less", files))


def test_memory_does_not_grow_with_the_number_of_clips(tmp_path: Path) -> None:
    """Few clips are decoded ahead of those that are written."""
    names = [f"{code}/{number}.wav" for code in ("happy", "sad") for number in range(300)]
    book = find(write_zip(tmp_path / "mine.zip", names))
    decoded = builder._decoded(book.clips)
    started = []
    whole = builder._Sound.__init__

    def counts(self: Any, clip: Any) -> None:
        started.append(clip)
        whole(self, clip)

    builder._Sound.__init__ = counts  # type: ignore[method-assign]
    try:
        next(decoded)
        time.sleep(0.3)
        assert len(started) < 100
        decoded.close()
    finally:
        builder._Sound.__init__ = whole  # type: ignore[method-assign]
    assert pa.total_allocated_bytes() < 1 << 28
