"""Bounds on what gradio keeps in memory for its visitors, and on how many requests wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.routes import file_upload_statuses
from gradio.state_holder import SessionState

from .network import client_network
from .state import Limits

# gradio stores the last inputs and outputs of each session for links to them, which the page does not serve.
SessionState._update_value_in_config = lambda *_: None  # type: ignore[method-assign]


@dataclass
class _Request:
    """A request whose result was not delivered yet."""

    session: str
    client: str
    ended: float | None = field(default=None)


class Requests:
    """The requests of a page that wait, run, or have a result that nobody fetched.

    Requests beyond the limits are refused in one sentence. A result that is not fetched in time is dropped, and so is
    what gradio keeps of sessions without requests.
    """

    def __init__(self, page: gr.Blocks, limits: Limits) -> None:
        page.state_session_capacity = limits.sessions
        self._queue = page._queue
        self._push = page._queue.push
        self._limits = limits
        self._requests: dict[str, _Request] = {}
        self._lock = asyncio.Lock()
        # gradio computes statistics from these events after each failed request, and the page does not show them.
        page._queue.ANALYTICS_MAX_EVENTS = 1
        page._queue.push = self.push  # type: ignore[method-assign]

    async def push(self, body: Any, request: Any, username: str | None) -> tuple[bool, Any, Any]:
        """Add a request to the queue as `gradio.queueing.Queue.push` does, or refuse it."""
        client = client_network(request.client.host if request.client else "")
        async with self._lock:
            self.drop_old(time.monotonic())
            if len(self._requests) >= self._limits.waiting_requests:
                return False, "The server is busy: try again in a minute.", "queue_full"
            if sum(other.client == client for other in self._requests.values()) >= self._limits.client_requests:
                text = "Too many requests from your address are waiting: try again when they are answered."
                return False, text, "queue_full"
            accepted, event_id, state = await self._push(body=body, request=request, username=username)
            if accepted:
                self._requests[str(event_id)] = _Request(body.session_hash, client)
        return accepted, event_id, state

    def drop_old(self, now: float) -> None:
        """Forget delivered requests, results that nobody fetched in time, and the sessions of both."""
        waiting, messages = self._queue.pending_event_ids_session, self._queue.pending_messages_per_session
        for event_id, request in [*self._requests.items()]:
            unread = waiting.get(request.session, set())
            if event_id in unread:
                if event_id in self._queue.event_ids_to_events:
                    continue
                request.ended = request.ended or now
                if now - request.ended < self._limits.unread_seconds:
                    continue
                unread.discard(event_id)
            del self._requests[event_id]
            if not unread:
                waiting.pop(request.session, None)
                messages.pop(request.session, None)


def paths_in_use(page: gr.Blocks) -> list[str]:
    """Return the paths in a page's waiting and running requests."""
    events = list(page._queue.event_ids_to_events.values())
    values = [value for event in events if event.data for value in event.data.data if isinstance(value, dict)]
    return [value["path"] for value in values if isinstance(value.get("path"), str)]


def forget_files(page: gr.Blocks) -> None:
    """Remove deleted files, and finished uploads, from gradio's lists of them."""
    for files in page.temp_file_sets:
        files -= {file for file in [*files] if not Path(file).exists()}
    _drop(
        file_upload_statuses._statuses,
        [name for name, status in [*file_upload_statuses._statuses.items()] if status.is_done],
    )
    _drop(
        file_upload_statuses._signals, [*file_upload_statuses._signals.keys() - file_upload_statuses._statuses.keys()]
    )


def _drop(entries: dict[str, Any], names: Iterable[str]) -> None:
    for name in names:
        entries.pop(name, None)
