"""The measurements of each clip, on sounds whose levels and pitch are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ser_ft.audio import SAMPLE_RATE, to_wav
from ser_ft.report.exploration.measurements import active_speech_level, measure_clips, measure_source, to_dbfs
from ser_ft.report.exploration.sources import open_source
from tests.helpers.corpus_files import write


def harmonics(hertz: float, seconds: float = 1.0, dbfs: float = -20.0) -> np.ndarray:
    """Harmonics that fall by 6 dB per octave, with a known level."""
    phase = 2 * np.pi * hertz * np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    sound = sum(np.sin(k * phase) / k for k in range(1, 20))
    return (sound / np.sqrt(np.mean(np.square(sound))) * 10 ** (dbfs / 20)).astype(np.float32)


def noise(seconds: float, dbfs: float) -> np.ndarray:
    random = np.random.default_rng(0)
    return random.normal(0, 10 ** (dbfs / 20), round(seconds * SAMPLE_RATE)).astype(np.float32)


def test_pauses_do_not_change_the_level_of_the_speech() -> None:
    """Clips of RAVDESS are more than half silence."""
    clip = np.concatenate([noise(1.2, -70), harmonics(200, 0.8, -26), noise(1, -70)])
    (measures,), _ = measure_clips([clip])
    assert measures["level"] == pytest.approx(-26, abs=1)
    assert measures["background"] == pytest.approx(-70, abs=2)
    assert measures["speech"] == pytest.approx(0.8 / 3, abs=0.03)
    assert measures["pitch"] == pytest.approx(200, rel=0.01)
    assert measures["pitch_range"] < 0.5
    assert measures["voiced"] > 0.9


def test_pitch_range_is_in_semitones_and_noise_has_no_pitch() -> None:
    octave = np.concatenate([harmonics(150), harmonics(300)])
    (constant, rising), _ = measure_clips([harmonics(150), octave])
    assert constant["pitch"] == pytest.approx(150, rel=0.01)
    assert rising["pitch_range"] == pytest.approx(12, abs=0.3)
    (unvoiced,), features = measure_clips([noise(1, -20)])
    assert np.isnan(unvoiced["pitch"])
    assert np.isnan(unvoiced["pitch_range"])
    assert np.isnan(features).sum() == 2


def test_measurements_do_not_depend_on_the_batch() -> None:
    clips = [harmonics(120, 0.31), noise(2.0, -30), harmonics(250, 1.234, -40), np.full(3, 0.1, np.float32)]
    batch_measures, batch_features = measure_clips(clips)
    for clip, expected, expected_features in zip(clips, batch_measures, batch_features, strict=True):
        (measures,), features = measure_clips([clip])
        assert measures == pytest.approx(expected, rel=1e-3, abs=1e-3, nan_ok=True)
        assert np.allclose(features[0], expected_features, rtol=1e-3, atol=1e-3, equal_nan=True)


def test_active_level_is_that_of_the_loud_part() -> None:
    levels = torch.tensor([[-20.0] * 10 + [-60.0] * 90, [-30.0] * 50 + [-40.0] * 50])
    speech, level = active_speech_level(levels, torch.ones_like(levels, dtype=torch.bool))
    assert level.tolist() == pytest.approx([-20.0, 10 * np.log10((1e-3 + 1e-4) / 2)], abs=0.01)
    assert speech.sum(dim=1).tolist() == [10, 100], "10 dB below is still speech, 40 dB is not"
    assert to_dbfs(torch.tensor([1.0, 0.1, 0.0])).tolist() == pytest.approx([0, -20, -100])


def test_unreadable_files_of_a_folder_are_listed_and_long_ones_truncated(tmp_path: Path) -> None:
    long = np.concatenate([noise(40, -80), harmonics(180, 61), noise(40, -80)])
    long[5] = 0.9
    folder = write(
        tmp_path / "voices",
        {
            "a/1.wav": to_wav(harmonics(200)),
            "a/2.wav": to_wav(long),
            "b/3.wav": to_wav(harmonics(100, 0.5), 8000),
            "b/c.flac": b"",
            "b/x.wav": b"garbage" * 99,
            "b/y.wav": to_wav(np.zeros(9000, np.float32)),
            "notes.txt": b"no sound",
        },
    )
    measured = measure_source(open_source(folder), show_progress=False)
    clips = measured.clips.set_index("id")
    assert list(clips.index) == ["a/1.wav", "a/2.wav", "b/3.wav"]
    assert clips["corpus"].tolist() == ["a", "a", "b"]
    assert clips["sampling_rate"].tolist() == [16_000, 16_000, 8_000]
    assert clips["duration"].tolist() == [1.0, 141.0, 1.0]
    assert clips.loc["a/2.wav", "peak"] == pytest.approx(20 * np.log10(0.9), abs=0.15), "of the whole recording"
    assert clips.loc["a/2.wav", "speech"] == 1, "of the minute in its middle"
    assert measured.num_truncated == 1
    assert measured.skipped is not None
    reasons = {Path(file.path).name: file.reason for file in measured.skipped}
    assert reasons == {"x.wav": "unreadable", "y.wav": "silent", "c.flac": "empty"}


def test_measurements_keep_the_order_of_the_source(tmp_path: Path) -> None:
    """Clips are measured in batches sorted by length."""
    random = np.random.default_rng(1)
    sounds = {f"{index:03d}.wav": harmonics(100 + index, random.uniform(0.2, 0.6)) for index in range(40)}
    folder = write(tmp_path / "v", {name: to_wav(samples) for name, samples in sounds.items()})
    measured = measure_source(open_source(folder), show_progress=False)
    assert measured.rows.tolist() == list(range(40))
    assert np.allclose(measured.clips["pitch"], 100 + np.arange(40), rtol=0.01)
    assert np.allclose(measured.clips["duration"], [len(sounds[name]) / SAMPLE_RATE for name in measured.clips["id"]])


def test_up_to_eight_subfolders_are_groups(tmp_path: Path) -> None:
    sound = to_wav(harmonics(200, 0.1))
    few = open_source(write(tmp_path / "few", {"0.wav": sound, "a/1.wav": sound, "b/1.wav": sound}))
    assert isinstance(few.metadata, pd.DataFrame)
    assert few.metadata["corpus"].tolist() == ["few", "a", "b"]
    many = open_source(write(tmp_path / "many", {f"{index}/1.wav": sound for index in range(9)}))
    assert set(many.metadata["corpus"]) == {"many"}
