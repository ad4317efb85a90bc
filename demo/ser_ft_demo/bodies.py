"""Limits on what requests send: how much, how slowly, how much of it one client, and what all of them store."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .network import client_network
from .state import Limits
from .temp_dir import used_bytes

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

_MAX_BODY_BYTES = 2**23  # of a request that is not an upload
_UPLOAD_OVERHEAD_BYTES = 2**20  # of an upload, in addition to its file
_MEASURE_SECONDS = 5.0  # for which the size of the folder is not measured again

_TOO_LARGE = 413, "The request is too large."
_TOO_SLOW = 408, "The request arrives too slowly: try again with a better connection, or a smaller file."
_DISK_FULL = 507, "The server has no space left at the moment: try again in some minutes."
_BUSY = 503, "The server is busy: try again in a minute."
_CLIENT_BYTES = 429, "Too much was uploaded from your address: try again in some minutes."
_CLIENT_UPLOADS = 429, "Too many uploads from your address are in progress: try again when they have ended."


class _Refused(BaseException):
    """A body breaks a limit while it is read. No handler of the application takes it for an error of its own."""


@dataclass
class _Client:
    """The uploads of one client.

    Attributes:
        slots: one for each upload that may be in progress.
        num_uploads: uploads in progress or waiting for a slot.
        recent_bytes: size of what it sent in the last minutes; `parts` has the time and size of each part of it.
    """

    slots: asyncio.Semaphore
    num_uploads: int = 0
    recent_bytes: int = 0
    parts: deque[tuple[float, int]] = field(default_factory=deque)

    def add(self, num_bytes: int) -> None:
        self.recent_bytes += num_bytes
        self.parts.append((time.monotonic(), num_bytes))

    def forget(self, max_age: float) -> None:
        while self.parts and time.monotonic() - self.parts[0][0] > max_age:
            self.recent_bytes -= self.parts.popleft()[1]


class Bodies:
    """Reads the bodies of requests within the limits of the page.

    Nothing is reserved for what a request announces: only bytes that arrived count, so that requests which send
    nothing take nothing from others.
    """

    def __init__(self, temp_dir: Path, limits: Limits) -> None:
        self._temp_dir = temp_dir
        self._limits = limits
        self._clients: dict[str, _Client] = {}
        self._bytes_in_memory = 0  # of bodies that are not uploads
        self._uploaded_bytes = 0  # of all uploads since the start
        self._stored: tuple[float, int, int] | None = None  # time, size of the folder, uploaded bytes at that time
        self._measuring = asyncio.Lock()

    async def run(self, app: App, scope: Message, receive: Receive, send: Send, is_upload: bool) -> None:
        """Run an application for a request with a body, and refuse the request when it breaks a limit."""
        is_started = False

        async def send_once(message: Message) -> None:
            nonlocal is_started
            is_started = True
            await send(message)

        try:
            await (self._upload if is_upload else self._keep_in_memory)(app, scope, receive, send_once)
        except _Refused as refusal:
            if not is_started:
                await refuse(send, *refusal.args)

    async def _keep_in_memory(self, app: App, scope: Message, receive: Receive, send: Send) -> None:
        if _declared_bytes(scope) > _MAX_BODY_BYTES:
            raise _Refused(*_TOO_LARGE)
        size = 0

        async def count(num_bytes: int) -> None:
            nonlocal size
            size += num_bytes
            self._bytes_in_memory += num_bytes
            if self._bytes_in_memory > self._limits.memory_bytes:
                raise _Refused(*_BUSY)

        try:
            await app(scope, self._timed(receive, count), send)
        finally:
            self._bytes_in_memory -= size

    async def _upload(self, app: App, scope: Message, receive: Receive, send: Send) -> None:
        # The server reads no more bytes than declared.
        size = _declared_bytes(scope)
        if b"content-length" not in dict(scope["headers"]):
            raise _Refused(411, "The request must declare its size.")
        if size > self._limits.file_bytes + _UPLOAD_OVERHEAD_BYTES:
            raise _Refused(*_TOO_LARGE)
        client = self._client(scope)
        client.num_uploads += 1
        try:
            try:
                await asyncio.wait_for(client.slots.acquire(), self._limits.grace_seconds)
            except TimeoutError:
                raise _Refused(*_CLIENT_UPLOADS) from None
            try:
                await self._check_space(client, size)

                async def count(num_bytes: int) -> None:
                    client.add(num_bytes)
                    self._uploaded_bytes += num_bytes
                    await self._check_space(client, 0)

                await app(scope, self._timed(receive, count), send)
            finally:
                client.slots.release()
        finally:
            client.num_uploads -= 1

    def _client(self, scope: Message) -> _Client:
        """Return the client of a request, and forget those that sent nothing for a while."""
        for name, other in [*self._clients.items()]:
            other.forget(self._limits.retention_seconds)
            if not other.num_uploads and not other.parts:
                del self._clients[name]
        name = client_network(scope["client"][0] if scope.get("client") else "")
        return self._clients.setdefault(name, _Client(asyncio.Semaphore(self._limits.client_uploads)))

    async def _check_space(self, client: _Client, size: int) -> None:
        """Refuse an upload that would exceed the client's share or the space for files with `size` further bytes."""
        if client.recent_bytes + size > self._limits.client_bytes:
            raise _Refused(*_CLIENT_BYTES)
        if await self._used_bytes(_MEASURE_SECONDS) + size <= self._limits.disk_bytes:
            return
        # Files may have been deleted since.
        if await self._used_bytes(1.0) + size > self._limits.disk_bytes:
            raise _Refused(*_DISK_FULL)

    async def _used_bytes(self, max_age: float) -> int:
        """Return the size of the folder, measured at most `max_age` seconds ago, and of what was uploaded since."""
        async with self._measuring:
            if self._stored is None or time.monotonic() - self._stored[0] > max_age:
                # Read before the folder is: what arrives meanwhile may not be counted in it.
                uploaded = self._uploaded_bytes
                stored = await asyncio.to_thread(used_bytes, self._temp_dir)
                self._stored = time.monotonic(), stored, uploaded
            return self._stored[1] + self._uploaded_bytes - self._stored[2]

    def _timed(self, receive: Receive, count: Callable[[int], Awaitable[None]]) -> Receive:
        """Wrap `receive` so that each part of the body is counted, and a slow body is refused."""
        start, size, is_complete = time.monotonic(), 0, False

        async def receive_in_time() -> Message:
            nonlocal size, is_complete
            if is_complete:
                return await receive()
            allowed = self._limits.grace_seconds + size / self._limits.bytes_per_second
            try:
                message = await asyncio.wait_for(receive(), max(0.0, start + allowed - time.monotonic()))
            except TimeoutError:
                raise _Refused(*_TOO_SLOW) from None
            num_bytes, is_complete = len(message.get("body", b"")), not message.get("more_body", False)
            size += num_bytes
            if num_bytes:
                await count(num_bytes)
            return message

        return receive_in_time


def _declared_bytes(scope: Message) -> int:
    """Return the size that a request declares, or a very large number if its body has none."""
    headers = dict(scope["headers"])
    length = headers.get(b"content-length")
    if length is not None:
        return int(length) if length.isdigit() else sys.maxsize
    return sys.maxsize if b"transfer-encoding" in headers else 0


async def refuse(send: Send, status: int, text: str) -> None:
    """Answer a request with one sentence."""
    content = text.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(content)).encode())]
    if status == _TOO_SLOW[0]:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
