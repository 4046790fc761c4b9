"""Ignore patterns exactly as moby matches them (its patternmatcher; the format is that of ``.dockerignore``).

All patterns are looked at in order and the last word counts: a positive one is tried if nothing matched yet, a
negative one if something did. A match of a folder counts for all below it, for each pattern by itself, so the results
of the parent are handed down; a pattern that was not tried for the folder has not matched it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import attrs

from moat_plugins.buildkit.fs.compiled import compile_pattern
from moat_plugins.buildkit.fs.glob import clean, compile_glob

__all__ = ["Patterns", "State"]

State = tuple[bool, ...]
"""Which patterns match a path, or a folder that it is in."""

_WILDCARDS = frozenset("*[]?^\\")


@attrs.frozen
class _Pattern:
    text: str
    negates: bool
    matches: Callable[[str], bool]


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
            hit = bool(parent) and parent[number]
            if not hit and each.negates == matched:
                hit = each.matches(path)
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
            start is None or start == folder or start.startswith(folder + "/")
            for start in (_literal_start(each.text) for each in self._patterns if not each.negates)
        )


def _parse(text: str) -> _Pattern:
    text = clean(text.strip())
    negates = text.startswith("!")
    text = text[1:] if negates else text
    if not text:
        raise ValueError("illegal exclusion pattern: '!'")
    compile_glob(text)  # moby's check of the syntax
    return _Pattern(text, negates, compile_pattern(text))


def _literal_start(text: str) -> str | None:
    """Return the path that a pattern stands for; ``None`` if it has wildcards, and may be anywhere."""
    for ending in ("/**", "/*"):
        text = text.removesuffix(ending)
    return None if _WILDCARDS & set(text) else text
