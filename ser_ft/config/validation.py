"""Checks that the dataclasses of `ser_ft.config` share."""

from __future__ import annotations

import math
from typing import Any

from ..utils.errors import InputError


def check_choice(value: str, allowed: tuple[str, ...], name: str) -> None:
    """Raise an InputError if a setting is none of the allowed values."""
    if value not in allowed:
        raise InputError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")


def check_minimum(section: Any, section_name: str, minimum: float, *names: str) -> None:
    """Raise an InputError if a setting of a section is below the minimum or infinite; None passes."""
    for name in names:
        value = getattr(section, name)
        if value is not None and not minimum <= value < math.inf:
            raise InputError(f"{section_name}.{name} must be {minimum:g} or more, not {value:g}")


def check_positive(section: Any, section_name: str, *names: str) -> None:
    """Raise an InputError if a setting of a section is not a finite number above 0; None passes."""
    for name in names:
        value = getattr(section, name)
        if value is not None and not 0 < value < math.inf:
            raise InputError(f"{section_name}.{name} must be above 0, not {value:g}")


def check_fraction(section: Any, section_name: str, *names: str) -> None:
    """Raise an InputError if a setting of a section is not a fraction from 0 to below 1; None passes."""
    for name in names:
        value = getattr(section, name)
        if value is not None and not 0 <= value < 1:
            raise InputError(f"{section_name}.{name} must be a fraction from 0 to below 1, not {value:g}")


def check_seed(seed: int, name: str) -> None:
    """Raise an InputError if a random generator cannot take the seed."""
    if not 0 <= seed < 2**32:
        raise InputError(f"{name} must be a whole number from 0 to {2**32 - 1}, not {seed}")


def check_run_folder_flags(overwrite: bool, resume: bool) -> None:
    """Raise an InputError if a run is to be both overwritten and resumed."""
    if overwrite and resume:
        raise InputError("overwrite and resume exclude each other: give one of them")
