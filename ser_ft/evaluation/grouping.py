"""The groups of clips that a part's scores are told apart by: gender, intensity, duration, speaker."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..data.corpora.folder import UNKNOWN_SPEAKER
from ..utils.errors import InputError

# The edges of the durations told apart, in seconds; a clip on an edge belongs to the longer ones.
DURATION_EDGES = (2, 3, 4)
DURATIONS = (
    f"under {DURATION_EDGES[0]} s",
    *(f"{low} to {high} s" for low, high in pairwise(DURATION_EDGES)),
    f"{DURATION_EDGES[-1]} s and over",
)
# Groups stand in this order, others after them by name.
_ORDER = (*DURATIONS, "low", "medium", "normal", "high", "strong")


def duration_groups(durations: ArrayLike) -> list[str | None]:
    """Name the group of each clip's duration.

    Args:
        durations: in seconds, shape (N,), nan where one is not known.

    Returns:
        names out of `DURATIONS`, None where the duration is not known.
    """
    seconds = np.asarray(durations, dtype=np.float64)
    places = np.digitize(seconds, DURATION_EDGES).tolist()
    return [None if missing else DURATIONS[at] for at, missing in zip(places, np.isnan(seconds), strict=True)]


def group_masks(values: Sequence[object], what: str, clips: int) -> dict[str, NDArray[np.bool_]]:
    """Find the clips of each group.

    Args:
        values: the group of each clip, shape (clips,). One of unknown value is in none: None, nan, an empty text, or
            a speaker whose name says that it is unknown.
        what: names the values where they are not as many as the clips.
        clips: their number.

    Returns:
        group -> which clips are in it, shape (clips,).

    Raises:
        InputError: more or fewer values than clips.
    """
    if len(values) != clips:
        raise InputError(f"{clips} labels, but {len(values)} values of {what}")
    groups = np.array([value if is_known(value) else "" for value in values], dtype=np.str_)
    names = sorted({*groups.tolist()} - {""}, key=lambda name: (_place(name), name))
    return {name: groups == name for name in names}


def is_known(value: object) -> bool:
    """Say whether a group's value tells a group: a text, not empty, that is no speaker of unknown name."""
    return isinstance(value, str) and bool(value) and value.rpartition("-")[2] != UNKNOWN_SPEAKER


def _place(name: str) -> int:
    return _ORDER.index(name) if name in _ORDER else len(_ORDER)
