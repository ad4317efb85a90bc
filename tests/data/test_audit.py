"""The audit: duplicates, leaking splits and silent clips are found, and clean data has no findings."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable
from functools import partial
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

COPY = "copy"


@pytest.fixture(scope="module")
def voices(miniature_table: datasets.Dataset) -> datasets.Dataset:
    """Two speakers of RAVDESS and two of TESS, 8 clips each."""
    speakers = np.array(miniature_table["speaker"])
    names = ("ravdess-01", "ravdess-02", "tess-OAF", "tess-YAF")
    return miniature_table.select([int(row) for name in names for row in np.flatnonzero(speakers == name)[:8]])


def add_copy(
    table: datasets.Dataset, row: int, change: Callable[[np.ndarray], np.ndarray], **columns: Any
) -> datasets.Dataset:
    """Add a changed copy of a row's clip to the table."""
    clip = table[row]
    samples = np.ascontiguousarray(change(audio.from_wav(clip["audio"]["bytes"])), dtype=np.float32)
    wav = {"bytes": audio.to_wav(samples), "path": f"{COPY}.wav"}
    clip |= {"id": COPY, "audio": wav, "duration": len(samples) / 16_000} | columns
    return datasets.concatenate_datasets([table, table_of([clip], table.features)])


def table_of(rows: list[dict[str, Any]], features: datasets.Features) -> datasets.Dataset:
    # `Dataset.from_list` would encode the audio.
    return datasets.Dataset(pa.Table.from_pylist(rows, schema=features.arrow_schema))


def findings_of(table: datasets.Dataset, split: Any = None) -> list[Finding]:
    return audit(table, split, progress=False)


def write_json(content: Any, file: str = "split.json") -> str:
    Path(file).write_text(json.dumps(content), encoding="utf-8")
    return file


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def add_noise(samples: np.ndarray, snr_db: float) -> np.ndarray:
    level = np.sqrt(np.mean(samples**2)) * 10 ** (-snr_db / 20)
    return samples + level * np.random.default_rng(0).standard_normal(len(samples))


def encode(samples: np.ndarray, kind: str, subtype: str) -> np.ndarray:
    file = io.BytesIO()
    soundfile.write(file, samples, 16_000, format=kind, subtype=subtype)
    return audio.decode(file.getvalue(), name="clip")


mp3 = partial(encode, kind="MP3", subtype="MPEG_LAYER_III")
opus = partial(encode, kind="OGG", subtype="OPUS")


def telephone(samples: np.ndarray) -> np.ndarray:
    band = sosfilt(butter(4, (300, 3400), "bandpass", fs=16_000, output="sos"), samples).astype(np.float32)
    return audio.resample(audio.resample(band, 16_000, 8000), 8000, 16_000)


DUPLICATES = {
    "unchanged": lambda samples: samples,
    "zeros at the ends": lambda samples: np.concatenate([np.zeros(5000), samples, np.zeros(900)]),
    "dithered": lambda samples: samples + np.random.default_rng(1).uniform(-1, 1, len(samples)) / 32768,
    "12 dB softer": lambda samples: samples / 4,
}
NEAR_DUPLICATES = {
    "MP3 at 32 kbit/s": mp3,
    "Opus": opus,
    "telephone": telephone,
    "resampled": lambda samples: audio.resample(audio.resample(samples, 16_000, 11_025), 11_025, 16_000),
    "start trimmed": lambda samples: samples[4321:],
    "a second late": lambda samples: np.concatenate([add_noise(np.full(15_999, 1e-3), 0), samples]),
    "both ends trimmed": lambda samples: samples[3000 : 3000 + 16_000],
    "soft noise": lambda samples: add_noise(samples, 25),
    "all at once": lambda samples: add_noise(mp3(samples[3333:] * np.float32(0.3)), 30),
}


@pytest.mark.parametrize("change", [*DUPLICATES, *NEAR_DUPLICATES])
@pytest.mark.parametrize("row", [0, 20])
def test_a_changed_copy_is_found(voices: datasets.Dataset, change: str, row: int) -> None:
    (finding,) = findings_of(add_copy(voices, row, (DUPLICATES | NEAR_DUPLICATES)[change]))
    assert {finding.clip, finding.other} == {voices[row]["id"], COPY}
    assert finding.kind == ("duplicate" if change in DUPLICATES else "near-duplicate")
    assert not finding.crosses_split
    assert finding.similarity == 1 if change in DUPLICATES else 0.6 < finding.similarity <= 1


def test_clean_data_has_no_findings(miniature_table: datasets.Dataset) -> None:
    """Many clips are one voice with one sentence: these are not copies."""
    assert findings_of(miniature_table, make_split(miniature_table, "speaker", test=0.5)) == []


