"""What is measured of each clip, on sounds whose measures are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ser_ft.audio import SAMPLE_RATE, to_wav
from ser_ft.report.exploration.measurements import active, decibels, measure, survey
from ser_ft.report.exploration.sources import open_source
from ser_ft.utils.errors import InputError


def voice(hertz: float, seconds: float = 1.0, dbfs: float = -20.0) -> np.ndarray:
    """Harmonics 6 dB down per octave, of a known level."""
    phase = 2 * np.pi * hertz * np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    sound = sum(np.sin(k * phase) / k for k in range(1, 20))
    return (sound / np.sqrt(np.mean(np.square(sound))) * 10 ** (dbfs / 20)).astype(np.float32)


def hiss(seconds: float, dbfs: float) -> np.ndarray:
    drawn = np.random.default_rng(0).normal(0, 10 ** (dbfs / 20), round(seconds * SAMPLE_RATE))
    return drawn.astype(np.float32)


def write(folder: Path, sounds: dict[str, np.ndarray | bytes]) -> Path:
    for name, sound in sounds.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(sound if isinstance(sound, bytes) else to_wav(sound))
    return folder


def test_level_background_and_share_of_the_speech() -> None:
    """Pauses must not make a clip pass for a quiet one: RAVDESS is more than half silence."""
    clip = np.concatenate([hiss(1.2, -70), voice(200, 0.8, -26), hiss(1, -70)])
    (found,), _ = measure([clip])
    assert found["level"] == pytest.approx(-26, abs=1)
    assert found["background"] == pytest.approx(-70, abs=2)
    assert found["speech"] == pytest.approx(0.8 / 3, abs=0.03)
    assert found["pitch"] == pytest.approx(200, rel=0.01)
    assert found["pitch_range"] < 0.5
    assert found["voiced"] > 0.9


def test_pitch_and_its_range_in_semitones() -> None:
    halves = np.concatenate([voice(150, 1.0), voice(300, 1.0)])
    (low, both), _ = measure([voice(150), halves])
    assert low["pitch"] == pytest.approx(150, rel=0.01)
    assert both["pitch_range"] == pytest.approx(12, abs=0.3)
    (noise,), features = measure([hiss(1, -20)])
    assert np.isnan(noise["pitch"])
    assert np.isnan(noise["pitch_range"])
    assert np.isnan(features).sum() == 2


def test_a_clip_is_measured_alone_as_with_others() -> None:
    clips = [voice(120, 0.31), hiss(2.0, -30), voice(250, 1.234, -40), np.full(3, 0.1, np.float32)]
    together, features = measure(clips)
    for row, clip in enumerate(clips):
        (alone,), mine = measure([clip])
        assert alone == pytest.approx(together[row], rel=1e-3, abs=1e-3, nan_ok=True)
        assert np.allclose(mine[0], features[row], rtol=1e-3, atol=1e-3, equal_nan=True)


def test_the_active_level_is_that_of_the_loud_part() -> None:
    levels = torch.tensor([[-20.0] * 10 + [-60.0] * 90, [-30.0] * 50 + [-40.0] * 50])
    speech, level = active(levels, torch.ones_like(levels, dtype=torch.bool))
    assert level.tolist() == pytest.approx([-20.0, 10 * np.log10((1e-3 + 1e-4) / 2)], abs=0.01)
    assert speech.sum(dim=1).tolist() == [10, 100], "10 dB under is still speech, 40 dB is not"
    assert decibels(torch.tensor([1.0, 0.1, 0.0])).tolist() == pytest.approx([0, -20, -100])


def test_a_folder_without_labels(tmp_path: Path) -> None:
    """Files that cannot be read are listed, and stop nothing."""
    long = np.concatenate([hiss(40, -80), voice(180, 61), hiss(40, -80)])
    long[5] = 0.9
    folder = write(
        tmp_path / "voices",
        {"a/1.wav": voice(200), "a/2.wav": long, "b/x.wav": b"garbage" * 99, "b/y.wav": np.zeros(9000, np.float32)},
    )
    write(folder, {"b/c.flac": b"", "b/3.wav": to_wav(voice(100, 0.5), 8000), "notes.txt": b"no sound"})
    found = survey(open_source(folder), shown=False)
    clips = found.clips.set_index("id")
    assert list(clips.index) == ["a/1.wav", "a/2.wav", "b/3.wav"]
    assert clips["corpus"].tolist() == ["a", "a", "b"]
    assert clips["sampling_rate"].tolist() == [16_000, 16_000, 8_000]
    assert clips["duration"].tolist() == [1.0, 141.0, 1.0]
    assert clips.loc["a/2.wav", "peak"] == pytest.approx(20 * np.log10(0.9), abs=0.01), "of the whole recording"
    assert clips.loc["a/2.wav", "speech"] == 1, "of the minute in its middle"
    assert found.cut == 1
    assert found.skipped is not None
    reasons = {Path(skip.path).name: skip.reason for skip in found.skipped}
    assert reasons == {"x.wav": "unreadable", "y.wav": "silent", "c.flac": "empty"}


def test_measures_stay_with_their_clips(tmp_path: Path) -> None:
    """Clips are listened to by length, many at once: the rows must come back in the source's order."""
    draw = np.random.default_rng(1)
    sounds = {f"{at:03d}.wav": voice(100 + at, draw.uniform(0.2, 1.0)) for at in range(70)}
    found = survey(open_source(write(tmp_path / "v", sounds)), shown=False)
    assert found.rows.tolist() == list(range(70))
    assert np.allclose(found.clips["pitch"], 100 + np.arange(70), rtol=0.01)
    assert np.allclose(found.clips["duration"], [len(sounds[name]) / SAMPLE_RATE for name in found.clips["id"]])


def test_nothing_that_can_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none of the 2 recordings there can be read"):
        survey(open_source(write(tmp_path / "x", {"a.wav": b"x", "b.wav": b""})), shown=False)


def test_many_folders_are_one_group(tmp_path: Path) -> None:
    few = open_source(write(tmp_path / "few", {f"{name}/1.wav": voice(200) for name in "ab"} | {"0.wav": voice(90)}))
    assert isinstance(few.facts, pd.DataFrame)
    assert few.facts["corpus"].tolist() == ["few", "a", "b"]
    many = open_source(write(tmp_path / "many", {f"{at}/1.wav": voice(200, 0.1) for at in range(9)}))
    assert set(many.facts["corpus"]) == {"many"}
