"""Standard output and standard error of the commands, which may be closed, or end before the command does."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

PIPE_ENDED = 141
"""The exit code if the reader of standard output ends first: 128 + SIGPIPE, as for other programs."""


class _Stream(io.FileIO):
    """An open file to write to, where everything is dropped after the first error, such as the end of its reader."""

    def __init__(self, number: int) -> None:
        super().__init__(number, "w", closefd=False)
        self.error: OSError | None = None

    def write(self, data: Any, /) -> int:
        """Write bytes, and return their number."""
        try:
            return super().write(data)
        except OSError as error:
            self.error = error
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            return super().write(data)


def protect_streams() -> None:
    """Let this process write to standard output and standard error whatever becomes of them.

    A closed stream is opened, so that no file takes its number, and what is written to it is dropped; so is what is
    written after the reader of a pipe has ended, or onto a full disk. Streams that a notebook or a test has put in
    their place are left as they are.
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
            setattr(sys, name, _open(number, stream))
            setattr(sys, f"__{name}__", getattr(sys, name))


def output_error() -> OSError | None:
    """Return the error since which all that is printed is dropped; None if standard output can be written."""
    raw = _raw(sys.stdout)
    return None if raw is None else raw.error


@contextmanager
def silent_libraries() -> Iterator[None]:
    """Hide what C libraries write to standard error directly, such as libmpg123 about damaged files."""
    python_stderr = sys.stderr
    original, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        python_stderr.flush()
        os.dup2(null, 2)
        if python_stderr is sys.__stderr__:
            sys.stderr = _open(original, python_stderr)
        yield
    finally:
        sys.stderr = python_stderr
        os.dup2(original, 2)
        os.close(original)
        os.close(null)


def _open(number: int, like: IO[str] | None) -> io.TextIOWrapper:
    """Open a stream with the encoding and the buffers of another."""
    assert isinstance(like, io.TextIOWrapper)
    stream = _Stream(number)
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
