"""Processes inside, seen through a hijacked stream: the part that exec'd commands and the main process share."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from typing import TYPE_CHECKING

import anyio

from moat_core import checks
from moat_core.runtime.base import Process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from moat_core.types import Output
    from moat_plugins.docker.hijack import HijackedStream

__all__ = ["SIGNALS", "StreamProcess"]

SIGNALS = 64
"""Linux has so many (signal(7))."""
_AHEAD_BYTES = 1024 * 1024


class StreamProcess(Process):
    """What needs only the stream. Subclasses know how to signal it and how it ended."""

    def __init__(self, stream: HijackedStream) -> None:
        self._stream = stream
        self._turn = anyio.Lock()
        self._at_end = False
        self._readers = 0
        self._ahead: deque[Output] = deque()
        self._ahead_bytes = 0
        self._changed = anyio.Event()

    async def __aiter__(self) -> AsyncIterator[Output]:
        """See `Process`."""
        self._readers += 1
        try:
            while (piece := await self._next()) is not None:
                yield piece
        finally:
            self._readers -= 1
            self._changed.set()

    async def write(self, data: bytes) -> None:
        """See `Process`."""
        await self._stream.write(checks.content(data))

    async def close_stdin(self) -> None:
        """See `Process`."""
        await self._stream.close_input()

    async def aclose(self) -> None:
        """Let go of the streams; the process itself is not touched."""
        await self._stream.aclose()

    async def _next(self) -> Output | None:
        """Return the next piece, ``None`` at the end and for ever after."""
        if not self._ahead:
            async with self._turn:
                if not self._ahead:  # `_drain` may have read one while we waited for our turn
                    return await self._read()
        self._changed.set()
        piece = self._ahead.popleft()
        self._ahead_bytes -= len(piece.data)
        return piece

    async def _read(self) -> Output | None:
        if self._at_end:
            return None
        piece = await self._receive()
        self._at_end = piece is None
        return piece

    async def _receive(self) -> Output | None:
        return await self._stream.receive()

    async def _drain(self) -> None:
        """Wait for the end of the output. Nobody iterates: drop it. Somebody does: read ahead a little, for them."""
        while not self._at_end:
            if not self._readers:
                await self._next()
            elif self._ahead_bytes < _AHEAD_BYTES:
                async with self._turn:
                    piece = await self._read()
                if piece is not None:
                    self._ahead.append(piece)
                    self._ahead_bytes += len(piece.data)
            else:
                self._changed = anyio.Event()
                await self._changed.wait()

    @abstractmethod
    async def wait(self) -> int:
        """See `Process`."""
