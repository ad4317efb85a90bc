"""The progress bar that everything long shows."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def progress_bar(items: Iterable[Any] | None = None, *, shown: bool = True, **options: Any) -> tqdm[Any]:
    """Return a tqdm bar on stderr: lively in a terminal, a line every ten seconds in a log."""
    lively = sys.stderr.isatty()
    return tqdm(items, disable=not shown, mininterval=0.1 if lively else 10.0, dynamic_ncols=lively, **options)
