"""What programs get from the page, through gradio_client, and what nobody gets."""

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.client import HTTPConnection
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ser_ft.cli.demo import Options
from ser_ft.inference.recognizer import EmotionRecognizer

NAMES = ["/augment", "/compare", "/describe", "/monitor", "/recognize", "/windows"]


@pytest.fixture(scope="module")
def client(served: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from gradio_client import Client

    return Client(served.address, verbose=False, download_files=str(tmp_path_factory.mktemp("downloads")))


@pytest.fixture(scope="module")
def handed(recordings: Path) -> Any:
    from gradio_client import handle_file

    return lambda name: handle_file(str(recordings / name))


def get(address: str, **settings: Any) -> tuple[int, dict[str, str], bytes]:
    """Return the status, the headers and the content of an answer."""
    try:
        with urllib.request.urlopen(urllib.request.Request(address, **settings), timeout=20) as answer:
            return answer.status, {key.lower(): value for key, value in answer.headers.items()}, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, {}, error.read()


def test_endpoints_are_named_and_documented(served: SimpleNamespace) -> None:
    told = json.loads(get(f"{served.address}gradio_api/info")[2])
    assert sorted(told["named_endpoints"]) == NAMES
    assert all(endpoint["description"] for endpoint in told["named_endpoints"].values())
    assert not told["unnamed_endpoints"]


def test_a_program_is_answered_as_the_command_answers(client: Any, handed: Any, recordings: Path) -> None:
    answer = client.predict(handed("angry.wav"), api_name="/recognize")
    expected = EmotionRecognizer()(recordings / "angry.wav")[0]
    assert answer["file"] == "angry.wav"
    assert answer["emotion"] == expected["emotion"]
    assert answer["scores"] == pytest.approx(expected["scores"], abs=1e-5)
    windows = client.predict(handed("call.flac"), api_name="/windows")
    assert len(windows) > 50
    assert {"start", "end", "emotion", "scores", "uncertain", "speech"} == set(windows[0])


def test_a_conversation_for_programs(client: Any, handed: Any, served: SimpleNamespace) -> None:
    told, report = client.predict(handed("call.flac"), "agent, customer", api_name="/monitor")
    assert [voice["name"] for voice in told["voices"]] == ["agent", "customer"]
    assert told["file"] == "call.flac"
    assert str(served.state.home) not in Path(report).read_text(encoding="utf-8")


def test_models_compared_and_a_look_inside_for_programs(client: Any, handed: Any) -> None:
    told = client.predict(handed("angry.mp3"), api_name="/compare")
    assert told["agreement"]["of"] == len(told["answers"]) == 2
    assert told["agreement"]["overlap"] > 0.99, "the same model twice, once through ONNX"
    described = client.predict(handed("angry.wav"), api_name="/describe")
    voiced = [value for value in described["pitch"] if value is not None]
    assert 0 < len(voiced) < len(described["pitch"]) == len(described["rms"])
    values, files = client.predict(handed("angry.wav"), 1, api_name="/augment")
    assert sorted(values) == sorted(Path(file).stem for file in files)
    assert values != client.predict(handed("angry.wav"), 2, api_name="/augment")[0]


@pytest.mark.parametrize(
    ("name", "said"),
    [("broken.wav", "broken.wav could not be read as sound"), ("long.flac", "long.flac is longer than 2 minutes")],
)
def test_errors_reach_programs_as_one_sentence(client: Any, handed: Any, name: str, said: str) -> None:
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError) as caught:
        client.predict(handed(name), api_name="/recognize")
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_many_at_once_are_all_answered(client: Any, handed: Any) -> None:
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda _: client.predict(handed("angry.wav"), api_name="/recognize"), range(24)))
    assert len({answer["emotion"] for answer in found}) == 1


