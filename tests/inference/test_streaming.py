"""Streams: what comes out is what the whole file gives, soon and in bounded memory."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ser_ft.audio import AudioError, to_pcm16
from ser_ft.inference.backends import open_backend
from ser_ft.inference.recognizer import EmotionRecognizer
from ser_ft.inference.streaming import WindowStream
from ser_ft.inference.windows import Window, WindowSettings, iter_windows
from ser_ft.utils.errors import InputError
from tests.helpers.fake_backend import FakeBackend


@pytest.fixture(scope="module")
def call(voices: list[np.ndarray]) -> np.ndarray:
    """Two channels of voices and pauses, int16, shape (samples, 2)."""
    pause = np.zeros(60_000, np.float32)
    window = np.concatenate([*voices[:3], pause, *voices[3:6]])
    both = np.stack([window, np.roll(window, 50_000)], axis=1)
    return to_pcm16(both + 1e-4 * np.random.default_rng(0).normal(size=both.shape).astype(np.float32))


def wav(samples: np.ndarray, rate: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV")
    return file.getvalue()


def streamed(stream: WindowStream, sound: np.ndarray, largest: int, seed: int = 0) -> list[Window]:
    random, position, actual = np.random.default_rng(seed), 0, []
    while position < len(sound):
        size = int(random.integers(0, largest))
        actual += stream.feed(sound[position : position + size])
        position += size
    return actual + stream.finish()


def assert_same(some: list[Window], others: list[Window], near: float) -> None:
    assert len(some) == len(others) > 3
    for window, other in zip(some, others, strict=True):
        assert (window.start, window.end, window.speech, window.spans) == (
            other.start,
            other.end,
            other.speech,
            other.spans,
        )
        assert window.level == other.level
        assert (window.probabilities is None) == (other.probabilities is None)
        if window.probabilities is not None and window.smoothed is not None:
            assert np.abs(window.probabilities - other.probabilities).max() <= near
            assert np.abs(window.smoothed - other.smoothed).max() <= near


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
@pytest.mark.parametrize("largest", [700, 20_000, 10_000_000])
@pytest.mark.parametrize("channel", [None, 1])
def test_chunks_of_any_size_give_the_windows_of_the_file(
    call: np.ndarray, rate: int, largest: int, channel: int | None
) -> None:
    settings = WindowSettings(window=2.0, hop=0.7)
    file = list(iter_windows(FakeBackend(), wav(call, rate), settings, channel))
    assert_same(streamed(WindowStream(FakeBackend(), settings, rate, channel), call, largest), file, 0.0)


def test_a_model_predicts_a_stream_like_the_file(call: np.ndarray, tiny_run: Path) -> None:
    backend = open_backend(tiny_run)
    file = list(iter_windows(backend, wav(call, 16_000)))
    assert_same(streamed(WindowStream(backend), call, 9_000), file, 1e-5)


@pytest.mark.parametrize("rate", [8_000, 16_000, 48_000])
def test_a_window_is_returned_within_a_second_of_its_end(call: np.ndarray, rate: int) -> None:
    stream, size, answered = WindowStream(FakeBackend(), rate=rate), rate // 50, 0
    for position in range(0, len(call), size):
        now = (position + size) / rate
        for window in stream.feed(call[position : position + size]):
            assert window.end <= now <= window.end + 1.0
            answered += 1
    assert answered >= int(len(call) / rate - 4.0)


def test_memory_does_not_grow_with_the_length_of_a_stream(call: np.ndarray) -> None:
    stream, sizes = WindowStream(FakeBackend()), []
    for start in range(0, 8 * len(call), 8000):
        stream.feed(np.take(call, range(start, start + 8000), axis=0, mode="wrap"))
        sizes.append(array_bytes(vars(stream)))
    assert max(sizes) < 1_500_000
    assert max(sizes[len(sizes) // 2 :]) <= max(sizes[: len(sizes) // 2])


def array_bytes(parts: dict[str, object]) -> int:
    """Bytes of the arrays that an object keeps, and that what it keeps keeps."""
    return sum(
        part.nbytes if isinstance(part, np.ndarray) else array_bytes(vars(part)) if hasattr(part, "feed") else 0
        for part in parts.values()
    )


@pytest.fixture(scope="module")
def recognizer(tiny_run: Path) -> EmotionRecognizer:
    return EmotionRecognizer(tiny_run)


def test_a_recognizer_returns_the_same_windows_for_all_forms_of_a_recording(
    recognizer: EmotionRecognizer, call: np.ndarray, tmp_path: Path
) -> None:
    (tmp_path / "call.wav").write_bytes(wav(call, 16_000))
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
    others = recognizer.windows(wav(call, 16_000), window=2.0), recognizer.windows((16_000, call), window=2.0), streamed
    for other in others:
        for window, other_window in zip(windows, other, strict=True):
            assert other_window == {
                **window,
                "scores": pytest.approx(window["scores"], abs=1e-5) if window["scores"] else None,
            }


def test_segments_lie_within_the_recording(recognizer: EmotionRecognizer, call: np.ndarray) -> None:
    actual = recognizer.segments((16_000, call), window=2.0, hop=0.5)
    assert actual
    assert 0 <= actual[0].start < actual[-1].end <= len(call) / 16_000
    assert {segment.emotion for segment in actual} <= set(recognizer.info.classes)


def test_windows_of_several_recordings_are_refused(recognizer: EmotionRecognizer, call: np.ndarray) -> None:
    with pytest.raises(InputError, match="take one recording"):
        recognizer.windows([(16_000, call), (16_000, call)])


def test_an_empty_stream_has_no_windows() -> None:
    stream = WindowStream(FakeBackend())
    assert stream.feed(np.zeros(0, np.float32)) == []
    assert stream.finish() == []


def test_a_finished_stream_refuses_more_audio(call: np.ndarray) -> None:
    stream = WindowStream(FakeBackend())
    stream.feed(call)
    assert stream.finish()
    assert stream.finish() == []
    with pytest.raises(InputError, match="open another"):
        stream.feed(call)


def test_invalid_rates_and_chunks_are_refused(call: np.ndarray) -> None:
    with pytest.raises(AudioError, match=r"the stream: 5 Hz"):
        WindowStream(FakeBackend(), rate=5)
    with pytest.raises(InputError, match="int16, or floats"):
        WindowStream(FakeBackend()).feed(call.astype(np.int64))
