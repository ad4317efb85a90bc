"""Groups of clips with metrics of their own: gender, intensity, duration, speaker."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..data.corpora.folder import UNKNOWN_SPEAKER
from ..utils.errors import InputError

# Edges of the duration groups in seconds; a clip on an edge belongs to the longer group.
DURATION_EDGES = (2, 3, 4)
DURATIONS = (
    f"under {DURATION_EDGES[0]} s",
    *(f"{low} to {high} s" for low, high in pairwise(DURATION_EDGES)),
    f"{DURATION_EDGES[-1]} s and over",
)
# These groups come first and in this order, all others after them by name.
_ORDER = (*DURATIONS, "low", "medium", "normal", "high", "strong")


def duration_groups(durations: ArrayLike) -> list[str | None]:
    """Return the duration group of each clip, a name from `DURATIONS`, from seconds; None if it is unknown (nan)."""
    seconds = np.asarray(durations, dtype=np.float64)
    bins = np.digitize(seconds, DURATION_EDGES).tolist()
    return [None if missing else DURATIONS[index] for index, missing in zip(bins, np.isnan(seconds), strict=True)]


def group_masks(values: Sequence[object], what: str, clips: int) -> dict[str, NDArray[np.bool_]]:
    """Return group -> mask of its clips, shape (clips,). A clip with an unknown value (see `is_known`) is in no group.

    `values` is the group of each clip, and `what` names the values in the error message if there are not `clips` of
    them.
    """
    if len(values) != clips:
        raise InputError(f"{clips} labels, but {len(values)} values of {what}")
    groups = np.array([value if is_known(value) else "" for value in values], dtype=np.str_)
    positions = {name: position for position, name in enumerate(_ORDER)}
    names = sorted({*groups.tolist()} - {""}, key=lambda name: (positions.get(name, len(_ORDER)), name))
    return {name: groups == name for name in names}


def is_known(value: object) -> bool:
    """Return whether a value names a group: a text that is neither empty nor the name of an unknown speaker."""
    return isinstance(value, str) and bool(value) and value.rpartition("-")[2] != UNKNOWN_SPEAKER
