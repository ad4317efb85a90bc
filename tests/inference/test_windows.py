"""Windows and segments of long recordings: predictions, times and memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ser_ft.audio import AudioError, decode, to_wav
from ser_ft.inference.backends import ModelInfo, open_backend
from ser_ft.inference.windows import (
    Segment,
    SlidingWindow,
    Window,
    WindowSettings,
    iter_windows,
    merge_windows,
    smooth_windows,
)
from ser_ft.utils.errors import InputError
from tests.helpers.fake_backend import CLASSES, FakeBackend, ScriptedBackend

INFO = ModelInfo("fake", CLASSES, 0.6, 400)
SETTINGS = WindowSettings()


@pytest.fixture(scope="module")
def talk(voices: list[np.ndarray]) -> np.ndarray:
    """Half a minute: voices without pauses, ten seconds of quiet, voices again."""
    quiet = np.zeros(160_000, np.float32)
    joined = np.concatenate([*voices[:5], quiet, *voices[5:9]])
    return joined + (1e-4 * np.random.default_rng(0).normal(size=len(joined))).astype(np.float32)


@pytest.fixture(scope="module")
def windows(talk: np.ndarray) -> list[Window]:
    return cut(FakeBackend(), talk)


def cut(backend: FakeBackend, samples: np.ndarray, **settings: float) -> list[Window]:
    return list(iter_windows(backend, to_wav(samples), WindowSettings(**settings)))


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_a_clip_of_one_window_is_predicted_like_the_clip(voices: list[np.ndarray], tmp_path: Path, rate: int) -> None:
    clip = np.concatenate(voices)[: 3 * rate]
    soundfile.write(tmp_path / "clip.wav", np.stack([clip, 0.3 * clip[::-1]], axis=1), rate)
    backend = FakeBackend()
    (window,) = iter_windows(backend, tmp_path / "clip.wav")
    assert (window.start, window.end) == (0.0, 3.0)
    assert window.probabilities is not None
    assert np.array_equal(window.probabilities, backend.probabilities(decode(tmp_path / "clip.wav")[None])[0])


def test_a_model_predicts_a_window_like_the_same_clip(voices: list[np.ndarray], tiny_run: Path) -> None:
    backend = open_backend(tiny_run)
    sound = decode(to_wav(np.concatenate(voices)[: 16_000 * 10]))
    for window in iter_windows(backend, to_wav(np.concatenate(voices)[: 16_000 * 10])):
        assert window.probabilities is not None
        clip = sound[round(window.start * 16_000) : round(window.end * 16_000)]
        assert np.abs(window.probabilities - backend.probabilities(clip[None])[0]).max() < 1e-5


def test_the_last_window_is_aligned_with_the_end(talk: np.ndarray, windows: list[Window]) -> None:
    seconds = len(talk) / 16_000
    hops = int(seconds - 3.0) + 1
    assert [window.start for window in windows] == [*range(hops), seconds - 3.0]
    assert all(window.end - window.start == pytest.approx(3.0) for window in windows)
    assert windows[-1].end == seconds


def test_audio_shorter_than_a_window_is_one_window(voices: list[np.ndarray]) -> None:
    short = voices[0][:11_111]
    backend = FakeBackend(min_samples=12_000)
    (window,) = cut(backend, short)
    assert (window.start, window.end) == (0.0, 11_111 / 16_000)
    assert backend.shapes == [(1, 12_000)]


def test_a_remainder_shorter_than_a_frame_adds_no_window(talk: np.ndarray) -> None:
    assert len(cut(FakeBackend(), talk[: 16_000 * 5 + 100])) == 3
    assert len(cut(FakeBackend(), talk[: 16_000 * 5 + 200])) == 4


def test_windows_without_speech_are_not_predicted(talk: np.ndarray, windows: list[Window]) -> None:
    quiet = [window for window in windows if window.probabilities is None]
    start = next(window.start for window in quiet)
    assert {window.start for window in quiet} == set(np.arange(start, start + len(quiet)))
    assert 6 <= len(quiet) <= 9
    assert all(window.smoothed is None and window.speech < 0.1 and window.level < -50 for window in quiet)
    assert all(window.speech > 0.1 and window.level > -40 for window in windows if window not in quiet)


def test_spans_agree_with_the_share_of_speech(windows: list[Window]) -> None:
    for window in windows:
        assert sum(end - start for start, end in window.spans) / 3.0 == pytest.approx(window.speech, abs=0.01)
        assert all(window.start - 0.01 <= start < end <= window.end + 0.01 for start, end in window.spans)


def test_the_level_is_the_root_mean_square(talk: np.ndarray, windows: list[Window]) -> None:
    decoded = decode(to_wav(talk))
    assert windows[2].level == pytest.approx(10 * np.log10(np.mean(decoded[32_000:80_000] ** 2)), abs=1e-3)
    assert cut(FakeBackend(), np.zeros(16_000, np.float32))[0].level == -120


def test_windows_are_predicted_in_batches(talk: np.ndarray) -> None:
    backend = FakeBackend()
    num_predicted = sum(window.probabilities is not None for window in cut(backend, np.tile(talk, 3)))
    batch_sizes = [shape[0] for shape in backend.shapes]
    assert sum(batch_sizes) == num_predicted > 8 * len(batch_sizes)
    assert max(batch_sizes) <= 32


def test_one_channel_can_be_selected(talk: np.ndarray, windows: list[Window], tmp_path: Path) -> None:
    soundfile.write(tmp_path / "call.wav", np.stack([np.zeros_like(talk), talk], axis=1), 16_000)
    selected = list(iter_windows(FakeBackend(), tmp_path / "call.wav", channel=1))
    assert [window.smoothed is None for window in selected] == [window.smoothed is None for window in windows]
    assert all(window.probabilities is None for window in iter_windows(FakeBackend(), tmp_path / "call.wav", channel=0))
    with pytest.raises(InputError, match="no channel 2: the audio has 2"):
        list(iter_windows(FakeBackend(), tmp_path / "call.wav", channel=2))


def test_a_truncated_file_yields_the_windows_before_the_damage(voices: list[np.ndarray], tmp_path: Path) -> None:
    sound = np.tile(np.concatenate(voices), 6)
    soundfile.write(tmp_path / "call.flac", sound, 16_000)
    whole = (tmp_path / "call.flac").read_bytes()
    (tmp_path / "call.flac").write_bytes(whole[: len(whole) * 3 // 4])
    windows: list[Window] = []
    with pytest.raises(AudioError, match=r"after .* s, it cannot be decoded"):
        windows.extend(iter_windows(FakeBackend(), tmp_path / "call.flac"))
    assert windows[-1].end > 25


def test_three_minutes_take_no_more_memory_than_one(talk: np.ndarray, tmp_path: Path) -> None:
    peaks = []
    for minutes in (1, 3):
        soundfile.write(tmp_path / "long.wav", np.resize(talk, minutes * 60 * 16_000), 16_000)
        tracemalloc.start()
        assert sum(1 for _ in iter_windows(FakeBackend(), tmp_path / "long.wav")) == minutes * 60 - 2
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.1


LEFT, RIGHT = [0.9, 0.1, 0.0, 0.0], [0.2, 0.8, 0.0, 0.0]


def smooth(probabilities: list[list[float]], sound: np.ndarray, smoothing: float) -> list[np.ndarray]:
    settings = WindowSettings(window=1.0, hop=1.0, smoothing=smoothing, min_speech=0.2)
    sliding_window = SlidingWindow(ScriptedBackend(probabilities), settings)
    windows = sliding_window.feed(sound) + sliding_window.finish()
    return [window.smoothed for window in windows if window.smoothed is not None]


def test_smoothing_follows_its_formula(voices: list[np.ndarray]) -> None:
    sound = np.concatenate(voices)[: 3 * 16_000]
    first, second, _ = smooth([LEFT, RIGHT, RIGHT], sound, 2.0)
    weight = np.exp(-1 / 2.0)
    assert np.array_equal(first, LEFT)
    assert np.allclose(second, weight * np.array(LEFT) + (1 - weight) * np.array(RIGHT))
    assert np.array_equal(smooth([LEFT, RIGHT, LEFT], sound, 0.0), [LEFT, RIGHT, LEFT])


def test_smoothing_again_gives_the_same(windows: list[Window]) -> None:
    for before, after in zip(windows, smooth_windows(windows, SETTINGS), strict=True):
        assert (before.smoothed is None) == (after.smoothed is None)
        assert before.smoothed is None or np.array_equal(before.smoothed, after.smoothed)


def test_smoothing_has_no_effect_across_a_long_silence(voices: list[np.ndarray]) -> None:
    voice = np.concatenate(voices)[:16_000]
    sound = np.concatenate([voice, np.zeros(20 * 16_000, np.float32), voice])
    assert np.allclose(smooth([LEFT, RIGHT], sound, 2.0)[-1], RIGHT, atol=1e-3)


def make_windows(window_probabilities: list[list[float] | None], spans: list[tuple[float, float]]) -> list[Window]:
    """Return windows of 3 s, one per second, of a recording with speech in these spans."""
    windows = []
    for start, values in enumerate(window_probabilities):
        clipped = [(max(onset, float(start)), min(offset, start + 3.0)) for onset, offset in spans]
        speech_spans = tuple((onset, offset) for onset, offset in clipped if onset < offset)
        speech = sum(offset - onset for onset, offset in speech_spans) / 3
        probabilities = None if values is None else np.array(values)
        windows.append(Window(float(start), start + 3.0, speech, probabilities, probabilities, -20.0, speech_spans))
    return windows


def test_segments_follow_the_speech_and_change_midway_between_windows() -> None:
    windows = make_windows([LEFT, LEFT, RIGHT, RIGHT], [(0.5, 5.5)])
    assert merge_windows(windows, INFO, SETTINGS) == [
        Segment(0.5, 3.0, "neutral", pytest.approx(0.9), False),
        Segment(3.0, 5.5, "happy", pytest.approx(0.8), False),
    ]


def test_a_long_silence_ends_a_segment_and_a_short_one_does_not() -> None:
    spans = [(0.5, 2.0), (3.0, 4.0), (8.5, 10.0)]
    probabilities: list[list[float] | None] = [LEFT, LEFT, LEFT, LEFT, None, None, LEFT, LEFT, LEFT]
    segments = merge_windows(make_windows(probabilities, spans), INFO, SETTINGS)
    assert [(segment.start, segment.end) for segment in segments] == [(0.5, 4.0), (8.5, 10.0)]
    assert len(merge_windows(make_windows(probabilities, spans), INFO, WindowSettings(gap=5.0))) == 1
    assert merge_windows(make_windows([None, None], [(1.0, 1.1)]), INFO, SETTINGS) == []


def test_a_segments_probability_is_the_mean_over_its_speech() -> None:
    windows = make_windows([[0.5, 0.4, 0.1, 0.0], [0.7, 0.3, 0.0, 0.0]], [(1.5, 4.0)])
    (segment,) = merge_windows(windows, INFO, SETTINGS)
    assert segment.probability == pytest.approx((0.5 * 0.5 + 2.0 * 0.7) / 2.5)
    assert not segment.uncertain


def test_segments_below_the_threshold_are_uncertain() -> None:
    windows = make_windows([[0.5, 0.4, 0.1, 0.0]], [(0.0, 3.0)])
    assert merge_windows(windows, INFO, SETTINGS)[0].uncertain
    assert not merge_windows(windows, ModelInfo("fake", CLASSES, None, 400), SETTINGS)[0].uncertain


def test_segments_of_a_recording_lie_in_order_within_its_speech(windows: list[Window]) -> None:
    segments = merge_windows(windows, INFO, SETTINGS)
    edges = [time for segment in segments for time in (segment.start, segment.end)]
    assert edges == sorted(edges)
    assert len(segments) >= 2
    spoken = {round(time, 2) for window in windows for span in window.spans for time in np.arange(*span, 0.01)}
    assert all(round(segment.start, 2) in spoken for segment in segments)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 0.0}, "window must be 0.1"),
        ({"hop": -1.0}, "hop must be"),
        ({"hop": 4.0}, "skips audio"),
        ({"smoothing": float("nan")}, "smoothing must be"),
        ({"min_speech": 5.0}, "cannot hold"),
    ],
)
def test_invalid_settings_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        WindowSettings(**settings)
