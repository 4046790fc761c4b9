"""What all connections share: where requests go, what is said where nobody else can, and the clock."""

from __future__ import annotations

import asyncio
import os
import secrets
from abc import ABC, abstractmethod
from collections import Counter
from typing import TYPE_CHECKING

from moat_core.http.answer import Answer
from moat_core.http.client import Client
from moat_core.http.memo import Heads
from moat_core.http.upstream import Address, Pool
from moat_core.listen.peers import find_uid

if TYPE_CHECKING:
    import ssl
    from collections.abc import Coroutine

    from moat_core.http.answer import Deferred, Said
    from moat_core.http.head import BadHead, Request

__all__ = ["Proxy"]

_TICK_S = 1.0
_REMEMBER_S = 60.0
_MOST_LINES = 512
_GONE = -1
"""Stands for the users of connections that were gone before it could be asked whose they are."""


class Proxy(ABC):
    """A reverse proxy for HTTP/1.1. `route` and what is said are left to whoever knows the routes.

    Args:
        idle_s: How long a client may wait before it sends its next request, in seconds.
        head_s: How long it may take from a head's first byte to its last.
        stall_s: How long it may send nothing of a request's body, or take nothing of a response.
        answer_s: How long a service may think before it answers.
        gone_s: How long a client that has closed its side is waited for while nothing comes for it: it may listen
            still, or be gone, which is known only when something is sent.
        tls: Without it HTTPS is refused.
        most_clients: How many connections there may be. Above that the idle ones go, and if there are none, newcomers.
    """

    def __init__(
        self,
        *,
        idle_s: float = 75.0,
        head_s: float = 20.0,
        stall_s: float = 60.0,
        answer_s: float = 120.0,
        gone_s: float = 30.0,
        tls: ssl.SSLContext | None = None,
        most_clients: int = 12_000,
    ) -> None:
        self.idle_s, self.head_s, self.stall_s, self.answer_s, self.gone_s = idle_s, head_s, stall_s, answer_s, gone_s
        self.tls, self.most_clients = tls, most_clients
        self._users: Counter[int] = Counter()
        self.clients: set[Client] = set()
        self.requests = 0
        """How many requests were passed on, or begun to."""
        self.is_draining = False
        self.pool = Pool()
        self.heads = Heads()
        self.now = asyncio.get_running_loop().time()
        self._lines: dict[tuple[bytes, bytes, str], bytes] = {}
        self._remembered = self.now
        self.name = f"moat-{secrets.token_hex(4)}".encode()
        """How it is called in ``Via``: a request that comes with that came from here."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._all_gone: asyncio.Event | None = None
        self._handle: asyncio.TimerHandle | None = None
        self._tick()

    @abstractmethod
    def route(self, request: Request, client: Client, *, fresh: bool) -> Address | Said:
        """Return the service that REQUEST goes to, or what is answered instead.

        Args:
            request: Whose head has come.
            client: Who asks.
            fresh: It was asked before, and a new connection stands now, or none could be made: what counts are the
                routes as they are now. With another address it is tried there.
        """

    @abstractmethod
    def refuse(self, error: BadHead) -> Answer:
        """Return what is said to a client that is not understood, is too slow, or comes in a circle."""

    @abstractmethod
    def unreachable(self, request: Request, client: Client, error: Exception) -> Answer | Deferred:
        """Return what is said when the service of REQUEST does not take it, or not answer; `TimeoutError`: in time."""

    @abstractmethod
    def bad_response(self, request: Request, client: Client, why: str) -> Answer | Deferred:
        """Return what is said when it answered what is no answer."""

    def find(self, request: Request, client: Client, *, fresh: bool) -> Address | Said:
        """Return what `route` does; an error of its own is no reason to keep the client waiting."""
        try:
            return self.route(request, client, fresh=fresh)
        except Exception as error:  # noqa: BLE001 - it is another's
            self.report(error)
            return Answer(500, b"The proxy failed.\n")

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

    def lines_for(self, request: Request, peer: bytes, scheme: str) -> bytes:
        """Return what `forwarded` does; it is the same again and again."""
        key = (request.host, peer, scheme)
        lines = self._lines.get(key)
        if lines is None:
            if len(self._lines) >= _MOST_LINES:
                self._lines.clear()
            lines = self._lines[key] = self.forwarded(request, peer, scheme)
        return lines

    def accept(self, scheme: str = "http") -> Client:
        """Return the protocol for a new connection."""
        return Client(self, scheme)

    def limit_clients(self, most: int) -> None:
        """Let in no more than MOST at once, if that is less than so far."""
        self.most_clients = min(self.most_clients, most)

    def forget(self, client: Client) -> None:
        """Its connection is gone."""
        self.clients.discard(client)
        if client.user is not None:
            self._users[client.user] -= 1
            client.user = None
        if self._all_gone is not None and not self.clients:
            self._all_gone.set()

    def is_greedy(self, newcomer: Client) -> bool:
        """Tell whether the user who connects has too many connections already.

        Another user of this machine may have half of the room: what is under way for them nobody else can end. To ask
        whose a connection is takes a question to the kernel, so that this is called only when a quarter is taken; a
        quarter is then left for ourselves. Where the kernel does not tell there is no such limit.
        """
        peer, own = (newcomer.transport.get_extra_info(name) for name in ("peername", "sockname"))
        try:
            uid = find_uid(peer, own) if peer and own else _GONE
        except OSError:
            uid = _GONE
        if uid is None or uid in {0, os.geteuid()}:
            return False
        newcomer.user = uid
        self._users[uid] += 1
        return self._users[uid] > self.most_clients // 2

    def make_room(self, newcomer: Client) -> bool:
        """Hang up on a tenth of those for whom nothing is under way, the oldest; tell whether there were any."""
        waiting = [each for each in self.clients if each.is_idle and each is not newcomer]
        waiting.sort(key=lambda each: each.deadline)
        going = waiting[: len(waiting) // 10 + 1]
        for client in going:
            client.transport.abort()
        # Not only when they have gone: the next one may come before that.
        self.clients.difference_update(going)
        return bool(going)

    def spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Do WORK in a task that ends with the proxy."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def report(self, error: Exception) -> None:
        """Tell of an error that is nobody's at the other ends."""
        asyncio.get_running_loop().call_exception_handler({"message": "the proxy failed", "exception": error})

    async def drain(self, limit_s: float) -> None:
        """Let what is under way end, for LIMIT_S at most, and begin nothing new; then `close`."""
        self.is_draining, self._all_gone = True, asyncio.Event()
        for client in list(self.clients):
            if client.turn is None or client.turn.is_endless:
                client.transport.close()
        try:
            async with asyncio.timeout(limit_s):
                if self.clients:
                    await self._all_gone.wait()
        except TimeoutError:
            pass
        finally:
            self.close()

    def close(self) -> None:
        """Hang up on everybody."""
        if self._handle is not None:
            self._handle.cancel()
        for client in list(self.clients):
            client.transport.abort()
        for task in self._tasks:
            task.cancel()
        self.pool.close()

    def sweep(self, now: float) -> None:
        """End what has taken too long by NOW, a time of the loop's."""
        self.now = now
        self.pool.sweep(now)
        if now - self._remembered > _REMEMBER_S:
            self._remembered = now
            self.heads.clear()
        for client in [each for each in self.clients if each.deadline < now]:
            try:
                client.expired()
            except Exception as error:  # noqa: BLE001 - it is another's, and the others' clocks go on
                self.report(error)
                client.reset()

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        self._handle = loop.call_later(_TICK_S, self._tick)
        self.sweep(loop.time())
