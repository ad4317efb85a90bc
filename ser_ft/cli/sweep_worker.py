"""`ser-ft train` as a process that ends with its parent: python -m ser_ft.cli.sweep_worker ARGUMENTS."""

from __future__ import annotations

import os
import sys
import threading


def main() -> int:
    """Train by the command-line arguments while standard input is open, and return the exit code."""
    # The pipe gets another file number, so that nothing that is imported or started later reads from it.
    pipe, null = os.dup(0), os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    threading.Thread(target=_exit_when_closed, args=(pipe,), daemon=True).start()
    sys.argv[:1] = ["ser-ft", "train"]  # the command that environment.json records
    from . import train

    return train(sys.argv[2:], "ser-ft train")


def _exit_when_closed(pipe: int) -> None:
    # Nothing is ever sent: the read returns when the other end is closed, also when that process was killed.
    os.read(pipe, 1)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
