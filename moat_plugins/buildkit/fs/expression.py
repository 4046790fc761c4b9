"""Go's regular expressions, as far as moby makes them of an ignore pattern, taken apart into pieces.

What becomes of the pieces is decided elsewhere: Go's engine takes time in proportion to the text, Python's may take
for ever, so only some may be given to it.
"""

from __future__ import annotations

import re

import attrs

__all__ = ["BEGIN", "END", "FOLDERS", "NO_SLASH", "Piece", "parse"]

_POSIX = {
    "alnum": "0-9A-Za-z", "alpha": "A-Za-z", "ascii": r"\x00-\x7f", "blank": r"\t ", "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9", "graph": "!-~", "lower": "a-z", "print": " -~", "punct": r"!-/:-@\[-`{-~", "space": r"\t\n\v\f\r ",
    "upper": "A-Z", "word": "0-9A-Za-z_", "xdigit": "0-9A-Fa-f",
}  # fmt: skip
_CLASSES = {"d": "0-9", "w": "0-9A-Za-z_", "s": r"\t\n\f\r "}
_COUNTS = re.compile(r"\*|\{(0|[1-9][0-9]*)(,(0|[1-9][0-9]*)?)?\}")
"""Others, as ``{,2}`` and ``{01}``, are no counts for Go."""
_MOST_REPEATS = 1000
"""Go's own limit, for one piece."""
_MOST_COPIES = 10_000
"""In a whole pattern. Go's limit is higher; no path has so many equal characters."""


@attrs.frozen
class Piece:
    """A character of some kind, so many times; or a place between two characters.

    Args:
        one: Python's expression for one.
        high: ``None`` if there is no limit.
        literal: The only character that it may be.
        is_place: Whether it is a place.
    """

    one: str
    low: int = 1
    high: int | None = 1
    literal: str = ""
    is_place: bool = False


BEGIN = Piece("^", is_place=True)
END = Piece(r"\Z", is_place=True)
FOLDERS = Piece("(?:.*/)?")
"""``**/``: folders, or nothing at all."""
NO_SLASH = "[^/]"
_FOLDERS = "(.*/)?"
_SIGNS = {".": Piece("."), "^": BEGIN, "$": END}


def parse(expression: str, text: str) -> list[list[Piece]]:
    """Take EXPRESSION, which was made of the pattern TEXT, apart: the alternatives, each with its pieces in order.

    Raises:
        ValueError: Go would not compile it.
    """
    alternatives: list[list[Piece]] = [[]]
    at, copies, may_repeat = 0, 0, False
    while at < len(expression):
        pieces = alternatives[-1]
        if expression[at] == "|":
            alternatives.append([])
            at, may_repeat = at + 1, False
        elif expression.startswith(_FOLDERS, at):
            pieces.append(FOLDERS)
            at, may_repeat = at + len(_FOLDERS), False
        elif (count := _COUNTS.match(expression, at)) is not None:
            low, high = _read_count(count, text)
            at = count.end()
            if not may_repeat:
                raise _malformed(text)
            pieces.append(_repeat(pieces.pop(), low, high))
            may_repeat = False
            copies += max(low, high or 0)
            if copies > _MOST_COPIES:
                raise ValueError(f"the pattern repeats too much: {text!r}")
        else:
            piece, at = _read(expression, at, text)
            pieces.append(piece)
            may_repeat = True
    return alternatives


def _malformed(text: str) -> ValueError:
    return ValueError(f"syntax error in pattern: {text!r}")


def _read_count(count: re.Match[str], text: str) -> tuple[int, int | None]:
    """Return the least and the most. Longer numbers than the limit's are not even read."""
    if count[0] == "*":
        return 0, None
    numbers = [each for each in (count[1], count[3]) if each]
    if any(len(each) > len(str(_MOST_REPEATS)) or int(each) > _MOST_REPEATS for each in numbers):
        raise _malformed(text)
    low = int(count[1])
    high = low if not count[2] else int(count[3]) if count[3] else None
    if high is not None and high < low:
        raise _malformed(text)
    return low, high


def _repeat(piece: Piece, low: int, high: int | None) -> Piece:
    """Return PIECE so many times. To be at a place twice is to be there; not to have to be is nothing."""
    if piece.is_place:
        return attrs.evolve(piece, low=min(low, 1), high=min(low, 1))
    return attrs.evolve(piece, low=low, high=high)


def _read(expression: str, at: int, text: str) -> tuple[Piece, int]:
    """Read one piece without its count, and return where it ends."""
    char, at = expression[at], at + 1
    if char == "[":
        inside, at = _to_class(expression, at, text)
        return Piece(inside), at
    if char == "\\":
        if expression[at : at + 2] == "pL":
            return Piece(r"[^\W\d_]"), at + 2
        return _escape(expression[at : at + 1], text), at + 1
    return _SIGNS.get(char) or Piece(re.escape(char), literal=char), at


def _escape(char: str, text: str) -> Piece:
    """Read a backslash and CHAR, outside of brackets."""
    if char and char.lower() in _CLASSES:
        return Piece(f"[{'^' if char.isupper() else ''}{_CLASSES[char.lower()]}]")
    if char == "z":
        return END
    if char in {"b", "B"}:
        return Piece(rf"(?a:\{char})", is_place=True)
    one = _escape_one(char, text)
    return Piece(one, literal="" if char.isalpha() and char.isascii() else char)


def _escape_one(char: str, text: str) -> str:
    if char and char in "nrtfva":
        return "\\" + char
    if not char or (char.isascii() and char.isalnum()):
        raise _malformed(text)
    return re.escape(char)


def _to_class(expression: str, at: int, text: str) -> tuple[str, int]:
    negates = expression[at : at + 1] == "^"
    at += negates
    inside: list[str] = []
    while expression[at : at + 1] != "]" or not inside:
        if posix := re.compile(r"\[:(\^?)(\w+):\]").match(expression, at):
            if posix[1] or posix[2] not in _POSIX:
                raise _malformed(text)
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
        raise _malformed(text) from None
    return f"[{'^' if negates else ''}{''.join(inside)}]", at + 1


def _to_member(expression: str, at: int, text: str) -> tuple[str, int]:
    char = expression[at : at + 1]
    if not char:
        raise _malformed(text)
    if char == "\\":
        char = expression[at + 1 : at + 2]
        return _CLASSES.get(char) or _escape_one(char, text), at + 2
    return re.escape(char), at + 1
