"""Text that came from inside a container or a build, made safe to be shown on somebody's terminal."""

from __future__ import annotations

__all__ = ["last_lines", "printable"]


def printable(text: str) -> str:
    """Return TEXT without what a terminal would act on: escape sequences, carriage returns, other controls."""
    return "".join(char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in text)


def last_lines(data: bytes, count: int) -> str:
    """Return the last COUNT lines of DATA, printable, without empty ones at either end."""
    lines = data.decode("utf-8", "replace").replace("\r\n", "\n").strip().split("\n")
    return printable("\n".join(lines[-count:]))
