"""What all connections share: where requests go, what is said where nobody else can, and the clock."""

from __future__ import annotations

import asyncio
import secrets
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from moat_plugins.routing.http.client import Client
from moat_plugins.routing.http.upstream import Address, Pool

if TYPE_CHECKING:
    from moat_plugins.routing.http.answer import Answer
    from moat_plugins.routing.http.head import BadHead, Request

__all__ = ["Proxy"]

_TICK_S = 1.0
_GONE_S = 30.0
"""A client that has closed its side may listen still, or be gone: that is known only when something is sent."""


class Proxy(ABC):
    """A reverse proxy for HTTP/1.1. `route` and what is said are left to whoever knows the routes.

    Args:
        idle_s: How long a client may wait before it sends its next request whole, in seconds.
    """

    def __init__(self, *, idle_s: float = 75.0) -> None:
        self.clients: set[Client] = set()
        self.pool = Pool()
        self.now = asyncio.get_running_loop().time()
        self.name = f"moat-{secrets.token_hex(4)}".encode()
        """How it is called in ``Via``: a request that comes with that came from here."""
        self._idle_s = idle_s
        self._handle: asyncio.TimerHandle | None = None
        self._tick()

    @abstractmethod
    def route(self, request: Request, scheme: str) -> Address | Answer:
        """Return the service that REQUEST goes to, or what is answered instead."""

    @abstractmethod
    def refuse(self, error: BadHead) -> Answer:
        """Return what is said to a client that is not understood."""

    @abstractmethod
    def unreachable(self, request: Request, error: Exception) -> Answer:
        """Return what is said when the service of REQUEST does not take or answer it."""

    @abstractmethod
    def bad_response(self, request: Request, why: str) -> Answer:
        """Return what is said when it answered what is no answer."""

    def forwarded(self, request: Request, peer: bytes, scheme: str) -> bytes:
        """Return the header lines by which the service knows who asked, and for what (RFC 7239 and its forerunners)."""
        host, proto = request.host, scheme.encode()
        _, _, port = host.rpartition(b":")
        if not port.isdigit():
            port = b"443" if scheme == "https" else b"80"
        quoted = b'"[%b]"' % peer if b":" in peer else peer
        return (
            b"X-Forwarded-For: %b\r\nX-Forwarded-Host: %b\r\nX-Forwarded-Proto: %b\r\nX-Forwarded-Port: %b\r\n"
            b'Forwarded: for=%b;host="%b";proto=%b\r\nVia: 1.1 %b\r\n'
        ) % (peer, host, proto, port, quoted, host, proto, self.name)

    def accept(self, scheme: str = "http") -> Client:
        """Return the protocol for a new connection."""
        return Client(self, scheme)

    def close(self) -> None:
        """Hang up on everybody."""
        if self._handle is not None:
            self._handle.cancel()
        for client in list(self.clients):
            client.transport.abort()
        self.pool.close()

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        self.now = loop.time()
        self.pool.sweep(self.now)
        for client in [each for each in self.clients if each.is_stale(self._idle_s, _GONE_S)]:
            client.transport.close()
        self._handle = loop.call_later(_TICK_S, self._tick)
