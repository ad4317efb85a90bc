"""A parsed HTML page: its elements, table rows and text."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

LOADING_ATTRIBUTES = {"src", "srcset", "data", "poster", "action", "background"}


class Page(HTMLParser):
    """Read a page.

    Attributes:
        elements: tag and attributes of each element.
        rows: the cells' text of each table row.
        source: the HTML.
        text: all text, with single spaces.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.rows: list[list[str]] = []
        self.words: list[str] = []
        self.in_cell = False
        self.source = file.read_text(encoding="utf-8")
        self.feed(self.source)
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self.in_cell &= tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self.in_cell:
            self.rows[-1][-1] += data.strip()

    def row(self, first_cell: str) -> list[str]:
        return next(row for row in self.rows if row and row[0] == first_cell)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def check_self_contained(self) -> None:
        """Check that the page runs no scripts and loads nothing."""
        for tag, attributes in self.elements:
            assert tag not in ("script", "link", "iframe", "object", "embed", "base", "form")
            assert not any(name.startswith("on") for name in attributes)
            for name in LOADING_ATTRIBUTES & attributes.keys():
                assert attributes[name].startswith("data:")
            if tag == "a":
                assert re.match(r"#|https://doi\.org/", attributes["href"])
        assert "@import" not in self.source
        assert "url(" not in self.source
        assert any("default-src 'none'" in meta.get("content", "") for meta in self.all("meta"))
