"""An upper estimate of the energy that training took, from the measured time and the power of the hardware."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_BOARD_WATTS = {
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
"""Board power in W, as the manufacturers state it. The first board whose words are in a device's name is taken."""
WATTS_PER_CORE = 10
"""Power of a busy CPU core, roughly: thermal design power of a server processor divided by its cores."""
GRAMS_PER_KWH = 480
"""Carbon dioxide per kilowatt hour, world average of 2023: Ember, Global Electricity Review 2024."""


@dataclass(frozen=True)
class Energy:
    """The energy of a training run.

    Attributes:
        watts: highest power of the hardware.
        hardware: the hardware.
        kilowatt_hours: the energy.
        grams: the carbon dioxide.
    """

    watts: int
    hardware: str
    kilowatt_hours: float
    grams: float


def estimate_energy(environment: Mapping[str, Any]) -> Energy | None:
    """Estimate the energy of a run's training.

    Args:
        environment: the run's environment: device, processes, torch_threads, and seconds of training.

    Returns:
        The estimate, or None if the time was not measured or the device's power is unknown.
    """
    seconds, device = environment.get("seconds"), str(environment.get("device", ""))
    processes = int(environment.get("processes", 1))
    if not seconds:
        return None
    if device == "cpu":
        cores = processes * int(environment.get("torch_threads", 1))
        watts, hardware = WATTS_PER_CORE * cores, f"{cores} CPU core{'s' * (cores > 1)}"
    else:
        board = next((name for name in _BOARD_WATTS if re.search(rf"\b{name}\b", device)), None)
        if board is None:
            return None
        watts, hardware = _BOARD_WATTS[board] * processes, f"{processes} x {device}"
    kilowatt_hours = watts * float(seconds) / 3.6e6
    return Energy(watts, hardware, kilowatt_hours, kilowatt_hours * GRAMS_PER_KWH)
