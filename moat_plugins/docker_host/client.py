"""The run's side of a connection: HTTP/1.1, read strictly, written by us."""

from __future__ import annotations

import http
import json
from typing import TYPE_CHECKING, Any

import anyio

from moat_core.http.body import BadBody
from moat_core.http.head import BadHead
from moat_core.http.message import read_request, write_head
from moat_core.http.streams import Incoming
from moat_plugins.docker_host.budget import weigh
from moat_plugins.docker_host.policy.verdict import Refused

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anyio.abc import ByteStream

    from moat_core.http.message import Asked
    from moat_plugins.docker_host.budget import Account
    from moat_plugins.docker_host.upstream import Head

__all__ = ["Client", "Gone", "read_headers"]

JSON_BYTES = 1024 * 1024
"""The longest body that is looked at."""
_HEAD_BYTES = 128 * 1024
_HEAD_S = 30.0
"""How long a head may take from its first byte: longer than any client needs, and nobody keeps a connection by it."""
_IDLE_S = 600.0
"""How long a connection may wait for its next request; Docker's own clients close it after 90 s."""
_BODY_S = 60.0
"""What a body that is looked at may take to come."""
_SEND_S = 30.0
"""What a client may take for an answer that is in memory whole."""
_LINGER_BYTES = 8 * 1024 * 1024
_LINGER_S = 5.0
_BODILESS = frozenset({204, 304})
_ONCE = {b"host", b"content-length", b"transfer-encoding", b"upgrade", b"expect"}
_OURS = {"connection", "keep-alive", "transfer-encoding", "upgrade", "te", "trailer", "proxy-connection"}


class Gone(Exception):
    """The client has left, or speaks no HTTP any more."""


def read_headers(request: Asked) -> dict[str, str]:
    """Return the headers of REQUEST by lower-case name; of those that come several times, all with ``, ``.

    Raises:
        Refused: Two of them disagree on what the request is.
    """
    made: dict[str, str] = {}
    for name, value in request.headers:
        key = name.decode("ascii")
        if name in _ONCE and key in made:
            raise Refused(f"moat: the request has two headers {key}.", status=400)
        text = value.decode("latin-1")
        made[key] = f"{made[key]}, {text}" if key in made else text
    if not request.minor:
        raise Refused("moat: the guard speaks HTTP/1.1.", status=505)
    return made


