"""A turn of our own that takes its time: what is said has to be found out first, or goes on and on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from moat_core.http.answer import Answer, Streamed
from moat_core.http.head import NO_BODY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from moat_core.http.answer import Deferred
    from moat_core.http.client import Client
    from moat_core.http.head import Request

__all__ = ["Speech"]

_NEVER = float("inf")


class Speech:
    """See the module. A `Turn`.

    Args:
        client: Who is spoken to.
        request: What was asked.
        keep: The connection may be used on afterwards.
    """

    __slots__ = ("_client", "_keep", "_request", "_room", "_task", "is_endless", "takes")

    def __init__(self, client: Client, request: Request, *, keep: bool) -> None:
        self._client, self._request, self._keep = client, request, keep
        self._room: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self.takes = self.is_endless = False

    def begin(self, said: Streamed | Deferred) -> None:
        """Say SAID."""
        proxy = self._client.proxy
        self._client.deadline = proxy.now + proxy.answer_s
        self._task = proxy.spawn(self._run(said))

    def take(self, data: bytes) -> None:
        """See `Turn`: it takes nothing."""

    def client_ended(self) -> bool:
        """See `Turn`. Nobody listens to a stream with one ear."""
        return not self.is_endless

    def client_lost(self) -> None:
        """See `Turn`."""
        if self._task is not None:
            self._task.cancel()

    def pause(self) -> None:
        """See `Turn`."""
        proxy = self._client.proxy
        self._client.deadline = proxy.now + proxy.stall_s

    def resume(self) -> None:
        """See `Turn`."""
        self._client.deadline = _NEVER
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def expired(self) -> None:
        """See `Turn`: it was not found out in time, or is not read."""
        client = self._client
        if self.is_endless or client.has_ended:
            client.reset()
            return
        self.client_lost()
        said = client.proxy.unreachable(self._request, client, TimeoutError("it took too long"))
        client.say(said if isinstance(said, Answer) else Answer(504), self._request)

    async def _run(self, said: Streamed | Deferred) -> None:
        found: Answer | Streamed
        try:
            found = said if isinstance(said, Streamed) else await said()
        except Exception as error:  # noqa: BLE001 - it is another's, and the client waits for an answer
            self._client.proxy.report(error)
            found = Answer(500, b"The proxy failed.\n")
        if isinstance(found, Answer):
            self._client.say(found, self._request)
            return
        self.is_endless = True
        try:
            await self._stream(found)
        except Exception as error:  # noqa: BLE001 - as above, but part of the answer is out
            self._client.proxy.report(error)
            self._client.reset()

    async def _stream(self, said: Streamed) -> None:
        client, request = self._client, self._request
        is_chunked = request.minor == 1
        keep = self._keep and is_chunked
        client.deadline = _NEVER
        client.transport.write(said.encode(keep_alive=keep, is_chunked=is_chunked))
        if request.method != b"HEAD":
            await self._send(said.body(), is_chunked=is_chunked)
        client.next_turn(keep=keep, all_read=request.body == NO_BODY)

    async def _send(self, pieces: AsyncIterator[bytes], *, is_chunked: bool) -> None:
        client = self._client
        try:
            async for piece in pieces:
                if piece:
                    client.transport.write(b"%x\r\n%b\r\n" % (len(piece), piece) if is_chunked else piece)
                if client.is_full:
                    self._room = asyncio.get_running_loop().create_future()
                    await self._room
        finally:
            # A generator's own cleanup must not wait for the garbage collector.
            close = getattr(pieces, "aclose", None)
            if close is not None:
                await close()
        if is_chunked:
            client.transport.write(b"0\r\n\r\n")