def test_a_pair_under_two_speakers_and_two_labels_is_described(voices: datasets.Dataset) -> None:
    label = (voices[0]["emotion"] + 1) % 8
    table = add_copy(voices, 0, opus, speaker="ravdess-99", emotion=label)
    (finding,) = findings_of(table)
    names = table.features["emotion"].names
    assert finding.speakers == ("ravdess-01", "ravdess-99")
    assert finding.labels == (names[voices[0]["emotion"]], names[label])
    ((heading, _),) = group_findings([finding], split=False)
    assert heading.endswith("(1 under two speakers, 1 under two labels)")


def test_findings_across_parts_come_first(voices: datasets.Dataset) -> None:
    table = add_copy(voices, 1, DUPLICATES["unchanged"], id="same part")
    table = add_copy(table, 0, mp3, speaker="tess-OAF")
    split = write_json({"train": ["ravdess-01", "tess-YAF"], "test": ["ravdess-02", "tess-OAF"]})
    first, second = findings_of(table, split)
    assert (first.kind, first.other, first.parts) == ("near-duplicate", COPY, ("train", "test"))
    assert (second.kind, second.other, second.parts) == ("duplicate", "same part", ("train",))
    headings = [heading for heading, _ in group_findings([first, second], split=True)]
    assert [" in two parts of the split" in heading for heading in headings] == [True, False]


def test_many_copies_give_one_pair_each_and_all_crossing_ones(voices: datasets.Dataset) -> None:
    table = voices
    for number, speaker in enumerate(["ravdess-01", "tess-YAF", "tess-YAF", "tess-YAF"]):
        table = add_copy(table, 0, DUPLICATES["unchanged"], id=f"copy{number}", speaker=speaker)
    findings = findings_of(table, write_json({"train": ["ravdess-01"], "test": ["tess-YAF"]}))
    crossing = {clip for finding in findings if finding.crosses_split for clip in (finding.clip, finding.other)}
    assert crossing == {voices[0]["id"], "copy0", "copy1", "copy2", "copy3"}
    assert len(findings) == 7
    assert {finding.kind for finding in findings} == {"duplicate"}


def test_a_leaking_split_is_found_even_if_its_file_denies_it(voices: datasets.Dataset) -> None:
    findings = findings_of(voices, write_json(make_split(voices, "random", test=0.5).to_dict() | {"leaking": False}))
    assert {finding.kind for finding in findings} == {"speaker"}
    assert {finding.speakers[0] for finding in findings} == set(voices["speaker"])
    assert all(finding.crosses_split for finding in findings)


def test_all_speakers_that_a_split_file_names_twice_are_found(voices: datasets.Dataset) -> None:
    split = {"train": ["ravdess-01", "OAF", "YAF"], "dev": ["OAF"], "test": ["YAF", "ravdess-02"]}
    findings = findings_of(voices, write_json(split))
    speakers = {finding.speakers[0]: finding.parts for finding in findings if finding.kind == "speaker"}
    assert speakers == {"tess-OAF": ("train", "validation"), "tess-YAF": ("train", "test")}
    assert sum(finding.kind == "clip" for finding in findings) == 16
    assert len(findings) == 18


def test_clips_in_two_parts_and_missing_clips_are_found(voices: datasets.Dataset) -> None:
    content = make_split(voices, "speaker", test=0.5).to_dict()
    clip = content["parts"]["train"]["clips"][0]
    content["parts"]["test"]["clips"] += [clip, "gone"]
    findings = findings_of(voices, write_json(content))
    kinds_and_clips = [(finding.kind, finding.clip) for finding in findings]
    assert kinds_and_clips == [("speaker", None), ("clip", clip), ("missing", "gone")]


def test_augmented_versions_must_be_in_the_part_of_their_clip(voices: datasets.Dataset) -> None:
    versions = augment_table(voices, Augment({"noise": {}}, copies=1), progress=False)
    split = make_split(voices, "speaker", test=0.5)
    assert findings_of(versions, split) == []
    content = split.to_dict()
    clip = content["parts"]["train"]["clips"][0]
    content["parts"]["test"]["clips"].append(f"{clip}+1")
    findings = findings_of(versions, write_json(content))
    assert [finding.kind for finding in findings] == ["speaker", "version"]
    assert (findings[1].clip, findings[1].other, findings[1].parts) == (f"{clip}+1", clip, ("train", "test"))


def test_silent_clips_are_found_and_are_not_duplicates(voices: datasets.Dataset) -> None:
    table = add_copy(voices, 0, np.zeros_like)
    table = add_copy(table, 1, lambda samples: add_noise(samples, 80) - samples, id="hiss")
    findings = findings_of(table)
    assert [(finding.kind, finding.clip) for finding in findings] == [("silent", COPY), ("silent", "hiss")]
    assert len(findings_of(table.select([len(voices)]))) == 1  # no other clip to compare


