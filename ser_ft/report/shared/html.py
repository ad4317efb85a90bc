"""Pages that hold everything and load nothing: how their templates are filled, and pictures put into them."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...audio import SAMPLE_RATE
from . import tables

_SHOWN = 0.66  # of a figure's pixels: its words are then about as large as the page's, and sharp on a fine screen


def render(template: str, contents: Mapping[str, Any]) -> str:
    """Fill a template of this folder; what comes from data is escaped.

    Args:
        template: its file's name. contents: the values that it names, all of them.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    shop = Environment(
        loader=PackageLoader("ser_ft", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shop.filters |= {
        "score": tables.score_text,
        "interval": _interval,
        "sentence": _sentence,
        "short_note": tables.short_note,
    }
    shop.globals["counted"] = counted
    return shop.get_template(template).render(contents)


def picture(png: bytes) -> dict[str, Any]:
    """Put a PNG into a data URI, with its size in pixels (4 bytes each from the header's 17th on) as shown."""
    width, height = (int.from_bytes(png[start : start + 4], "big") for start in (16, 20))
    return {
        "uri": "data:image/png;base64," + base64.b64encode(png).decode(),
        "width": round(width * _SHOWN),
        "height": round(height * _SHOWN),
    }


def sound(samples: np.ndarray) -> str:
    """Put samples (float at 16 kHz) into a data URI: FLAC, exact, half of WAV's size, and played everywhere."""
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, np.clip(samples, -1, 1), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return "data:audio/flac;base64," + base64.b64encode(file.getvalue()).decode()


def counted(number: int, thing: str) -> str:
    """Write a count: "1 clip", "1,440 clips"."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _interval(interval: Mapping[str, Any] | None) -> str:
    return tables.interval_text(interval["low"], interval["high"]) if interval else tables.NOTHING


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
