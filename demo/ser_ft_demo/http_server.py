"""The web server of the page: uvicorn with time limits, in a thread."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from socket import socket
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ser_ft.cli.demo import Options
from ser_ft.utils.errors import InputError

from .network import trusted_proxies

_HEADER_SECONDS = 20.0  # in which the first and each further request must send its headers
# Longer than clients and proxies keep idle connections: a client that reuses a connection while the server closes it
# reports "server disconnected". uvicorn's 5 s are what httpx, and so gradio_client, waits, too.
_KEEP_ALIVE_SECONDS = 75
_MAX_CONNECTIONS = 1000
_START_SECONDS, _STOP_SECONDS = 30.0, 3


class _Protocol(H11Protocol):
    """HTTP/1.1 that closes connections whose headers do not arrive in time; uvicorn itself waits forever."""

    _header_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._watch_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        super().connection_lost(exc)
        self._stop_watching()

    def data_received(self, data: bytes) -> None:
        """Take a part of a request."""
        super().data_received(data)
        self._watch_headers()

    def _watch_headers(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_watching()
        elif self._header_timer is None and not self.transport.is_closing():
            self._header_timer = self.loop.call_later(_HEADER_SECONDS, self._close_if_waiting)

    def _stop_watching(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _close_if_waiting(self) -> None:
        self._header_timer = None
        # Between complete requests, uvicorn's own limit of idle connections is in force.
        if self.timeout_keep_alive_task is None and (self.cycle is None or self.cycle.response_complete):
            self.transport.close()


def start_server(app: Callable[..., Any], sockets: Sequence[socket], options: Options) -> Callable[[], None]:
    """Serve an ASGI application at open sockets in a thread.

    Returns:
        A function that stops the server.

    Raises:
        InputError: the server did not start.
    """
    proxies = trusted_proxies()
    config = uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        log_level="warning",
        proxy_headers=bool(proxies),
        forwarded_allow_ips=proxies,
        server_header=False,
        limit_concurrency=_MAX_CONNECTIONS,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_STOP_SECONDS,
        ssl_certfile=options.certificate,
        ssl_keyfile=options.key,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=(list(sockets),), daemon=True, name="server")
    thread.start()
    end = time.monotonic() + _START_SECONDS
    while not server.started:
        if not thread.is_alive() or time.monotonic() > end:
            raise InputError("cannot serve the page: the server did not start")
        time.sleep(0.005)

    def stop() -> None:
        server.should_exit = True
        thread.join(timeout=_STOP_SECONDS + 5)

    return stop
