"""The error for audio that cannot be used."""

from __future__ import annotations

from typing import Literal

from ..utils.errors import InputError

AudioErrorReason = Literal[
    "empty", "too-short", "unreadable", "not-found", "cut-short", "silent", "lfs-pointer", "too-large"
]


class AudioError(InputError):
    """Audio that cannot be used."""

    def __init__(self, reason: AudioErrorReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def without_traceback(self) -> AudioError:
        """Return the error to keep in lists: a traceback would keep the sound in memory."""
        return AudioError(self.reason, str(self))


def short_reason(message: str) -> str:
    """Return the last part of a decoder's message, on one line."""
    return message.replace("\n", " ").split(": ", 1)[-1].rstrip(". ")
