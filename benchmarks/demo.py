"""The demo page: start time, many simultaneous users, memory over time, live streams, and requests of the page.

    python benchmarks/demo.py            # all parts
    python benchmarks/demo.py --only start,load,attack,burst,live,requests

Each part starts `ser-ft demo` as a separate process; clips are synthetic voices of about 3 s.

start: seconds from the command to a page that responds, median of five. load: 20 simultaneous users send 2,000 requests
to `/recognize`: errors, response times, and the server's memory at the start and after 100, 500, 1,000, 1,500 and 2,000
requests. attack: 21 connections announce uploads of 4 GB in all and stop, 20 send an upload and 20 their headers with
one byte per second; meanwhile another visitor's requests must succeed. burst: 500 requests at once: how many are
answered, and the message of the others. live: four simultaneous live streams of two minutes each, as fast as possible:
the share of real time that is needed. requests: a headless Chromium opens every tab, uploads a file in each and starts
the live tab; all addresses that it requests (needs selenium, chromium and its driver).
"""

import argparse
import base64
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import soundfile

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "demo")]

from ser_ft_demo import examples  # noqa: E402

STARTS, USERS, BURST, STREAMS, STREAM_SECONDS = 5, 20, 500, 4, 120
MARKS = (100, 500, 1000, 1500, 2000)  # numbers of requests after which memory is measured
ANNOUNCED_BYTES = 201 * 2**20
IDLE_UPLOADS, SLOW_UPLOADS, SLOW_HEADERS = 21, 20, 20


@contextmanager
def running_page(model: str) -> Iterator[tuple[str, int, float]]:
    """Start the page; yield its address, its process id, and the seconds until it responds."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start_time = time.perf_counter()
    command = [sys.executable, "-m", "ser_ft.cli", "demo", "--model", model, "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as page:
        address = f"http://127.0.0.1:{port}/"
        while True:
            try:
                with urllib.request.urlopen(address, timeout=5) as response:
                    response.read()
                break
            except OSError:
                if page.poll() is not None or time.perf_counter() - start_time > 120:
                    sys.exit("the page did not start")
                time.sleep(0.02)
        try:
            yield address, page.pid, time.perf_counter() - start_time
        finally:
            page.send_signal(signal.SIGTERM)


def start(_: Path, model: str) -> None:
    results = []
    for _number in range(STARTS):
        with running_page(model) as (_address, _pid, seconds):
            results.append(seconds)
    print(f"starts: {', '.join(f'{seconds:.1f}' for seconds in results)} s")
    print(f"start_seconds: {statistics.median(results):.1f}")


class Visitor:
    """A visitor with one HTTP connection; each of their requests is a session of its own for the server."""

    def __init__(self, address: str) -> None:
        self._client = httpx.Client(base_url=f"{address}gradio_api", timeout=120, verify=False)

    def upload(self, clip: Path) -> httpx.Response:
        return self._client.post("/upload", files={"files": (clip.name, clip.read_bytes())})

    def recognize(self, clip: Path) -> str:
        """Upload and recognize a clip; return nothing on success, and otherwise what went wrong."""
        try:
            response = self.upload(clip)
            if response.status_code == 200:
                file = {"path": response.json()[0], "orig_name": clip.name, "meta": {"_type": "gradio.FileData"}}
                response = self._client.post("/call/recognize", json={"data": [file]})
            if response.status_code == 200:
                response = self._client.get(f"/call/recognize/{response.json()['event_id']}")
            done = response.status_code == 200 and "event: complete" in response.text and '"scores"' in response.text
            return "" if done else f"{response.status_code}: {response.text.strip()[:150]}"
        except httpx.HTTPError as error:
            return f"{type(error).__name__}: {error}"


def send_requests(address: str, clips: list[Path], users: int, requests_each: int) -> tuple[list[float], Counter[str]]:
    """Send requests of simultaneous users; return the response times in seconds, and the errors with their numbers."""
    visitors = [Visitor(address) for _ in range(users)]

    def user(number: int) -> tuple[list[float], list[str]]:
        visitor, times, errors = visitors[number], [], []
        for turn in range(requests_each):
            start_time = time.perf_counter()
            error = visitor.recognize(clips[(number + turn) % len(clips)])
            errors.append(error) if error else times.append(time.perf_counter() - start_time)
        return times, errors

    with ThreadPoolExecutor(users) as pool:
        results = list(pool.map(user, range(users)))
    errors = Counter(error for _, user_errors in results for error in user_errors)
    for error, count in errors.items():
        print(f"{count} x {error}")
    return [seconds for times, _ in results for seconds in times], errors


def resident(pid: int) -> float:
    """Return the resident memory of a process in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]


