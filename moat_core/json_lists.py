"""JSON lists, item by item: no more of one is in memory than the item that is looked at.

An engine's images or volumes are as many as people have, and their labels as long as those like who made them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from moat_core.errors import EngineError

__all__ = ["ITEM_BYTES", "Splitter"]

ITEM_BYTES = 2 * 1024 * 1024
"""The longest item that is looked at, unless more is allowed."""
_TOKEN = re.compile(rb'"((?:[^"\\]++|\\.)*+)"|([\[\]{},])|(")', re.DOTALL)
"""A whole text, what lists and objects are made of, or the beginning of a text."""


class Splitter:
    """Cuts JSON into the items of its outermost lists, whatever the pieces that it comes in (RFC 8259).

    Args:
        most_bytes: The longest item that is taken.
    """

    def __init__(self, most_bytes: int = ITEM_BYTES) -> None:
        self._most = most_bytes
        self._buffer = b""
        self._depth = self._base = self._since = self._at = 0
        self._takes = False
        self._key = b""

    @property
    def waiting(self) -> int:
        """How much there is of what has not ended yet."""
        return len(self._buffer)

    def feed(self, data: bytes) -> Iterator[tuple[str, bytes]]:
        """Yield name of the list and text of each item that DATA ends. To be read to its end.

        Raises:
            EngineError: An item is too long.
        """
        self._buffer += data
        for match in _TOKEN.finditer(self._buffer, self._at):
            if match[3]:  # a text that goes on in the next piece
                self._at = match.start()
                break
            self._at = match.end()
            if match[2] is None:
                self._key = self._key if self._takes else match[1]
            elif (item := self._step(match[2], match.start())) and (text := item.strip()):
                yield self._key.decode("utf-8", "replace"), text
        else:
            self._at = len(self._buffer)
        done = self._since if self._takes else self._at
        self._buffer = self._buffer[done:]
        self._at, self._since = self._at - done, 0
        if len(self._buffer) > self._most:
            raise EngineError("One item of the engine's answer is too long to be looked at.")

    def _step(self, token: bytes, at: int) -> bytes:
        """Go past TOKEN, which is AT in the buffer; return the item that it ends."""
        item = b""
        if token in b"[{":
            self._depth += 1
            if self._depth == 1:
                self._base = 1 if token == b"[" else 2
            if not self._takes and self._depth == self._base and token == b"[":
                self._takes, self._since = True, at + 1
            return item
        if self._takes and self._depth == self._base:
            item, self._since = self._buffer[self._since : at], at + 1
            self._takes = token == b","
        if token != b",":
            self._depth -= 1
        return item
