"""Lists that the engine answers, item by item: no more of one is in memory than the item that is looked at.

An engine's images or volumes are as many as people have, and labels as long as they like.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from moat_core.errors import EngineError
from moat_plugins.docker_host.budget import weigh

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from moat_plugins.docker_host.budget import Account
    from moat_plugins.docker_host.upstream import Upstream

__all__ = ["ITEM_BYTES", "Listing", "Splitter", "filter_items"]

ITEM_BYTES = 2 * 1024 * 1024
"""The longest item that is looked at."""
_PIECE_BYTES = 32 * 1024
_TOKEN = re.compile(rb'"((?:[^"\\]++|\\.)*+)"|([\[\]{},])|(")', re.DOTALL)
"""A whole text, what lists and objects are made of, or the beginning of a text."""

Keep = Callable[[Any], Any]
"""From an item to what the run is shown of it, ``None`` if nothing."""


@attrs.frozen
class Listing:
    """An answer that is a list, or an object of lists.

    Args:
        lists: Name of the list, ``""`` if it is the answer itself -> what is shown of its items. Other fields are left
            out.
        tail: Returns further fields, once all items have been seen.
    """

    lists: Mapping[str, Keep]
    tail: Callable[[], dict[str, Any]] = dict


class Splitter:
    """Cuts JSON into the items of its outermost lists, whatever the pieces that it comes in."""

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
            raise EngineError("One item of the engine's answer is too long for the guard to look at.")

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


async def filter_items(upstream: Upstream, listing: Listing, account: Account) -> AsyncIterator[bytes]:
    """Yield the JSON of the LISTING that UPSTREAM answers, in pieces.

    Raises:
        EngineError: The engine's answer broke off, or has an item that is too long.
        Refused: There is no room for an item.
    """
    splitter, writer = Splitter(), _Writer(listing)
    while piece := await upstream.read_piece():
        for name, text in splitter.feed(piece):
            if (keep := listing.lists.get(name)) is None:
                continue
            if len(text) > _PIECE_BYTES:
                await account.hold(weigh(text))
            writer.add(name, keep(json.loads(text)))
            if len(writer.out) > _PIECE_BYTES:
                yield writer.take()
        await account.hold(splitter.waiting * 2)
    yield writer.finish()


class _Writer:
    """The answer as it is made."""

    def __init__(self, listing: Listing) -> None:
        self._listing = listing
        self._names: list[str] = []
        self._whole = "" in listing.lists
        self._comma = False
        self.out = bytearray(b"[" if self._whole else b"{")

    def add(self, name: str, item: Any) -> None:
        """Add an ITEM of the list NAME; ``None`` is none."""
        if item is None:
            return
        if not self._whole and name not in self._names:
            self._begin(name)
        self.out += (b"," if self._comma else b"") + json.dumps(item).encode()
        self._comma = True

    def take(self) -> bytes:
        """Return what is to be sent now."""
        made = bytes(self.out)
        self.out.clear()
        return made

    def finish(self) -> bytes:
        """Return the rest, with the lists that had nothing and the further fields."""
        if not self._whole:
            for name in self._listing.lists:
                if name not in self._names:
                    self._begin(name)
            self.out += b"]"
            for key, value in self._listing.tail().items():
                self.out += b"," + json.dumps(key).encode() + b":" + json.dumps(value).encode()
        self.out += b"]\n" if self._whole else b"}\n"
        return self.take()

    def _begin(self, name: str) -> None:
        self.out += (b"]," if self._names else b"") + json.dumps(name).encode() + b":["
        self._names.append(name)
        self._comma = False