def test_very_short_clips_are_compared_for_equality(voices: datasets.Dataset) -> None:
    table = add_copy(voices, 0, lambda samples: samples[8000:8300], id="short")
    assert findings_of(table) == []
    (finding,) = findings_of(add_copy(table, 0, lambda samples: np.concatenate([np.zeros(50), samples[8000:8300]])))
    assert (finding.kind, finding.clip, finding.other) == ("duplicate", "short", COPY)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train": ["ravdess-01"], "exam": ["ravdess-02"]}, "a split file is a run's split.json, or an object with"),
        ({"train": ["nobody"], "test": ["ravdess-02"]}, "'nobody' names no speaker of the data"),
        (["ravdess-01"], "a split file is a run's split.json, or"),
        ({"parts": {"train": {"clips": []}}}, "not a split ('validation' is missing)"),
        ({"parts": {part: {"clips": ["x"]} for part in ("train", "validation", "test")}}, "a split of other data?"),
    ],
)
def test_files_that_are_no_split_are_refused(voices: datasets.Dataset, content: Any, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        findings_of(voices, write_json(content))


@pytest.fixture
def tables(voices: datasets.Dataset, miniature_folder: Path) -> None:
    """In the working folder, prepared tables: clean, and leaking (a copy of a clip under another speaker)."""
    for name, table in {"clean": voices, "leaking": add_copy(voices, 0, opus, speaker="tess-OAF")}.items():
        table.save_to_disk(name)
        shutil.copy(miniature_folder / "corpora.json", name)
    write_json({"train": ["ravdess-01", "tess-YAF"], "test": ["ravdess-02", "tess-OAF"]}, "lists.json")
    Path("run").mkdir()
    write_json(make_split(voices, "speaker", test=0.5).to_dict(), "run/split.json")


@pytest.mark.usefixtures("tables")
def test_the_exit_code_says_whether_anything_was_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "clean"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("nothing found")
    assert main(["audit", "clean", "--split", "run"]) == 0
    assert "no speaker in two parts" in capsys.readouterr().out
    assert main(["audit", "leaking"]) == 1
    assert "1 pair of clips shares a recording" in capsys.readouterr().out
    assert main(["audit", "leaking", "--split", "lists.json"]) == 1
    assert "in two parts of the split (1 under two speakers)" in capsys.readouterr().out
    for arguments in (["none"], ["clean", "--split", "none.json"], ["clean", "--format", "xml"]):
        assert main(["audit", *arguments]) == 2
        assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("tables")
def test_json_and_csv_have_a_row_per_finding(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["audit", "leaking", "--split", "lists.json", "--format"]
    assert main([*command, "jsonl"]) == 1
    row = json.loads(capsys.readouterr().out)
    assert (row["kind"], row["other"], row["parts"]) == ("near-duplicate", COPY, ["train", "test"])
    assert row["speakers"] == ["ravdess-01", "tess-OAF"]
    assert main([*command, "csv"]) == 1
    header, line = capsys.readouterr().out.splitlines()
    assert header == "kind,clip,other,speakers,labels,parts,similarity"
    assert ",ravdess-01; tess-OAF," in line
    assert main(["audit", "clean", "--format", "json"]) == 0
    assert capsys.readouterr().out == "[]\n"


@pytest.mark.usefixtures("tables")
def test_the_table_shows_the_first_of_many_findings(capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads(Path("run/split.json").read_text(encoding="utf-8"))
    content["parts"]["test"]["clips"] += [f"gone-{number}" for number in range(30)]
    assert main(["audit", "clean", "--split", write_json(content, "more.json")]) == 1
    output = capsys.readouterr().out
    assert "30 clips of the split are not in the data:" in output
    assert "... and 10 more: --format csv shows all" in output


def test_the_duplicate_of_ravdess_is_found_among_other_takes(shared_data: Path, voices: datasets.Dataset) -> None:
    names = [f"03-01-03-01-02-0{take}-07" for take in (1, 2)]
    names += [f"03-01-02-0{intensity}-02-0{take}-07" for intensity in "12" for take in "12"]
    metadata = {key: value for key, value in voices[0].items() if key not in ("id", "audio")}
    clips = []
    for name in names:
        wav = audio.to_wav(audio.decode(shared_data / "RAVDESS" / "Actor_07" / f"{name}.flac"))
        clips.append(metadata | {"id": name, "audio": {"bytes": wav, "path": name}})
    (finding,) = findings_of(table_of(clips, voices.features))
    assert (finding.kind, finding.clip, finding.other) == ("duplicate", names[0], names[1])
