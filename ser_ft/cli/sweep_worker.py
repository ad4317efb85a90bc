"""`ser-ft train`, ended when the process that started it ends: python -m ser_ft.cli.sweep_worker ARGUMENTS."""

from __future__ import annotations

import os
import sys
import threading


def main() -> int:
    """Train as the arguments say, for as long as standard input is open; return the exit code."""
    # The pipe moves aside: what is imported or started later never finds a blocked standard input.
    pipe, nothing = os.dup(0), os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    threading.Thread(target=_wait_for_the_end, args=(pipe,), daemon=True).start()
    sys.argv[:1] = ["ser-ft", "train"]  # as the run's environment.json says it was made
    from . import train

    return train(sys.argv[2:], "ser-ft train")


def _wait_for_the_end(pipe: int) -> None:
    # Nothing is ever sent: a read returns when the other end is closed, killed or not.
    os.read(pipe, 1)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
