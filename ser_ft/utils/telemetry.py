"""Switches off what libraries report to their makers; ser_ft calls this before any of them is imported."""

from __future__ import annotations

import os

# onnxruntime writes a device id and a database of events below HOME, and sends them, if this is not set when it is
# imported: onnxruntime/Privacy.md. The others count imports, starts and downloads.
_SETTINGS = {
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def disable_telemetry() -> None:
    """Set the environment variables that switch telemetry off, except those that the user has set."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
