"""Connections to services: one exchange at a time on each, and a pool of those that wait for the next."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Address", "Owner", "Pool", "Upstream"]

Address = tuple[str, int]
"""Host and port of a service."""

IDLE_S = 4.0
"""How long a connection waits in the pool, in seconds: less than the 5 s after which Node.js closes it."""
CONNECT_S = 10.0
_MOST_IDLE = 256


class Owner(Protocol):
    """Whose exchange it is."""

    def upstream_data(self, data: bytes) -> None:
        """Take what the service sent."""

    def upstream_ended(self) -> None:
        """The service will send nothing more."""

    def upstream_lost(self, error: Exception | None) -> None:
        """The connection is gone; nothing more is told."""

    def pause_sending(self) -> None:
        """The service takes nothing more for now."""

    def resume_sending(self) -> None:
        """It does again."""


class Upstream(asyncio.Protocol):
    """One connection to a service.

    Args:
        address: Whose it is.
        gone: Told when it has ended while it waited.
    """

    __slots__ = ("_gone", "address", "is_used", "owner", "since", "transport")

    transport: asyncio.Transport

    def __init__(self, address: Address, gone: Callable[[Upstream], None]) -> None:
        self.address, self._gone = address, gone
        self.owner: Owner | None = None
        self.is_used = False
        """It has carried an exchange before: that it ends at the next one's start is nobody's fault."""
        self.since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`. What nobody asked for would be taken for the next answer."""
        if self.owner is None:
            self.transport.abort()
        else:
            self.owner.upstream_data(data)

    def eof_received(self) -> bool:
        """See `asyncio.Protocol`; the owner closes it."""
        if self.owner is None:
            return False
        self.owner.upstream_ended()
        return self.owner is not None

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        owner, self.owner = self.owner, None
        if owner is None:
            self._gone(self)
        else:
            owner.upstream_lost(exc)

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        if self.owner is not None:
            self.owner.pause_sending()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        if self.owner is not None:
            self.owner.resume_sending()


class Pool:
    """The connections that wait, last in first out: the others grow old, and are closed."""

    def __init__(self) -> None:
        self._idle: dict[Address, deque[Upstream]] = {}
        self._count = 0

    def take(self, address: Address, owner: Owner) -> Upstream | None:
        """Return one that waits, if there is any."""
        waiting = self._idle.get(address)
        while waiting:
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
        async with asyncio.timeout(CONNECT_S):
            _, upstream = await loop.create_connection(lambda: Upstream(address, self._forget), *address)
        upstream.owner = owner
        return upstream

    def give_back(self, upstream: Upstream, now: float) -> None:
        """Let it wait for the next exchange."""
        upstream.owner, upstream.is_used, upstream.since = None, True, now
        if self._count >= _MOST_IDLE or upstream.transport.is_closing():
            upstream.transport.abort()
            return
        self._idle.setdefault(upstream.address, deque()).append(upstream)
        self._count += 1

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

    def _forget(self, upstream: Upstream) -> None:
        waiting = self._idle.get(upstream.address)
        if waiting is not None and upstream in waiting:
            waiting.remove(upstream)
            self._count -= 1
