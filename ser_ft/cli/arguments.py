"""What is written on the command line in one word: pairs, mappings, lists of numbers."""

from __future__ import annotations

from ..utils.errors import InputError


def parse_pair(text: str, what: str) -> tuple[str, str]:
    """Read NAME=VALUE."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip() or not value.strip():
        raise InputError(f"{what} is written NAME=VALUE, not {text!r}")
    return name.strip(), value.strip()


def parse_pairs(text: str, what: str) -> dict[str, str]:
    """Read NAME=VALUE,NAME=VALUE."""
    return parse_mapping([word for word in text.split(",") if word.strip()], what)


def parse_mapping(words: list[str], what: str) -> dict[str, str]:
    """Read words NAME=VALUE, each name once."""
    found: dict[str, str] = {}
    for name, value in (parse_pair(word, what) for word in words):
        if name in found:
            raise InputError(f"{what}: {name} is given twice")
        found[name] = value
    return found


def parse_integers(text: str, what: str) -> list[int]:
    """Read whole numbers, 0,1,2, each once."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdigit() for word in words) or len(set(words)) < len(words):
        raise InputError(f"{what} takes different whole numbers, as 0,1,2, not {text!r}")
    return [int(word) for word in words]
