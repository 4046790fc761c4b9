"""An `asyncio.Transport` over any anyio byte stream: a socket that was an HTTP upgrade, or a tunnel in a gRPC call.

What is written is queued and sent in large pieces; above the high mark the protocol is told to pause, so that memory
stays bounded whatever the other side does.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio

if TYPE_CHECKING:
    from anyio.abc import ByteStream

__all__ = ["StreamTransport"]

_HIGH = 1024 * 1024
_LOW = 256 * 1024
_PIECE = 256 * 1024
_CLOSE_S = 2.0


class StreamTransport(asyncio.Transport):
    """Connects PROTOCOL to STREAM; FIRST is what was read of the stream already."""

    def __init__(self, stream: ByteStream, protocol: asyncio.Protocol, first: bytes = b"") -> None:
        super().__init__()
        self._stream = stream
        self._protocol = protocol
        self._queue: deque[bytes] = deque()
        self._size = 0
        self._paused = self._closing = self._lost = False
        self._wake = asyncio.Event()
        protocol.connection_made(self)
        if first:
            protocol.data_received(first)
        self._tasks = [asyncio.create_task(self._send()), asyncio.create_task(self._receive())]

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # noqa: ARG002 - there is none
        """See `asyncio.BaseTransport`."""
        return default

    def is_closing(self) -> bool:
        """See `asyncio.BaseTransport`."""
        return self._closing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """See `asyncio.WriteTransport`."""
        if self._closing:
            return
        self._queue.append(bytes(data))
        self._size += len(data)
        self._wake.set()
        if self._size > _HIGH and not self._paused:
            self._paused = True
            self._protocol.pause_writing()

    def close(self) -> None:
        """Send what is queued, then close."""
        self._closing = True
        self._wake.set()

    def abort(self) -> None:
        """Close at once."""
        self._closing = True
        self._queue.clear()
        self._wake.set()

    async def aclose(self) -> None:
        """Close, and wait until the stream is closed: what cannot be sent in two seconds is dropped."""
        self.close()
        with anyio.CancelScope(shield=True):
            await asyncio.wait(self._tasks[:1], timeout=_CLOSE_S)
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)

    async def _send(self) -> None:
        error: Exception | None = None
        try:
            while self._queue or not self._closing:
                if not self._queue:
                    self._wake.clear()
                    await self._wake.wait()
                    continue
                await self._stream.send(self._take())
        except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError) as broken:
            error = broken
        finally:
            with suppress(Exception):
                await self._stream.aclose()
            self._lose(error)

    def _take(self) -> bytes:
        pieces, size = [], 0
        while self._queue and size < _PIECE:
            pieces.append(self._queue.popleft())
            size += len(pieces[-1])
        self._size -= size
        if self._paused and self._size < _LOW:
            self._paused = False
            self._protocol.resume_writing()
        return b"".join(pieces)

    async def _receive(self) -> None:
        error: Exception | None = None
        try:
            while True:
                self._protocol.data_received(await self._stream.receive(_PIECE))
        except anyio.EndOfStream:
            pass
        except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError) as broken:
            error = broken
        finally:
            self.abort()
            self._lose(error)

    def _lose(self, error: Exception | None) -> None:
        if not self._lost:
            self._lost = self._closing = True
            self._protocol.connection_lost(error)