class Client:
    """A connection, one request after the other."""

    def __init__(self, stream: ByteStream) -> None:
        self.stream = stream
        self._incoming = Incoming(stream)
        self._is_head = False
        self._waits = False
        """The client waits for ``100 Continue``."""
        self._keep = True
        """The connection may be used again."""
        self._chunked = False
        self._has_begun = self._is_answered = False

    async def next_request(self) -> Asked | None:
        """Wait for a request; ``None`` when there will be none.

        Raises:
            Gone: What comes is no HTTP; it was told.
        """
        self._is_head = self._has_begun = self._is_answered = False
        try:
            data = await self._incoming.read_head(_HEAD_BYTES, idle_s=_IDLE_S, head_s=_HEAD_S)
            if not data:
                return None
            request = read_request(data, most=_HEAD_BYTES)
        except BadHead as error:
            await self._complain(error.status, error.reason)
            raise Gone from error
        except (OSError, anyio.BrokenResourceError) as error:
            raise Gone from error
        self._incoming.begin_body(request.body)
        self._is_head, self._keep, self._waits = request.method == b"HEAD", request.keep_alive, request.expects
        return request

    async def read_piece(self) -> bytes:
        """Return the next piece of the request's body; empty at its end.

        Raises:
            Gone: It is malformed, which was told, or breaks off.
        """
        if self._waits and not self._incoming.has_come and not self._incoming.body_over:
            await self._write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._waits = False
        try:
            return await self._incoming.read_piece()
        except BadBody as error:
            await self._complain(400, str(error))
            raise Gone from error
        except (OSError, anyio.BrokenResourceError) as error:
            raise Gone from error

    async def read_body(self, account: Account) -> bytes:
        """Return the request's whole body, charged to ACCOUNT by what it weighs once it is parsed.

        Raises:
            Refused: It is too long to be looked at, or takes too long to come.
        """
        data = bytearray()
        with anyio.move_on_after(_BODY_S):
            while piece := await self.read_piece():
                data += piece
                if len(data) > JSON_BYTES:
                    raise Refused("moat: the body is too long.", status=413)
                await account.hold(len(data))
            await account.hold(weigh(data))
            return bytes(data)
        raise Refused("moat: the body does not come.", status=408)

    async def watch(self) -> None:
        """Wait until the client leaves; return early when it says something."""
        try:
            if not await self._incoming.receive():
                raise Gone
        except (anyio.BrokenResourceError, OSError) as error:
            raise Gone from error

    async def answer(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        """Send a whole answer; ``None`` is an empty body."""
        data = b"" if body is None or self._is_head else json.dumps(body).encode() + b"\n"
        lines = [*(headers or {}).items(), ("Content-Length", str(len(data)))]
        if data:
            lines.append(("Content-Type", "application/json"))
        await self._write_soon(self._begin(status, lines) + data)
        self._is_answered = True

    async def begin_list(self, status: int, headers: Mapping[str, str]) -> None:
        """Begin an answer of JSON whose length is not known yet."""
        self._chunked = not self._is_head
        lines = [*headers.items(), ("Content-Type", "application/json"), ("Transfer-Encoding", "chunked")]
        await self._write(self._begin(status, lines))

    async def send_soon(self, piece: bytes) -> None:
        """Pass on a piece of the body; who does not take it in time has gone.

        Raises:
            Gone: It was not taken.
        """
        await self._write_soon(self._framed(piece))

    async def _write_soon(self, data: bytes) -> None:
        with anyio.move_on_after(_SEND_S) as scope:
            await self._write(data)
        if scope.cancelled_caught:
            raise Gone

    async def begin(self, head: Head, *, is_whole: bool = True) -> None:
        """Begin to pass an answer of the engine on.

        Args:
            is_whole: Its body is passed on as it is; else it may become longer or shorter.
        """
        ours = _OURS if is_whole else _OURS | {"content-length"}
        lines = [(name, value) for name, value in head.headers if name not in ours]
        has_length = any(name == "content-length" for name, _ in lines)
        self._chunked = not (has_length or self._is_head or head.status in _BODILESS)
        if self._chunked:
            lines.append(("Transfer-Encoding", "chunked"))
        await self._write(self._begin(head.status, lines))

    def _begin(self, status: int, lines: list[tuple[str, str]]) -> bytes:
        self._has_begun = True
        if any(name.lower() == "connection" for name, _ in lines):
            self._keep = False  # the one that we say is "close"
        elif not self._keep:
            lines = [*lines, ("Connection", "close")]
        phrase = http.HTTPStatus(status).phrase if status in _STATUSES else ""
        return write_head(f"HTTP/1.1 {status} {phrase}", lines)

    async def send(self, piece: bytes) -> None:
        """Pass on a piece of its body."""
        await self._write(self._framed(piece))

    def _framed(self, piece: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(piece), piece) if self._chunked and piece else piece

    async def end(self) -> None:
        """Say that it is over."""
        self._is_answered = True
        if self._chunked:
            await self._write(b"0\r\n\r\n")

    async def switch(self, head: Head, protocol: str, *, asked: bool) -> bytes:
        """Tell the client that bytes flow both ways now, and return those that it sent already."""
        kind = head.get("content-type")
        lines = [("Content-Type", kind)] if kind else []
        if asked:
            made = write_head("HTTP/1.1 101 UPGRADED", [*lines, ("Connection", "Upgrade"), ("Upgrade", protocol)])
        else:
            made = write_head("HTTP/1.1 200 OK", [("Content-Type", "application/vnd.docker.raw-stream")])
        await self._write(made)
        return self._incoming.take_rest()

    async def finish(self) -> bool:
        """Get ready for the next request; return whether there can be one.

        What is left of a refused request's body is read for a while: closing at once would take the answer back.
        """
        if self._waits:
            return False
        read = 0
        with anyio.move_on_after(_LINGER_S):
            while not self._incoming.body_over and read < _LINGER_BYTES:
                read += len(await self.read_piece())
        return self._incoming.body_over and self._keep and self._is_answered

    async def _complain(self, status: int, reason: str) -> None:
        if not self._has_begun:
            await self.answer(status, {"message": f"moat: {reason}"}, {"Connection": "close"})

    async def _write(self, data: bytes) -> None:
        try:
            await self.stream.send(data)
        except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            raise Gone from error


_STATUSES = frozenset(http.HTTPStatus)
