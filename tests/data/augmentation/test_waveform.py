"""Augmented tables, and versions on the fly."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import soundfile
from datasets.fingerprint import Hasher

from ser_ft import audio
from ser_ft.data.augmentation.waveform import TRANSFORMS, Augment, augment_table
from ser_ft.data.prepare import corpus_info
from ser_ft.utils.errors import InputError

SOME: dict[str, Any] = {"noise": {"p": 0.5}, "speed": {"factor": [0.8, 1.2]}, "shift": {}, "pitch": {"p": 0.3}}


@pytest.fixture
def table(miniature_table: datasets.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> datasets.Dataset:
    """Six clips, and an empty cache."""
    monkeypatch.setenv("SER_FT_CACHE", str(tmp_path / "cache"))
    return miniature_table.select(range(0, 60, 10))


def augment(table: datasets.Dataset, transforms: Any = SOME, num_proc: int | None = None, **options: Any) -> Any:
    return augment_table(table, Augment(transforms, **options), num_proc, progress=False)


def wavs(table: datasets.Dataset) -> list[bytes]:
    return [sound["bytes"] for sound in table["audio"]]


def test_the_versions_follow_their_clip_with_all_its_columns(table: datasets.Dataset) -> None:
    augmented = augment(table, copies=2)
    assert augmented["copy"][:] == [0, 1, 2] * 6
    assert augmented["source"][:] == [name for name in table["id"] for _ in range(3)]
    assert augmented["id"][:] == [f"{name}{end}" for name in table["id"] for end in ("", "+1", "+2")]
    for place, row in enumerate(augmented):
        clip = table[place // 3]
        columns = set(clip) - {"id", "audio", "duration"}
        assert {name: row[name] for name in columns} == {name: clip[name] for name in columns}
        with soundfile.SoundFile(io.BytesIO(row["audio"]["bytes"])) as file:
            assert (file.samplerate, file.channels, file.subtype) == (16_000, 1, "PCM_16")
            assert row["duration"] == file.frames / 16_000
        assert row["audio"]["path"] == f"{row['id']}.wav"
        assert (row["audio"]["bytes"] == clip["audio"]["bytes"]) == (row["copy"] == 0)
    assert augmented.features["emotion"] == table.features["emotion"]
    assert augmented.features["audio"] == table.features["audio"]
    assert corpus_info(augmented) == corpus_info(table)
    assert augment(table, originals=False)["id"][:] == [f"{name}+1" for name in table["id"]]


def test_map_and_on_the_fly_versions_equal_the_table(table: datasets.Dataset) -> None:
    transform = Augment(SOME, seed=4)
    mapped = table.map(transform, batched=True, load_from_cache_file=False, keep_in_memory=True)
    augmented = augment(table, seed=4)
    assert mapped.features == augmented.features
    assert mapped.to_dict() == augmented.to_dict()
    version = transform.apply(audio.from_wav(table[2]["audio"]["bytes"]), table[2]["id"], 1)
    assert audio.to_wav(version) == augmented[5]["audio"]["bytes"]


def test_the_result_depends_on_the_seed_and_not_on_the_number_of_processes(
    table: datasets.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    single = augment(table, copies=2)
    monkeypatch.setenv("SER_FT_CACHE", str(tmp_path / "another"))
    parallel = augment(table, copies=2, num_proc=2)
    assert len(list((tmp_path / "another").rglob("*.arrow"))) == 2, "it was not made by two processes"
    assert wavs(single) == wavs(parallel)
    assert single["id"][:] == parallel["id"][:]
    assert single._fingerprint == parallel._fingerprint
    assert corpus_info(parallel) == corpus_info(table)
    other = augment(table, copies=2, seed=1)
    assert all(a != b for a, b, copy in zip(wavs(single), wavs(other), single["copy"], strict=True) if copy)


def test_a_seed_gives_the_same_values_on_every_machine() -> None:
    values = Augment({"volume": {}, "noise": {}}, seed=7).sample_parameters("ravdess-03-01-01-01-01-01-01", 2)
    assert values["volume"]["gain_db"] == pytest.approx(-0.34021403709)
    assert values["noise"] == {"color": "brown", "snr_db": pytest.approx(5.2718509545)}


def test_removing_a_transform_does_not_change_the_values_of_the_others() -> None:
    all_transforms, two = Augment(SOME), Augment({name: SOME[name] for name in ("noise", "speed")})
    for version in range(20):
        values = all_transforms.sample_parameters("clip", version)
        expected = {name: values[name] for name in values if name in ("noise", "speed")}
        assert two.sample_parameters("clip", version) == expected


def test_values_cover_their_whole_range_and_nothing_else() -> None:
    transforms = {"noise": {"snr_db": [3, 9], "color": ["pink", "violet"]}, "room": {"rt60": [0.3, 0.4], "drr_db": 5}}
    values = [Augment(transforms).sample_parameters(f"clip{number}", 1) for number in range(300)]
    for name, setting, low, high in (("noise", "snr_db", 3, 9), ("room", "rt60", 0.3, 0.4)):
        numbers = [version[name][setting] for version in values]
        assert low <= min(numbers) < low + 0.05 * (high - low)
        assert high >= max(numbers) > high - 0.05 * (high - low)
        assert np.mean(numbers) == pytest.approx((low + high) / 2, rel=0.05)
    assert {version["room"]["drr_db"] for version in values} == {5.0}
    assert {version["noise"]["color"] for version in values} == {"pink", "violet"}


def test_p_is_the_probability_of_a_transform() -> None:
    transform = Augment({"noise": {"p": 0.3}, "speed": {"p": 0.0}, "shift": {"p": 1}})
    values = [transform.sample_parameters(f"clip{number}", 1) for number in range(1000)]
    assert np.mean(["noise" in version for version in values]) == pytest.approx(0.3, abs=0.05)
    assert all("speed" not in version and "shift" in version for version in values)


def test_transforms_with_probability_0_do_not_change_a_byte(table: datasets.Dataset, tmp_path: Path) -> None:
    (tmp_path / "noise.wav").write_bytes(table[0]["audio"]["bytes"])
    never = {name: {"p": 0, **({"sounds_path": tmp_path} if name == "background" else {})} for name in TRANSFORMS}
    augmented = augment(table, never)
    assert wavs(augmented)[0::2] == wavs(augmented)[1::2] == wavs(table)


def test_the_order_in_which_transforms_are_written_does_not_matter(table: datasets.Dataset) -> None:
    forward, backward = Augment(SOME), Augment(dict(reversed(SOME.items())))
    samples = audio.from_wav(table[0]["audio"]["bytes"])
    assert np.array_equal(forward.apply(samples, "clip", 3), backward.apply(samples, "clip", 3))
    assert Hasher.hash(forward) == Hasher.hash(backward)


def test_global_random_states_are_restored_and_not_used() -> None:
    random.seed(1)
    np.random.seed(1)
    python_state, numpy_state = random.getstate(), np.random.get_state()
    transform = Augment({name: {} for name in TRANSFORMS if name != "background"})
    first = transform.apply(np.full(8000, 0.1, np.float32), "clip", 1)
    assert random.getstate() == python_state
    assert np.array_equal(np.random.get_state()[1], numpy_state[1])
    random.seed(2)
    np.random.seed(2)
    assert np.array_equal(transform.apply(np.full(8000, 0.1, np.float32), "clip", 1), first)


def test_the_same_settings_are_read_from_the_cache(table: datasets.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"codec": {}, **SOME}
    used = Augment(settings)
    augmented = augment_table(table, used, progress=False)
    assert Hasher.hash(used) == Hasher.hash(Augment(settings))
    assert Hasher.hash(used) != Hasher.hash(Augment(settings, seed=1))
    monkeypatch.setattr(Augment, "apply", None)
    again = augment(table, settings, num_proc=2)
    assert wavs(again) == wavs(augmented)
    assert again._fingerprint == augmented._fingerprint
    with pytest.raises(TypeError):
        augment(table, settings, copies=2)


def test_an_added_or_changed_background_recording_changes_the_cache_key(tmp_path: Path) -> None:
    def key(folder: str | Path) -> str:
        return str(Hasher.hash(Augment({"background": {"sounds_path": folder}})))

    wav = audio.to_wav(np.full(100, 0.1, np.float32))
    (tmp_path / "a.wav").write_bytes(wav)
    before = key(tmp_path)
    assert before == key(str(tmp_path))
    (tmp_path / "b.flac").write_bytes(wav)
    added = key(tmp_path)
    (tmp_path / "b.flac").write_bytes(wav + wav)
    assert len({before, added, key(tmp_path)}) == 3


def test_a_broken_background_recording_is_named_by_other_processes_too(table: datasets.Dataset, tmp_path: Path) -> None:
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    with pytest.raises(InputError, match=r"augmentation background: .*broken\.wav: .*: remove it from the folder"):
        augment(table, {"background": {"sounds_path": tmp_path}}, num_proc=2)


SNR = "noise.snr_db must be a number or [low, high] from -20 to 60 dB, not "


@pytest.mark.parametrize(("transforms", "message"), [
    ({}, "name one or more transforms of pitch, stretch"),
    ("noise", "name one or more transforms of pitch, stretch"),
    ({"fog": {}}, "no transform 'fog'; there are pitch, stretch"),
    ({"noise": 5}, "noise: the settings must be a mapping, not 5"),
    ({"noise": {"level": 5}}, "noise: no setting 'level'; there are color, snr_db, p"),
    ({"noise": {"snr_db": 99}}, f"{SNR}99"),
    ({"noise": {"snr_db": [9, 3]}}, f"{SNR}[9, 3]"),
    ({"noise": {"snr_db": [1, 2, 3]}}, f"{SNR}[1, 2, 3]"),
    ({"noise": {"snr_db": "10"}}, f"{SNR}'10'"),
    ({"noise": {"snr_db": float("nan")}}, f"{SNR}nan"),
    ({"noise": {"snr_db": None}}, f"{SNR}None"),
    ({"noise": {"color": "beige"}}, "noise.color must be one or several of white, pink, brown, blue, violet, not"),
    ({"noise": {"color": []}}, "noise.color must be one or several of white"),
    ({"noise": {"p": 1.5}}, "noise.p must be a probability from 0 to 1, not 1.5"),
    ({"noise": {"p": True}}, "noise.p must be a probability from 0 to 1, not True"),
    ({"background": {}}, "background.sounds_path must be a folder of recordings, not None"),
    ({"background": {"sounds_path": "nowhere"}}, "background.sounds_path: nowhere: no such folder"),
    ({"codec": {"format": "aac"}}, "codec.format must be one or several of mp3, opus, vorbis, gsm, not 'aac'"),
    ({"pitch": {"semitones": 30}}, "pitch.semitones must be a number or [low, high] from -12 to 12, not 30"),
])  # fmt: skip
def test_wrong_settings_are_refused_in_one_line(transforms: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        Augment(transforms)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("option", [{"copies": 0}, {"copies": 1.5}, {"copies": True}, {"seed": -1}, {"seed": 2**32}])
def test_wrong_numbers_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="must be a whole number from"):
        Augment(SOME, **option)


def test_missing_settings_have_their_defaults() -> None:
    assert Augment({"noise": None}) == Augment({"noise": {}}) == Augment({"noise": {"snr_db": [5, 25], "p": 1}})  # type: ignore[dict-item]


def test_tables_and_samples_that_cannot_be_augmented_are_refused(table: datasets.Dataset) -> None:
    volume: dict[str, Any] = {"volume": {}}
    with pytest.raises(InputError, match="and only once"):
        augment(augment(table, volume), volume)
    with pytest.raises(InputError, match="only a prepared table"):
        augment(table.remove_columns("audio"), volume)
    with pytest.raises(InputError, match="holds no clips"):
        augment(table.select([]), volume)
    with pytest.raises(InputError, match="WAV bytes, not decoded"):
        Augment(volume)({"id": ["a"], "audio": [[0.1, 0.2]]})
    for samples in (np.zeros(0), np.zeros((2, 100)), np.full(10, np.nan)):
        with pytest.raises(InputError, match="one channel of one or more finite samples"):
            Augment(volume).apply(samples, "clip", 1)
