"""Patterns for Python's `re` as they were until it was found that it can be made to try for ever: the tests' oracle."""

from __future__ import annotations

import re

_ESCAPED = frozenset(".+()$")
"""Not ``{|}``, which moby means to escape, too: its table has room for what is below 64 only."""
_POSIX = {
    "alnum": "0-9A-Za-z", "alpha": "A-Za-z", "ascii": r"\x00-\x7f", "blank": r"\t ", "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9", "graph": "!-~", "lower": "a-z", "print": " -~", "punct": r"!-/:-@\[-`{-~", "space": r"\t\n\v\f\r ",
    "upper": "A-Z", "word": "0-9A-Za-z_", "xdigit": "0-9A-Fa-f",
}  # fmt: skip

_CLASSES = {"d": "0-9", "w": "0-9A-Za-z_", "s": r"\t\n\f\r "}


def old_pattern(text):
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


def _to_go(text):
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


def _to_python(expression, text):
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


def _escape(char, text):
    """Read a backslash and CHAR, outside of brackets."""
    if char.lower() in _CLASSES:
        return f"[{'^' if char.isupper() else ''}{_CLASSES[char.lower()]}]"
    if char == "z":
        return r"\Z"
    if char in {"b", "B"}:
        return rf"(?a:\{char})"
    return _escape_one(char, text)


def _escape_one(char, text):
    if char and char in "nrtfva":
        return "\\" + char
    if not char or (char.isascii() and char.isalnum()):
        raise ValueError(f"syntax error in pattern: {text!r}")
    return re.escape(char)


def _to_class(expression, at, text):
    negates = expression[at : at + 1] == "^"
    at += negates
    inside = []
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


def _to_member(expression, at, text):
    char = expression[at : at + 1]
    if not char:
        raise ValueError(f"syntax error in pattern: {text!r}")
    if char == "\\":
        char = expression[at + 1 : at + 2]
        return _CLASSES.get(char) or _escape_one(char, text), at + 2
    return re.escape(char), at + 1


def old_glob(pattern):
    """Return what matches what PATTERN does; ``*`` and ``?`` do not match a ``/``.

    Raises:
        ValueError: It is malformed.
    """
    out = []
    at = 0
    while at < len(pattern):
        char, at = pattern[at], at + 1
        if char == "*":
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


def _class(pattern, at):
    negates = pattern[at : at + 1] == "^"
    at += negates
    ranges = []
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


def _member(pattern, at):
    char = pattern[at : at + 1]
    if char == "\\":
        at += 1
        char = pattern[at : at + 1]
    elif char in {"", "-", "]"}:
        raise _malformed(pattern)
    if not char or at + 1 >= len(pattern):
        raise _malformed(pattern)
    return char, at + 1


def _malformed(pattern):
    return ValueError(f"syntax error in pattern: {pattern!r}")
