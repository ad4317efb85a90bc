"""Messages for visitors: errors as one plain sentence, limits in words, and both as HTML."""

from __future__ import annotations

import logging
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

from ser_ft.audio import AudioError
from ser_ft.utils.errors import InputError

_AUDIO_ERRORS = {
    "empty": "{name} is empty.",
    "too-short": "{name} is too short: at least a tenth of a second of sound is needed.",
    "unreadable": "{name} could not be read as sound: use a wav, flac, ogg, opus, webm or mp3 file.",
    "cut-short": "{name} is incomplete: download or export it again.",
    "silent": "{name} is silent: check the microphone, or use another recording.",
    "lfs-pointer": "{name} is a git-LFS pointer, not sound: run git lfs pull in its repository.",
    "too-large": "{name} is too large.",
}
_INTERNAL_ERROR = "Something went wrong on the server, not in your recording: try again, or use another one."


def error_message(error: Exception, path: str | None = None) -> str:
    """Return an error, which is logged unless it is an `InputError`, as one sentence without paths of the server.

    `path` is the file that the request is about.
    """
    name = Path(path).name if path else "The recording"
    if isinstance(error, AudioError) and path and not Path(path).exists():
        return f"{name} no longer exists, because files are deleted after a while: upload it again."
    if isinstance(error, AudioError) and error.reason in _AUDIO_ERRORS:
        return _AUDIO_ERRORS[error.reason].format(name=name)
    if isinstance(error, InputError):
        text = " ".join(str(error).split())
        text = text.replace(path, name) if path else text
        return (text if text.startswith(name) else text[:1].upper() + text[1:]).rstrip(".") + "."
    logging.getLogger("ser_ft.demo").error("a request failed", exc_info=error)
    return _INTERNAL_ERROR


def duration_text(seconds: float) -> str:
    """Return a limit of time, such as "15 s", "2 minutes" or "1 hour"."""
    if seconds < 60:
        return f"{seconds:g} s"
    number, unit = (seconds / 60, "minute") if seconds < 3600 else (seconds / 3600, "hour")
    return f"{number:g} {unit}{'' if number == 1 else 's'}"


def size_text(num_bytes: float) -> str:
    """Return a size, such as "200 MB"."""
    return f"{num_bytes / 2**20:g} MB"


def alert(text: str) -> str:
    """Return an error message as HTML."""
    return f'<div class="note alert" role="alert">{escape(text)}</div>'


def hint(text: str) -> str:
    """Return a hint as HTML, for a place without a result."""
    return f'<p class="hint">{escape(text)}</p>'


def errors_as_html(function: Callable[..., str], empty: str) -> Callable[..., str]:
    """Wrap a function of a recording's path, and more, so that it returns its errors as HTML.

    Without a recording, it returns the hint `empty`.
    """

    def wrapped(path: str | None, *arguments: Any) -> str:
        if not path:
            return hint(empty)
        try:
            return function(path, *arguments)
        except Exception as error:
            return alert(error_message(error, path))

    return wrapped
