"""The progress bar of everything that takes long."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from .text import printable


def progress_bar(items: Iterable[Any] | None = None, *, show_progress: bool = True, **options: Any) -> tqdm[Any]:
    """Return a tqdm bar on stderr, which is updated ten times a second in a terminal, else every ten seconds."""
    if "desc" in options:
        options["desc"] = printable(options["desc"])
    show_progress &= sys.stderr is not None  # it is None in a program whose stderr is closed
    in_terminal = show_progress and sys.stderr.isatty()
    interval = 0.1 if in_terminal else 10.0
    return tqdm(items, disable=not show_progress, mininterval=interval, dynamic_ncols=in_terminal, **options)


@contextmanager
def dataset_progress_bars(show_progress: bool) -> Iterator[None]:
    """Show or hide the progress bars of `datasets`."""
    import datasets

    enabled = datasets.is_progress_bar_enabled()
    (datasets.enable_progress_bars if show_progress else datasets.disable_progress_bars)()
    try:
        yield
    finally:
        (datasets.enable_progress_bars if enabled else datasets.disable_progress_bars)()
