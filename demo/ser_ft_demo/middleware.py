"""Middleware that answers only the page's own hosts and pages, blocks what it does not need, and sets headers."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from urllib.parse import unquote

from .bodies import App, Bodies, Message, Receive, Send, refuse
from .network import ServedHosts
from .state import Limits

# All scripts and styles of the page come from its own server; browsers refuse everything else.
CONTENT_SECURITY_POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'self'"
)
_HUB = "https://huggingface.co"
# Endpoints of gradio that download URLs, build apps, store runs or show the requests of others.
_BLOCKED = (
    *("/proxy=", "/file=http:", "/file=https:", "/vibe-", "/undo-vibe-"),
    *("/run-history", "/monitoring", "/deep_link", "/process_recording"),
)
_ORIGIN = re.compile("^https?://")
_SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
# Headers with which a proxy, or anybody else, can tell gradio another address of the page.
_FORWARDED_HOST, _GRADIO_SERVER = b"x-forwarded-host", b"x-gradio-server"


class SecurityMiddleware:
    """Refuses requests to other hosts and of other sites' pages, blocks endpoints, limits bodies, and sets headers.

    On a Space (`is_space`), pages of the Hub may show the page, and all pages may send requests, without credentials.
    """

    def __init__(self, app: App, temp_dir: Path, limits: Limits, hosts: ServedHosts, is_space: bool = False) -> None:
        self._app = app
        self._bodies = Bodies(temp_dir, limits)
        self._hosts = hosts
        self._is_space = is_space
        self._headers = {
            b"content-security-policy": f"{CONTENT_SECURITY_POLICY}{f' {_HUB}' if is_space else ''}".encode(),
            b"referrer-policy": b"no-referrer",
            b"x-content-type-options": b"nosniff",
        }

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = self._response_headers(message["headers"])
            await send(message)

        path = unquote(unquote(scope["path"])).replace("\\", "/").lower()
        if not all(host in self._hosts for host in _values(scope, b"host") or [""]):
            text = "The page is not served at this host. ser-ft demo --allow-host NAME serves it at another one."
            await refuse(send_with_headers, 421, text)
        elif scope["method"] not in _SAFE_METHODS and not self._is_allowed_origin(scope):
            await refuse(send_with_headers, 403, "Pages of other sites cannot send requests to this one.")
        elif any(part in path for part in _BLOCKED):
            await refuse(send_with_headers, 404, "Not found.")
        else:
            scope = {**scope, "headers": self._request_headers(scope)}
            try:
                if scope["method"] in _SAFE_METHODS:
                    await self._app(scope, receive, send_with_headers)
                else:
                    is_upload = path.rstrip("/").endswith("/upload")
                    await self._bodies.run(self._app, scope, receive, send_with_headers, is_upload)
            except Exception as error:
                # It was answered with status 500. uvicorn would close the connection, which the client may reuse.
                logging.getLogger("ser_ft.demo").error("a request failed", exc_info=error)

    def _is_allowed_origin(self, scope: Message) -> bool:
        return self._is_space or all(_ORIGIN.sub("", origin) in self._hosts for origin in _values(scope, b"origin"))

    def _request_headers(self, scope: Message) -> list[tuple[bytes, bytes]]:
        """Return the headers of a request without other addresses of the page."""
        dropped = {_GRADIO_SERVER}
        hosts = ",".join(_values(scope, _FORWARDED_HOST)).split(",")
        if not all(host.strip() in self._hosts for host in hosts):
            dropped.add(_FORWARDED_HOST)
        return [pair for pair in scope["headers"] if pair[0] not in dropped]

    def _response_headers(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """Return the headers of a response with those of the page, and without gradio's access for other pages."""
        kept = [pair for pair in headers if pair[0].lower() not in self._headers]
        others = [pair for pair in kept if not pair[0].lower().startswith(b"access-control-")]
        if self._is_space:
            preflight = {b"access-control-allow-methods", b"access-control-allow-headers", b"access-control-max-age"}
            others += [pair for pair in kept if pair[0].lower() in preflight]
            others.append((b"access-control-allow-origin", b"*"))
        return [*others, *self._headers.items()]


def _values(scope: Message, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]
