"""Standard output and standard error of the commands, which may be closed, or end before the command does."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

PIPE_ENDED = 141
"""The exit code if the reader of standard output ends first: 128 + SIGPIPE, as for other programs."""


class _Stream(io.FileIO):
    """An open file to write to, where everything is dropped once its reader has ended.

    Args:
        required: Whether any other error is raised, such as that of a full disk; else it is dropped too.
    """

    def __init__(self, number: int, required: bool) -> None:
        super().__init__(number, "w", closefd=False)
        self.required = required
        self.ended = False

    def write(self, data: object) -> int | None:
        """Write bytes, and return their number."""
        try:
            return super().write(data)  # type: ignore[arg-type]
        except OSError as error:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            self.ended = isinstance(error, BrokenPipeError)
            if self.required and not self.ended:
                raise
            return super().write(data)  # type: ignore[arg-type]


def protect_streams() -> None:
    """Let this process write to standard output and standard error whatever becomes of them.

    A closed stream is opened, so that no file takes its number, and what is written to it is dropped; so is what is
    written to a pipe after its reader has ended. An error of standard output, such as that of a full disk, is raised
    once. Streams that a notebook or a test has put in their place are left as they are.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif stream is getattr(sys, f"__{name}__") and _raw(stream) is None:
            setattr(sys, name, _open(number, stream, required=number == 1))
            setattr(sys, f"__{name}__", getattr(sys, name))


def pipe_ended() -> bool:
    """Return whether the reader of standard output has ended, so that nobody reads what is printed."""
    raw = _raw(sys.stdout)
    return raw is not None and raw.ended


@contextmanager
def silent_libraries() -> Iterator[None]:
    """Hide what C libraries write to standard error directly, such as libmpg123 about damaged files."""
    python_stderr = sys.stderr
    original, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        python_stderr.flush()
        os.dup2(null, 2)
        if python_stderr is sys.__stderr__:
            sys.stderr = _open(original, python_stderr, required=False)
        yield
    finally:
        sys.stderr = python_stderr
        os.dup2(original, 2)
        os.close(original)
        os.close(null)


def _open(number: int, like: IO[str], *, required: bool) -> io.TextIOWrapper:
    """Open a stream with the encoding and the buffers of another."""
    assert isinstance(like, io.TextIOWrapper)
    stream = _Stream(number, required)
    return io.TextIOWrapper(
        stream if like.write_through else io.BufferedWriter(stream),  # type: ignore[arg-type]
        encoding=like.encoding,
        errors=like.errors,
        line_buffering=like.line_buffering,
        write_through=like.write_through,
    )


def _raw(stream: IO[str]) -> _Stream | None:
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)
    return raw if isinstance(raw, _Stream) else None
