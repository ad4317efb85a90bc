"""What one visitor may ask for, so that others can be served too."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The page's limits.

    Attributes:
        file: bytes of an upload. disk: bytes of all files that are kept at a time, or are on their way.
        clip: seconds of a recording that is answered at once. inside: likewise, of one that is looked into.
        call: seconds of a conversation. live: seconds of one live stream.
        listeners: live streams at a time. at_once: other requests at a time. waiting: requests that may wait.
        kept: seconds after which files are deleted that no request is about.
    """

    file: int = 200 * 2**20
    disk: int = 4 * 2**30
    clip: float = 120.0
    inside: float = 15.0
    call: float = 3600.0
    live: int = 600
    listeners: int = 4
    at_once: int = 2
    waiting: int = 40
    kept: int = 600


LIMITS = Limits()
