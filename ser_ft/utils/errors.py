"""The error that users see, failures of the machine, and how the commands report both."""

from __future__ import annotations

import errno
import logging
import mmap
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence

from .streams import PIPE_ENDED, output_error, protect_streams
from .text import print_text

_MEMORY_ADVICE = "not enough memory: close other programs, or use a machine with more"
_FILES_ADVICE = "too many open files: raise the limit (ulimit -n)"
_SPACE_ADVICE = "the disk is full: free some space"
_DISK_ADVICE = "the disk, or the connection to it, fails: check it"
_MACHINE_ERRORS = {
    errno.ENOMEM: _MEMORY_ADVICE,
    errno.EMFILE: _FILES_ADVICE,
    errno.ENFILE: _FILES_ADVICE,
    errno.ENOSPC: _SPACE_ADVICE,
    errno.EDQUOT: _SPACE_ADVICE,
    **dict.fromkeys((errno.EIO, errno.ESTALE, errno.ENOTCONN), _DISK_ADVICE),
}
# What PyTorch, ONNX Runtime, soxr and threads say when memory is short.
_NO_MEMORY = re.compile(r"bad_alloc|out of memory|allocate memory|malloc|can't start new thread", re.IGNORECASE)
_PACKAGE_LOGGER = "ser_ft"  # the commands print its warnings
AUDIO_LOGGER = f"{_PACKAGE_LOGGER}.audio"
"""The logger of warnings about recordings."""
_PROBE_BYTES = 64 * 1024**2


WRONG_INPUT = 2
"""The exit code of a command whose input is wrong."""


class InputError(ValueError):
    """Wrong input, for which commands exit with code 2; the message is one line: what is wrong and what to do."""


def machine_failure(error: BaseException | None) -> BaseException | None:
    """Return the failure of the machine behind an error: itself, or one that it was raised from; None if there is none.

    Memory, open files, disk space and disks fail, whatever the input is.
    """
    while error is not None and _machine_advice(error) is None:
        error = error.__cause__
    return error


def raise_machine_failure(error: BaseException) -> None:
    """Raise the failure of the machine behind an error, if there is one: call this before blaming a file for it."""
    failure = machine_failure(error)
    if failure is not None:
        raise failure


def _machine_advice(error: BaseException) -> str | None:
    """Return what the user can do about an error, if it is a failure of the machine."""
    if isinstance(error, OSError) and error.errno in _MACHINE_ERRORS:
        return _MACHINE_ERRORS[error.errno]
    if type(error).__name__ == "LibsndfileError":
        # It does not tell a damaged file from a lack of memory.
        return None if _has_memory() else _MEMORY_ADVICE
    of_library = isinstance(error, RuntimeError) or type(error).__module__.startswith("onnxruntime")
    return _MEMORY_ADVICE if isinstance(error, MemoryError) or (of_library and _NO_MEMORY.search(str(error))) else None


def _has_memory() -> bool:
    try:
        mmap.mmap(-1, _PROBE_BYTES).close()
    except OSError:
        return False
    return True


def run_command(work: Callable[[], int | None]) -> int:
    """Call a function, which may return an exit code, and return the exit code of the command.

    It is 0 on success, 2 for wrong input, 1 for any other error and for failures of the machine, 130 when interrupted,
    141 if the reader of standard output ended first. Errors are reported in one line on stderr; with SER_FT_DEBUG or
    --debug, the traceback is printed too.
    """
    protect_streams()
    logging.getLogger(_PACKAGE_LOGGER).addHandler(_WarningPrinter())
    try:
        try:
            code = work() or 0
        except SystemExit as end:  # after --help
            code = int(end.code or 0)
        sys.stdout.flush()
        error = output_error()
        if error is None:
            return code
        if isinstance(error, BrokenPipeError):
            return PIPE_ENDED
        raise error
    except KeyboardInterrupt:
        print_text("ser-ft: interrupted", sys.stderr)
        return 130
    except Exception as error:
        return _report(error)


class _WarningPrinter(logging.Handler):
    """Prints each warning once, in one line."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._printed: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        line = " ".join(record.getMessage().split())
        if line not in self._printed:
            self._printed.add(line)
            print_text(f"ser-ft: warning: {line}", sys.stderr)

    def __eq__(self, other: object) -> bool:
        # A logger does not add a handler that it has.
        return isinstance(other, _WarningPrinter)

    __hash__ = logging.Handler.__hash__


def _report(error: Exception) -> int:
    """Print an error, and return the exit code."""
    _end_progress_bars()
    if os.environ.get("SER_FT_DEBUG"):
        print_text(traceback.format_exc(), sys.stderr)
    message = " ".join(str(error).split())
    failure = machine_failure(error)
    if failure is not None:
        reason = " ".join(str(failure).split())[:500] or type(failure).__name__
        print_text(f"ser-ft: failed: {_machine_advice(failure)} ({reason})", sys.stderr)
        return 1
    if isinstance(error, InputError):
        print_text(f"ser-ft: {message}", sys.stderr)
        return WRONG_INPUT
    message = message[:500] or "no reason given"
    print_text(f"ser-ft: failed: {type(error).__name__}: {message} (--debug shows where)", sys.stderr)
    return 1


def _end_progress_bars() -> None:
    """Leave the line of a progress bar that an error has stopped."""
    if "tqdm" in sys.modules:
        from tqdm import tqdm

        for bar in list(getattr(tqdm, "_instances", ())):
            bar.close()


def strip_debug_flag(arguments: Sequence[str] | None) -> list[str]:
    """Return the arguments (None: those of the program) without --debug, which turns tracebacks on."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if "--debug" in words:
        words.remove("--debug")
        os.environ["SER_FT_DEBUG"] = "1"
    return words
