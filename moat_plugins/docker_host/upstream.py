"""One request to the engine over a connection of its own; after an upgrade its bytes are passed through."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import attrs

from moat_core.errors import EngineError
from moat_core.http.body import BadBody
from moat_core.http.head import BadHead
from moat_core.http.message import read_response, write_head
from moat_core.http.streams import Incoming
from moat_plugins.docker_host.budget import weigh

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anyio.abc import ByteStream

    from moat_core.runtime.facets import EngineApi
    from moat_plugins.docker_host.budget import Account

__all__ = ["Head", "Upstream"]

_HEAD_BYTES = 256 * 1024
_BODY_BYTES = 4 * 1024 * 1024
"""The longest answer that is looked at whole; lists are looked at item by item (`items`)."""
_SWITCHED, _OK = 101, 200


@attrs.frozen
class Head:
    """The beginning of an answer; header names are lower case."""

    status: int
    headers: tuple[tuple[str, str], ...]

    def get(self, name: str) -> str:
        """Return the value of a header, ``""`` if there is none."""
        return next((value for key, value in self.headers if key == name), "")


class Upstream:
    """A connection for one request; made by `open`."""

    def __init__(self, stream: ByteStream) -> None:
        self.stream = stream
        self._incoming = Incoming(stream)
        self._method = b""

    @classmethod
    @asynccontextmanager
    async def open(cls, api: EngineApi) -> AsyncIterator[Upstream]:
        """Connect, and close at the end without a word.

        Raises:
            RuntimeUnavailable: Nothing answers.
        """
        stream = await api.connect()
        try:
            yield cls(stream)
        finally:
            await anyio.aclose_forcefully(stream)

    async def send_request(
        self,
        method: str,
        target: str,
        headers: list[tuple[str, str]],
        body: bytes | None,
        *,
        streams: bool = False,
        upgrade: str = "",
    ) -> None:
        """Send the head, and the whole BODY unless it STREAMS in by `send_data`."""
        lines = [("Host", "docker"), *headers]
        if upgrade:
            lines += [("Connection", "Upgrade"), ("Upgrade", upgrade)]
        else:
            lines.append(("Connection", "close"))
        if streams:
            lines.append(("Transfer-Encoding", "chunked"))
        elif body is not None:
            lines += [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        elif method not in {"GET", "HEAD"}:
            lines.append(("Content-Length", "0"))
        self._method = method.encode("ascii")
        data = write_head(f"{method} {target} HTTP/1.1", lines)
        await self.stream.send(data if streams or not body else data + body)

    async def send_data(self, data: bytes) -> None:
        """Send a piece of a body that streams."""
        if data:  # an empty chunk would be its end
            await self.stream.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def end_data(self) -> None:
        """Say that a body that streams is over."""
        await self.stream.send(b"0\r\n\r\n")

    async def read_head(self) -> Head:
        """Wait for the answer to begin.

        Raises:
            EngineError: What comes is no HTTP, or nothing comes.
        """
        while True:
            try:
                data = await self._incoming.read_head(_HEAD_BYTES)
                if not data:
                    raise EngineError("The engine closed the connection instead of answering.")
                told = read_response(data, self._method, most=_HEAD_BYTES)
            except (BadHead, OSError, anyio.BrokenResourceError) as error:
                raise EngineError(f"The engine's answer broke off: {error}.") from error
            if told.status >= _OK or told.status == _SWITCHED:
                self._incoming.begin_body(told.body)
                lines = tuple((name.decode("ascii"), value.decode("latin-1")) for name, value in told.headers)
                return Head(told.status, lines)

    async def read_piece(self) -> bytes:
        """Return the next piece of the answer's body; empty at its end."""
        try:
            return await self._incoming.read_piece()
        except (BadBody, OSError, anyio.BrokenResourceError) as error:
            raise EngineError(f"The engine's answer broke off: {error}.") from error

    async def read_body(self, account: Account) -> bytes:
        """Return all of the answer's body, charged to ACCOUNT beside what that holds already, as if it were parsed.

        Raises:
            EngineError: It is too long.
            Refused: There is no room for it.
        """
        data, before = bytearray(), account.size
        while piece := await self.read_piece():
            data += piece
            if len(data) > _BODY_BYTES:
                raise EngineError("The engine's answer is too long for the guard to look at.")
            await account.hold(before + len(data))
        await account.hold(before + weigh(data))
        return bytes(data)

    @property
    def rest(self) -> bytes:
        """Return what came after the head of an answer that switched protocols."""
        return self._incoming.take_rest()
