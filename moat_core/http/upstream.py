"""Connections to services: one exchange at a time on each, and a pool of those that wait for the next."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Protocol, TypeAlias, cast

if TYPE_CHECKING:
    from moat_core.http.body import Data

__all__ = ["Address", "Owner", "Pool", "Upstream"]

Address: TypeAlias = tuple[str, int]
"""Host and port of a service."""

IDLE_S = 4.0
"""How long a connection waits in the pool, in seconds: less than the 5 s after which Node.js closes it."""
_FRESH_S = 1.0
"""One that has waited for longer may be about to be closed: too uncertain for what cannot be asked twice."""
_CONNECT_S = 10.0
_MOST_IDLE = 256
_BUFFER, SMALL, _LITTLE = 256 * 1024, 64 * 1024, 16 * 1024
"""What is read at once, what of it is worth a copy, in bytes: uvloop writes more than that without delay; and what is
read at once of that which is much work."""


class Owner(Protocol):
    """Whose exchange it is."""

    def upstream_data(self, data: Data) -> None:
        """Take what the service sent. A view is good until the call returns."""

    def upstream_ended(self) -> None:
        """The service will send nothing more."""

    def upstream_lost(self, error: Exception | None) -> None:
        """The connection is gone; nothing more is told."""

    def pause_sending(self) -> None:
        """The service takes nothing more for now."""

    def resume_sending(self) -> None:
        """It does again."""


class Upstream(asyncio.BufferedProtocol):
    """One connection to a service.

    Args:
        address: Whose it is.
        pool: Where it waits; all its connections read into one buffer.
    """

    __slots__ = ("_is_paused", "_pool", "address", "is_laborious", "is_used", "owner", "serial", "since", "transport")

    transport: asyncio.Transport

    def __init__(self, address: Address, pool: Pool) -> None:
        self.address, self._pool, self.serial = address, pool, pool.serial
        self.owner: Owner | None = None
        self.is_used = False
        """It has carried an exchange before: that it ends at the next one's start is nobody's fault."""
        self.is_laborious = False
        """It sends what is much work: it is read bit by bit, so that others have their turn."""
        self.since = 0.0
        self._is_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.BaseProtocol`."""
        self.transport = cast("asyncio.Transport", transport)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        """See `asyncio.BufferedProtocol`."""
        return self._pool.view[:_LITTLE] if self.is_laborious else self._pool.view

    def buffer_updated(self, nbytes: int) -> None:
        """See `asyncio.BufferedProtocol`. What nobody asked for would be taken for the next answer."""
        if self.owner is None:
            self.transport.abort()
            return
        data = self._pool.view[:nbytes]
        self.owner.upstream_data(bytes(data) if nbytes <= SMALL else data)

    def eof_received(self) -> bool:
        """See `asyncio.BufferedProtocol`; the owner closes it."""
        if self.owner is None:
            return False
        self.owner.upstream_ended()
        return self.owner is not None

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.BaseProtocol`."""
        owner, self.owner = self.owner, None
        if owner is None:
            self._pool.forget(self)
        else:
            owner.upstream_lost(exc)

    def pause_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        if self.owner is not None:
            self.owner.pause_sending()

    def resume_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        if self.owner is not None:
            self.owner.resume_sending()

    def pause(self) -> None:
        """Read nothing more for now."""
        self._is_paused = True
        self.transport.pause_reading()

    def resume(self) -> None:
        """Read on, if it was paused."""
        if self._is_paused:
            self._is_paused = False
            self.transport.resume_reading()

    def keep_view(self) -> None:
        """Leave the data that came last to a transport that has not sent it yet."""
        self._pool.renew_buffer()

    def drop(self) -> None:
        """Close it; the owner is told nothing."""
        self.owner = None
        self.transport.abort()


class Pool:
    """The connections that wait, last in first out: the others grow old, and are closed."""

    def __init__(self) -> None:
        self.serial = 0
        """Counts what was dropped: connections of before that are not used again."""
        self.view = memoryview(b"")
        self._idle: dict[Address, deque[Upstream]] = {}
        self._count = 0
        self.renew_buffer()

    def renew_buffer(self) -> None:
        """Read into another buffer from now on."""
        self.view = memoryview(bytearray(_BUFFER))

    def take(self, address: Address, owner: Owner, now: float, *, is_repeatable: bool) -> Upstream | None:
        """Return one that waits, if there is any. Of what cannot be repeated it must not have waited for long."""
        waiting = self._idle.get(address)
        while waiting:
            if not is_repeatable and now - waiting[-1].since > _FRESH_S:
                return None
            upstream = waiting.pop()
            self._count -= 1
            if not upstream.transport.is_closing():
                upstream.owner = owner
                return upstream
        return None

    async def connect(self, address: Address, owner: Owner) -> Upstream:
        """Return a new one.

        Raises:
            OSError: Nobody listens there.
            TimeoutError: Nobody answers.
        """
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(_CONNECT_S):
            _, upstream = await loop.create_connection(lambda: Upstream(address, self), *address)
        if upstream.transport.is_closing():
            raise ConnectionResetError("it hung up, or spoke before it was asked")
        upstream.owner = owner
        return upstream

    def give_back(self, upstream: Upstream, now: float) -> None:
        """Let it wait for the next exchange."""
        upstream.owner, upstream.is_used, upstream.since = None, True, now
        upstream.is_laborious = False
        if self._count >= _MOST_IDLE or upstream.serial != self.serial or upstream.transport.is_closing():
            upstream.transport.abort()
            return
        upstream.resume()
        waiting = self._idle.get(upstream.address)
        if waiting is None:
            waiting = self._idle[upstream.address] = deque()
        waiting.append(upstream)
        self._count += 1

    def drop(self, address: Address) -> None:
        """ADDRESS is no service's any more: close what waits there. What is under way ends, and is not used again."""
        self.serial += 1
        for upstream in self._idle.pop(address, ()):
            self._count -= 1
            upstream.transport.abort()
        for waiting in self._idle.values():
            for upstream in waiting:
                upstream.serial = self.serial

    def sweep(self, now: float) -> None:
        """Close those that have waited for too long."""
        for address, waiting in list(self._idle.items()):
            while waiting and now - waiting[0].since > IDLE_S:
                self._count -= 1
                waiting.popleft().transport.abort()
            if not waiting:
                del self._idle[address]

    def close(self) -> None:
        """Close all that wait."""
        for waiting in self._idle.values():
            for upstream in waiting:
                upstream.transport.abort()
        self._idle.clear()
        self._count = 0

    def forget(self, upstream: Upstream) -> None:
        """It has ended while it waited."""
        waiting = self._idle.get(upstream.address)
        if waiting is not None and upstream in waiting:
            waiting.remove(upstream)
            self._count -= 1
