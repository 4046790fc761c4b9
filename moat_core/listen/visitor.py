"""One connection that was accepted: a stream whose reading can be given up at any moment.

anyio's own complain when data comes at the very moment a reading is cancelled, which is what a guard does all day: it
watches whether a client is still there until its answer is over, and the next request comes at once.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import anyio
from anyio.abc import ByteStream
from anyio.streams.tls import TLSStream

if TYPE_CHECKING:
    import ssl
    from collections.abc import Hashable

__all__ = ["Visitor", "send_away"]

_LEFTOVER_BYTES = 256 * 1024


class Visitor(ByteStream):
    """A connected, non-blocking socket, and TLS on it once `secure` was called.

    Args:
        connected: The socket.
        peer: Whose it is.

    Attributes:
        is_idle: Nothing is under way for it. Whoever serves it says so; what is idle goes first if there are too many.
    """

    def __init__(self, connected: socket.socket, peer: Hashable = None) -> None:
        self._socket, self.peer = connected, peer
        self._tls: TLSStream | None = None
        self.is_idle = True
        self.scope = anyio.CancelScope()
        """In which it is served."""

    async def secure(self, context: ssl.SSLContext) -> None:
        """Do the server's part of a TLS handshake; from here on TLS is spoken.

        Raises:
            SSLError: It failed.
            BrokenResourceError: The other side has gone.
            EndOfStream: Likewise.
        """
        self._tls = await TLSStream.wrap(_Raw(self._socket), server_side=True, ssl_context=context)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Return what has come, at least a byte.

        Raises:
            EndOfStream: The other side has ended.
            BrokenResourceError: The connection broke.
        """
        return await (self._tls.receive(max_bytes) if self._tls is not None else _receive(self._socket, max_bytes))

    async def send(self, item: bytes) -> None:
        """Send all of ITEM.

        Raises:
            BrokenResourceError: The connection broke.
        """
        await (self._tls.send(item) if self._tls is not None else _send(self._socket, item))

    async def send_eof(self) -> None:
        """Send nothing more.

        Raises:
            NotImplementedError: Over TLS there is no half of an end.
            BrokenResourceError: The connection broke.
        """
        if self._tls is not None:
            raise NotImplementedError
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise anyio.BrokenResourceError from error

    async def aclose(self) -> None:
        """Close it, without a word of TLS."""
        self._socket.close()

    def hang_up(self) -> None:
        """Have whoever serves it stop; they close it."""
        self.scope.cancel()

    def close(self) -> None:
        """Close it in order; see `send_away`."""
        if self._socket.fileno() >= 0:
            send_away(self._socket)


class _Raw(ByteStream):
    """What is below TLS."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected

    async def receive(self, max_bytes: int = 65536) -> bytes:
        return await _receive(self._socket, max_bytes)

    async def send(self, item: bytes) -> None:
        await _send(self._socket, item)

    async def send_eof(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        self._socket.close()


async def _receive(connected: socket.socket, max_bytes: int) -> bytes:
    try:
        data = await asyncio.get_running_loop().sock_recv(connected, max_bytes)
    except OSError as error:
        raise anyio.BrokenResourceError from error
    if not data:
        raise anyio.EndOfStream
    return data


async def _send(connected: socket.socket, item: bytes) -> None:
    try:
        await asyncio.get_running_loop().sock_sendall(connected, item)
    except OSError as error:
        raise anyio.BrokenResourceError from error


def send_away(connected: socket.socket) -> None:
    """Close CONNECTED so that the other side sees an end and no error: the kernel resets what has unread data."""
    try:
        connected.setblocking(False)
        connected.shutdown(socket.SHUT_WR)
        left = _LEFTOVER_BYTES
        while left > 0 and (data := connected.recv(left)):
            left -= len(data)
    except OSError:
        pass  # there is nothing more, or nobody
    finally:
        connected.close()
