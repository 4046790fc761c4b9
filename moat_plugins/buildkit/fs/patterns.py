"""Ignore patterns exactly as moby matches them (its patternmatcher; the format is that of ``.dockerignore``).

All patterns are looked at in order and the last word counts: a positive one is tried if nothing matched yet, a
negative one if something did. A match of a folder counts for all below it, for each pattern by itself, so the results
of the parent are handed down.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable

import attrs

__all__ = ["Patterns", "State"]

State = tuple[bool, ...]
"""Which patterns match a path, or a folder that it is in."""

_WILDCARDS = frozenset("*[]?^\\")
_LITERAL = frozenset(".$()|+{}")


@attrs.frozen
class _Pattern:
    text: str
    negates: bool
    regex: re.Pattern[str]


class Patterns:
    """A list of patterns.

    Args:
        patterns: As the frontend sends them, ``!`` included. An empty line matches nothing.

    Raises:
        ValueError: One of them is malformed.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns = [_parse(text) for text in patterns if text.strip()]
        self._below = [_literal_start(each.text) for each in self._patterns if each.negates]

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def match(self, path: str, parent: State = ()) -> tuple[bool, State]:
        """Tell whether PATH matches, given the state of the folder it is in, and its own state."""
        matched = False
        state = []
        for number, each in enumerate(self._patterns):
            hit = bool(parent and parent[number]) or each.regex.fullmatch(path) is not None
            state.append(hit)
            if hit:
                matched = not each.negates
        return matched, tuple(state)

    def may_except_below(self, folder: str) -> bool:
        """Tell whether a negative pattern may match something in FOLDER: then it cannot be left out unseen."""
        return any(
            start is None or start.startswith(folder + "/") or start == folder or folder.startswith(start + "/")
            for start in self._below
        )

    def may_match_below(self, folder: str) -> bool:
        """Tell whether a positive pattern may match something in FOLDER."""
        return any(
            start is None or start.startswith(folder + "/")
            for start in (_literal_start(each.text) for each in self._patterns if not each.negates)
        )


def _parse(text: str) -> _Pattern:
    text = text.strip()
    negates = text.startswith("!")
    text = text[1:].strip() if negates else text
    if not text:
        raise ValueError("illegal exclusion pattern: '!'")
    text = posixpath.normpath(text).lstrip("/") or "."
    return _Pattern(text, negates, re.compile(_to_regex(text), re.DOTALL))


def _to_regex(text: str) -> str:
    out = []
    at = 0
    while at < len(text):
        char = text[at]
        at += 1
        if char == "*":
            if text[at : at + 1] == "*":
                at += 1
                if text[at : at + 1] == "/":
                    at += 1
                out.append(".*" if at >= len(text) else "(?:.*/)?")
            else:
                out.append("[^/]*")
        elif char == "?":
            out.append("[^/]")
        elif char == "[":
            end, piece = _class(text, at)
            out.append(piece)
            at = end
        elif char == "\\":
            if at >= len(text):
                raise ValueError(f"the pattern {text!r} ends in a backslash")
            out.append(re.escape(text[at]))
            at += 1
        else:
            out.append(re.escape(char) if char in _LITERAL or not char.isalnum() else char)
    return "".join(out)


def _class(text: str, start: int) -> tuple[int, str]:
    """Read ``[...]`` from behind its bracket: ``^`` negates, ``!`` does not; Go's regexp has the same classes."""
    end = start + 1 if text[start : start + 1] == "^" else start
    end = end + 1 if text[end : end + 1] == "]" else end
    while end < len(text) and text[end] != "]":
        end += 2 if text[end] == "\\" else 1
    if end >= len(text):
        raise ValueError(f"the pattern {text!r} has a bracket that is not closed")
    inside = text[start:end]
    negated = inside.startswith("^")
    inside = (
        inside.removeprefix("^").replace("[", "\\[").replace("&&", "&\\&").replace("||", "|\\|").replace("~~", "~\\~")
    )
    return end + 1, f"[{'^' if negated else ''}{inside}]"


def _literal_start(text: str) -> str | None:
    """Return the path that a pattern stands for; ``None`` if it has wildcards, and may be anywhere."""
    for ending in ("/**", "/*"):
        text = text.removesuffix(ending)
    return None if _WILDCARDS & set(text) else text
