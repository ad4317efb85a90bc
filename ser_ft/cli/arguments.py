"""Parsing of command-line values: pairs, mappings and lists of numbers."""

from __future__ import annotations

from ..utils.errors import InputError


def parse_pair(text: str, option: str) -> tuple[str, str]:
    """Parse NAME=VALUE."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip() or not value.strip():
        raise InputError(f"{option} is written NAME=VALUE, not {text!r}")
    return name.strip(), value.strip()


def parse_pairs(text: str, option: str) -> dict[str, str]:
    """Parse NAME=VALUE,NAME=VALUE."""
    return parse_mapping([word for word in text.split(",") if word.strip()], option)


def parse_mapping(words: list[str], option: str) -> dict[str, str]:
    """Parse a list of NAME=VALUE with different names."""
    values: dict[str, str] = {}
    for name, value in (parse_pair(word, option) for word in words):
        if name in values:
            raise InputError(f"{option}: {name} is given twice")
        values[name] = value
    return values


def parse_integers(text: str, option: str) -> list[int]:
    """Parse different non-negative integers, 0,1,2."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdigit() for word in words) or len(set(words)) < len(words):
        raise InputError(f"{option} takes different whole numbers, such as 0,1,2, not {text!r}")
    return [int(word) for word in words]
