"""How the C library gives memory back to the system."""

from __future__ import annotations

import ctypes

_M_MMAP_THRESHOLD = -3  # of mallopt in glibc
_LARGE_BLOCK_BYTES = 2**20


def return_large_blocks() -> None:
    """Make glibc return blocks of 1 MB and more to the system as soon as they are freed.

    By default, it raises the size from which it does so with the blocks that a program frees. Requests that are
    processed at the same time then leave gaps, and memory grows for hours. Other C libraries are left as they are.
    """
    try:
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK_BYTES)
    except (AttributeError, OSError, TypeError):
        return
