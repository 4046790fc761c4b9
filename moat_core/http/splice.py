"""The turn of another protocol, WebSocket above all: what one side says is said to the other, and no more."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moat_core.http.client import Client
    from moat_core.http.upstream import Upstream

__all__ = ["Splice"]

_NEVER = float("inf")


class Splice:
    """See the module. A `Turn` of which the client hears nothing but its end.

    Args:
        client: One side.
        upstream: The other side.
        is_stuck: It takes nothing more for now.
    """

    __slots__ = ("_client", "_has_ended", "_theirs", "is_endless", "takes")

    def __init__(self, client: Client, upstream: Upstream, *, is_stuck: bool) -> None:
        self._client, self._theirs = client, upstream.transport
        self._has_ended = client.has_ended
        self.takes, self.is_endless = False, True
        early, client.buffer = client.buffer, b""
        client.deadline = _NEVER
        ours, theirs = client.transport, upstream.transport
        upstream.owner = None
        upstream.resume()
        theirs.set_protocol(_Pipe(self, theirs, ours))
        ours.set_protocol(_Pipe(self, ours, theirs))
        if not is_stuck:
            client.resume_reading()
        if early:  # only now: it may be more than the other side takes, which is told to its protocol
            theirs.write(early)
        if client.is_full:
            theirs.pause_reading()
        if client.has_ended:
            theirs.write_eof()

    def ended(self, other: asyncio.Transport) -> bool:
        """One side has said all. Tell whether it is to be heard out; OTHER is told of it."""
        if not other.is_closing():
            other.write_eof()
        is_first, self._has_ended = not self._has_ended, True
        return is_first

    def lost(self, transport: asyncio.Transport, error: Exception | None) -> None:
        """One side is gone: what it sent last is sent on, unless it broke off."""
        client = self._client
        if transport is self._theirs:
            if error is None:
                client.transport.close()
            else:
                client.reset()
            return
        if error is not None:
            self._theirs.abort()
        client.connection_lost(error)

    def take(self, data: bytes) -> None:
        """See `Turn`."""

    def client_ended(self) -> bool:
        """See `Turn`."""
        return True

    def client_lost(self) -> None:
        """See `Turn`."""
        self._theirs.close()

    def pause(self) -> None:
        """See `Turn`."""

    def resume(self) -> None:
        """See `Turn`."""

    def expired(self) -> None:
        """See `Turn`. It has no deadline."""


class _Pipe(asyncio.Protocol):
    """What comes in at one transport goes out at the other, by the shortest way: no line of Python is between."""

    __slots__ = ("_other", "_own", "_splice", "data_received")

    def __init__(self, splice: Splice, own: asyncio.Transport, other: asyncio.Transport) -> None:
        self._splice, self._own, self._other = splice, own, other
        self.data_received = other.write  # type: ignore[method-assign]

    def eof_received(self) -> bool:
        return self._splice.ended(self._other)

    def connection_lost(self, exc: Exception | None) -> None:
        self._splice.lost(self._own, exc)

    def pause_writing(self) -> None:
        self._other.pause_reading()

    def resume_writing(self) -> None:
        self._other.resume_reading()
