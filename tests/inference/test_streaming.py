"""Streams: the windows of the whole file, soon and in bounded memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ser_ft.audio import AudioError, to_pcm16
from ser_ft.inference.backends import open_backend
from ser_ft.inference.recognizer import EmotionRecognizer
from ser_ft.inference.streaming import WindowStream
from ser_ft.inference.windows import Window, WindowSettings, iter_windows
from ser_ft.utils.errors import InputError
from tests.helpers.fake_backend import FakeBackend
from tests.helpers.sound_files import encode


@pytest.fixture(scope="module")
def call(voices: list[np.ndarray]) -> np.ndarray:
    """Two channels of voices and pauses, int16, shape (samples, 2)."""
    pause = np.zeros(60_000, np.float32)
    speaker = np.concatenate([*voices[:3], pause, *voices[3:6]])
    stereo = np.stack([speaker, np.roll(speaker, 50_000)], axis=1)
    return to_pcm16(stereo + 1e-4 * np.random.default_rng(0).normal(size=stereo.shape).astype(np.float32))


def feed_chunks(stream: WindowStream, samples: np.ndarray, max_size: int, seed: int = 0) -> list[Window]:
    generator, position, windows = np.random.default_rng(seed), 0, []
    while position < len(samples):
        size = int(generator.integers(0, max_size))
        windows += stream.feed(samples[position : position + size])
        position += size
    return windows + stream.finish()


def assert_same(actual: list[Window], expected: list[Window], tolerance: float) -> None:
    assert len(actual) == len(expected) > 3
    for window, other in zip(actual, expected, strict=True):
        assert replace(window, probabilities=None, smoothed=None) == replace(other, probabilities=None, smoothed=None)
        assert (window.probabilities is None) == (other.probabilities is None)
        if window.probabilities is not None:
            np.testing.assert_allclose(window.probabilities, other.probabilities, rtol=0, atol=tolerance)
            np.testing.assert_allclose(window.smoothed, other.smoothed, rtol=0, atol=tolerance)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
@pytest.mark.parametrize("max_size", [700, 20_000, 10_000_000])
@pytest.mark.parametrize("channel", [None, 1])
def test_chunks_of_any_size_give_the_windows_of_the_file(
    call: np.ndarray, rate: int, max_size: int, channel: int | None
) -> None:
    settings = WindowSettings(window=2.0, hop=0.7)
    expected = list(iter_windows(FakeBackend(), encode(call, rate), settings, channel))
    assert_same(feed_chunks(WindowStream(FakeBackend(), settings, rate, channel), call, max_size), expected, 0.0)


def test_a_model_predicts_a_stream_like_the_file(call: np.ndarray, tiny_run: Path) -> None:
    backend = open_backend(tiny_run)
    expected = list(iter_windows(backend, encode(call, 16_000)))
    assert_same(feed_chunks(WindowStream(backend), call, 9_000), expected, 1e-5)


@pytest.mark.parametrize("rate", [8_000, 16_000, 48_000])
def test_a_window_is_returned_within_a_second_of_its_end(call: np.ndarray, rate: int) -> None:
    stream, size, num_windows = WindowStream(FakeBackend(), rate=rate), rate // 50, 0
    for position in range(0, len(call), size):
        seconds = (position + size) / rate
        for window in stream.feed(call[position : position + size]):
            assert window.end <= seconds <= window.end + 1.0
            num_windows += 1
    assert num_windows >= int(len(call) / rate - 4.0)


def test_memory_does_not_grow_with_the_length_of_a_stream(call: np.ndarray) -> None:
    stream, sizes = WindowStream(FakeBackend()), []
    for start in range(0, 8 * len(call), 8000):
        stream.feed(np.take(call, range(start, start + 8000), axis=0, mode="wrap"))
        sizes.append(array_bytes(vars(stream)))
    assert max(sizes) < 1_500_000
    assert max(sizes[len(sizes) // 2 :]) <= max(sizes[: len(sizes) // 2])


def array_bytes(attributes: dict[str, object]) -> int:
    """Return the bytes of the arrays among the attributes of an object, and of the streams that it consists of."""
    arrays = (value.nbytes for value in attributes.values() if isinstance(value, np.ndarray))
    return sum(arrays) + sum(array_bytes(vars(value)) for value in attributes.values() if hasattr(value, "feed"))


@pytest.fixture(scope="module")
def recognizer(tiny_run: Path) -> EmotionRecognizer:
    return EmotionRecognizer(tiny_run)


def test_a_recognizer_returns_the_same_windows_for_all_forms_of_a_recording(
    recognizer: EmotionRecognizer, call: np.ndarray, tmp_path: Path
) -> None:
    (tmp_path / "call.wav").write_bytes(encode(call, 16_000))
    windows = recognizer.windows(tmp_path / "call.wav", window=2.0)
    assert set(windows[0]) == {"start", "end", "emotion", "scores", "uncertain", "speech"}
    for window in windows:
        if window["speech"] < 0.1:
            assert (window["emotion"], window["scores"], window["uncertain"]) == (None, None, True)
        if window["scores"] is not None:
            best = max(window["scores"].values())
            assert window["scores"][window["emotion"]] == best
            assert sum(window["scores"].values()) == pytest.approx(1)
            assert window["uncertain"] == (best < recognizer.info.threshold)
    assert len({window["emotion"] for window in windows}) >= 2
    stream = recognizer.stream(window=2.0)
    streamed = [*stream.feed(call[:50_000]), *stream.feed(call[50_000:]), *stream.finish()]
    from_bytes, from_array = (recognizer.windows(form, window=2.0) for form in (encode(call), (16_000, call)))
    for same_windows in (from_bytes, from_array, streamed):
        for window, same_window in zip(windows, same_windows, strict=True):
            scores = pytest.approx(window["scores"], abs=1e-5) if window["scores"] else None
            assert same_window == {**window, "scores": scores}


def test_segments_lie_within_the_recording(recognizer: EmotionRecognizer, call: np.ndarray) -> None:
    segments = recognizer.segments((16_000, call), window=2.0, hop=0.5)
    assert segments
    assert 0 <= segments[0].start < segments[-1].end <= len(call) / 16_000
    assert {segment.emotion for segment in segments} <= set(recognizer.info.classes)


def test_windows_of_several_recordings_are_refused(recognizer: EmotionRecognizer, call: np.ndarray) -> None:
    with pytest.raises(InputError, match="take one recording"):
        recognizer.windows([(16_000, call), (16_000, call)])


def test_a_finished_stream_refuses_more_audio(call: np.ndarray) -> None:
    empty, stream = WindowStream(FakeBackend()), WindowStream(FakeBackend())
    assert empty.feed(np.zeros(0, np.float32)) == empty.finish() == []
    stream.feed(call)
    assert stream.finish()
    assert stream.finish() == []
    with pytest.raises(InputError, match="open another"):
        stream.feed(call)


def test_invalid_rates_and_chunks_are_refused(call: np.ndarray) -> None:
    with pytest.raises(AudioError, match=r"the stream: 5 Hz"):
        WindowStream(FakeBackend(), rate=5)
    with pytest.raises(InputError, match=r"samples are floats with full scale at 1\.0, int16"):
        WindowStream(FakeBackend()).feed(call.astype(np.int64))
