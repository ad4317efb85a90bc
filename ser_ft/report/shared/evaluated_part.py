"""What a run is judged on, in words and numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...evaluation.run_folder import PARTS
from .html import counted


def judged_part(metrics: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the part that a run is judged on, and its scores: test, or the last part that there is."""
    name = next(part for part in reversed(PARTS) if part in metrics["parts"])
    return name, metrics["parts"][name]


def sample(metrics: Mapping[str, Any]) -> str:
    """Say what the part holds that a run is judged on: "test: 96 clips of 6 unseen speakers"."""
    part, scores = judged_part(metrics)
    unknown = "seen" in metrics and metrics["seen"] is None
    before = "" if part == "train" or metrics["split"]["leaking"] or unknown else "unseen "
    after = " also heard in training" if metrics["split"]["leaking"] and part != "train" else ""
    return f"{part}: {counted(scores['clips'], 'clip')} of {counted(scores['speakers'], f'{before}speaker')}{after}"
