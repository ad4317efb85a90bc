"""Fills the templates of HTML pages and Markdown cards, and embeds pictures and sound in them."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ...audio import SAMPLE_RATE
from ...utils import text
from ...utils.text import printable

if TYPE_CHECKING:
    from jinja2 import Environment

_DISPLAY_SCALE = 0.66
"""Displayed size of a figure relative to its pixels, so that its text is about as large as the text of the page."""
_MARKDOWN_CHARACTERS = re.compile(r"([\\`*_{}\[\]<>|#~&$])")


class Markdown(str):
    """Text that a card shows without escaping: Markdown of our own, or the content of a code block."""

    __slots__ = ()


def render_template(template: str, contents: Mapping[str, Any]) -> str:
    """Fill a template, for example "report/run/report.html.j2".

    Values are escaped: as HTML in `.html.j2`, as one line of Markdown in `.md.j2`. A name without a value is an error.
    """
    is_markdown = template.endswith(".md.j2")
    page = _environment(is_markdown).get_template(template).render(contents)
    return re.sub(r"\n{3,}", "\n\n", page).strip() + "\n" if is_markdown else page


@cache
def _environment(is_markdown: bool) -> Environment:
    """Return what compiles templates, once, and keeps them."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("ser_ft", ""),
        autoescape=not is_markdown,
        finalize=_escape_markdown if is_markdown else _escape_control_characters,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "score": text.score_text,
        "interval": lambda item: text.interval_text(item["low"], item["high"]) if item else text.MISSING,
        "column_heading": text.column_heading,
        "sentence": lambda words: words[:1].upper() + words[1:],
        "short_note": text.short_note,
        "size": text.size_text,
        "time": text.time_text,
        "literal": Markdown,
        "code": _code,
        "code_block": _code_block,
    }
    environment.globals["count_text"] = text.count_text
    return environment


def front_matter(metadata: Mapping[str, Any]) -> str:
    """Return the metadata of a Hub card: YAML between two lines of dashes."""
    import yaml

    text = yaml.safe_dump(dict(metadata), sort_keys=False, allow_unicode=True)
    if printable(text, keep_lines=True) != text:
        text = yaml.safe_dump(dict(metadata), sort_keys=False)  # with escapes
    return f"---\n{text}---\n\n"


def embed_png(png: bytes) -> dict[str, Any]:
    """Return a PNG as data URI, with its displayed width and height (pixels)."""
    # The header of a PNG holds width and height as 4 bytes each from byte 16 on.
    width, height = (int.from_bytes(png[start : start + 4], "big") for start in (16, 20))
    return {
        "uri": "data:image/png;base64," + base64.b64encode(png).decode(),
        "width": round(width * _DISPLAY_SCALE),
        "height": round(height * _DISPLAY_SCALE),
    }


def audio_data_uri(samples: np.ndarray) -> str:
    """Return samples (float, 16 kHz, shape (samples,)) as data URI."""
    import soundfile

    # FLAC is exact, half the size of WAV, and plays in every browser.
    file = io.BytesIO()
    soundfile.write(file, np.clip(samples, -1, 1), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return "data:audio/flac;base64," + base64.b64encode(file.getvalue()).decode()


def _escape_control_characters(value: Any) -> Any:
    return printable(value, keep_lines=True) if isinstance(value, str) else value


def _escape_markdown(value: Any) -> Any:
    if isinstance(value, Markdown) or not isinstance(value, str):
        return value
    return _MARKDOWN_CHARACTERS.sub(r"\\\1", printable(" ".join(value.split())))


def _code(words: str) -> Markdown:
    return Markdown("`" + printable(" ".join(words.replace("`", "'").split())).replace("|", "\\|") + "`")


def _code_block(text: str, language: str) -> Markdown:
    fence = max(["``", *re.findall("`+", text)], key=len) + "`"  # longer than any within the text
    return Markdown(f"{fence}{language}\n{printable(text, keep_lines=True)}\n{fence}")
