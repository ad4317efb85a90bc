"""Caches on disk: the folder of ser_ft's own, and a check that a cache can be written."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import InputError
from .files import nearest_existing


def cache_home() -> Path:
    """Return the folder of ser_ft's cache: SER_FT_CACHE, or `ser_ft` in the user's cache folder.

    Raises InputError if it cannot be written: call this before long work that uses the cache.
    """
    folder = os.environ.get("SER_FT_CACHE")
    if folder:
        return check_cache(folder, "SER_FT_CACHE")
    user_caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return check_cache(user_caches / "ser_ft", "SER_FT_CACHE, or XDG_CACHE_HOME for all programs,")


def check_cache(folder: str | Path, variables: str) -> Path:
    """Return the folder of a cache; raise InputError, which names the variables that move it, if it cannot be written.

    Nothing is created.
    """
    path = Path(folder).expanduser()
    existing = nearest_existing(path.absolute())
    if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
        return path
    where = "it" if existing == path.absolute() else str(existing)
    raise InputError(
        f"{path}: this cache cannot be written, because {where} is not a folder that can be written to; "
        f"set {variables} to one that can"
    )
