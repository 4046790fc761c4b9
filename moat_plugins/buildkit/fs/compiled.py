"""What tells whether an ignore pattern matches a path, in a time that the pattern's author cannot blow up.

moby makes a regular expression of Go's kind of a pattern, character by character, and some odd patterns mean something
because of that. So the same expression is made here, and read as Go would read it. It becomes one of Python's if that
has never more than one way to go on, and a `Machine` else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import groupby

from moat_plugins.buildkit.fs.expression import BEGIN, END, FOLDERS, NO_SLASH, Piece, parse
from moat_plugins.buildkit.fs.machine import Machine

__all__ = ["compile_pattern", "to_go"]

_ESCAPED = frozenset(".+()$")
"""Not ``{|}``, which moby means to escape, too: its table has room for what is below 64 only."""
_STAR = Piece(NO_SLASH, 0, None)
_REST = Piece(".", 0, None)
_FIRST_STAR = f"(?>{NO_SLASH}*?"
_FIRST_FOLDERS = "(?>(?:.*?/)??"
_SEVERAL = 2


def compile_pattern(text: str) -> Callable[[str], bool]:
    """Return what tells whether a path matches. Stars at one end alone mean an end, not what they mean elsewhere.

    Raises:
        ValueError: It is malformed.
    """
    kind, expression = to_go(text)
    if kind == "suffix":
        suffix = text[2:]
        return lambda path: path.endswith(suffix) or (suffix.startswith("/") and path == suffix[1:])
    if kind == "prefix":
        prefix = text[:-2]
        return lambda path: path.startswith(prefix)
    if kind == "exact":
        return lambda path: path == text
    alternatives = parse(f"^{expression}$", text)
    needle = _longest(alternatives[0]) if len(alternatives) == 1 else ""
    machine: list[Machine] = []

    def slow(path: str) -> bool:
        if needle not in path:
            return False
        if not machine:  # for most patterns it is never needed
            machine.append(Machine(alternatives))
        return machine[0].matches(path)

    quick = _to_python(alternatives[0]) if len(alternatives) == 1 else None
    if quick is None:
        return slow
    python, takes_lines = quick
    match = re.compile(python).match
    if takes_lines:
        return lambda path: needle in path and match(path) is not None
    return lambda path: needle in path and (slow(path) if "\n" in path else match(path) is not None)


def to_go(text: str) -> tuple[str, str]:
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


def _longest(pieces: Sequence[Piece]) -> str:
    """Return the longest text that what matches must have in it: few paths do, and the rest needs no closer look."""
    runs = groupby(pieces, lambda piece: bool(piece.literal) and piece.low == piece.high == 1)
    return max(("".join(piece.literal for piece in run) for is_text, run in runs if is_text), key=len, default="")


def _to_python(pieces: Sequence[Piece]) -> tuple[str, bool] | None:
    """Write PIECES for Python, if so that it need not try again what it tried; and tell whether several lines are fine.

    That holds only while nothing but a slash matches a slash, and, since a dot stops at the end of a line, in a path of
    one line if there are two dots.
    """
    if pieces[0] != BEGIN or pieces[-1] != END:
        return None
    writer = _Writer()
    if not all(writer.write(piece) for piece in pieces[1:-1]):
        return None
    return "".join([*writer.out, END.one]), writer.dots < _SEVERAL


class _Writer:
    """Writes pieces so that there is one way to go on.

    A star before another of the same name takes as little as it can, and keeps it: the second takes what is left. So
    do folders before others. The last star of a name has one end at most.
    """

    def __init__(self) -> None:
        self.out = ["^"]
        self.dots = 0
        # Where the last star of this name, and the last folders of all, are in `out`; 0: there is none.
        self._star = self._folders = 0
        self._has_stars = False
        self._before = BEGIN

    def write(self, piece: Piece) -> bool:
        """Write PIECE. Tell whether that could be done."""
        if piece is FOLDERS:
            done = self._before is FOLDERS or self._write_folders()
        elif piece == _STAR:
            done = self._write_star()
        elif piece == _REST:
            self.dots += 1 + self._has_stars
            self.out.append(".*")
            done = True
        else:
            done = not piece.is_place and (piece.low, piece.high) == (1, 1) and not _takes_slash(piece)
            self._star = 0 if piece.literal == "/" else self._star
            self.out.append(piece.one)
        self._before = piece
        return done

    def _write_folders(self) -> bool:
        if self._star or (self._folders and self._before.literal != "/"):
            return False
        if self._folders:
            self.out[self._folders] = _FIRST_FOLDERS
            self.out.append(")")
        self._folders = len(self.out)
        self.out.append(FOLDERS.one)
        self.dots += 1
        return True

    def _write_star(self) -> bool:
        if self._star:
            self.out[self._star] = _FIRST_STAR
            self.out.append(")")
        self._star = len(self.out)
        self._has_stars = True
        self.out.append(f"{NO_SLASH}*")
        return True


def _takes_slash(piece: Piece) -> bool:
    """Tell whether PIECE is something that may be a slash among others."""
    return not piece.literal and re.match(piece.one, "/") is not None
