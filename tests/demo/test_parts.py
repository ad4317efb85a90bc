"""The page's parts by themselves: sentences, limits, what is deleted and refused, examples, live streams."""

import asyncio
import base64
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from ser_ft.audio import SAMPLE_RATE, AudioError, to_pcm16
from ser_ft.utils.errors import InputError
from ser_ft.utils.files import demo_folder


@pytest.fixture(autouse=True)
def _with_gradio(server: Any) -> None:
    """Skip where gradio is missing."""


@pytest.fixture(scope="module")
def state(server: Any) -> Any:
    from ser_ft.cli.demo import Options

    return server.make_state(Options())


def test_an_error_says_nothing_of_the_machine(tmp_path: Path) -> None:
    from ser_ft_demo.messages import sentence

    file = tmp_path / "clip.wav"
    file.write_bytes(b"no sound")
    for error in (
        AudioError("unreadable", f"{file}: not a sound file"),
        AudioError("cut-short", f"{file}: ends"),
        InputError(f"{file}: has 2 channels,\nand --channels names 3"),
        RuntimeError(f"{file} exploded"),
    ):
        said = sentence(error, str(file))
        assert str(tmp_path) not in said
        assert said.endswith(".")
        assert "\n" not in said
    file.unlink()
    gone = sentence(AudioError("unreadable", f"{file}: no such file"), str(file))
    assert gone == "clip.wav is no longer here, since files are deleted after a while: give it again."


def test_a_header_that_lies_gets_no_more_than_the_limit(tmp_path: Path) -> None:
    from ser_ft_demo.audio_input import check_length, read

    soundfile.write(tmp_path / "clip.wav", np.sin(np.arange(3 * SAMPLE_RATE)) / 2, SAMPLE_RATE)
    assert read(str(tmp_path / "clip.wav"), 4).seconds == pytest.approx(3)
    for look in (read, check_length):
        with pytest.raises(InputError, match=r"clip\.wav is longer than 2 s"):
            look(str(tmp_path / "clip.wav"), 2)
        with pytest.raises(InputError, match="give a recording first"):
            look(None, 2)


def test_limits_are_told_as_people_say_them() -> None:
    from ser_ft_demo.messages import length, size

    assert [length(seconds) for seconds in (15, 60, 120, 3600, 7200)] == [
        "15 s",
        "1 minute",
        "2 minutes",
        "1 hour",
        "2 hours",
    ]
    assert size(200 * 2**20) == "200 MB"


def test_hosts_in_addresses() -> None:
    from ser_ft_demo.network import in_address

    hosts = "::1", "[::1]", "localhost", "0.0.0.0", None
    assert [in_address(host) for host in hosts] == ["[::1]", "[::1]", "localhost", "0.0.0.0", None]


def test_old_files_are_deleted_and_new_ones_kept(tmp_path: Path) -> None:
    from ser_ft_demo.middleware import sweep, used

    for name, age in (("a/old.wav", 700), ("b/new.wav", 10), ("c/gone/report.html", 700)):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"12345")
        then = time.time() - age
        for path in ((tmp_path / name), *(tmp_path / name).parents[: len(Path(name).parents) - 1]):
            os.utime(path, (then, then))
    assert used(tmp_path) == 15
    sweep(tmp_path, 600)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["new.wav"]
    assert not (tmp_path / "c" / "gone").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no flock")
