"""One request to the engine over a connection of its own, by h11; after an upgrade its bytes are passed through."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import attrs
import h11

from moat_core.errors import EngineError
from moat_plugins.docker_host.budget import weigh

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anyio.abc import ByteStream

    from moat_core.runtime.facets import EngineApi
    from moat_plugins.docker_host.budget import Account

__all__ = ["PIECE_BYTES", "Head", "Upstream"]

PIECE_BYTES = 64 * 1024
_HEAD_BYTES = 256 * 1024
_BODY_BYTES = 4 * 1024 * 1024
"""The longest answer that is looked at whole; lists are looked at item by item (`items`)."""
_SWITCHED = 101


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
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_BYTES)

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
        data = self._send(h11.Request(method=method, target=target, headers=lines))
        if not streams:
            data += self._send(h11.Data(data=body)) if body else b""
            data += self._send(h11.EndOfMessage())
        await self.stream.send(data)

    async def send_data(self, data: bytes) -> None:
        """Send a piece of a body that streams."""
        await self.stream.send(self._send(h11.Data(data=data)))

    async def end_data(self) -> None:
        """Say that a body that streams is over."""
        await self.stream.send(self._send(h11.EndOfMessage()))

    async def read_head(self) -> Head:
        """Wait for the answer to begin.

        Raises:
            EngineError: What comes is no HTTP, or nothing comes.
        """
        while True:
            event = await self._next()
            if isinstance(event, h11.Response) or (
                isinstance(event, h11.InformationalResponse) and event.status_code == _SWITCHED
            ):
                lines = tuple((key.decode("ascii").lower(), value.decode("latin-1")) for key, value in event.headers)
                return Head(event.status_code, lines)
            if not isinstance(event, h11.InformationalResponse):
                raise EngineError("The engine closed the connection instead of answering.")

    async def read_piece(self) -> bytes:
        """Return the next piece of the answer's body; empty at its end."""
        while True:
            event = await self._next()
            if isinstance(event, h11.Data):
                if event.data:
                    return bytes(event.data)
            else:
                return b""

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
        return bytes(self._http.trailing_data[0])

    def _send(self, event: h11.Event) -> bytes:
        return self._http.send(event) or b""

    async def _next(self) -> h11.Event | type[h11.PAUSED]:
        try:
            while True:
                event = self._http.next_event()
                if event is not h11.NEED_DATA:
                    return event  # type: ignore[return-value]
                try:
                    self._http.receive_data(await self.stream.receive(PIECE_BYTES))
                except anyio.EndOfStream:
                    self._http.receive_data(b"")
        except (h11.RemoteProtocolError, OSError, anyio.BrokenResourceError) as error:
            raise EngineError(f"The engine's answer broke off: {error}.") from error
