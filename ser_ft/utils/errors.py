"""The error that users see, and how the commands report it."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence


class InputError(ValueError):
    """Wrong input, for which commands exit with code 2; the message is one line: what is wrong and what to do."""


def run_command(work: Callable[[], int | None]) -> int:
    """Call a function, which may return an exit code, and return the exit code of the command.

    It is 0 on success, 2 for wrong input, 1 for any other error, 130 when interrupted. Errors are reported in one line
    on stderr; with SER_FT_DEBUG or --debug, the traceback is printed too.
    """
    try:
        return work() or 0
    except KeyboardInterrupt:
        print("ser-ft: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if os.environ.get("SER_FT_DEBUG"):
            traceback.print_exc()
        message = " ".join(str(error).split())
        if isinstance(error, InputError):
            print(f"ser-ft: {message}", file=sys.stderr)
            return 2
        message = message[:500] or "no reason given"
        print(f"ser-ft: failed: {type(error).__name__}: {message} (--debug shows where)", file=sys.stderr)
        return 1


def strip_debug_flag(arguments: Sequence[str] | None) -> list[str]:
    """Return the arguments (None: those of the program) without --debug, which turns tracebacks on."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if "--debug" in words:
        words.remove("--debug")
        os.environ["SER_FT_DEBUG"] = "1"
    return words
