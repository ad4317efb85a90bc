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

SOME: dict[str, dict[str, Any]] = {"noise": {"p": 0.5}, "speed": {"rate": [0.8, 1.2]}, "shift": {}, "pitch": {"p": 0.3}}


@pytest.fixture
def table(miniature_table: datasets.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> datasets.Dataset:
    """Six clips, and an empty cache."""
    monkeypatch.setenv("SER_FT_CACHE", str(tmp_path / "cache"))
    return miniature_table.select(range(0, 60, 10))


def sounds(table: datasets.Dataset) -> list[bytes]:
    return [sound["bytes"] for sound in table["audio"]]


def test_each_clip_has_its_versions_after_it_and_all_is_kept(table: datasets.Dataset) -> None:
    made = augment_table(table, Augment(SOME, copies=2), shown=False)
    assert made["copy"][:] == [0, 1, 2] * 6
    assert made["source"][:] == [name for name in table["id"] for _ in range(3)]
    assert made["id"][:] == [f"{name}{end}" for name in table["id"] for end in ("", "+1", "+2")]
    assert len(set(made["id"])) == 18
    for place, row in enumerate(made):
        clip = table[place // 3]
        kept = set(clip) - {"id", "audio", "duration"}
        assert {name: row[name] for name in kept} == {name: clip[name] for name in kept}
        with soundfile.SoundFile(io.BytesIO(row["audio"]["bytes"])) as file:
            assert (file.samplerate, file.channels, file.subtype) == (16_000, 1, "PCM_16")
            assert row["duration"] == file.frames / 16_000
        assert row["audio"]["path"] == f"{row['id']}.wav"
        assert (row["audio"]["bytes"] == clip["audio"]["bytes"]) == (row["copy"] == 0)
    assert made.features["emotion"] == table.features["emotion"]
    assert made.features["audio"] == table.features["audio"]
    assert corpus_info(made) == corpus_info(table)


def test_without_the_originals_there_are_versions_alone(table: datasets.Dataset) -> None:
    made = augment_table(table, Augment(SOME, originals=False), shown=False)
    assert made["id"][:] == [f"{name}+1" for name in table["id"]]


def test_a_plain_map_gives_the_same_table(table: datasets.Dataset) -> None:
    augment = Augment(SOME)
    plain = table.map(augment, batched=True, load_from_cache_file=False, cache_file_name=None, keep_in_memory=True)
    made = augment_table(table, augment, shown=False)
    assert plain.features == made.features
    assert plain.to_dict() == made.to_dict()


def test_what_is_made_on_the_fly_is_what_is_in_the_table(table: datasets.Dataset) -> None:
    augment = Augment(SOME, seed=4)
    made = augment_table(table, augment, shown=False)
    wave = augment.wave(audio.from_wav(table[2]["audio"]["bytes"]), table[2]["id"], 1)
    assert audio.to_wav(wave) == made[5]["audio"]["bytes"]


def test_one_seed_gives_one_table_in_one_process_or_two(
    table: datasets.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = augment_table(table, Augment(SOME, copies=2), shown=False)
    monkeypatch.setenv("SER_FT_CACHE", str(tmp_path / "another"))
    two = augment_table(table, Augment(SOME, copies=2), num_proc=2, shown=False)
    assert len(list((tmp_path / "another").rglob("*.arrow"))) == 2, "it was not made by two processes"
    assert sounds(one) == sounds(two)
    assert one["id"][:] == two["id"][:]
    assert one._fingerprint == two._fingerprint
    assert corpus_info(two) == corpus_info(table)
    other = augment_table(table, Augment(SOME, copies=2, seed=1), shown=False)
    assert all(a != b for a, b, copy in zip(sounds(one), sounds(other), one["copy"], strict=True) if copy)


def test_draws_are_the_same_on_every_machine_and_day() -> None:
    drawn = Augment({"volume": {}, "noise": {}}, seed=7).drawn("ravdess-03-01-01-01-01-01-01", 2)
    assert drawn["volume"]["gain"] == pytest.approx(-0.34021403709)
    assert drawn["noise"] == {"colour": "brown", "snr": pytest.approx(5.2718509545)}


def test_taking_a_transform_out_leaves_the_others_as_they_were() -> None:
    whole, less = Augment(SOME), Augment({name: SOME[name] for name in ("noise", "speed")})
    for version in range(20):
        drawn = whole.drawn("clip", version)
        assert less.drawn("clip", version) == {name: drawn[name] for name in drawn if name in ("noise", "speed")}


def test_settings_are_drawn_over_all_of_their_range_and_not_beyond() -> None:
    given = {"noise": {"snr": [3, 9], "colour": ["pink", "violet"]}, "room": {"rt60": [0.3, 0.4], "direct": 5}}
    drawn = [Augment(given).drawn(f"clip{number}", 1) for number in range(300)]
    for values, low, high in (
        ([one["noise"]["snr"] for one in drawn], 3, 9),
        ([one["room"]["rt60"] for one in drawn], 0.3, 0.4),
    ):
        assert low <= min(values) < low + 0.05 * (high - low)
        assert high >= max(values) > high - 0.05 * (high - low)
        assert np.mean(values) == pytest.approx((low + high) / 2, rel=0.05)
    assert {one["room"]["direct"] for one in drawn} == {5.0}
    assert {one["noise"]["colour"] for one in drawn} == {"pink", "violet"}


def test_p_is_the_share_of_versions_that_have_a_transform() -> None:
    augment = Augment({"noise": {"p": 0.3}, "speed": {"p": 0.0}, "shift": {"p": 1}})
    drawn = [augment.drawn(f"clip{number}", 1) for number in range(1000)]
    assert np.mean(["noise" in one for one in drawn]) == pytest.approx(0.3, abs=0.05)
    assert all("speed" not in one and "shift" in one for one in drawn)


def test_a_transform_that_is_never_applied_leaves_the_bytes_alone(table: datasets.Dataset, tmp_path: Path) -> None:
    (tmp_path / "noise.wav").write_bytes(table[0]["audio"]["bytes"])
    never = {name: {"p": 0, **({"folder": tmp_path} if name == "background" else {})} for name in TRANSFORMS}
    made = augment_table(table, Augment(never), shown=False)
    assert sounds(made)[0::2] == sounds(made)[1::2] == sounds(table)


def test_transforms_are_applied_in_one_order_however_they_are_written(table: datasets.Dataset) -> None:
    forth, back = Augment(SOME), Augment(dict(reversed(SOME.items())))
    wave = audio.from_wav(table[0]["audio"]["bytes"])
    assert np.array_equal(forth.wave(wave, "clip", 3), back.wave(wave, "clip", 3))
    assert Hasher.hash(forth) == Hasher.hash(back)


def test_the_global_generators_are_left_as_they_were() -> None:
    random.seed(1)
    np.random.seed(1)
    python, numpy = random.getstate(), np.random.get_state()
    augment = Augment({name: {} for name in TRANSFORMS if name != "background"})
    first = augment.wave(np.full(8000, 0.1, np.float32), "clip", 1)
    assert random.getstate() == python
    assert np.array_equal(np.random.get_state()[1], numpy[1])
    random.seed(2)
    np.random.seed(2)
    assert np.array_equal(augment.wave(np.full(8000, 0.1, np.float32), "clip", 1), first)


def test_a_used_augment_is_known_as_a_fresh_one_and_the_cache_is_hit(
    table: datasets.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = Augment({"codec": {}, **SOME})
    made = augment_table(table, used, shown=False)
    assert Hasher.hash(used) == Hasher.hash(Augment({"codec": {}, **SOME}))
    assert Hasher.hash(used) != Hasher.hash(Augment({"codec": {}, **SOME}, seed=1))
    monkeypatch.setattr(Augment, "wave", None)
    again = augment_table(table, Augment({"codec": {}, **SOME}), num_proc=2, shown=False)
    assert sounds(again) == sounds(made)
    assert again._fingerprint == made._fingerprint
    with pytest.raises(TypeError):
        augment_table(table, Augment({"codec": {}, **SOME}, copies=2), shown=False)


def test_a_recording_added_to_the_noises_or_changed_is_seen(tmp_path: Path) -> None:
    wav = audio.to_wav(np.full(100, 0.1, np.float32))
    (tmp_path / "a.wav").write_bytes(wav)
    before = Augment({"background": {"folder": str(tmp_path)}})
    assert Hasher.hash(before) == Hasher.hash(Augment({"background": {"folder": tmp_path}}))
    (tmp_path / "b.flac").write_bytes(wav)
    added = Augment({"background": {"folder": tmp_path}})
    (tmp_path / "b.flac").write_bytes(wav + wav)
    changed = Augment({"background": {"folder": tmp_path}})
    assert len({Hasher.hash(augment) for augment in (before, added, changed)}) == 3


def test_a_broken_recording_among_the_noises_is_one_line_from_another_process_too(
    table: datasets.Dataset, tmp_path: Path
) -> None:
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    with pytest.raises(InputError, match=r"augmentation background: .*broken\.wav: .*: take it out of the folder"):
        augment_table(table, Augment({"background": {"folder": tmp_path}}), num_proc=2, shown=False)


@pytest.mark.parametrize(("given", "says"), [
    ({}, "name one or more transforms of pitch, stretch"),
    ("noise", "name one or more transforms of pitch, stretch"),
    ({"fog": {}}, "no transform 'fog'; there are pitch, stretch"),
    ({"noise": 5}, "noise: give its settings as a mapping, not 5"),
    ({"noise": {"level": 5}}, "noise: no setting 'level'; there are colour, snr, p"),
    ({"noise": {"snr": 99}}, "noise.snr: give a number or [low, high] from -20 to 60 dB, not 99"),
    ({"noise": {"snr": [9, 3]}}, "noise.snr: give a number or [low, high] from -20 to 60 dB, not [9, 3]"),
    ({"noise": {"snr": [1, 2, 3]}}, "noise.snr: give a number or [low, high] from -20 to 60 dB, not [1, 2, 3]"),
    ({"noise": {"snr": "10"}}, "noise.snr: give a number or [low, high] from -20 to 60 dB, not '10'"),
    ({"noise": {"snr": float("nan")}}, "noise.snr: give a number or [low, high] from -20 to 60 dB, not nan"),
    ({"noise": {"snr": None}}, "noise.snr: give a number or [low, high] from -20 to 60 dB, not None"),
    ({"noise": {"colour": "beige"}}, "noise.colour: give one or several of white, pink, brown, blue, violet, not"),
    ({"noise": {"colour": []}}, "noise.colour: give one or several of white"),
    ({"noise": {"p": 1.5}}, "noise.p: give a probability from 0 to 1, not 1.5"),
    ({"noise": {"p": True}}, "noise.p: give a probability from 0 to 1, not True"),
    ({"background": {}}, "background.folder: name a folder of recordings, not None"),
    ({"background": {"folder": "nowhere"}}, "background.folder: nowhere: no sound files found there"),
    ({"codec": {"formats": "aac"}}, "codec.formats: give one or several of mp3, opus, vorbis, gsm, not 'aac'"),
    ({"pitch": {"semitones": 30}}, "pitch.semitones: give a number or [low, high] from -12 to 12, not 30"),
])  # fmt: skip
def test_wrong_settings_are_one_line_at_once(given: Any, says: str) -> None:
    with pytest.raises(InputError) as caught:
        Augment(given)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("given", [{"copies": 0}, {"copies": 1.5}, {"copies": True}, {"seed": -1}, {"seed": 2**32}])
def test_wrong_numbers_are_one_line_at_once(given: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="must be a whole number from"):
        Augment(SOME, **given)


def test_nothing_means_the_defaults() -> None:
    assert Augment({"noise": None}) == Augment({"noise": {}}) == Augment({"noise": {"snr": [5, 25], "p": 1}})  # type: ignore[dict-item]


def test_tables_that_cannot_be_augmented_are_refused(table: datasets.Dataset) -> None:
    augment = Augment({"volume": {}})
    with pytest.raises(InputError, match="and only once"):
        augment_table(augment_table(table, augment, shown=False), augment, shown=False)
    with pytest.raises(InputError, match="only a prepared table"):
        augment_table(table.remove_columns("audio"), augment, shown=False)
    with pytest.raises(InputError, match="holds no clips"):
        augment_table(table.select([]), augment, shown=False)
    with pytest.raises(InputError, match="WAV bytes, undecoded"):
        augment({"id": ["a"], "audio": [[0.1, 0.2]]})


@pytest.mark.parametrize("samples", [np.zeros(0), np.zeros((2, 100)), np.full(10, np.nan)])
def test_what_is_no_clip_is_refused(samples: np.ndarray) -> None:
    with pytest.raises(InputError, match="one channel of one or more finite samples"):
        Augment(SOME).wave(samples, "clip", 1)
