"""Reads YAML and JSON that others may have written: small, flat enough, and without aliases that expand."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import InputError

if TYPE_CHECKING:
    from yaml import SafeLoader

MAX_YAML_BYTES = 2**20
MAX_JSON_BYTES = 2**25
"""A split of a million clips takes about 30 MB."""
_MAX_DEPTH = 100
_MAX_NODES = 200_000
"""Of a YAML text, with each alias expanded."""
_MAX_CONTAINERS = 1_000_000
"""Of a JSON text: its lists and mappings, which take the most memory."""
_MAX_DIGITS = 1000
_JSON_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[\[{\]}]', re.DOTALL)
"""A bracket, or a string, in which brackets do not count."""


def read_yaml(file: str | Path) -> Any:
    """Read a YAML file.

    Raises:
        OSError: the file cannot be read.
        InputError: it is too large, too deeply nested, its aliases expand to too much, or it is not YAML.
    """
    return parse_yaml(read_text(file, MAX_YAML_BYTES), str(file))


def read_json(file: str | Path) -> Any:
    """Read a JSON file; the errors are as in `read_yaml`."""
    return parse_json(read_text(file), str(file))


def parse_yaml(text: str, source: str) -> Any:
    """Parse YAML; `source` names it in messages. The errors are as in `read_yaml`."""
    import yaml

    check_yaml(text, source)
    try:
        return yaml.load(text, Loader=_yaml_loader())
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise InputError(f"{source}: not YAML ({_one_line(error)})") from error


def parse_json(text: str, source: str) -> Any:
    """Parse JSON; `source` names it in messages. The errors are as in `read_yaml`."""
    depth = containers = 0
    for token in _JSON_BRACKET.finditer(text):
        is_start = token[0] in "[{"
        depth += is_start - (token[0] in "]}")
        containers += is_start
        if depth > _MAX_DEPTH:
            raise InputError(f"{source}: its values are nested too deeply")
    if containers > _MAX_CONTAINERS:
        raise InputError(f"{source}: holds more than {_MAX_CONTAINERS:,} lists and mappings")
    try:
        return json.loads(text)
    except ValueError as error:
        raise InputError(f"{source}: not JSON ({_one_line(error)})") from error


def check_yaml(text: str, source: str) -> None:
    """Check the size of YAML before its values are made; text that is not YAML passes.

    Raises:
        InputError: the text is too large, too deeply nested, or its aliases expand to too much.
    """
    import yaml

    if len(text) > MAX_YAML_BYTES:
        raise InputError(f"{source}: larger than {MAX_YAML_BYTES // 2**20} MiB")
    sizes: dict[str | None, int] = {}
    open_nodes: list[tuple[str | None, int]] = [(None, 0)]  # anchor and size of each node that is not complete
    try:
        for event in yaml.parse(text, Loader=_yaml_loader()):
            if isinstance(event, yaml.CollectionStartEvent):
                open_nodes.append((event.anchor, 0))
                continue
            size = 1
            if isinstance(event, yaml.CollectionEndEvent):
                anchor, size = open_nodes.pop()
                size += 1
                sizes[anchor] = size
            elif isinstance(event, yaml.AliasEvent):
                if event.anchor in {anchor for anchor, _ in open_nodes}:
                    raise InputError(f"{source}: the alias *{event.anchor} contains itself")
                size = sizes.get(event.anchor, 1)
            elif isinstance(event, yaml.ScalarEvent):
                sizes[event.anchor] = 1
                # Numbers of base 60, such as 1:30:00, take a time that grows with the square of their length.
                if len(event.value) > _MAX_DIGITS and not event.value.strip("0123456789:._+-"):
                    raise InputError(f"{source}: holds a number with more than {_MAX_DIGITS:,} digits")
            anchor, total = open_nodes[-1]
            open_nodes[-1] = anchor, total + size
            if len(open_nodes) > _MAX_DEPTH:
                raise InputError(f"{source}: its values are nested too deeply")
            if total + size > _MAX_NODES:
                raise InputError(f"{source}: holds more than {_MAX_NODES:,} values, with its aliases expanded")
    except yaml.YAMLError:
        return


def _yaml_loader() -> type[SafeLoader]:
    import yaml

    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_text(file: str | Path, max_bytes: int = MAX_JSON_BYTES) -> str:
    """Read a text file in UTF-8; the errors are as in `read_yaml`."""
    with Path(file).open("rb") as content:
        beginning = content.read(max_bytes + 1)
    if len(beginning) > max_bytes:
        raise InputError(f"{file}: larger than {max_bytes // 2**20} MiB")
    try:
        return beginning.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not text in UTF-8") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
