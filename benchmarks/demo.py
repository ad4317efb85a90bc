"""The demo page: start time, many simultaneous users, memory over time, live streams, and requests of the page.

    python benchmarks/demo.py            # all parts
    python benchmarks/demo.py --only start,users,memory,live,requests

Each part starts `ser-ft demo` as a separate process with the shipped model; clips are synthetic voices of about 3 s.

start: seconds from the command to a page that responds, median of five. users: 20 simultaneous clients of
`gradio_client`, each with ten successive requests to `/recognize`: errors, and the 95th percentile of the response
time. memory: memory of the server before and after 500 requests of 8 clients, after 50 first ones. live: four
simultaneous live streams of two minutes each, as fast as possible: the share of real time that is needed. requests: a
headless Chromium opens every tab, uploads a file in each and starts the live tab; all addresses that it requests
(needs selenium, chromium and its driver).
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
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import soundfile

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "demo")]

from ser_ft_demo import examples  # noqa: E402

STARTS, USERS, REQUESTS_PER_USER, WARMUP_REQUESTS, REQUESTS, CLIENTS, STREAMS, STREAM_SECONDS = (
    5,
    20,
    10,
    50,
    500,
    8,
    4,
    120,
)


@contextmanager
def running_page() -> Iterator[tuple[str, int, float]]:
    """Start the page; yield its address, its process id, and the seconds until it responds."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start_time = time.perf_counter()
    command = [sys.executable, "-m", "ser_ft.cli", "demo", "--port", str(port)]
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


def start(_: Path) -> None:
    results = []
    for _number in range(STARTS):
        with running_page() as (_address, _pid, seconds):
            results.append(seconds)
    print(f"starts: {', '.join(f'{seconds:.1f}' for seconds in results)} s")
    print(f"start_seconds: {statistics.median(results):.1f}")


def send_requests(address: str, clips: list[Path], counts: list[int]) -> tuple[list[float], int]:
    """Send requests from one client per count; return response times in seconds, and the number of errors."""
    from gradio_client import Client, handle_file

    def user(number: int) -> tuple[list[float], int]:
        client, times, errors = Client(address, verbose=False), [], 0
        for turn in range(counts[number]):
            start_time = time.perf_counter()
            try:
                response = client.predict(handle_file(str(clips[(number + turn) % len(clips)])), api_name="/recognize")
                assert response["scores"]
                times.append(time.perf_counter() - start_time)
            except Exception as error:
                errors += 1
                print(f"{type(error).__name__}: {error}")
        return times, errors

    with ThreadPoolExecutor(len(counts)) as pool:
        results = list(pool.map(user, range(len(counts))))
    return [seconds for times, _ in results for seconds in times], sum(errors for _, errors in results)


def users(folder: Path) -> None:
    clips = [file for _, file in examples.write_clips(folder)]
    with running_page() as (address, _pid, _seconds):
        send_requests(address, clips, [2])
        times, errors = send_requests(address, clips, [REQUESTS_PER_USER] * USERS)
    print(
        f"{USERS} users, {REQUESTS_PER_USER} requests each: median {statistics.median(times):.2f} s, "
        f"maximum {max(times):.2f} s"
    )
    print(f"users_errors: {errors}")
    print(f"users_p95_seconds: {np.percentile(times, 95):.2f}")


def resident(pid: int) -> float:
    """Return the resident memory of a process in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]


def memory(folder: Path) -> None:
    clips = [file for _, file in examples.write_clips(folder)]
    with running_page() as (address, pid, _seconds):
        send_requests(address, clips, [-(-WARMUP_REQUESTS // CLIENTS)] * CLIENTS)
        before, errors = resident(pid), 0
        for part in range(5):
            errors += send_requests(address, clips, [-(-REQUESTS // 5 // CLIENTS)] * CLIENTS)[1]
            print(f"after {REQUESTS * (part + 1) // 5} requests: {resident(pid):.0f} MB")
        after = resident(pid)
    print(f"memory_errors: {errors}")
    print(f"memory_before_mb: {before:.0f}")
    print(f"memory_after_mb: {after:.0f}")


def live(folder: Path) -> None:
    samples, rate = soundfile.read(examples.write_conversation(folder), dtype="int16")
    sound = np.resize(samples[:, 1], STREAM_SECONDS * rate)
    with running_page() as (address, _pid, _seconds):
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


def requests(folder: Path) -> None:
    from tests.helpers.chromium import Page, open_browser

    clip, microphone = dict(examples.write_clips(folder))["angry, synthetic man"], folder / "microphone.wav"
    samples, rate = soundfile.read(clip)
    soundfile.write(microphone, np.tile(samples, 3), rate)
    programs = shutil.which("chromium"), shutil.which("chromedriver")
    if not all(programs):
        sys.exit("chromium and chromedriver are needed")
    with running_page() as (address, _pid, _seconds):
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


PARTS: dict[str, Callable[[Path], Any]] = {
    "start": start,
    "users": users,
    "memory": memory,
    "live": live,
    "requests": requests,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas")
    for name in parser.parse_args().only.split(","):
        with tempfile.TemporaryDirectory() as folder:
            PARTS[name](Path(folder))


if __name__ == "__main__":
    main()
