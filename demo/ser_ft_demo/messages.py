"""What is said to visitors: numbers, and errors as one plain sentence."""

from __future__ import annotations

import logging
from pathlib import Path

from ser_ft.audio import AudioError
from ser_ft.utils.errors import InputError

_SENTENCES = {
    "empty": "{name} is empty.",
    "too-short": "{name} is too short: give at least a tenth of a second of sound.",
    "unreadable": "{name} could not be read as sound: give a wav, flac, ogg, opus, webm or mp3 file.",
    "cut-short": "{name} ends before its sound does: fetch it again, or export it anew.",
    "silent": "{name} is silent: check the microphone, or give another recording.",
    "lfs-pointer": "{name} is a git-LFS pointer, not sound: run git lfs pull where it came from.",
    "too-large": "{name} is too large.",
}
_FAULT = "Something went wrong here, not in your recording: try again, or with another one."


def sentence(error: Exception, path: str | None = None) -> str:
    """Write an error as one plain sentence that shows nothing of the machine's folders.

    Args:
        error: what was raised; what is no `InputError` is logged. path: of the file that it is about.
    """
    name = Path(path).name if path else "The recording"
    if isinstance(error, AudioError) and path and not Path(path).exists():
        return f"{name} is no longer here, since files are deleted after a while: give it again."
    if isinstance(error, AudioError) and error.reason in _SENTENCES:
        return _SENTENCES[error.reason].format(name=name)
    if isinstance(error, InputError):
        said = " ".join(str(error).split())
        said = said.replace(path, name) if path else said
        return (said if said.startswith(name) else said[:1].upper() + said[1:]).rstrip(".") + "."
    logging.getLogger("ser_ft.demo").error("a request failed", exc_info=error)
    return _FAULT


def length(seconds: float) -> str:
    """Write a limit of time: "15 s", "2 minutes", "1 hour"."""
    if seconds < 60:
        return f"{seconds:g} s"
    number, unit = (seconds / 60, "minute") if seconds < 3600 else (seconds / 3600, "hour")
    return f"{number:g} {unit}{'' if number == 1 else 's'}"


def size(count: float) -> str:
    """Write a number of bytes: "200 MB"."""
    return f"{count / 2**20:g} MB"
