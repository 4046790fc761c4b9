"""Lists that the engine answers, with what the run is shown of them, item by item."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from moat_core.json_lists import Splitter
from moat_plugins.docker_host.budget import weigh

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from moat_plugins.docker_host.budget import Account
    from moat_plugins.docker_host.upstream import Upstream

__all__ = ["Listing", "filter_items"]

_PIECE_BYTES = 32 * 1024

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
