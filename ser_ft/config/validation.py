"""What settings must be: one of a few, or within bounds."""

from __future__ import annotations

import math
from typing import Any

from ..utils.errors import InputError


def check_choice(value: Any, allowed: tuple[str, ...], name: str) -> None:
    """Refuse a setting that is none of a few.

    Raises:
        InputError: naming the setting.
    """
    if value not in allowed:
        raise InputError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")


def at_least(value: float | None, least: float, name: str) -> None:
    """Refuse a setting below its least, or without end; None passes.

    Raises:
        InputError: naming the setting.
    """
    if value is not None and not least <= value < math.inf:
        raise InputError(f"{name} must be {least:g} or more, not {value:g}")


def check_seed(seed: int, name: str) -> None:
    """Refuse a seed that a generator cannot take.

    Raises:
        InputError: naming the setting.
    """
    if not 0 <= seed < 2**32:
        raise InputError(f"{name} must be a whole number from 0 to {2**32 - 1}, not {seed}")
