"""The audit: every way in which a recording can stand in two places is found, and nothing is on clean data."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
import soundfile
from scipy.signal import butter, sosfilt

from ser_ft import audio
from ser_ft.cli import main
from ser_ft.data.audit import Finding, audit, group_findings
from ser_ft.data.augmentation.waveform import Augment, augment_table
from ser_ft.data.splits import make_split
from ser_ft.utils.errors import InputError

COPY = "planted"
Sound = np.ndarray


@pytest.fixture(scope="module")
def voices(miniature_table: datasets.Dataset) -> datasets.Dataset:
    """Two speakers of RAVDESS and two of TESS, 8 clips each."""
    speakers = np.array(miniature_table["speaker"])
    wanted = ("ravdess-01", "ravdess-02", "tess-OAF", "tess-YAF")
    return miniature_table.select([int(at) for name in wanted for at in np.flatnonzero(speakers == name)[:8]])


def planted(table: datasets.Dataset, at: int, change: Callable[[Sound], Sound], **facts: Any) -> datasets.Dataset:
    """The table with one more clip, made of the clip in row `at`."""
    row = table[at]
    sound = np.ascontiguousarray(change(audio.from_wav(row["audio"]["bytes"])), dtype=np.float32)
    wav = {"bytes": audio.to_wav(sound), "path": f"{COPY}.wav"}
    row |= {"id": COPY, "audio": wav, "duration": len(sound) / 16_000} | facts
    return datasets.concatenate_datasets([table, table_of([row], table.features)])


def table_of(rows: list[dict[str, Any]], features: datasets.Features) -> datasets.Dataset:
    """A table of rows as they are: `Dataset.from_list` wants to encode sound itself."""
    return datasets.Dataset(pa.Table.from_pylist(rows, schema=features.arrow_schema))


def look(table: datasets.Dataset, split: Any = None) -> list[Finding]:
    return audit(table, split, progress=False)


def noisy(sound: Sound, decibels: float) -> Sound:
    level = np.sqrt(np.mean(sound**2)) * 10 ** (-decibels / 20)
    return sound + level * np.random.default_rng(0).standard_normal(len(sound))


def through(sound: Sound, kind: str, subtype: str) -> Sound:
    file = io.BytesIO()
    soundfile.write(file, sound, 16_000, format=kind, subtype=subtype)
    return audio.decode(file.getvalue(), name="clip")


def mp3(sound: Sound) -> Sound:
    return through(sound, "MP3", "MPEG_LAYER_III")


def opus(sound: Sound) -> Sound:
    return through(sound, "OGG", "OPUS")


def phoned(sound: Sound) -> Sound:
    passed = sosfilt(butter(4, (300, 3400), "bandpass", fs=16_000, output="sos"), sound).astype(np.float32)
    return audio.resample(audio.resample(passed, 16_000, 8000), 8000, 16_000)


SAME = {
    "untouched": lambda sound: sound,
    "zeros at the ends": lambda sound: np.concatenate([np.zeros(5000), sound, np.zeros(900)]),
    "dithered anew": lambda sound: sound + np.random.default_rng(1).uniform(-1, 1, len(sound)) / 32768,
    "12 dB quieter": lambda sound: sound / 4,
}
NEAR = {
    "MP3 at 32 kbit/s": mp3,
    "Opus": opus,
    "telephone": phoned,
    "resampled": lambda sound: audio.resample(audio.resample(sound, 16_000, 11_025), 11_025, 16_000),
    "start trimmed": lambda sound: sound[4321:],
    "a second late": lambda sound: np.concatenate([noisy(np.full(15_999, 1e-3), 0), sound]),
    "both ends trimmed": lambda sound: sound[3000 : 3000 + 16_000],
    "light noise": lambda sound: noisy(sound, 25),
    "all at once": lambda sound: noisy(mp3(sound[3333:] * np.float32(0.3)), 30),
}


@pytest.mark.parametrize("change", [*SAME, *NEAR])
@pytest.mark.parametrize("at", [0, 20])
def test_a_copy_is_found_whatever_was_done_to_it(voices: datasets.Dataset, change: str, at: int) -> None:
    """A copy that is overlooked makes a test on unheard recordings a test on heard ones."""
    table = planted(voices, at, (SAME | NEAR)[change])
    (found,) = look(table)
    assert {found.clip, found.other} == {voices[at]["id"], COPY}
    assert found.kind == ("same" if change in SAME else "near")
    assert not found.crosses
    assert found.likeness == 1 if change in SAME else 0.6 < found.likeness <= 1


def test_clean_data_is_clean(miniature_table: datasets.Dataset) -> None:
    """One voice says one sentence in many clips: an audit that took these for copies would not be believed."""
    assert look(miniature_table, make_split(miniature_table, "speaker", test=0.5)) == []


def test_who_speaks_and_what_is_labelled_is_told(voices: datasets.Dataset) -> None:
    """One person under two names, or one recording under two labels, is seen from the row."""
    label = (voices[0]["emotion"] + 1) % 8
    table = planted(voices, 0, NEAR["Opus"], speaker="ravdess-99", emotion=label)
    (found,) = look(table)
    names = table.features["emotion"].names
    assert found.speakers == ("ravdess-01", "ravdess-99")
    assert found.labels == (names[voices[0]["emotion"]], names[label])
    ((heading, _),) = group_findings([found], split=False)
    assert heading.endswith("(1 under two speakers, 1 under two labels)")


def test_copies_on_two_sides_come_first(voices: datasets.Dataset) -> None:
    """What leaks into the test must not stand below what does not."""
    within = planted(voices, 1, SAME["untouched"], id="within")
    table = planted(within, 0, NEAR["MP3 at 32 kbit/s"], speaker="tess-OAF")
    split = {"train": ["ravdess-01", "tess-YAF"], "test": ["ravdess-02", "tess-OAF"]}
    first, second = look(table, wrote(split))
    assert (first.kind, first.other, first.sides) == ("near", COPY, ("train", "test"))
    assert (second.kind, second.other, second.sides) == ("same", "within", ("train",))
    headings = [heading for heading, _ in group_findings([first, second], split=True)]
    assert [" on two sides of the split" in heading for heading in headings] == [True, False]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def wrote(content: Any, file: str = "split.json") -> Path:
    Path(file).write_text(json.dumps(content), encoding="utf-8")
    return Path(file)


def test_many_copies_are_each_told_on_every_side(voices: datasets.Dataset) -> None:
    """Ten copies of a clip are told ten times, not a hundred; each one that crosses is told to cross."""
    table = voices
    for number, speaker in enumerate(["ravdess-01", "tess-YAF", "tess-YAF", "tess-YAF"]):
        table = planted(table, 0, SAME["untouched"], id=f"copy{number}", speaker=speaker)
    found = look(table, wrote({"train": ["ravdess-01"], "test": ["tess-YAF"]}))
    crossing = {clip for one in found if one.crosses for clip in (one.clip, one.other)}
    assert crossing == {voices[0]["id"], "copy0", "copy1", "copy2", "copy3"}
    assert len(found) == 7
    assert {one.kind for one in found} == {"same"}


def test_speakers_are_told_from_the_data_whatever_the_file_says(voices: datasets.Dataset) -> None:
    """A split that leaks, and says that it does not, is what the audit is for."""
    content = make_split(voices, "random", test=0.5).content() | {"leaking": False}
    found = look(voices, wrote(content))
    assert {one.kind for one in found} == {"speaker"}
    assert {one.speakers[0] for one in found} == set(voices["speaker"])
    assert all(one.crosses for one in found)


def test_a_split_file_with_a_speaker_twice_is_no_error(voices: datasets.Dataset) -> None:
    """Training refuses such a file at the first speaker; the audit tells all of them."""
    found = look(voices, wrote({"train": ["ravdess-01", "OAF", "YAF"], "dev": ["OAF"], "test": ["YAF", "ravdess-02"]}))
    speakers = {one.speakers[0]: one.sides for one in found if one.kind == "speaker"}
    assert speakers == {"tess-OAF": ("train", "validation"), "tess-YAF": ("train", "test")}
    assert sum(one.kind == "clip" for one in found) == 16
    assert len(found) == 18


def test_a_clip_in_two_parts_and_clips_that_are_not_there(voices: datasets.Dataset) -> None:
    content = make_split(voices, "speaker", test=0.5).content()
    twice = content["parts"]["train"]["clips"][0]
    content["parts"]["test"]["clips"] += [twice, "gone"]
    found = look(voices, wrote(content))
    assert [one.kind for one in found] == ["speaker", "clip", "absent"]
    assert (found[1].clip, found[2].clip) == (twice, "gone")


def test_versions_have_to_be_on_their_clips_side(voices: datasets.Dataset) -> None:
    """Augmented versions sound like their clip: they are no finding, but where they leave its side."""
    versions = augment_table(voices, Augment({"noise": {}}, copies=1), shown=False)
    split = make_split(voices, "speaker", test=0.5)
    assert look(versions, split) == []
    content = split.to_dict()
    astray = content["parts"]["train"]["clips"][0]
    content["parts"]["test"]["clips"].append(f"{astray}+1")
    found = look(versions, wrote(content))
    assert [one.kind for one in found] == ["speaker", "version"]
    assert (found[1].clip, found[1].other, found[1].sides) == (f"{astray}+1", astray, ("train", "test"))


def test_silence_is_found_and_is_no_copy_of_other_silence(voices: datasets.Dataset) -> None:
    table = planted(voices, 0, np.zeros_like)
    table = planted(table, 1, lambda sound: noisy(sound, 80) - sound, id="hiss")
    found = look(table)
    assert [(one.kind, one.clip) for one in found] == [("silent", COPY), ("silent", "hiss")]
    assert len(look(table.select([len(voices)]))) == 1  # nothing else to listen to


def test_clips_too_short_for_a_fingerprint(voices: datasets.Dataset) -> None:
    """Clips of a few hundredths of a second are looked at for the same samples, and break nothing."""
    table = planted(voices, 0, lambda sound: sound[8000:8300], id="short")
    assert look(table) == []
    ends = lambda sound: np.concatenate([np.zeros(50), sound[8000:8300]])  # noqa: E731
    (found,) = look(planted(table, 0, ends))
    assert (found.kind, found.clip, found.other) == ("same", "short", COPY)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            {"train": ["ravdess-01"], "exam": ["ravdess-02"]},
            "a split file is a run's split.json, or an object with lists of speakers",
        ),
        ({"train": ["nobody"], "test": ["ravdess-02"]}, "'nobody' names no speaker of the data"),
        ({"train": 7, "test": 8}, "a split file is a run's split.json, or"),
        (["ravdess-01"], "a split file is a run's split.json, or"),
        ({"parts": {"train": {"clips": []}}}, "not a split ('validation' is missing)"),
        ({"parts": {part: {"clips": ["x"]} for part in ("train", "validation", "test")}}, "a split of other data?"),
    ],
)
def test_a_split_that_is_none_is_wrong_input(voices: datasets.Dataset, content: Any, says: str) -> None:
    with pytest.raises(InputError, match=re.escape(says)):
        look(voices, wrote(content))


@pytest.fixture
def folders(voices: datasets.Dataset, miniature_folder: Path, tmp_path: Path) -> Path:
    """Prepared tables: clean, and leaking (a copy of a clip under another speaker)."""
    tables = {"clean": voices, "leaking": planted(voices, 0, NEAR["Opus"], speaker="tess-OAF")}
    for name, table in tables.items():
        table.save_to_disk(tmp_path / name)
        shutil.copy(miniature_folder / "corpora.json", tmp_path / name)
    run = tmp_path / "run"
    run.mkdir()
    wrote({"train": ["ravdess-01", "tess-YAF"], "test": ["ravdess-02", "tess-OAF"]}, str(tmp_path / "lists.json"))
    wrote(make_split(voices, "speaker", test=0.5).content(), str(run / "split.json"))
    return tmp_path


def test_the_command_says_by_its_code_whether_anything_was_found(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A script that trains only on what passed must be able to rely on the code."""
    assert main(["audit", "clean"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("nothing found")
    assert main(["audit", "clean", "--split", "run"]) == 0
    assert "no speaker on two sides" in capsys.readouterr().out
    assert main(["audit", "leaking"]) == 1
    assert "1 pair of clips shares a recording" in capsys.readouterr().out
    assert main(["audit", "leaking", "--split", "lists.json"]) == 1
    assert "on two sides of the split (1 under two speakers)" in capsys.readouterr().out
    for words in (["none"], ["clean", "--split", "none.json"], ["clean", "--format", "xml"]):
        assert main(["audit", *words]) == 2
        assert capsys.readouterr().out == ""


def test_programs_read_a_row_per_finding(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["audit", "leaking", "--split", "lists.json", "--format"]
    assert main([*words, "jsonl"]) == 1
    row = json.loads(capsys.readouterr().out)
    assert (row["kind"], row["other"], row["sides"]) == ("near", COPY, ["train", "test"])
    assert row["speakers"] == ["ravdess-01", "tess-OAF"]
    assert main([*words, "csv"]) == 1
    head, line = capsys.readouterr().out.splitlines()
    assert head == "kind,clip,other,speakers,labels,sides,likeness"
    assert ",ravdess-01; tess-OAF," in line
    assert main(["audit", "clean", "--format", "json"]) == 0
    assert capsys.readouterr().out == "[]\n"


def test_a_long_list_is_cut_for_people(voices: datasets.Dataset, folders: Path, capsys: Any) -> None:
    content = json.loads(Path("run/split.json").read_text(encoding="utf-8"))
    content["parts"]["test"]["clips"] += [f"gone-{number}" for number in range(30)]
    assert main(["audit", "clean", "--split", str(wrote(content, "more.json"))]) == 1
    printed = capsys.readouterr().out
    assert "30 clips of the split are not in the data:" in printed
    assert "... and 10 more: --format csv gives all" in printed


def test_the_twice_named_recording_of_ravdess(shared_data: Path, voices: datasets.Dataset) -> None:
    """Two names of one recording are found among an actor's other takes of the same sentence, which are not."""
    names = [f"03-01-03-01-02-0{take}-07" for take in (1, 2)] + [
        f"03-01-02-0{n}-02-0{m}-07" for n in "12" for m in "12"
    ]
    facts = {key: value for key, value in voices[0].items() if key not in ("id", "audio")}
    takes = []
    for name in names:
        wav = audio.to_wav(audio.decode(shared_data / "RAVDESS" / "Actor_07" / f"{name}.flac"))
        takes.append(facts | {"id": name, "audio": {"bytes": wav, "path": name}})
    (found,) = look(table_of(takes, voices.features))
    assert (found.kind, found.clip, found.other) == ("same", names[0], names[1])
