"""Ignore patterns exactly as moby matches them (its patternmatcher; the format is that of ``.dockerignore``).

All patterns are looked at in order and the last word counts: a positive one is tried if nothing matched yet, a
negative one if something did. A match of a folder counts for all below it, for each pattern by itself, so the results
of the parent are handed down; a pattern that was not tried for the folder has not matched it.

moby makes a regular expression of Go's kind of a pattern, character by character, and some odd patterns mean something
because of that. So the same expression is made here, and read as Go would read it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import attrs

from moat_plugins.buildkit.fs.glob import clean, compile_glob

__all__ = ["Patterns", "State"]

State = tuple[bool, ...]
"""Which patterns match a path, or a folder that it is in."""

_WILDCARDS = frozenset("*[]?^\\")
_ESCAPED = frozenset(".+()$")
"""Not ``{|}``, which moby means to escape, too: its table has room for what is below 64 only."""
_POSIX = {
    "alnum": "0-9A-Za-z", "alpha": "A-Za-z", "ascii": r"\x00-\x7f", "blank": r"\t ", "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9", "graph": "!-~", "lower": "a-z", "print": " -~", "punct": r"!-/:-@\[-`{-~", "space": r"\t\n\v\f\r ",
    "upper": "A-Z", "word": "0-9A-Za-z_", "xdigit": "0-9A-Fa-f",
}  # fmt: skip

_CLASSES = {"d": "0-9", "w": "0-9A-Za-z_", "s": r"\t\n\f\r "}


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
    return _Pattern(text, negates, _compile(text))


def _compile(text: str) -> Callable[[str], bool]:
    """Return what tells whether a path matches. Stars at one end alone mean an end, not what they mean elsewhere."""
    kind, expression = _to_go(text)
    if kind == "suffix":
        suffix = text[2:]
        return lambda path: path.endswith(suffix) or (suffix.startswith("/") and path == suffix[1:])
    if kind == "prefix":
        prefix = text[:-2]
        return lambda path: path.startswith(prefix)
    if kind == "exact":
        return lambda path: path == text
    # For Go, the beginning of a text can be there several times.
    python = re.sub(r"^\{\d+(?:,\d*)?\}", "", _to_python(expression, text))
    try:
        found = re.compile(rf"^{python}\Z")
    except re.error:
        raise ValueError(f"syntax error in pattern: {text!r}") from None
    return lambda path: found.search(path) is not None


def _to_go(text: str) -> tuple[str, str]:
    """Return how moby matches: ``exact``, ``prefix``, ``suffix`` or ``regexp``, and the expression for the last."""
    kind, out, at = "exact", [], 0
    while at < len(text):
        start, char, at = at, text[at], at + 1
        if char == "*" and text[at : at + 1] == "*":
            at += 1
            at += text[at : at + 1] == "/"
            is_last = at >= len(text)
            kind = "prefix" if is_last and kind == "exact" else "regexp"
            kind = "suffix" if start == 0 else kind
            out.append(".*" if is_last else "(.*/)?")
        elif char in "*?":
            kind = "regexp"
            out.append("[^/]*" if char == "*" else "[^/]")
        elif char == "\\":
            kind = "regexp"
            out.append(char + text[at : at + 1])
            at += 1
        elif char in _ESCAPED:
            out.append("\\" + char)
        else:
            kind = "regexp" if char in "[]" else kind
            out.append(char)
    return kind, "".join(out)


def _to_python(expression: str, text: str) -> str:
    """Write an expression of Go's for Python."""
    out, at = [], 0
    while at < len(expression):
        char, at = expression[at], at + 1
        if char == "\\":
            is_letter = expression[at : at + 2] == "pL"
            out.append(r"[^\W\d_]" if is_letter else _escape(expression[at : at + 1], text))
            at += 1 + is_letter
        elif char == "[":
            piece, at = _to_class(expression, at, text)
            out.append(piece)
        else:
            out.append(char)
    return "".join(out)


def _escape(char: str, text: str) -> str:
    """Read a backslash and CHAR, outside of brackets."""
    if char.lower() in _CLASSES:
        return f"[{'^' if char.isupper() else ''}{_CLASSES[char.lower()]}]"
    if char == "z":
        return r"\Z"
    if char in {"b", "B"}:
        return rf"(?a:\{char})"
    return _escape_one(char, text)


def _escape_one(char: str, text: str) -> str:
    if char and char in "nrtfva":
        return "\\" + char
    if not char or (char.isascii() and char.isalnum()):
        raise ValueError(f"syntax error in pattern: {text!r}")
    return re.escape(char)


def _to_class(expression: str, at: int, text: str) -> tuple[str, int]:
    negates = expression[at : at + 1] == "^"
    at += negates
    inside: list[str] = []
    while expression[at : at + 1] != "]" or not inside:
        if posix := re.compile(r"\[:(\^?)(\w+):\]").match(expression, at):
            if posix[1] or posix[2] not in _POSIX:
                raise ValueError(f"syntax error in pattern: {text!r}")
            inside.append(_POSIX[posix[2]])
            at = posix.end()
            continue
        low, at = _to_member(expression, at, text)
        high = low
        if expression[at : at + 1] == "-" and expression[at + 1 : at + 2] not in {"", "]"}:
            high, at = _to_member(expression, at + 1, text)
            inside.append(f"{low}-{high}")
        else:
            inside.append(low)
    try:
        re.compile(f"[{''.join(inside)}]")
    except re.error:
        raise ValueError(f"syntax error in pattern: {text!r}") from None
    return f"[{'^' if negates else ''}{''.join(inside)}]", at + 1


def _to_member(expression: str, at: int, text: str) -> tuple[str, int]:
    char = expression[at : at + 1]
    if not char:
        raise ValueError(f"syntax error in pattern: {text!r}")
    if char == "\\":
        char = expression[at + 1 : at + 2]
        return _CLASSES.get(char) or _escape_one(char, text), at + 2
    return re.escape(char), at + 1


def _literal_start(text: str) -> str | None:
    """Return the path that a pattern stands for; ``None`` if it has wildcards, and may be anywhere."""
    for ending in ("/**", "/*"):
        text = text.removesuffix(ending)
    return None if _WILDCARDS & set(text) else text
