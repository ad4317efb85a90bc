"""The modules of the page by themselves: messages, limits, cleanup, uploads, examples, live streams."""

import base64
import ctypes
import os
import subprocess
import sys
import time
from dataclasses import replace
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from ser_ft.audio import SAMPLE_RATE, AudioError, to_pcm16
from ser_ft.cli.demo import Options
from ser_ft.labels import COLORS
from ser_ft.models import SMALL, shipped_file
from ser_ft.utils.errors import InputError
from ser_ft.utils.files import demo_folder
from tests.helpers.chromium import wait_until


@pytest.fixture(scope="module")
def state(demo: Any) -> Any:
    return demo.server.make_state(Options())


def write_file(path: Path, age: float = 0.0) -> Path:
    """Write a file of five bytes that is `age` seconds old."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"12345")
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_error_messages_reveal_no_path_of_the_server(demo: Any, tmp_path: Path) -> None:
    file = tmp_path / "clip.wav"
    file.write_bytes(b"no sound")
    for error in (
        AudioError("unreadable", f"{file}: not a sound file"),
        AudioError("cut-short", f"{file}: ends"),
        InputError(f"{file}: has 2 channels,\nbut --channels has 3 names"),
        RuntimeError(f"{file} exploded"),
    ):
        message = demo.messages.error_message(error, str(file))
        assert str(tmp_path) not in message
        assert message.endswith(".")
        assert "\n" not in message
    file.unlink()
    message = demo.messages.error_message(AudioError("unreadable", f"{file}: no such file"), str(file))
    assert message == "clip.wav no longer exists, because files are deleted after a while: upload it again."


def test_no_more_of_a_recording_is_read_than_allowed(demo: Any, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "clip.wav", np.sin(np.arange(3 * SAMPLE_RATE)) / 2, SAMPLE_RATE)
    assert demo.audio_input.read_clip(str(tmp_path / "clip.wav"), 4).seconds == pytest.approx(3)
    for function in (demo.audio_input.read_clip, demo.audio_input.check_duration):
        with pytest.raises(InputError, match=r"clip\.wav is longer than 2 s"):
            function(str(tmp_path / "clip.wav"), 2)
        with pytest.raises(InputError, match="add a recording first"):
            function(None, 2)


def test_limits_are_written_for_people(demo: Any) -> None:
    texts = [demo.messages.duration_text(seconds) for seconds in (15, 60, 120, 3600, 7200)]
    assert texts == ["15 s", "1 minute", "2 minutes", "1 hour", "2 hours"]
    assert demo.messages.size_text(200 * 2**20) == "200 MB"


def test_old_files_are_deleted_and_new_ones_kept(demo: Any, tmp_path: Path) -> None:
    write_file(tmp_path / "a" / "old.wav", 700)
    write_file(tmp_path / "b" / "new.wav", 10)
    folder = write_file(tmp_path / "c" / "request" / "report.html", 700).parent
    os.utime(folder, (time.time() - 700,) * 2)
    assert demo.temp_dir.used_bytes(tmp_path) == 15
    demo.temp_dir.delete_old(tmp_path, 600)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["new.wav"]
    assert not folder.exists()


def test_cleanup_keeps_files_in_use_and_deletes_everything_at_the_end(demo: Any, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    in_use, old = write_file(folder / "in-use.wav", 700), write_file(folder / "old.wav", 700)
    stop = demo.temp_dir.start_cleanup(folder, 1, lambda: [str(in_use)])
    assert wait_until(lambda: not old.exists())
    assert in_use.exists()
    write_file(folder / "new.wav")
    stop()
    assert not folder.exists()


def test_only_files_of_the_page_are_touched(demo: Any, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    files = [write_file(folder / "in-use.wav", 700), write_file(folder / "old.wav", 700)]
    outside = write_file(tmp_path / "other.wav", 700)
    before = outside.stat().st_mtime
    paths = [str(files[0]), str(outside), str(folder / "deleted.wav"), f"{folder}/../other.wav", "a\0b"]
    demo.temp_dir.touch_files(folder, paths)
    demo.temp_dir.delete_old(folder, 600)
    assert [file.exists() for file in files] == [True, False]
    assert outside.stat().st_mtime == before


def test_memory_of_large_arrays_is_returned_to_the_system(demo: Any) -> None:
    code = """if True:
        import ctypes, sys
        sys.path.insert(0, sys.argv[1])
        from ser_ft_demo.memory import return_freed_memory
        class Statistics(ctypes.Structure):
            _fields_ = [(name, ctypes.c_size_t) for name in "arena free small mapped rest1 rest2 rest3 used".split()]
            _fields_ += [(name, ctypes.c_size_t) for name in ("unused", "top")]
        libc = ctypes.CDLL(None)
        libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
        libc.mallinfo2.restype = Statistics
        return_freed_memory()
        libc.free(libc.malloc(2**24))
        before = libc.mallinfo2().mapped
        libc.malloc(2**21)
        print(libc.mallinfo2().mapped - before)
    """
    if not hasattr(ctypes.CDLL(None), "mallinfo2"):
        pytest.skip("only glibc has these functions")
    process = subprocess.run(
        [sys.executable, "-c", code, str(demo_folder())], capture_output=True, text=True, check=True
    )
    assert process.stdout == "1\n", "after a larger block was freed, too"


def test_examples_are_always_the_same(demo: Any, tmp_path: Path) -> None:
    contents = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        clips = demo.examples.write_clips(tmp_path / name)
        assert all("synthetic" in label for label, _ in clips)
        files = [*(file for _, file in clips), demo.examples.write_conversation(tmp_path / name)]
        contents.append([file.read_bytes() for file in files])
    assert contents[0] == contents[1]


def test_models_of_the_same_name_are_numbered(demo: Any) -> None:
    models = demo.state.open_models([SMALL, str(shipped_file(SMALL)), SMALL])
    assert [model.name for model in models] == ["small", "small (2)"]
    with pytest.raises(InputError):
        demo.state.open_models(["nowhere/at-all"])


def test_agreement_of_models(demo: Any) -> None:
    def predict(uncertain: bool = False, **scores: float) -> Any:
        return {"emotion": max(scores, key=lambda name: scores[name]), "scores": scores, "uncertain": uncertain}

    assert demo.compare.overlap({"sad": 0.7, "calm": 0.3}, {"sad": 0.2, "angry": 0.8}) == pytest.approx(0.2)
    sad, angry = predict(sad=0.9, angry=0.1), predict(sad=0.2, angry=0.8)
    uncertain = predict(True, sad=0.6, angry=0.4)
    for predictions, emotion, num_agreeing in (
        ([sad, sad, angry], "sad", 2),
        ([sad, angry], None, 1),  # a tie is no agreement
        ([uncertain] * 2, None, 0),
    ):
        agreement = demo.compare.agreement(predictions)
        assert (agreement["emotion"], agreement["num_agreeing"]) == (emotion, num_agreeing)


def test_a_live_stream_is_answered_until_its_limit(demo: Any, state: Any) -> None:
    feed, _ = demo.live.server_functions(replace(state, limits=replace(state.limits, live_seconds=6)))
    noise = to_pcm16(np.random.default_rng(0).normal(0, 0.05, 24_000).astype(np.float32))
    request = ["a key of this test", 48_000, base64.b64encode(noise.tobytes()).decode()]
    replies = [feed(request) for _ in range(13)]
    assert [reply["ended"] for reply in replies] == [False] * 12 + [True]
    assert "6.0 s received" in replies[11]["html"]
    assert "ends after 6 s" in replies[12]["html"]


def test_the_number_of_live_streams_is_limited(demo: Any, state: Any) -> None:
    streams = demo.live.LiveStreams(replace(state, limits=replace(state.limits, live_streams=1)))
    samples = np.zeros(1600, np.float32)
    streams.feed("the first", 16_000, samples)
    with pytest.raises(InputError, match="too many visitors are live"):
        streams.feed("the second", 16_000, samples)
    streams.close("the first")
    streams.feed("the second", 16_000, samples)
    streams.feed("the second", 48_000, samples)


def test_one_client_cannot_take_all_live_streams(demo: Any, state: Any) -> None:
    streams = demo.live.LiveStreams(replace(state, limits=replace(state.limits, live_streams=3, client_live_streams=2)))
    samples = np.zeros(10, np.float32)
    for number in range(2):
        streams.feed(f"stream {number}", 16_000, samples, "192.0.2.1")
    with pytest.raises(InputError, match="at your address"):
        streams.feed("stream 2", 16_000, samples, "192.0.2.1")
    live_stream = streams.feed("stream 2", 16_000, samples, "192.0.2.2")
    live_stream.opened -= state.limits.live_seconds + 1
    with pytest.raises(InputError, match="a live stream ends after 10 minutes"):
        streams.feed("stream 2", 16_000, samples, "192.0.2.2")


@pytest.mark.parametrize(
    "data",
    [
        *(None, [], [1, 2, 3], ["short", 16_000, ""], ["long enough", 16_000, "no base64!"]),
        *(
            ["long enough", rate, "AAA="]
            for rate in (0, -1, 1e300, inf, -inf, nan, 10**400, True, None, "rate", [8000])
        ),
        ["long enough", 16_000, "AAAA" * (2**20 + 1)],
        *(["long enough", 16_000, text] for text in ("AAAA", "\u00e4", None, 5, ["AAA="], {"a": 1})),
        *(
            ["long enough", 16_000, "AAA=", 2],
            {"key": "long enough"},
            "long enough",
            5,
            [["long enough"], 16_000, "AAA="],
        ),
    ],
    ids=range(28),
)
def test_invalid_live_requests_get_one_plain_sentence(demo: Any, state: Any, data: Any) -> None:
    reply = demo.live.server_functions(state)[0](data)
    assert reply["ended"]
    text = reply["html"].partition('role="alert">')[2].partition("<")[0]
    assert text.startswith(("The request does not contain sound", "The sampling rate of the microphone must be"))


@pytest.mark.parametrize("key", [None, 5, [], {"a": 1}, ["the key"], ""])
def test_a_stream_is_closed_by_its_key_and_other_values_are_ignored(demo: Any, state: Any, key: Any) -> None:
    feed, close = demo.live.server_functions(replace(state, limits=replace(state.limits, live_streams=1)))
    sound = base64.b64encode(bytes(3200)).decode()
    assert not feed(["the first visitor", 16_000, sound])["ended"]
    close(key)
    assert "too many visitors" in feed(["the second visitor", 16_000, sound])["html"].lower()
    close("the first visitor")
    assert not feed(["the second visitor", 16_000, sound])["ended"]


def test_names_cannot_inject_html(demo: Any, state: Any, tmp_path: Path) -> None:
    file = tmp_path / "<img src=x onerror=alert(1)>.flac"
    file.write_bytes(state.conversation.read_bytes())
    conversation = demo.monitor.analyze(state, str(file), "<b>left</b>, right")
    html = demo.monitor.to_html(conversation, demo.monitor.report_context(state, conversation))
    assert "<b>left" not in html
    assert "<img src=x" not in html
    assert "<img src=x" not in demo.speak.to_html(state, demo.speak.recognize(state, str(file)))


def test_each_emotion_has_its_color(demo: Any, state: Any) -> None:
    html = demo.speak.to_html(state, demo.speak.recognize(state, str(state.examples[0][1])))
    assert all(f"background:{COLORS[name]}" in html for name in state.model.recognizer.info.classes)
