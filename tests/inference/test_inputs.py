"""The kinds of input of a recognizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ser_ft import audio
from ser_ft.audio import AudioError
from ser_ft.inference.inputs import iter_inputs
from ser_ft.utils.errors import InputError
from tests.helpers.sound_files import encode

RATE = 16_000
TONE = (0.4 * np.sin(2 * np.pi * 300 * np.arange(RATE) / RATE)).astype(np.float32)
CONVERTED = audio.MonoConverter(RATE).feed(TONE, last=True)


def samples(sound: Any) -> np.ndarray:
    (item,) = iter_inputs(sound)
    return np.concatenate(list(item.blocks()))


def wav(rate: int = RATE, sound: np.ndarray = TONE) -> bytes:
    return encode(sound, rate, subtype="FLOAT")


@pytest.mark.parametrize(
    "sound",
    [
        {"array": TONE, "sampling_rate": RATE},
        {"raw": TONE.astype(np.float64), "sampling_rate": np.int64(RATE), "path": None},
        {"array": torch.from_numpy(TONE), "sampling_rate": float(RATE)},
        {"array": TONE.tolist(), "sampling_rate": RATE},
        (RATE, TONE),
        (RATE, np.stack([TONE, TONE], axis=1)),
        (RATE, np.stack([TONE, TONE])),
        (RATE, (TONE * 32768).astype(np.int16)),
        (RATE, (TONE * 2**31).astype(np.int32)),
        (RATE, (TONE * 128 + 128).astype(np.uint8)),
        (RATE, np.stack([TONE * 32768] * 2, axis=1).astype(np.int16)),
        wav(),
        bytearray(wav()),
        {"bytes": wav(), "path": "clip.wav"},
    ],
)
def test_all_forms_of_an_input_give_the_same_samples(sound: Any) -> None:
    actual = samples(sound)
    assert actual.dtype == np.float32
    assert actual.shape == TONE.shape
    assert np.abs(actual - CONVERTED).max() < 1e-2


def test_arrays_are_resampled_like_files() -> None:
    assert np.array_equal(samples((44_100, TONE)), audio.decode(wav(44_100)))
    assert np.array_equal(samples(wav(44_100)), audio.decode(wav(44_100)))


def test_paths_folders_and_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.wav").write_bytes(wav())
    for value in (str(tmp_path / "a.wav"), tmp_path / "a.wav", "~/a.wav", tmp_path, {"bytes": None, "path": "~/a.wav"}):
        assert np.array_equal(samples(value), CONVERTED)
    actual = list(iter_inputs([tmp_path, (RATE, TONE), [wav()]]))
    assert [item.path for item in actual] == [f"{tmp_path}/a.wav", None, None]
    assert [item.name for item in actual] == [f"{tmp_path}/a.wav", "sound 2", "sound 3 1"]
    (tmp_path / "a.wav").rename(tmp_path / "notes.txt")
    with pytest.raises(InputError, match="no sound files in this folder"):
        list(iter_inputs(tmp_path))


@pytest.mark.parametrize(
    ("sound", "message"),
    [
        (TONE, "samples without their rate"),
        (3, "int cannot be recognized"),
        (None, "NoneType cannot be recognized"),
        ({"array": TONE}, "a mapping with array"),
        ({}, "a mapping with nothing"),
        ([b"", object()], "sound 2: object cannot be recognized"),
    ],
)
def test_unsupported_inputs_are_refused(sound: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        list(iter_inputs(sound))


@pytest.mark.parametrize(
    ("rate", "value", "message"),
    [
        (0, TONE, "0 Hz"),
        (-8000, TONE, "-8000 Hz"),
        (16000.5, TONE, "whole number"),
        ("16000", TONE, "whole number"),
        (RATE, TONE[:, None, None], r"not \(16000, 1, 1\)"),
        (RATE, np.float32(0.1), r"not \(\)"),
        (RATE, TONE * np.nan, "not finite"),
        (RATE, np.full(RATE, np.inf), "not finite"),
        (RATE, TONE * 32768, "but full scale of floats is 1.0"),
        (RATE, TONE.astype(np.float64) * 1e300, "but full scale of floats is 1.0"),
        (RATE, np.stack([TONE * 900, TONE * -900], axis=1), "but full scale of floats is 1.0"),
        (RATE, (TONE * 32768).astype(np.int64), "not int64"),
        (RATE, TONE > 0, "not bool"),
        (RATE, TONE.astype(np.complex64), "not complex64"),
        (RATE, ["a", "b"], "not <U1"),
        (RATE, [[0.1, 0.2], [0.1]], "cannot be converted to an array"),
    ],
)
def test_invalid_arrays_are_refused(rate: Any, value: Any, message: str) -> None:
    with pytest.raises(AudioError, match=message) as caught:
        samples({"array": value, "sampling_rate": rate})
    assert str(caught.value).startswith("sound: ")
