"""The table: its columns and audio, skipped files and their reasons, duplicate recordings."""

from __future__ import annotations

import csv
import io
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import soundfile

from ser_ft import audio
from ser_ft.audio import decode, from_wav, to_wav
from ser_ft.data import builder, deduplication
from ser_ft.data.prepare import prepare
from ser_ft.labels import EMOTION_NAMES
from ser_ft.utils.errors import InputError
from tests.helpers.corpus_files import actor_clips, encode, labels_of, load, noise, samples, skipped, write

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def test_columns_and_types(miniature_table: datasets.Dataset) -> None:
    text = datasets.Value("string")
    assert miniature_table.features == {
        "id": text,
        "audio": datasets.Audio(sampling_rate=16_000, decode=False),
        "emotion": datasets.ClassLabel(names=list(EMOTION_NAMES)),
        "corpus": text,
        "speaker": text,
        "gender": text,
        "age": datasets.Value("int32"),
        "intensity": text,
        "statement": text,
        "language": text,
        "duration": datasets.Value("float64"),
        "sampling_rate": datasets.Value("int32"),
        "path": text,
    }
    assert Counter(miniature_table["corpus"]).keys() == {"ravdess", "tess", "cremad", "savee"}
    assert len(set(miniature_table["speaker"])) == 8


def test_the_audio_is_16_bit_mono_at_16_khz(miniature_table: datasets.Dataset) -> None:
    for row in miniature_table.select(range(0, len(miniature_table), 40)):
        info = soundfile.info(io.BytesIO(row["audio"]["bytes"]))
        assert (info.format, info.subtype, info.channels, info.samplerate) == ("WAV", "PCM_16", 1, 16_000)
        assert abs(info.duration - row["duration"]) < 1e-9
        original = audio.decode(Path(row["path"]))
        assert np.abs(original - from_wav(row["audio"]["bytes"])).max() < 1 / 32768


def test_clips_are_stored_as_they_are_decoded_for_predictions(tmp_path: Path) -> None:
    names = actor_clips(1)
    table = load(write(tmp_path / "x", names), tmp_path / "cache")
    assert {Path(row["path"]).name: row["audio"]["bytes"] for row in table} == {
        name: to_wav(decode(noise(name))) for name in names
    }


def test_the_original_sampling_rate_is_recorded(tmp_path: Path) -> None:
    rates = dict(zip(actor_clips(1)[:4], (8_000, 16_000, 24_414, 48_000), strict=True))
    table = load(write(tmp_path / "x", {n: encode(samples(n, 0.3), rate) for n, rate in rates.items()}), tmp_path / "c")
    assert {Path(row["path"]).name: row["sampling_rate"] for row in table} == rates


def test_bad_files_are_skipped_with_their_reasons(tmp_path: Path) -> None:
    pcm = samples("x", 0.3)
    stereo = np.stack([samples("l", 0.3), samples("r", 0.3)], axis=1)
    good = [encode(pcm, kind="AIFF"), encode(stereo), encode(pcm, 96_000), encode(samples("b", 0.3), 24_414)]
    bad = {
        "lfs-pointer": LFS,
        "empty": b"",
        "silent": to_wav(np.full(4800, 7, np.int16)),
        "unreadable": b"no sound " * 99,
        "cut-short": to_wav(samples("c", 0.3))[:4000],
    }
    names = iter(actor_clips(1) + actor_clips(2))
    usable = {next(names): content for content in good}
    unusable = dict(zip(names, bad, strict=False))
    files = usable | {name: bad[reason] for name, reason in unusable.items()}
    table = load(write(tmp_path / "x", files), tmp_path / "c")
    assert set(table["id"]) == {f"ravdess-{Path(name).stem}" for name in usable}
    assert skipped(table) == unusable
    assert sorted(round(seconds, 3) for seconds in table["duration"]) == [0.05, 0.197, 0.3, 0.3]
    file = Path(table.cache_files[0]["filename"]).parent / "skipped.csv"
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert all(row["corpus"] == "ravdess" and row["detail"] and Path(row["path"]).is_file() for row in rows)


def test_an_unexpected_error_skips_one_file_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signatures = builder.signatures

    def fail_if_long(pcm: np.ndarray, sound: slice) -> Any:
        if len(pcm) > 1500:
            raise ValueError("too much")
        return signatures(pcm, sound)

    monkeypatch.setattr(builder, "signatures", fail_if_long)
    names = actor_clips(1, range(1, 4))
    files = {name: noise(name) for name in names} | {names[0]: noise("x", 0.1)}
    table = load(write(tmp_path / "x", files), tmp_path / "c")
    assert len(table) == 2
    assert skipped(table) == {names[0]: "unreadable"}


