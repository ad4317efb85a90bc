"""Analysis of recorded conversations: channels, telephone sound, mono files, highlights and JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ser_ft import audio
from ser_ft.audio import AudioError
from ser_ft.monitor.analysis import analyze_conversation, extract_clips
from ser_ft.monitor.conversation import Conversation, MonitorSettings
from ser_ft.monitor.to_json import KEYS, SPEAKER_KEYS, to_json
from ser_ft.utils.errors import InputError
from tests.helpers.conversations import ANGRY_TURN, CLASSES, LOUD, SOFT, LoudIsAngry, write_conversation

LEFT_RIGHT = MonitorSettings(channel_names=("left", "right"))
BACKEND = LoudIsAngry()


@pytest.fixture(scope="module")
def wide(miniature_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_conversation(miniature_tree, tmp_path_factory.mktemp("conversations") / "wide.wav")


@pytest.fixture(scope="module")
def conversation(wide: Path) -> Conversation:
    """The analyzed conversation, whose analysis reported its progress correctly."""
    progress: list[float] = []
    conversation = analyze_conversation(BACKEND, wide, LEFT_RIGHT, progress.append)
    assert len(progress) > 20
    assert sum(progress) == pytest.approx(1, abs=0.01)
    assert min(progress) >= 0
    return conversation


def test_each_channel_is_one_speaker(conversation: Conversation) -> None:
    left, right = conversation.speakers
    assert (left.name, right.name, conversation.mixed, conversation.duration) == ("left", "right", False, 64.0)
    assert left.negative_segments == []
    assert left.emotion_shares["neutral"] == pytest.approx(1)
    (segment,) = right.negative_segments
    assert segment.emotion == "angry"
    assert 28 <= segment.start <= 30
    assert 33 <= segment.end <= 36
    assert 0.2 < right.negative_share < 0.5
    assert sum(right.emotion_shares.values()) + right.uncertain_share == pytest.approx(1)


def test_speech_is_found_where_each_speaker_talks(conversation: Conversation) -> None:
    left, right = conversation.speakers
    # Half of each turn or more: there are pauses between its clips.
    assert 16 < left.speech_seconds < 32
    assert 12 < right.speech_seconds < 24
    assert conversation.overlap < 2
    nobody = 64 - left.speech_seconds - right.speech_seconds + conversation.overlap
    assert conversation.silence == pytest.approx(nobody, abs=0.1)
    for channel, speaker in enumerate((left, right)):
        times_of_other = [9.0 * index + 5 for index, (turn, _) in enumerate(ANGRY_TURN) if turn != channel]
        assert not any(start < time < end for time in times_of_other for start, end in speaker.speech)


def test_telephone_sound_is_analyzed_with_a_note(
    miniature_tree: Path, tmp_path: Path, conversation: Conversation
) -> None:
    file = write_conversation(miniature_tree, tmp_path / "phone.wav", rate=8000, subtype="ALAW")
    phone = analyze_conversation(BACKEND, file, LEFT_RIGHT)
    assert phone.sampling_rate == 8000
    assert any(note.startswith("telephone sound: a sampling rate of 8 kHz") for note in phone.notes)
    assert not any("telephone" in note for note in conversation.notes)
    assert [segment.emotion for segment in phone.speakers[1].negative_segments] == ["angry"]
    assert phone.speakers[1].negative_share == pytest.approx(conversation.speakers[1].negative_share, abs=0.1)


def test_speakers_on_one_channel_are_analyzed_together_with_a_note(miniature_tree: Path, tmp_path: Path) -> None:
    file = write_conversation(miniature_tree, tmp_path / "mono.wav", channels=1)
    mono = analyze_conversation(BACKEND, file, LEFT_RIGHT)
    assert mono.mixed
    assert [speaker.name for speaker in mono.speakers] == ["all speakers"]
    assert mono.notes[0].startswith("one channel: speakers are not distinguished")
    assert len(mono.speakers[0].negative_segments) == 1
    assert mono.overlap == 0


def test_a_mono_recording_saved_as_stereo_counts_as_one_channel(wide: Path, tmp_path: Path) -> None:
    samples, rate = soundfile.read(wide)
    mixed = samples.mean(axis=1)
    soundfile.write(tmp_path / "both.wav", np.stack([mixed, 0.7 * mixed], axis=1), rate)
    both = analyze_conversation(BACKEND, tmp_path / "both.wav", LEFT_RIGHT)
    assert (both.mixed, both.num_channels, len(both.speakers)) == (True, 2, 1)
    assert both.notes[0].startswith("identical channels: speakers are not distinguished")


def test_a_silent_channel_is_noted(miniature_tree: Path, tmp_path: Path) -> None:
    file = write_conversation(miniature_tree, tmp_path / "left.wav", [(0, SOFT), (0, LOUD)])
    conversation = analyze_conversation(BACKEND, file, LEFT_RIGHT)
    left, right = conversation.speakers
    assert "right is silent: if one channel holds several speakers, they are not distinguished" in conversation.notes
    assert (right.speech_seconds, right.main_emotion, right.negative_share) == (0, None, None)
    assert conversation.negative_share == left.negative_share


def test_unsuitable_names_and_files_are_refused(wide: Path, tmp_path: Path) -> None:
    names = MonitorSettings(channel_names=("a", "b", "c"))
    with pytest.raises(InputError, match="has 2 channels, but --channels has 3 names: name each channel, in order"):
        analyze_conversation(BACKEND, wide, names)
    soundfile.write(tmp_path / "silent.wav", np.zeros((32_000, 2)), 16_000)
    soundfile.write(tmp_path / "short.wav", np.full(30, 0.5), 16_000)
    (tmp_path / "text.wav").write_text("no sound")
    for name, message in (
        ("silent.wav", "silent: no sound above -60 dBFS"),
        ("short.wav", r"1\.9 ms of sound is too short: at least 0\.1 s are needed"),
        ("text.wav", "not a sound file"),
    ):
        with pytest.raises(AudioError, match=rf"{name}: {message}"):
            analyze_conversation(BACKEND, tmp_path / name, LEFT_RIGHT)


def test_a_model_without_negative_classes_finds_no_negative_segments(wide: Path) -> None:
    conversation = analyze_conversation(LoudIsAngry(("good", "excited")), wide, MonitorSettings())
    assert [speaker.name for speaker in conversation.speakers] == ["channel 1", "channel 2"]
    assert conversation.negative_classes == ()
    assert conversation.notes == ["no negative segments: the model has none of the classes angry, sad, fear, disgust"]
    assert to_json(conversation)["negative_segment_definition"] is None


def test_clips_of_highlights_hold_only_the_speakers_channel(conversation: Conversation, wide: Path) -> None:
    assert "angry" in {highlight.emotion for highlight in conversation.highlights}
    channels = [np.concatenate(list(audio.decode_blocks(wide, channel=channel))) for channel in range(2)]
    clips = extract_clips(conversation, conversation.highlights)
    for highlight, clip in zip(conversation.highlights, clips, strict=True):
        first = round(highlight.start * audio.SAMPLE_RATE)
        assert len(clip) == pytest.approx((highlight.end - highlight.start) * audio.SAMPLE_RATE, abs=2)
        assert np.array_equal(clip, channels[highlight.speaker][first : first + len(clip)])
        assert np.abs(clip).max() > audio.SILENCE_PEAK


def test_a_speaker_baseline_removes_what_a_speaker_always_shows(miniature_tree: Path, tmp_path: Path) -> None:
    file = write_conversation(miniature_tree, tmp_path / "loud.wav", [(0, SOFT), (1, LOUD)] * 4)
    names = LEFT_RIGHT.channel_names
    plain = analyze_conversation(BACKEND, file, LEFT_RIGHT)
    corrected = analyze_conversation(BACKEND, file, MonitorSettings(channel_names=names, baseline_seconds=8.0))
    assert plain.speakers[1].emotion_shares["angry"] > 0.9
    assert corrected.speakers[1].emotion_shares["angry"] == 0
    reduction = corrected.speakers[1].baseline.log_odds_reduction
    assert reduction["angry"] > 1
    assert corrected.speakers[0].emotion_shares == plain.speakers[0].emotion_shares
    for before, after in zip(plain.speakers[1].windows, corrected.speakers[1].windows, strict=True):
        if before.probabilities is not None:
            change = np.log(before.probabilities) - np.log(after.probabilities) - list(reduction.values())
            assert np.ptp(change) < 1e-9
    too_long = analyze_conversation(BACKEND, file, MonitorSettings(channel_names=names, baseline_seconds=100.0))
    assert "no speaker baseline for left, right: less than twice 100 s of speech" in too_long.notes
    assert too_long.speakers[1].emotion_shares == plain.speakers[1].emotion_shares


def test_all_numbers_are_in_the_json_and_every_key_is_explained(conversation: Conversation) -> None:
    contents = json.loads(json.dumps(to_json(conversation), allow_nan=False))
    assert list(contents) == list(KEYS)
    assert [list(speaker) for speaker in contents["speakers"]] == [list(SPEAKER_KEYS)] * 2
    right = contents["speakers"][1]
    assert right["negative_segments"][0]["emotion"] == "angry"
    with_scores = [window for window in right["windows"] if window["scores"]]
    assert all(set(window["scores"]) == set(CLASSES) for window in with_scores)
    assert len(with_scores) < len(right["windows"])
    assert contents["model"] == asdict(BACKEND.info) | {"classes": list(CLASSES)}
    assert all(key in KEYS["model"] for key in contents["model"])
    assert all(key in KEYS["settings"] for key in contents["settings"])
    assert all(highlight["speaker"] in ("left", "right") for highlight in contents["highlights"])
