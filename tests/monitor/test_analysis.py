"""Recorded calls, judged: channels, telephone sound, one channel for all, and what is cut out to be heard."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ser_ft import audio
from ser_ft.audio import AudioError
from ser_ft.monitor.analysis import cut, monitor
from ser_ft.monitor.conversation import Conversation, MonitorSettings
from ser_ft.monitor.to_json import KEYS, VOICE_KEYS, record
from ser_ft.utils.errors import InputError
from tests.helpers.calls import CLASSES, COMPLAINT, LOUD, SOFT, LoudIsAngry, make_call

NAMED = MonitorSettings(names=("agent", "customer"))
ENGINE = LoudIsAngry()


@pytest.fixture(scope="module")
def wide(miniature_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_call(miniature_tree, tmp_path_factory.mktemp("calls") / "wide.wav")


@pytest.fixture(scope="module")
def judged(wide: Path) -> Conversation:
    return monitor(ENGINE, wide, NAMED)


def test_each_channel_is_a_voice_of_its_own(judged: Conversation) -> None:
    agent, customer = judged.voices
    assert (agent.name, customer.name, judged.mixed, judged.duration) == ("agent", "customer", False, 64.0)
    assert agent.runs == []
    assert agent.shares["neutral"] == pytest.approx(1)
    (run,) = customer.runs
    assert run.emotion == "angry"
    assert 28 <= run.start <= 30
    assert 33 <= run.end <= 36
    assert 0.2 < customer.dissatisfied < 0.5
    assert sum(customer.shares.values()) + customer.uncertain == pytest.approx(1)


def test_who_talks_when(judged: Conversation) -> None:
    agent, customer = judged.voices
    # Half of each turn, or more: there are pauses between its clips.
    assert 16 < agent.spoken < 32
    assert 12 < customer.spoken < 24
    assert judged.overlap < 2
    assert judged.silence == pytest.approx(64 - agent.spoken - customer.spoken + judged.overlap, abs=0.1)
    for voice, channel in ((agent, 0), (customer, 1)):
        outside = [9.0 * place + 5 for place, (speaker, _) in enumerate(COMPLAINT) if speaker != channel]
        assert not any(start < time < end for time in outside for start, end in voice.talk)


@pytest.mark.parametrize("subtype", ["ULAW", "ALAW"])
def test_telephone_sound_is_read_and_said_to_be_narrow(
    miniature_tree: Path, tmp_path: Path, judged: Conversation, subtype: str
) -> None:
    call = monitor(ENGINE, make_call(miniature_tree, tmp_path / "call.wav", rate=8000, subtype=subtype), NAMED)
    assert call.rate == 8000
    assert any(note.startswith("telephone sound: recorded at 8 kHz") for note in call.notes)
    assert not any("telephone" in note for note in judged.notes)
    assert [run.emotion for run in call.voices[1].runs] == ["angry"]
    assert call.voices[1].dissatisfied == pytest.approx(judged.voices[1].dissatisfied, abs=0.1)


def test_speakers_on_one_channel_are_not_told_apart_and_it_says_so(miniature_tree: Path, tmp_path: Path) -> None:
    call = monitor(ENGINE, make_call(miniature_tree, tmp_path / "mono.wav", channels=1), NAMED)
    assert call.mixed
    assert [voice.name for voice in call.voices] == ["the voices"]
    assert call.notes[0].startswith("one channel: speakers are not told apart")
    assert len(call.voices[0].runs) == 1
    assert call.overlap == 0


def test_a_mono_call_kept_as_stereo_is_one_voice(wide: Path, tmp_path: Path) -> None:
    sound, rate = soundfile.read(wide)
    mixed = sound.mean(axis=1)
    soundfile.write(tmp_path / "both.wav", np.stack([mixed, 0.7 * mixed], axis=1), rate)
    call = monitor(ENGINE, tmp_path / "both.wav", NAMED)
    assert (call.mixed, call.channels, len(call.voices)) == (True, 2, 1)
    assert call.notes[0].startswith("channels alike: speakers are not told apart")


def test_an_empty_channel_is_told_of(miniature_tree: Path, tmp_path: Path) -> None:
    file = make_call(miniature_tree, tmp_path / "left.wav", [(0, SOFT), (0, LOUD)])
    call = monitor(ENGINE, file, NAMED)
    assert "customer is silent: where one channel holds all speakers, they are not told apart" in call.notes
    assert (call.voices[1].spoken, call.voices[1].top, call.voices[1].dissatisfied) == (0, None, None)
    assert call.dissatisfied == call.voices[0].dissatisfied


def test_names_and_files_that_do_not_fit_are_refused(wide: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has 2 channels, and --channels names 3: name each, in order"):
        monitor(ENGINE, wide, MonitorSettings(names=("a", "b", "c")))
    soundfile.write(tmp_path / "silent.wav", np.zeros((32_000, 2)), 16_000)
    with pytest.raises(AudioError, match="holds no sound above -60 dBFS"):
        monitor(ENGINE, tmp_path / "silent.wav", NAMED)
    soundfile.write(tmp_path / "short.wav", np.full(30, 0.5), 16_000)
    with pytest.raises(AudioError, match=r"short\.wav: 1\.9 ms of sound is too short: 0\.1 s is the least"):
        monitor(ENGINE, tmp_path / "short.wav", MonitorSettings())
    (tmp_path / "text.wav").write_text("no sound")
    with pytest.raises(AudioError, match=r"text\.wav: not a sound file"):
        monitor(ENGINE, tmp_path / "text.wav", NAMED)


def test_channels_without_names_are_numbered(wide: Path) -> None:
    assert [voice.name for voice in monitor(ENGINE, wide, MonitorSettings()).voices] == ["channel 1", "channel 2"]


def test_what_is_cut_out_is_the_voice_as_it_was_judged(judged: Conversation, wide: Path) -> None:
    assert {moment.emotion for moment in judged.moments} >= {"angry"}
    sound, _ = soundfile.read(wide, dtype="float32")
    for moment, samples in zip(judged.moments, cut(judged, judged.moments), strict=True):
        first = round(moment.start * audio.SAMPLE_RATE)
        assert len(samples) == pytest.approx((moment.end - moment.start) * audio.SAMPLE_RATE, abs=2)
        assert np.array_equal(samples, sound[first : first + len(samples), moment.voice])
        assert np.abs(samples).max() > audio.SILENCE_PEAK


def test_a_baseline_takes_off_what_a_voice_always_shows(miniature_tree: Path, tmp_path: Path) -> None:
    loud = make_call(miniature_tree, tmp_path / "loud.wav", [(0, SOFT), (1, LOUD)] * 4)
    plain = monitor(ENGINE, loud, NAMED)
    own = monitor(ENGINE, loud, MonitorSettings(names=NAMED.names, baseline=8.0))
    assert plain.voices[1].shares["angry"] > 0.9
    assert own.voices[1].shares["angry"] == 0
    assert own.voices[1].baseline.lowered["angry"] > 1
    assert own.voices[0].shares == plain.voices[0].shares
    for before, after in zip(plain.voices[1].windows, own.voices[1].windows, strict=True):
        if before.probabilities is not None:
            gone = (
                np.log(before.probabilities)
                - np.log(after.probabilities)
                - list(own.voices[1].baseline.lowered.values())
            )
            assert np.ptp(gone) < 1e-9
    much = monitor(ENGINE, loud, MonitorSettings(names=NAMED.names, baseline=100.0))
    assert "no baseline: agent, customer spoke less than twice 100 s, so none was taken off" in much.notes
    assert much.voices[1].shares == plain.voices[1].shares


def test_a_model_that_knows_nothing_negative_judges_no_dissatisfaction(wide: Path) -> None:
    call = monitor(LoudIsAngry(("good", "excited")), wide, NAMED)
    assert call.negative == ()
    assert call.notes == ["dissatisfaction not judged: the model knows none of angry, sad, fear, disgust"]
    assert record(call)["definition"] is None


def test_progress_adds_up_to_one(wide: Path) -> None:
    steps: list[float] = []
    monitor(ENGINE, wide, NAMED, steps.append)
    assert len(steps) > 20
    assert sum(steps) == pytest.approx(1, abs=0.01)
    assert min(steps) >= 0


def test_all_numbers_are_in_the_record_and_every_key_is_explained(judged: Conversation) -> None:
    told = json.loads(json.dumps(record(judged), allow_nan=False))
    assert list(told) == list(KEYS)
    assert [list(voice) for voice in told["voices"]] == [list(VOICE_KEYS)] * 2
    customer = told["voices"][1]
    assert customer["runs"][0]["emotion"] == "angry"
    judged_windows = [window for window in customer["windows"] if window["scores"]]
    assert all(set(window["scores"]) == set(CLASSES) for window in judged_windows)
    assert len(judged_windows) < len(customer["windows"])
    assert told["model"] == asdict(ENGINE.info) | {"classes": list(CLASSES)}
    assert all(key in KEYS["model"] for key in told["model"])
    assert told["settings"]["window"] == 3.0
    assert all(moment["voice"] in ("agent", "customer") for moment in told["moments"])