def test_m4a_without_ffmpeg_is_skipped_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    root = write(tmp_path / "x", {"happy/1.wav": noise("1"), "sad/2.m4a": b"\x00\x00\x00\x20ftypM4A " + bytes(900)})
    table = load({"own": root}, tmp_path / "c")
    listed = builder.read_skipped(Path(table.cache_files[0]["filename"]).parent / "skipped.csv")
    assert [(skip.reason, "install ffmpeg" in skip.detail) for skip in listed] == [("unreadable", True)]


def test_a_root_without_usable_clips_is_refused(tmp_path: Path) -> None:
    root = write(tmp_path / "x", dict.fromkeys(actor_clips(1), LFS))
    with pytest.raises(InputError, match="a git-LFS pointer instead of the sound: 8"):
        load(root, tmp_path / "c")
    with pytest.raises(InputError, match="a git-LFS pointer"):
        prepare(root, tmp_path / "deep" / "out", verbose=False)
    listed = builder.read_skipped(tmp_path / "deep" / "out" / "skipped.csv")
    assert [skip.reason for skip in listed] == ["lfs-pointer"] * 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "deep", "x"]


COPIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "same samples": lambda pcm: pcm,
    "dithered": lambda pcm: (pcm + np.random.default_rng(0).integers(-2, 3, len(pcm))).astype("<i2"),
    "zeros at the end": lambda pcm: np.pad(pcm, (0, 200)),
    "zeros at the start": lambda pcm: np.pad(pcm, (50, 0)),
}


@pytest.mark.parametrize("copy", COPIES)
@pytest.mark.parametrize("silent_ends", [0, 300])
@pytest.mark.parametrize("same_label", [True, False])
def test_a_duplicate_is_kept_once_or_not_at_all_if_labels_differ(
    tmp_path: Path, copy: str, silent_ends: int, same_label: bool
) -> None:
    first, second = "03-01-03-01-02-01-07.wav", f"03-01-{'03' if same_label else '04'}-01-02-02-07.wav"
    other = "03-01-05-01-02-02-07.wav"
    pcm = np.pad(samples("x", 0.2), silent_ends)
    files = {first: to_wav(pcm), second: to_wav(COPIES[copy](pcm)), other: to_wav(samples("y", 0.2))}
    table = load(write(tmp_path / "x", files), tmp_path / "c")
    names = [first, other] if same_label else [other]
    assert table["id"][:] == [f"ravdess-{Path(name).stem}" for name in names]
    assert skipped(table) == ({second: "same-sound"} if same_label else {first: "two-labels", second: "two-labels"})


def test_all_copies_of_a_recording_with_two_labels_are_skipped(tmp_path: Path) -> None:
    files = dict.fromkeys(actor_clips(1, range(3, 5)) + actor_clips(2, range(3, 5)), noise("x"))
    table = load(write(tmp_path / "x", files | {actor_clips(3)[0]: noise("y")}), tmp_path / "c")
    assert table["id"][:] == ["ravdess-03-01-01-01-01-01-03"]
    assert Counter(skipped(table).values()) == {"two-labels": 3, "same-sound": 1}
    prepare(tmp_path / "x", tmp_path / "out", verbose=False)
    assert datasets.load_from_disk(str(tmp_path / "out"))["id"][:] == table["id"][:]


def test_a_recording_with_two_emotions_of_one_class_is_skipped(tmp_path: Path) -> None:
    files = dict.fromkeys(actor_clips(1, range(4, 6)), noise("x")) | {actor_clips(1)[2]: noise("y")}
    mapping = {"happy": "good", "sad": "bad", "angry": "bad"}
    table = load(write(tmp_path / "x", files), tmp_path / "c", labels=mapping)
    assert list(labels_of(table).values()) == ["good"]


def test_the_duplicate_of_ravdess_is_skipped(shared_data: Path, tmp_path: Path) -> None:
    names = [f"03-01-03-01-0{statement}-0{repetition}-07.flac" for statement in (1, 2) for repetition in (1, 2)]
    files = {name: (shared_data / "RAVDESS" / "Actor_07" / name).read_bytes() for name in names}
    table = load(write(tmp_path / "x", files), tmp_path / "c")
    assert len(table) == 3
    assert skipped(table) == {"03-01-03-01-02-02-07.flac": "same-sound"}


def test_finding_duplicates_among_many_clips_of_one_length_is_fast() -> None:
    generator = np.random.default_rng(0)
    index: deduplication.DuplicateIndex[int] = deduplication.DuplicateIndex()
    projections = generator.normal(size=(12_000, 32))
    projections /= np.linalg.norm(projections, axis=1, keepdims=True)
    start = time.process_time()
    assert all(index.find_or_add([(48_000, item)], row) is None for row, item in enumerate(projections))
    copies = projections + generator.normal(0, 0.002, projections.shape)
    assert [index.find_or_add([(48_000, item)], -1) for item in copies[::40]] == list(range(0, 12_000, 40))
    assert time.process_time() - start < 10