def test_files_of_requests_that_wait_are_known(
    server: Any, served: SimpleNamespace, handed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gradio_client import Client
    from ser_ft_demo import speak

    swept: list[Any] = []

    def keep_swept(_: Path, __: Any, asked_about: Any) -> Callable[[], None]:
        swept.append(asked_about)
        return lambda: None

    monkeypatch.setattr(server, "keep_swept", keep_swept)
    may_go, recognise = threading.Event(), speak.recognise

    def slow(*given: Any) -> Any:
        assert may_go.wait(60)
        return recognise(*given)

    monkeypatch.setattr(speak, "recognise", slow)
    address, stop = server.start(served.state, Options())
    try:
        slowly = Client(address, verbose=False, download_files=False)
        count = served.state.limits.at_once + 2
        jobs = [slowly.submit(handed("angry.wav"), api_name="/recognize") for _ in range(count)]
        (asked_about,) = swept
        assert until(lambda: len(asked_about()) == count), "those that wait, and those that are worked on"
        for path in asked_about():
            assert Path(path).is_relative_to(served.state.home)
            assert Path(path).is_file()
        may_go.set()
        assert all(job.result(timeout=60)["file"] == "angry.wav" for job in jobs)
        assert until(lambda: not asked_about())
    finally:
        may_go.set()
        stop()


def until(true: Callable[[], bool]) -> bool:
    """Wait for something to become true, and say whether it did."""
    end = time.monotonic() + 30
    while not true() and time.monotonic() < end:
        time.sleep(0.05)
    return true()


def asked(served: SimpleNamespace, path: str) -> tuple[int, str]:
    """Post a path as it is to /recognise, as gradio_client would not; return the status, and what was answered."""
    call = f"{served.address}gradio_api/call/recognise"
    given = json.dumps({"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}]}).encode()
    status, _, content = get(call, data=given, headers={"content-type": "application/json"})
    if status != 200:
        return status, content.decode()
    return status, get(f"{call}/{json.loads(content)['event_id']}")[2].decode()


def test_no_address_is_fetched(served: SimpleNamespace, recordings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gradio import processing_utils

    # gradio itself fetches nothing from this machine, but would from everywhere else.
    monkeypatch.setattr(processing_utils, "PUBLIC_HOSTNAME_WHITELIST", ["127.0.0.1"])
    requests: list[str] = []

    class Sounds(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            requests.append(self.path)

    listener = ThreadingHTTPServer(("127.0.0.1", 0), partial(Sounds, directory=str(recordings)))
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    with listener:
        address = f"http://127.0.0.1:{listener.server_port}/angry.wav"
        assert get(address)[0] == 200
        assert requests.pop() == "/angry.wav"
        status, answer = asked(served, address)
        listener.shutdown()
    assert not requests
    assert "event: complete" not in answer
    assert status != 200 or "event: error" in answer


def test_no_file_of_the_machine_is_read(served: SimpleNamespace, recordings: Path) -> None:
    assert "event: complete" in asked(served, str(served.state.examples[0][1]))[1], "what is the page's own is answered"
    for path in (str(recordings / "angry.wav"), f"{served.state.home}/../../{recordings}/angry.wav"):
        status, answer = asked(served, path)
        assert "event: complete" not in answer
        assert status != 200 or "event: error" in answer


@pytest.mark.parametrize(
    "path",
    [
        "gradio_api/file=/etc/passwd",
        "gradio_api/file=http://127.0.0.1:9/",
        "gradio_api/file=https%3A//example.org/",
        "gradio_api/proxy=https://example.org/",
        "gradio_api/file={demo}/app.py",
        "monitoring/summary",
        "gradio_api/vibe-code",
    ],
)
def test_nothing_else_is_served(served: SimpleNamespace, path: str) -> None:
    demo = Path(__file__).parents[2] / "demo"
    status, _, content = get(served.address + path.format(demo=demo))
    assert status in (403, 404, 422)
    assert b"root:" not in content


def test_browsers_are_told_to_ask_nobody_else(served: SimpleNamespace) -> None:
    status, headers, content = get(served.address)
    assert status == 200
    assert "default-src 'self'" in headers["content-security-policy"]
    assert headers["referrer-policy"] == "no-referrer"
    assert b"fonts.googleapis" not in content


def test_a_request_has_a_largest_size(served: SimpleNamespace) -> None:
    asked = HTTPConnection(served.address.split("/")[2], timeout=20)
    asked.putrequest("POST", "/gradio_api/component_server")
    asked.putheader("content-length", str(2**23 + 1))
    asked.endheaders()
    assert asked.getresponse().status == 413, "it is refused before it is sent"
