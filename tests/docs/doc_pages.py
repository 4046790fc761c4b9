"""Code blocks and headings of Markdown pages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

_BLOCK = re.compile(r"^```(\S+)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block, and the line of the page on which its code begins."""

    line: int
    code: str


def blocks(page: Path, language: str) -> list[Block]:
    """Return the fenced blocks of PAGE in LANGUAGE."""
    text = page.read_text()
    return [
        Block(text.count("\n", 0, match.start(2)) + 1, match[2])
        for match in _BLOCK.finditer(text)
        if match[1] == language
    ]


def headings(page: Path, level: int) -> list[str]:
    """Return the headings of PAGE of that LEVEL, outside of code."""
    text = _BLOCK.sub("", page.read_text())
    return [line.removeprefix("#" * level + " ") for line in text.splitlines() if re.match(rf"#{{{level}}} ", line)]


def pages() -> list[Path]:
    """Return every page that people read: README, CONTRIBUTING, docs."""
    built = DOCS / "_build"
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(p for p in DOCS.rglob("*.md") if built not in p.parents)]
