"""The Hub where it cannot be reached: said in seconds."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies


@contextmanager
def offline_if_unreachable(local: bool) -> Iterator[None]:
    """Work offline (from what was fetched before, or not at all) where the Hub cannot be reached.

    Its client would try again for half a minute; one attempt of a few seconds says the same.

    Args:
        local: nothing of the Hub will be asked for.
    """
    import datasets
    import huggingface_hub.constants

    # What the Hub's client says of its attempts: the caller's one line is enough.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    hub = urlsplit(huggingface_hub.constants.ENDPOINT)
    offline: tuple[Any, ...] = huggingface_hub.constants, datasets.config
    before = [module.HF_HUB_OFFLINE for module in offline]
    if not local and not any(before) and not getproxies().get(hub.scheme):
        try:
            socket.create_connection((hub.hostname or "", hub.port or 443), timeout=5).close()
        except OSError:
            for module in offline:
                module.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for module, value in zip(offline, before, strict=True):
            module.HF_HUB_OFFLINE = value
