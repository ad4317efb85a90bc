"""How the C library gives memory back to the system."""

from __future__ import annotations

import ctypes

# Parameters of mallopt in glibc.
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
_LARGE_BLOCK_BYTES = 2**20
_ARENAS = 2


def return_freed_memory() -> None:
    """Make glibc return blocks of 1 MB and more as soon as they are freed, and share the rest among all threads.

    By default, it raises the size from which it returns blocks with those that a program frees, and has an arena for
    each of many threads. Requests that are processed at the same time then leave gaps in each, and memory grows for
    hours. Other C libraries are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK_BYTES)
    mallopt(_M_ARENA_MAX, _ARENAS)
