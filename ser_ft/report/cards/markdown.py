"""Cards: Markdown pages whose numbers come from files, and whose words from data can break nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..shared import tables
from ..shared.html import counted

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~])")


class Markdown(str):
    """Text that stands in the page as it is: our own Markdown, or what is inside a block of code."""

    __slots__ = ()


def render(template: str, contents: Mapping[str, Any]) -> str:
    """Fill a Markdown template of this folder; what comes from data is escaped, in one line.

    Args:
        template: its file's name. contents: the values that it names, all of them.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    shop = Environment(
        loader=PackageLoader("ser_ft", ""),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_shown,
    )
    shop.filters |= {
        "score": tables.score_text,
        "interval": _interval,
        "literal": Markdown,
        "code": _code,
        "short_note": tables.short_note,
    }
    shop.globals["counted"] = counted
    page = shop.get_template(template).render(contents)
    return re.sub(r"\n{3,}", "\n\n", page).strip() + "\n"


def front_matter(head: Mapping[str, Any]) -> str:
    """Write a card's metadata, which the Hub reads: YAML between lines of dashes."""
    import yaml

    return f"---\n{yaml.safe_dump(dict(head), sort_keys=False, allow_unicode=True)}---\n\n"


def _shown(value: Any) -> Any:
    """Write a value: of words from data no sign is Markdown or HTML."""
    if isinstance(value, Markdown) or not isinstance(value, str):
        return value
    return _SPECIAL.sub(r"\\\1", " ".join(value.split()))


def _code(text: str) -> Markdown:
    """Write words as code, in one line."""
    return Markdown("`" + " ".join(text.replace("`", "'").split()).replace("|", "\\|") + "`")


def _interval(scores: Mapping[str, Any]) -> str:
    found = scores.get("uar_interval")
    return f"{found['low']:.3f} to {found['high']:.3f}" if found else tables.NOTHING
