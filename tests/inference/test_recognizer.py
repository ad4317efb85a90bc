"""`EmotionRecognizer`: the same prediction for a clip, whatever its form."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ser_ft
from ser_ft import audio
from ser_ft.audio import AudioError
from ser_ft.inference.inputs import AudioInput, iter_inputs
from ser_ft.inference.recognizer import ClipPrediction, EmotionRecognizer
from ser_ft.models.registry import build_model
from ser_ft.utils.errors import InputError
from tests.helpers.sound_files import encode

RATE = audio.SAMPLE_RATE


@pytest.fixture(scope="module")
def recognizer(tiny_run: Path) -> EmotionRecognizer:
    return EmotionRecognizer(tiny_run)


def near(prediction: ClipPrediction, other: ClipPrediction, tolerance: float = 1e-5) -> bool:
    """Return whether two predictions agree, apart from the path."""
    scores = pytest.approx(other["scores"], rel=0, abs=tolerance)
    return prediction == {**other, "path": prediction["path"], "scores": scores}


def wav(samples: np.ndarray, rate: int = RATE) -> bytes:
    return encode(samples, rate, subtype="FLOAT")


def record_shapes(recognizer: EmotionRecognizer, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Return a list to which the shape of each batch is added."""
    shapes: list[tuple[int, ...]] = []
    predict = recognizer.backend.probabilities

    def predict_and_record(waveforms: np.ndarray) -> np.ndarray:
        shapes.append(waveforms.shape)
        return predict(waveforms)

    monkeypatch.setattr(recognizer.backend, "probabilities", predict_and_record)
    return shapes


def test_a_prediction_has_all_fields(recognizer: EmotionRecognizer, tree: Path, voices: list[np.ndarray]) -> None:
    (actual,) = recognizer(tree / "clip 0.wav")
    assert ser_ft.EmotionRecognizer is EmotionRecognizer
    assert list(actual) == ["path", "emotion", "scores", "uncertain", "duration", "speech", "adapted"]
    assert actual["path"] == str(tree / "clip 0.wav")
    assert list(actual["scores"]) == ["neutral", "happy", "sad", "angry"]
    assert sum(actual["scores"].values()) == pytest.approx(1)
    assert actual["emotion"] == max(actual["scores"], key=actual["scores"].__getitem__)
    assert actual["duration"] == len(voices[0]) / RATE
    assert 0 < actual["speech"] <= actual["duration"]


def test_probabilities_are_those_of_the_saved_model(tiny_run: Path, voices: list[np.ndarray]) -> None:
    from transformers import pipeline

    stock = pipeline("audio-classification", model=str(tiny_run / "model"), top_k=None)
    actual = EmotionRecognizer(tiny_run)([(RATE, voice) for voice in voices[:3]])
    for voice, answer in zip(voices, actual, strict=False):
        filtered = audio.MonoConverter(RATE).feed(voice, last=True)
        expected = {row["label"]: row["score"] for row in stock({"raw": filtered, "sampling_rate": RATE})}
        assert answer["scores"] == pytest.approx(expected, abs=1e-5)


def test_a_run_and_its_model_folder_are_one_model(tiny_run: Path, voices: list[np.ndarray]) -> None:
    sound = (RATE, voices[0])
    (first,) = EmotionRecognizer(tiny_run)(sound)
    assert near(first, EmotionRecognizer(str(tiny_run / "model"))(sound)[0])


def test_a_clip_gets_the_same_prediction_alone_and_among_others(
    recognizer: EmotionRecognizer, voices: list[np.ndarray]
) -> None:
    # Clips of one length form batches, with other clips between them.
    short = min(map(len, voices))
    clips = [voice[:short] if index % 2 else voice for index, voice in enumerate(voices)] * 5
    predictions = recognizer([(RATE, clip) for clip in clips])
    assert len(predictions) == 60
    assert len({prediction["emotion"] for prediction in predictions}) > 1
    for clip, prediction in zip(clips[:12], predictions, strict=False):
        assert near(recognizer((RATE, clip))[0], prediction)


