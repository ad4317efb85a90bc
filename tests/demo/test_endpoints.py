"""What programs get from the page through gradio_client, and what nobody gets."""

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ser_ft.cli.demo import Options
from ser_ft.inference.recognizer import EmotionRecognizer
from tests.helpers.chromium import wait_until

NAMES = ["/augment", "/compare", "/describe", "/monitor", "/recognize", "/windows"]


@pytest.fixture(scope="module")
def client(served: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from gradio_client import Client

    return Client(served.address, verbose=False, download_files=str(tmp_path_factory.mktemp("downloads")))


@pytest.fixture(scope="module")
def upload(recordings: Path) -> Any:
    from gradio_client import handle_file

    return lambda name: handle_file(str(recordings / name))


def get(address: str, **settings: Any) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and content of a response."""
    try:
        with urllib.request.urlopen(urllib.request.Request(address, **settings), timeout=20) as response:
            return response.status, {key.lower(): value for key, value in response.headers.items()}, response.read()
    except urllib.error.HTTPError as error:
        return error.code, {}, error.read()


def test_endpoints_are_named_and_documented(served: SimpleNamespace) -> None:
    info = json.loads(get(f"{served.address}gradio_api/info")[2])
    assert sorted(info["named_endpoints"]) == NAMES
    assert all(endpoint["description"] for endpoint in info["named_endpoints"].values())
    assert not info["unnamed_endpoints"]


def test_programs_get_the_same_prediction_as_in_python(client: Any, upload: Any, recordings: Path) -> None:
    prediction = client.predict(upload("angry.wav"), api_name="/recognize")
    expected = EmotionRecognizer()(recordings / "angry.wav")[0]
    assert prediction["file"] == "angry.wav"
    assert prediction["emotion"] == expected["emotion"]
    assert prediction["scores"] == pytest.approx(expected["scores"], abs=1e-5)
    windows = client.predict(upload("conversation.flac"), api_name="/windows")
    assert len(windows) > 50
    assert {"start", "end", "emotion", "scores", "uncertain", "speech"} == set(windows[0])


def test_programs_can_monitor_conversations(client: Any, upload: Any, served: SimpleNamespace) -> None:
    numbers, report = client.predict(upload("conversation.flac"), "left, right", api_name="/monitor")
    assert [speaker["name"] for speaker in numbers["speakers"]] == ["left", "right"]
    assert numbers["file"] == "conversation.flac"
    assert str(served.state.temp_dir) not in Path(report).read_text(encoding="utf-8")


def test_programs_can_compare_describe_and_augment(client: Any, upload: Any) -> None:
    comparison = client.predict(upload("angry.mp3"), api_name="/compare")
    assert comparison["agreement"]["num_models"] == len(comparison["predictions"]) == 2
    assert comparison["agreement"]["mean_overlap"] > 0.99, "the same model in two formats"
    descriptors = client.predict(upload("angry.wav"), api_name="/describe")
    voiced = [value for value in descriptors["pitch"] if value is not None]
    assert 0 < len(voiced) < len(descriptors["pitch"]) == len(descriptors["rms"])
    parameters, files = client.predict(upload("angry.wav"), 1, api_name="/augment")
    assert sorted(parameters) == sorted(Path(file).stem for file in files)
    assert parameters != client.predict(upload("angry.wav"), 2, api_name="/augment")[0]


@pytest.mark.parametrize(
    ("name", "message"),
    [("broken.wav", "broken.wav could not be read as sound"), ("long.flac", "long.flac is longer than 2 minutes")],
)
def test_errors_reach_programs_as_one_sentence(client: Any, upload: Any, name: str, message: str) -> None:
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError) as caught:
        client.predict(upload(name), api_name="/recognize")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_many_simultaneous_requests_are_answered(client: Any, upload: Any) -> None:
    with ThreadPoolExecutor(12) as pool:
        results = list(pool.map(lambda _: client.predict(upload("angry.wav"), api_name="/recognize"), range(24)))
    assert len({prediction["emotion"] for prediction in results}) == 1


def test_files_of_waiting_and_running_requests_are_kept(
    demo: Any, served: SimpleNamespace, upload: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gradio_client import Client

    callbacks: list[Any] = []

    def start_cleanup(_: Path, __: float, paths_in_use: Any, ___: Any) -> Callable[[], None]:
        callbacks.append(paths_in_use)
        return lambda: None

    monkeypatch.setattr(demo.server, "start_cleanup", start_cleanup)
    released, recognize = threading.Event(), demo.speak.recognize

    def blocked(*arguments: Any) -> Any:
        assert released.wait(60)
        return recognize(*arguments)

    monkeypatch.setattr(demo.speak, "recognize", blocked)
    address, stop = demo.server.start(served.state, Options())
    try:
        client = Client(address, verbose=False, download_files=False)
        count = served.state.limits.concurrent_requests + 2
        jobs = [client.submit(upload("angry.wav"), api_name="/recognize") for _ in range(count)]
        (paths_in_use,) = callbacks
        assert wait_until(lambda: len(paths_in_use()) == count), "both waiting and running requests count"
        for path in paths_in_use():
            assert Path(path).is_relative_to(served.state.temp_dir)
            assert Path(path).is_file()
        released.set()
        assert all(job.result(timeout=60)["file"] == "angry.wav" for job in jobs)
        assert wait_until(lambda: not paths_in_use())
    finally:
        released.set()
        stop()


def post_path(served: SimpleNamespace, path: str) -> tuple[int, str]:
    """Send a path to /recognize without uploading the file, as gradio_client would not; return status and result."""
    endpoint = f"{served.address}gradio_api/call/recognize"
    data = json.dumps({"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}]}).encode()
    status, _, content = get(endpoint, data=data, headers={"content-type": "application/json"})
    if status != 200:
        return status, content.decode()
    return status, get(f"{endpoint}/{json.loads(content)['event_id']}")[2].decode()


def test_urls_are_not_downloaded(served: SimpleNamespace, recordings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gradio import processing_utils

    # gradio itself downloads nothing from this machine, but would from other hosts.
    monkeypatch.setattr(processing_utils, "PUBLIC_HOSTNAME_WHITELIST", ["127.0.0.1"])
    requests: list[str] = []

    class Files(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            requests.append(self.path)

    listener = ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, directory=str(recordings)))
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    with listener:
        address = f"http://127.0.0.1:{listener.server_port}/angry.wav"
        assert get(address)[0] == 200
        assert requests.pop() == "/angry.wav"
        status, result = post_path(served, address)
        listener.shutdown()
    assert not requests
    assert "event: complete" not in result
    assert status != 200 or "event: error" in result


def test_other_files_of_the_server_are_not_read(served: SimpleNamespace, recordings: Path) -> None:
    example = str(served.state.examples[0][1])
    assert "event: complete" in post_path(served, example)[1], "the examples belong to the page"
    for path in (str(recordings / "angry.wav"), f"{served.state.temp_dir}/../../{recordings}/angry.wav"):
        status, result = post_path(served, path)
        assert "event: complete" not in result
        assert status != 200 or "event: error" in result


@pytest.mark.parametrize(
    "path",
    [
        *(f"gradio_api/file={url}" for url in ("/etc/passwd", "http://127.0.0.1:9/", "https%3A//example.org/")),
        *("gradio_api/proxy=https://example.org/", "gradio_api/file={demo}/app.py"),
        *("monitoring/summary", "gradio_api/vibe-code"),
    ],
)
def test_other_paths_are_not_served(served: SimpleNamespace, path: str) -> None:
    status, _, content = get(served.address + path.format(demo=Path(__file__).parents[2] / "demo"))
    assert status in (403, 404, 422)
    assert b"root:" not in content
