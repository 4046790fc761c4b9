"""Two streams made one: what comes from either goes to the other, no faster than it is taken, ends included."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from moat_plugins.docker_host.upstream import PIECE_BYTES

if TYPE_CHECKING:
    from anyio.abc import ByteStream

__all__ = ["splice"]

_BROKEN = (OSError, anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError)


async def splice(client: ByteStream, engine: ByteStream, *, early: bytes = b"", rest: bytes = b"") -> None:
    """Pass bytes between CLIENT and ENGINE until the engine's side ends.

    The end of the client's is passed on, too, and leaves the other direction open: ``echo | docker run -i``.

    Args:
        early: What the client sent already.
        rest: What the engine sent already.
    """

    async def go_up() -> None:
        try:
            if early:
                await engine.send(early)
            while True:
                await engine.send(await client.receive(PIECE_BYTES))
        except anyio.EndOfStream:
            try:
                await engine.send_eof()
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
                await client.send(await engine.receive(PIECE_BYTES))
        except _BROKEN:
            group.cancel_scope.cancel()
