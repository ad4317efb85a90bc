"""The one error a user is meant to see, and how the commands show it."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence


class InputError(ValueError):
    """Wrong input: its text is one line that says what is wrong and what to do.

    The commands print that line on stderr and exit with code 2.
    """


def run_command(work: Callable[[], None]) -> int:
    """Do something for a user and return the exit code.

    0; 2 for wrong input, and 1 for anything else that fails, each with one line on stderr (SER_FT_DEBUG, or --debug,
    shows the trace); 130 when interrupted.
    """
    try:
        work()
    except InputError as error:
        if os.environ.get("SER_FT_DEBUG"):
            traceback.print_exc()
        print(f"ser-ft: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ser-ft: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if os.environ.get("SER_FT_DEBUG"):
            traceback.print_exc()
        said = " ".join(str(error).split()) or "no reason given"
        print(f"ser-ft: failed: {type(error).__name__}: {said[:500]} (--debug shows where)", file=sys.stderr)
        return 1
    return 0


def strip_debug_flag(arguments: Sequence[str] | None) -> list[str]:
    """Return the arguments (by default the program's) less --debug, which makes errors show their trace."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if "--debug" in given:
        given.remove("--debug")
        os.environ["SER_FT_DEBUG"] = "1"
    return given