def load(folder: Path, model: str) -> None:
    clips = [file for _, file in examples.write_clips(folder)]
    with running_page(model) as (address, pid, _seconds):
        all_times: list[float] = []
        num_errors, memory = 0, [resident(pid)]
        for before, after in pairwise((0, *MARKS)):
            times, errors = send_requests(address, clips, USERS, (after - before) // USERS)
            all_times += times
            num_errors += errors.total()
            memory.append(resident(pid))
            print(f"after {after} requests: {memory[-1]:.0f} MB", flush=True)
    p50, p95, p99 = np.percentile(all_times, [50, 95, 99])
    print(f"{USERS} users, {MARKS[-1]} requests: median {p50:.2f} s, 99th percentile {p99:.2f} s")
    print(f"load_errors: {num_errors}")
    print(f"load_p95_seconds: {p95:.2f}")
    print(f"load_memory_mb: {', '.join(f'{value:.0f}' for value in memory)}")
    print(f"load_growth_after_500_percent: {100 * (max(memory[3:]) / memory[2] - 1):.1f}")


def attack(folder: Path, model: str) -> None:
    clip = examples.write_clips(folder)[0][1]
    with running_page(model) as (address, pid, _seconds):
        host, port = urlsplit(address).hostname, urlsplit(address).port
        before, connections = resident(pid), []
        sizes = [ANNOUNCED_BYTES] * (IDLE_UPLOADS - 1) + [2**32 - (IDLE_UPLOADS - 1) * ANNOUNCED_BYTES]
        for number in range(IDLE_UPLOADS + SLOW_UPLOADS + SLOW_HEADERS):
            connection = socket.create_connection((host, port), timeout=5)  # type: ignore[arg-type]
            head = f"POST /gradio_api/upload HTTP/1.1\r\nHost: {host}:{port}\r\n"
            if number < IDLE_UPLOADS + SLOW_UPLOADS:
                size = sizes[number] if number < IDLE_UPLOADS else 2**20
                head += f"Content-Length: {size}\r\nContent-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
            connection.sendall(head.encode() + b"x" * (300 if number < IDLE_UPLOADS else 1))
            connections.append(connection)
            time.sleep(0.05)
        visitor, start_time, errors, open_connections = (
            Visitor(address),
            time.perf_counter(),
            Counter[str](),
            set(connections),
        )
        lasted = 0.0
        while open_connections and time.perf_counter() - start_time < 120:
            errors[visitor.recognize(clip)] += 1
            for connection in [*open_connections]:
                try:
                    if connection not in connections[:IDLE_UPLOADS]:
                        connection.sendall(b"x")
                    connection.setblocking(False)
                    if not connection.recv(1000):
                        raise ConnectionError
                except BlockingIOError:
                    connection.setblocking(True)
                except OSError:
                    open_connections.discard(connection)
                    lasted = time.perf_counter() - start_time
            time.sleep(1)
        print(f"memory: {before:.0f} MB before, {resident(pid):.0f} MB after")
    print(f"attack_other_requests: {errors.total()}, errors: {dict(errors - Counter({'': errors['']}))}")
    print(
        f"attack_connections_left: {len(open_connections)} of {len(connections)}, the last ended after {lasted:.0f} s"
    )


def burst(folder: Path, model: str) -> None:
    clips = [file for _, file in examples.write_clips(folder)]
    with running_page(model) as (address, pid, _seconds):
        send_requests(address, clips, 4, 5)
        before = resident(pid)
        times, errors = send_requests(address, clips, BURST, 1)
        during = resident(pid)
        print(f"memory: {before:.0f} MB before, {during:.0f} MB after")
        print(f"burst_answered: {len(times)} of {BURST}, the last after {max(times):.1f} s; refused: {errors.total()}")
        print(f"burst_errors_afterwards: {send_requests(address, clips, 1, 5)[1].total()}")


def live(folder: Path, model: str) -> None:
    samples, rate = soundfile.read(examples.write_conversation(folder), dtype="int16")
    sound = np.resize(samples[:, 1], STREAM_SECONDS * rate)
    with running_page(model) as (address, _pid, _seconds):
        with urllib.request.urlopen(f"{address}config", timeout=20) as response:
            parts = json.load(response)["components"]
        number = next(part["id"] for part in parts if part["props"].get("elem_id") == "live")

        def stream(key: str) -> list[float]:
            times = []
            for first in range(0, len(sound), round(0.4 * rate)):
                chunk = base64.b64encode(sound[first : first + round(0.4 * rate)].tobytes()).decode()
                body = {"session_hash": key, "component_id": number, "fn_name": "feed", "data": [key, rate, chunk]}
                data, start_time = json.dumps(body).encode(), time.perf_counter()
                request = urllib.request.Request(f"{address}gradio_api/component_server", data)
                request.add_header("content-type", "application/json")
                with urllib.request.urlopen(request, timeout=60) as response:
                    assert not json.load(response)["ended"]
                times.append(time.perf_counter() - start_time)
            return times

        start_time = time.perf_counter()
        with ThreadPoolExecutor(STREAMS) as pool:
            results = pool.map(stream, [f"stream-{number:04d}" for number in range(STREAMS)])
            times = [seconds for stream_times in results for seconds in stream_times]
        passed = time.perf_counter() - start_time
    print(f"live_reply_p95_seconds: {np.percentile(times, 95):.3f}")
    print(f"live_share_of_time_for_{STREAMS}: {passed / STREAM_SECONDS:.3f}")


def requests(folder: Path, model: str) -> None:
    from tests.helpers.chromium import Page, open_browser

    clip, microphone = dict(examples.write_clips(folder))["angry, synthetic man"], folder / "microphone.wav"
    samples, rate = soundfile.read(clip)
    soundfile.write(microphone, np.tile(samples, 3), rate)
    programs = shutil.which("chromium"), shutil.which("chromedriver")
    if not all(programs):
        sys.exit("chromium and chromedriver are needed")
    with running_page(model) as (address, _pid, _seconds):
        browser = open_browser(*programs, microphone, os.geteuid() == 0)  # type: ignore[arg-type]
        page, results = Page(browser, address), Counter[str]()
        for name in ("Speak", "Compare", "Analysis"):
            page.open(name)
            page.upload(f"#{name.lower()}-recording", clip)
        page.until(lambda: page.count("#analysis-augmented .cards"), "the augmentations")
        page.open("Conversation")
        page.upload("#conversation-recording", examples.write_conversation(folder))
        page.text_with("#conversation-recording", ".")
        page.click("#conversation-run")
        page.until(lambda: page.count("#conversation-result .timeline"), "the timeline")
        page.open("About")
        page.open("Live")
        page.press("#live", "Start the microphone")
        page.until(lambda: page.count("#live .rolling path[fill]"), "the chart")
        page.press("body", "Use via API")
        time.sleep(2)
        for url in page.requests():
            parts = urlsplit(url)
            origin = (
                "the page itself" if url.startswith(address) else parts.netloc or f"inside the page ({parts.scheme})"
            )
            results[f"{origin} {'/'.join(parts.path.split('/')[:3]) if url.startswith(address) else ''}".strip()] += 1
        browser.quit()
    outside = sum(
        count for name, count in results.items() if not name.startswith(("the page itself", "inside the page"))
    )
    for name, count in sorted(results.items()):
        print(f"{count:>5}  {name}")
    print(f"requests_in_all: {sum(results.values())}")
    print(f"requests_outside: {outside}")


PARTS: dict[str, Callable[[Path, str], Any]] = {
    "start": start,
    "load": load,
    "attack": attack,
    "burst": burst,
    "live": live,
    "requests": requests,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas")
    parser.add_argument("--model", default="shipped", help="as `ser-ft demo` takes it")
    args = parser.parse_args()
    for name in args.only.split(","):
        with tempfile.TemporaryDirectory() as folder:
            PARTS[name](Path(folder), args.model)


if __name__ == "__main__":
    main()