def test_what_a_killed_page_left_goes_when_the_next_starts(tmp_path: Path) -> None:
    from ser_ft_demo.temp_dir import make_home

    code = (
        "import sys, time, pathlib; sys.path.insert(0, sys.argv[1]); from ser_ft_demo.temp_dir import make_home\n"
        "print(make_home(pathlib.Path(sys.argv[2])), flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(demo_folder()), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as page:
        assert page.stdout is not None
        left = Path(page.stdout.readline().strip())
        assert (left / "pid").read_text() == str(page.pid)
        other = tmp_path / "ser_ft-demo-of-something-else"
        other.mkdir()
        mine = make_home(tmp_path)
        assert left.is_dir(), "its process lives"
        page.kill()
        page.wait()
        make_home(tmp_path)
    assert not left.exists()
    assert mine.is_dir()
    assert other.is_dir(), "nothing says whose it is"


def test_everything_goes_when_the_page_stops(tmp_path: Path) -> None:
    from ser_ft_demo.limits import LIMITS
    from ser_ft_demo.middleware import keep_swept

    home = tmp_path / "files"
    home.mkdir()
    for name in ("asked.wav", "old.wav"):
        (home / name).write_bytes(b"1")
        os.utime(home / name, (1, 1))
    stop = keep_swept(home, replace(LIMITS, kept=1), lambda: [str(home / "asked.wav")])
    end = time.monotonic() + 10
    while (home / "old.wav").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not (home / "old.wav").exists()
    assert (home / "asked.wav").exists()
    (home / "new.wav").write_bytes(b"1")
    stop()
    assert not home.exists()


def test_files_of_requests_grow_no_older(tmp_path: Path) -> None:
    from ser_ft_demo.middleware import keep, sweep

    home, other = tmp_path / "files", tmp_path / "other.wav"
    home.mkdir()
    files = [home / "asked.wav", home / "forgotten.wav", other]
    for file in files:
        file.write_bytes(b"1")
        os.utime(file, (1, 1))
    keep(home, [str(files[0]), str(other), str(home / "gone.wav"), f"{home}/../other.wav", "a\0b"])
    sweep(home, 600)
    assert [file.exists() for file in files] == [True, False, True]
    assert other.stat().st_mtime == 1, "it is none of the page's files"


Headers = list[tuple[bytes, bytes]]


@pytest.fixture
def statuses(tmp_path: Path) -> Any:
    """A function: the statuses of uploads that come at once, each given as its headers, to a folder of five bytes."""
    from ser_ft_demo.limits import LIMITS
    from ser_ft_demo.middleware import Guard

    (tmp_path / "one.wav").write_bytes(b"12345")

    async def app(_: Any, __: Any, send: Any) -> None:
        await asyncio.sleep(0.5)
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive() -> Any:
        return {}

    async def ask(guard: Guard, headers: Headers) -> int:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        await guard({"type": "http", "method": "POST", "path": "/gradio_api/upload", "headers": headers}, receive, send)
        return int(sent[0]["status"])

    async def ask_all(requests: list[Headers], limits: Any) -> list[int]:
        guard = Guard(app, tmp_path, replace(LIMITS, **limits))
        together = await asyncio.gather(*(ask(guard, headers) for headers in requests))
        return [*together, await ask(guard, requests[0])]

    return lambda requests, **limits: asyncio.run(ask_all(requests, limits))


def sized(count: int) -> Headers:
    return [(b"content-length", str(count).encode())]


def test_a_full_disk_takes_no_more_files(statuses: Any) -> None:
    assert statuses([sized(1)], disk=5) == [507, 507]
    assert statuses([sized(1)], disk=6) == [200, 200]
    said = statuses([sized(10)] * 3, disk=25)
    assert sorted(said[:3]) == [200, 200, 507], "what is on its way counts"
    assert said[3] == 200, "and no longer"


def test_an_upload_says_its_size_and_has_no_more_than_a_file(statuses: Any) -> None:
    assert statuses([[(b"transfer-encoding", b"chunked")], []]) == [411] * 3
    assert statuses([sized(2**20 + 100), sized(2**20 + 101), [(b"content-length", b"-1")]], file=100)[:3] == [
        *(200, 413, 413)
    ]


def test_examples_are_the_same_each_time_and_heard(tmp_path: Path) -> None:
    from ser_ft_demo import examples

    made = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        made.append([file.read_bytes() for _, file in examples.make_clips(tmp_path / name)])
        made[-1].append(examples.make_call(tmp_path / name).read_bytes())
    assert made[0] == made[1]
    assert all("synthetic" in label for label, _ in examples.make_clips(tmp_path / "one"))


def test_two_models_of_one_name_are_told_apart(server: Any) -> None:
    from ser_ft_demo.models import open_models

    from ser_ft.inference.backends import SHIPPED_FILE
    from ser_ft.models import SHIPPED

    assert [model.name for model in open_models([SHIPPED, str(SHIPPED_FILE), SHIPPED])] == ["shipped", "shipped (2)"]
    with pytest.raises(InputError):
        open_models(["nowhere/at-all"])


def test_how_far_models_agree() -> None:
    from ser_ft_demo.compare import agreement, overlap

    def answer(uncertain: bool = False, **scores: float) -> Any:
        return {"emotion": max(scores, key=lambda name: scores[name]), "scores": scores, "uncertain": uncertain}

    assert overlap({"sad": 0.7, "calm": 0.3}, {"sad": 0.2, "angry": 0.8}) == pytest.approx(0.2)
    sad, angry = answer(sad=0.9, angry=0.1), answer(sad=0.2, angry=0.8)
    assert agreement([sad, sad, angry])["emotion"] == "sad"
    assert agreement([sad, sad, angry])["models"] == 2
    assert agreement([sad, angry])["emotion"] is None, "one each is no agreement"
    assert agreement([answer(True, sad=0.6, angry=0.4)] * 2)["models"] == 0, "what is uncertain names nothing"


def live(state: Any, seconds: float, key: str = "a key of this test", rate: int = 48_000) -> list[Any]:
    """Send noise to a live stream, half a second at a time; return the replies."""
    from ser_ft_demo.live import server_functions

    hear, _ = server_functions(state)
    noise = to_pcm16(np.random.default_rng(0).normal(0, 0.05, rate // 2).astype(np.float32))
    text = base64.b64encode(noise.tobytes()).decode()
    return [hear([key, rate, text]) for _ in range(round(2 * seconds))]


def test_a_live_stream_is_answered_until_its_limit(state: Any) -> None:
    replies = live(replace(state, limits=replace(state.limits, live=6)), 6.5)
    assert [reply["over"] for reply in replies] == [False] * 12 + [True]
    assert "6.0 s heard" in replies[11]["html"]
    assert "ends after 6 s" in replies[12]["html"]


def test_no_more_people_are_live_than_may_be(state: Any) -> None:
    from ser_ft_demo.live import Sessions

    sessions = Sessions(replace(state, limits=replace(state.limits, listeners=1)))
    sound = np.zeros(1600, np.float32)
    sessions.hear("the first", 16_000, sound)
    with pytest.raises(InputError, match="as many people as can be"):
        sessions.hear("the second", 16_000, sound)
    sessions.close("the first")
    sessions.hear("the second", 16_000, sound)


@pytest.mark.parametrize(
    "data",
    [
        *(None, [], [1, 2, 3], ["short", 16_000, ""], ["long enough", 16_000, "no base64!"]),
        *(["long enough", rate, "AAA="] for rate in (0, "rate")),
        ["long enough", 16_000, "AAAA" * (2**20 + 1)],
    ],
)
def test_whatever_is_sent_as_live_sound_is_one_sentence(state: Any, data: Any) -> None:
    from ser_ft_demo.live import server_functions

    reply = server_functions(state)[0](data)
    assert reply["over"]
    assert 'role="alert"' in reply["html"]


def test_names_from_outside_are_never_html(state: Any, tmp_path: Path) -> None:
    from ser_ft_demo import monitor, speak

    name = "<img src=x onerror=alert(1)>.flac"
    (tmp_path / name).write_bytes(state.call.read_bytes())
    shown = monitor.page(monitor.judge(state, str(tmp_path / name), "<b>agent</b>, customer"))
    assert "<b>agent" not in shown
    assert "<img src=x" not in shown
    assert "<img src=x" not in speak.page(state, speak.recognise(state, str(tmp_path / name)))


def test_emotions_keep_their_colours(state: Any) -> None:
    from ser_ft_demo import speak

    from ser_ft.labels import COLORS

    shown = speak.page(state, speak.recognise(state, str(state.examples[0][1])))
    assert all(f"background:{COLORS[name]}" in shown for name in state.model.recognise.info.classes)
