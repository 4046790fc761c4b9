"""A matcher whose time is the pattern's length times the path's, at worst: all ways to match are followed at once.

It holds the set of pieces that may come next as the bits of a number, and takes the path character by character
(Navarro and Raffinot, "Flexible Pattern Matching in Strings", on extended patterns). Python's `re` tries one way after
the other, and can be made to try more of them than it will ever get through, without letting any other thread run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import chain, repeat

from moat_plugins.buildkit.fs.expression import BEGIN, FOLDERS, Piece

__all__ = ["Machine"]

_WORD = frozenset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_")
_MOST_MASKS = 256
"""Characters of paths whose masks are kept: both the paths and the pattern may be an attacker's."""


class Machine:
    """What matches a path, from some of its characters to some others of them.

    Args:
        alternatives: The pieces of each. Of their counts each copy takes a bit.
    """

    def __init__(self, alternatives: Iterable[Iterable[Piece]]) -> None:
        self._literals: dict[str, list[int]] = {}
        self._kinds: dict[str, list[int]] = {}
        self._places: dict[str, list[int]] = {}
        starts: list[int] = []
        ends: list[int] = []
        optional: list[int] = []
        loops: list[int] = []
        folders: list[int] = []
        size = 0
        self._is_anchored = True
        for pieces in map(list, alternatives):
            starts.append(size)
            self._is_anchored = self._is_anchored and pieces[:1] == [BEGIN]
            for piece in pieces:
                if piece is FOLDERS:
                    folders.append(size)
                    optional.append(size)
                    size += 1
                    continue
                for may_lack, may_stay in _copies(piece):
                    self._add(piece, size)
                    if may_lack:
                        optional.append(size)
                    if may_stay:
                        loops.append(size)
                    size += 1
            ends.append(size)  # a bit of its own: nothing goes on from there
            size += 1
        self._size = size
        self._starts, self._ends = self._mask(starts), self._mask(ends)
        self._optional, self._loops, self._folders = self._mask(optional), self._mask(loops), self._mask(folders)
        self._once = ~self._loops
        self._at_places = {place: self._mask(bits) for place, bits in self._places.items()}
        self._tests = [(re.compile(one).match, self._mask(bits)) for one, bits in self._kinds.items()]
        self._masks: dict[str, int] = {}

    def _add(self, piece: Piece, bit: int) -> None:
        if piece.is_place:
            self._places.setdefault(piece.one, []).append(bit)
        elif piece.literal:
            self._literals.setdefault(piece.literal, []).append(bit)
        else:
            self._kinds.setdefault(piece.one, []).append(bit)

    def _mask(self, bits: Iterable[int]) -> int:
        mask = bytearray(self._size // 8 + 1)
        for bit in bits:
            mask[bit >> 3] |= 1 << (bit & 7)
        return int.from_bytes(mask, "little")

    def matches(self, path: str) -> bool:
        """Tell whether it matches something of PATH."""
        nodes = inside = 0  # `inside`: folders of which the first characters were seen
        optional = self._optional
        before = ""
        for char in chain(path, ("",)):
            nodes |= self._starts
            if self._at_places:
                optional = self._optional | self._between(before, char)
            # What may be lacking is passed: the sum carries each bit through all that are optional behind it.
            nodes |= ((nodes & optional) + optional) ^ optional
            if nodes & self._ends:
                return True
            inside |= nodes & self._folders
            nodes &= self._masks[char] if char in self._masks else self._look_up(char)
            nodes = (nodes & self._once) << 1 | nodes & self._loops
            if char == "/":
                nodes |= inside << 1
            elif char == "\n":  # Go's dot does not match it
                inside = 0
            if self._is_anchored and not nodes and not inside:
                return False
            before = char
        return False

    def _between(self, before: str, after: str) -> int:
        """Return the places that are between these two; ``""`` is neither."""
        is_edge = (before in _WORD) != (after in _WORD)
        here = {"^": not before, r"\Z": not after, r"(?a:\b)": is_edge, r"(?a:\B)": not is_edge}
        return sum(mask for place, mask in self._at_places.items() if here[place])

    def _look_up(self, char: str) -> int:
        mask = self._mask(self._literals.get(char, ()))
        if char:
            for test, bits in self._tests:
                if test(char):
                    mask |= bits
        if len(self._masks) >= _MOST_MASKS:
            self._masks.clear()
        self._masks[char] = mask
        return mask


def _copies(piece: Piece) -> Iterable[tuple[bool, bool]]:
    """Tell of each copy of PIECE whether it may be lacking, and whether it may be there again and again."""
    must = repeat((False, False), piece.low)
    if piece.high is None:
        return chain(must, [(True, True)])
    return chain(must, repeat((True, False), piece.high - piece.low))
