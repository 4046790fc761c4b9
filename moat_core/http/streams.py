"""HTTP/1.1 on a stream of anyio's: heads and bodies one after the other, and, after an upgrade, bytes both ways."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from moat_core.http.body import BadBody, Chunked, Length
from moat_core.http.head import CHUNKED, NO_BODY, UNTIL_EOF, BadHead

if TYPE_CHECKING:
    from anyio.abc import ByteStream

__all__ = ["PIECE_BYTES", "Incoming", "splice"]

PIECE_BYTES = 64 * 1024
_NEVER = float("inf")
_NOTHING = frozenset({b"", b"\r", b"\r\n"})
"""RFC 9112, 2.2: one empty line before a request is forgiven."""
_BROKEN = (OSError, anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError)


class Incoming:
    """What comes from the other side.

    Args:
        stream: Is read only when somebody wants something, and never further than that needs.

    Attributes:
        body_over: All of the body has come.
    """

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._buffer = b""
        self._body: Length | Chunked | None = None
        self.body_over = True

    async def read_head(self, most: int, *, idle_s: float = _NEVER, head_s: float = _NEVER) -> bytes:
        """Wait for a head and return it with its empty line; empty if there will be none.

        Args:
            most: How long it may be, in bytes.
            idle_s: How long to wait for its first byte, in seconds.
            head_s: How long it may take from there to its last.

        Raises:
            BadHead: It does not come in time, is too long, or breaks off.
            BrokenResourceError: The connection broke.
        """
        with anyio.move_on_after(idle_s):
            while self._buffer in _NOTHING and await self.receive():
                pass
        if self._buffer in _NOTHING:
            return b""
        self._buffer = self._buffer.removeprefix(b"\r\n")
        try:
            with anyio.fail_after(head_s):
                return await self._read_rest_of_head(most)
        except TimeoutError:
            raise BadHead(408, "The head did not come in time.") from None

    async def _read_rest_of_head(self, most: int) -> bytes:
        searched = 0
        while (end := self._buffer.find(b"\r\n\r\n", searched)) < 0:
            searched = max(0, len(self._buffer) - 3)
            if b"\n\n" in self._buffer or b"\n\r\n" in self._buffer:
                raise BadHead(400, "The head's lines end in bare LFs.")
            if len(self._buffer) > most:
                raise BadHead(431, f"The head is longer than {most} bytes.")
            if not await self.receive():
                raise BadHead(400, "The head breaks off.")
        head, self._buffer = self._buffer[: end + 4], self._buffer[end + 4 :]
        return head

    def begin_body(self, framing: int) -> None:
        """A head has come, whose body is of this FRAMING: a length, `NO_BODY`, `CHUNKED` or `UNTIL_EOF`."""
        self.body_over = framing == NO_BODY
        self._body = None
        if framing == CHUNKED:
            self._body = Chunked(bare=True)
        elif framing != UNTIL_EOF:
            self._body = Length(framing)

    async def read_piece(self) -> bytes:
        """Return the next piece of the body's content; empty at its end.

        Raises:
            BadBody: It is malformed, or breaks off.
            BrokenResourceError: The connection broke.
        """
        while not self.body_over:
            if not self._buffer and not await self.receive():
                self.body_over = True
                if self._body is not None:
                    raise BadBody("The body breaks off.")
                break
            data, self._buffer = self._buffer, b""
            if self._body is None:
                return data
            piece, rest = self._body.feed(data)
            self._buffer, self.body_over = bytes(rest), self._body.done
            if piece:
                return bytes(piece)
        return b""

    async def receive(self) -> bool:
        """Have more come; tell whether there was any."""
        try:
            self._buffer += await self._stream.receive(PIECE_BYTES)
        except anyio.EndOfStream:
            return False
        return True

    @property
    def has_come(self) -> bool:
        """Whether something is there already."""
        return bool(self._buffer)

    def take_rest(self) -> bytes:
        """Return what has come and belongs to no message: from here on another protocol is spoken."""
        rest, self._buffer = self._buffer, b""
        return rest


async def splice(client: ByteStream, server: ByteStream, *, early: bytes = b"", rest: bytes = b"") -> None:
    """Pass bytes between CLIENT and SERVER, no faster than they are taken, until the server's side ends.

    The end of the client's is passed on, too, and leaves the other direction open: ``echo | docker run -i``.

    Args:
        client: One side.
        server: The other.
        early: What the client sent already.
        rest: What the server sent already.
    """

    async def go_up() -> None:
        try:
            if early:
                await server.send(early)
            while True:
                await server.send(await client.receive(PIECE_BYTES))
        except anyio.EndOfStream:
            try:
                await server.send_eof()
            except (*_BROKEN, NotImplementedError):  # over TLS there is no half of an end
                group.cancel_scope.cancel()
        except _BROKEN:
            group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(go_up)
        try:
            if rest:
                await client.send(rest)
            while True:
                await client.send(await server.receive(PIECE_BYTES))
        except _BROKEN:
            group.cancel_scope.cancel()
