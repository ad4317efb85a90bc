"""Adaptation to a speaker by unlabelled clips: what it corrects, what it leaves alone, and how it is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ser_ft.audio import to_wav
from ser_ft.inference.recognizer import EmotionRecognizer
from ser_ft.inference.speaker_adaptation import SpeakerAdaptation
from ser_ft.inference.windows import WindowSettings
from ser_ft.monitor.analysis import analyze_conversation
from ser_ft.monitor.conversation import MonitorSettings
from ser_ft.utils.errors import InputError
from tests.helpers.fake_backend import FakeBackend

CLASSES = ("angry", "happy", "neutral", "sad")
RATE = 16_000


def predictions(labels: np.ndarray, bias: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return what a model predicts that knows emotions well, but is biased for a voice."""
    logits = 4.0 * np.eye(len(CLASSES))[labels] + np.random.default_rng(seed).normal(0, 0.5, (len(labels), 4)) + bias
    return np.asarray(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))


def test_a_bias_for_a_voice_is_removed_if_its_emotions_are_mixed() -> None:
    labels = np.tile(np.arange(4), 5)
    biased = predictions(labels, np.array([0, 0, 0, 6.0]))
    speaker = SpeakerAdaptation(CLASSES, biased[:12])
    assert (biased.argmax(axis=1) == labels).mean() < 0.5
    assert (speaker.adapt(biased).argmax(axis=1) == labels).mean() > 0.95
    assert speaker.clips == 12
    assert np.allclose(speaker.adapt(biased).sum(axis=1), 1)


@pytest.mark.parametrize("label", range(4))
def test_the_emotion_of_clips_that_all_express_it_is_kept(label: int) -> None:
    clips = predictions(np.full(20, label), np.zeros(4))
    speaker = SpeakerAdaptation(CLASSES, clips)
    assert speaker.clips == 0
    assert np.array_equal(speaker.adapt(clips), clips)


def test_a_certain_prediction_and_a_single_clip_change_nothing() -> None:
    assert not SpeakerAdaptation(CLASSES, np.eye(4)[:1]).offset.any()
    certain = SpeakerAdaptation(CLASSES, np.eye(4)[[0, 1, 2, 3] * 3]).adapt(np.eye(4))
    assert np.isfinite(certain).all()
    assert (certain.argmax(axis=1) == np.arange(4)).all()


@pytest.fixture
def recognizer(monkeypatch: pytest.MonkeyPatch) -> EmotionRecognizer:
    monkeypatch.setattr("ser_ft.inference.recognizer.open_backend", lambda *_: FakeBackend())
    return EmotionRecognizer("fake")


def test_a_recognizer_is_adapted_by_clips_saved_and_loaded(
    recognizer: EmotionRecognizer, voices: list[np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ser_ft.inference.speaker_adaptation._DIVERSITY", (0.0, 0.01))
    clips = [(RATE, voice * factor) for voice in voices for factor in (0.05, 1.0)]
    before = recognizer(clips)
    adapted = recognizer.adapt(clips)
    after = adapted(clips)
    assert recognizer(clips) == before
    assert after == recognizer.adapt_predictions(before)
    assert [clip["scores"] for clip in after] != [clip["scores"] for clip in before]
    assert {clip["adapted"] for clip in before} == {0}
    assert {clip["adapted"] for clip in after} == {sum(clip["speech"] > 0 for clip in before)}
    assert adapted.speaker is not None
    adapted.speaker.save(tmp_path / "speaker.json")
    loaded = EmotionRecognizer("fake", speaker=SpeakerAdaptation.load(tmp_path / "speaker.json"))
    for first, second in zip(after, loaded(clips), strict=True):
        assert second["scores"] == pytest.approx(first["scores"], abs=1e-4)
    # Windows of the adapted recognizer are adapted too.
    sound = (RATE, np.concatenate(voices[:4]))
    assert adapted.windows(sound) != recognizer.windows(sound)


def test_clips_without_speech_and_speakers_of_other_models_are_refused(
    recognizer: EmotionRecognizer, tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, RATE).astype(np.float32)
    with pytest.raises(InputError, match="no speech was found"):
        recognizer.adapt((RATE, noise))
    SpeakerAdaptation(("a", "b"), np.full((3, 2), 0.5)).save(tmp_path / "other.json")
    with pytest.raises(InputError, match="a model with other classes"):
        EmotionRecognizer("fake", speaker=SpeakerAdaptation.load(tmp_path / "other.json"))
    for content in ("{}", "[1]", '{"classes": ["a", "b"], "probabilities": [[0.5]]}', "no JSON"):
        (tmp_path / "damaged.json").write_text(content)
        with pytest.raises(InputError, match=r"damaged\.json"):
            SpeakerAdaptation.load(tmp_path / "damaged.json")
    with pytest.raises(InputError, match=r"nowhere\.json: cannot be read"):
        SpeakerAdaptation.load(tmp_path / "nowhere.json")


def test_a_stream_adapts_as_it_goes_on_and_a_conversation_as_a_whole(
    recognizer: EmotionRecognizer, voices: list[np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ser_ft.inference.speaker_adaptation._DIVERSITY", (0.0, 0.01))
    sound = np.concatenate([voice * factor for voice in voices for factor in (0.05, 1.0)])
    plain, stream = recognizer.stream(smoothing=0.0), recognizer.stream(smoothing=0.0, adapt=True)
    before, after = ([*opened.feed(sound), *opened.finish()] for opened in (plain, stream))
    assert plain.speaker is None
    assert stream.speaker is not None
    # One window of 3 s in three is independent of the one before.
    spoken = [number for number, window in enumerate(before) if window["scores"]]
    assert 0 < stream.speaker.clips <= len(spoken) / 3 + 1
    assert after[spoken[0]] == before[spoken[0]]
    assert after[spoken[-1]]["scores"] == pytest.approx(
        dict(
            zip(
                recognizer.info.classes,
                stream.speaker.adapt(np.array(list((before[spoken[-1]]["scores"] or {}).values()))).tolist(),
                strict=True,
            )
        )
    )
    (tmp_path / "call.wav").write_bytes(to_wav(sound))
    settings = MonitorSettings(windows=WindowSettings(smoothing=0.0), adapt=True)
    (speaker,) = analyze_conversation(FakeBackend(), tmp_path / "call.wav", settings).speakers
    assert speaker.adapted == stream.speaker.clips
    with pytest.raises(InputError, match="pass one of them"):
        MonitorSettings(adapt=True, baseline_seconds=60)
