"""What the server serves to whom: its own pages and files, and nothing fetched from elsewhere."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from .limits import Limits

_Message = MutableMapping[str, Any]
_Send = Callable[[_Message], Awaitable[None]]
_App = Callable[[_Message, Callable[[], Awaitable[_Message]], _Send], Awaitable[None]]

# The page's own scripts and styles are inside it. What browsers would fetch from elsewhere, they refuse.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'"
)
HEADERS = {
    b"content-security-policy": POLICY.encode(),
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
}
# Endpoints of gradio that fetch addresses, build apps, keep runs or show what others do.
_CLOSED = (
    "/proxy=",
    "/file=http:",
    "/file=https:",
    "/vibe-",
    "/undo-vibe-",
    "/run-history",
    "/monitoring",
    "/deep_link",
    "/process_recording",
)


# Bytes of a request that uploads nothing, but is read as a whole.
_LARGEST_BODY = 2**23
# Bytes that an upload has beside its file.
_AROUND = 2**20


class Guard:
    """Middleware: closes what the page does not need, bounds the disk, and tells browsers to stay here."""

    def __init__(self, app: _App, home: Path, limits: Limits) -> None:
        self._app = app
        self._home = home
        self._limits = limits
        self._coming = 0  # bytes of the uploads that are under way

    async def __call__(self, scope: _Message, receive: Callable[[], Awaitable[_Message]], send: _Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = unquote(unquote(scope["path"])).replace("\\", "/").lower()

        async def answer(message: _Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *(pair for pair in message["headers"] if pair[0].lower() not in HEADERS),
                    *HEADERS.items(),
                ]
            await send(message)

        if any(part in path for part in _CLOSED):
            await _refuse(answer, 404, "There is nothing here.")
        elif scope["method"] == "POST" and not path.endswith("/upload") and _size(scope) > _LARGEST_BODY:
            await _refuse(answer, 413, "This is too much at once.")
        elif scope["method"] == "POST" and path.endswith("/upload"):
            await self._upload(scope, receive, answer)
        else:
            await self._app(scope, receive, answer)

    async def _upload(self, scope: _Message, receive: Callable[[], Awaitable[_Message]], answer: _Send) -> None:
        """Take in files, however many, that are no larger than one may be, where the disk has room for all of them."""
        # The server reads no more than was declared.
        size = _size(scope)
        if b"content-length" not in dict(scope["headers"]):
            await _refuse(answer, 411, "Say first how large this is.")
        elif size > self._limits.file + _AROUND:
            await _refuse(answer, 413, "This is too much at once.")
        else:
            before = self._coming
            here = await asyncio.to_thread(used, self._home)
            # What arrived while the folder was looked through may not have been seen there.
            if here + max(before, self._coming) + size > self._limits.disk:
                await _refuse(answer, 507, "Too many files are here at the moment: try again in some minutes.")
                return
            self._coming += size
            try:
                await self._app(scope, receive, answer)
            finally:
                self._coming -= size


def _size(scope: _Message) -> int:
    """Return how many bytes a request says it has; one that does not say counts as too large."""
    found = dict(scope["headers"])
    if b"content-length" in found:
        return int(found[b"content-length"]) if found[b"content-length"].isdigit() else sys.maxsize
    return sys.maxsize if b"transfer-encoding" in found else 0


async def _refuse(send: _Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})


def used(home: Path) -> int:
    """Return how many bytes the files of a folder have."""
    return sum(_about(file)[1] for file in home.rglob("*"))


def sweep(home: Path, age: float) -> None:
    """Delete files that were last written so many seconds ago, and old folders that are empty then."""
    # Looked at before anything is deleted, which would make their folders new.
    old = [entry for entry in home.rglob("*") if time.time() - _about(entry)[0] > age]
    for entry in sorted(old, key=lambda path: -len(path.parts)):
        try:
            entry.rmdir() if entry.is_dir() else entry.unlink()
        except OSError:
            continue


def _about(path: Path) -> tuple[float, int]:
    """Return when something was written, and the bytes of it that count; others may delete it meanwhile."""
    try:
        found = path.lstat()
    except OSError:
        return time.time(), 0
    return found.st_mtime, 0 if path.is_dir() else found.st_size


def keep(home: Path, paths: Iterable[str]) -> None:
    """Make files of a folder as good as new; what lies elsewhere is left alone, since visitors say the paths."""
    inside = home.resolve()
    for path in paths:
        try:
            if Path(path).resolve().is_relative_to(inside):
                os.utime(path)
        except (OSError, ValueError):
            continue


def keep_swept(home: Path, limits: Limits, asked_about: Callable[[], Iterable[str]] = lambda: ()) -> Callable[[], None]:
    """Delete what is old from now on.

    Args:
        home: the folder. limits: how old. asked_about: returns the files of requests that wait or are worked on, which
            grow no older meanwhile.

    Returns:
        what stops it and deletes the rest.
    """
    stopped = threading.Event()

    def work() -> None:
        while not stopped.wait(min(60.0, limits.kept / 4)):
            keep(home, asked_about())
            sweep(home, limits.kept)

    thread = threading.Thread(target=work, daemon=True, name="sweep")
    thread.start()

    def stop() -> None:
        stopped.set()
        thread.join(timeout=5)
        shutil.rmtree(home, ignore_errors=True)

    return stop