def test_clips_of_one_length_are_predicted_together(
    tiny_run: Path, voices: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    recognizer = EmotionRecognizer(tiny_run)
    shapes = record_shapes(recognizer, monkeypatch)
    recognizer([(RATE, voices[index % 2]) for index in range(8)])
    assert [clips for clips, _ in shapes] == [4, 4]


def test_all_forms_of_a_clip_get_one_prediction(
    recognizer: EmotionRecognizer, voices: list[np.ndarray], tmp_path: Path
) -> None:
    file = tmp_path / "clip.wav"
    file.write_bytes(wav(voices[0]))
    forms: list[Any] = [file, str(file), wav(voices[0]), (RATE, voices[0]), {"raw": voices[0], "sampling_rate": RATE}]
    actual = recognizer(forms)
    assert all(near(actual[0], answer) for answer in actual)
    assert [answer["path"] for answer in actual] == [str(file), str(file), None, None, None]
    (stereo,) = recognizer((RATE, np.stack([voices[0] * 0.5, voices[0] * 1.5], axis=1)))
    assert near(actual[0], stereo, 1e-3)


def test_several_threads_can_use_one_recognizer(recognizer: EmotionRecognizer, voices: list[np.ndarray]) -> None:
    expected = [recognizer((RATE, voice))[0] for voice in voices]
    with ThreadPoolExecutor(6) as pool:
        actual = list(pool.map(lambda index: recognizer((RATE, voices[index % 12]))[0], range(48)))
    assert all(near(answer, expected[index % 12]) for index, answer in enumerate(actual))


def test_predictions_below_the_threshold_are_uncertain(
    recognizer: EmotionRecognizer, voices: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert recognizer.info.threshold == 0.3
    sounds = [(RATE, voice) for voice in voices]
    tops = [max(answer["scores"].values()) for answer in recognizer(sounds)]
    threshold = float(np.median(tops))
    monkeypatch.setattr(recognizer, "info", replace(recognizer.info, threshold=threshold))
    actual = recognizer(sounds)
    assert all(answer["speech"] for answer in actual)
    unsure = [answer["uncertain"] for answer in actual]
    assert unsure == [top < threshold for top in tops]
    assert set(unsure) == {True, False}


def test_audio_without_speech_is_uncertain(recognizer: EmotionRecognizer) -> None:
    hum = 0.1 * np.sin(2 * np.pi * 50 * np.arange(3 * RATE) / RATE)
    (actual,) = recognizer((RATE, hum))
    assert actual["speech"] == 0
    assert actual["uncertain"]


@pytest.mark.parametrize(
    ("sound", "reason", "message"),
    [
        (np.zeros(RATE), "silent", "sound: silent: "),
        (np.full(RATE, 0.5), "silent", "sound: silent: "),
        (np.zeros(0), "too-short", "0.0 ms of audio is too short"),
        (np.ones(1590), "too-short", "99.4 ms of audio is too short: the minimum is 0.1 s"),
    ],
)
def test_silent_and_short_clips_are_refused(
    recognizer: EmotionRecognizer, sound: np.ndarray, reason: str, message: str
) -> None:
    with pytest.raises(AudioError, match=message) as caught:
        recognizer((RATE, sound))
    assert caught.value.reason == reason


def test_a_bad_clip_among_others_is_named(recognizer: EmotionRecognizer, voices: list[np.ndarray]) -> None:
    sounds = [(RATE, voices[0]), (RATE, np.zeros(RATE)), (RATE, voices[1])]
    with pytest.raises(AudioError, match="sound 2: silent"):
        recognizer(sounds)
    outcomes = [outcome for _, outcome in recognizer.iter_predictions(iter_inputs(sounds))]
    assert [isinstance(outcome, AudioError) for outcome in outcomes] == [False, True, False]


def test_files_that_cannot_be_read_do_not_end_the_run(
    recognizer: EmotionRecognizer, voices: list[np.ndarray], tmp_path: Path
) -> None:
    (tmp_path / "clip.raw").write_bytes(wav(voices[0]))
    loud = voices[0].copy()
    loud[800] = 1e25
    sounds = [tmp_path / "clip.raw", tmp_path / "none.wav", wav(loud), wav(voices[1])]
    outcomes = [outcome for _, outcome in recognizer.iter_predictions(iter_inputs(sounds))]
    assert [isinstance(outcome, AudioError) for outcome in outcomes] == [False, True, True, False]
    assert all("\n" not in str(outcome) for outcome in outcomes if isinstance(outcome, AudioError))


class Slow(AudioInput):
    """An input that cannot be read before `released` is set."""

    released = threading.Event()

    def blocks(self, seconds: float = 10.0) -> Iterator[np.ndarray]:
        assert self.released.wait(60), "no prediction was returned in the meantime"
        yield from super().blocks(seconds)


def test_predictions_do_not_wait_for_a_long_recording(recognizer: EmotionRecognizer, voices: list[np.ndarray]) -> None:
    sounds: list[AudioInput] = [AudioInput(None, str(index), (RATE, voice)) for index, voice in enumerate(voices[:4])]
    sounds.insert(2, Slow(None, "slow", (RATE, voices[5])))
    actual = []
    for item, outcome in recognizer.iter_predictions(sounds):
        assert not isinstance(outcome, AudioError)
        actual.append(item.name)
        if len(actual) == 2:
            Slow.released.set()
    assert actual == ["0", "1", "slow", "2", "3"]


def test_an_error_of_the_backend_loses_no_predictions(recognizer: EmotionRecognizer, voices: list[np.ndarray]) -> None:
    class Broken(AudioInput):
        def blocks(self, seconds: float = 10.0) -> Iterator[np.ndarray]:
            raise RuntimeError("out of order")

    predictions = recognizer.iter_predictions([AudioInput(None, "good", (RATE, voices[0])), Broken(None, "bad", b"")])
    assert next(predictions)[0].name == "good"
    with pytest.raises(RuntimeError, match="out of order"):
        next(predictions)


def test_a_long_clip_is_the_mean_of_its_windows(recognizer: EmotionRecognizer, voices: list[np.ndarray]) -> None:
    sound = np.concatenate(voices * 2)[: 25 * RATE]
    (actual,) = recognizer((RATE, sound))
    cuts = [(0, 10), (10, 20), (15, 25)]
    parts = recognizer([(RATE, sound[start * RATE : end * RATE]) for start, end in cuts])
    weights = [part["speech"] for part in parts]
    for name, score in actual["scores"].items():
        # Decisions about speech at a window's edges depend on the audio after them.
        assert score == pytest.approx(np.average([part["scores"][name] for part in parts], weights=weights), abs=0.01)
    assert actual["duration"] == 25
    assert 0 < actual["speech"] <= 25


def test_twenty_seconds_are_predicted_as_a_whole(
    tiny_run: Path, voices: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    recognizer = EmotionRecognizer(tiny_run)
    shapes = record_shapes(recognizer, monkeypatch)
    sound = np.concatenate(voices * 2)[: 20 * RATE + 1]
    recognizer((RATE, sound[:-1]))
    assert shapes == [(1, 20 * RATE)]
    recognizer((RATE, sound))
    assert {samples for _, samples in shapes[1:]} == {10 * RATE}


def test_a_clip_is_cut_to_what_the_model_uses(
    voices: list[np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extractor, model = build_model("plain-cnn", ("happy", "sad"), {"max_frames": 250, "normalize": "clip"}, {})
    for part in (extractor, model):
        part.save_pretrained(tmp_path)
    recognizer = EmotionRecognizer(tmp_path)
    shapes = record_shapes(recognizer, monkeypatch)
    assert recognizer.info.max_seconds == 250 * extractor.hop_length / RATE == 4
    sound = np.concatenate(voices * 2)[: 15 * RATE]
    recognizer((RATE, sound[: 4 * RATE]))
    assert shapes == [(1, 4 * RATE)]
    (actual,) = recognizer((RATE, sound))
    assert {samples for _, samples in shapes[1:]} == {4 * RATE}
    assert actual["duration"] == 15


def test_very_short_clips_and_windows_are_predicted(recognizer: EmotionRecognizer, voices: list[np.ndarray]) -> None:
    assert recognizer([]) == []
    assert recognizer((RATE, voices[0][8000:9600]))[0]["duration"] == 0.1
    actual = recognizer.windows((RATE, voices[0]), window=0.2, hop=0.1)
    assert {round(window["end"] - window["start"], 6) for window in actual} == {0.2}
    assert recognizer.segments((RATE, voices[0]), window=0.2, hop=0.1)
    assert recognizer.stream(window=0.2, hop=0.1).feed(voices[0])


def test_silence_in_a_long_clip_does_not_count(recognizer: EmotionRecognizer, voices: list[np.ndarray]) -> None:
    voiced = np.concatenate(voices)[: 10 * RATE]
    (expected,) = recognizer((RATE, voiced))
    (actual,) = recognizer((RATE, np.concatenate([voiced, np.zeros(30 * RATE, np.float32)])))
    assert actual["scores"] == pytest.approx(expected["scores"], abs=1e-5)
    assert actual["duration"] == 40


def test_a_long_file_and_its_samples_get_one_prediction(
    recognizer: EmotionRecognizer, voices: list[np.ndarray], tmp_path: Path
) -> None:
    sound = np.concatenate([voices[0], *voices])[: 31 * 8000]
    file = tmp_path / "long.wav"
    file.write_bytes(wav(sound, 8000))
    assert near(recognizer(file)[0], recognizer((8000, sound))[0])


def test_a_long_recording_without_speech_is_uncertain(recognizer: EmotionRecognizer) -> None:
    hum = 0.1 * np.sin(2 * np.pi * 50 * np.arange(25 * RATE) / RATE)
    (actual,) = recognizer((RATE, hum))
    assert actual["uncertain"]
    assert actual["speech"] == 0
    with pytest.raises(AudioError, match="silent"):
        recognizer((RATE, np.zeros(25 * RATE)))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("no/such", "not a folder, and no such model"),
        ("no/such/model", "no such file or folder"),
        ("none.onnx", "none.onnx"),
        (".", "contains neither a run nor a saved classifier"),
    ],
)
def test_missing_models_are_reported(model: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        EmotionRecognizer(model)
    assert "\n" not in str(caught.value)


def test_invalid_devices_and_threads_are_reported(tiny_run: Path) -> None:
    with pytest.raises(InputError, match="device warp: not available"):
        EmotionRecognizer(tiny_run, device="warp")
    with pytest.raises(InputError, match="threads must be 1 or more"):
        EmotionRecognizer(tiny_run, threads=0)
    with pytest.raises(InputError, match="runs on the CPU"):
        EmotionRecognizer("model.onnx", device="cuda")
