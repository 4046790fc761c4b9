"""Go's ``path/filepath.Match`` as a regular expression, and Go's ``filepath.Clean``."""

from __future__ import annotations

import posixpath
import re

__all__ = ["clean", "compile_glob", "has_wildcards"]


def clean(path: str) -> str:
    """Return the shortest name of PATH, as Go has it: unlike Python, it knows no ``//``."""
    path = posixpath.normpath(path)
    return path[1:] if path.startswith("//") else path


def has_wildcards(name: str) -> bool:
    """Tell whether NAME has a wildcard that is not escaped."""
    return re.sub(r"\\.", "", name, flags=re.DOTALL) != re.sub(r"\\.|[*?\[]", "", name, flags=re.DOTALL)


def compile_glob(pattern: str) -> re.Pattern[str]:
    """Return what matches what PATTERN does; ``*`` and ``?`` do not match a ``/``.

    A star takes as little as what is between it and the next one allows, and keeps to that, as Go does: Python would
    try all else when the rest does not match, and with many stars never come to an end.

    Raises:
        ValueError: It is malformed.
    """
    out: list[str] = []
    at = 0
    star: int | None = None
    while at < len(pattern):
        char, at = pattern[at], at + 1
        if char == "*":
            if star is not None:
                out[star] = "(?>[^/]*?"
                out.append(")")
            star = len(out)
            out.append("[^/]*")
        elif char == "?":
            out.append("[^/]")
        elif char == "[":
            piece, at = _class(pattern, at)
            out.append(piece)
        elif char == "\\":
            if at >= len(pattern):
                raise _malformed(pattern)
            out.append(re.escape(pattern[at]))
            at += 1
        else:
            out.append(re.escape(char))
    return re.compile("".join(out), re.DOTALL)


def _class(pattern: str, at: int) -> tuple[str, int]:
    negates = pattern[at : at + 1] == "^"
    at += negates
    ranges: list[tuple[str, str]] = []
    while pattern[at : at + 1] != "]" or not ranges:
        low, at = _member(pattern, at)
        high = low
        if pattern[at : at + 1] == "-":
            high, at = _member(pattern, at + 1)
        ranges.append((low, high))
    inside = "".join(f"{re.escape(low)}-{re.escape(high)}" for low, high in ranges if low <= high)
    if not inside:  # ranges that hold nothing are allowed
        return ("." if negates else "(?!)"), at + 1
    return f"[{'^' if negates else ''}{inside}]", at + 1


def _member(pattern: str, at: int) -> tuple[str, int]:
    char = pattern[at : at + 1]
    if char == "\\":
        at += 1
        char = pattern[at : at + 1]
    elif char in {"", "-", "]"}:
        raise _malformed(pattern)
    if not char or at + 1 >= len(pattern):
        raise _malformed(pattern)
    return char, at + 1


def _malformed(pattern: str) -> ValueError:
    return ValueError(f"syntax error in pattern: {pattern!r}")
