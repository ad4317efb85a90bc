"""How much energy training took, at most: an estimate from the measured time, for no meter was read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Board power as the makers state it, W; the first whose words a device's name holds.
_BOARDS = {
    "H200": 700,
    "H100": 700,
    "A100": 400,
    "V100": 300,
    "A10G": 150,
    "L40S": 350,
    "L40": 300,
    "L4": 72,
    "T4": 70,
    "RTX 4090": 450,
    "RTX 3090 Ti": 450,
    "RTX 3090": 350,
}
WATTS_A_CORE = 10
"""Of a CPU core at work, roughly: a server processor's thermal design power by its cores."""
GRAMS_A_KWH = 480
"""Carbon dioxide per kilowatt hour, world average of 2023: Ember, Global Electricity Review 2024."""


@dataclass(frozen=True)
class Energy:
    """What training took: watts at most, of which hardware, kilowatt hours, and grams of carbon dioxide."""

    watts: int
    hardware: str
    kilowatt_hours: float
    grams: float


def energy(environment: Mapping[str, Any]) -> Energy | None:
    """Estimate the energy of a run's training.

    Args:
        environment: of a run: device, processes, torch_threads, and seconds of training.

    Returns:
        None where the time was not measured, or the device's power is not known.
    """
    seconds, device = environment.get("seconds"), str(environment.get("device", ""))
    processes = int(environment.get("processes", 1))
    if not seconds:
        return None
    if device == "cpu":
        cores = processes * int(environment.get("torch_threads", 1))
        watts, hardware = WATTS_A_CORE * cores, f"{cores} CPU core{'s' * (cores > 1)}"
    else:
        board = next((name for name in _BOARDS if re.search(rf"\b{name}\b", device)), None)
        if board is None:
            return None
        watts, hardware = _BOARDS[board] * processes, f"{processes} x {device}"
    spent = watts * float(seconds) / 3.6e6
    return Energy(watts, hardware, spent, spent * GRAMS_A_KWH)
