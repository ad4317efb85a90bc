"""What the page refuses: other hosts, other sites' pages, and requests that take too much or too long."""

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ser_ft.cli.demo import Options, read_options
from ser_ft.utils.errors import InputError
from tests.helpers.chromium import wait_until

httpx = pytest.importorskip("httpx", reason='the page needs gradio, which needs httpx: pip install "gradio>=6.31,<7"')

Headers = list[tuple[bytes, bytes]]
CLIENT = httpx.Client(timeout=20)


def request(address: str, path: str, method: str = "GET", **headers: str) -> httpx.Response:
    """Send a request with the given headers, whose names have "_" for "-"."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return CLIENT.request(method, address.rstrip("/") + path, headers=named)


@pytest.mark.parametrize("host", ["evil.test", "127.0.0.1.evil.test", "evil@127.0.0.1", "127.0.0.1/x", "10.0.0.1", ""])
def test_a_name_that_another_site_points_at_this_machine_is_not_answered(served: SimpleNamespace, host: str) -> None:
    response = request(served.address, "/config", host=host)
    assert response.status_code == 421 if host else response.status_code in (400, 421)
    assert "\n" not in response.text
    assert "evil" not in response.text


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1234", "127.0.0.1:8080", "[::1]:7860", "elsewhere.test"])
def test_the_hosts_of_the_page_are_answered(served: SimpleNamespace, host: str) -> None:
    assert request(served.address, "/config", host=host).json()["root"] == f"http://{host.lower()}"


@pytest.mark.parametrize("name", ["x_forwarded_host", "x_gradio_server", "forwarded", "x_original_host", "x_host"])
def test_another_address_in_a_header_does_not_reach_the_page(served: SimpleNamespace, name: str) -> None:
    for path in ("/", "/config", "/gradio_api/info"):
        for value in ("evil.test", "http://evil.test/", "elsewhere.test, evil.test"):
            response = request(served.address, path, **{name: value})
            assert response.status_code == 200
            assert "evil.test" not in response.text


def test_a_proxy_can_forward_an_allowed_host(served: SimpleNamespace) -> None:
    response = request(served.address, "/config", x_forwarded_host="elsewhere.test", x_forwarded_proto="https")
    assert response.json()["root"] == "https://elsewhere.test"


@pytest.mark.parametrize("path", ["/", "/nothing", "/gradio_api/upload", "/monitoring", "/assets/none.js"])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "HEAD"])
def test_every_answer_has_the_security_headers(served: SimpleNamespace, path: str, method: str) -> None:
    preflight = {"origin": "https://evil.test", "access_control_request_method": "POST"} if method == "OPTIONS" else {}
    for headers in (preflight, {"host": "evil.test"}):
        response = request(served.address, path, method, **headers)
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["content-security-policy"].endswith("frame-ancestors 'self'")
        assert "default-src 'self'" in response.headers["content-security-policy"]
        assert response.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize(
    "origin", ["https://evil.test", "null", "http://localhost.evil.test", "file://", "http://[::1"]
)
def test_pages_of_other_sites_can_neither_send_requests_nor_read_answers(served: SimpleNamespace, origin: str) -> None:
    answer = request(served.address, "/config", origin=origin)
    preflight = request(
        served.address, "/gradio_api/upload", "OPTIONS", origin=origin, access_control_request_method="POST"
    )
    for response in (answer, preflight):
        assert not [name for name in response.headers if name.startswith("access-control-")]
    for path in ("/gradio_api/upload", "/gradio_api/call/recognize", "/gradio_api/component_server"):
        assert request(served.address, path, "POST", origin=origin).status_code == 403


def test_the_page_is_not_changed_by_the_server_that_mounts_it(served: SimpleNamespace) -> None:
    content = request(served.address, "/").text
    assert "fonts.googleapis" not in content
    assert request(served.address, "/docs").status_code == 404


def serves(demo: Any, monkeypatch: pytest.MonkeyPatch, options: Options, **environment: str) -> Callable[[str], bool]:
    """Return a function that says whether a page with these options answers a host."""
    for name in ("SYSTEM", "SPACE_HOST", "GRADIO_SERVER_NAME", "GRADIO_ROOT_PATH"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return demo.network.served_hosts(options).__contains__


def test_a_page_on_the_network_answers_addresses_and_its_names(demo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for host in ("0.0.0.0", "::", "[::]"):
        answers = serves(demo, monkeypatch, read_options(["--host", host, "--allow-host", "Lab.example.org"]))
        assert all(
            map(answers, ("192.168.1.5:7860", "[fe80::1]", "lab.example.org", socket.gethostname(), "localhost"))
        )
        assert not any(map(answers, ("evil.test", "192.168.1.5.evil.test", "", "192.168.1", "[evil.test]")))
    answers = serves(demo, monkeypatch, Options(host="192.168.1.5"))
    assert answers("192.168.1.5")
    assert not answers("192.168.1.6")


def test_a_space_and_a_page_behind_a_proxy_answer_their_host(demo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    space = {"SYSTEM": "spaces", "SPACE_HOST": "me-demo.hf.space", "GRADIO_SERVER_NAME": "0.0.0.0"}
    answers = serves(demo, monkeypatch, Options(), **space)
    assert answers("me-demo.hf.space")
    assert answers("10.1.2.3:7860"), "health checks"
    assert not answers("other.hf.space")
    assert demo.network.is_space()
    assert "10.0.0.0/8" in demo.network.trusted_proxies()
    assert serves(demo, monkeypatch, Options(), GRADIO_ROOT_PATH="https://lab.example.org/ser")("lab.example.org")
    assert demo.network.trusted_proxies() == "", "X-Forwarded-For is believed only where somebody says so"
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "10.0.0.9")
    assert demo.network.trusted_proxies() == "10.0.0.9"


@pytest.mark.parametrize("is_space", [False, True])
def test_a_space_answers_pages_of_others_without_credentials(demo: Any, tmp_path: Path, is_space: bool) -> None:
    async def app(scope: Any, _: Any, send: Any) -> None:
        names = b"access-control-allow-origin", b"access-control-allow-credentials", b"access-control-allow-methods"
        headers = [(name, b"POST") for name in names]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

    async def post(**scope: Any) -> tuple[int, dict[bytes, bytes]]:
        messages: list[Any] = []

        async def send(message: Any) -> None:
            messages.append(message)

        hosts = demo.network.served_hosts(Options())
        middleware = demo.middleware.SecurityMiddleware(app, tmp_path, demo.state.LIMITS, hosts, is_space)
        headers = [(b"host", b"localhost"), (b"origin", b"https://other.test")]
        await middleware({"type": "http", "path": "/", "headers": headers} | scope, None, send)
        return messages[0]["status"], dict(messages[0]["headers"])

    status, headers = asyncio.run(post(method="POST"))
    assert status == (200 if is_space else 403)
    allowed = {
        name.removeprefix(b"access-control-allow-"): value for name, value in headers.items() if b"allow" in name
    }
    assert allowed == ({b"origin": b"*", b"methods": b"POST"} if is_space else {})
    ancestors = headers[b"content-security-policy"].partition(b"frame-ancestors ")[2]
    assert ancestors == (b"'self' https://huggingface.co" if is_space else b"'self'")


def test_clients_are_addresses_or_networks(demo: Any) -> None:
    clients = {"192.0.2.1": "192.0.2.1", "::ffff:192.0.2.1": "192.0.2.1", "": "", "unix": "unix"}
    clients |= dict.fromkeys(("2001:db8:0:1::1", "2001:db8:0:1:2::9"), "2001:db8:0:1::/64")
    assert {address: demo.network.client_network(address) for address in clients} == clients


@pytest.fixture
def uploads(demo: Any, tmp_path: Path) -> Any:
    """A function that sends simultaneous uploads to a page, and returns the statuses.

    Each upload is (declared bytes, parts of its body that arrive, seconds before each part, address). One that ends
    before its declared size sends nothing more. The folder of the page has a file of five bytes.
    """
    (tmp_path / "stored.wav").write_bytes(b"12345")

    async def app(_: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def upload(middleware: Any, size: int, parts: int, delay: float, client: str, path: str) -> int:
        messages: list[Any] = []
        sent = 0

        async def send(message: Any) -> None:
            messages.append(message)

        async def receive() -> Any:
            nonlocal sent
            if sent == parts:
                await asyncio.sleep(60)
            await asyncio.sleep(delay)
            sent += 1
            return {"type": "http.request", "body": b"x", "more_body": sent < size}

        headers = [(b"content-length", str(size).encode()), (b"host", b"localhost")]
        scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "client": (client, 1)}
        await middleware(scope, receive, send)
        return int(messages[0]["status"])

    async def upload_all(requests: list[Any], path: str, limits: Any) -> list[int]:
        hosts = demo.network.served_hosts(Options())
        middleware = demo.middleware.SecurityMiddleware(app, tmp_path, replace(demo.state.LIMITS, **limits), hosts)
        return list(await asyncio.gather(*(upload(middleware, *values, path) for values in requests)))

    def run(*requests: Any, path: str = "/gradio_api/upload", **limits: Any) -> list[int]:
        return asyncio.run(upload_all([(*request, "192.0.2.1")[:4] for request in requests], path, limits))

    return run


def test_uploads_that_send_nothing_take_no_space_from_others(uploads: Any) -> None:
    idle = [(200 * 2**20, 1, 0, f"192.0.2.{number}") for number in range(2, 23)]
    *refused, status = uploads(*idle, (3, 3, 0.01, "192.0.2.1"), grace_seconds=0.2)
    assert status == 200
    assert set(refused) == {408}, "they end"


def test_uploads_of_one_client_leave_room_for_others(uploads: Any) -> None:
    idle = [(1000, 1, 0)] * 40
    assert uploads(*idle, (3, 3, 0, "192.0.2.2"), client_uploads=2, grace_seconds=0.2)[-1] == 200
    assert uploads((6, 6, 0), (6, 6, 0.01), (3, 3, 0.02, "192.0.2.2"), client_bytes=9) == [200, 429, 200]
    assert uploads(*[(3, 3, 0.01)] * 10, client_uploads=2) == [200] * 10, "the others wait for their turn"


def test_slow_uploads_and_slow_requests_end(uploads: Any) -> None:
    limits = {"grace_seconds": 0.2, "bytes_per_second": 20}
    assert uploads((30, 30, 0.06), (30, 30, 0.03), (10**6, 0, 0), **limits) == [408, 200, 408]
    paths = "/gradio_api/component_server", "/gradio_api/queue/join", "/nothing"
    assert [uploads((30, 1, 0), path=path, **limits) for path in paths] == [[408]] * 3


def test_uploads_do_not_fill_the_disk(uploads: Any) -> None:
    assert uploads((1, 1, 0), disk_bytes=5) == [507]
    assert uploads((1, 1, 0), disk_bytes=6) == [200]
    statuses = uploads((10, 10, 0), (10, 10, 0), (10, 10, 0.02), disk_bytes=25)
    assert statuses == [200, 200, 507], "what has arrived counts"


def test_large_requests_and_many_in_memory_are_refused(uploads: Any) -> None:
    assert uploads((2**20 + 101, 1, 0), (-1, 1, 0), file_bytes=100) == [413, 413]
    assert uploads((2**23 + 1, 1, 0), path="/gradio_api/component_server") == [413]
    statuses = uploads(*[(9, 9, 0.01)] * 3, path="/gradio_api/component_server", memory_bytes=20)
    assert sorted(statuses) == [200, 200, 503]


def test_the_size_of_requests_is_limited_before_the_body_is_sent(served: SimpleNamespace) -> None:
    connection = HTTPConnection(served.address.split("/")[2], timeout=20)
    connection.putrequest("POST", "/gradio_api/component_server")
    connection.putheader("content-length", str(2**23 + 1))
    connection.endheaders()
    assert connection.getresponse().status == 413
    assert request(served.address, "/gradio_api/upload", "POST", transfer_encoding="chunked").status_code == 411


@pytest.mark.parametrize("path", ["run/recognize", "api/recognize", "run/windows/", "api/monitor"])
def test_requests_cannot_skip_the_queue_and_its_limits(served: SimpleNamespace, path: str) -> None:
    response = CLIENT.post(f"{served.address}gradio_api/{path}", json={"data": [None, None]})
    assert response.status_code == 404
    assert "join the queue" in response.text


def test_a_malformed_request_does_not_end_the_connection_of_others_after_it(served: SimpleNamespace) -> None:
    connection = HTTPConnection(served.address.split("/")[2], timeout=20)
    for body in ('{"data": [], "session_hash": "a", "fn_index": 99999}', "\xe4", '{"data": [Infinity]}'):
        connection.request("POST", "/gradio_api/queue/join", body, {"content-type": "application/json"})
        response = connection.getresponse()
        assert response.status >= 400
        assert b"Traceback" not in response.read()
        assert connection.sock is not None, "it is reused"
    connection.request("GET", "/gradio_api/app_id")
    assert connection.getresponse().status == 200


@pytest.fixture
def small_server(demo: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of a server with short time limits, whose answers are the address of the client."""
    monkeypatch.setattr(demo.http_server, "_HEADER_SECONDS", 0.3)
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "")

    async def app(scope: Any, _: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
            await send({"type": "http.response.body", "body": scope["client"][0].encode()})

    options = Options(port=None)
    sockets = demo.network.open_sockets(options)
    stop = demo.http_server.start_server(app, sockets, options)
    yield sockets[0].getsockname()[1]
    stop()


def test_connections_without_a_complete_request_are_closed(small_server: int) -> None:
    complete = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for parts in ([b""], [complete[:9]], [complete, complete[:9]], [complete[:1], complete[1:2], complete[2:3]]):
        with socket.create_connection(("127.0.0.1", small_server), timeout=5) as connection:
            content, started = b"", time.monotonic()
            for part in parts:
                connection.sendall(part)
                time.sleep(0.15)
            while received := connection.recv(1000):
                content += received
        assert time.monotonic() - started < 3
        assert content.count(b"200 OK") == parts.count(complete)


def test_idle_connections_stay_open_longer_than_clients_keep_them(demo: Any, small_server: int) -> None:
    connection = HTTPConnection("127.0.0.1", small_server, timeout=5)
    for _ in range(2):
        connection.request("GET", "/", headers={"X-Forwarded-For": "192.0.2.7"})
        assert connection.getresponse().read() == b"127.0.0.1", "anybody can send X-Forwarded-For"
        time.sleep(0.5)
    # httpx, and so gradio_client, reuses connections for 5 s: "server disconnected" if the server closes them first.
    assert demo.http_server._KEEP_ALIVE_SECONDS > 60


def test_ports_in_use_are_skipped_and_addresses_are_urls(demo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GRADIO_SERVER_NAME", "GRADIO_SERVER_PORT"):
        monkeypatch.delenv(name, raising=False)
    first, second = demo.network.open_sockets(Options()), demo.network.open_sockets(Options())
    ports = [sockets[0].getsockname()[1] for sockets in (first, second)]
    assert ports[0] < ports[1]
    hosts = {None: "127.0.0.1", "localhost": "localhost", "0.0.0.0": "localhost", "::1": "[::1]", "[::1]": "[::1]"}
    for host, shown in hosts.items():
        assert demo.network.page_address(Options(host=host), second) == f"http://{shown}:{ports[1]}/"
    with pytest.raises(InputError, match=f"port {ports[0]} of 127.0.0.1 is in use"):
        demo.network.open_sockets(Options(port=ports[0]))
    for opened in (*first, *second):
        opened.close()


@pytest.fixture
def requests(demo: Any) -> Any:
    """The bounded requests of a page with short limits, whose queue holds what the test puts into it."""
    page = SimpleNamespace(
        _queue=SimpleNamespace(pending_event_ids_session={}, pending_messages_per_session={}, event_ids_to_events={})
    )
    numbers = iter(range(1000))

    async def push(body: Any, request: Any, username: Any) -> Any:
        event_id = f"event {next(numbers)}"
        page._queue.event_ids_to_events[event_id] = body
        page._queue.pending_event_ids_session.setdefault(body.session_hash, set()).add(event_id)
        page._queue.pending_messages_per_session[body.session_hash] = []
        return True, event_id, "success"

    page._queue.push = push
    limits = replace(demo.state.LIMITS, waiting_requests=5, client_requests=3, unread_seconds=60)
    requests = demo.sessions.Requests(page, limits)

    def send(session: str, address: str) -> Any:
        body, request = SimpleNamespace(session_hash=session), SimpleNamespace(client=SimpleNamespace(host=address))
        return asyncio.run(requests.push(body, request, None))

    return SimpleNamespace(send=send, queue=page._queue, drop_old=requests.drop_old)


def test_one_client_cannot_fill_the_queue(requests: Any) -> None:
    accepted = [requests.send(f"session {number}", "192.0.2.1")[0] for number in range(4)]
    assert accepted == [True, True, True, False]
    assert requests.send("session 5", "192.0.2.2")[0]
    assert requests.send("session 6", "192.0.2.3")[0]
    refused, text, state = requests.send("session 7", "192.0.2.4")
    assert (refused, state) == (False, "queue_full")
    assert text == "The server is busy: try again in a minute."


def test_nothing_is_kept_of_answered_requests_and_results_that_nobody_fetches(requests: Any) -> None:
    _, read, _ = requests.send("reads", "192.0.2.1")
    _, unread, _ = requests.send("never reads", "192.0.2.1")
    requests.queue.event_ids_to_events.clear()
    requests.queue.pending_event_ids_session["reads"].discard(read)
    requests.drop_old(100.0)
    assert list(requests.queue.pending_messages_per_session) == ["never reads"]
    requests.drop_old(159.0)
    assert requests.queue.pending_event_ids_session == {"never reads": {unread}}
    requests.drop_old(161.0)
    assert not requests.queue.pending_messages_per_session
    assert not requests.queue.pending_event_ids_session
    assert [requests.send("more", "192.0.2.1")[0] for _ in range(3)] == [True] * 3


def test_memory_does_not_grow_with_the_number_of_visitors(served: SimpleNamespace, demo: Any) -> None:
    page, limits = served.page, served.state.limits
    with httpx.Client(base_url=f"{served.address}gradio_api", timeout=60) as client:

        def visit(_: int) -> str:
            reply = client.post("/call/recognize", json={"data": [None]}).json()
            return client.get(f"/call/recognize/{reply['event_id']}").text

        with ThreadPoolExecutor(8) as pool:
            assert all("event: error" in text for text in pool.map(visit, range(limits.sessions + 20)))
        visit(0)
    assert len(page.state_holder.session_data) <= limits.sessions + 1
    assert len(page._queue.pending_messages_per_session) < 20
    assert len(page._queue.pending_event_ids_session) < 20
    assert len(page._queue.event_analytics) <= 1
    assert wait_until(lambda: not page._queue.event_ids_to_events)
