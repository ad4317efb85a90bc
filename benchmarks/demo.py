"""The demo page: how soon it answers, how it bears many users, whether it keeps memory, and what the page asks for.

    python benchmarks/demo.py            # all of it
    python benchmarks/demo.py --only start,users,memory,live,requests

Each part starts `ser-ft demo` as a process of its own, on the model that ships; clips are synthetic voices, about 3 s.

start: seconds from the command to a page that answers, the median of five. users: 20 clients of `gradio_client` at
once, each asking `/recognize` ten times one after the other: errors, and the 95th percentile of the time to an answer.
memory: of the server, before and after 500 requests of 8 clients, once 50 have warmed it up. live: four live streams at
once, two minutes of sound each, as fast as they come: the share of the time that is needed. requests: a
headless Chromium opens every tab, drops a file in each and is live; all addresses that it asks for (needs
selenium, chromium and its driver).
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
sys.path[:0] = [str(ROOT / "demo"), str(ROOT)]

from ser_ft_demo import examples  # noqa: E402

STARTS, USERS, EACH, WARM, REQUESTS, CLIENTS, STREAMS, SPOKEN = 5, 20, 10, 50, 500, 8, 4, 120


@contextmanager
def served() -> Iterator[tuple[str, int, float]]:
    """Start the page; give its address, its process, and the seconds until it answered."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    begun = time.perf_counter()
    command = [sys.executable, "-m", "ser_ft.cli", "demo", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as page:
        address = f"http://127.0.0.1:{port}/"
        while True:
            try:
                with urllib.request.urlopen(address, timeout=5) as answer:
                    answer.read()
                break
            except OSError:
                if page.poll() is not None or time.perf_counter() - begun > 120:
                    sys.exit("the page did not start")
                time.sleep(0.02)
        try:
            yield address, page.pid, time.perf_counter() - begun
        finally:
            page.send_signal(signal.SIGTERM)


def start(_: Path) -> None:
    found = []
    for _number in range(STARTS):
        with served() as (_address, _pid, seconds):
            found.append(seconds)
    print(f"each: {', '.join(f'{seconds:.1f}' for seconds in found)} s")
    print(f"start_seconds: {statistics.median(found):.1f}")


def asked(address: str, clips: list[Path], counts: list[int]) -> tuple[list[float], int]:
    """Let a client for each count ask so many times; return the seconds that answers took, and how many failed."""
    from gradio_client import Client, handle_file

    def user(number: int) -> tuple[list[float], int]:
        client, times, errors = Client(address, verbose=False), [], 0
        for turn in range(counts[number]):
            begun = time.perf_counter()
            try:
                answer = client.predict(handle_file(str(clips[(number + turn) % len(clips)])), api_name="/recognize")
                assert answer["scores"]
                times.append(time.perf_counter() - begun)
            except Exception as error:
                errors += 1
                print(f"{type(error).__name__}: {error}")
        return times, errors

    with ThreadPoolExecutor(len(counts)) as pool:
        found = list(pool.map(user, range(len(counts))))
    return [seconds for times, _ in found for seconds in times], sum(errors for _, errors in found)


def users(folder: Path) -> None:
    clips = [file for _, file in examples.write_clips(folder)]
    with served() as (address, _pid, _seconds):
        asked(address, clips, [2])
        times, errors = asked(address, clips, [EACH] * USERS)
    print(f"{USERS} users, {EACH} requests each: median {statistics.median(times):.2f} s, most {max(times):.2f} s")
    print(f"users_errors: {errors}")
    print(f"users_p95_seconds: {np.percentile(times, 95):.2f}")


def resident(pid: int) -> float:
    """Return the MB of memory that a process holds."""
    said = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", said)[1]) / 1024  # type: ignore[index]


def memory(folder: Path) -> None:
    clips = [file for _, file in examples.write_clips(folder)]
    with served() as (address, pid, _seconds):
        asked(address, clips, [-(-WARM // CLIENTS)] * CLIENTS)
        before, errors = resident(pid), 0
        for part in range(5):
            errors += asked(address, clips, [-(-REQUESTS // 5 // CLIENTS)] * CLIENTS)[1]
            print(f"after {REQUESTS * (part + 1) // 5} requests: {resident(pid):.0f} MB")
        after = resident(pid)
    print(f"memory_errors: {errors}")
    print(f"memory_before_mb: {before:.0f}")
    print(f"memory_after_mb: {after:.0f}")


def live(folder: Path) -> None:
    samples, rate = soundfile.read(examples.write_conversation(folder), dtype="int16")
    sound = np.resize(samples[:, 1], SPOKEN * rate)
    with served() as (address, _pid, _seconds):
        with urllib.request.urlopen(f"{address}config", timeout=20) as answer:
            parts = json.load(answer)["components"]
        number = next(one["id"] for one in parts if one["props"].get("elem_id") == "live")

        def stream(key: str) -> list[float]:
            times = []
            for first in range(0, len(sound), round(0.4 * rate)):
                chunk = base64.b64encode(sound[first : first + round(0.4 * rate)].tobytes()).decode()
                body = {"session_hash": key, "component_id": number, "fn_name": "feed", "data": [key, rate, chunk]}
                data, begun = json.dumps(body).encode(), time.perf_counter()
                request = urllib.request.Request(f"{address}gradio_api/component_server", data)
                request.add_header("content-type", "application/json")
                with urllib.request.urlopen(request, timeout=60) as answer:
                    assert not json.load(answer)["ended"]
                times.append(time.perf_counter() - begun)
            return times

        begun = time.perf_counter()
        with ThreadPoolExecutor(STREAMS) as pool:
            found = pool.map(stream, [f"stream-{number:04d}" for number in range(STREAMS)])
            times = [seconds for one in found for seconds in one]
        passed = time.perf_counter() - begun
    print(f"live_reply_p95_seconds: {np.percentile(times, 95):.3f}")
    print(f"live_share_of_time_for_{STREAMS}: {passed / SPOKEN:.3f}")


def requests(folder: Path) -> None:
    from tests.helpers.chromium import Page, open_browser

    clip, spoken = dict(examples.write_clips(folder))["angry, synthetic man"], folder / "spoken.wav"
    samples, rate = soundfile.read(clip)
    soundfile.write(spoken, np.tile(samples, 3), rate)
    programs = shutil.which("chromium"), shutil.which("chromedriver")
    if not all(programs):
        sys.exit("no chromium or chromedriver here")
    with served() as (address, _pid, _seconds):
        browser = open_browser(*programs, spoken, os.geteuid() == 0)  # type: ignore[arg-type]
        page, found = Page(browser, address), Counter[str]()
        for name in ("Speak", "Compare", "Analysis"):
            page.open(name)
            page.upload(f"#{name.lower()}-recording", clip)
        page.until(lambda: page.count("#analysis-augmented .cards"), "the augmentations")
        page.open("Conversation")
        page.upload("#conversation-recording", examples.write_conversation(folder))
        page.text_with("#conversation-recording", "synthetic")
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
            where = (
                "the page itself" if url.startswith(address) else parts.netloc or f"inside the page ({parts.scheme})"
            )
            found[f"{where} {'/'.join(parts.path.split('/')[:3]) if url.startswith(address) else ''}".strip()] += 1
        browser.quit()
    outside = sum(count for name, count in found.items() if not name.startswith(("the page itself", "inside the page")))
    for name, count in sorted(found.items()):
        print(f"{count:>5}  {name}")
    print(f"requests_in_all: {sum(found.values())}")
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
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between them")
    for name in parser.parse_args().only.split(","):
        with tempfile.TemporaryDirectory() as folder:
            PARTS[name](Path(folder))


if __name__ == "__main__":
    main()
