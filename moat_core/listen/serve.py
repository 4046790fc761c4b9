"""The loop that accepts: it goes on whatever happens to one connection, and when there are no descriptors left."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Self

import anyio

from moat_core.fds import raise_file_limit
from moat_core.listen.peers import find_peer
from moat_core.listen.room import Limits, Room
from moat_core.listen.visitor import Visitor, send_away

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["BACKLOG", "open_servers", "serve"]

Handler = Callable[[Visitor], Awaitable[None]]

_BATCH = 32
"""How many are accepted before others have their turn: as many descriptors may be held beyond the limits for a moment,
until those who make room have gone."""
_PAUSE_S = 0.05
_MOST_TOLD = 20
BACKLOG = 1024
"""For listen(2): connections that wait to be accepted; the kernel has a limit of its own (net.core.somaxconn)."""
_SCARCE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_OVER = frozenset({errno.EBADF, errno.EINVAL, errno.ENOTSOCK})
"""The listener itself is no more. Anything else was the trouble of one connection (accept(2), "Error handling")."""
_KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 6, "TCP_USER_TIMEOUT": 120_000}
"""Whose machine went away without a word is noticed after two minutes (tcp(7); seconds, and milliseconds)."""
_LOG = logging.getLogger("moat.listen")


async def serve(
    listener: socket.socket, handler: Handler, *, limits: Limits | None = None, tls: ssl.SSLContext | None = None
) -> None:
    """Serve every connection to LISTENER in a task of its own, until cancelled.

    Args:
        listener: Bound and listening, not blocking.
        handler: Serves one connection to its end. What it raises is logged, and nobody else's trouble.
        limits: How many, and for how long.
        tls: What is spoken; the handshake is done before HANDLER is called. Who is refused a certificate gets no
            further than the door.
    """
    limits = (limits or Limits()).fit(raise_file_limit())
    house = _House(handler, limits, tls)
    with _Reserve() as reserve:
        async with anyio.create_task_group() as group:
            while True:
                await anyio.wait_readable(listener)
                if not _take_batch(listener, reserve, house, group):
                    await anyio.sleep(_PAUSE_S)


@asynccontextmanager
async def open_servers(
    sockets: Iterable[socket.socket], factory: Callable[[], asyncio.Protocol]
) -> AsyncIterator[list[asyncio.Server]]:
    """Have the event loop accept at SOCKETS, which is quicker: for protocols that keep a `Room` themselves.

    uvloop accepts in C. Where descriptors are scarce, libuv accepts with one that it has kept for that, and hangs up;
    asyncio's own loop waits for a second.
    """
    loop = asyncio.get_running_loop()
    servers: list[asyncio.Server] = []
    try:
        for each in sockets:
            servers.append(await loop.create_server(factory, sock=each, backlog=BACKLOG))  # noqa: PERF401
        yield servers
    finally:
        for server in servers:
            server.close()


def _take_batch(listener: socket.socket, reserve: _Reserve, house: _House, group: anyio.abc.TaskGroup) -> bool:
    """Accept what waits, up to a batch; tell whether there were descriptors for it."""
    for _ in range(_BATCH):
        try:
            connected, address = listener.accept()
        except BlockingIOError:
            break
        except OSError as error:
            if error.errno in _OVER:
                raise
            if error.errno in _SCARCE:
                reserve.turn_away(listener)
                return False
            continue
        connected.setblocking(False)
        _keep_alive(connected)
        visitor = Visitor(connected, find_peer(connected, address))
        if house.let_in(visitor):
            group.start_soon(house.receive, visitor)
        else:
            visitor.close()
    return True


class _House:
    """Who is at the door, and who inside."""

    def __init__(self, handler: Handler, limits: Limits, tls: ssl.SSLContext | None) -> None:
        self._handler, self._limits, self._tls = handler, limits, tls
        self._told = 0
        self._door: Room[Visitor] = Room(limits.door, limits.door_of_peer)
        self._inside: Room[Visitor] = Room(limits.inside, limits.inside_of_peer)

    def let_in(self, visitor: Visitor) -> bool:
        """Tell whether there is room for VISITOR; without TLS there is no door."""
        return (self._inside if self._tls is None else self._door).let_in(visitor)

    async def receive(self, visitor: Visitor) -> None:
        """Serve VISITOR to its end."""
        try:
            with visitor.scope:
                if await self._pass_door(visitor):
                    await self._handler(visitor)
        except Exception:  # noqa: BLE001 - whatever it is, it may end this connection, and not the run
            self._tell()
        finally:
            self._door.leave(visitor)
            self._inside.leave(visitor)
            visitor.close()

    def _tell(self) -> None:
        """Log what is just being handled; a client that has found a way to it would fill the disk."""
        self._told += 1
        if self._told <= _MOST_TOLD:
            _LOG.exception("A connection was served badly.")

    async def _pass_door(self, visitor: Visitor) -> bool:
        """Do the handshake; strangers whose handshake fails are no news: anybody who reaches the address can try."""
        if self._tls is None:
            return True
        try:
            with anyio.fail_after(self._limits.handshake_s):
                await visitor.secure(self._tls)
        except (ssl.SSLError, OSError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
            _LOG.debug("A TLS handshake failed: %s", type(error).__name__)
            return False
        self._door.leave(visitor)
        return self._inside.let_in(visitor)


class _Reserve:
    """A descriptor that is kept, so that one who connects when there is none left can be told to go.

    Else they would wait in the kernel's queue, in front of those who come when there are some again.
    """

    def __enter__(self) -> Self:
        self._descriptor = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        return self

    def __exit__(self, *_: object) -> None:
        self._let_go()

    def _let_go(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    def turn_away(self, listener: socket.socket) -> None:
        """Accept, and hang up on, a batch."""
        self._let_go()
        try:
            for _ in range(_BATCH):
                connected, _ = listener.accept()
                send_away(connected)
        except OSError:
            pass  # nobody waits any more; or another thread was quicker with the descriptor
        finally:
            try:
                self._descriptor = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                pass  # then there is none until the next time


def _keep_alive(connected: socket.socket) -> None:
    if connected.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    try:
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):
                connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError:
        pass  # it has gone already
