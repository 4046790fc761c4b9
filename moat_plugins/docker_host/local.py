"""A Unix socket's connections as streams, whose reading can be given up at any moment.

anyio's own complain when data comes at the very moment a reading is cancelled, which is what a guard does all day: it
watches whether a client is still there until its answer is over, and the next request comes at once.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import ByteStream

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__all__ = ["LocalStream", "serve_local"]

_PAUSE_S = 0.1


class LocalStream(ByteStream):
    """A connected, non-blocking socket."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Return what has come, at least a byte.

        Raises:
            EndOfStream: The other side has ended.
            BrokenResourceError: The connection broke.
        """
        try:
            data = await asyncio.get_running_loop().sock_recv(self._socket, max_bytes)
        except OSError as error:
            raise anyio.BrokenResourceError from error
        if not data:
            raise anyio.EndOfStream
        return data

    async def send(self, item: bytes) -> None:
        """Send all of ITEM.

        Raises:
            BrokenResourceError: The connection broke.
        """
        try:
            await asyncio.get_running_loop().sock_sendall(self._socket, item)
        except OSError as error:
            raise anyio.BrokenResourceError from error

    async def send_eof(self) -> None:
        """Send nothing more."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise anyio.BrokenResourceError from error

    async def aclose(self) -> None:
        """Close it."""
        self._socket.close()


async def serve_local(listener: socket.socket, handler: Callable[[ByteStream], Coroutine[Any, Any, None]]) -> None:
    """Serve every connection in a task of its own, until cancelled."""
    loop = asyncio.get_running_loop()
    async with anyio.create_task_group() as group:
        while True:
            try:
                connected, _ = await loop.sock_accept(listener)
            except OSError:  # too many open files: others will end
                await anyio.sleep(_PAUSE_S)
                continue
            group.start_soon(handler, LocalStream(connected))
