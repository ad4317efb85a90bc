"""Fast fallback to offline mode if the Hub cannot be reached."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from .caches import check_cache


@contextmanager
def offline_if_unreachable(local: bool) -> Iterator[None]:
    """Use only cached files of the Hub within this context if the Hub cannot be reached.

    The Hub's client retries for half a minute; here one attempt of at most five seconds decides. No attempt is made if
    `local`: nothing of the Hub is needed. InputError is raised if something fails in this context because the Hub's
    cache cannot be written.
    """
    import datasets
    import huggingface_hub.constants

    # The client's warnings about failed attempts repeat what the caller's error says.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    hub = urlsplit(huggingface_hub.constants.ENDPOINT)
    modules: tuple[Any, ...] = huggingface_hub.constants, datasets.config
    before = [module.HF_HUB_OFFLINE for module in modules]
    if not local and not any(before) and not getproxies().get(hub.scheme):
        try:
            socket.create_connection((hub.hostname or "", hub.port or 443), timeout=5).close()
        except OSError:
            for module in modules:
                module.HF_HUB_OFFLINE = True
    try:
        yield
    except Exception:
        if not local and not huggingface_hub.constants.HF_HUB_OFFLINE:
            check_cache(huggingface_hub.constants.HF_HUB_CACHE, "HF_HOME")
        raise
    finally:
        for module, value in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = value
