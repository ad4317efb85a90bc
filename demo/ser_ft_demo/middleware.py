"""Middleware that blocks requests which the page does not need, limits uploads, and sets security headers."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from .state import Limits
from .temp_dir import used_bytes

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_App = Callable[[_Message, _Receive, _Send], Awaitable[None]]

# All scripts and styles of the page come from its own server; browsers refuse everything else.
CONTENT_SECURITY_POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'"
)
HEADERS = {
    b"content-security-policy": CONTENT_SECURITY_POLICY.encode(),
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
}
# Endpoints of gradio that download URLs, build apps, store runs or show the requests of others.
_BLOCKED = (
    *("/proxy=", "/file=http:", "/file=https:", "/vibe-", "/undo-vibe-"),
    *("/run-history", "/monitoring", "/deep_link", "/process_recording"),
)
_MAX_BODY_BYTES = 2**23  # of a request that is not an upload
_UPLOAD_OVERHEAD_BYTES = 2**20  # of an upload, in addition to its file


class SecurityMiddleware:
    """Blocks endpoints, limits the size of uploads and of all files together, and sets security headers."""

    def __init__(self, app: _App, temp_dir: Path, limits: Limits) -> None:
        self._app = app
        self._temp_dir = temp_dir
        self._limits = limits
        self._incoming_bytes = 0  # of the uploads in progress

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = unquote(unquote(scope["path"])).replace("\\", "/").lower()

        async def send_with_headers(message: _Message) -> None:
            if message["type"] == "http.response.start":
                others = [pair for pair in message["headers"] if pair[0].lower() not in HEADERS]
                message["headers"] = [*others, *HEADERS.items()]
            await send(message)

        is_post, is_upload = scope["method"] == "POST", path.endswith("/upload")
        if any(part in path for part in _BLOCKED):
            await _refuse(send_with_headers, 404, "Not found.")
        elif is_post and not is_upload and _declared_bytes(scope) > _MAX_BODY_BYTES:
            await _refuse(send_with_headers, 413, "The request is too large.")
        elif is_post and is_upload:
            await self._upload(scope, receive, send_with_headers)
        else:
            await self._app(scope, receive, send_with_headers)

    async def _upload(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        # The server reads no more bytes than declared.
        size = _declared_bytes(scope)
        if b"content-length" not in dict(scope["headers"]):
            await _refuse(send, 411, "The request must declare its size.")
        elif size > self._limits.file_bytes + _UPLOAD_OVERHEAD_BYTES:
            await _refuse(send, 413, "The request is too large.")
        else:
            incoming_before = self._incoming_bytes
            stored = await asyncio.to_thread(used_bytes, self._temp_dir)
            # Files that arrived while the folder was read may not be counted in it.
            if stored + max(incoming_before, self._incoming_bytes) + size > self._limits.disk_bytes:
                await _refuse(send, 507, "The server has no space left at the moment: try again in some minutes.")
                return
            self._incoming_bytes += size
            try:
                await self._app(scope, receive, send)
            finally:
                self._incoming_bytes -= size


def _declared_bytes(scope: _Message) -> int:
    """Return the size that a request declares, or a very large number if its body has none."""
    headers = dict(scope["headers"])
    length = headers.get(b"content-length")
    if length is not None:
        return int(length) if length.isdigit() else sys.maxsize
    return sys.maxsize if b"transfer-encoding" in headers else 0


async def _refuse(send: _Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
